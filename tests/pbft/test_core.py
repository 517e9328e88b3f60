"""What the parts share: pending requests, water marks, replies and deferred replies."""

import pytest

from pbft.authentication import Identity
from pbft.codec import decode_request, digest_of
from pbft.core import Core, PendingRequests, ReplicaStatus, Settings
from pbft.log import OrderedRequest
from pbft.messages import Commit, Envelope, Replies, Reply, Request, Signed
from pbft.ports import Applied, DeferredReply, Refusal
from pbft.replica import REPLIES_BYTES_MAX, _chunks
from tests.pbft.world import Journal, Message, World, signer, verify

WORLD = World()


def test_pending_requests_are_kept_by_client_and_number_first_come() -> None:
    pending = PendingRequests()
    first, second = WORLD.request(2, b"first"), WORLD.request(2, b"second")
    assert add(pending, first)
    assert not add(pending, second)
    assert add(pending, WORLD.request(1, b""))
    assert add(pending, WORLD.request(1, b"", "other"))
    assert pending.get("client", 2) == first
    assert pending.clients() == ["client", "other"]
    assert pending.numbers("client") == [1, 2]
    assert len(pending) == 3
    pending.remove("client", 2)
    pending.remove("client", 2)
    pending.remove("other", 1)
    pending.remove("stranger", 1)
    assert pending.clients() == ["client"]
    assert pending.numbers("other") == []


def add(pending: PendingRequests, signed: Signed) -> bool:
    return pending.add(decode_request(signed), signed)


def test_what_was_verified_of_a_pending_request_is_found_by_its_exact_bytes() -> None:
    pending = PendingRequests()
    kept, refused = WORLD.request(2, b"first"), WORLD.request(2, b"second")
    add(pending, kept)
    add(pending, refused)
    known = pending.find(Signed(kept.signer, bytes(bytearray(kept.payload)), kept.signature))
    assert known == OrderedRequest(decode_request(kept), kept, digest_of(kept.payload))
    assert pending.ordered("client", 2) == known
    for other in (
        refused,
        Signed("other", kept.payload, kept.signature),
        Signed(kept.signer, refused.payload, kept.signature),
        Signed(kept.signer, kept.payload, refused.signature),
    ):
        assert pending.find(other) is None
    pending.remove("client", 2)
    assert pending.find(kept) is None


def test_fresh_are_the_pending_requests_in_no_batch_under_way() -> None:
    pending = PendingRequests()
    assert pending.fresh(set()) == {}
    for signed in (
        WORLD.request(7, b"", "other"),
        *(WORLD.request(timestamp, b"") for timestamp in (3, 1, 2)),
    ):
        add(pending, signed)
    assert pending.fresh(set()) == {"client": [1, 2, 3], "other": [7]}
    proposed = {("client", 2), ("other", 7)}
    assert pending.fresh(proposed) == {"client": [1, 3]}
    pending.remove("client", 1)
    add(pending, WORLD.request(4, b""))
    assert pending.fresh(proposed) == {"client": [3, 4]}
    pending.renew()  # a view began
    assert pending.fresh(set()) == {"client": [2, 3, 4], "other": [7]}


def test_a_core_belongs_to_a_replica_of_the_cluster() -> None:
    with pytest.raises(AssertionError, match="client is not a replica"):
        Core(
            Identity(WORLD.cluster, "client", signer("client")),
            verify,
            Journal(),
            settings=Settings(),
        )


def test_the_water_marks_and_what_is_kept_below_follow_from_the_stable_checkpoint() -> None:
    world = World(checkpoint_interval=2, window=4)
    core = world.replicas["r0"].core
    seen = []
    for timestamp in range(1, 7):
        world.ask(timestamp, b"x")
        world.deliver()
        seen.append((core.low, core.high, core.kept_above))
    assert seen == [(0, 4, 0), (2, 6, 0), (2, 6, 0), (4, 8, 2), (4, 8, 2), (6, 10, 4)]


def test_replies_are_cut_into_messages_of_bounded_bytes_and_number() -> None:
    def reply(size: int) -> Reply:
        return Reply("client", 1, bytes(32), "done", b"", bytes(size))

    assert [len(chunk) for chunk in _chunks([reply(0)] * 5000)] == [4096, 904]
    half = REPLIES_BYTES_MAX // 2
    assert [len(chunk) for chunk in _chunks([reply(half), reply(half), reply(1)])] == [1, 2]
    assert [len(chunk) for chunk in _chunks([reply(2 * REPLIES_BYTES_MAX)])] == [1]


class Announcing(Journal):
    """Answers the request before the last one with each operation, and finds `known`."""

    def __init__(self) -> None:
        super().__init__()
        self.askers: list[tuple[Request, bytes]] = []

    def apply(self, request: Request, request_digest: bytes, sequence: int) -> Applied:
        applied = super().apply(request, request_digest, sequence)
        self.askers.append((request, request_digest))
        deferred = tuple(
            DeferredReply(
                asker.client, asker.timestamp, digest, "decided", b"build", b"statement", b"PAE"
            )
            for asker, digest in self.askers[-2:-1]
        )
        return Applied("opened", b"build", b"", applied.entries, deferred)

    def find_deferred(self, request: Request, request_digest: bytes) -> DeferredReply | None:
        if len(self.askers) < 2 or request.timestamp != 1:
            return None
        return DeferredReply(
            request.client, request.timestamp, request_digest, "decided", b"build", b"statement"
        )


class Forgetful(Journal):
    """Its ledger lacks what it should read."""

    def find_deferred(self, request: Request, request_digest: bytes) -> Refusal:
        return Refusal("not known now")


def announced(world: World, name: str, since: int = 0) -> list[tuple[str, int, str, bytes]]:
    return [
        (message.receiver, reply.timestamp, reply.kind, reply.attestation)
        for message in world.sent[since:]
        if message.sender == name and isinstance(message.payload, Replies)
        for reply in message.payload.replies
    ]


def test_a_deferred_reply_answers_an_earlier_request_with_a_signature_of_its_own() -> None:
    world = World(application=lambda name: Announcing())
    for timestamp in (1, 2):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    assert announced(world, "r1") == [
        ("client", 1, "opened", b""),
        ("client", 2, "opened", b""),
        ("client", 1, "decided", signer("r1")(b"PAE")),
    ]
    kinds = [(a.timestamp, a.kind) for a in world.client_output.accepted]
    assert kinds == [(1, "opened"), (2, "opened"), (1, "decided")]
    decided = world.client_output.accepted[-1]
    assert {attestation for _, attestation, _ in decided.replies} == {
        signer(name)(b"PAE") for name, _, _ in decided.replies
    }


def test_a_request_that_is_asked_for_again_gets_both_its_answers() -> None:
    world = World(application=lambda name: Announcing())
    for timestamp in (1, 2):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    since = len(world.sent)
    world.give("r1", world.request(1, b"1"))
    world.give("r1", world.request(2, b"2"))
    world.give("r1", world.request(1, b"another under the same number"))
    assert announced(world, "r1", since) == [
        ("client", 1, "opened", b""),
        ("client", 1, "decided", b""),
        ("client", 2, "opened", b""),
        ("client", 1, "opened", b""),
    ]


def test_a_deferred_reply_to_a_replica_is_not_sent() -> None:
    world = World(application=lambda name: Announcing())
    for timestamp in (1, 2):
        for name in world.names:
            world.give(name, world.request(timestamp, b"", "r3"))
        world.deliver()
    assert set(world.executed().values()) == {2}
    assert announced(world, "r1") == []


def test_a_new_core_knows_nothing() -> None:
    core = WORLD.replicas["r2"].core
    assert (core.view, core.status, core.executed, core.low) == (0, ReplicaStatus.NORMAL, 0, 0)
    assert not core.is_primary
    assert core.primary == 0
    assert len(core.log) == len(core.pending) == 0


def test_nothing_is_called_forgotten_whose_answer_is_not_saved_yet() -> None:
    """What a turn decides is in no ledger before it is over: then it cannot be found there."""
    world = World(client_window=2)
    for timestamp in (1, 2, 3):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    world.ask(4, b"4")
    world.deliver(lambda m: m.receiver != "r1" or not isinstance(m.payload, Commit))
    commits = [m for m in world.under_way if m.receiver == "r1"]
    world.drop(lambda message: True)
    again = Message("client", "r1", Envelope(world.request(1, b"1")))
    world.deliver_together([*commits, again])
    assert world.executed()["r1"] == 4
    assert "used" not in {kind for _, _, kind, _ in announced(world, "r1")}
    assert "not saved yet" in world.refusals("r1")[-1]
    world.deliver_one(again)
    assert announced(world, "r1")[-1] == ("client", 1, "used", b"")


def test_nothing_is_called_forgotten_that_the_application_does_not_know_now() -> None:
    world = World(client_window=2, application=lambda name: Forgetful())
    for timestamp in (1, 2, 3, 4):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    since = len(world.sent)
    assert world.refuse("r1", world.request(1, b"1")) == "not known now"
    world.give("r1", world.request(4, b"4"))
    assert announced(world, "r1", since) == [("client", 4, "done", b"")]
