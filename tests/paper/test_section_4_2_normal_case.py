"""OSDI'99, section 4.2, "Normal-Case Operation": the primary, and PRE-PREPARE."""

import pytest

from pbft.codec import digest_of, encode_batch
from pbft.log import NULL_REQUEST
from pbft.messages import (
    Checkpoint,
    Hello,
    Prepare,
    PrePrepare,
    Replies,
    Reply,
    Request,
    Signed,
)
from pbft.ports import SavedBody, SavedMessage
from tests.pbft.forge import FALSE, backup_with_pre_prepare, with_bad_signature
from tests.pbft.world import World, picture

# --- the primary --------------------------------------------------------------------------------


def test_the_primary_gives_the_next_number_and_sends_the_request_with_it() -> None:
    """The primary p gives n to m and multicasts <<PRE-PREPARE, v, n, d>, m>, and logs it."""
    world = World()
    output = world.give("r0", world.request(1, b"x"))
    (send,) = [m for m in output.messages if m.envelope.body]
    assert send.to is None
    body = encode_batch((world.request(1, b"x"),))
    assert send.envelope.body == body
    assert world.said("r0", PrePrepare) == [PrePrepare(0, 1, digest_of(body), 0)]
    assert SavedBody(1, digest_of(body), body) in output.records
    assert SavedMessage(send.envelope.signed) in output.records


def test_the_primary_is_v_mod_n() -> None:
    """4: the primary of view v is replica v mod |R|; only it gives numbers."""
    world = World()
    assert [world.cluster.primary(view) for view in range(6)] == [0, 1, 2, 3, 0, 1]
    for name in ("r1", "r2", "r3"):
        world.give(name, world.request(1, b"x"))
        assert world.said(name, PrePrepare) == []


def test_the_primary_gives_a_number_at_once_while_the_pipeline_has_room() -> None:
    """Several numbers may be in flight; what comes while the pipeline is full becomes a batch."""
    world = World(window=64, checkpoint_interval=32)
    depth = world.settings.pipeline_depth
    for timestamp in range(1, depth + 8):
        world.give("r0", world.request(timestamp, b"%d" % timestamp))
    assert [m.sequence for m in world.said("r0", PrePrepare)] == list(range(1, depth + 1))
    world.deliver()
    assert len(world.said("r0", PrePrepare)) == depth + 1
    assert set(world.executed().values()) == {depth + 1}
    expected = [b"%d" % t for t in range(1, depth + 8)]
    assert all(a.operations == expected for a in world.applications.values())


def test_a_batch_holds_no_more_bytes_than_it_may_but_always_one_request() -> None:
    """5 (batching), bounded: what does not fit waits for the next number."""
    world = World(window=64, checkpoint_interval=32)
    world.settings = type(world.settings)(pipeline_depth=1, batch_bytes_max=1000)
    world.crash("r0")
    world.start("r0")
    world.give("r0", world.request(1, bytes(5000)))
    for timestamp in range(2, 7):
        world.give("r0", world.request(timestamp, bytes(200)))
    world.deliver()
    batches = [details["requests"] for details in world.emitted("r2", "executed")]
    assert batches == [1, 2, 2, 1]


def test_clients_take_turns() -> None:
    """4.5.2, fairness: a client with much to ask does not keep another waiting."""
    world = World(client_window=64)
    world.settings = type(world.settings)(pipeline_depth=1, batch_bytes_max=900)
    world.crash("r0")
    world.start("r0")
    for timestamp in range(1, 21):
        world.give("r0", world.request(timestamp, b"client %d" % timestamp))
    for timestamp in (1, 2):
        world.give("r0", world.request(timestamp, b"other %d" % timestamp, "other"))
    world.deliver()
    operations = world.applications["r0"].operations
    assert operations.index(b"other 1") <= 3
    assert operations.index(b"other 2") <= 6
    own = [o for o in operations if o.startswith(b"client")]
    assert own == [b"client %d" % t for t in range(1, 21)], "each client's lowest number first"


def test_the_rotation_goes_on_after_the_client_that_was_served_last() -> None:
    """4.5.2, fairness over batches that have room for one request only."""
    world = World()
    world.settings = type(world.settings)(pipeline_depth=1, batch_bytes_max=1)
    world.crash("r0")
    world.start("r0")
    for timestamp in (1, 2, 3):
        for client in ("client", "other", "r2"):
            signed = world.request(timestamp, client.encode(), client)
            world.give("r0", signed)
    world.deliver()
    assert world.applications["r0"].operations == [b"client", b"other", b"r2"] * 3


def test_a_request_gets_one_number_however_often_it_comes() -> None:
    """4.1, 4.2: the primary does not order a request twice."""
    world = World()
    for _ in range(5):
        world.give("r0", world.request(1, b"x"))
    assert len(world.said("r0", PrePrepare)) == 1
    world.deliver()
    for _ in range(5):
        world.give("r0", world.request(1, b"x"))
    world.run(2)
    assert len(world.said("r0", PrePrepare)) == 1


def test_the_primary_stops_at_the_high_water_mark() -> None:
    """h < n <= H keeps a faulty primary from exhausting the numbers; a correct one obeys it."""
    world = World(checkpoint_interval=2, window=4, client_window=64)
    for timestamp in range(1, 21):
        world.give("r0", world.request(timestamp, b"x"))
        world.deliver(
            lambda m: not isinstance(m.payload, Replies) and not isinstance(m.payload, Checkpoint)
        )
    assert world.said("r0", PrePrepare)[-1].sequence == 4
    world.run(4)
    # All that waited went into the fifth number's batch.
    assert world.said("r0", PrePrepare)[-1].sequence == 5
    assert len(world.applications["r0"].operations) == 20


# --- PRE-PREPARE at a backup --------------------------------------------------------------------


def test_a_backup_accepts_a_pre_prepare_and_multicasts_prepare_after_saving_both() -> None:
    """A backup enters the prepare phase: it multicasts PREPARE and adds both to its log."""
    world = World()
    message, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    output = world.give("r1", signed, body)
    (prepare,) = world.said("r1", Prepare)
    assert prepare == Prepare(0, 1, message.digest, 1)
    (sent,) = [
        m for m in output.messages if m.envelope.signed == world.prepare(1, message.digest, 1)
    ]
    assert sent.to is None
    assert output.records == [
        SavedBody(1, message.digest, body),
        SavedMessage(signed),
        SavedMessage(sent.envelope.signed),
    ]


def test_pre_prepare_refused_with_a_bad_signature() -> None:
    """The signatures in the request and the PRE-PREPARE are correct (first condition)."""
    world = World()
    _, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    assert world.refuse("r1", with_bad_signature(signed), body) == "bad signature"
    world.give("r1", signed, body)
    assert len(world.said("r1", Prepare)) == 1


@pytest.mark.parametrize("view", [1, 4, 2**62])
def test_pre_prepare_refused_of_another_view(view: int) -> None:
    """It is in view v (second condition); view 4 has the same primary."""
    world = World()
    replica = view % 4
    _, signed, body = world.pre_prepare(1, [world.request(1, b"x")], view=view, replica=replica)
    assert "while in view 0" in world.refuse("r1" if replica != 1 else "r2", signed, body)


def test_pre_prepare_refused_from_a_backup() -> None:
    """Only the primary of the view gives numbers."""
    world = World()
    _, signed, body = world.pre_prepare(1, [world.request(1, b"x")], replica=2)
    assert "not the primary" in world.refuse("r1", signed, body)


def test_pre_prepare_refused_that_a_backup_signed_in_the_primarys_name() -> None:
    """The sender that the message names is the one that signed it."""
    world = World()
    message, _, body = world.pre_prepare(1, [world.request(1, b"x")])
    assert "not the replica" in world.refuse("r1", world.sign("r2", message), body)
    claimed = Signed("r0", world.sign("r2", message).payload, world.sign("r2", message).signature)
    assert world.refuse("r1", claimed, body) == "bad signature"


@pytest.mark.parametrize(("sequence", "is_accepted"), [(0, False), (1, True), (16, True)])
def test_pre_prepare_within_the_first_water_marks(sequence: int, is_accepted: bool) -> None:
    """h < n <= H (fourth condition): the edges, from the genesis on."""
    world = World(checkpoint_interval=8, window=16)
    _, signed, body = world.pre_prepare(sequence, [world.request(1, b"x")])
    if is_accepted:
        world.give("r1", signed, body)
        assert len(world.said("r1", Prepare)) == 1
    else:
        assert world.refuse("r1", signed, body) == "outside the water marks"


@pytest.mark.parametrize("sequence", [2, 1, 7, 2**62])
def test_pre_prepare_refused_outside_the_water_marks_after_a_checkpoint(sequence: int) -> None:
    """h < n <= H with h = 2 and H = 6: what is decided is not opened again."""
    world = World(checkpoint_interval=2, window=4)
    for timestamp in (1, 2):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    assert world.replicas["r1"].core.low == 2
    _, signed, body = world.pre_prepare(sequence, [world.request(3, b"x")])
    assert world.refuse("r1", signed, body) == "outside the water marks"


def test_pre_prepare_refused_with_another_digest_for_the_same_view_and_number() -> None:
    """It has not accepted a PRE-PREPARE for v and n with another digest (third condition)."""
    world = World()
    digest = backup_with_pre_prepare(world)
    _, signed, body = world.pre_prepare(1, [world.request(1, b"another")])
    assert "another digest was accepted" in world.refuse("r1", signed, body)
    assert world.emitted("r1", "equivocation") == [{"replica": 0}]
    assert [m.digest for m in world.said("r1", Prepare)] == [digest]


def test_a_forged_second_pre_prepare_accuses_nobody() -> None:
    """docs/TRAPS.md 19: side effects come after the signature check; only a signature accuses."""
    world = World()
    backup_with_pre_prepare(world)
    _, signed, body = world.pre_prepare(1, [world.request(1, b"another")])
    assert world.refuse("r1", with_bad_signature(signed), body) == "bad signature"
    assert world.emitted("r1", "equivocation") == []


def test_pre_prepare_refused_whose_body_has_another_digest() -> None:
    """d is the digest of m (first condition)."""
    world = World()
    _, signed, _ = world.pre_prepare(1, [world.request(1, b"x")])
    other_body = encode_batch((world.request(1, b"y"),))
    assert world.refuse("r1", signed, other_body) == "the body does not have the digest"
    assert world.refuse("r1", signed) == "the body does not have the digest"


def signed_pre_prepare_over(world: World, body: bytes) -> Signed:
    return world.sign("r0", PrePrepare(0, 1, digest_of(body), 0))


@pytest.mark.parametrize(
    "body",
    [b"\x90", b"\xc0", b"\x91\x90", b"\x91\x01", b"\xff" * 50, b"\x91" * 4000],
    ids=["no requests", "nil", "empty", "number", "noise", "nested"],
)
def test_pre_prepare_refused_whose_body_is_not_a_batch(body: bytes) -> None:
    """A primary may sign anything; what cannot be executed is not prepared."""
    world = World()
    reason = world.refuse("r1", signed_pre_prepare_over(world, body), body)
    assert reason.startswith("malformed body")


def test_pre_prepare_refused_whose_batch_has_too_many_requests() -> None:
    """Bounded (docs/TRAPS.md 20): a batch of 4,097 is no batch."""
    world = World()
    body = encode_batch(tuple([world.request(1, b"")] * 4097))
    reason = world.refuse("r1", signed_pre_prepare_over(world, body), body)
    assert "a batch of 4097" in reason


def test_pre_prepare_refused_whose_batch_has_a_forged_request() -> None:
    """The signatures in the request are correct (first condition): each of them."""
    world = World()
    good = world.request(1, b"x")
    _, signed, body = world.pre_prepare(1, [good, with_bad_signature(world.request(2, b"y"))])
    assert world.refuse("r1", signed, body) == "a request in the body: bad signature"


def test_pre_prepare_refused_whose_batch_has_a_request_in_anothers_name() -> None:
    """The client that the request names signed it."""
    world = World()
    stolen = world.sign("other", Request("client", 1, b"x"))
    _, signed, body = world.pre_prepare(1, [stolen])
    assert "not the client" in world.refuse("r1", signed, body)


def test_pre_prepare_refused_whose_batch_has_a_strangers_request() -> None:
    """Clients are members too."""
    world = World()
    _, signed, body = world.pre_prepare(1, [world.sign("stranger", Request("stranger", 1, b"x"))])
    assert world.refuse("r1", signed, body) == "unknown signer"


def test_pre_prepare_refused_whose_batch_has_something_else_than_requests() -> None:
    """A signed vote inside a batch is not an operation."""
    world = World()
    _, signed, body = world.pre_prepare(1, [world.prepare(1, FALSE, 2)])
    assert "something other than requests" in world.refuse("r1", signed, body)


def test_pre_prepare_refused_whose_batch_has_one_number_of_a_client_twice() -> None:
    """One number is one request: which of two would be executed must not hang on their order."""
    world = World()
    for second in (world.request(1, b"x"), world.request(1, b"y")):
        requests = [world.request(1, b"x"), world.request(2, b"z"), second]
        _, signed, body = world.pre_prepare(1, requests)
        assert world.refuse("r1", signed, body) == "the body holds one number of a client twice"


def test_the_null_request_goes_through_the_protocol_and_does_nothing() -> None:
    """4.4: o_null goes through the protocol like others, but its execution is a no-op."""
    world = World()
    world.crash("r0")
    message = PrePrepare(0, 1, NULL_REQUEST, 0)
    for name in world.replicas:
        world.give(name, world.sign("r0", message))
        world.give(name, world.commit(1, NULL_REQUEST, 0))
    world.deliver()
    assert set(world.executed().values()) == {1}
    assert all(application.count == 0 for application in world.applications.values())
    assert world.disks["r1"].bodies == {}


def test_a_replica_whose_state_is_wrong_votes_on_nothing() -> None:
    """A correct replica votes for what it could execute."""
    world = World()
    world.replicas["r1"].core.checkpoints.is_diverged = True
    _, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    assert (
        world.refuse("r1", signed, body)
        == "no votes are taken in a view that has not begun, or while diverged"
    )


def test_a_pre_prepare_that_came_before_does_nothing() -> None:
    """A duplicate is neither refused nor answered."""
    world = World()
    _, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    world.give("r1", signed, body)
    before = picture(world.replicas["r1"])
    output = world.give("r1", signed, body)
    assert (output.records, output.messages, output.events) == ([], [], [])
    assert picture(world.replicas["r1"]) == before


def test_a_refused_pre_prepare_does_not_bar_the_right_one() -> None:
    """After every kind of wrong PRE-PREPARE the right one is accepted."""
    world = World()
    _, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    for wrong, wrong_body in (
        (with_bad_signature(signed), body),
        (signed, body + b"\0"),
        (signed_pre_prepare_over(world, b"\x90"), b"\x90"),
        (world.pre_prepare(1, [world.request(1, b"x")], replica=2)[1], body),
    ):
        world.refuse("r1", wrong, wrong_body)
    world.give("r1", signed, body)
    assert len(world.said("r1", Prepare)) == 1


def test_a_message_of_our_own_that_comes_back_is_refused() -> None:
    """What we said is in our records; an echo proves nothing."""
    world = World()
    message, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    assert "our own" in world.refuse("r0", signed, body)
    assert "our own" in world.refuse("r1", world.prepare(1, message.digest, 1))
    assert "our own" in world.refuse("r1", world.commit(1, message.digest, 1))


@pytest.mark.parametrize("kind", ["hello", "replies"])
def test_a_replica_takes_no_messages_that_are_meant_for_others(kind: str) -> None:
    """HELLO belongs to links, REPLY to clients."""
    world = World()
    reply = Reply("client", 1, FALSE, "done", b"", b"")
    hello = Hello("dialler", "r2", "r1", FALSE, FALSE)
    message = hello if kind == "hello" else Replies((reply,), 2)
    assert "a replica takes no" in world.refuse("r1", world.sign("r2", message))
