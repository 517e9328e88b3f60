"""Who contradicted a verdict later: one text for one entry of the ledger, and of that verdict."""

import json

import pytest

from ci.ledger import LateBallotEntry, VerdictEntry, decode_entry
from ci.operations import Abstain, Ballot
from ci.statement import (
    InvalidEnvelope,
    InvalidStatement,
    VerifiedEnvelope,
    envelope,
    keyid_for,
    pae,
    parse_statement,
    verify_envelope,
)
from ci.supplement import contradicting, supplement_bytes, verify_supplement
from tests.ci.builders import ABSTAIN, FAILED, PASSED, World, reported, signing_key, verify


def build_of(world: World, *ballots: Ballot, identity: int = 0) -> VerdictEntry:
    build = world.open(identity)
    for index, ballot in enumerate(ballots):
        world.cast(build, index, ballot)
    return world.verdict_entries()[-1]


def supplement_of(
    world: World, verdict: VerdictEntry, at: int | None = None, *, is_final: bool = True
) -> bytes:
    end = len(world.ledger) if at is None else at
    entries = [(entry.index, decode_entry(entry.body)) for entry in world.ledger[:end]]
    late = [
        (index, entry)
        for index, entry in entries
        if isinstance(entry, LateBallotEntry) and entry.build == verdict.build
    ]
    head = world.ledger[end - 1].head
    return supplement_bytes(
        world.cluster, verdict, late, ledger_index=end, ledger_head=head, is_final=is_final
    )


def signed(payload: bytes, *indexes: int) -> bytes:
    keys = [signing_key(f"replica-{index}") for index in indexes]
    signatures = [(keyid_for(bytes(k.verify_key)), k.sign(pae(payload)).signature) for k in keys]
    return json.dumps(envelope(payload, signatures)).encode()


def envelope_of(world: World, verdict: VerdictEntry) -> VerifiedEnvelope:
    return verify_envelope(signed(bytes(verdict.statement), 0, 1), world.cluster, verify)


def test_it_says_what_came_after_the_verdict_and_who_is_missing(world: World) -> None:
    verdict = build_of(world, PASSED, PASSED, PASSED)
    at = len(world.ledger)
    before = supplement_of(world, verdict, is_final=False)
    world.cast(bytes.fromhex(verdict.build), 3, FAILED)
    assert supplement_of(world, verdict, at, is_final=False) == before, "one entry, one text"
    proved = envelope_of(world, verdict)
    early = verify_supplement(signed(before, 0, 1), proved, world.cluster, verify=verify)
    assert (early.fields.is_final, early.fields.late_ballots) == (False, ())
    assert early.fields.without_ballot == ("replica-3",)
    later = verify_supplement(
        signed(supplement_of(world, verdict), 1, 2), proved, world.cluster, verify=verify
    )
    (late,) = later.fields.late_ballots
    assert (late.replica, late.stance, late.outcome) == ("replica-3", "contradicts", "failed")
    assert (late.exit_code, late.ledger_index) == (1, len(world.ledger))
    assert later.fields.ledger_head == world.ledger[-1].head.hex()
    assert (later.fields.without_ballot, later.replicas) == ((), ("replica-1", "replica-2"))
    fields = proved.statement.verdict
    assert contradicting(fields, early.fields) == ()
    assert contradicting(fields, later.fields) == ("replica-3",)
    raw = json.loads(supplement_of(world, verdict))
    assert raw["subject"] == json.loads(bytes(verdict.statement))["subject"]


@pytest.mark.parametrize(
    ("ballots", "stance", "against"),
    [
        ((PASSED, PASSED, PASSED, PASSED), "agrees", ()),
        ((PASSED, PASSED, PASSED, ABSTAIN), "abstains", ()),
        ((PASSED, FAILED, FAILED, PASSED), "contradicts", ("replica-0", "replica-3")),
        ((ABSTAIN, ABSTAIN, ABSTAIN, PASSED), "neither", ()),
    ],
)
def test_what_a_late_ballot_is_to_the_verdict(
    world: World, ballots: tuple[Ballot, ...], stance: str, against: tuple[str, ...]
) -> None:
    verdict = build_of(world, *ballots)
    proved = envelope_of(world, verdict)
    data = signed(supplement_of(world, verdict), 0, 1)
    fields = verify_supplement(data, proved, world.cluster, verify=verify).fields
    assert [late.stance for late in fields.late_ballots] == [stance]
    assert contradicting(proved.statement.verdict, fields) == against


def test_f_signatures_or_another_builds_supplement_prove_nothing(world: World) -> None:
    first = build_of(world, PASSED, PASSED, PASSED, PASSED)
    second = build_of(world, PASSED, PASSED, PASSED, FAILED, identity=1)
    proved = envelope_of(world, second)
    right = supplement_of(world, second)
    with pytest.raises(InvalidEnvelope, match="too few replicas"):
        verify_supplement(signed(right, 0), proved, world.cluster, verify=verify)
    with pytest.raises(InvalidEnvelope, match="another verdict"):
        verify_supplement(
            signed(supplement_of(world, first), 0, 1), proved, world.cluster, verify=verify
        )
    for other in (bytes(second.statement), right.replace(b"late-ballots:v1", b"late-ballots:v2")):
        with pytest.raises(InvalidEnvelope, match=r"supplement|late-ballots"):
            verify_supplement(signed(other, 0, 1), proved, world.cluster, verify=verify)
    with pytest.raises(InvalidStatement):
        parse_statement(right)  # nor is it a verdict


def test_it_stays_small_whatever_replicas_write_into_their_ballots(world: World) -> None:
    """A reason is 1024 characters, of which JSON makes six each."""
    verdict = build_of(world, PASSED, PASSED, PASSED, Abstain("\x01" * 1024))
    assert len(supplement_of(world, verdict)) < 2048


def test_it_names_the_report_of_a_late_ballot(world: World) -> None:
    green = reported(PASSED, {"a": "passed"})
    verdict = build_of(world, green, green, green)
    flaky = reported(PASSED, {"a": "failed"})
    world.cast(bytes.fromhex(verdict.build), 3, flaky)
    supplement = signed(supplement_of(world, verdict), 0, 1)
    found = verify_supplement(supplement, envelope_of(world, verdict), world.cluster, verify=verify)
    (late,) = found.fields.late_ballots
    assert (late.stance, late.report_sha256) == ("agrees", flaky.tests.report_sha256)
    (entry,) = world.late_ballots()
    assert entry.ballot.tests is not None
    assert entry.ballot.tests.lines == "a\tfailed\n"
