"""The application: roles, caps, ballots, verdicts, closing, cancelling, deferred replies."""

import hashlib
import itertools
import json

import pytest

from ci.admission import ASKINGS_PER_CLIENT_MAX
from ci.application import CLOSED_BUILDS_MAX, BuildApplication
from ci.builds import Requester, encode_build
from ci.ledger import AppendEntry, CancelEntry, VerdictEntry, decode_entry
from ci.limits import Limits
from ci.operations import (
    Append,
    Ballot,
    CancelBuild,
    CastBallot,
    Noop,
    Operation,
    Outcome,
    ReportDeadline,
    SubmitBuild,
    encode_operation,
)
from ci.state_partitions import BUILD_PART_PREFIX
from ci.statement import build_id_for, pae, parse_statement
from pbft.ports import Applied, DeferredReply, Refusal
from tests.ci.builders import (
    ABSTAIN,
    COMMIT,
    FAILED,
    GATEWAY,
    OPERATOR,
    OTHER_GATEWAY,
    PASSED,
    World,
    cluster_of,
    decided_build,
    finding,
    reason_of,
)


def outcomes(world: World) -> list[Outcome]:
    return [
        parse_statement(bytes(entry.statement)).verdict.outcome for entry in world.verdict_entries()
    ]


# --- submitting -----------------------------------------------------------------------------------


def test_a_build_opens_at_its_sequence_number(world: World) -> None:
    world.apply(GATEWAY, Noop())
    applied = world.submit()
    identity = hashlib.sha256(b"0").digest()
    build_id = build_id_for(world.cluster.id, GATEWAY, identity)
    assert applied == Applied("opened", build_id, build_id)
    build = world.application.open_builds()[build_id]
    assert (build.id, build.opened, build.branch, build.commit) == (build_id, 2, "master", COMMIT)
    assert build.askers == (Requester(GATEWAY, 2, build.request_digest),)
    assert not build.is_decided


def test_one_id_twice_is_one_build_with_two_askers_who_both_hear_the_verdict(world: World) -> None:
    build = world.open()
    assert world.open() == build
    assert len(world.application.open_builds()) == 1
    world.cast(build, 0, FAILED)
    applied = world.cast(build, 1, FAILED)
    assert [(told.client, told.timestamp) for told in applied.deferred] == [
        (GATEWAY, 1),
        (GATEWAY, 2),
    ]
    assert len({told.request_digest for told in applied.deferred}) == 2


def test_the_same_identity_cannot_ask_for_something_else(world: World) -> None:
    build = world.open()
    for changed in ({"branch": "other"}, {"commit": None}, {"repository": "https://other"}):
        assert "another build" in reason_of(world.submit(**changed))
    assert len(world.application.open_builds()[build].askers) == 1


def test_the_same_identity_of_two_clients_is_two_builds(world: World) -> None:
    assert world.open() != world.open(client=OTHER_GATEWAY)


def test_askers_are_bounded(world: World) -> None:
    for _ in range(ASKINGS_PER_CLIENT_MAX):
        world.open()
    assert "times already" in reason_of(world.submit())


def test_undecided_builds_are_capped_in_all_and_per_client() -> None:
    limits = Limits(open_builds_max=3, open_builds_per_client_max=2)
    world = World(cluster_of(4, limits), limits)
    first = world.open(1)
    world.open(2)
    assert reason_of(world.submit(3)) == "2 builds of this client are open"
    world.open(3, client=OTHER_GATEWAY)
    assert reason_of(world.submit(4, client=OTHER_GATEWAY)) == "3 builds are open, the most at once"
    world.open(1)  # asking again opens nothing
    world.cast(first, 0, FAILED)
    world.cast(first, 1, FAILED)
    assert first in world.application.open_builds()
    world.open(5)  # a closing build does not count


# --- roles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "allowed"),
    [
        (SubmitBuild(b"i" * 32, "r", "b", None), {GATEWAY}),
        (CastBallot(b"b" * 32, 1, ABSTAIN), {"replica-0"}),
        (ReportDeadline(b"b" * 32, 1), {"replica-0"}),
        (CancelBuild(b"b" * 32), {GATEWAY, OPERATOR}),
        (Append("text"), {GATEWAY}),
        (Noop(), {GATEWAY, OPERATOR, "replica-0", "stranger"}),
    ],
)
def test_who_may_ask_for_what(world: World, operation: Operation, allowed: set[str]) -> None:
    for client in (GATEWAY, OPERATOR, "replica-0", "stranger"):
        applied = world.apply(client, operation)
        is_refused_for_role = applied.result.startswith(b"this takes the role")
        assert is_refused_for_role == (client not in allowed), client
        if is_refused_for_role:
            reason_of(applied)


# --- ballots and verdicts -------------------------------------------------------------------------


def test_a_verdict_is_announced_with_the_statement_and_what_to_sign(world: World) -> None:
    build = world.open()
    assert world.cast(build, 0, PASSED) == Applied("done", build)
    assert world.cast(build, 1, PASSED) == Applied("done", build)
    applied = world.cast(build, 2, PASSED)
    (entry,) = applied.entries
    verdict = decode_entry(entry.body)
    assert isinstance(verdict, VerdictEntry)
    statement = bytes(verdict.statement)
    (told,) = applied.deferred
    assert (told.client, told.timestamp, told.kind) == (GATEWAY, 1, "decided")
    assert (told.subject, told.result, told.to_sign) == (build, statement, pae(statement))
    view = parse_statement(statement)
    assert (view.verdict.outcome, view.verdict.build) == (Outcome.PASSED, build.hex())
    assert view.verdict.ledger_index == entry.index
    assert verdict.askers[0].request_sha256 == told.request_digest.hex()
    assert [ballot.replica for ballot in verdict.ballots] == ["replica-0", "replica-1", "replica-2"]


@pytest.mark.parametrize("order", sorted(set(itertools.permutations("ppff"))))
def test_a_two_two_split_is_failed_in_every_order(order: tuple[str, ...]) -> None:
    world = World()
    build = world.open()
    for index, ballot in enumerate(order):
        world.cast(build, index, PASSED if ballot == "p" else FAILED)
    assert outcomes(world) == [Outcome.FAILED]


def test_a_ballot_is_its_senders_and_a_second_one_is_refused(world: World) -> None:
    build = world.open()
    world.cast(build, 2, PASSED)
    for again in (PASSED, FAILED, ABSTAIN):
        assert "has cast its ballot" in reason_of(world.cast(build, 2, again))
    assert dict(world.application.open_builds()[build].ballots) == {"replica-2": PASSED}


def test_a_ballot_is_for_one_opening_of_a_build(world: World) -> None:
    build = world.open()
    for operation in (
        CastBallot(build, world.opened(build) + 1, PASSED),
        CastBallot(b"?" * 32, world.opened(build), PASSED),
        ReportDeadline(build, world.opened(build) + 1),
    ):
        assert reason_of(world.apply("replica-0", operation)) == "no such open build"


@pytest.mark.parametrize(
    "ballot",
    [
        finding(Outcome.PASSED, 1),
        finding(Outcome.DISPUTED, None),
        finding(Outcome.CANCELLED, None),
        finding(commit="d" * 40),
        finding(commit=None),
    ],
)
def test_a_ballot_that_cannot_be_is_refused_and_leaves_the_replica_its_ballot(
    world: World, ballot: Ballot
) -> None:
    build = world.open()
    reason_of(world.cast(build, 0, ballot))
    assert world.cast(build, 0, PASSED).kind == "done"


def test_abstentions_make_a_dispute_when_nothing_can_win(world: World) -> None:
    build = world.open()
    for index in range(3):
        assert outcomes(world) == []
        world.cast(build, index, ABSTAIN)
    assert outcomes(world) == [Outcome.DISPUTED]


def test_strong_deadline_reports_dispute_an_undecided_build(world: World) -> None:
    build = world.open()
    world.cast(build, 0, PASSED)
    world.report(build, 0)
    assert "has reported" in reason_of(world.report(build, 0))
    world.report(build, 1)
    assert outcomes(world) == []
    world.report(build, 3)
    assert outcomes(world) == [Outcome.DISPUTED]
    assert world.verdict_entries()[0].deadline_reports == ("replica-0", "replica-1", "replica-3")


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_small_clusters_without_faults(replicas: int) -> None:
    world = World(cluster_of(replicas))
    green, red = world.open(1), world.open(2)
    for index in range(replicas):
        assert outcomes(world) == []
        world.cast(green, index, PASSED)
    assert outcomes(world) == [Outcome.PASSED]
    assert green not in world.application.open_builds()
    world.cast(red, 0, FAILED)
    assert outcomes(world) == [Outcome.PASSED, Outcome.FAILED]


# --- closing --------------------------------------------------------------------------------------


def test_late_ballots_are_recorded_and_change_nothing(world: World) -> None:
    build = decided_build(world)
    statement = world.application.open_builds()[build].statement
    applied = world.cast(build, 2, FAILED)
    assert applied.deferred == ()
    assert world.application.open_builds()[build].statement == statement
    world.cast(build, 3, PASSED)
    assert [(late.ballot.replica, late.agrees) for late in world.late_ballots()] == [
        ("replica-2", True),
        ("replica-3", False),
    ]
    assert outcomes(world) == [Outcome.FAILED]


def test_a_late_abstention_and_a_ballot_after_a_dispute_neither_agree_nor_dissent(
    world: World,
) -> None:
    build = decided_build(world, 1)
    world.cast(build, 2, ABSTAIN)
    disputed = world.open(2)
    for index in range(3):
        world.cast(disputed, index, ABSTAIN)
    world.cast(disputed, 3, PASSED)
    assert [late.agrees for late in world.late_ballots()] == [None, None]


def test_a_build_closes_with_its_last_ballot(world: World) -> None:
    build = decided_build(world)
    world.cast(build, 2, ABSTAIN)
    opened = world.opened(build)
    assert opened
    world.cast(build, 3, PASSED)
    assert build not in world.application.open_builds()
    late = world.apply("replica-3", CastBallot(build, opened, PASSED))
    assert reason_of(late) == "no such open build"


def test_a_build_closes_at_strong_closing_reports_which_start_anew_at_the_verdict(
    world: World,
) -> None:
    build = world.open()
    world.report(build, 0)
    world.report(build, 1)
    world.cast(build, 0, FAILED)
    world.cast(build, 1, FAILED)
    assert world.application.open_builds()[build].reports == ()
    world.report(build, 0)
    world.report(build, 1)
    assert build in world.application.open_builds()
    assert world.report(build, 2) == Applied("done", build)
    assert build not in world.application.open_builds()
    assert outcomes(world) == [Outcome.FAILED]


def test_the_build_decided_first_closes_when_too_many_are_closing() -> None:
    limits = Limits(closing_builds_max=2)
    world = World(cluster_of(4, limits), limits)
    builds = [world.open(identity) for identity in range(3)]
    for build in reversed(builds):  # decided in the other order than opened
        world.cast(build, 0, FAILED)
        world.restart()
        world.cast(build, 1, FAILED)
    assert set(world.application.open_builds()) == {builds[0], builds[1]}


def test_asking_for_a_closing_build_is_answered_at_once_and_opens_nothing(world: World) -> None:
    build = decided_build(world)
    applied = world.submit()
    assert (applied.kind, applied.result) == ("opened", build)
    (told,) = applied.deferred
    assert (told.timestamp, told.result) == (2, world.find_statement(build))
    assert len(world.verdict_entries()) == 1


def test_asking_for_a_closed_build_opens_nothing_until_it_is_forgotten(world: World) -> None:
    build = world.open()
    world.cancel(build, GATEWAY)
    assert world.submit() == Applied("opened", build, build)
    assert build not in world.application.open_builds()
    for identity in range(1, CLOSED_BUILDS_MAX + 1):
        world.cancel(world.open(identity), GATEWAY)
    world.restart()
    assert world.submit() == Applied("opened", build, build)
    again = world.application.open_builds()[build]
    assert again.opened == world.sequence
    stale = world.apply("replica-0", CastBallot(build, 1, PASSED))
    assert reason_of(stale) == "no such open build"


# --- cancelling -----------------------------------------------------------------------------------


def test_a_gateway_cancels_its_own_build(world: World) -> None:
    build = world.open()
    world.cast(build, 0, PASSED)
    applied = world.cancel(build, GATEWAY)
    cancel, verdict = (decode_entry(entry.body) for entry in applied.entries)
    assert cancel == CancelEntry(build.hex(), 1, GATEWAY)
    assert isinstance(verdict, VerdictEntry)
    assert outcomes(world) == [Outcome.CANCELLED]
    assert [told.client for told in applied.deferred] == [GATEWAY]
    assert build not in world.application.open_builds()


def test_a_gateway_cannot_cancel_anothers_build_and_an_operator_can(world: World) -> None:
    build = world.open()
    assert "did not ask" in reason_of(world.cancel(build, OTHER_GATEWAY))
    assert build in world.application.open_builds()
    applied = world.cancel(build, OPERATOR)
    assert [told.client for told in applied.deferred] == [GATEWAY]
    assert outcomes(world) == [Outcome.CANCELLED]


def test_a_build_goes_on_while_somebody_asks_for_it(world: World) -> None:
    build = world.open()
    # Ids hold the client's name, so only a crafted state has askers of two clients.
    shared = world.application.open_builds()[build].with_asker(
        Requester(OTHER_GATEWAY, 9, b"o" * 32)
    )
    name = BUILD_PART_PREFIX + build.hex()
    world.application.restore({**world.application.parts(), name: encode_build(shared)})
    applied = world.cancel(build, GATEWAY)
    assert len(applied.entries) == 1
    assert [a.client for a in world.application.open_builds()[build].askers] == [OTHER_GATEWAY]
    assert outcomes(world) == []
    world.cancel(build, OTHER_GATEWAY)
    assert outcomes(world) == [Outcome.CANCELLED]


def test_what_is_decided_cannot_be_cancelled(world: World) -> None:
    build = decided_build(world)
    for client in (GATEWAY, OPERATOR):
        assert reason_of(world.cancel(build, client)) == "no such undecided build"
    assert reason_of(world.cancel(b"?" * 32, OPERATOR)) == "no such undecided build"


# --- find_deferred --------------------------------------------------------------------------------


def test_find_deferred_says_that_a_build_is_open_then_finds_its_verdict(world: World) -> None:
    submit = encode_operation(SubmitBuild(b"i" * 32, "r", "b", COMMIT))
    request, digest = world.request(GATEWAY, submit)
    build = world.application.apply(request, digest, 1).result
    opened = world.application.find_deferred(request, digest)
    assert isinstance(opened, DeferredReply)
    assert (opened.kind, opened.result, opened.to_sign) == ("opened", opened.subject, b"")
    world.cast(build, 0, FAILED)
    world.cast(build, 1, FAILED)
    closing = world.application.find_deferred(request, digest)
    assert isinstance(closing, DeferredReply)
    assert (closing.client, closing.timestamp, closing.request_digest) == (GATEWAY, 1, digest)
    assert (closing.kind, closing.subject) == ("decided", build)
    assert closing.to_sign == pae(closing.result)
    world.cast(build, 2, FAILED)
    world.cast(build, 3, FAILED)
    assert build not in world.application.open_builds()
    assert world.application.find_deferred(request, digest) == closing


def test_find_deferred_finds_nothing_while_the_ledger_lacks_entries(world: World) -> None:
    missing = 1
    application = BuildApplication(
        world.cluster, world.limits, world.find_statement, missing_entries=lambda: missing
    )
    submit = encode_operation(SubmitBuild(b"i" * 32, "r", "b", COMMIT))
    asked = world.request(GATEWAY, submit)
    assert isinstance(application.find_deferred(*asked), Refusal)
    assert (
        application.find_deferred(*world.request(GATEWAY, encode_operation(Append("text")))) is None
    )
    missing = 0
    assert application.find_deferred(*asked) is None


def test_find_deferred_knows_nothing_of_what_asks_for_no_build(world: World) -> None:
    submit = encode_operation(SubmitBuild(b"i" * 32, "r", "b", COMMIT))
    for client, operation in (
        (GATEWAY, b"\xc1"),
        (GATEWAY, encode_operation(Append("text"))),
        (GATEWAY, submit),
        ("replica-0", submit),
    ):
        assert world.application.find_deferred(*world.request(client, operation)) is None


def test_applying_never_reads_the_ledger(world: World) -> None:
    build = world.open()

    def find_statement(_build_id: bytes) -> bytes | None:
        raise AssertionError("the ledger is not for execution")

    world.application._find_statement = find_statement
    world.cast(build, 0, FAILED)
    world.cast(build, 1, FAILED)
    world.open()
    for index in (2, 3):
        world.cast(build, index, FAILED)
    world.open()
    assert build not in world.application.open_builds()


# --- journal --------------------------------------------------------------------------------------


def test_the_journal_is_a_chain_of_strings(world: World) -> None:
    results = [json.loads(world.apply(GATEWAY, Append(text)).result) for text in ("a", "b", "a")]
    assert [result["length"] for result in results] == [1, 2, 3]
    assert len({result["digest"] for result in results}) == 3
    entries = [decode_entry(entry.body) for entry in world.ledger]
    assert entries[1] == AppendEntry(GATEWAY, "b", 2, results[1]["digest"])
    assert world.application.journal_digest.hex() == results[2]["digest"]
    same, other = World(), World()
    for text in ("a", "b", "a"):
        same.apply(GATEWAY, Append(text))
    for text in ("a", "a", "b"):
        other.apply(GATEWAY, Append(text))
    assert same.application.parts() == world.application.parts()
    assert other.application.journal_digest != world.application.journal_digest
