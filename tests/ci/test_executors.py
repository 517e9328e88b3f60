"""With `executors: minimal` some build first; the others begin when those may not be enough."""

import hashlib

import pytest

from ci.assignments import AssignmentTracker
from ci.builds import OpenBuild, decode_build, encode_build
from ci.executors import StandbyTimeout, StartReason, drawn_executors
from ci.ledger import genesis_head
from ci.limits import Limits, decode_limits, encode_limits, shown_limits
from ci.operations import Agreement, Ballot, BuildResult, Outcome
from ci.statement import VerdictFields, parse_statement
from ci.verdict import Thresholds
from pbft.genesis import PROTOCOL_WITHOUT_VACANT, Cluster
from tests.ci.builders import (
    ABSTAIN,
    FAILED,
    GATEWAY,
    OPERATOR,
    PASSED,
    World,
    cluster_of,
    finding,
)

MINIMAL = Limits(executors="minimal")
WEAK_MINIMAL = Limits(executors="minimal", weak_agreement_allowed=True)
WEAK = finding(agreement=Agreement.WEAK)
BUILD_SECONDS_MAX = 100.0
STAND_BY_SECONDS = 10.0


class Minimal(World):
    """A world with a build that its executors build first, and the assignments of every replica."""

    def __init__(
        self, replicas: int = 4, limits: Limits = MINIMAL, *, needs_approval: bool = False
    ) -> None:
        super().__init__(cluster_of(replicas, limits), limits)
        self.id = self.open(needs_approval=needs_approval)
        thresholds = Thresholds(self.cluster.quorums, limits.weak_agreement_allowed)
        standby_timeout = StandbyTimeout(STAND_BY_SECONDS, BUILD_SECONDS_MAX)
        self.assignments = {
            name: AssignmentTracker(name, lambda build: thresholds, lambda build: standby_timeout)
            for name in self.cluster.replica_names
        }
        self.executors = self.build.executors

    @property
    def build(self) -> OpenBuild:
        """The open build."""
        return self.application.open_builds()[self.id]

    @property
    def stand_bys(self) -> list[str]:
        """Who is no executor."""
        return [name for name in self.cluster.replica_names if name not in self.executors]

    def vote(self, name: str, ballot: Ballot) -> None:
        """A replica casts a ballot."""
        assert self.cast(self.id, self.cluster.replica_names.index(name), ballot).kind == "done"

    def calls(self, now: float = 0.0) -> dict[str, StartReason | None]:
        """Who is to begin the build at that time by every clock, and why."""
        found = {}
        for name, assignments in self.assignments.items():
            assignments.update(self.application.open_builds().values(), now)
            found[name] = assignments.call(self.build, now)
        return found

    def calls_of_stand_bys(self, now: float = 0.0) -> set[StartReason | None]:
        """The same of those that stand by."""
        calls = self.calls(now)
        return {calls[name] for name in self.stand_bys}

    @property
    def verdict(self) -> VerdictFields:
        """The newest verdict."""
        return parse_statement(bytes(self.verdict_entries()[-1].statement)).verdict


# --- who builds first ---------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 7, 10, 13])
def test_as_many_as_green_needs_are_drawn_each_once(replicas: int) -> None:
    world = Minimal(replicas)
    quorums = world.cluster.quorums
    assert len(set(world.executors)) == quorums.replicas - quorums.faults_max
    assert set(world.executors) <= set(world.cluster.replica_names)
    calls = world.calls()
    assert [name for name, reason in calls.items() if reason is StartReason.EXECUTOR] == [
        name for name in world.cluster.replica_names if name in world.executors
    ]
    assert world.calls_of_stand_bys() <= {None}


def test_they_follow_from_the_ledger_and_the_build_alone() -> None:
    cluster = cluster_of(4, MINIMAL)
    head, build = genesis_head(cluster.id), hashlib.sha256(b"a build").digest()
    drawn = drawn_executors(cluster, MINIMAL, head, build_id=build)
    assert drawn == drawn_executors(cluster, MINIMAL, head, build_id=build)
    heads = [hashlib.sha256(b"%d" % number).digest() for number in range(64)]
    by_head = [drawn_executors(cluster, MINIMAL, other, build_id=build) for other in heads]
    by_build = [drawn_executors(cluster, MINIMAL, head, build_id=other) for other in heads]
    for draws in (by_head, by_build):
        for name in cluster.replica_names:
            # 48 of 64 are expected; in all draws equal would be 0 or 64
            assert 30 <= sum(name in executors for executors in draws) <= 62


def test_they_are_drawn_from_the_head_before_the_build_and_stay() -> None:
    world = Minimal()
    drawn = [world.build.executors]
    head = genesis_head(world.cluster.id)
    assert drawn == [drawn_executors(world.cluster, MINIMAL, head, build_id=world.id)]
    world.open(1)
    world.cancel(world.id, OPERATOR)
    before = world.application.ledger_head
    other = world.open(2)
    executors = world.application.open_builds()[other].executors
    assert executors == drawn_executors(world.cluster, MINIMAL, before, build_id=other)
    world.submit(2)
    world.restart()
    assert world.application.open_builds()[other].executors == executors


def with_vacant_seat(protocol: int) -> Cluster:
    """Four replicas, of which nobody has the key of replica-1."""
    return cluster_of(4, MINIMAL, protocol=protocol, vacant=("replica-1",))


@pytest.mark.parametrize(("protocol", "is_drawn"), [(1, True), (PROTOCOL_WITHOUT_VACANT, False)])
def test_a_vacant_seat_is_no_executor_from_protocol_2_on(protocol: int, is_drawn: bool) -> None:
    cluster = with_vacant_seat(protocol)
    heads = [hashlib.sha256(b"%d" % number).digest() for number in range(16)]
    draws = [drawn_executors(cluster, MINIMAL, head, build_id=bytes(32)) for head in heads]
    assert {len(executors) for executors in draws} == {3}
    assert any("replica-1" in executors for executors in draws) == is_drawn


def test_no_ballot_is_waited_for_from_a_vacant_seat() -> None:
    """A build is over when all others voted, and disputed once they cannot agree any more."""
    for second, third, outcome in (
        (PASSED, PASSED, Outcome.PASSED),
        (ABSTAIN, FAILED, Outcome.DISPUTED),
    ):
        world = World(with_vacant_seat(PROTOCOL_WITHOUT_VACANT), Limits())
        build = world.open()
        for index, ballot in ((0, PASSED), (2, second), (3, third)):
            world.cast(build, index, ballot)
        (entry,) = world.verdict_entries()
        assert parse_statement(entry.statement).verdict.outcome is outcome
        assert build not in world.application.open_builds()


def test_where_all_build_there_are_none() -> None:
    world = Minimal(limits=Limits())
    assert world.build.executors == ()
    assert set(world.calls().values()) == {StartReason.EVERYBODY}


# --- when the others begin ----------------------------------------------------------------------


def test_equal_ballots_of_the_executors_are_enough_and_close_the_build() -> None:
    world = Minimal()
    for name in world.executors:
        assert world.calls_of_stand_bys() == {None}
        world.vote(name, PASSED)
    verdict = world.verdict
    assert (verdict.outcome, set(verdict.agreeing)) == (Outcome.PASSED, set(world.executors))
    assert verdict.executors == world.executors
    assert list(verdict.without_ballot) == world.stand_bys
    assert world.application.open_builds() == {}


@pytest.mark.parametrize(
    ("ballots", "reason"),
    [((PASSED, FAILED), StartReason.DIFFERING), ((ABSTAIN,), StartReason.ABSTENTION)],
    ids=["two that differ", "an abstention"],
)
def test_where_ballots_show_that_more_are_needed_all_begin_at_once(
    ballots: tuple[Ballot, ...], reason: StartReason
) -> None:
    world = Minimal(7)
    for name, ballot in zip(world.executors, ballots, strict=False):
        world.vote(name, ballot)
    assert world.calls_of_stand_bys() == {reason}
    world.restart()
    assert world.calls_of_stand_bys() == {reason}, "a node that starts again sees it too"


def test_a_ballot_of_one_that_stands_by_counts_and_may_differ() -> None:
    world = Minimal()
    world.vote(world.stand_bys[0], FAILED)
    world.vote(world.executors[0], FAILED)
    assert world.verdict.outcome is Outcome.FAILED


def test_a_report_of_the_deadline_calls_all() -> None:
    world = Minimal()
    world.vote(world.executors[0], PASSED)
    world.report(world.id, world.cluster.replica_names.index(world.executors[0]))
    assert world.calls_of_stand_bys() == {StartReason.REPORT}


def test_after_the_first_ballot_the_others_have_a_delay() -> None:
    world = Minimal()
    assert world.calls_of_stand_bys(0.0) == {None}
    world.vote(world.executors[0], PASSED)
    assert world.calls_of_stand_bys(4.0) == {None}
    assert world.calls_of_stand_bys(4.0 + STAND_BY_SECONDS - 0.1) == {None}
    assert world.calls_of_stand_bys(4.0 + STAND_BY_SECONDS) == {StartReason.DELAY}


def test_after_a_long_first_build_the_delay_is_half_of_it() -> None:
    world = Minimal()
    assert world.calls_of_stand_bys(0.0) == {None}
    world.vote(world.executors[0], PASSED)
    assert world.calls_of_stand_bys(60.0) == {None}
    assert world.calls_of_stand_bys(89.9) == {None}
    assert world.calls_of_stand_bys(90.0) == {StartReason.DELAY}


def test_without_any_ballot_the_executors_have_the_longest_build_and_the_delay() -> None:
    world = Minimal()
    start = 1000.0
    assert world.calls_of_stand_bys(start) == {None}
    end = start + BUILD_SECONDS_MAX + STAND_BY_SECONDS
    assert world.calls_of_stand_bys(end - 0.1) == {None}
    assert world.calls_of_stand_bys(end) == {StartReason.DELAY}


def test_while_a_build_waits_for_approval_nobody_begins_and_no_delay_runs() -> None:
    world = Minimal(needs_approval=True)
    assert set(world.calls(0.0).values()) == {None}
    assert set(world.calls(1e6).values()) == {None}
    world.approve(world.id)
    assert world.calls_of_stand_bys(1e6) == {None}
    assert StartReason.EXECUTOR in world.calls(1e6).values()


def test_a_build_that_opens_again_has_executors_and_a_delay_of_its_own() -> None:
    world = Minimal()
    world.vote(world.executors[0], ABSTAIN)
    assert world.calls_of_stand_bys(0.0) == {StartReason.ABSTENTION}
    world.cancel(world.id, OPERATOR)
    assert world.application.open_builds() == {}
    for number in range(1, 1100):
        world.cancel(world.open(number), GATEWAY)
    world.submit()
    world.executors = world.build.executors
    assert world.build.opened > 1
    assert world.calls_of_stand_bys(1e6) == {None}


def test_after_the_verdict_only_those_begin_that_it_stays_open_for() -> None:
    """An executor that sees opening and verdict at once casts its ballot too: nobody knows that
    it has not begun, and the build would be open until the deadline."""
    world = Minimal()
    for name in world.executors[:2]:
        world.vote(name, FAILED)
    assert world.verdict.outcome is Outcome.FAILED
    late = world.executors[2]
    for now in (0.0, 1e6):
        calls = world.calls(now)
        assert calls[late] is StartReason.EXECUTOR
        assert {calls[name] for name in world.stand_bys} == {None}
    world.vote(late, FAILED)
    assert len(world.late_ballots()) == 1
    assert world.application.open_builds() == {}, "no other ballot is to come"


@pytest.mark.parametrize(
    ("ballot", "reason"), [(PASSED, StartReason.DIFFERING), (ABSTAIN, StartReason.ABSTENTION)]
)
def test_after_the_verdict_a_doubt_calls_those_that_stood_by(
    ballot: Ballot, reason: StartReason
) -> None:
    world = Minimal()
    for name in world.executors[:2]:
        world.vote(name, FAILED)
    world.vote(world.executors[2], ballot)
    assert world.calls_of_stand_bys() == {reason}
    world.vote(world.stand_bys[0], FAILED)
    assert world.application.open_builds() == {}


def test_after_a_weak_verdict_the_third_executor_does_not_begin() -> None:
    """Its own reading counts no more, nor is it asked to look."""
    world = Minimal(7, WEAK_MINIMAL)
    for name in (*world.stand_bys, world.executors[0]):
        world.vote(name, WEAK)
    assert world.verdict.outcome is Outcome.PASSED
    calls = world.calls()
    needed = world.executors[1:3]
    assert world.verdict.executors == world.executors[:3]
    assert [calls[name] for name in needed] == [StartReason.EXECUTOR] * 2
    assert not any(world.assignments[name].is_spare(world.build, 0.0) for name in world.executors)
    assert {calls[name] for name in world.executors[3:]} == {None}
    for name in needed:
        world.vote(name, WEAK)
    assert world.application.open_builds() == {}


def test_who_read_weak_builds_where_the_verdict_says_strong() -> None:
    """It does not leave again what is waited for."""
    world = Minimal(limits=WEAK_MINIMAL)
    first, second, third = world.executors
    world.calls()
    world.assignments[third].note_weak((world.id, world.build.opened))
    for name in (first, second):
        world.vote(name, FAILED)
    assert world.verdict.executors == world.executors
    assert world.calls()[third] is StartReason.EXECUTOR
    assert not world.assignments[third].is_spare(world.build, 0.0)


def test_where_all_were_called_all_are_waited_for() -> None:
    world = Minimal(7)
    first, *others = world.executors
    world.vote(first, FAILED)
    for name in others:
        world.vote(name, PASSED)
    world.vote(world.stand_bys[0], PASSED)
    assert world.verdict.outcome is Outcome.PASSED
    assert world.build.is_decided
    world.vote(world.stand_bys[1], PASSED)
    assert world.application.open_builds() == {}


def test_a_build_that_lacks_an_executor_ends_by_reports_also_of_those_that_stood_by() -> None:
    world = Minimal()
    for name in world.executors[:2]:
        world.vote(name, FAILED)
    for name in world.cluster.replica_names[:3]:
        assert world.build.is_decided
        world.report(world.id, world.cluster.replica_names.index(name))
    assert world.application.open_builds() == {}


# --- weak agreement -----------------------------------------------------------------------------


def test_who_reads_weak_in_the_pipeline_leaves_it_to_f_plus_1() -> None:
    world = Minimal(limits=WEAK_MINIMAL)
    first, second, third = world.executors
    world.calls()
    assert [world.assignments[n].is_spare(world.build, 0.0) for n in world.executors] == [
        False,
        False,
        True,
    ]
    assert not any(world.assignments[name].is_spare(world.build, 0.0) for name in world.stand_bys)
    world.assignments[third].note_weak((world.id, world.build.opened))
    assert [world.calls()[name] for name in world.executors] == [
        StartReason.EXECUTOR,
        StartReason.EXECUTOR,
        None,
    ]
    world.vote(first, WEAK)
    assert world.calls()[third] is None
    assert world.calls(STAND_BY_SECONDS)[third] is StartReason.DELAY
    world.vote(second, WEAK)
    assert world.verdict.outcome is Outcome.PASSED
    assert world.verdict.executors == (first, second)
    assert world.application.open_builds() == {}, "the third is not waited for"


def test_a_spare_executor_takes_over_like_one_that_stands_by() -> None:
    world = Minimal(limits=WEAK_MINIMAL)
    first, _, third = world.executors
    world.calls()
    world.assignments[third].note_weak((world.id, world.build.opened))
    world.vote(first, PASSED)
    assert world.calls()[third] is None, "a liar's default agreement alone shows nothing"
    world.vote(world.executors[1], WEAK)
    assert world.calls()[third] is StartReason.DIFFERING
    assert not world.assignments[third].is_spare(world.build, 0.0), "it goes through with it"


def test_where_weak_is_not_allowed_nobody_is_spare() -> None:
    world = Minimal()
    assert not any(
        assignments.is_spare(world.build, 0.0) for assignments in world.assignments.values()
    )


# --- every order of every ballot ----------------------------------------------------------------


@pytest.mark.parametrize("limits", [MINIMAL, WEAK_MINIMAL], ids=["strong", "weak allowed"])
@pytest.mark.parametrize("seed", range(40))
def test_whatever_f_liars_say_a_verdict_comes(seed: int, limits: Limits) -> None:
    """All correct replicas find the same; who is faulty and what it says is drawn."""
    replicas = (4, 7, 10)[seed % 3]
    world = Minimal(replicas, limits)
    truth = WEAK if limits is WEAK_MINIMAL and seed % 2 else PASSED

    def drawn(what: str) -> int:
        return hashlib.sha256(f"{seed} {what}".encode()).digest()[0]

    order = sorted(world.cluster.replica_names, key=lambda name: drawn(f"order {name}"))
    faulty = order[: world.cluster.quorums.faults_max]
    lies: list[Ballot | None] = [ABSTAIN, FAILED, None, truth, finding(artifacts=())]
    begun: set[str] = set()
    now = 0.0
    while world.application.open_builds() and not world.build.is_decided:
        for name, reason in world.calls(now).items():
            spare = world.assignments[name].is_spare(world.build, now)
            if reason is StartReason.EXECUTOR and spare and truth is WEAK:
                world.assignments[name].note_weak((world.id, world.build.opened))
            elif reason is not None:
                begun.add(name)
        voters = [name for name in order if name in begun and name not in world.build.ballots]
        votes = {n: lies[drawn(f"lie {n}") % 5] if n in faulty else truth for n in voters}
        speaking = [name for name in voters if votes[name] is not None]
        if speaking:
            ballot = votes[speaking[0]]
            assert ballot is not None
            world.vote(speaking[0], ballot)
        else:
            now += 1.0
            assert now < 200, "no verdict, and nobody begins"
    assert isinstance(truth, BuildResult)
    assert world.verdict.outcome == truth.compared.outcome


# --- formats ------------------------------------------------------------------------------------


def test_a_genesis_of_all_is_written_as_before_there_were_executors() -> None:
    """The digest from the version before: the id of its cluster stays what it was."""
    limits = hashlib.sha256(encode_limits(Limits())).hexdigest()
    assert limits == "d77cc20afd982bb540d46efcd6d40180be2721a7d94da1522774c81058a3a478"


def test_a_genesis_without_executors_means_all() -> None:
    assert decode_limits(encode_limits(Limits())).executors == "all"
    assert decode_limits(encode_limits(MINIMAL)) == MINIMAL
    assert cluster_of(4, MINIMAL).id != cluster_of(4).id


def test_what_is_shown_of_limits_is_as_before_there_was_a_limit_for_cells() -> None:
    """A ledger has it: versions before write the same for the same change."""
    assert list(shown_limits(Limits(pids_max=99)))[-2:] == ["weak_agreement_allowed", "executors"]
    assert "cells_max" not in shown_limits(Limits(pids_max=99))
    changed = Limits(cells_max=20)
    assert shown_limits(changed)["cells_max"] == 20
    assert decode_limits(encode_limits(changed)) == changed


def test_a_build_with_executors_comes_back() -> None:
    world = Minimal()
    data = encode_build(world.build)
    assert decode_build(data) == world.build
    assert decode_build(data).executors == world.executors


def test_a_compared_value_is_what_ballots_differ_in_not_their_evidence() -> None:
    world = Minimal()
    world.vote(world.executors[0], finding(log="one log"))
    world.vote(world.executors[1], finding(log="another log"))
    assert world.calls_of_stand_bys() == {None}
