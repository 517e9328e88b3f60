"""How PBFT implementations went wrong before, each a test; the numbers are the project's own.

Those that need a view change or state transfer come with these.
"""

import itertools
import random

import pytest

from pbft import authentication
from pbft.codec import (
    FRAME_BYTES_MAX,
    MalformedMessage,
    decode_frame,
    encode_frame,
    encode_message,
)
from pbft.core import ReplicaStatus
from pbft.genesis import Cluster
from pbft.messages import (
    AnyMessage,
    Checkpoint,
    Commit,
    Envelope,
    Prepare,
    PrePrepare,
    Replies,
    Request,
    Signed,
    Status,
)
from tests.pbft.checks import check_answers, check_safety
from tests.pbft.world import CrashPoint, World, picture

FALSE = bytes(31) + b"\x01"


def small() -> World:
    return World(checkpoint_interval=2, window=4, client_window=8)


def ask(world: World, first: int, last: int) -> None:
    for timestamp in range(first, last + 1):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()


# --- 4: domain separation -----------------------------------------------------------------------

SAID: list[AnyMessage] = [
    Request("r2", 1, FALSE),
    PrePrepare(0, 1, FALSE, 2),
    Prepare(0, 1, FALSE, 2),
    Prepare(1, 1, FALSE, 2),
    Prepare(0, 2, FALSE, 2),
    Prepare(0, 1, bytes(32), 2),
    Commit(0, 1, FALSE, 2),
    Commit(0, 2, FALSE, 2),
    Checkpoint(2, FALSE, 2),
    Status(0, 0, 1, 2),
    Replies((), 2),
]


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
    if not isinstance(claimed, PrePrepare | Replies) and getattr(claimed, "view", 0) == 0:
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
    assert [delivery.sequence for delivery in output.deliveries] == [1, 2, 3, 4]
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
    world.run(3)
    assert {core.core.low for core in world.replicas.values()} >= {max(world.executed().values())}
    for client in ("client", "other"):
        assert len(world.client_outputs[client].accepted) == 40


def test_trap_10_the_replicas_need_not_move_at_the_same_time() -> None:
    """CHECKPOINTs reach one replica at a time; no request is lost and nobody is left behind."""
    world = small()
    order = itertools.cycle(world.names)
    for timestamp in range(1, 21):
        world.ask(timestamp, b"%d" % timestamp)
        favourite = next(order)
        world.deliver(
            lambda m, favourite=favourite: (
                m.receiver == favourite  # type: ignore[misc]
                or not isinstance(m.payload, Checkpoint)
            )
        )
        world.run(2)
    assert len(world.client_output.accepted) == 20
    assert len(set(world.executed().values())) == 1


def test_trap_11_a_single_peers_newer_checkpoint_is_not_adopted() -> None:
    """f+1 would not be enough to prove it either; 2f+1 are."""
    world = small()
    for replica in (2, 3):
        world.give("r1", world.checkpoint(4, FALSE, replica))
        core = world.replicas["r1"].core
        assert (core.low, core.certified, core.executed) == (0, 0, 0)
    assert world.told("r1", "behind") == []
    world.give("r1", world.checkpoint(4, FALSE, 0))
    assert world.told("r1", "behind") == [{"certified": 4, "executed": 0}]


def test_trap_11_a_differing_state_is_detected_and_stalls_nobody() -> None:
    """One replica's state is changed behind its back: it is told, the others go on."""
    world = small()
    ask(world, 1, 1)
    world.applications["r2"].count += 1
    ask(world, 2, 9)
    world.run(2)
    assert world.replicas["r2"].core.status is ReplicaStatus.DIVERGED
    assert [world.replicas[name].core.low for name in ("r0", "r1", "r3")] == [8, 8, 8]
    assert len(world.client_output.accepted) == 9


# --- 12: numbers of clients ---------------------------------------------------------------------


def test_trap_12_an_executed_request_is_answered_and_not_executed_again() -> None:
    """(a) the same number and bytes; (b) a lower number than the last."""
    world = small()
    ask(world, 1, 3)
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
    assert world.told("r1", "executed")[0]["skipped"] == 1
    message, signed, body = world.pre_prepare(
        2, [world.request(1, b"mine"), world.request(1, b"other", "other")]
    )
    for name in world.replicas:
        world.give(name, signed, body)
        world.give(name, world.commit(2, message.digest, 0))
    world.deliver()
    assert world.applications["r1"].operations == [b"mine", b"other"]


def test_trap_12_a_request_under_two_numbers_is_executed_once() -> None:
    """(d) as far as it goes without a view change: a faulty primary orders it twice."""
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


def test_trap_12_the_cache_survives_a_restart_of_everybody() -> None:
    """(e) replies are part of the state and of what is executed again."""
    world = small()
    ask(world, 1, 5)
    for name in world.names:
        world.crash(name)
    for name in world.names:
        world.start(name)
        output = world.give(name, world.request(5, b"5"))
        assert "client" in [send.to for send in output.messages]
        assert world.replicas[name].core.clients.floor("client") == 5
    operations = [len(disk.entries) for disk in world.disks.values()]
    assert operations == [5, 5, 5, 5]


# --- 18: amnesia --------------------------------------------------------------------------------


def run_with_crash(name: str, point: CrashPoint | None) -> World:
    """Five requests at once, over two checkpoints; the killed replica comes back at once."""
    world = small()
    if point is not None:
        world.crash_points[name] = point
    for timestamp in range(1, 4):
        world.ask(timestamp, b"%d" % timestamp)
    for _ in range(6):
        world.run(1)
        if name not in world.replicas:
            world.start(name)
            world.connect(name)
    for timestamp in (4, 5):
        world.ask(timestamp, b"%d" % timestamp)
        world.run(2)
        if name not in world.replicas:
            world.start(name)
            world.connect(name)
    world.run(6)
    return world


@pytest.mark.parametrize("name", ["r0", "r1"])
@pytest.mark.parametrize(
    ("saved", "sent"),
    [(False, 0), (True, 0), (True, 1), (True, 1000)],
    ids=["before saving", "before sending", "while sending", "after sending"],
)
def test_trap_18_a_replica_killed_after_any_turn_contradicts_itself_never(
    name: str, saved: bool, sent: int
) -> None:
    """kill -9 at every turn of a run, before or after its save, while or after its send."""
    turns = run_with_crash(name, None).turns[name]
    assert turns > 30
    for turn in range(1, turns):
        world = run_with_crash(name, CrashPoint(turn, saved, sent))
        check_safety(world)
        check_answers(world)
        assert len(world.client_output.accepted) == 5, turn
        assert len(set(world.executed().values())) == 1, turn


def test_trap_18_a_primary_that_gave_a_number_and_was_killed_gives_it_to_nothing_else() -> None:
    """The PRE-PREPARE is on disk, nobody heard it, and another request comes first now."""
    world = small()
    world.crash_points["r0"] = CrashPoint(1, saved=True, sent=0)
    world.give("r0", world.request(1, b"first"))
    assert world.said("r0", PrePrepare) == []
    world.start("r0")
    world.give("r0", world.request(1, b"other", "other"))
    world.give("r0", world.request(1, b"first"))
    world.connect("r0")
    world.run(3)
    assert [m.sequence for m in world.said("r0", PrePrepare)] == [2, 1]
    assert world.applications["r1"].operations == [b"first", b"other"]


def test_trap_18_a_backup_that_voted_and_was_killed_votes_for_nothing_else() -> None:
    """The primary is faulty and tries the second digest after the restart."""
    world = small()
    first = world.pre_prepare(1, [world.request(1, b"first")])
    second = world.pre_prepare(1, [world.request(1, b"second")])
    world.give("r1", first[1], first[2])
    world.crash("r1")
    world.start("r1")
    assert "another digest was accepted" in world.refuse("r1", second[1], second[2])
    for replica in (2, 3):
        world.give("r1", world.prepare(1, second[0].digest, replica))
    assert world.said("r1", Commit) == []
    assert [m.digest for m in world.said("r1", Prepare)] == [first[0].digest]


def test_trap_18_a_replica_that_was_killed_before_it_saved_has_said_nothing() -> None:
    """What was signed in a turn that never reached the disk never reached anybody either."""
    world = small()
    world.crash_points["r1"] = CrashPoint(1, saved=False, sent=0)
    message, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    world.give("r1", signed, body)
    assert "r1" not in world.replicas
    assert [m for m in world.sent if m.sender == "r1"] == []
    world.start("r1")
    world.give("r1", signed, body)
    assert [m.digest for m in world.said("r1", Prepare)] == [message.digest]


# --- 19: envelope and content -------------------------------------------------------------------


def test_trap_19_the_claimed_signer_must_be_the_one_inside() -> None:
    """For every type: the outer name differs from the inner one."""
    world = small()
    for message in SAID:
        for claimed in ("r0", "r1", "r3", "client", "stranger", "\0"):
            signed = Signed(claimed, encode_message(message), world.sign("r2", message).signature)
            reason = world.refuse("r1", signed)
            assert "the signer is not" in reason or reason == "unknown signer"


def test_trap_19_nothing_happens_before_the_signature_is_checked() -> None:
    """A forged message of every type leaves no trace: no vote, no accusation, no reply."""
    world = small()
    ask(world, 1, 3)
    digest = world.said("r0", PrePrepare)[-1].digest
    world.give("r1", world.prepare(4, FALSE, 2))
    world.give("r1", world.commit(4, FALSE, 2))
    world.give("r1", world.checkpoint(4, FALSE, 2))
    other = bytes(32)
    forged: list[AnyMessage] = [
        Request("client", 4, b"4"),
        Request("client", 3, b"3"),
        PrePrepare(0, 4, digest, 0),
        Prepare(0, 4, other, 2),
        Commit(0, 4, other, 2),
        Checkpoint(4, other, 2),
        Status(0, 0, 0, 2),
    ]
    for message in forged:
        if isinstance(message, Request):
            name = message.client
        else:
            assert not isinstance(message, Replies)
            name = world.names[getattr(message, "replica", 0)]
        signed = Signed(name, encode_message(message), bytes(64))
        assert world.refuse("r1", signed) == "bad signature"
    assert world.told("r1", "equivocation") == []


# --- 20: memory ---------------------------------------------------------------------------------


def kept(world: World, name: str) -> tuple[int, int, int, int]:
    """How many slots, votes and batches, checkpoint votes and pending requests are kept."""
    core = world.replicas[name].core
    votes = sum(
        len(s.prepares) + len(s.commits) + len(s.batches) + len(s.records)
        for s in core.log.above(0)
    )
    checkpoints = sum(
        len(core.checkpoint_votes.own_above(i, 0)) for i in range(core.quorums.replicas)
    )
    return len(core.log), votes, checkpoints, len(core.pending)


def test_trap_20_a_flood_of_numbers_leaves_a_bounded_log() -> None:
    """A faulty replica signs votes for many numbers and digests, near and far."""
    world = small()
    random_source = random.Random(20)
    world.give("r1", world.prepare(1, FALSE, 2))
    for _ in range(4000):
        sequence = random_source.choice(
            [random_source.randrange(8), random_source.randrange(2**62)]
        )
        digest = random_source.randbytes(32)
        kind = random_source.choice([Prepare, Commit, Checkpoint, Status])
        if kind is Checkpoint:
            signed = world.checkpoint(sequence // 2 * 2, digest, 2)
        elif kind is Status:
            signed = world.sign("r2", Status(sequence, sequence, sequence, 2))
        else:
            view = random_source.choice([0, random_source.randrange(2**62)])
            signed = world.sign("r2", kind(view, sequence, digest, 2))
        world.replicas["r1"].receive([Envelope(signed)], 0.0)
    slots, votes, checkpoints, _ = kept(world, "r1")
    assert slots <= 4
    assert votes <= 2 * 4
    assert checkpoints <= 4 // 2 + 2
    assert world.replicas["r1"].core.peer_executed.keys() <= {2}


def test_trap_20_a_flood_of_pre_prepares_leaves_one_batch_per_number() -> None:
    """A faulty primary fills the window, and then tries a second body for each number."""
    world = World(checkpoint_interval=8, window=16)
    request = world.request(1, bytes(100_000))
    for sequence in range(1, 40):
        for copies in (1, 2):
            _, signed, body = world.pre_prepare(sequence, [request] * copies)
            world.give("r1", signed, body)
    core = world.replicas["r1"].core
    slots = list(core.log.above(0))
    assert len(slots) == 16
    assert all(len(slot.batches) == 1 and len(slot.records) == 2 for slot in slots)
    assert len(world.disks["r1"].bodies) == 1, "one body, however often it is ordered"


def test_trap_20_a_client_that_floods_fills_its_own_window_only() -> None:
    """Numbers beyond the window are refused, and a number is kept once."""
    world = small()
    for timestamp in range(1, 100):
        for variant in range(3):
            world.give("r1", world.request(timestamp, b"%d" % variant))
    assert kept(world, "r1")[3] == 8
    world.give("r1", world.request(1, b"x", "other"))
    assert kept(world, "r1")[3] == 9


def test_trap_20_what_is_too_big_is_refused_when_it_is_decoded() -> None:
    """Frames, bodies, operations and names have limits of their own."""
    world = small()
    with pytest.raises(MalformedMessage, match="a frame of"):
        decode_frame(bytes(FRAME_BYTES_MAX + 1))
    signed = world.prepare(1, FALSE, 2)
    with pytest.raises(MalformedMessage):
        decode_frame(encode_frame([Envelope(signed, bytes(8 * 1024 * 1024 + 1))]))
    assert decode_frame(encode_frame([Envelope(signed, bytes(8 * 1024 * 1024))]))
    large = world.sign("client", Request("client", 1, bytes(256 * 1024 + 1)))
    assert world.refuse("r1", large).startswith("malformed")
    long_name = "c" * 65
    assert world.refuse("r1", world.sign(long_name, Request(long_name, 1, b""))).startswith(
        "malformed"
    )


def test_trap_20_what_was_executed_is_no_longer_pending_or_proposed_anywhere() -> None:
    """Also what a batch skipped, and what a client asked for too late."""
    world = small()
    ask(world, 1, 12)
    for name in world.names:
        world.give(name, world.request(12, b"12"))
    world.run(2)
    for replica in world.replicas.values():
        assert len(replica.core.pending) == 0
        assert replica.core.proposed == set()
        assert replica.core.snapshots == {}


def test_trap_20_remembered_signatures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification is remembered by exact bytes, for the newest ones only."""
    monkeypatch.setattr(authentication, "REMEMBERED_MAX", 10)
    world = World(client_window=100)
    for timestamp in range(1, 101):
        world.give("r1", world.request(timestamp, b""))
    assert len(world.replicas["r1"].core.authenticator._good) == 10


def test_trap_20_a_paused_replica_takes_what_piled_up_in_one_turn() -> None:
    """SIGSTOP under load: thousands of messages at once, duplicates among them."""
    world = World(checkpoint_interval=8, window=16)
    for timestamp in range(1, 13):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: m.receiver != "r3")
    piled_up = [m for m in world.under_way if m.receiver == "r3"] * 5
    world.under_way.clear()
    world.deliver_together(piled_up)
    assert world.executed()["r3"] == 12
    assert kept(world, "r3")[0] <= 16 + 8
    world.run(2)
    assert world.replicas["r3"].core.low == 8
    check_safety(world)
