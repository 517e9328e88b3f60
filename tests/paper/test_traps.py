"""How PBFT implementations went wrong before, each a test; the numbers are the project's own.

Those of view changes, and of crashes and floods, are in files of their own; 15 and 21 need builds.
"""

import itertools

import pytest

from pbft.codec import (
    encode_message,
)
from pbft.core import ReplicaStatus
from pbft.genesis import Cluster
from pbft.messages import (
    AnyMessage,
    Body,
    Checkpoint,
    Commit,
    Prepare,
    PrePrepare,
    Replies,
    Signed,
    StateLeaves,
    StateParts,
)
from tests.pbft.checks import check_safety
from tests.pbft.forge import SAID, certificate, new_view, view_change
from tests.pbft.world import World, picture

FALSE = bytes(31) + b"\x01"


def small() -> World:
    return World(checkpoint_interval=2, window=4, client_window=8)


# --- 4: domain separation -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "claimed"), [(a, b) for a, b in itertools.permutations(SAID, 2)], ids=lambda m: ""
)
def test_trap_04_a_signature_counts_for_the_message_it_was_made_for_only(
    said: AnyMessage, claimed: AnyMessage
) -> None:
    """A recorded signature is put under another type, view, number or digest."""
    world = small()
    forged = Signed("r2", encode_message(claimed), world.sign("r2", said).signature)
    # A message that is refused for another reason before its signature is checked is as good.
    reason = world.refuse("r1", forged)
    unsigned = PrePrepare | Replies | Body | StateLeaves | StateParts
    if not isinstance(claimed, unsigned) and getattr(claimed, "view", 0) == 0:
        assert reason == "bad signature"


def test_trap_04_a_signature_counts_in_one_cluster_and_epoch_only() -> None:
    """The same keys in another cluster, and the same cluster after a change of members."""
    world, elsewhere = small(), World(7)
    later = Cluster(world.cluster.genesis)
    later.epoch = 1
    for other in (elsewhere.cluster, later):
        for message in (Prepare(0, 1, FALSE, 2), Commit(0, 1, FALSE, 2), Checkpoint(2, FALSE, 2)):
            assert world.refuse("r1", world.sign("r2", message, other)) == "bad signature"


def test_trap_04_a_signature_of_one_replica_is_not_anothers() -> None:
    """Replica 2's signature under replica 3's claim, with and without replica 3's name."""
    world = small()
    signature = world.prepare(1, FALSE, 2).signature
    payload = encode_message(Prepare(0, 1, FALSE, 3))
    assert world.refuse("r1", Signed("r3", payload, signature)) == "bad signature"
    assert "not the replica" in world.refuse("r1", Signed("r2", payload, signature))


# --- 7: votes -----------------------------------------------------------------------------------


def test_trap_07_votes_are_counted_by_digest_and_distinct_key() -> None:
    """(a) wrong digests, (b) copies, (c) another's number, (d) the primary's PREPARE."""
    world = World(7)
    message, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    world.give("r1", signed, body)
    world.give("r1", world.prepare(1, FALSE, 2))
    for _ in range(3):
        world.give("r1", world.prepare(1, message.digest, 3))
    world.refuse("r1", world.sign("r3", Prepare(0, 1, message.digest, 4)))
    world.refuse("r1", world.prepare(1, message.digest, 0))
    slot = world.replicas["r1"].core.log.slot(1)
    assert len(slot.matching_prepares()) == 2, "its own and replica 3's"
    assert world.said("r1", Commit) == []
    for replica in (4, 5):
        world.give("r1", world.prepare(1, message.digest, replica))
    assert len(world.said("r1", Commit)) == 1


# --- 8, 9: order --------------------------------------------------------------------------------


def test_trap_08_messages_that_come_early_are_kept() -> None:
    """COMMITs, then PREPAREs, then the PRE-PREPARE, and number 2 before number 1."""
    world = small()
    batches = {n: world.pre_prepare(n, [world.request(n, b"%d" % n)]) for n in (1, 2)}
    for n in (2, 1):
        message, signed, body = batches[n]
        for replica in (0, 2, 3):
            world.give("r1", world.commit(n, message.digest, replica))
        for replica in (2, 3):
            world.give("r1", world.prepare(n, message.digest, replica))
        world.give("r1", signed, body)
    assert world.applications["r1"].operations == [b"1", b"2"]
    assert world.refusals("r1") == []


def test_trap_09_a_gap_in_the_commits_is_closed_at_once() -> None:
    """Certificates for 2, 3 and 4 come before that for 1: then all are executed in one turn."""
    world = small()
    for n in (2, 3, 4, 1):
        message, signed, body = world.pre_prepare(n, [world.request(n, b"%d" % n)])
        world.give("r1", signed, body)
        for replica in (0, 2, 3):
            output = world.give("r1", world.commit(n, message.digest, replica))
    assert [executed.sequence for executed in output.executed] == [1, 2, 3, 4]
    assert world.applications["r1"].operations == [b"1", b"2", b"3", b"4"]
    replies = [reply for message in world.said("r1", Replies) for reply in message.replies]
    assert [reply.timestamp for reply in replies] == [1, 2, 3, 4]


# --- 10, 11: checkpoints ------------------------------------------------------------------------


def test_trap_10_the_high_water_mark_moves_for_ever() -> None:
    """Ten windows of requests, under load from two clients, with one replica down."""
    world = small()
    world.crash("r3")
    for timestamp in range(1, 41):
        world.ask(timestamp, b"%d" % timestamp)
        world.ask(timestamp, b"other %d" % timestamp, "other")
        world.deliver()
        world.tick(0.25)  # together more than any timer waits
    world.run(3)
    assert {core.core.low for core in world.replicas.values()} >= {max(world.executed().values())}
    for client in ("client", "other"):
        assert len(world.client_outputs[client].accepted) == 40
    assert {replica.core.view for replica in world.replicas.values()} == {0}


def test_trap_10_the_replicas_need_not_move_at_the_same_time() -> None:
    """CHECKPOINTs reach one replica at a time, and the primary oftenest; no request is lost,
    nobody is left behind, and nobody asks for another view.
    """
    world = small()
    order = itertools.cycle(("r0", "r0", "r0", "r1", "r2", "r3"))
    for timestamp in range(1, 21):
        world.ask(timestamp, b"%d" % timestamp)
        favourite = next(order)
        for seconds in (0.5, 0.0):
            world.deliver(
                lambda m, favourite=favourite: (
                    m.receiver == favourite  # type: ignore[misc]
                    or not isinstance(m.payload, Checkpoint)
                )
            )
            world.tick(seconds)
    world.run(6)
    for name in ("r1", "r2", "r3"):
        assert "outside the water marks" in world.refusals(name), "the primary was ahead of it"
    assert len(world.client_output.accepted) == 20
    assert len(set(world.executed().values())) == 1
    assert {replica.core.view for replica in world.replicas.values()} == {0}


def test_trap_11_a_single_peers_newer_checkpoint_is_not_adopted() -> None:
    """f+1 would not be enough to prove it either; 2f+1 are."""
    world = small()
    for replica in (2, 3):
        world.give("r1", world.checkpoint(4, FALSE, replica))
        core = world.replicas["r1"].core
        assert (core.low, core.checkpoints.certified.sequence, core.executed) == (0, 0, 0)
    assert world.emitted("r1", "behind") == []
    world.give("r1", world.checkpoint(4, FALSE, 0))
    assert world.emitted("r1", "behind") == [{"certified": 4, "executed": 0}]


def test_trap_11_a_differing_state_is_detected_and_stalls_nobody() -> None:
    """One replica's state is changed behind its back: it is told, the others go on."""
    world = small()
    world.ask_each(1, 1)
    world.applications["r2"].count += 1
    world.ask_each(2, 9)
    assert world.replicas["r2"].core.status is ReplicaStatus.DIVERGED
    assert len(world.client_output.accepted) == 9
    world.run(3)
    assert world.replicas["r2"].core.status.value == "normal", "and repaired"
    assert [replica.core.low for replica in world.replicas.values()] == [8, 8, 8, 8]
    assert set(world.executed().values()) == {9}
    assert len(world.emitted("r2", "diverged")) == 1


# --- 12: numbers of clients ---------------------------------------------------------------------


def test_trap_12_an_executed_request_is_answered_and_not_executed_again() -> None:
    """(a) the same number and bytes; (b) a lower number than the last."""
    world = small()
    world.ask_each(1, 3)
    for timestamp in (3, 1):
        before = [picture(replica) for replica in world.replicas.values()]
        for name in world.names:
            output = world.give(name, world.request(timestamp, b"%d" % timestamp))
            assert [send.to for send in output.messages] == ["client"]
        assert [picture(replica) for replica in world.replicas.values()] == before


def test_trap_12_a_number_far_in_the_future_locks_nobody_out() -> None:
    """(c) it is refused, or skipped where a faulty primary orders it; the next one is executed."""
    world = small()
    far = world.request(2**62, b"far")
    assert "beyond the window" in world.refuse("r1", far)
    message, signed, body = world.pre_prepare(1, [far])
    world.crash("r0")
    for name in world.replicas:
        world.give(name, signed, body)
        world.give(name, world.commit(1, message.digest, 0))
    world.deliver()
    assert set(world.executed().values()) == {1}
    assert world.emitted("r1", "executed")[0]["skipped"] == 1
    message, signed, body = world.pre_prepare(
        2, [world.request(1, b"mine"), world.request(1, b"other", "other")]
    )
    for name in world.replicas:
        world.give(name, signed, body)
        world.give(name, world.commit(2, message.digest, 0))
    world.deliver()
    assert world.applications["r1"].operations == [b"mine", b"other"]


def test_trap_12_a_request_under_two_numbers_is_executed_once() -> None:
    """(d) within a view: a faulty primary orders it twice."""
    world = small()
    world.crash("r0")
    for sequence in (1, 2):
        message, signed, body = world.pre_prepare(sequence, [world.request(1, b"x")])
        for name in world.replicas:
            world.give(name, signed, body)
            world.give(name, world.commit(sequence, message.digest, 0))
    world.deliver()
    assert set(world.executed().values()) == {2}
    assert world.applications["r2"].operations == [b"x"]
    check_safety(world)


def test_trap_12_a_request_under_two_numbers_of_two_views_is_executed_once() -> None:
    """(d) across a view change: executed at 1 in view 0, and the faulty primary of view 1, whose
    NEW-VIEW keeps it there, orders it at 2 as well.
    """
    world = small()
    world.ask_each(1, 1)
    digest = world.said("r0", PrePrepare)[0].digest
    prepared = [certificate(world, 1, digest)]
    changes = [view_change(world, i, 1, prepared=prepared) for i in (0, 1, 2)]
    for name in ("r0", "r1"):
        world.crash(name)
    message, signed, body = world.pre_prepare(2, [world.request(1, b"1")], view=1, replica=1)
    for name in ("r2", "r3"):
        world.give(name, new_view(world, 1, changes))
        assert world.core(name).has_entered
        world.give(name, signed, body)
        for replica in (0, 1):
            world.give(name, world.commit(2, message.digest, replica, 1))
    world.deliver()
    assert world.executed() == {"r2": 2, "r3": 2}
    for name in ("r2", "r3"):
        assert world.emitted(name, "executed")[-1]["skipped"] == 1
        assert world.applications[name].operations == [b"1"]
    check_safety(world, ("r2", "r3"))


def test_trap_12_the_cache_survives_a_state_transfer() -> None:
    """(e) what others executed is answered from the fetched state, and not executed again."""
    world = small()
    world.crash("r3")
    world.ask_each(1, 8)
    world.start("r3")
    world.connect("r3")
    world.run(4)
    assert world.emitted("r3", "state_transferred") == [{"sequence": 8, "executed": 0}]
    assert world.core("r3").execution.clients.low_timestamp("client") == 8
    before = picture(world.replicas["r3"])
    for timestamp in (1, 8):
        world.sent.clear()
        for name in ("r0", "r3"):
            world.give(name, world.request(timestamp, b"%d" % timestamp))
        (ours,) = world.said("r0", Replies)
        (theirs,) = world.said("r3", Replies)
        assert theirs.replies == ours.replies
    assert picture(world.replicas["r3"]) == before


def test_trap_12_the_cache_survives_a_restart_of_everybody() -> None:
    """(e) replies are part of the state and of what is executed again."""
    world = small()
    world.ask_each(1, 5)
    for name in world.names:
        world.crash(name)
    for name in world.names:
        world.start(name)
        output = world.give(name, world.request(5, b"5"))
        assert "client" in [send.to for send in output.messages]
        assert world.replicas[name].core.execution.clients.low_timestamp("client") == 5
    operations = [len(disk.entries) for disk in world.disks.values()]
    assert operations == [5, 5, 5, 5]
