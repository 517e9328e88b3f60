"""A replica that lost what it had said (docs/PROTOCOL.md, "Recovery"; OSDI'00)."""

import pytest

from pbft.authentication import Identity
from pbft.certificates import state_leaves
from pbft.core import RECOVER_AGE_WINDOWS, ReplicaStatus, Settings
from pbft.log import NULL_REQUEST
from pbft.messages import (
    Checkpoint,
    Commit,
    FetchState,
    NewView,
    Prepare,
    PrePrepare,
    Recover,
    Signed,
    StateLeaves,
    StateParts,
    ViewChange,
)
from pbft.ports import CheckpointRecord, SavedRecovery
from pbft.replica import Replica
from tests.pbft.checks import check_safety
from tests.pbft.forge import new_view, view_change
from tests.pbft.world import Disk, Message, World, signer, verify

VOTES = (PrePrepare, Prepare, Commit, Checkpoint, ViewChange, NewView)


def small(replicas: int = 4) -> World:
    return World(
        replicas,
        checkpoint_interval=2,
        window=4,
        client_window=64,
        settings=Settings(view_change_seconds=4.0, view_change_seconds_max=16.0),
    )


def lose_disk(world: World, name: str = "r3", nonce: int = 1) -> None:
    """The disk is damaged: a new one, and the replica begins to recover."""
    if name in world.replicas:
        world.crash(name)
    entries = world.disks[name].entries
    world.disks[name] = Disk()
    world.disks[name].entries = list(entries)
    application = world.applications[name] = world.make_application(name)
    replica = Replica(
        Identity(world.cluster, name, signer(name)), verify, application, settings=world.settings
    )
    world.replicas[name] = replica
    world._take(name, replica.begin_recovery(bytes([nonce]) * 32, world.now))
    world.connect(name)


def votes(world: World, name: str, since: int = 0) -> list[object]:
    """What it signed and sent since then that counts for something."""
    return [
        m.payload
        for m in world.sent[since:]
        if m.envelope.signed.signer == name and m.sender == name and isinstance(m.payload, VOTES)
    ]


def recover(world: World, replica: int = 3, nonce: int = 1, stable: int = 0) -> Signed:
    return world.sign(world.names[replica], Recover(bytes([nonce]) * 32, replica, stable))


# --- the whole of it ----------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [4, 7])
def test_a_replica_that_lost_its_disk_recovers_on_an_idle_cluster(replicas: int) -> None:
    """RECOVER is ordered, null requests follow up to T, the state is fetched, it votes again."""
    world = small(replicas)
    world.ask_each(1, 5)
    name = world.names[-1]
    lose_disk(world, name)
    assert world.core(name).status is ReplicaStatus.RECOVERING
    world.run(20)
    core = world.core(name)
    assert core.status is ReplicaStatus.NORMAL
    # Executed at 6: T is the first multiple of 2 at or above 6 + 4.
    assert core.execution.recoveries[core.index].voting_from == 10
    assert core.low >= 10
    assert set(world.executed().values()) == {core.executed}
    assert world.emitted(name, "recovered") == [{"stable": 10}]
    since = len(world.sent)
    world.ask_each(6, 6)
    assert {type(vote) for vote in votes(world, name, since)} >= {Prepare, Commit}
    assert {replica.core.view for replica in world.replicas.values()} == {0}


def test_a_replica_recovers_under_load() -> None:
    """What clients ask fills the numbers up to T; nobody waits for null requests then."""
    world = small()
    world.ask_each(1, 5)
    lose_disk(world)
    for timestamp in range(6, 30):
        world.ask(timestamp, b"%d" % timestamp)
        world.run(1)
    assert world.core("r3").status is ReplicaStatus.NORMAL
    assert len(world.client_output.accepted) == 29
    assert set(world.executed().values()) == {world.core("r0").executed}


def test_it_votes_on_nothing_until_t_is_stable() -> None:
    """Whatever it may have said before, it says nothing that could contradict it."""
    world = small()
    world.ask_each(1, 5)
    lose_disk(world)
    since = len(world.sent)
    for _ in range(30):
        world.tick(0.25)
        world.deliver()
        if not world.core("r3").is_recovering:
            break
        assert votes(world, "r3", since) == []
        if world.now < 3:
            world.ask(len(world.client_output.accepted) + 1, b"x")
    assert world.core("r3").status is ReplicaStatus.NORMAL


def test_the_primary_of_the_view_that_lost_its_disk_is_replaced_and_recovers() -> None:
    """It proposes nothing; its RECOVER waits for a primary that orders it."""
    world = small()
    world.ask_each(1, 5)
    lose_disk(world, "r0")
    world.run(30)
    assert world.core("r0").status is ReplicaStatus.NORMAL
    assert {replica.core.view for replica in world.replicas.values()} == {1}
    world.ask_each(6, 8)
    assert len(world.client_output.accepted) == 8


def test_two_replicas_of_seven_lose_their_disks_at_once() -> None:
    """Up to f at a time; each one has its own T."""
    world = small(7)
    world.ask_each(1, 5)
    lose_disk(world, "r5", 1)
    lose_disk(world, "r6", 2)
    world.run(25)
    assert {r.core.status for r in world.replicas.values()} == {ReplicaStatus.NORMAL}
    assert set(world.executed().values()) == {world.core("r0").executed}


def test_one_after_the_other_loses_its_disk() -> None:
    """More than f over time, never more than f at once."""
    world = small()
    world.ask_each(1, 3)
    done = 3
    for nonce, name in enumerate(("r3", "r2", "r0", "r1", "r3"), 1):
        lose_disk(world, name, nonce)
        world.run(30)
        assert world.core(name).status is ReplicaStatus.NORMAL, name
        world.ask_each(done + 1, done + 2)
        world.run(2)
        done += 2
        assert len(world.client_output.accepted) == done
    assert len(set(world.executed().values())) == 1


def test_it_may_be_killed_again_and_again_while_it_recovers() -> None:
    """That it lost what it said is on its disk from the first turn on."""
    world = small()
    world.ask_each(1, 5)
    lose_disk(world)
    for _ in range(12):
        world.run(2)
        was_recovering = world.core("r3").is_recovering
        world.crash("r3")
        world.start("r3")
        assert world.core("r3").is_recovering == was_recovering
        world.connect("r3")
    world.run(10)
    assert world.core("r3").status is ReplicaStatus.NORMAL
    assert not any(isinstance(r, SavedRecovery) and r.nonce for r in world.disks["r3"].records[-1:])


def test_that_it_may_not_vote_is_on_disk_before_its_first_word() -> None:
    """Killed at once, it would otherwise start as one that has never said anything."""
    world = small()
    world.ask_each(1, 5)
    lose_disk(world)
    world.crash("r3")
    world.start("r3")
    assert world.core("r3").status is ReplicaStatus.RECOVERING
    assert not world.core("r3").is_voting


def test_it_loses_its_disk_again_while_it_recovers() -> None:
    """A new nonce; the first RECOVER counts for nothing any more."""
    world = small()
    world.ask_each(1, 5)
    lose_disk(world, nonce=1)
    world.run(3)
    lose_disk(world, nonce=2)
    world.run(40)
    assert world.core("r3").status is ReplicaStatus.NORMAL
    assert bytes([2]) * 32 in world.core("r3").execution.recoveries[3].nonces


def test_with_f_0_nobody_can_vouch_for_it() -> None:
    """It must not even begin."""
    world = World(3)
    replica = Replica(
        Identity(world.cluster, "r2", signer("r2")),
        verify,
        world.make_application("r2"),
        settings=world.settings,
    )
    with pytest.raises(AssertionError, match="with f = 0"):
        replica.begin_recovery(bytes(32), 0.0)


# --- RECOVER ------------------------------------------------------------------------------------


def execute(world: World, sequence: int, requests: list[Signed]) -> None:
    """Have a batch decided everywhere."""
    message, signed, body = world.pre_prepare(sequence, requests)
    for name in list(world.replicas):
        if name != "r0":
            world.give(name, signed, body)
        for replica in range(4):
            if world.names[replica] != name:
                world.give(name, world.commit(sequence, message.digest, replica))


def test_recover_refused_that_is_forged_or_of_another() -> None:
    """It is signed by the replica that it names."""
    world = small()
    good = recover(world)
    assert world.refuse("r1", Signed("r3", good.payload, bytes(64))) == "bad signature"
    assert "not the replica" in world.refuse("r1", world.sign("r2", Recover(bytes(32), 3, 0)))
    assert "not the replica" in world.refuse("r1", world.sign("client", Recover(bytes(32), 3, 0)))


def test_an_executed_recover_fixes_t_in_the_state_of_all() -> None:
    """The first checkpoint at least L above it, the same everywhere: it is part of the digest."""
    world = small()
    execute(world, 1, [recover(world)])
    for name in ("r1", "r2", "r3"):
        assert world.core(name).execution.recoveries[3].voting_from == 6
        assert world.emitted(name, "recover") == [{"replica": 3, "sequence": 1, "voting_from": 6}]


@pytest.mark.parametrize("nonce", [1, 2])
def test_one_recovery_at_a_time_per_replica(nonce: int) -> None:
    """The same again, or another one: refused, and where it is ordered without effect."""
    world = small()
    execute(world, 1, [recover(world)])
    again = recover(world, nonce=nonce)
    assert "executed, or while another one is under way" in world.refuse("r1", again)
    execute(world, 2, [again])
    assert world.executed()["r1"] == 2
    assert world.core("r1").execution.recoveries[3].voting_from == 6
    assert world.core("r1").execution.recoveries[3].nonces == (bytes([1]) * 32,)


def test_an_old_recover_that_is_sent_again_counts_for_nothing() -> None:
    """It names a checkpoint below its own T, so a recorded RECOVER opens nothing."""
    world = small()
    world.ask_each(1, 1)
    lose_disk(world)
    world.run(20)
    assert world.core("r3").status is ReplicaStatus.NORMAL
    before = world.core("r1").execution.recoveries[3]
    assert "a RECOVER that is executed" in world.refuse("r1", recover(world))
    for name in world.names[:3]:
        world.give(name, recover(world))
    world.run(4)
    assert world.core("r1").execution.recoveries[3] == before


def test_all_recovers_of_the_past_sent_again_for_ever_keep_nobody_mute() -> None:
    """However many there are: none counts a second time, and none is ordered."""
    world = small()
    for nonce in range(1, 18):
        world.ask_each(nonce, nonce)
        lose_disk(world, nonce=nonce)
        world.run(12)
        assert world.core("r3").status is ReplicaStatus.NORMAL, nonce
    past = {m.envelope.signed: None for m in world.sent if isinstance(m.payload, Recover)}
    assert len({signed.payload for signed in past}) >= 17
    lose_disk(world, nonce=18)
    rounds = 0
    while world.core("r3").is_recovering:
        rounds += 1
        assert rounds < 20, "r3 stays mute"
        for signed in past:
            for name in world.names[:3]:
                world.give(name, signed)
        world.deliver()
        world.tick()
        world.deliver()
    executed = world.core("r0").executed
    for signed in past:
        for name in world.names[:3]:
            assert "RECOVER" in world.refuse(name, signed)
    world.run(4)
    assert world.core("r0").executed == executed, "no null requests are owed any more"
    check_safety(world)


def test_a_recover_of_an_old_loss_that_nobody_ordered_grows_too_old() -> None:
    """It counts for RECOVER_AGE_WINDOWS windows above its checkpoint, for all replicas alike."""
    world = small()
    oldest = RECOVER_AGE_WINDOWS * world.cluster.genesis.window
    world.ask_each(1, oldest - 1)
    assert world.executed()["r1"] == oldest - 1
    world.give("r1", recover(world))
    assert set(world.core("r1").recovery.requests) == {3}
    # The primary, which was not given it, orders something else: nobody may wait for it any more.
    world.ask_each(oldest, oldest)
    assert world.core("r1").recovery.requests == {}
    assert "too far below" in world.refuse("r1", recover(world))
    execute(world, oldest + 1, [recover(world)])
    assert world.executed()["r1"] == oldest + 1
    assert world.core("r1").execution.recoveries == {}
    assert {world.core(name).view for name in world.names} == {0}


def test_a_recover_counts_until_its_last_number() -> None:
    world = small()
    oldest = RECOVER_AGE_WINDOWS * world.cluster.genesis.window
    world.ask_each(1, oldest - 1)
    execute(world, oldest, [recover(world)])
    assert world.core("r1").execution.recoveries[3].voting_from == oldest + 4


def test_a_recover_that_names_a_checkpoint_of_the_future_counts_for_nothing() -> None:
    """A faulty one could keep it in store, and it would never be too old."""
    world = small()
    early = recover(world, stable=2)
    assert "above all that is executed" in world.refuse("r1", early)
    execute(world, 1, [early])
    assert world.executed()["r1"] == 1
    assert world.core("r1").execution.recoveries == {}


def test_who_lost_its_disk_names_the_checkpoint_that_the_others_prove_to_it() -> None:
    """An old certificate, with its state, keeps it from that no longer than until the next one."""
    world = small()
    world.ask_each(1, 4)
    old = world.core("r0").checkpoints.stable
    parts = world.core("r0").checkpoints.stable_parts
    world.ask_each(5, 60)
    lose_disk(world)
    for signed in old.checkpoints:
        world.give("r3", signed)
    world.handle_timer("r3", 1.0)
    assert world.said("r3", FetchState)[-1].sequence == 4
    world.give("r3", world.sign("r2", StateLeaves(4, state_leaves(parts), 2)))
    world.give("r3", world.sign("r2", StateParts(4, tuple(parts.items()), 2)))
    assert world.core("r3").low == 4
    assert world.said("r3", Recover)[-1].stable == 4
    world.run(12)
    assert world.core("r3").status is ReplicaStatus.NORMAL
    named = [message.stable for message in world.said("r3", Recover)]
    assert named == sorted(named)
    assert world.core("r0").execution.recoveries[3].voting_from == 66, (
        "ordered at 61, and not before"
    )


def test_one_recover_per_replica_is_kept_however_many_it_sends() -> None:
    """Bounded; and the null requests end at T."""
    world = small()
    for nonce in range(50):
        world.give("r1", recover(world, nonce=nonce))
    assert len(world.core("r1").recovery.requests) == 1


def test_null_requests_end_at_t() -> None:
    """Idle again: nothing is ordered any more."""
    world = small()
    world.ask_each(1, 1)
    lose_disk(world)
    world.run(30)
    executed = world.core("r0").executed
    assert executed == 6, "RECOVER at 2, T = 6"
    world.run(10)
    assert world.core("r0").executed == executed


def test_a_replica_that_recovers_again_and_again_costs_null_requests_at_a_bounded_rate() -> None:
    """A faulty one asks anew as soon as its T is there; nobody else asks for anything."""
    world = small()
    pause = world.settings.null_seconds
    for nonce in range(1, 101):
        for name in world.names[:3]:
            world.give(name, recover(world, nonce=nonce, stable=world.core("r0").low))
        world.deliver()
        world.tick(pause)
        world.deliver()
    executed = world.core("r0").executed
    recoveries = executed // (world.cluster.genesis.window + 1) + 1
    assert 50 < executed <= 100 + recoveries
    check_safety(world)


def test_owed_null_requests_come_one_after_the_other_by_the_clock() -> None:
    """The deadline says when the next one is due, so that no turn is waited for."""
    world = small()
    pause = world.settings.null_seconds
    world.give("r0", recover(world))
    world.deliver()
    numbers = [message.sequence for message in world.said("r0", PrePrepare)]
    assert numbers == [1, 2], "the RECOVER, and the first null request at once"
    assert world.outputs["r0"][-1].deadline == pytest.approx(world.now + pause)
    for last in (3, 4, 5, 6):
        world.handle_timer("r0", pause / 2)
        assert world.said("r0", PrePrepare)[-1].sequence == last - 1
        world.handle_timer("r0", pause / 2)
        assert world.said("r0", PrePrepare)[-1].sequence == last
    # Four are in flight: only what is executed makes room, so there is nothing to wait for.
    assert world.outputs["r0"][-1].deadline == pytest.approx(world.core("r0").peers.status_due)


# --- what it said before ------------------------------------------------------------------------


def recovered_elsewhere(world: World) -> None:
    """r3's RECOVER is executed at 1, so T is 6."""
    execute(world, 1, [recover(world)])
    world.under_way.clear()


def test_its_older_view_changes_are_void() -> None:
    """Whoever executed s takes no VIEW-CHANGE of it whose checkpoint is below T."""
    world = small()
    recovered_elsewhere(world)
    old = view_change(world, 3, 5)
    assert "before the replica's recovery" in world.refuse("r1", old)
    changes = [old, view_change(world, 0, 5), view_change(world, 2, 5)]
    assert "before the replica's recovery" in world.refuse("r2", new_view(world, 5, changes))


def test_an_older_view_change_that_is_stored_already_is_forgotten() -> None:
    """T5: it must be neither in a NEW-VIEW of ours, nor in the way of its new one, nor a proof."""
    world = small()
    old = view_change(world, 3, 5)
    world.give("r1", old)
    recovered_elsewhere(world)
    assert 3 not in world.core("r1").views.changes
    for replica in (0, 2):
        world.give("r1", view_change(world, replica, 5))
    assert world.core("r1").view == 5
    assert [[s.signer for s in message.view_changes] for message in world.said("r1", NewView)] == [
        ["r1", "r0", "r2"]
    ]
    assert world.emitted("r1", "equivocation") == []


def test_a_view_that_began_before_is_entered_all_the_same() -> None:
    """T6: its NEW-VIEW holds the VIEW-CHANGE of the replica that lost its disk later."""
    world = small()
    world.ask_each(1, 1)
    for name in ("r1", "r3"):
        world.give(name, world.request(2, b"2"))
        world.handle_timer(name, 4.0)
    world.deliver(lambda m: m.receiver in ("r0", "r1"))
    (message,) = world.said("r1", NewView)
    assert {signed.signer for signed in message.view_changes} == {"r0", "r1", "r3"}
    world.run(3)
    assert {replica.core.view for replica in world.replicas.values()} == {1}

    def is_new_view_for_r3(message: Message) -> bool:
        return message.receiver == "r3" and isinstance(message.payload, NewView)

    lose_disk(world)
    for _ in range(20):
        world.tick()
        world.drop(is_new_view_for_r3)
        world.deliver(lambda m: not is_new_view_for_r3(m))
    assert world.core("r3").executed >= 6
    world.run(8)
    core = world.core("r3")
    assert (core.status, core.view, core.has_entered) == (ReplicaStatus.NORMAL, 1, True)


def test_the_recovering_replica_joins_no_view_change_and_begins_none() -> None:
    """It asks for nothing; the others' views it follows by their NEW-VIEW."""
    world = small()
    lose_disk(world)
    world.under_way.clear()
    for replica in (0, 1, 2):
        world.give("r3", view_change(world, replica, 3))
    world.give("r3", world.request(1, b"x"))
    for _ in range(10):
        world.handle_timer("r3", 4.0)
    assert world.said("r3", ViewChange) == []
    assert world.said("r3", NewView) == []
    changes = [view_change(world, i, 1) for i in (0, 1, 2)]
    world.give("r3", new_view(world, 1, changes))
    assert (world.core("r3").view, world.core("r3").has_entered) == (1, True)


def test_a_base_keeps_the_recovery() -> None:
    """A new generation of records says that it is still recovering."""
    world = small()
    world.ask_each(1, 9)
    lose_disk(world)

    def is_not_recover(message: Message) -> bool:
        return not isinstance(message.payload, Recover)

    for _ in range(5):
        world.tick()
        world.drop(lambda m: not is_not_recover(m))
        world.deliver(is_not_recover)
    assert world.core("r3").low == 8
    records = world.disks["r3"].records
    assert isinstance(records[0], CheckpointRecord)
    assert SavedRecovery(bytes([1]) * 32) in records
    world.crash("r3")
    world.start("r3")
    assert world.core("r3").status is ReplicaStatus.RECOVERING


def test_safety_over_everything_it_said_before_and_after() -> None:
    """Its words of both lives together contradict nothing, phase by phase."""
    world = small()
    world.ask_each(1, 5)
    lose_disk(world)
    world.run(12)
    world.ask_each(6, 12)
    world.run(4)
    assert set(world.executed().values()) == {world.core("r0").executed}
    check_safety(world)


# --- what it waits for is timed -----------------------------------------------------------------


def test_a_recovery_is_not_censored_by_serving_others() -> None:
    """T1: the primary orders every request, and never the RECOVER of r3."""
    world = small()
    world.give("r1", recover(world))
    for timestamp in range(1, 5):
        world.give("r1", world.request(timestamp, b"%d" % timestamp))
        execute(world, timestamp, [world.request(timestamp, b"%d" % timestamp)])
        for _ in range(4):
            world.handle_timer("r1", 0.25)
    assert world.executed()["r1"] >= 3
    assert [message.view for message in world.said("r1", ViewChange)] == [1]


def test_null_requests_that_a_recovery_waits_for_are_timed() -> None:
    """A primary that orders the RECOVER and then nothing is deposed, also without clients."""
    world = small()
    execute(world, 1, [recover(world)])
    for _ in range(15):
        world.handle_timer("r1", 0.25)
    assert world.said("r1", ViewChange) == []
    world.handle_timer("r1", 0.25)
    assert [message.view for message in world.said("r1", ViewChange)] == [1]


def test_null_requests_that_come_slowly_are_not_waited_for_for_ever() -> None:
    """Almost the whole timeout for each of them is 25 minutes with the default window."""
    world = World(checkpoint_interval=8, window=64, settings=Settings(view_change_seconds=4.0))
    execute(world, 1, [recover(world)])
    number = 1
    while not world.said("r1", ViewChange):
        number += 1
        assert number < 14, "it waits for each null request alone"
        world.handle_timer("r1", 3.5)
        for replica in (0, 2, 3):
            world.give("r1", world.commit(number, NULL_REQUEST, replica))
    assert world.core("r1").executed >= 8, "8 times what a request may take, and their pace"


def test_null_requests_at_their_pace_depose_nobody() -> None:
    """Also in a large window, and with a timeout that they take many times."""
    settings = Settings(view_change_seconds=0.5, null_seconds=0.05, status_seconds=0.1)
    world = World(checkpoint_interval=8, window=200, settings=settings)
    for name in world.names[:3]:
        world.give(name, recover(world))
    world.deliver()
    while world.core("r1").executed < 201:
        world.tick(0.05)
        world.deliver()
        assert world.now < 15
    assert world.now > 8 * settings.view_change_seconds
    assert {world.core(name).view for name in world.names} == {0}
