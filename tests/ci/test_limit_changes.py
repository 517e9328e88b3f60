"""ci.limit_changes: strong distinct seats change limits, for builds that open later."""

import hashlib
import json

import msgspec
import pytest

from ci.admission import STATE_BYTES_MAX, builds_max, is_temporary, room_refusal
from ci.builds import MalformedBuild, OpenBuild, decode_build, encode_build
from ci.ledger import LimitsEntry, RecordedApproval, decode_entry, encode_entry
from ci.limit_changes import LimitsPart, Proposal
from ci.limits import Limits, encode_limits, shown_limits
from ci.operations import (
    Agreement,
    Append,
    ApproveLimits,
    ProposeLimits,
)
from ci.seats import seats_of
from ci.state_partitions import LIMITS_PART, CorruptState
from ci.statement import parse_statement
from tests.ci.builders import (
    FAILED,
    GATEWAY,
    OPERATOR,
    OTHER_GATEWAY,
    PASSED,
    World,
    artifact,
    finding,
    reason_of,
    submit_build,
)
from tests.ci.operated_world import NEW, OLD, UNTIL, OperatedWorld, operated_cluster


@pytest.fixture
def world() -> OperatedWorld:
    """Four replicas, each with an operator."""
    return OperatedWorld()


# --- who changes limits ---------------------------------------------------------------------------


def test_the_approval_of_the_third_of_four_seats_changes_the_limits(world: OperatedWorld) -> None:
    digest = world.proposed("anna")
    assert world.application.limits == OLD
    second = world.approve_limits("boris", digest)
    assert json.loads(second.result) == {"approved": 2, "needed": 3, "changed": False}
    assert world.application.limits == OLD
    third = world.approve_limits("dora", digest)
    assert json.loads(third.result) == {"approved": 3, "needed": 3, "changed": True}
    assert world.application.limits == NEW
    assert world.application.limit_changes.serial == 1
    assert world.application.limit_changes.pending == ()
    (entry,) = third.entries
    decoded = decode_entry(entry.body)
    assert decoded == LimitsEntry(
        serial=1,
        since=3,
        limits=shown_limits(NEW),
        until=UNTIL,
        digest=digest.hex(),
        approvals=(
            RecordedApproval("anna", ("replica-0",)),
            RecordedApproval("boris", ("replica-1",)),
            RecordedApproval("dora", ("replica-3",)),
        ),
    )
    assert encode_entry(decoded) == entry.body


def test_an_operator_of_a_trial_cluster_changes_them_alone() -> None:
    world = OperatedWorld({"olga": (0, 1, 2, 3)})
    assert json.loads(world.propose("olga").result)["changed"]
    assert world.application.limits == NEW


def test_seats_are_counted_once_however_many_operators_stand_for_them() -> None:
    """Three operators, and two seats: f + 1 of them share one replica."""
    world = OperatedWorld({"anna": (0,), "boris": (0, 1), "carla": (1,), "dora": (2, 3)})
    digest = world.proposed("anna")
    for name in ("boris", "carla"):
        assert not json.loads(world.approve_limits(name, digest).result)["changed"]
    assert world.application.limits == OLD
    assert json.loads(world.approve_limits("dora", digest).result)["approved"] == 4


def test_nobody_approves_twice(world: OperatedWorld) -> None:
    digest = world.proposed("anna")
    for name in ("anna", "boris", "boris"):
        world.approve_limits(name, digest)
    assert reason_of(world.approve_limits("boris", digest)) == (
        "this operator has approved it already"
    )
    assert world.application.limits == OLD


def test_f_operators_alone_change_nothing_whatever_they_propose() -> None:
    world = OperatedWorld({"anna": (0,), "boris": (1,), "carla": (2,), "mallory": (3,)})
    for _ in range(4):
        digest = world.proposed("mallory")
        world.approve_limits("mallory", digest)
    assert world.application.limits == OLD
    assert len(world.application.limit_changes.pending) == 1


@pytest.mark.parametrize("client", [GATEWAY, "replica-0", OPERATOR, "nobody"])
def test_who_stands_for_no_replica_has_no_say(world: OperatedWorld, client: str) -> None:
    reason = reason_of(world.propose(client))
    assert "stands for no replica" in reason or "takes the role operator" in reason
    digest = world.proposed("anna")
    assert world.approve_limits(client, digest).kind == "refused"
    assert world.withdraw(client, digest).kind == "refused"


def test_a_cluster_whose_operators_are_too_few_cannot_change_its_limits() -> None:
    world = OperatedWorld({"anna": (0,), "boris": (1,)})
    assert reason_of(world.propose("anna")) == (
        "fewer than 3 replicas have an operator who stands for them"
    )


# --- what is approved -----------------------------------------------------------------------------


def test_an_approval_of_another_digest_counts_for_nothing(world: OperatedWorld) -> None:
    digest = world.proposed("anna")
    pending = world.application.limit_changes.pending
    others = [
        msgspec.structs.replace(pending[0], **changed).digest(world.cluster.id)
        for changed in (
            {"proposer": "boris"},
            {"serial": 2},
            {"until": UNTIL + 1},
            {"limits": encode_limits(OLD)},
        )
    ]
    for other in (*others, pending[0].digest(bytes(32)), bytes(32)):
        assert other != digest
        assert reason_of(world.approve_limits("boris", other)) == "no such proposal is pending"
    assert world.application.limit_changes.pending == pending


def test_approvals_of_two_equal_proposals_do_not_add_up(world: OperatedWorld) -> None:
    """Whoever repeats another's proposal gets none of its approvals, and takes none away."""
    digest = world.proposed("anna")
    world.approve_limits("boris", digest)
    copied = world.proposed("dora")
    assert copied != digest
    assert world.application.limits == OLD
    world.withdraw("dora", copied)
    assert json.loads(world.approve_limits("carla", digest).result)["changed"]


def test_a_newer_proposal_of_an_operator_replaces_its_own_and_no_other(
    world: OperatedWorld,
) -> None:
    first = world.proposed("anna")
    kept = world.proposed("boris")
    world.approve_limits("carla", first)
    second = world.proposed("anna", Limits(pids_max=99))
    assert reason_of(world.approve_limits("dora", first)) == "no such proposal is pending"
    pending = {p.digest(world.cluster.id): p for p in world.application.limit_changes.pending}
    assert set(pending) == {second, kept}
    assert pending[second].approvals == ("anna",)


@pytest.mark.parametrize("serial", [1, 3, 2**53])
def test_a_serial_is_the_next_one(world: OperatedWorld, serial: int) -> None:
    world.change(NEW)
    assert reason_of(world.propose("anna", serial=serial)) == "the next change has the serial 2"


def test_a_change_voids_what_was_compared_with_older_limits(world: OperatedWorld) -> None:
    pending = world.proposed("dora", Limits(pids_max=99))
    world.change(NEW)
    assert world.application.limit_changes.pending == ()
    assert reason_of(world.approve_limits("anna", pending)) == "no such proposal is pending"


def test_neither_a_proposal_nor_an_approval_is_accepted_past_until(world: OperatedWorld) -> None:
    digest = world.proposed("anna", until=3)
    world.approve_limits("boris", digest)
    world.apply(GATEWAY, Append("time passes"))
    assert reason_of(world.approve_limits("carla", digest)) == "no such proposal is pending"
    assert world.application.limits == OLD
    assert reason_of(world.withdraw("boris", digest)) == "no such proposal is pending"
    assert reason_of(world.propose("anna", until=4)) == "the sequence number is past until"
    world.proposed("anna")
    assert len(world.application.limit_changes.pending) == 1, "it takes the place of the older one"


def test_the_last_sequence_number_still_counts(world: OperatedWorld) -> None:
    digest = world.proposed("anna", until=3)
    world.approve_limits("boris", digest)
    assert json.loads(world.approve_limits("carla", digest).result)["changed"]


def test_an_operator_withdraws_what_is_its_own(world: OperatedWorld) -> None:
    digest = world.proposed("anna")
    world.approve_limits("boris", digest)
    assert reason_of(world.withdraw("carla", digest)) == (
        "this operator neither proposed nor approved it"
    )
    assert world.withdraw("boris", digest).kind == "done"
    assert not json.loads(world.approve_limits("carla", digest).result)["changed"]
    assert world.withdraw("anna", digest).kind == "done"
    assert world.application.limit_changes.pending == ()
    # Proposed again, it has the digest that was approved, and none of the approvals.
    assert world.proposed("anna") == digest
    assert not json.loads(world.approve_limits("boris", digest).result)["changed"]


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\xc1",
        encode_limits(OLD) + b"\0",
        msgspec.msgpack.encode({"pids_max": 99}),
        msgspec.msgpack.encode({**msgspec.msgpack.decode(encode_limits(OLD)), "pids_max": 1}),
        msgspec.msgpack.encode({**msgspec.msgpack.decode(encode_limits(OLD)), "cpus": 1}),
        msgspec.msgpack.encode({**msgspec.msgpack.decode(encode_limits(OLD)), "more": 1}),
        msgspec.msgpack.encode({**msgspec.msgpack.decode(encode_limits(OLD)), "executors": "all"}),
        b"\x91" * 1000,
    ],
)
def test_only_the_one_encoding_of_valid_limits_is_taken(
    world: OperatedWorld, encoded: bytes
) -> None:
    applied = world.apply("anna", ProposeLimits(1, UNTIL, encoded))
    assert reason_of(applied) == "these are no valid limits"


def test_limits_that_make_too_large_a_state_are_refused(world: OperatedWorld) -> None:
    large = Limits(waiting_builds_per_client_max=10_000)
    assert room_refusal(world.cluster, large)
    assert reason_of(world.propose("anna", large)) == (
        "under these limits the state could become too large"
    )


# --- which builds ---------------------------------------------------------------------------------


def test_a_build_keeps_the_limits_that_it_was_opened_under(world: OperatedWorld) -> None:
    before = world.open(1)
    world.change(NEW)
    after = world.open(2)
    world.change(OLD)
    last = world.open(3)
    world.restart()
    application, builds = world.application, world.application.open_builds()
    assert [application.limits_of(builds[build]) for build in (before, after, last)] == [
        OLD,
        NEW,
        OLD,
    ]
    two = finding(artifacts=(artifact("a"), artifact("b")))
    assert world.cast(before, 0, two).kind == "done"
    assert reason_of(world.cast(after, 0, two)) == "more than 1 artifacts"
    assert world.cast(last, 0, two).kind == "done"


def test_weak_agreement_is_that_of_the_build() -> None:
    """A change neither makes a verdict of an open build easier nor harder."""
    world = OperatedWorld(limits=Limits(weak_agreement_allowed=True))
    weak = finding(agreement=Agreement.WEAK)
    allowed = world.open(1)
    world.change(OLD)
    not_allowed = world.open(2)
    for build in (allowed, not_allowed):
        world.cast(build, 0, weak)
        world.cast(build, 1, weak)
    builds = world.application.open_builds()
    assert builds[allowed].is_decided
    assert not builds[not_allowed].is_decided


def test_executors_are_drawn_by_the_limits_of_the_build(world: OperatedWorld) -> None:
    before = world.open(1)
    world.change(Limits(executors="minimal"))
    after = world.open(2)
    builds = world.application.open_builds()
    assert builds[before].executors == ()
    assert len(builds[after].executors) == 3
    for index in (0, 1, 2):
        world.cast(before, index, PASSED)
    assert not parse_statement(builds_statement(world, before)).verdict.executors
    assert before in world.application.open_builds(), "all four are waited for"


def opened_build(world: World, number: int = 0) -> OpenBuild:
    build = world.open(number)
    return world.application.open_builds()[build]


def builds_statement(world: World, build: bytes) -> bytes:
    return world.application.open_builds()[build].statement


def test_builds_of_the_batch_that_changes_limits_have_the_older_ones(
    world: OperatedWorld,
) -> None:
    """So the ledger alone says under which limits a build was opened: by its sequence number."""
    digest = world.proposed("anna")
    world.approve_limits("boris", digest)
    before, change, beside = world.apply_together(
        (GATEWAY, submit_build(1)), ("carla", ApproveLimits(digest)), (GATEWAY, submit_build(2))
    )
    (after,) = world.apply_together((GATEWAY, submit_build(3)))
    assert json.loads(change.result)["changed"]
    application, builds = world.application, world.application.open_builds()
    for applied, expected in ((before, OLD), (beside, OLD), (after, NEW)):
        assert application.limits_of(builds[applied.result]) == expected


def test_two_changes_in_one_batch_leave_it_the_limits_from_before_both() -> None:
    world = OperatedWorld({"olga": (0, 1, 2, 3)})
    other = Limits(pids_max=99)
    (_, _, applied) = world.apply_together(
        ("olga", ProposeLimits(1, UNTIL, encode_limits(NEW))),
        ("olga", ProposeLimits(2, UNTIL, encode_limits(other))),
        (GATEWAY, submit_build(1)),
    )
    build = world.application.open_builds()[applied.result]
    assert world.application.limits_of(build) == OLD
    later = opened_build(world, 2)
    assert world.application.limits_of(later) == other


def test_admission_is_by_the_limits_that_hold_now(world: OperatedWorld) -> None:
    for number in range(4):
        world.open(number)
    world.change(NEW)
    assert reason_of(world.submit(9)) == "3 builds are open, the most at once"
    world.change(OLD)
    world.open(9)


def test_a_verdict_under_changed_limits_says_no_more_than_one_of_the_genesis() -> None:
    """Its statement has no field for limits: the ledger says which held at `opened`."""
    fields = []
    for is_changed in (False, True):
        world = OperatedWorld()
        if is_changed:
            world.change(NEW)
        build = world.open()
        world.cast(build, 0, FAILED)
        world.cast(build, 1, FAILED)
        statement = json.loads(builds_statement(world, build))
        fields.append((set(statement), set(statement["predicate"])))
    assert fields[0] == fields[1]


# --- the bound on the state -----------------------------------------------------------------------


def let_wait(many: int) -> Limits:
    """Many builds may wait, and one may be open."""
    return Limits(waiting_builds_per_client_max=many, open_builds_max=1, closing_builds_max=1)


def let_open(many: int, waiting: int = 1) -> Limits:
    """Many builds may be open."""
    return Limits(
        waiting_builds_per_client_max=waiting,
        open_builds_max=many,
        open_builds_per_client_max=many,
        closing_builds_max=1,
    )


def test_limits_that_fit_one_by_one_make_no_too_large_state_together() -> None:
    """The first let many builds wait, the second lets many be open; both together would not fit."""
    world = OperatedWorld(limits=let_wait(40))
    assert room_refusal(world.cluster, let_wait(1_000)) is None
    assert room_refusal(world.cluster, let_open(1_000)) is None
    assert room_refusal(world.cluster, let_open(1_000, waiting=1_000)) is not None
    for client in (GATEWAY, OTHER_GATEWAY):
        for number in range(40):
            world.open(number, client=client, needs_approval=True)
    world.change(let_open(40))
    most = max(builds_max(world.cluster, let_wait(40)), builds_max(world.cluster, let_open(40)))
    number = 100
    while (applied := world.submit(number)).kind == "opened":
        number += 1
    assert number > 100
    assert reason_of(applied) == "83 builds are in the state, the most at once"
    assert is_temporary(reason_of(applied))
    assert len(world.application.open_builds()) == 83 <= most
    # Lowered, no further one is opened; raised again, there is room for what may be there now.
    world.change(let_open(1))
    assert world.submit(1_000).kind == "refused"
    world.change(let_open(60))
    for number in range(1_000, 1_100):
        world.submit(number)
    assert len(world.application.open_builds()) == builds_max(world.cluster, let_open(60)) == 123


def test_proposals_are_bounded_and_reckoned_with() -> None:
    """Each operator has one, approved by all: no more bytes than `room_refusal` adds up."""
    names = [f"{number:02}" + "o" * 62 for number in range(20)]
    world = OperatedWorld(dict.fromkeys(names, (0,)) | {"p": (1,), "q": (2,)})
    for name in names:
        for pids in (100, 200):
            digest = world.proposed(name, Limits(pids_max=pids, executors="minimal"))
        for other in names:
            world.approve_limits(other, digest)
    assert len(world.application.limit_changes.pending) == len(names)
    part = world.application.parts()[LIMITS_PART]
    reckoned = len(names) * (1024 + sum(len(name) + 2 for name in names))
    assert len(part) < reckoned < STATE_BYTES_MAX


# --- the state ------------------------------------------------------------------------------------

# Of `history()`, by the code before limits could change (commit c74c00a).
RECORDED_STATE = "caa4bf7ae4805ed3d1df0e3e4cbc4c81323967c5e1b959ad2b33cf9316b88d0b"


def history() -> World:
    """Builds in each of their states, a journal, closed builds, and no proposal."""
    world = World()
    for number in range(4):
        world.open(number, needs_approval=number == 3)
    builds = [build.id for build in world.application.open_builds().values()]
    for index in range(4):
        world.cast(builds[0], index, PASSED)
    for index in range(2):
        world.cast(builds[1], index, FAILED)
    world.cast(builds[2], 3, finding(artifacts=(artifact("a"),)))
    world.report(builds[2], 3)
    world.apply(GATEWAY, Append("text"))
    return world


def test_a_state_without_any_proposal_has_the_bytes_that_it_always_had() -> None:
    """So replicas of the version before agree with ours, and a store of that version is read."""
    parts = history().application.parts()
    assert LIMITS_PART not in parts
    digest = hashlib.sha256(msgspec.msgpack.encode(sorted(parts.items()))).hexdigest()
    assert digest == RECORDED_STATE


def test_a_withdrawn_proposal_leaves_no_trace_in_the_state(world: OperatedWorld) -> None:
    world.withdraw("anna", world.proposed("anna"))
    assert LIMITS_PART not in world.application.parts()


def test_what_is_proposed_before_the_first_change_is_restored(world: OperatedWorld) -> None:
    digest = world.proposed("anna")
    world.approve_limits("boris", digest)
    world.restart()
    assert json.loads(world.approve_limits("carla", digest).result)["changed"]


def test_the_whole_state_is_restored(world: OperatedWorld) -> None:
    world.change(NEW)
    digest = world.proposed("dora", OLD, serial=2)
    world.approve_limits("anna", digest)
    world.open(1)
    world.restart()
    assert world.application.limits == NEW
    changes = world.application.limit_changes
    assert (changes.serial, changes.since) == (1, 3)
    assert changes.pending == (Proposal("dora", 2, UNTIL, encode_limits(OLD), ("dora", "anna")),)
    world.approve_limits("boris", digest)
    assert world.application.limits == OLD


@pytest.mark.parametrize(
    "part",
    [
        LimitsPart(0, 0, b"", ()),
        LimitsPart(1, 1, b"", ()),
        LimitsPart(0, 0, encode_limits(NEW), (Proposal("a", 1, 1, encode_limits(NEW), ("a",)),)),
        LimitsPart(1, 1, b"\xc1", ()),
        LimitsPart(0, 0, b"", (Proposal("a", 1, 1, b"\xc1", ("a",)),)),
        LimitsPart(0, 0, b"", (Proposal("a", 1, 1, encode_limits(NEW), ("a",)),) * 2),
    ],
)
def test_a_part_that_no_state_has_is_refused(world: OperatedWorld, part: LimitsPart) -> None:
    parts = {**world.application.parts(), LIMITS_PART: msgspec.msgpack.encode(part)}
    with pytest.raises(CorruptState, match=LIMITS_PART):
        world.new_application().restore(parts)


def test_a_build_has_one_encoding_with_limits_and_without(world: OperatedWorld) -> None:
    build = opened_build(world)
    assert decode_build(encode_build(build)) == build
    changed = msgspec.structs.replace(build, limits=encode_limits(NEW))
    assert decode_build(encode_build(changed)) == changed
    with pytest.raises(MalformedBuild):
        decode_build(msgspec.msgpack.encode(build))  # the empty field is left out
    with pytest.raises(MalformedBuild):
        decode_build(encode_build(msgspec.structs.replace(build, limits=b"\xc1")))


def test_seats_are_named_in_the_order_of_the_genesis() -> None:
    cluster = operated_cluster({"anna": (2, 0), "boris": (1,)})
    assert seats_of(cluster, ["boris", "anna", "nobody"]) == ("replica-0", "replica-1", "replica-2")
