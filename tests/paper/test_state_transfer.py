"""OSDI'99, section 4.3 (last paragraph), docs/PROTOCOL.md, "State transfer": fetching a state."""

import pytest

from pbft.certificates import leaves_digest
from pbft.checkpoint import state_parts
from pbft.codec import digest_of
from pbft.core import ReplicaStatus, Settings
from pbft.messages import (
    Checkpoint,
    Commit,
    Envelope,
    FetchState,
    Prepare,
    Replies,
    StateLeaves,
    StateParts,
    ViewChange,
)
from pbft.ports import CheckpointRecord
from tests.pbft.checks import check_safety
from tests.pbft.forge import drive_into_view_change
from tests.pbft.world import Journal, Message, World

FALSE = bytes(31) + b"\x01"


class WithParts(Journal):
    """A state of many parts, most of them empty."""

    def parts(self) -> dict[str, bytes]:
        cells = {
            f"cell/{n:03}": self.head + bytes([n % 7]) if n < self.count else b""
            for n in range(600)
        }
        return {**super().parts(), **cells}


def behind(
    requests: int = 9, application: type[Journal] = Journal, client_window: int = 64
) -> World:
    """r3 slept while the others made checkpoints and forgot the messages below them."""
    world = World(
        checkpoint_interval=2,
        window=4,
        client_window=client_window,
        application=lambda name: application(),
    )
    world.crash("r3")
    for timestamp in range(1, requests + 1):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    world.under_way.clear()
    world.start("r3")
    return world


def hears_certificate(world: World, name: str = "r3") -> None:
    for signed in world.core("r0").checkpoints.stable.checkpoints:
        world.give(name, signed)


def is_state(message: Message) -> bool:
    return isinstance(message.payload, StateLeaves | StateParts)


def fetching(world: World) -> None:
    """r3 knows of the certificate and has asked for the leaves."""
    hears_certificate(world)
    for _ in range(2):
        world.handle_timer("r3", 1.0)
    assert world.core("r3").status is ReplicaStatus.STATE_TRANSFER


def leaves_of(world: World, name: str = "r0") -> tuple[tuple[str, bytes], ...]:
    parts = world.core(name).checkpoints.stable_parts
    return tuple((part, digest_of(parts[part])) for part in sorted(parts))


# --- the whole of it ----------------------------------------------------------------------------


def test_a_replica_that_was_away_for_windows_comes_back_with_the_state() -> None:
    """4.3: what its peers have collected it cannot get as messages any more."""
    world = behind()
    world.connect("r3")
    world.run(4)
    assert set(world.executed().values()) == {9}
    assert world.emitted("r3", "state_transferred") == [{"sequence": 8, "executed": 0}]
    assert world.core("r3").low == 8
    assert world.applications["r3"].head == world.applications["r0"].head
    assert state_parts(world.core("r3")) == state_parts(world.core("r0"))
    world.ask(10, b"10")
    world.run(1)
    assert Prepare(0, 10, world.said("r3", Prepare)[-1].digest, 3) in world.said("r3", Prepare)
    check_safety(world)


def test_nothing_is_called_forgotten_in_the_turn_that_adopts_a_state() -> None:
    """Of what was decided meanwhile the ledger knows not even the gap, before it is saved."""
    world = behind(client_window=2)
    world.connect("r3")
    for _ in range(4):
        world.deliver(lambda m: not isinstance(m.payload, StateParts))
        world.tick()
    parts = [m for m in world.under_way if isinstance(m.payload, StateParts)]
    again = Message("client", "r3", Envelope(world.request(1, b"1")))
    world.deliver_together([*parts, again])
    assert world.emitted("r3", "state_transferred")
    assert "not saved yet" in world.refusals("r3")[-1]
    assert world.said("r3", Replies) == []
    world.deliver_one(again)
    assert [reply.kind for said in world.said("r3", Replies) for reply in said.replies] == ["used"]


def test_the_fetched_state_is_a_new_base_on_disk() -> None:
    """And a restart begins there."""
    world = behind()
    world.connect("r3")
    world.run(4)
    record = world.disks["r3"].records[0]
    assert isinstance(record, CheckpointRecord)
    assert (record.sequence, record.parts) == (8, world.core("r0").checkpoints.stable_parts)
    world.crash("r3")
    world.start("r3")
    assert world.executed()["r3"] == 9
    assert world.core("r3").low == 8
    check_safety(world)


def test_an_idle_cluster_brings_a_new_replica_up_to_date() -> None:
    """Nobody asks anything while it catches up."""
    world = behind(8)
    world.connect("r3")
    for _ in range(4):
        world.run(1)
    assert world.executed()["r3"] == 8
    assert world.core("r3").status is ReplicaStatus.NORMAL


def test_who_alone_has_a_certificate_gets_that_state_of_those_that_lack_it() -> None:
    """r1's CHECKPOINT came to r3 alone, and r1 is gone: nobody else can make that state stable."""
    world = behind(5)
    world.ask(6, b"6")
    world.deliver(lambda m: not (isinstance(m.payload, Checkpoint) and m.payload.sequence == 6))
    world.drop(lambda message: True)
    last_words = world.sign("r1", world.said("r1", Checkpoint)[-1])
    world.crash("r1")
    assert {world.core(name).low for name in ("r0", "r2")} == {4}
    world.give("r3", last_words)
    world.connect("r3")
    world.run(4)
    assert world.emitted("r3", "state_transferred") == [{"sequence": 6, "executed": 0}]
    world.ask(7, b"7")
    world.ask(8, b"8")
    world.run(2)
    assert world.executed() == {"r0": 8, "r2": 8, "r3": 8}
    assert {core.low for core in map(world.core, ("r0", "r2", "r3"))} == {8}
    check_safety(world)


def test_a_replica_comes_back_while_the_others_go_on() -> None:
    """Checkpoints move on while it fetches; it is not chasing them for ever."""
    world = behind(9, WithParts)
    world.connect("r3")
    for timestamp in range(10, 40):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
        if timestamp % 3 == 0:
            world.tick(0.5)
    world.run(4)
    assert set(world.executed().values()) == {39}
    assert len(world.client_output.accepted) == 39
    check_safety(world)


def test_f_of_seven_that_were_away_catch_up_at_once() -> None:
    """Two at once; they lost nothing but time."""
    world = World(7, checkpoint_interval=2, window=4, client_window=64)
    for name in ("r5", "r6"):
        world.crash(name)
    for timestamp in range(1, 10):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    for name in ("r5", "r6"):
        world.start(name)
        world.connect(name)
    world.run(5)
    assert set(world.executed().values()) == {9}


# --- when it begins -----------------------------------------------------------------------------


def test_no_state_is_fetched_without_a_certificate() -> None:
    """docs/TRAPS.md 11: f faulty replicas' newer checkpoint is no reason."""
    world = behind()
    for sequence in (8, 100):
        world.give("r3", world.checkpoint(sequence, FALSE, 0))
        world.give("r3", world.checkpoint(sequence, FALSE, 1))
    for _ in range(5):
        world.handle_timer("r3", 1.0)
    assert world.said("r3", FetchState) == []


def test_a_replica_that_still_makes_progress_fetches_nothing() -> None:
    """A certificate above one's execution is no rare thing."""
    world = World(checkpoint_interval=8, window=16)
    for timestamp in range(1, 9):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: m.receiver != "r3")
    held = [m for m in world.under_way if m.receiver == "r3"]
    world.under_way.clear()
    hears_certificate(world)
    assert world.core("r3").checkpoints.certified.sequence == 8
    for message in held:
        world.deliver_one(message)
        world.handle_timer("r3", 0.02)
    assert world.executed()["r3"] == 8
    assert world.said("r3", FetchState) == []


def test_a_replica_that_stands_still_below_a_certificate_asks_for_the_leaves() -> None:
    """At the second STATUS without progress."""
    world = behind()
    fetching(world)
    assert world.said("r3", FetchState) == [FetchState(8, (), 3)]
    assert world.emitted("r3", "state_transfer") == [{"sequence": 8, "executed": 0}]


# --- serving ------------------------------------------------------------------------------------


def test_only_a_state_that_is_kept_is_served_and_only_to_replicas() -> None:
    """An older one is forgotten, between checkpoints none is kept; a forged request is refused."""
    world = behind()
    for sequence in (6, 9, 10):
        asked = world.sign("r3", FetchState(sequence, (), 3))
        assert world.give("r0", asked).messages == []
    forged = world.sign("client", FetchState(8, (), 3))
    assert "not the replica" in world.refuse("r0", forged)
    output = world.give("r0", world.sign("r3", FetchState(8, (), 3)))
    (send,) = output.messages
    assert send.to == "r3"
    (leaves,) = world.said("r0", StateLeaves)
    assert leaves == StateLeaves(8, leaves_of(world), 0)
    assert leaves_digest(leaves.leaves) == world.core("r1").checkpoints.stable.digest


def test_parts_are_served_by_name_once_each_in_bounded_messages() -> None:
    """Unknown names are left out, a name that comes twice is sent once."""
    world = behind(9, WithParts)
    names = ("journal", "journal", "unknown", "epoch")
    world.give("r0", world.sign("r3", FetchState(8, names, 3)))
    (parts,) = world.said("r0", StateParts)
    assert [name for name, _ in parts.parts] == ["journal", "epoch"]


# --- what is not believed -----------------------------------------------------------------------


def test_leaves_are_refused_whose_root_is_not_the_certified_digest() -> None:
    """Whoever sends them: one false leaf, one too many, one too few, another order."""
    world = behind()
    fetching(world)
    good = leaves_of(world)
    for wrong in (
        (),
        good[1:],
        good[::-1],
        (*good, ("more", FALSE)),
        ((good[0][0], FALSE), *good[1:]),
    ):
        signed = world.sign("r1", StateLeaves(8, wrong, 1))
        assert "not the certified digest" in world.refuse("r3", signed)
    world.give("r3", world.sign("r1", StateLeaves(8, good, 1)))
    asked = world.said("r3", FetchState)[-1]
    assert set(asked.names) == {"client/client", "journal"}


@pytest.mark.parametrize("kind", [StateLeaves, StateParts])
def test_what_was_not_asked_for_is_refused(kind: type) -> None:
    """Nothing is fetched, or another state, or the leaves are not here yet."""
    world = behind()
    unasked = world.sign("r1", kind(8, (), 1))
    assert "not being fetched" in world.refuse("r3", unasked)
    fetching(world)
    assert "not being fetched" in world.refuse("r3", world.sign("r1", kind(6, (), 1)))
    if kind is StateParts:
        assert "before the leaves" in world.refuse("r3", unasked)


def test_a_false_part_is_refused_and_a_true_one_beside_it_is_taken() -> None:
    """Each part is checked alone; the liar is not asked for ever."""
    world = behind()
    fetching(world)
    world.give("r3", world.sign("r1", StateLeaves(8, leaves_of(world), 1)))
    true = world.core("r0").checkpoints.stable_parts
    false = (("journal", b"false"), ("unknown", b""), ("client/client", true["client/client"]))
    world.give("r3", world.sign("r1", StateParts(8, false, 1)))
    assert "2 parts of the state" in world.refusals("r3")[-1]
    transfer = world.core("r3").transfers.current
    assert transfer is not None
    assert "client/client" in transfer.parts
    assert "journal" not in transfer.parts
    assert world.executed()["r3"] == 0
    world.give("r3", world.sign("r2", StateParts(8, (("journal", true["journal"]),), 2)))
    assert world.executed()["r3"] == 8
    assert world.applications["r3"].parts()["journal"] == true["journal"]


def test_a_lying_peer_does_not_keep_a_replica_from_its_state() -> None:
    """r0 answers every question with lies; the next peer is asked after it."""
    world = behind(9, WithParts)
    hears_certificate(world)
    for _ in range(12):
        world.tick()
        lies = [m for m in world.under_way if is_state(m) and m.sender == "r0"]
        world.drop(lambda m: is_state(m) and m.sender == "r0")
        for lie in lies:
            if isinstance(lie.payload, StateParts):
                false = tuple((name, data + b"!") for name, data in lie.payload.parts)
                world.give("r3", world.sign("r0", StateParts(8, false, 0)))
        world.deliver(lambda m: not (is_state(m) and m.sender == "r0"))
    assert world.executed()["r3"] == 9


def test_parts_that_did_not_change_do_not_travel() -> None:
    """A replica that has most of the state asks for the rest only."""
    world = behind(9, WithParts)
    fetching(world)
    world.give("r3", world.sign("r1", StateLeaves(8, leaves_of(world), 1)))
    asked = [name for m in world.said("r3", FetchState) for name in m.names]
    assert "epoch" not in asked
    assert "recoveries" not in asked
    assert "cell/599" not in asked, "empty here and there"
    assert "cell/001" in asked
    assert "journal" in asked


# --- at the same time ---------------------------------------------------------------------------


def test_a_state_is_not_adopted_once_the_replica_came_further_by_itself() -> None:
    """F1: COMMITs arrive while the last parts are under way; what is executed stays executed."""
    world = World(checkpoint_interval=2, window=8, client_window=64)
    for timestamp in (1, 2):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: m.receiver != "r3")
    held = [m for m in world.under_way if m.receiver == "r3"]
    world.under_way.clear()
    fetching(world)
    world.deliver(lambda m: isinstance(m.payload, FetchState | StateLeaves))
    parts = [m for m in world.under_way if isinstance(m.payload, StateParts)]
    assert parts
    world.under_way.clear()
    for message in held:
        world.deliver_one(message)
    world.ask(3, b"3")
    world.deliver()
    assert world.executed()["r3"] == 3
    for message in parts:
        world.deliver_one(message)
    assert world.executed()["r3"] == 3
    assert world.emitted("r3", "state_transferred") == []
    assert world.core("r3").transfers.current is None
    check_safety(world)


def test_trap_17_state_transfer_during_a_view_change() -> None:
    """It goes on in its view change with the newer state, and enters with the others."""
    world = behind()
    drive_into_view_change(world, "r3", 1)
    hears_certificate(world)
    for _ in range(3):
        world.handle_timer("r3", 1.0)
        world.deliver(
            lambda m: isinstance(m.payload, FetchState | StateLeaves | StateParts | Commit)
        )
    assert world.executed()["r3"] >= 8
    assert (world.core("r3").view, world.core("r3").has_entered) == (1, False)
    assert world.core("r3").status is ReplicaStatus.VIEW_CHANGE
    sequences = [e.sequence for output in world.outputs["r3"] for e in output.executed]
    assert len(sequences) == len(set(sequences)), "nothing twice"
    world.crash("r0")
    world.ask(10, b"10")
    world.run(14)
    assert len(world.client_output.accepted) == 10
    assert world.core("r3").has_entered
    assert set(world.executed().values()) == {10}
    check_safety(world)


def test_a_view_change_of_a_replica_with_a_fetched_state_proves_that_state() -> None:
    """What it reports is at or above the checkpoint that it adopted."""
    world = behind()
    world.connect("r3")
    world.run(4)
    world.under_way.clear()
    drive_into_view_change(world, "r3", 1)
    (message,) = world.said("r3", ViewChange)
    assert message.stable == 8
    assert {type(world.core("r0").authenticator.read(s)) for s in message.certificate} == {
        Checkpoint
    }


def test_requests_that_the_fetched_state_has_executed_are_pending_no_more() -> None:
    """No timer runs for them, and nothing is proposed again."""
    world = World(
        checkpoint_interval=2,
        window=4,
        client_window=64,
        settings=Settings(view_change_seconds=4.0),
    )
    for timestamp in range(1, 10):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: m.receiver != "r3" or m.sender == "client")
    world.drop(lambda m: m.receiver == "r3")
    assert len(world.core("r3").pending) > 0
    fetching(world)
    world.run(4)
    assert set(world.executed().values()) == {9}
    assert len(world.core("r3").pending) == 0
    world.run(12)
    assert {replica.core.view for replica in world.replicas.values()} == {0}
