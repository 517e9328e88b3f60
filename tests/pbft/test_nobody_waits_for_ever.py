"""States in which correct replicas once stood still although at most f were faulty."""

from collections.abc import Callable, Mapping

import msgspec
import pytest

from pbft.certificates import state_leaves
from pbft.core import ReplicaStatus, Settings
from pbft.genesis import new_view_bytes
from pbft.log import RECOVER_NUMBER
from pbft.messages import (
    Body,
    Checkpoint,
    Commit,
    FetchState,
    NewView,
    PrePrepare,
    Recover,
    Signed,
    StateLeaves,
    StateParts,
    Status,
    ViewChange,
)
from pbft.ports import SavedRecovery
from pbft.state import Recovery
from tests.paper.test_recovery import execute, lose_disk, small
from tests.paper.test_state_transfer import behind
from tests.pbft.checks import check_safety
from tests.pbft.forge import certificate, proof, view_change
from tests.pbft.world import Journal, Message, World, WrongForAWhile, WrongOnce


def world_with(application: type[Journal]) -> World:
    """r3 has that application, and hears of the checkpoints 2 and 4 when it has executed 5."""
    world = World(
        checkpoint_interval=2,
        window=8,
        application=lambda name: application() if name == "r3" else Journal(),
    )
    for timestamp in range(1, 6):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: m.receiver != "r3" or not isinstance(m.payload, Checkpoint))
    held = [m for m in world.under_way if m.receiver == "r3"]
    world.drop(lambda m: m.receiver == "r3")
    assert world.executed() == dict.fromkeys(world.names, 5)
    for message in held:
        world.deliver_one(message)
    return world


# --- a wrong state ------------------------------------------------------------------------------


def test_a_wrong_state_is_repaired_from_the_newest_checkpoint_that_is_wrong_too() -> None:
    """Nobody keeps the state at which it was found to be wrong."""
    world = world_with(WrongOnce)
    assert world.emitted("r3", "diverged")
    assert world.core("r0").low == 4
    world.run(10)
    assert world.core("r3").status is ReplicaStatus.NORMAL
    assert world.applications["r3"].head == world.applications["r0"].head
    world.crash("r2")
    world.ask(6, b"6")
    world.run(10)
    assert world.executed() == {"r0": 6, "r1": 6, "r3": 6}


def test_a_state_that_is_right_again_is_diverged_no_more() -> None:
    world = world_with(WrongForAWhile)
    world.run(4)
    core = world.core("r3")
    assert (core.status, core.low, core.executed) == (ReplicaStatus.NORMAL, 4, 5)
    world.ask(6, b"6")
    world.run(4)
    assert set(world.executed().values()) == {6}


class WrongTwice(Journal):
    """Its state is wrong at the checkpoints 4 and 8, and right between them."""

    def parts(self) -> dict[str, bytes]:
        parts = super().parts()
        return {**parts, "journal": bytes(1) + parts["journal"]} if self.count in (4, 8) else parts


def test_a_wrong_state_is_not_repaired_from_below_the_stable_checkpoint() -> None:
    """The state that was fetched first comes when a later one has become stable."""
    world = World(
        checkpoint_interval=2,
        window=16,
        application=lambda name: WrongTwice() if name == "r3" else Journal(),
    )
    held: dict[int, list[Message]] = {}
    older: dict[str, bytes] = {}
    for timestamp in range(1, 10):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: m.receiver != "r3" or not isinstance(m.payload, Checkpoint))
        if world.core("r0").low == 4:
            older = world.core("r0").checkpoints.stable_parts
    for message in world.under_way:
        assert isinstance(message.payload, Checkpoint)
        held.setdefault(message.payload.sequence, []).append(message)
    world.under_way.clear()
    core = world.core("r3")
    for message in held[4]:
        world.deliver_one(message)
    world.handle_timer("r3", 1.0)
    assert core.transfers.current is not None
    assert core.transfers.current.certificate.sequence == 4
    for message in [*held[8], *held[6]]:
        world.deliver_one(message)
    assert (core.low, core.is_diverged) == (6, True)
    world.give("r3", world.sign("r2", StateLeaves(4, state_leaves(older), 2)))
    world.give("r3", world.sign("r2", StateParts(4, tuple(older.items()), 2)))
    assert core.low == 6
    world.under_way.clear()
    world.run(10)
    assert (core.status, core.low) == (ReplicaStatus.NORMAL, 8)
    assert world.applications["r3"].head == world.applications["r0"].head


# --- an old RECOVER -----------------------------------------------------------------------------


def old_recover_of_a_healthy_replica(world: World) -> Signed:
    """r3 lost its disk twice; its first RECOVER was ordered by nobody, and somebody kept it."""
    world.ask_each(1, 5)
    lose_disk(world, nonce=1)
    kept: list[Signed] = []
    for _ in range(2):
        world.tick()
        kept += [m.envelope.signed for m in world.under_way if isinstance(m.payload, Recover)]
        world.drop(lambda m: isinstance(m.payload, Recover))
        world.deliver(lambda m: not isinstance(m.payload, Recover))
        world.drop(lambda m: isinstance(m.payload, Recover))
    lose_disk(world, nonce=2)
    world.run(30)
    assert world.core("r3").status is ReplicaStatus.NORMAL
    assert world.core("r3").execution.recoveries[3].nonces == (bytes([2]) * 32,)
    return kept[0]


def test_an_old_recover_that_is_ordered_late_counts_for_nothing() -> None:
    """It names a checkpoint below the T of the recovery that counted since."""
    world = small()
    old = old_recover_of_a_healthy_replica(world)
    before = world.core("r1").execution.recoveries[3]
    assert "a RECOVER that is executed" in world.refuse("r1", old)
    number = world.executed()["r1"] + 1
    execute(world, number, [old])
    assert world.executed()["r1"] == number
    assert world.core("r1").execution.recoveries[3] == before


def test_a_t_that_an_older_version_fixed_late_makes_no_healthy_replica_mute() -> None:
    """There an old RECOVER could count. Until T is stable the primary stops, and all others are
    needed."""
    world = small()
    old_recover_of_a_healthy_replica(world)
    for name in world.names:
        core = world.core(name)
        core.execution.recoveries[3] = Recovery((bytes([1]) * 32,), core.executed + 6)
    primary = world.names[world.core("r1").primary]
    assert primary != "r3"
    assert world.core("r1").low < world.core("r1").execution.recoveries[3].voting_from
    world.crash(primary)
    world.ask(6, b"6")
    world.run(60)
    assert len(world.client_output.accepted) == 6
    assert world.said("r3", ViewChange)[-1].recovered > 0


def test_an_old_recover_of_the_primary_does_not_depose_it() -> None:
    """The backups time it and hand it on, whoever gave it to them: so the primary orders it."""
    world = small()
    world.ask_each(1, 5)
    old = world.sign("r0", Recover(bytes([9]) * 32, 0, world.core("r1").low))
    for name in ("r1", "r2", "r3"):
        world.give(name, old)
    world.run(20)
    assert {world.core(name).view for name in world.names} == {0}
    assert all(not world.core(name).recovery.requests for name in world.names)
    world.ask_each(6, 8)
    assert len(world.client_output.accepted) == 8


def test_a_recover_that_a_fetched_state_makes_superfluous_is_waited_for_no_more() -> None:
    """The others refuse it while an earlier one of the replica is under way."""
    world = behind()
    core = world.core("r3")
    core.recovery.requests = {2: world.sign("r2", Recover(bytes([2]) * 32, 2, 0))}
    for name in ("r0", "r1", "r2"):
        world.core(name).execution.recoveries[2] = Recovery((bytes([1]) * 32,), 1000)
    world.ask(10, b"10")
    world.ask(11, b"11")
    world.deliver()
    world.connect("r3")
    world.run(5)
    assert world.emitted("r3", "state_transferred")
    assert core.execution.recoveries[2].voting_from == 1000
    assert core.recovery.requests == {}


# --- VIEW-CHANGEs for a far view -----------------------------------------------------------------


@pytest.mark.parametrize(("replicas", "planted"), [(4, (3,)), (7, (5, 6))])
def test_who_once_asked_for_a_far_view_counts_in_the_next_one(
    replicas: int, planted: tuple[int, ...]
) -> None:
    """It was faulty then, and is needed now that others are away."""
    world = small(replicas)
    world.ask_each(1, 3)
    for index in planted:
        far = view_change(world, index, view=2**40)
        for name in world.names:
            if world.cluster.replica_index(name) != index:
                world.give(name, far)
    for index in range(len(planted)):
        world.crash(world.names[index])
    world.ask(4, b"4")
    world.run(30)
    assert len(world.client_output.accepted) == 4
    assert max(world.core(name).view for name in world.replicas) <= len(planted)


def test_a_recover_that_a_fetched_state_skips_is_no_longer_in_a_batch_under_way() -> None:
    """Else the next RECOVER of that replica would wait for another primary."""
    world = behind()
    core = world.core("r3")
    core.proposer.proposed = {("r2", RECOVER_NUMBER), ("client", 3)}
    world.connect("r3")
    world.run(5)
    assert world.emitted("r3", "state_transferred")
    assert core.proposer.proposed == set()


def test_who_forgot_that_it_has_recovered_votes_again_on_an_idle_cluster() -> None:
    """Its disk was set back, unnoticed, to before the last record of its recovery."""
    world = small()
    world.ask_each(1, 5)
    lose_disk(world)
    world.run(20)
    assert world.core("r3").status is ReplicaStatus.NORMAL
    world.crash("r3")
    records = world.disks["r3"].records
    assert records.count(SavedRecovery(b"")) == 1
    records.remove(SavedRecovery(b""))
    records.append(SavedRecovery(bytes([1]) * 32))
    world.start("r3")
    assert world.core("r3").status is ReplicaStatus.RECOVERING
    world.run(3)
    assert world.core("r3").status is ReplicaStatus.NORMAL


# --- a peer that feeds ----------------------------------------------------------------------------


def words_by_number(world: World) -> Mapping[int, list[tuple[Signed, bytes]]]:
    """What makes a replica execute each number, in the order in which it is taken in."""
    commits: dict[int, dict[str, tuple[Signed, bytes]]] = {}
    bodies: dict[int, tuple[Signed, bytes]] = {}
    checkpoints: dict[int, dict[str, tuple[Signed, bytes]]] = {}
    for message in world.sent:
        said, signed = message.payload, message.envelope.signed
        if isinstance(said, Commit):
            commits.setdefault(said.sequence, {})[signed.signer] = (signed, b"")
        elif isinstance(said, Checkpoint):
            checkpoints.setdefault(said.sequence, {})[signed.signer] = (signed, b"")
        elif isinstance(said, PrePrepare):
            body = world.sign("r2", Body(said.sequence, said.digest, 2))
            bodies[said.sequence] = (body, message.envelope.body)
    return {
        number: [*commits[number].values(), body, *checkpoints.get(number, {}).values()]
        for number, body in bodies.items()
    }


def test_a_peer_that_gives_one_old_number_a_second_keeps_nobody_from_the_state() -> None:
    """r2 votes no more, and makes r3 execute, slowly, what is collected everywhere else."""
    world = behind(60)
    archive = words_by_number(world)
    world.connect("r3")
    world.deliver()
    world.crash("r2")
    world.ask(61, b"61")
    for number in range(1, 6):
        for signed, body in archive[number]:
            world.give("r3", signed, body)
        assert world.executed()["r3"] == number or world.said("r3", FetchState)
        world.tick()
        world.deliver()
    assert world.said("r3", FetchState)
    world.run(10)
    assert world.executed() == {"r0": 61, "r1": 61, "r3": 61}


def test_a_peer_that_repeats_an_old_status_of_another_keeps_no_help_from_it() -> None:
    """r2 votes no more; what r0 and r1 re-send for the old STATUS, r3 has since long."""
    settings = Settings(resend_slots_max=2)
    world = World(checkpoint_interval=32, window=64, settings=settings)
    world.tick()
    old = next(m for m in world.sent if m.sender == "r3" and isinstance(m.payload, Status))
    world.run(1)
    for timestamp in range(1, 9):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: m.receiver != "r3")
    world.drop(lambda m: m.receiver == "r3")
    world.crash("r2")
    for _ in range(60):
        world.tick(settings.status_seconds / 2)
        for name in ("r0", "r1"):
            world.deliver_one(Message("r2", name, old.envelope))
        world.deliver()
    assert world.executed() == {"r0": 8, "r1": 8, "r3": 8}


# --- what is too large to be sent -----------------------------------------------------------------

# As many signed messages as a certificate may have when it is decoded.
COPIES = 512


def padded_prepared(world: World) -> Signed:
    """r3 says what it prepared, each PREPARE many times over."""
    good = certificate(world, 1, world.said("r0", PrePrepare)[0].digest)
    padded = msgspec.structs.replace(good, prepares=good.prepares * COPIES)
    return view_change(world, 3, prepared=[padded])


def padded_checkpoint(world: World) -> Signed:
    """r3 proves a checkpoint, by each replica many times over."""
    return view_change(world, 3, stable=8, stable_proof=proof(world, 8) * (COPIES // 2))


@pytest.mark.parametrize("padded", [padded_prepared, padded_checkpoint])
def test_a_padded_view_change_does_not_end_up_in_a_new_view(
    padded: Callable[[World], Signed],
) -> None:
    """With a window of these, nobody could decode the NEW-VIEW, again in each view; nor could its
    primary at its next start."""
    world = World()
    world.ask(1, b"prepared")
    world.deliver(lambda m: not isinstance(m.payload, Commit))
    world.drop(lambda m: True)
    lie = padded(world)
    assert len(lie.payload) > new_view_bytes(world.cluster.genesis, 1)
    world.crash("r3")
    for name in ("r0", "r1", "r2"):
        world.give(name, world.request(1, b"waits", "other"))
    # Nothing of the primary's comes through until the others have left.
    while not world.said("r2", ViewChange):
        world.tick()
        world.drop(lambda m: "r0" in (m.sender, m.receiver))
        world.deliver()
    assert "certificate" in world.refuse("r1", lie)
    assert world.said("r1", NewView) == []
    world.run(4)
    (message,) = world.said("r1", NewView)
    assert [signed.signer for signed in message.view_changes] == ["r1", "r0", "r2"]
    (sent, *_) = (m.envelope.signed for m in world.sent if isinstance(m.payload, NewView))
    assert len(sent.payload) <= new_view_bytes(world.cluster.genesis, world.cluster.genesis.window)
    assert set(world.executed().values()) == {2}
    world.crash("r1")
    world.start("r1")
    assert (world.core("r1").view, world.core("r1").executed) == (1, 2)
    check_safety(world, ("r0", "r1", "r2"))
