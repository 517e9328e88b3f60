"""OSDI'99, section 4.3, "Garbage Collection": checkpoints, stable ones, and the water marks."""

import pytest

from pbft.certificates import state_digest
from pbft.checkpoint import state_parts
from pbft.core import ReplicaStatus
from pbft.messages import (
    Checkpoint,
    Prepare,
    PrePrepare,
    Request,
    Signed,
    StateLeaves,
    StateParts,
)
from pbft.ports import Applied, CheckpointRecord, SavedMessage
from tests.pbft.checks import check_safety
from tests.pbft.world import Journal, Message, World

FALSE = bytes(31) + b"\x01"


def is_checkpoint(message: Message) -> bool:
    return isinstance(message.payload, Checkpoint)


def is_no_checkpoint(message: Message) -> bool:
    return not is_checkpoint(message)


def small(replicas: int = 4) -> World:
    return World(replicas, checkpoint_interval=2, window=4)


def own_digest(world: World, name: str, sequence: int) -> bytes:
    return world.replicas[name].core.checkpoints.snapshots[sequence][0]


class Wrong(Journal):
    """An application that goes wrong at its second operation."""

    def apply(self, request: Request, request_digest: bytes, sequence: int) -> Applied:
        applied = super().apply(request, request_digest, sequence)
        if self.count == 2:
            self.head = FALSE
        return applied


def world_with_a_wrong_replica() -> World:
    def application(name: str) -> Journal:
        return Wrong() if name == "r3" else Journal()

    return World(checkpoint_interval=2, window=4, application=application)


# --- taking a checkpoint ------------------------------------------------------------------------


def test_a_checkpoint_is_taken_at_every_multiple_of_k_and_nowhere_else() -> None:
    """Checkpoints are made when a number divisible by some constant is executed."""
    world = World(checkpoint_interval=3, window=6)
    world.ask_each(1, 10)
    for index, name in enumerate(world.names):
        said = world.said(name, Checkpoint)
        assert [(m.sequence, m.replica) for m in said] == [(3, index), (6, index), (9, index)]


def test_the_checkpoint_has_the_digest_of_the_state_after_that_number() -> None:
    """<CHECKPOINT, n, d, i>: d is the digest of the state that reflects all up to n."""
    world = small()
    world.ask_each(1, 2, is_no_checkpoint)
    parts = state_parts(world.replicas["r1"].core)
    assert world.said("r1", Checkpoint)[0].digest == state_digest(parts)
    assert {m.digest for name in world.names for m in world.said(name, Checkpoint)} == {
        state_digest(parts)
    }
    world.ask_each(3, 3, is_no_checkpoint)
    assert own_digest(world, "r1", 2) == state_digest(parts)


def test_the_checkpoint_is_saved_before_it_is_sent() -> None:
    """What is said is on disk first."""
    world = small()
    world.ask_each(1, 2, is_no_checkpoint)
    saved = [r.signed for r in world.disks["r1"].records if isinstance(r, SavedMessage)]
    assert world.checkpoint(2, own_digest(world, "r1", 2), 1) in saved


def test_the_state_is_the_epoch_the_clients_and_the_application() -> None:
    """4.3: the state includes what at-most-once needs, the last replies."""
    world = small()
    world.ask_each(1, 1)
    parts = state_parts(world.replicas["r1"].core)
    assert sorted(parts) == ["client/client", "epoch", "journal", "recoveries"]


# --- CHECKPOINT messages ------------------------------------------------------------------------


def test_checkpoint_refused_with_a_bad_signature() -> None:
    """All messages are signed."""
    world = small()
    signed = world.checkpoint(2, FALSE, 2)
    assert world.refuse("r1", Signed("r2", signed.payload, bytes(64))) == "bad signature"


def test_checkpoint_refused_that_names_another_replica() -> None:
    """i is the one who signed it."""
    world = small()
    signed = world.sign("r2", Checkpoint(2, FALSE, 3))
    assert "not the replica" in world.refuse("r1", signed)
    assert world.refuse("r1", Signed("r3", signed.payload, signed.signature)) == "bad signature"


@pytest.mark.parametrize("sequence", [1, 3, 2**62 - 1])
def test_checkpoint_refused_between_the_multiples(sequence: int) -> None:
    """n is divisible by K."""
    world = small()
    assert "not a multiple" in world.refuse("r1", world.checkpoint(sequence, FALSE, 2))


@pytest.mark.parametrize("sequence", [0, 2])
def test_checkpoint_refused_at_or_below_the_stable_one(sequence: int) -> None:
    """A replica discards all earlier checkpoints."""
    world = small()
    world.ask_each(1, 2)
    assert world.replicas["r1"].core.low == 2
    refused = world.refuse("r1", world.checkpoint(sequence, FALSE, 2))
    assert refused == "at or below the stable checkpoint"


def test_a_checkpoint_that_comes_again_does_nothing() -> None:
    """One replica, one voice."""
    world = small()
    world.give("r1", world.checkpoint(2, FALSE, 2))
    output = world.give("r1", world.checkpoint(2, FALSE, 2))
    assert (output.records, output.messages, output.events) == ([], [], [])


def test_a_replica_that_says_two_digests_counts_for_one_at_a_time() -> None:
    """2f+1 different replicas with the same digest."""
    world = small()
    world.ask_each(1, 2, is_no_checkpoint)
    digest = own_digest(world, "r1", 2)
    world.give("r1", world.checkpoint(2, digest, 0))
    world.give("r1", world.checkpoint(2, FALSE, 2))
    assert world.replicas["r1"].core.low == 0
    world.give("r1", world.checkpoint(2, digest, 2))
    assert world.replicas["r1"].core.low == 2
    assert world.emitted("r1", "equivocation") == [{"replica": 2}]


def test_after_the_certificate_another_digest_of_the_same_replica_is_refused() -> None:
    """The proof that was complete stays complete."""
    world = small()
    for replica in (0, 2, 3):
        world.give("r1", world.checkpoint(2, FALSE, replica))
    reason = world.refuse("r1", world.checkpoint(2, bytes(32), 3))
    assert "said another digest" in reason
    assert world.replicas["r1"].core.checkpoints.votes.certificate(2) is not None


# --- stable checkpoints -------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [4, 7])
def test_a_checkpoint_is_stable_with_2f_plus_1_and_not_with_fewer(replicas: int) -> None:
    """A replica collects CHECKPOINTs until it has 2f+1 for n with the same digest."""
    world = small(replicas)
    world.ask_each(1, 2, is_no_checkpoint)
    core = world.replicas["r1"].core
    digest = own_digest(world, "r1", 2)
    others = [index for index in range(replicas) if index != 1]
    for replica in others[: world.cluster.quorums.strong - 2]:
        world.give("r1", world.checkpoint(2, digest, replica))
        world.give("r1", world.checkpoint(2, digest, replica))
    assert core.low == 0
    world.give("r1", world.checkpoint(2, digest, others[-1]))
    assert core.low == 2
    assert len(core.checkpoints.stable.checkpoints) == world.cluster.quorums.strong
    assert len({signed.signer for signed in core.checkpoints.stable.checkpoints}) == len(
        core.checkpoints.stable.checkpoints
    )


def test_different_digests_make_no_certificate() -> None:
    """With the same digest d."""
    world = small()
    world.ask_each(1, 2, is_no_checkpoint)
    world.give("r1", world.checkpoint(2, FALSE, 0))
    world.give("r1", world.checkpoint(2, bytes(32), 2))
    world.give("r1", world.checkpoint(2, own_digest(world, "r1", 2), 3))
    core = world.replicas["r1"].core
    assert (core.low, core.status) == (0, ReplicaStatus.NORMAL)


def test_checkpoints_of_different_numbers_make_no_certificate() -> None:
    """With the same n."""
    world = small()
    world.ask_each(1, 4, is_no_checkpoint)
    world.give("r1", world.checkpoint(2, own_digest(world, "r1", 2), 0))
    world.give("r1", world.checkpoint(4, own_digest(world, "r1", 4), 2))
    assert world.replicas["r1"].core.low == 0


def test_a_certificate_that_comes_before_our_own_execution_waits_for_it() -> None:
    """The water marks move to a state that the replica has."""
    world = small()
    world.ask_each(1, 1)
    world.ask(2, b"2")
    world.deliver(lambda m: m.receiver != "r1")
    held = list(world.under_way)
    world.under_way.clear()
    stable = world.replicas["r0"].core.checkpoints.stable
    assert stable.sequence == 2
    for signed in stable.checkpoints:
        world.give("r1", signed)
    assert world.replicas["r1"].core.low == 0
    assert world.emitted("r1", "behind") == [{"certified": 2, "executed": 1}]
    world.under_way = [m for m in held if not is_checkpoint(m)]
    world.deliver()
    assert world.replicas["r1"].core.low == 2


def test_a_newer_certificate_than_our_execution_does_not_move_the_water_marks() -> None:
    """docs/TRAPS.md 11: nobody's word makes a replica skip what it has not executed."""
    world = small()
    for replica in (0, 2, 3):
        world.give("r1", world.checkpoint(100, FALSE, replica))
    core = world.replicas["r1"].core
    assert (core.low, core.executed, core.checkpoints.certified.sequence) == (0, 0, 100)
    assert core.status is ReplicaStatus.NORMAL


# --- water marks and collection -----------------------------------------------------------------


def test_the_water_marks_follow_the_stable_checkpoint() -> None:
    """h is the last stable checkpoint's number, H = h + k."""
    world = small()
    core = world.replicas["r1"].core
    assert (core.low, core.high) == (0, 4)
    world.ask_each(1, 2)
    assert (core.low, core.high) == (2, 6)
    assert [core.within_water_marks(n) for n in (2, 3, 6, 7)] == [False, True, True, False]


def test_what_was_above_the_high_water_mark_is_accepted_when_the_mark_has_moved() -> None:
    """docs/TRAPS.md 10: a refusal because of the window is for now only."""
    world = small()
    world.ask_each(1, 2, is_no_checkpoint)
    _, signed, body = world.pre_prepare(5, [world.request(9, b"x")])
    assert world.refuse("r1", signed, body) == "outside the water marks"
    world.deliver()
    assert world.replicas["r1"].core.high == 6
    world.give("r1", signed, body)
    assert world.said("r1", Prepare)[-1].sequence == 5


def test_collection_discards_messages_and_checkpoints_up_to_the_stable_one() -> None:
    """All PRE-PREPARE, PREPARE, COMMIT up to n and all earlier checkpoints are discarded.

    Ours keeps one interval of decided slots, for re-sending only.
    """
    world = small()
    world.ask_each(1, 6, is_no_checkpoint)
    assert world.executed()["r1"] == 4, "the window is full"
    world.run(4)
    core = world.replicas["r1"].core
    assert core.low == 4
    assert [slot.sequence for slot in core.log.above(0)] == [
        n for n in range(1, core.executed + 1) if n > 2
    ]
    assert min(core.checkpoints.snapshots, default=5) > 4
    assert core.checkpoints.votes.own_above(2, 0) == core.checkpoints.votes.own_above(2, 4)


def test_votes_for_kept_slots_below_the_stable_checkpoint_are_refused() -> None:
    """What is kept for re-sending is decided: nothing is added to it."""
    world = small()
    world.ask_each(1, 2)
    assert world.replicas["r1"].core.log.find(2) is not None
    assert world.refuse("r1", world.commit(2, FALSE, 2)) == "outside the water marks"
    assert world.refuse("r1", world.prepare(2, FALSE, 2)) == "outside the water marks"


def test_collection_begins_a_new_base_and_saves_again_what_is_still_needed() -> None:
    """The proof of the stable checkpoint, the state, and the log above it survive a crash."""
    world = small()
    world.ask_each(1, 3)
    disk = world.disks["r1"]
    record = disk.records[0]
    assert isinstance(record, CheckpointRecord)
    assert (record.sequence, record.kept_above) == (2, 0)
    assert record.certificate == world.replicas["r1"].core.checkpoints.stable.checkpoints
    assert sum(isinstance(record, CheckpointRecord) for record in disk.records) == 1
    digests = {p.digest for p in world.said("r0", PrePrepare)}
    assert set(disk.bodies) == digests
    world.ask_each(4, 6)
    assert {sequence for sequence, _ in disk.bodies.values()} == {5, 6}


def test_our_later_checkpoints_are_saved_again_with_the_new_base() -> None:
    """What we said about 4 stays said when 2 becomes stable afterwards, and over a restart."""
    world = small()
    world.ask_each(1, 4, is_no_checkpoint)
    for replica in (0, 2):
        world.give("r1", world.checkpoint(2, own_digest(world, "r0", 2), replica))
    record, *others = world.disks["r1"].records
    assert isinstance(record, CheckpointRecord)
    assert record.sequence == 2
    ours = world.checkpoint(4, own_digest(world, "r1", 4), 1)
    assert SavedMessage(ours) in others
    world.crash("r1")
    world.start("r1")
    assert world.replicas["r1"].core.checkpoints.votes.own_above(1, 2) == [ours]


@pytest.mark.parametrize("requests", range(1, 12))
def test_a_restart_continues_at_the_stable_checkpoint_with_the_log_above_it(requests: int) -> None:
    """4.3: state, certificate and log are what a replica needs; they are what it saved."""
    world = small()
    world.ask_each(1, requests)
    before = world.replicas["r1"].core
    world.crash("r1")
    world.start("r1")
    after = world.replicas["r1"].core
    assert (after.executed, after.low, after.checkpoints.certified) == (
        before.executed,
        before.low,
        before.checkpoints.certified,
    )
    assert after.checkpoints.stable == before.checkpoints.stable
    for index in range(4):
        votes = after.checkpoints.votes
        assert votes.own_above(index, 0) == votes.own_above(index, after.low)
    assert state_parts(after) == state_parts(before)
    assert [s.sequence for s in after.log.above(0)] == [s.sequence for s in before.log.above(0)]
    for old, new in zip(before.log.above(0), after.log.above(0), strict=True):
        assert new.accepted == old.accepted
        assert new.records == old.records
    world.ask_each(requests + 1, requests + 3)
    world.connect("r1")
    world.run(3)
    assert set(world.executed().values()) == {requests + 3}
    check_safety(world)


def test_ten_windows_leave_no_more_on_disk_than_one() -> None:
    """4.3: garbage collection bounds what is kept (docs/TRAPS.md 10: the mark really moves)."""
    world = small()
    sizes = []
    for timestamp in range(1, 41):
        world.ask_each(timestamp, timestamp)
        sizes.append(len(world.disks["r1"].records))
    assert max(sizes[20:]) <= max(sizes[:20])
    assert world.replicas["r1"].core.low == 40


def test_the_primary_that_moved_first_is_not_held_up_by_the_others_window() -> None:
    """docs/TRAPS.md 10: a PRE-PREPARE above the others' windows is sent again when they have moved.

    Nobody's timer expires until then: another view would order it too.
    """
    world = small()
    world.ask_each(1, 3)
    for timestamp in (4, 5, 6, 7):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: not is_checkpoint(m) or m.receiver == "r0")
    assert world.replicas["r0"].core.low >= 4
    assert [world.replicas[n].core.low for n in ("r1", "r2", "r3")] == [2, 2, 2]
    assert any("water marks" in reason for reason in world.refusals("r1"))
    world.run(4)
    assert set(world.executed().values()) == {7}
    assert len(world.client_output.accepted) == 7
    assert {replica.core.view for replica in world.replicas.values()} == {0}


# --- states that differ -------------------------------------------------------------------------


def test_a_replica_whose_state_differs_says_so_and_stops() -> None:
    """docs/TRAPS.md 11: a certificate for another digest proves that our own state is wrong."""
    world = world_with_a_wrong_replica()
    world.ask_each(1, 2)
    (told,) = world.emitted("r3", "diverged")
    assert told["sequence"] == 2
    assert told["own"] != told["certified"]
    core = world.replicas["r3"].core
    assert (core.status, core.low) == (ReplicaStatus.DIVERGED, 0)
    before = len(world.said("r3", Prepare))
    world.ask_each(3, 3)
    for _ in range(3):
        world.tick()
        world.deliver(lambda m: not isinstance(m.payload, StateLeaves | StateParts))
    assert core.executed == 2
    assert len(world.said("r3", Prepare)) == before
    assert len(world.emitted("r3", "diverged")) == 1, "loud, once"


def test_a_replica_whose_state_differs_is_repaired_by_state_transfer() -> None:
    """docs/TRAPS.md 11: it fetches the certified state, says so, and takes part again."""
    world = world_with_a_wrong_replica()
    world.ask_each(1, 3)
    world.run(2)
    assert world.emitted("r3", "state_transferred") == [{"sequence": 2, "executed": 2}]
    core = world.replicas["r3"].core
    assert (core.status, core.low, core.executed) == (ReplicaStatus.NORMAL, 2, 3)
    world.ask_each(4, 5)
    assert set(world.executed().values()) == {5}
    assert {application.head for application in world.applications.values()} == {
        world.applications["r0"].head
    }
    assert world.said("r3", Prepare)[-1].sequence == 5
    check_safety(world)


def test_a_replica_whose_state_differs_does_not_hold_up_the_others() -> None:
    """docs/TRAPS.md 11: their water marks move on; clients are answered."""
    world = world_with_a_wrong_replica()
    world.ask_each(1, 12)
    world.run(2)
    for name in ("r0", "r1", "r2"):
        assert world.replicas[name].core.low == 12
        assert world.emitted(name, "diverged") == []
    assert len(world.client_output.accepted) == 12
    heads = {world.applications[name].head for name in ("r0", "r1", "r2")}
    assert world.client_output.accepted[-1].result in heads


def test_a_diverged_replica_that_is_restarted_finds_out_again() -> None:
    """It executes the same wrong state from its records; the certificate still says so."""
    world = world_with_a_wrong_replica()
    world.ask_each(1, 2)
    world.crash("r3")
    world.start("r3")
    assert len(world.emitted("r3", "diverged")) == 1
    world.connect("r3")
    world.deliver(lambda m: not isinstance(m.payload, StateLeaves | StateParts))
    assert len(world.emitted("r3", "diverged")) == 2
    assert world.replicas["r3"].core.status is ReplicaStatus.DIVERGED
    world.run(2)
    assert world.core("r3").status.value == "normal"
    world.crash("r3")
    world.start("r3")
    assert world.core("r3").status.value == "normal"
    assert world.applications["r3"].head == world.applications["r0"].head


def test_a_single_liars_checkpoint_makes_nobody_diverge() -> None:
    """docs/TRAPS.md 11: f replicas prove nothing."""
    world = small()
    world.ask_each(1, 2, is_no_checkpoint)
    world.give("r1", world.checkpoint(2, FALSE, 3))
    world.run(2)
    for name in ("r0", "r1", "r2"):
        assert world.replicas[name].core.low == 2
        assert world.emitted(name, "diverged") == []
