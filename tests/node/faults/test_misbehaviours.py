"""A lying node says the opposite, in a form that the others count as valid."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ci.builds import OpenBuild
from ci.ledger import VerdictEntry, decode_entry
from ci.limits import Limits
from ci.operations import Abstain, BuildResult, Outcome, ResultKey
from ci.statement import parse_statement
from common.configuration.config import FaultKind
from common.configuration.keys import verify
from node.faults.misbehaviours import DELAY_SECONDS, KINDS, Faults, FaultyLinks, told_ballot
from pbft.authentication import Authenticator, Identity, sign_message
from pbft.codec import encode_message
from pbft.evidence import check_evidence
from pbft.messages import AnyMessage, Checkpoint, Commit, Envelope, Prepare, PrePrepare
from pbft.ports import Refusal
from tests.node.local_network import COMMIT, KEYS, NAMES, Network, finding, make_cluster
from tests.waiting import wait_until

BUILD = OpenBuild(bytes(32), 1, bytes(32), "https://example.org/r", "main", COMMIT, ())


@pytest.mark.parametrize(
    "found",
    [
        finding(),
        finding(Outcome.FAILED, 7),
        finding(Outcome.TIMED_OUT, None),
        finding(Outcome.CHECKOUT_FAILED, 128),
        finding(Outcome.PIPELINE_INVALID, None),
    ],
)
def test_a_lie_is_another_valid_finding(found: BuildResult) -> None:
    told = told_ballot(found, "lying")
    assert isinstance(told, BuildResult)
    assert told.compared != found.compared
    assert (told.compared.outcome is Outcome.PASSED) != (found.compared.outcome is Outcome.PASSED)
    assert BUILD.ballot_refusal(told, Limits()) is None


def test_without_a_commit_there_is_nothing_to_lie_about() -> None:
    compared = ResultKey(Outcome.CHECKOUT_FAILED, 128, None, None, None)
    found = BuildResult(compared, finding().evidence)
    assert told_ballot(found, "lying") == found


@pytest.mark.parametrize("fault", [None, "silent"])
def test_others_tell_what_they_found(fault: str | None) -> None:
    assert told_ballot(finding(), fault) == finding()
    assert told_ballot(Abstain("x"), "lying") == Abstain("x")


class Sent:
    """Links that keep what they were given."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Envelope]] = []

    def send(self, to: str, envelopes: Sequence[Envelope]) -> None:
        self.messages.extend((to, envelope) for envelope in envelopes)


CLUSTER = make_cluster(Limits())


def said(message: AnyMessage, body: bytes = b"", name: str = "node3") -> Envelope:
    payload = encode_message(message)
    return Envelope(sign_message(message, payload, Identity(CLUSTER, name, KEYS[name].sign)), body)


def faulty(kind: str | None) -> tuple[Sent, FaultyLinks]:
    sent = Sent()
    return sent, FaultyLinks(sent, Faults(kind), Identity(CLUSTER, "node3", KEYS["node3"].sign))


PREPARE = said(Prepare(0, 1, b"d" * 32, 3))


def check(envelope: Envelope) -> AnyMessage:
    """The message, which must be well signed."""
    authenticator = Authenticator(CLUSTER, verify)
    message = authenticator.read(envelope.signed)
    assert not isinstance(message, Refusal)
    assert authenticator.check(envelope.signed, message) is None
    return message


@pytest.mark.parametrize("kind", [None, "lying"])
def test_whoever_only_lies_about_builds_sends_what_it_says(kind: str | None) -> None:
    sent, links = faulty(kind)
    links.send("node1", [PREPARE])
    assert sent.messages == [("node1", PREPARE)]


def test_the_silent_one_sends_nothing() -> None:
    sent, links = faulty("silent")
    links.send("node1", [PREPARE])
    links.send("client", [PREPARE])
    assert sent.messages == []


@pytest.mark.parametrize(
    "message",
    [
        PrePrepare(0, 1, b"d" * 32, 3),
        Prepare(0, 1, b"d" * 32, 3),
        Commit(0, 1, b"d" * 32, 3),
        Checkpoint(8, b"d" * 32, 3),
    ],
)
def test_an_equivocation_is_proof_against_who_said_it(message: AnyMessage) -> None:
    sent, links = faulty("equivocating")
    true = said(message)
    links.send("node0", [true])
    assert sent.messages == [("node0", true)]
    links.send("node1", [true])
    (_, false), (_, last) = sent.messages[1:]
    assert last == true
    check(false)
    proved = check_evidence(false.signed, true.signed, CLUSTER, verify=verify)
    assert isinstance(proved, str)
    assert "node3" in proved


def test_nobody_elses_words_are_bent() -> None:
    foreign = said(Prepare(0, 1, b"d" * 32, 2), name="node2")
    for kind in ("equivocating", "garbling"):
        sent, links = faulty(kind)
        links.send("node1", [foreign])
        assert sent.messages == [("node1", foreign)]


def test_garbled_signatures_hold_for_nobody() -> None:
    sent, links = faulty("garbling")
    links.send("node1", [PREPARE])
    message = Authenticator(CLUSTER, verify).read(sent.messages[0][1].signed)
    assert not isinstance(message, Refusal)
    assert Authenticator(CLUSTER, verify).check(sent.messages[0][1].signed, message)


def test_replays_are_old_messages_beside_the_new_one() -> None:
    sent, links = faulty("replaying")
    envelopes = [said(Prepare(0, n, b"d" * 32, 3)) for n in range(1, 6)]
    for envelope in envelopes:
        links.send("node1", [envelope])
    assert len(sent.messages) > len(envelopes)
    assert {id(e) for _, e in sent.messages} == {id(e) for e in envelopes}


async def test_delays_lose_nothing() -> None:
    sent, links = faulty("delaying")
    links.send("node1", [PREPARE])
    assert sent.messages == []
    await wait_until(lambda: sent.messages == [("node1", PREPARE)], "it", 20 * DELAY_SECONDS)


@pytest.mark.parametrize("kind", KINDS)
async def test_one_faulty_replica_of_four_changes_no_verdict(
    kind: FaultKind, tmp_path: Path
) -> None:
    network = Network(tmp_path)
    for name in NAMES:
        network.start(name, fault=kind if name == "node3" else "allowed")
    others = ("node0", "node1", "node2")
    try:
        network.submit(1)
        await wait_until(lambda: all(network.verdicts(n) == 1 for n in others), "the verdict", 60)
        entries = {network.stores[name].ledger.entries(1, 1)[0].body for name in others}
        assert len(entries) == 1
        body = decode_entry(entries.pop())
        assert isinstance(body, VerdictEntry)
        assert parse_statement(bytes(body.statement)).verdict.outcome is Outcome.PASSED
        if kind == "equivocating":
            await wait_until(lambda: 3 in network.stores["node1"].evidence.counts(), "the proof")
    finally:
        await network.close()
