"""Continuing from what was saved: what is taken back, and what damage is noticed."""

from collections.abc import Callable, Sequence

import msgspec
import pytest

from pbft.certificates import leaves_digest
from pbft.checkpoint import adopt_stable, restore_state, state_parts
from pbft.codec import digest_of, encode_batch
from pbft.core import Settings
from pbft.log import NULL_REQUEST
from pbft.messages import (
    AnyMessage,
    Body,
    Checkpoint,
    Commit,
    FetchState,
    NewView,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    Signed,
    StateLeaves,
    StateParts,
    Status,
    ViewChange,
)
from pbft.ports import (
    CheckpointRecord,
    Executed,
    Output,
    SavedBody,
    SavedEntry,
    SavedMessage,
    SavedPrepared,
)
from pbft.replica import DamagedRecords, OlderRecords
from tests.pbft.checks import check_safety
from tests.pbft.forge import drive_into_view, drive_into_view_change, prepare_at, view_change
from tests.pbft.world import Journal, World, WrongOnce

WORLD = World()
# The recoveries of a state: by replica, the nonces that were remembered, and T.
OLDER = [(3, (tuple(bytes([n]) * 32 for n in range(16)), 24))]


def world_after(requests: int) -> World:
    world = World(checkpoint_interval=2, window=4)
    for timestamp in range(1, requests + 1):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    return world


def restart(world: World, name: str = "r1") -> None:
    world.crash(name)
    world.start(name)


def test_what_was_executed_is_executed_again_and_handed_on_and_nothing_is_sent() -> None:
    world = world_after(3)
    restart(world)
    output = world.outputs["r1"][-1]
    assert [executed.sequence for executed in output.executed] == [3], "2 is in the record"
    assert (output.records, output.messages) == ([], [])
    assert world.applications["r1"].head == world.applications["r0"].head


def test_an_empty_disk_is_a_new_replica() -> None:
    world = World()
    restart(world)
    assert world.executed()["r1"] == 0


@pytest.mark.parametrize("requests", range(0, 7))
def test_restarting_again_and_again_changes_nothing(requests: int) -> None:
    world = world_after(requests)
    for _ in range(3):
        before = list(world.disks["r1"].records)
        restart(world)
        assert world.disks["r1"].records == before
        assert world.executed()["r1"] == requests


def test_all_replicas_may_be_killed_at_once() -> None:
    world = world_after(5)
    for name in world.names:
        world.crash(name)
    for name in world.names:
        world.start(name)
    for name in world.names:
        world.connect(name)
    world.ask(6, b"6")
    world.run(3)
    assert set(world.executed().values()) == {6}
    check_safety(world)


def test_a_primary_goes_on_with_the_next_number_and_does_not_order_again_what_is_open() -> None:
    world = World()
    world.ask(1, b"x")
    world.deliver(lambda m: m.receiver == "r0")
    world.crash("r0")
    world.start("r0")
    world.give("r0", world.request(1, b"x"))
    world.give("r0", world.request(2, b"y"))
    said = world.said("r0", PrePrepare)
    assert [message.sequence for message in said] == [1, 2]
    assert len({message.digest for message in said}) == 2
    world.connect("r0")
    world.run(3)
    assert world.applications["r2"].operations == [b"x", b"y"]


def replace_executed(world: World, change: Callable[[Executed], Executed]) -> None:
    disk = world.disks["r1"]
    disk.records = [change(r) if isinstance(r, Executed) else r for r in disk.records]


DAMAGES: dict[str, Callable[[Executed], Executed]] = {
    "the COMMITs are gone": lambda r: Executed(r.sequence, r.digest, ()),
    "a COMMIT is gone": lambda r: Executed(r.sequence, r.digest, r.commits[1:]),
    "one COMMIT is there three times": lambda r: Executed(
        r.sequence, r.digest, (r.commits[0],) * 3
    ),
    "a COMMIT is forged": lambda r: Executed(
        r.sequence,
        r.digest,
        (*r.commits[1:], Signed(r.commits[0].signer, r.commits[0].payload, bytes(64))),
    ),
    "the COMMITs are about another number": lambda r: Executed(
        r.sequence, r.digest, tuple(WORLD.commit(2, r.digest, i) for i in range(3))
    ),
    "the COMMITs are about another digest": lambda r: Executed(
        r.sequence, r.digest, tuple(WORLD.commit(1, bytes(32), i) for i in range(3))
    ),
    "the COMMITs are of two views": lambda r: Executed(
        r.sequence, r.digest, tuple(WORLD.commit(1, r.digest, i, i % 2) for i in range(3))
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_execution_without_its_proof_is_damage(damage: str) -> None:
    """T8: the proof is sent on to peers, and what was executed is executed again because of it."""
    world = world_after(1)
    replace_executed(world, DAMAGES[damage])
    with pytest.raises(DamagedRecords, match="executed without proof"):
        restart(world)


def test_an_execution_out_of_order_is_damage() -> None:
    world = world_after(1)
    commits = tuple(world.commit(3, bytes(32), replica) for replica in (0, 1, 2))
    world.disks["r1"].records.append(Executed(3, bytes(32), commits))
    with pytest.raises(DamagedRecords, match="sequence number 3"):
        restart(world)


def test_a_missing_or_changed_body_is_damage() -> None:
    world = world_after(1)
    bodies = world.disks["r1"].bodies
    digest = next(iter(bodies))
    bodies[digest] = (1, bodies[digest][1] + b"\0")
    with pytest.raises(DamagedRecords, match="the body of sequence number 1"):
        restart(world)
    del bodies[digest]
    with pytest.raises(DamagedRecords, match="the body of sequence number 1"):
        world.start("r1")


def damaged_checkpoint(world: World, **changes: object) -> None:
    disk = world.disks["r1"]
    record = disk.records[0]
    assert isinstance(record, CheckpointRecord)
    values = {field: getattr(record, field) for field in record.__struct_fields__}
    disk.records[0] = CheckpointRecord(**{**values, **changes})


def test_a_base_whose_state_has_another_digest_is_damage() -> None:
    world = world_after(2)
    record = world.disks["r1"].records[0]
    assert isinstance(record, CheckpointRecord)
    damaged_checkpoint(world, parts={**record.parts, "epoch": b"\x01"})
    with pytest.raises(DamagedRecords, match="certified digest"):
        restart(world)


@pytest.mark.parametrize("kept", [0, 2])
def test_a_base_without_a_whole_certificate_is_damage(kept: int) -> None:
    world = world_after(2)
    record = world.disks["r1"].records[0]
    assert isinstance(record, CheckpointRecord)
    damaged_checkpoint(world, certificate=record.certificate[:kept])
    with pytest.raises(DamagedRecords, match="certified digest"):
        restart(world)


def test_a_base_whose_certificate_is_forged_is_damage() -> None:
    world = world_after(2)
    record = world.disks["r1"].records[0]
    assert isinstance(record, CheckpointRecord)
    first = record.certificate[0]
    forged = type(first)(first.signer, first.payload, bytes(64))
    damaged_checkpoint(world, certificate=(forged, *record.certificate[1:]))
    with pytest.raises(DamagedRecords, match="does not hold"):
        restart(world)


def test_a_base_for_another_number_than_its_certificate_is_damage() -> None:
    world = world_after(2)
    damaged_checkpoint(world, sequence=4)
    with pytest.raises(DamagedRecords, match="certified digest"):
        restart(world)


def test_a_saved_message_that_no_replica_saves_is_damage() -> None:
    world = world_after(1)
    world.disks["r1"].records.append(SavedMessage(world.request(1, b"x")))
    with pytest.raises(DamagedRecords, match="cannot be ours"):
        restart(world)


def test_executing_again_to_another_state_is_damage() -> None:
    """The CHECKPOINT that we signed says what the state was."""
    world = world_after(1)
    world.ask(2, b"2")
    world.deliver(lambda m: world.executed()["r1"] < 2)
    records = world.disks["r1"].records
    said = records[-1]
    assert isinstance(said, SavedMessage)
    records[-1] = SavedMessage(world.checkpoint(2, bytes(32), 1))
    with pytest.raises(DamagedRecords, match="gave another state"):
        restart(world)


def order(world: World, sequence: int, timestamp: int, *, decided: bool = True) -> bytes:
    """As the faulty primary: order that request under that number; the digest."""
    message, signed, body = world.pre_prepare(
        sequence, [world.request(timestamp, b"%d" % timestamp)]
    )
    for name in world.replicas:
        world.give(name, signed, body)
        if decided:
            world.give(name, world.commit(sequence, message.digest, 0))
    if decided:
        world.deliver()
    return message.digest


def test_a_body_that_was_ordered_before_is_kept_for_the_later_number() -> None:
    """4 was executed; a faulty primary gives the same batch number 8 too, while 8 is open."""
    world = world_after(4)
    world.crash("r0")
    digest = order(world, 8, 4, decided=False)
    world.under_way.clear()
    for sequence in (5, 6):
        order(world, sequence, sequence)
    for name in ("r1", "r2", "r3"):
        assert world.replicas[name].core.kept_above == 4
        restart(world, name)
        assert world.replicas[name].core.log.slot(8).accepted == digest


def test_a_body_that_is_ordered_under_a_lower_number_later_is_kept_for_the_higher_one() -> None:
    """8 comes before 5 with the same batch; both are executed, 8 is kept to be sent again."""
    world = world_after(4)
    world.crash("r0")
    digest = order(world, 8, 5, decided=False)
    for sequence in (5, 6, 7):
        order(world, sequence, sequence)
    assert order(world, 8, 5) == digest
    for name in ("r1", "r2", "r3"):
        assert world.replicas[name].core.kept_above == 6
        restart(world, name)
        assert digest in world.replicas[name].core.log.slot(8).batches
    assert [entry.body for entry in world.disks["r1"].entries] == [b"%d" % t for t in range(1, 8)]


def test_ledger_entries_and_bodies_are_not_among_the_records() -> None:
    world = world_after(5)
    assert not any(isinstance(r, SavedEntry | SavedBody) for r in world.disks["r1"].records)
    assert [entry.body for entry in world.disks["r1"].entries] == [b"1", b"2", b"3", b"4", b"5"]


# --- our own CHECKPOINTs --------------------------------------------------------------------------


class WrongAt3(WrongOnce):
    """Its third operation gives something else."""

    wrong_at = 3


def beyond_a_base(application: Callable[[str], Journal] = lambda name: Journal()) -> World:
    """r3 has executed 5, and hears then that checkpoint 2 is stable: its own of 4 is behind it."""
    world = World(checkpoint_interval=2, window=8, application=application)
    for timestamp in range(1, 6):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: m.receiver != "r3" or not isinstance(m.payload, Checkpoint))
    held = list(world.under_way)
    world.under_way.clear()
    for message in held:
        if isinstance(message.payload, Checkpoint) and message.payload.sequence == 2:
            world.deliver_one(message)
    assert (world.core("r3").low, world.core("r3").executed) == (2, 5)
    return world


def test_what_is_executed_again_behind_a_base_is_what_our_checkpoint_says() -> None:
    world = beyond_a_base()
    restart(world, "r3")
    assert world.executed()["r3"] == 5
    world.crash("r3")
    world.make_application = lambda name: WrongAt3()
    with pytest.raises(DamagedRecords, match="executing again to 4 gave another state"):
        world.start("r3")


def test_a_checkpoint_of_a_wrong_state_that_was_repaired_is_no_damage() -> None:
    """It stays said: another one for that number would contradict it."""
    world = beyond_a_base(lambda name: WrongAt3() if name == "r3" else Journal())
    own = world.core("r3").checkpoints.votes.vote_of(4, 3)
    assert own is not None
    world.crash("r3")
    # The state at 2 was right; what is executed again above it is right this time.
    world.make_application = lambda name: Journal()
    disk = world.disks["r3"]
    said = [r for r in disk.records if isinstance(r, SavedMessage) and r.signed == own[1]]
    disk.records = [disk.records[0], *said, *(r for r in disk.records[1:] if r not in said)]
    world.start("r3")
    core = world.core("r3")
    assert core.executed == 5
    core.output = Output()
    restarted = core.checkpoints.votes.vote_of(4, 3)
    assert restarted == own
    assert core.checkpoints.snapshots[4][0] != own[0].digest
    adopt_stable(core, core.checkpoints.stable, core.checkpoints.stable_parts)
    disk.save(core.output.records)
    restart(world, "r3")
    assert world.core("r3").executed == 5
    assert world.core("r3").checkpoints.votes.vote_of(4, 3) == own


# --- what older versions wrote --------------------------------------------------------------------


def test_a_recover_of_an_older_version_is_refused_by_name() -> None:
    """It named no checkpoint. Executed by another rule, it would give another state."""
    world = World()
    payload = msgspec.msgpack.encode(("recover", bytes(32), 3))
    body = encode_batch((Signed("r3", payload, bytes(64)),))
    digest = digest_of(body)
    commits = tuple(world.commit(1, digest, replica) for replica in (0, 1, 2))
    disk = world.disks["r1"]
    disk.save([SavedBody(1, digest, body), Executed(1, digest, commits)])
    world.crash("r1")
    with pytest.raises(OlderRecords, match="sequence number 1 has a RECOVER of an older version"):
        world.start("r1")


def test_a_state_of_an_older_version_keeps_its_digest() -> None:
    """It remembered 16 nonces of each replica."""
    world = World()
    parts = {**state_parts(world.core("r1")), "recoveries": msgspec.msgpack.encode(OLDER)}
    restore_state(world.core("r2"), world.core("r1").executed, parts)
    assert world.core("r2").execution.recoveries[3].voting_from == 24
    assert state_parts(world.core("r2")) == parts


def leave(world: World, name: str, others: Sequence[int], view: int) -> None:
    """These others say that they leave for that view."""
    for other in others:
        world.give(name, view_change(world, other, view))


def test_a_view_change_that_was_restarted_has_not_progressed() -> None:
    """PROTOCOL.md, 4.4: the wait "doubles with each view that fails", killed in between or not."""
    world = World(settings=Settings(view_change_seconds=4.0, status_seconds=100.0))
    leave(world, "r0", (2, 3), 1)
    restart(world, "r0")
    leave(world, "r0", (1, 2, 3), 1)
    world.handle_timer("r0", 4.0)
    assert world.core("r0").view == 2
    leave(world, "r0", (1, 3), 2)
    world.handle_timer("r0", 7.5)
    assert world.core("r0").view == 2
    world.handle_timer("r0", 0.5)
    assert world.core("r0").view == 3


@pytest.mark.parametrize("is_entered", [False, True])
@pytest.mark.parametrize("is_restarted", [False, True])
def test_of_all_views_that_were_left_and_entered_the_last_word_is_kept(
    is_restarted: bool, is_entered: bool
) -> None:
    """PROTOCOL.md, What is on disk: one word about the view, the last, follows a checkpoint."""
    world = World(checkpoint_interval=2, window=4)
    for view in (2, 3):
        drive_into_view_change(world, "r1", view)
        drive_into_view(world, "r1", view)
    drive_into_view_change(world, "r1", 4)
    if is_entered:
        drive_into_view(world, "r1", 4)
    if is_restarted:
        restart(world)
    for sequence in (1, 2):
        for replica in (0, 2, 3):
            world.give("r1", world.commit(sequence, NULL_REQUEST, replica))
    (said,) = world.said("r1", Checkpoint)
    for replica in (0, 2):
        world.give("r1", world.checkpoint(2, said.digest, replica))
    record, *others = world.disks["r1"].records
    assert isinstance(record, CheckpointRecord)
    read = world.core("r1").authenticator.read
    words = [read(record.signed) for record in others if isinstance(record, SavedMessage)]
    (last,) = (word for word in words if isinstance(word, ViewChange | NewView))
    assert (type(last), last.view) == (NewView if is_entered else ViewChange, 4)


def test_a_restarted_replica_gives_its_stable_state() -> None:
    """PROTOCOL.md, State transfer: "A peer gives its last stable state", restarted or not."""
    world = world_after(3)
    restart(world, "r1")
    world.give("r1", world.sign("r3", FetchState(2, (), 3)))
    world.give("r1", world.sign("r3", FetchState(2, ("journal",), 3)))
    (leaves,) = world.said("r1", StateLeaves)
    (parts,) = world.said("r1", StateParts)
    assert leaves_digest(leaves.leaves) == world.core("r0").checkpoints.stable.digest
    assert dict(parts.parts)["journal"] == world.core("r0").checkpoints.stable_parts["journal"]


def resent(world: World, name: str, said: Status) -> list[AnyMessage]:
    """What that replica sends r3 again for its STATUS."""
    since = len(world.sent)
    world.give(name, world.sign("r3", said))
    return [m.payload for m in world.sent[since:] if (m.sender, m.receiver) == (name, "r3")]


def test_a_restarted_replica_sends_again_what_it_sent_before() -> None:
    """PROTOCOL.md, Catch-up: "the COMMITs and bodies of decided slots, their own words about open
    ones", restarted or not."""
    world = World()
    world.ask(1, b"1")
    world.deliver(lambda m: m.receiver != "r3")
    _, signed, body = world.pre_prepare(2, [world.request(2, b"2")])
    world.give("r1", signed, body)
    restart(world)
    again = resent(world, "r1", Status(0, True, 0, 0, 3))
    kinds = [(type(said), said.sequence) for said in again if not isinstance(said, Status)]  # type: ignore[union-attr]
    assert kinds == [(Commit, 1), (Commit, 1), (Commit, 1), (Body, 1), (Prepare, 2)]


def test_a_restarted_replica_proves_its_view_again() -> None:
    """PROTOCOL.md, Catch-up: "the NEW-VIEW of their view", restarted or not."""
    world = World()
    drive_into_view(world, "r1", 2)
    restart(world)
    again = resent(world, "r1", Status(0, True, 0, 0, 3))
    assert [said.view for said in again if isinstance(said, NewView)] == [2]


def test_what_was_accepted_in_an_earlier_view_is_not_accepted_in_the_present_one() -> None:
    """PROTOCOL.md, What is on disk: after a checkpoint is the word about the view, and what was
    said about slots in views before it.
    """
    world = World(checkpoint_interval=2, window=4)
    message, signed, body = world.pre_prepare(3, [world.request(3, b"3")])
    world.give("r1", signed, body)
    drive_into_view(world, "r1", 2)
    for sequence in (1, 2):
        for replica in (0, 2, 3):
            world.give("r1", world.commit(sequence, NULL_REQUEST, replica))
    (said,) = world.said("r1", Checkpoint)
    for replica in (0, 2):
        world.give("r1", world.checkpoint(2, said.digest, replica))
    assert world.core("r1").low == 2
    restart(world)
    assert message.digest in world.core("r1").log.slot(3).batches
    other, signed, body = world.pre_prepare(3, [world.request(4, b"4")], view=2, replica=2)
    world.give("r1", signed, body)
    assert world.said("r1", Prepare)[-1] == Prepare(2, 3, other.digest, 1)
    assert world.emitted("r1", "equivocation") == []


def forged(signed: Signed) -> Signed:
    return Signed(signed.signer, signed.payload, bytes(64))


@pytest.mark.parametrize("kind", ["certificate", "VIEW-CHANGE", "NEW-VIEW"])
def test_a_saved_word_that_does_not_hold_is_damage(kind: str) -> None:
    """PROTOCOL.md, What is on disk: what is left out would be forgotten without a word."""
    world = World()
    if kind == "certificate":
        prepare_at(world, "r1", 1, b"x")
    elif kind == "VIEW-CHANGE":
        drive_into_view_change(world, "r1", 2)
    else:
        drive_into_view(world, "r1", 2)
    records = world.disks["r1"].records
    for place, record in enumerate(records):
        if isinstance(record, SavedPrepared):
            prepares = tuple(map(forged, record.certificate.prepares))
            certificate = PreparedCertificate(record.certificate.pre_prepare, prepares)
            records[place] = SavedPrepared(certificate)
        elif isinstance(record, SavedMessage) and kind != "certificate":
            records[place] = SavedMessage(forged(record.signed))
    with pytest.raises(DamagedRecords, match=kind):
        restart(world)
