"""An epoch ends, and the next one begins with its state (docs/decisions/0058)."""

import hashlib
from collections.abc import Sequence

import msgspec
import pytest

from pbft.certificates import state_digest
from pbft.checkpoint import state_parts
from pbft.core import ReplicaStatus, Settings
from pbft.genesis import (
    PROTOCOL_WITHOUT_VACANT,
    Cluster,
    Genesis,
    InvalidGenesis,
    Member,
    vacant_key,
)
from pbft.log import NULL_REQUEST
from pbft.messages import (
    Checkpoint,
    Commit,
    FetchState,
    NewView,
    Prepare,
    PrePrepare,
    Recover,
    Request,
    Status,
    ViewChange,
)
from tests.paper.test_recovery import lose_disk
from tests.pbft.checks import check_safety
from tests.pbft.world import END, CrashPoint, Message, World, genesis_of, public_key

K, L = 2, 4
VOTES = (PrePrepare, Prepare, Commit, Checkpoint)


def small(replicas: int = 4) -> World:
    return World(
        replicas,
        checkpoint_interval=K,
        window=L,
        settings=Settings(view_change_seconds=4.0, view_change_seconds_max=16.0),
    )


def next_genesis(replicas: int | Sequence[str] = 4, interval: int = K, window: int = L) -> Genesis:
    """Of the next epoch: not the present one, though its replicas may be the same."""
    return genesis_of(replicas, checkpoint_interval=interval, window=window, client_window=63)


def change(world: World, timestamp: int, genesis: Genesis) -> None:
    """The client asks for the next epoch; nothing is delivered yet."""
    world.ask(timestamp, END + Cluster(genesis).configuration)


def last_number(world: World, name: str = "r0") -> int:
    ending = world.core(name).execution.ending
    assert ending is not None
    return ending.sequence


def is_sealed(world: World, names: Sequence[str] = ()) -> bool:
    return all(world.core(name).is_sealed for name in names or world.replicas)


def run_to_end(world: World, names: Sequence[str] = ()) -> None:
    """Until these replicas (by default all that run) have sealed the epoch; within 200 seconds."""
    for _ in range(200):
        world.deliver()
        if is_sealed(world, names):
            return
        world.tick()
    raise AssertionError("the epoch did not end")


def succeed(world: World, genesis: Genesis) -> World:
    """The next epoch, with the state that the first sealed replica has."""
    sealed = next(name for name in world.replicas if world.core(name).is_sealed)
    core = world.core(sealed)
    parts = core.checkpoints.stable_parts
    cluster = world.cluster.succeeded_by(genesis, core.low, state_digest(parts))
    later = World(begins=(cluster, parts), settings=world.settings)
    for name in later.names:
        later.disks[name].entries = list(world.disks[sealed].entries)
    return later


def ended(replicas: int = 4, genesis: Genesis | None = None) -> tuple[World, World]:
    """A world whose epoch has ended, and the next one."""
    world = small(replicas)
    world.ask_each(1, 3)
    following = genesis or next_genesis(replicas)
    change(world, 4, following)
    run_to_end(world)
    return world, succeed(world, following)


# --- identity -----------------------------------------------------------------------------------


def test_an_epoch_has_an_id_of_its_own_that_names_members_end_and_state() -> None:
    first = Cluster(next_genesis())
    other = next_genesis(window=2 * L)
    assert (first.epoch, first.begins_after, first.lineage) == (0, 0, first.id)
    later = first.succeeded_by(other, 8, bytes(32))
    assert (later.epoch, later.begins_after, later.lineage) == (1, 8, first.id)
    assert later.configuration == Cluster(other).id
    ids = {
        later.id,
        first.id,
        Cluster(other).id,
        first.succeeded_by(next_genesis(), 8, bytes(32)).id,
        first.succeeded_by(other, 10, bytes(32)).id,
        first.succeeded_by(other, 8, bytes([1]) * 32).id,
        later.succeeded_by(other, 8, bytes(32)).id,
        Cluster(other).succeeded_by(other, 8, bytes(32)).id,
    }
    assert len(ids) == 8


def test_five_replicas_succeed_nobody() -> None:
    with pytest.raises(ValueError, match="5 replicas tolerate no more faults than 4"):
        Cluster(next_genesis()).succeeded_by(next_genesis(5), 8, bytes(32))
    with pytest.raises(InvalidGenesis, match="two members"):
        Cluster(next_genesis(["r0", "r0", "r1", "r2"]))


def test_from_protocol_2_on_views_pass_over_a_vacant_seat() -> None:
    """Without that, views 0 and 1 were those of r0, whom nobody runs, and of r1, who is down."""
    genesis = next_genesis(7)
    nobody = Member("r0", vacant_key("r0"), ("replica",))
    following = msgspec.structs.replace(
        genesis, replicas=(nobody, *genesis.replicas[1:]), protocol=PROTOCOL_WITHOUT_VACANT
    )
    _, later = ended(7, following)
    assert "r0" not in later.replicas
    later.ask(1, b"first")
    later.deliver()
    assert {later.core(name).view for name in later.replicas} == {0}
    assert all(b"first" in later.applications[name].operations for name in later.replicas)
    later.crash("r1")
    later.ask(2, b"second")
    for _ in range(100):
        later.deliver()
        if all(b"second" in later.applications[name].operations for name in later.replicas):
            break
        later.tick()
    assert {(later.core(name).view, later.core(name).primary) for name in later.replicas} == {
        (1, 2)
    }


# --- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 4, 7])
@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_an_epoch_ends_at_the_first_checkpoint_a_window_above_its_change(
    replicas: int, before: int
) -> None:
    world = small(replicas)
    world.ask_each(1, before)
    change(world, before + 1, next_genesis(replicas))
    world.deliver(lambda message: not isinstance(message.payload, Status))
    at = before + 1
    run_to_end(world)
    end = last_number(world)
    assert at + L <= end < at + L + K
    assert end % K == 0
    for name in world.names:
        core = world.core(name)
        assert core.status is ReplicaStatus.ENDED
        assert (core.executed, core.low, core.high) == (end, end, end)
        assert world.disks[name].entries[-1].body == b"ended"
        parts = state_parts(core)
        assert parts["epoch"] == (1).to_bytes(8, "big")
        assert parts["configuration"] == Cluster(next_genesis(replicas)).configuration
        assert not any(part.startswith(("client/", "ending")) for part in parts)
    check_safety(world)


def test_without_a_change_a_state_says_what_it_always_said() -> None:
    world = small()
    world.ask_each(1, 3)
    parts = state_parts(world.core("r0"))
    assert parts["epoch"] == bytes(8)
    assert not {"configuration", "ending"} & set(parts)


def asked_for_much() -> World:
    """A request a number, so that the primary has more to order than fits into the epoch."""
    world = World(
        4, checkpoint_interval=K, window=L, settings=Settings(batch_bytes_max=1, pipeline_depth=8)
    )
    world.ask_each(1, 3)
    change(world, 4, next_genesis())
    for timestamp in range(5, 40):
        world.ask(timestamp, b"%d" % timestamp)
    run_to_end(world)
    return world


def test_nobody_votes_above_the_end_however_much_is_asked() -> None:
    world = asked_for_much()
    end = last_number(world)
    voted = {m.payload.sequence for m in world.sent if isinstance(m.payload, VOTES)}
    assert max(voted) == end
    check_safety(world)


def test_a_primary_that_orders_above_the_end_is_refused() -> None:
    """T24, T25: who knows the end refuses what is above it, also within h + L."""
    world = small()
    world.ask_each(1, 3)
    change(world, 4, next_genesis())
    # s = 4, T = 8: 7 is executed, h is 6, and h + L is 10
    world.deliver(lambda m: not isinstance(m.payload, Checkpoint))
    while world.core("r1").executed < 7:
        world.tick(0.05)
        world.deliver(lambda m: getattr(m.payload, "sequence", 0) <= 7)
    assert last_number(world, "r1") == 8
    assert world.core("r1").low + L > 8
    _, signed, body = world.pre_prepare(9, [world.request(9, b"nine")])
    assert "water marks" in world.refuse("r1", signed, body)


def test_who_has_ended_takes_no_request_and_suspects_no_primary() -> None:
    world, _ = ended()
    assert "this epoch has ended" in world.refuse("r1", world.request(5, b"late"))
    recover = world.sign("r3", Recover(bytes(32), 3, world.core("r0").low))
    assert "this epoch has ended" in world.refuse("r1", recover)
    world.run(ticks=100)
    assert {world.core(name).view for name in world.names} == {0}


def test_what_is_pending_at_the_end_deposes_nobody() -> None:
    world = asked_for_much()
    assert all(len(world.core(name).pending) for name in world.names)
    world.run(ticks=50)
    assert {world.core(name).view for name in world.names} == {0}


def test_the_second_change_of_an_epoch_decides_nothing() -> None:
    world = small()
    change(world, 1, next_genesis(7))
    world.deliver()
    world.ask(2, END + bytes(32))
    run_to_end(world)
    assert world.core("r0").execution.configuration == Cluster(next_genesis(7)).configuration


def test_a_mute_primary_does_not_keep_the_epoch_from_ending() -> None:
    """It owes the null requests up to the end, and all of them have one time."""
    world = small()
    change(world, 1, next_genesis())
    world.deliver()
    world.crash("r0")
    run_to_end(world)
    assert world.core("r1").view > 0
    check_safety(world, ("r1", "r2", "r3"))


def test_a_slow_primary_does_not_win_time_with_each_null_request() -> None:
    """It gives one null request shortly before each timeout; the whole lot is timed together."""
    world = World(
        4,
        checkpoint_interval=16,
        window=64,
        settings=Settings(view_change_seconds=4.0, view_change_seconds_max=64.0),
    )
    change(world, 1, next_genesis(window=64, interval=16))
    world.deliver()
    begun = world.now
    held: list[Message] = []
    while world.core("r1").view == 0:
        assert world.now - begun < 60, "the primary had its time"
        world.tick(0.5)
        held += [m for m in world.under_way if m.sender == "r0" and _is_order(m)]
        world.drop(lambda m: m.sender == "r0" and _is_order(m))
        if int(world.now - begun) % 3 == 0 and held:  # one number in three seconds
            first = min(m.payload.sequence for m in held if isinstance(m.payload, PrePrepare))
            due = [m for m in held if m.payload.sequence == first]  # type: ignore[union-attr]
            held = [m for m in held if m not in due]
            world.under_way += due
        world.deliver()
    run_to_end(world)
    check_safety(world)


def _is_order(message: Message) -> bool:
    return isinstance(message.payload, PrePrepare) and message.payload.digest == NULL_REQUEST


# --- faults around it ---------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", ["r0", "r2"])
def test_a_crash_at_each_save_up_to_the_end_changes_nothing(name: str, saved: bool) -> None:
    for turn in range(1, 300):
        world = small()
        world.ask_each(1, 2)
        world.crash_points[name] = CrashPoint(world.turns[name] + turn, saved, sent=1)
        change(world, 3, next_genesis())
        for _ in range(60):
            world.deliver()
            if name not in world.replicas:
                del world.crash_points[name]
                world.start(name)
                world.connect(name)
            if is_sealed(world, world.names):
                break
            world.tick()
        assert is_sealed(world, world.names)
        assert len({last_number(world, other) for other in world.names}) == 1
        check_safety(world)
        if name in world.crash_points:
            return  # it has fewer turns than that
    raise AssertionError("more turns than were tried")


def test_who_was_away_fetches_the_state_of_the_end() -> None:
    world = small()
    world.ask_each(1, 3)
    world.crash("r3")
    change(world, 4, next_genesis())
    for timestamp in range(5, 9):
        world.ask(timestamp, b"%d" % timestamp)
    run_to_end(world, ("r0", "r1", "r2"))
    world.start("r3")
    world.connect("r3")
    run_to_end(world)
    assert world.core("r3").low == last_number(world)
    assert state_parts(world.core("r3")) == state_parts(world.core("r0"))
    # and after a restart it stands there, too
    world.crash("r3")
    world.start("r3")
    assert world.core("r3").is_sealed
    assert world.core("r3").high == last_number(world)


def test_a_view_change_across_the_end() -> None:
    """One replica has executed the end, the others lack a vote and their primary is gone."""
    world = small()
    change(world, 1, next_genesis())
    world.deliver()
    end = last_number(world)

    def reaches(message: Message) -> bool:
        payload = message.payload
        is_last = isinstance(payload, Commit) and payload.sequence == end
        return not is_last or message.receiver == "r1"

    for _ in range(20):
        world.tick(0.05)
        world.deliver(reaches)
    assert world.core("r1").has_ended
    assert not world.core("r2").has_ended
    world.drop(lambda message: not reaches(message))
    world.crash("r0")
    run_to_end(world)
    check_safety(world, ("r1", "r2", "r3"))


def test_a_replica_that_recovers_as_the_epoch_ends_votes_in_the_next_one() -> None:
    """What it may have said is void there."""
    world = small()
    world.ask_each(1, 3)
    lose_disk(world, "r3")
    world.run(ticks=1)
    change(world, 4, next_genesis())
    run_to_end(world)
    assert 3 in world.core("r0").execution.recoveries
    later = succeed(world, next_genesis())
    assert not later.core("r0").execution.recoveries
    assert later.core("r3").status is ReplicaStatus.NORMAL
    later.crash("r1")
    later.ask(1, b"with r3")
    later.run()
    assert later.client_output.accepted
    check_safety(later, ("r0", "r2", "r3"))


def test_the_end_is_sealed_only_once_it_is_stable() -> None:
    """T28: else nobody could prove what the next epoch begins with."""
    world = small()
    change(world, 1, next_genesis())
    world.deliver()
    end = last_number(world)
    for _ in range(20):
        world.tick(0.05)
        world.deliver(lambda m: not isinstance(m.payload, Checkpoint) or m.payload.sequence < end)
    for name in world.names:
        assert world.core(name).has_ended
        assert not world.core(name).is_sealed
    run_to_end(world)


def test_a_wrong_state_at_the_end_seals_nothing() -> None:
    """Its replica fetches the right one first."""
    world = small()
    world.ask_each(1, 3)
    change(world, 4, next_genesis())
    world.deliver()
    world.applications["r2"].head = bytes(32)
    world.tick(0.02)
    run_to_end(world)
    states = {state_digest(world.core(name).checkpoints.stable_parts) for name in world.names}
    assert len(states) == 1


# --- the next epoch -----------------------------------------------------------------------------


def test_the_next_epoch_goes_on_where_the_one_before_ended() -> None:
    world, later = ended()
    end = last_number(world)
    core = later.core("r0")
    assert (core.low, core.executed, core.view) == (end, end, 0)
    assert core.cluster.epoch == 1
    assert state_parts(core) == world.core("r1").checkpoints.stable_parts
    later.ask_each(1, 9)
    later.run()
    assert len(later.client_output.accepted) == 9
    assert later.core("r0").low > end
    assert [e.index for e in later.disks["r0"].entries] == list(range(1, 15))
    check_safety(later)
    for name in later.names:
        later.crash(name)
        later.start(name)
    assert later.core("r0").executed == end + 9
    assert later.core("r0").status is ReplicaStatus.NORMAL


@pytest.mark.parametrize(("before", "after"), [(4, 7), (7, 4), (4, 10), (1, 4), (4, 1)])
def test_a_cluster_grows_and_shrinks(before: int, after: int) -> None:
    _, later = ended(before, next_genesis(after))
    assert later.cluster.quorums.replicas == after
    for name in later.names[: later.cluster.quorums.faults_max]:
        later.crash(name)
    later.ask(1, b"first")
    later.run(ticks=30)
    assert later.client_output.accepted
    check_safety(later, tuple(later.replicas))


def test_members_that_share_nothing_with_those_before() -> None:
    _, later = ended(4, next_genesis(["s0", "s1", "s2", "s3"]))
    later.ask_each(1, 3)
    assert len(later.client_output.accepted) == 3


def test_other_intervals_are_counted_from_the_end() -> None:
    _, later = ended(4, next_genesis(4, interval=5, window=10))
    end = later.cluster.begins_after
    later.ask_each(1, 7)
    later.run()
    assert later.core("r0").low == end + 5
    vote = later.checkpoint(10 * 5, bytes(32), 1)
    assert "not a multiple" in later.refuse("r0", vote)


def test_the_third_epoch() -> None:
    _, later = ended()
    later.ask_each(1, 2)
    change(later, 3, next_genesis(7))
    run_to_end(later)
    third = succeed(later, next_genesis(7))
    assert (third.cluster.epoch, third.cluster.lineage) == (2, later.cluster.lineage)
    third.ask(1, b"in epoch 2")
    third.run()
    assert third.client_output.accepted


def test_a_new_replica_without_the_state_of_now_fetches_it() -> None:
    """It has the state that the epoch began with, and the others are far ahead."""
    _, later = ended(4, next_genesis(7))
    later.crash("r6")
    later.ask_each(1, 12)
    later.run()
    later.start("r6")
    later.connect("r6")
    later.run(ticks=6)
    assert later.core("r6").executed == later.core("r0").executed


def test_a_view_changes_in_an_epoch_that_has_no_certificate_yet() -> None:
    _, later = ended()
    later.crash("r0")
    later.ask(1, b"without r0")
    later.run(ticks=20)
    assert later.client_output.accepted
    changes = [m.payload for m in later.sent if isinstance(m.payload, ViewChange)]
    assert {(c.stable, c.certificate) for c in changes} == {(later.cluster.begins_after, ())}


def test_a_view_change_from_below_the_epoch_is_refused() -> None:
    _, later = ended()
    message = ViewChange(1, later.cluster.begins_after - K, (), (), 1)
    assert "before this epoch" in later.refuse("r2", later.sign("r1", message))


# --- nothing of one epoch counts in another -------------------------------------------------------


def test_nothing_that_was_said_in_one_epoch_counts_in_another() -> None:
    """T24, T29, T32, T35: every kind of message, in both directions; the members are the same."""
    world = small()
    world.ask_each(1, 3)
    world.crash("r0")  # for a view change
    world.ask(4, b"without r0")
    world.run(ticks=20)
    world.start("r0")
    world.connect("r0")
    lose_disk(world, "r3")
    world.run(ticks=2)
    change(world, 5, next_genesis())
    run_to_end(world)
    later = succeed(world, next_genesis())
    later.ask_each(1, 6)
    kinds = set()
    for of, into in ((world, later), (later, world)):
        seen = set()
        for message in of.sent:
            kind = type(message.payload)
            if (kind, message.sender) in seen or message.sender == "r1":
                continue
            seen.add((kind, message.sender))
            if isinstance(message.payload, Request | NewView | ViewChange | Recover | FetchState):
                kinds.add(kind)
            picture = state_parts(into.core("r1"))
            output = into.give("r1", message.envelope.signed, message.envelope.body)
            assert state_parts(into.core("r1")) == picture
            assert not output.records
            assert not output.executed
    assert {Request, NewView, ViewChange, Recover} <= kinds


def test_a_removed_member_completes_no_quorum() -> None:
    """T29: r3 keeps its key and its name, and is no replica any more."""
    world, later = ended(4, next_genesis(["r0", "r1", "r2", "s3"]))
    later.crash("s3")
    later.crash("r2")
    later.ask(1, b"two of four")
    later.deliver()
    _, _, body = later.pre_prepare(later.cluster.begins_after + 1, [later.request(1, b"x")])
    for message in (
        Prepare(0, later.cluster.begins_after + 1, hashlib.sha256(body).digest(), 3),
        Commit(0, later.cluster.begins_after + 1, hashlib.sha256(body).digest(), 3),
        Checkpoint(later.cluster.begins_after + K, bytes(32), 3),
    ):
        for cluster in (world.cluster, later.cluster):
            forged = world.sign("r3", message, cluster)
            reason = later.refuse("r1", forged)
            assert reason == "the signer is not the replica that the message names"
    later.run(ticks=30)
    assert not later.client_output.accepted


def test_a_replica_does_not_begin_with_another_state() -> None:
    world, later = ended()
    parts = {
        **later.core("r0").checkpoints.stable_parts,
        "journal": msgspec.msgpack.encode((9, b"")),
    }
    with pytest.raises(AssertionError):
        World(begins=(later.cluster, parts))
    with pytest.raises(AssertionError):
        World(begins=(later.cluster, state_parts(world.core("r0")) | {"epoch": bytes(8)}))


def test_a_key_means_its_owner_in_each_epoch() -> None:
    """T32: r3 has another key in the next epoch, under its old name."""
    genesis = next_genesis()
    replaced = msgspec.structs.replace(genesis.replicas[3], public_key=public_key("new r3"))
    genesis = msgspec.structs.replace(genesis, replicas=(*genesis.replicas[:3], replaced))
    _, later = ended(4, genesis)
    status = Status(0, True, later.cluster.begins_after, later.cluster.begins_after, 3)
    assert later.refuse("r1", later.sign("r3", status)) == "bad signature"
