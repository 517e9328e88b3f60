"""Traps of docs/TRAPS.md: replicas that forget what they said, believe an envelope, or fill up."""

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
from pbft.core import Settings
from pbft.log import COMMIT_VIEWS_KEPT, NULL_REQUEST
from pbft.messages import (
    BODY_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    REQUEST_BYTES_MAX,
    AnyMessage,
    Checkpoint,
    Commit,
    Envelope,
    FetchBody,
    FetchState,
    NewView,
    Prepare,
    PrePrepare,
    Recover,
    Replies,
    Request,
    Signed,
    Status,
    ViewChange,
)
from tests.pbft.checks import check_answers, check_safety
from tests.pbft.forge import FALSE, SAID, certificate, view_change
from tests.pbft.world import CrashPoint, World

SETTINGS = Settings(view_change_seconds=4.0, view_change_seconds_max=16.0)


def small() -> World:
    return World(checkpoint_interval=2, window=4, client_window=8, settings=SETTINGS)


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


def crash_points(whole: World, name: str, saved: bool, sent: int) -> list[CrashPoint]:
    """Where to kill that replica in a run like this whole one: each point leaves another world.

    In a turn without records it is the same before saving and before sending; in one without
    messages before and while sending; and in one with a single message while and after it.
    """
    # The first output is that of the start, which is no turn.
    return [
        CrashPoint(turn, saved, sent)
        for turn, output in enumerate(whole.outputs[name][1:], start=1)
        if not saved
        or (sent == 0 and output.records)
        or (sent == 1 and output.messages)
        or (sent > 1 and len(output.messages) > 1)
    ]


CRASHES = pytest.mark.parametrize(
    ("saved", "sent"),
    [(False, 0), (True, 0), (True, 1), (True, 1000)],
    ids=["before saving", "before sending", "while sending", "after sending"],
)


@pytest.mark.parametrize("name", ["r0", "r1"])
@CRASHES
def test_trap_18_a_replica_killed_after_any_turn_contradicts_itself_never(
    name: str, saved: bool, sent: int
) -> None:
    """kill -9 at every turn of a run, before or after its save, while or after its send."""
    whole = run_with_crash(name, None)
    assert whole.turns[name] > 30
    for point in crash_points(whole, name, saved, sent):
        world = run_with_crash(name, point)
        check_safety(world)
        check_answers(world)
        assert len(world.client_output.accepted) == 5, point
        assert len(set(world.executed().values())) == 1, point


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


def view_changes_with_crash(name: str, point: CrashPoint | None) -> World:
    """Requests, the primary of view 0 dies, requests, it comes back; `name` is killed once."""
    world = small()
    if point is not None:
        world.crash_points[name] = point
    world.ask(1, b"1")
    world.run(1)
    world.ask(2, b"2")
    # PREPAREs arrive, COMMITs do not: what is prepared has to come through the view change.
    world.deliver(lambda m: not isinstance(m.payload, Commit))
    world.drop(lambda m: True)
    world.crash("r0")
    for _ in range(9):
        world.run(1)
        revive(world, name)
    world.start("r0")
    world.connect("r0")
    world.ask(3, b"3")
    for _ in range(3):
        world.run(1)
        revive(world, name)
    world.crash_points = {}
    revive(world, name)
    world.run(14)
    return world


def revive(world: World, name: str) -> None:
    if name not in world.replicas:
        world.start(name)
        world.connect(name)


@pytest.mark.parametrize("name", ["r1", "r2"])
@CRASHES
def test_trap_18_killed_after_any_turn_of_a_view_change(name: str, saved: bool, sent: int) -> None:
    """The new primary and a backup: never a vote in a view that was left, never two
    VIEW-CHANGEs or NEW-VIEWs for one view, and everything is answered."""
    whole = view_changes_with_crash(name, None)
    assert whole.turns[name] > 40
    for point in crash_points(whole, name, saved, sent):
        world = view_changes_with_crash(name, point)
        check_safety(world)
        check_answers(world)
        assert len(world.client_output.accepted) == 3, point
        assert len(set(world.executed().values())) == 1, point


def test_trap_18_a_new_primary_that_was_killed_does_not_begin_its_view_again_otherwise() -> None:
    """Its NEW-VIEW is on disk; after the restart it stands by it and by its numbers."""
    world = small()
    changes = [
        view_change(world, 0, 1, prepared=[certificate(world, 2, NULL_REQUEST)]),
        view_change(world, 2, 1),
    ]
    for signed in changes:
        world.give("r1", signed)
    world.give("r1", world.request(1, b"x"))
    assert [m.sequence for m in world.said("r1", PrePrepare)] == [3]
    world.crash("r1")
    world.start("r1")
    core = world.core("r1")
    assert (core.view, core.has_entered, core.proposer.next_sequence) == (1, True, 4)
    world.give("r1", world.request(1, b"other", "other"))
    assert [m.sequence for m in world.said("r1", PrePrepare)] == [3, 4]
    assert len(world.said("r1", NewView)) == 1
    check_safety(world)


def test_trap_18_a_restarted_primary_proposes_what_its_view_did_not_take_over() -> None:
    """T3: a batch of an older view that nobody prepared is no longer in the way of its requests."""
    world = small()
    _, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    world.give("r1", signed, body)
    for replica in (0, 2):
        world.give("r1", view_change(world, replica, 1))
    assert world.core("r1").has_entered
    world.crash("r1")
    world.start("r1")
    world.give("r1", world.request(1, b"x"))
    assert [(m.view, m.sequence) for m in world.said("r1", PrePrepare)] == [(1, 1)]


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
    world.ask_each(1, 3)
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
        Status(0, True, 0, 0, 2),
    ]
    for message in forged:
        if isinstance(message, Request):
            name = message.client
        else:
            assert not isinstance(message, Replies)
            name = world.names[getattr(message, "replica", 0)]
        signed = Signed(name, encode_message(message), bytes(64))
        assert world.refuse("r1", signed) == "bad signature"
    assert world.emitted("r1", "equivocation") == []


def of_r2(world: World, kind: type[AnyMessage]) -> tuple[AnyMessage, bytes]:
    """A message of that type that counts if r2 says it, or the primary or a client; its body."""
    pre_prepare, _, body = world.pre_prepare(4, [world.request(4, b"4")], view=0, replica=0)
    digest = world.said("r0", PrePrepare)[-1].digest
    changes = [view_change(world, replica, 2) for replica in (0, 2, 3)]
    messages: list[AnyMessage] = [
        Request("client", 4, b"4"),
        pre_prepare,
        Prepare(0, 4, FALSE, 2),
        Commit(0, 4, FALSE, 2),
        Checkpoint(4, FALSE, 2),
        ViewChange(1, 0, (), (), 2),
        NewView(2, tuple(changes), (), 2),
        Status(0, True, 2, 3, 2),
        FetchBody(3, digest, 2),
        FetchState(2, (), 2),
        Recover(FALSE, 2, 2),
    ]
    (message,) = (message for message in messages if type(message) is kind)
    return message, body if kind is PrePrepare else b""


@pytest.mark.parametrize(
    "kind",
    [
        Request,
        PrePrepare,
        Prepare,
        Commit,
        Checkpoint,
        ViewChange,
        NewView,
        Status,
        FetchBody,
        FetchState,
        Recover,
    ],
)
def test_trap_19_nobody_says_anything_in_the_name_of_another(kind: type[AnyMessage]) -> None:
    """Signed by nobody, with one's own key, with what the other signed for something else, or for
    another cluster: nothing happens. Signed by the one that it names, the same counts."""
    world, other = small(), World(7)
    world.ask_each(1, 3)
    message, body = of_r2(world, kind)
    name = {Request: "client", PrePrepare: "r0"}.get(kind, "r2")
    payload = encode_message(message)
    for signature in (
        bytes(64),
        world.sign("r3", message).signature,
        world.sign(name, Replies((), 2)).signature,
        world.sign(name, message, other.cluster).signature,
    ):
        assert world.refuse("r1", Signed(name, payload, signature), body) == "bad signature"
    refused = len(world.refusals("r1"))
    world.give("r1", world.sign(name, message), body)
    assert len(world.refusals("r1")) == refused


# --- 20: memory ---------------------------------------------------------------------------------


def kept(world: World, name: str) -> tuple[int, int, int, int]:
    """How many slots, votes and batches, checkpoint votes and pending requests are kept."""
    core = world.replicas[name].core
    votes = sum(
        len(s.prepares)
        + sum(len(views) for views in s.commits.values())
        + len(s.batches.keys() - {NULL_REQUEST})
        + len(s.records)
        for s in core.log.above(0)
    )
    checkpoints = sum(
        len(core.checkpoints.votes.own_above(i, 0)) for i in range(core.quorums.replicas)
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
            signed = world.sign("r2", Status(sequence, True, sequence, sequence, 2))
        else:
            view = random_source.choice([0, random_source.randrange(2**62)])
            signed = world.sign("r2", kind(view, sequence, digest, 2))
        world.replicas["r1"].receive([Envelope(signed)], 0.0)
    slots, votes, checkpoints, _ = kept(world, "r1")
    assert slots <= 4
    assert votes <= (1 + COMMIT_VIEWS_KEPT) * 4
    assert checkpoints <= 4 // 2 + 2
    assert world.replicas["r1"].core.peers.progress.keys() <= {2}


def test_trap_20_a_flood_of_pre_prepares_leaves_one_batch_per_number() -> None:
    """A faulty primary fills the window, and then tries a second body for each number."""
    world = World(checkpoint_interval=8, window=16)
    request = world.request(1, bytes(100_000))
    for sequence in range(1, 40):
        for other in ((), (world.request(2, b""),)):
            _, signed, body = world.pre_prepare(sequence, [request, *other])
            world.give("r1", signed, body)
    core = world.replicas["r1"].core
    slots = list(core.log.above(0))
    assert len(slots) == 16
    assert all(len(slot.batches.keys() - {NULL_REQUEST}) == 1 for slot in slots)
    assert all(len(slot.records) == 2 for slot in slots)
    assert len(world.disks["r1"].bodies) == 1, "one body, however often it is ordered"


def test_trap_20_bodies_of_a_whole_window_are_bounded() -> None:
    """A faulty primary fills every slot; a body larger than the window allows is refused."""
    world = World(checkpoint_interval=512, window=1024, client_window=64, settings=SETTINGS)
    body_bytes_max = world.cluster.body_bytes_max
    large = [world.request(t, bytes(BODY_BYTES_MAX // 20)) for t in range(1, 5)]
    message, signed, body = world.pre_prepare(1, large)
    assert body_bytes_max < len(body) <= BODY_BYTES_MAX
    assert world.refuse("r1", signed, body) == (
        f"a body of {len(body)} bytes; at most {body_bytes_max}"
    )
    assert world.core("r1").log.slot(1).accepted is None
    message, signed, body = world.pre_prepare(1, large[:2])
    world.give("r1", signed, body)
    assert world.core("r1").log.slot(1).accepted == message.digest


def test_trap_20_an_honest_primary_never_proposes_what_is_refused() -> None:
    """The largest requests of many clients' numbers at once, in a cluster of the largest window."""
    world = World(checkpoint_interval=512, window=1024, client_window=64, settings=SETTINGS)
    for timestamp in range(1, 9):
        world.ask(timestamp, bytes([timestamp]) * REQUEST_BYTES_MAX)
    world.deliver()
    assert len(world.client_output.accepted) == 8
    assert not any("bytes" in reason for name in world.names for reason in world.refusals(name))


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
        decode_frame(encode_frame([Envelope(signed, bytes(BODY_BYTES_MAX + 1))]))
    assert decode_frame(encode_frame([Envelope(signed, bytes(BODY_BYTES_MAX))]))
    oversized = Signed("r2", bytes(PAYLOAD_BYTES_MAX + 1), signed.signature)
    with pytest.raises(MalformedMessage):
        decode_frame(encode_frame([Envelope(oversized)]))
    large = world.sign("client", Request("client", 1, bytes(256 * 1024 + 1)))
    assert world.refuse("r1", large).startswith("malformed")
    long_name = "c" * 65
    assert world.refuse("r1", world.sign(long_name, Request(long_name, 1, b""))).startswith(
        "malformed"
    )


def test_trap_20_what_was_executed_is_no_longer_pending_or_proposed_anywhere() -> None:
    """Also what a batch skipped, and what a client asked for too late."""
    world = small()
    world.ask_each(1, 12)
    for name in world.names:
        world.give(name, world.request(12, b"12"))
    world.run(2)
    for replica in world.replicas.values():
        assert len(replica.core.pending) == 0
        assert replica.core.proposer.proposed == set()
        assert replica.core.checkpoints.snapshots == {}


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


def test_trap_20_a_flood_of_future_views_and_numbers_leaves_nothing() -> None:
    """A faulty replica signs everything there is, for any view and number."""
    world = small()
    random_source = random.Random(2020)
    for round_number in range(3000):
        near = random_source.choice(
            [random_source.randrange(1, 9), random_source.randrange(1, 2**62)]
        )
        view = random_source.randrange(random_source.choice([9, 2**62]))
        digest = random_source.randbytes(32)
        words: list[AnyMessage] = [
            PrePrepare(view, near, digest, 2),
            Prepare(view, near, digest, 2),
            Commit(view, near, digest, 2),
            Checkpoint(near * 2 % 2**62, digest, 2),
            Status(view, bool(round_number % 2), near, near, 2),
            ViewChange(max(view, 1), 0, (), (), 2),
            NewView(max(view, 1), (), (), 2),
            FetchState(near, (), 2),
            Recover(digest, 2, near),
        ]
        signed = world.sign("r2", random_source.choice(words))
        world.replicas["r1"].receive([Envelope(signed)], world.now)
    core = world.core("r1")
    assert (core.view, core.has_entered, core.executed) == (0, True, 0)
    assert len(core.log) <= 4
    commits = [len(views) for slot in core.log.above(0) for views in slot.commits.values()]
    assert sum(commits) <= 4 * COMMIT_VIEWS_KEPT
    assert set(core.views.changes) <= {2}
    assert len(core.recovery.requests) <= 1
    assert len(core.checkpoints.votes.own_above(2, 0)) <= 4
    assert len(core.timers.waiting) <= 1 + 1
    assert set(core.peers.progress) | set(core.peers.status) | set(core.peers.answered_at) <= {2}


def test_trap_20_state_transfer_leaves_nothing_of_what_was_proposed() -> None:
    """A primary that was overtaken: no requests that were executed elsewhere stay proposed."""
    world = small()
    world.ask(1, b"1")
    world.deliver(lambda m: m.receiver == "r0" and isinstance(m.payload, Request))
    held = [m for m in world.under_way if m.sender == "r0" and isinstance(m.payload, PrePrepare)]
    assert held
    world.deliver(lambda m: m.receiver != "r0")
    world.drop(lambda m: m.receiver == "r0")
    for timestamp in range(2, 9):
        world.ask(timestamp, b"%d" % timestamp)
        for _ in range(8):
            for name in ("r1", "r2", "r3"):
                world.handle_timer(name, 0.25)
            world.deliver(lambda m: "r0" not in (m.sender, m.receiver))
            world.drop(lambda m: "r0" in (m.sender, m.receiver))
    assert world.executed()["r1"] >= 7
    world.run(6)
    core = world.core("r0")
    assert core.executed == world.executed()["r1"]
    assert (len(core.pending), core.proposer.proposed) == (0, set())
