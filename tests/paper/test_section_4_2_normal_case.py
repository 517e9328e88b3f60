"""OSDI'99, section 4.2, "Normal-Case Operation": the acceptance conditions, clause by clause."""

import itertools
import random

import pytest

from pbft.codec import digest_of, encode_batch, encode_signed
from pbft.core import ReplicaStatus
from pbft.messages import (
    Checkpoint,
    Commit,
    Hello,
    Prepare,
    PrePrepare,
    Replies,
    Reply,
    Request,
    Signed,
)
from pbft.ports import Executed, SavedBody, SavedMessage
from tests.pbft.checks import check_safety
from tests.pbft.world import World, picture

FALSE = bytes(31) + b"\x01"


def backup_with_pre_prepare(world: World, name: str = "r1", sequence: int = 1) -> bytes:
    """Give a backup a PRE-PREPARE of the primary; the digest."""
    message, signed, body = world.pre_prepare(sequence, [world.request(sequence, b"x")])
    world.give(name, signed, body)
    return message.digest


def with_bad_signature(signed: Signed) -> Signed:
    return Signed(signed.signer, signed.payload, bytes(64))


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
    batches = [details["requests"] for details in world.told("r2", "executed")]
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
    assert world.told("r1", "equivocation") == [{"replica": 0, "sequence": 1}]
    assert [m.digest for m in world.said("r1", Prepare)] == [digest]


def test_a_forged_second_pre_prepare_accuses_nobody() -> None:
    """Side effects come after the signature check (TRAPS 19): equivocation needs a signature."""
    world = World()
    backup_with_pre_prepare(world)
    _, signed, body = world.pre_prepare(1, [world.request(1, b"another")])
    assert world.refuse("r1", with_bad_signature(signed), body) == "bad signature"
    assert world.told("r1", "equivocation") == []


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
    [b"", b"\x90", b"\xc0", b"\x91\x90", b"\x91\x01", b"\xff" * 50, b"\x91" * 4000],
    ids=["nothing", "no requests", "nil", "empty", "number", "noise", "nested"],
)
def test_pre_prepare_refused_whose_body_is_not_a_batch(body: bytes) -> None:
    """A primary may sign anything; what cannot be executed is not prepared."""
    world = World()
    reason = world.refuse("r1", signed_pre_prepare_over(world, body), body)
    assert reason.startswith("malformed body")


def test_pre_prepare_refused_whose_batch_has_too_many_requests() -> None:
    """Bounded (TRAPS 20): a batch of 4,097 is no batch."""
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


def test_a_replica_whose_state_is_wrong_votes_on_nothing() -> None:
    """A correct replica votes for what it could execute."""
    world = World()
    world.replicas["r1"].core.status = ReplicaStatus.DIVERGED
    _, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    assert world.refuse("r1", signed, body) == "no votes while diverged"


def test_a_pre_prepare_that_came_before_does_nothing() -> None:
    """A duplicate is neither refused nor answered."""
    world = World()
    _, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    world.give("r1", signed, body)
    before = picture(world.replicas["r1"])
    output = world.give("r1", signed, body)
    assert (output.records, output.messages, output.notices) == ([], [], [])
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
    message = Hello(FALSE, "r1") if kind == "hello" else Replies((reply,), 2)
    assert "a replica takes no" in world.refuse("r1", world.sign("r2", message))


# --- PREPARE ------------------------------------------------------------------------------------


def test_prepare_refused_with_a_bad_signature() -> None:
    """Replicas accept PREPAREs if their signatures are correct (first condition)."""
    world = World()
    digest = backup_with_pre_prepare(world)
    vote = with_bad_signature(world.prepare(1, digest, 2))
    assert world.refuse("r1", vote) == "bad signature"


@pytest.mark.parametrize("view", [1, 4])
def test_prepare_refused_of_another_view(view: int) -> None:
    """Their view number equals the replica's current view (second condition)."""
    world = World()
    digest = backup_with_pre_prepare(world)
    assert "while in view 0" in world.refuse("r1", world.prepare(1, digest, 2, view))


@pytest.mark.parametrize("sequence", [0, 17, 2**62])
def test_prepare_refused_outside_the_water_marks(sequence: int) -> None:
    """Their sequence number is between h and H (third condition)."""
    world = World(checkpoint_interval=8, window=16)
    vote = world.prepare(sequence, FALSE, 2)
    assert world.refuse("r1", vote) == "outside the water marks"


def test_prepare_refused_from_the_primary() -> None:
    """The PREPAREs are from backups: the primary's vote is its PRE-PREPARE, not counted twice."""
    world = World()
    digest = backup_with_pre_prepare(world)
    assert "from the primary" in world.refuse("r1", world.prepare(1, digest, 0))


def test_prepare_refused_that_names_another_replica() -> None:
    """i is the replica that signed it."""
    world = World()
    digest = backup_with_pre_prepare(world)
    vote = world.sign("r2", Prepare(0, 1, digest, 3))
    assert "not the replica" in world.refuse("r1", vote)
    claimed = Signed("r3", vote.payload, vote.signature)
    assert world.refuse("r1", claimed) == "bad signature"


def test_prepare_refused_of_a_replica_that_does_not_exist() -> None:
    """i is in R."""
    world = World()
    vote = Prepare(0, 1, FALSE, 4)
    assert "not the replica" in world.refuse("r1", world.sign("r4", vote))


def test_a_second_prepare_for_another_digest_is_refused_and_told() -> None:
    """One voice, one vote: the first one stands."""
    world = World()
    digest = backup_with_pre_prepare(world)
    world.give("r1", world.prepare(1, FALSE, 2))
    assert "voted for another digest" in world.refuse("r1", world.prepare(1, digest, 2))
    assert world.told("r1", "equivocation") == [{"replica": 2, "sequence": 1}]


def test_prepared_needs_the_pre_prepare_and_2f_prepares_of_distinct_backups() -> None:
    """prepared(m, v, n, i): the request, a PRE-PREPARE for it, and 2f matching PREPAREs."""
    world = World(7)
    digest = backup_with_pre_prepare(world)
    for replica in (2, 3, 4):
        assert world.said("r1", Commit) == []
        world.give("r1", world.prepare(1, digest, replica))
    assert world.said("r1", Commit) == [Commit(0, 1, digest, 1)]


def test_prepares_without_the_pre_prepare_prepare_nothing() -> None:
    """The certificate has a PRE-PREPARE: without it even all PREPAREs are not enough."""
    world = World()
    message, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    for replica in (2, 3):
        world.give("r1", world.prepare(1, message.digest, replica))
    assert world.said("r1", Commit) == []
    world.give("r1", signed, body)
    assert world.said("r1", Commit) == [Commit(0, 1, message.digest, 1)]


def test_prepares_for_another_digest_never_count() -> None:
    """They match the PRE-PREPARE: same view, number and digest."""
    world = World()
    backup_with_pre_prepare(world)
    for replica in (2, 3):
        world.give("r1", world.prepare(1, FALSE, replica))
    assert world.said("r1", Commit) == []
    assert not world.replicas["r1"].core.log.slot(1).prepared(world.cluster.quorums)


def test_prepares_for_another_number_never_count() -> None:
    """They match the PRE-PREPARE: n as well."""
    world = World()
    digest = backup_with_pre_prepare(world)
    for replica in (2, 3):
        world.give("r1", world.prepare(2, digest, replica))
    assert world.said("r1", Commit) == []


def test_a_prepare_that_comes_ten_times_counts_once() -> None:
    """2f different backups."""
    world = World(7)
    digest = backup_with_pre_prepare(world)
    for _ in range(10):
        world.give("r1", world.prepare(1, digest, 2))
    assert world.said("r1", Commit) == []


def test_the_primary_is_prepared_by_2f_prepares_of_backups() -> None:
    """prepared holds at the primary too: its own PRE-PREPARE and 2f PREPAREs."""
    world = World()
    world.give("r0", world.request(1, b"x"))
    digest = world.said("r0", PrePrepare)[0].digest
    world.give("r0", world.prepare(1, digest, 2))
    assert world.said("r0", Commit) == []
    world.give("r0", world.prepare(1, digest, 3))
    assert world.said("r0", Commit) == [Commit(0, 1, digest, 0)]


def test_the_prepared_certificate_is_saved_with_the_commit() -> None:
    """The view change will have to show it (4.4), so it must survive a crash."""
    world = World()
    digest = backup_with_pre_prepare(world)
    world.give("r1", world.prepare(1, digest, 2))
    saved = [r.signed for r in world.disks["r1"].records if isinstance(r, SavedMessage)]
    assert world.prepare(1, digest, 2) in saved
    assert world.prepare(1, digest, 1) in saved
    assert world.commit(1, digest, 1) in saved


# --- COMMIT -------------------------------------------------------------------------------------


def test_commit_refused_with_a_bad_signature() -> None:
    """Replicas accept COMMITs that are properly signed (first condition)."""
    world = World()
    digest = backup_with_pre_prepare(world)
    vote = with_bad_signature(world.commit(1, digest, 2))
    assert world.refuse("r1", vote) == "bad signature"


@pytest.mark.parametrize("view", [1, 4])
def test_commit_refused_of_another_view(view: int) -> None:
    """The view number equals the replica's current view (second condition)."""
    world = World()
    digest = backup_with_pre_prepare(world)
    assert "while in view 0" in world.refuse("r1", world.commit(1, digest, 2, view))


@pytest.mark.parametrize("sequence", [0, 17, 2**62])
def test_commit_refused_outside_the_water_marks(sequence: int) -> None:
    """The sequence number is between h and H (third condition)."""
    world = World(checkpoint_interval=8, window=16)
    assert world.refuse("r1", world.commit(sequence, FALSE, 2)) == "outside the water marks"


def test_commit_refused_that_names_another_replica() -> None:
    """i is the replica that signed it."""
    world = World()
    vote = world.sign("r2", Commit(0, 1, FALSE, 3))
    assert "not the replica" in world.refuse("r1", vote)
    assert world.refuse("r1", Signed("r3", vote.payload, vote.signature)) == "bad signature"


def test_a_replica_commits_only_when_it_is_prepared() -> None:
    """COMMIT says that prepared is true at its sender; others' COMMITs do not make it so."""
    world = World()
    digest = backup_with_pre_prepare(world)
    for replica in (0, 2):
        world.give("r1", world.commit(1, digest, replica))
    assert world.said("r1", Commit) == []
    assert world.executed()["r1"] == 0


def test_a_commit_is_sent_once() -> None:
    """Further PREPAREs add nothing."""
    world = World(7)
    digest = backup_with_pre_prepare(world)
    commits = 0
    for replica in (2, 3, 4, 5, 6):
        output = world.give("r1", world.prepare(1, digest, replica))
        commits += sum(m.envelope.signed == world.commit(1, digest, 1) for m in output.messages)
    assert commits == 1


def test_committed_local_needs_2f_plus_1_commits_of_distinct_replicas() -> None:
    """committed-local(m, v, n, i): 2f+1 COMMITs, possibly its own, that match the PRE-PREPARE."""
    world = World(7)
    digest = backup_with_pre_prepare(world)
    for replica in (2, 3, 4):
        world.give("r1", world.prepare(1, digest, replica))
    for replica in (0, 2, 3):
        for _ in range(3):
            world.give("r1", world.commit(1, digest, replica))
        assert world.executed()["r1"] == 0
    world.give("r1", world.commit(1, digest, 4))
    assert world.executed()["r1"] == 1


def test_commits_for_another_digest_never_count() -> None:
    """2f+1 COMMITs that match the PRE-PREPARE for m."""
    world = World()
    digest = backup_with_pre_prepare(world)
    world.give("r1", world.prepare(1, digest, 2))
    for replica in (0, 2):
        world.give("r1", world.commit(1, FALSE, replica))
    assert world.executed()["r1"] == 0
    assert not world.replicas["r1"].core.log.slot(1).committed_local(world.cluster.quorums)


def test_a_replica_that_commits_to_two_digests_counts_for_one_at_a_time() -> None:
    """One voice, one vote, also where the later COMMIT replaces the earlier one."""
    world = World()
    digest = backup_with_pre_prepare(world)
    world.give("r1", world.commit(1, digest, 0))
    world.give("r1", world.commit(1, FALSE, 2))
    world.give("r1", world.commit(1, digest, 2))
    assert world.told("r1", "equivocation") == [{"replica": 2, "sequence": 1}]
    assert world.executed()["r1"] == 0
    world.give("r1", world.commit(1, FALSE, 2))
    world.give("r1", world.commit(1, digest, 3))
    assert world.executed()["r1"] == 0, "0 and 3 for it, 2 against"
    world.give("r1", world.commit(1, digest, 2))
    assert world.executed()["r1"] == 1
    assert "voted for another" in world.refuse("r1", world.commit(1, FALSE, 2))


def test_the_commits_that_decided_are_saved_before_the_execution_is() -> None:
    """What was executed can be proved to others, and to ourselves after a crash."""
    world = World()
    world.ask(1, b"x")
    world.deliver()
    for name in world.names:
        records = world.disks[name].records
        executed = records.index(Executed(1))
        before = [r.signed for r in records[:executed] if isinstance(r, SavedMessage)]
        digest = world.said("r0", PrePrepare)[0].digest
        proof = [s for i in range(4) if (s := world.commit(1, digest, i)) in before]
        assert len(proof) == 3


# --- order of execution -------------------------------------------------------------------------


def test_a_replica_executes_after_all_lower_numbers_only() -> None:
    """Each replica executes m after committed-local is true and all lower numbers are executed."""
    world = World()
    pre_prepares = [world.pre_prepare(n, [world.request(n, b"%d" % n)]) for n in (1, 2, 3)]
    for message, signed, body in reversed(pre_prepares):
        world.give("r1", signed, body)
        for replica in (0, 2, 3):
            assert world.executed()["r1"] == 0
            world.give("r1", world.commit(message.sequence, message.digest, replica))
    assert world.executed()["r1"] == 3
    assert world.applications["r1"].operations == [b"1", b"2", b"3"]


def test_a_number_without_its_body_stops_execution_until_the_body_comes() -> None:
    """The request must be in the log; a digest cannot be executed."""
    world = World()
    first, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    for replica in (0, 2, 3):
        world.give("r1", world.commit(1, first.digest, replica))
    assert world.executed()["r1"] == 0
    world.give("r1", signed, body)
    assert world.executed()["r1"] == 1


def test_every_request_of_a_batch_is_executed_in_the_order_of_the_batch() -> None:
    """5: a batch is agreed as one, and executed one by one."""
    world = World()
    requests = [world.request(t, b"%d" % t) for t in (2, 1, 3)]
    message, signed, body = world.pre_prepare(1, requests)
    for replica in (0, 2, 3):
        world.give("r1", world.commit(1, message.digest, replica))
    world.give("r1", signed, body)
    assert world.applications["r1"].operations == [b"2", b"1", b"3"]


def test_what_is_not_executable_in_a_batch_is_skipped_by_all_alike() -> None:
    """4.1: a faulty primary may order a request twice, or one far ahead; none is executed."""
    world = World(client_window=3)
    world.crash("r0")
    requests = [world.request(t, b"%d" % t) for t in (1, 1, 9, 2, 1)]
    message, signed, body = world.pre_prepare(1, requests)
    for name in world.replicas:
        world.give(name, signed, body)
        world.give(name, world.commit(1, message.digest, 0))
    world.deliver()
    for name in world.replicas:
        assert world.applications[name].operations == [b"1", b"2"]
        assert world.told(name, "executed")[0]["skipped"] == 3
        assert not world.replicas[name].core.clients.was_executed("client", 9)
    assert len({r.core.clients.parts()["client/client"] for r in world.replicas.values()}) == 1


@pytest.mark.parametrize("seed", range(25))
def test_any_order_of_delivery_gives_the_same_result(seed: int) -> None:
    """4.2: messages may be delayed, duplicated or delivered out of order."""
    random_source = random.Random(seed)
    world = World(random_source.choice([4, 7]))
    for timestamp in range(1, 9):
        world.ask(timestamp, b"%d" % timestamp)
    while world.under_way:
        index = random_source.randrange(len(world.under_way))
        message = world.under_way.pop(index)
        world.deliver_one(message)
        if random_source.random() < 0.2:
            world.deliver_one(message)
    assert set(world.executed().values()) == {max(world.executed().values())}, seed
    assert len(world.client_output.accepted) == 8, seed
    check_safety(world)


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))))
def test_every_order_of_the_messages_of_one_number(order: tuple[int, ...]) -> None:
    """4.2: PRE-PREPARE, two PREPAREs and two COMMITs in every order end in execution."""
    world = World()
    message, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    digest = message.digest
    arrivals = [
        (signed, body),
        (world.prepare(1, digest, 2), b""),
        (world.prepare(1, digest, 3), b""),
        (world.commit(1, digest, 0), b""),
        (world.commit(1, digest, 2), b""),
    ]
    for index in order:
        world.give("r1", *arrivals[index])
    assert world.executed()["r1"] == 1
    assert world.said("r1", Commit) == [Commit(0, 1, digest, 1)]


# --- a faulty primary ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_an_equivocating_primary_does_not_split_correct_replicas(seed: int) -> None:
    """prepared(m, v, n, i) and prepared(m', v, n, j) exclude each other if D(m) != D(m')."""
    random_source = random.Random(seed)
    world = World()
    world.crash("r0")
    for sequence in range(1, 5):
        candidates = [
            world.pre_prepare(sequence, [world.request(sequence, b"%d" % variant)])
            for variant in range(2)
        ]
        for name in ("r1", "r2", "r3"):
            chosen = random_source.choice(candidates)
            world.give(name, chosen[1], chosen[2])
            for message, signed, body in candidates:
                if random_source.random() < 0.7:
                    world.give(name, world.commit(sequence, message.digest, 0))
                if random_source.random() < 0.5:
                    world.give(name, signed, body)
    random_source.shuffle(world.under_way)
    world.run(6)
    check_safety(world, ("r1", "r2", "r3"))


def test_a_backup_that_was_told_another_request_executes_the_decided_one() -> None:
    """4.2: two backups and the primary decide; the third gets proof and body from its peers."""
    world = World()
    world.crash("r0")
    first = world.pre_prepare(1, [world.request(1, b"first")])
    second = world.pre_prepare(1, [world.request(1, b"second")])
    world.give("r1", first[1], first[2])
    for name in ("r2", "r3"):
        world.give(name, second[1], second[2])
        world.give(name, world.commit(1, second[0].digest, 0))
    world.run(4)
    assert set(world.executed().values()) == {1}
    assert {tuple(a.operations) for n, a in world.applications.items() if n != "r0"} == {
        (b"second",)
    }
    assert [m.digest for m in world.said("r1", Prepare)] == [first[0].digest]
    world.crash("r1")
    world.start("r1")
    assert world.applications["r1"].operations == [b"second"]
    assert world.replicas["r1"].core.log.slot(1).accepted == first[0].digest, "what it voted for"
    check_safety(world, ("r1", "r2", "r3"))


def test_an_equivocating_primary_that_convinces_nobody_decides_nothing() -> None:
    """Three digests for three backups: no two PREPAREs match, nobody commits."""
    world = World()
    world.crash("r0")
    for index, name in enumerate(("r1", "r2", "r3")):
        _, signed, body = world.pre_prepare(1, [world.request(1, b"%d" % index)])
        world.give(name, signed, body)
    world.run(4)
    assert set(world.executed().values()) == {0}
    assert all(world.said(name, Commit) == [] for name in world.names)


def test_messages_are_read_by_what_is_signed_only() -> None:
    """2, TRAPS 19: nothing outside the signature but the hint at the key."""
    world = World()
    signed = world.prepare(1, FALSE, 2)
    assert set(signed.__struct_fields__) == {"signer", "payload", "signature"}
    assert encode_signed(signed).count(b"r2") == 1, "the payload names a number, not a name"
