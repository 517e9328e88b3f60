"""Signatures: what is read before the check, what is remembered, and real Ed25519."""

from functools import partial
from typing import get_args

import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from pbft import authentication
from pbft.authentication import Authenticator, Identity, is_relayed, sign_message, without_relayed
from pbft.client import Client, make_request
from pbft.codec import encode_message
from pbft.genesis import PROTOCOL_MIN, Cluster, Genesis, Member
from pbft.messages import (
    AnyMessage,
    Body,
    Checkpoint,
    Commit,
    Envelope,
    FetchBody,
    FetchState,
    Hello,
    NewView,
    Prepare,
    PrePrepare,
    Recover,
    Replies,
    Reply,
    Request,
    Signed,
    StateLeaves,
    StateParts,
    Status,
    ViewChange,
)
from pbft.ports import Refusal
from pbft.replica import Replica
from tests.pbft.world import Journal, World, signer, verify

VOTE = Prepare(0, 1, bytes(32), 2)


class CountingVerify:
    """The stand-in, and how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, key: bytes, message: bytes, signature: bytes) -> bool:
        self.calls += 1
        return verify(key, message, signature)


def accepts(authenticator: Authenticator, signed: Signed) -> bool:
    message = authenticator.read(signed)
    return not isinstance(message, Refusal) and authenticator.check(signed, message) is None


def test_reading_asks_for_no_signature_and_checking_does_once() -> None:
    world, counting = World(), CountingVerify()
    authenticator = Authenticator(world.cluster, counting)
    signed = world.sign("r2", VOTE)
    assert authenticator.read(signed) == VOTE
    assert counting.calls == 0
    assert authenticator.check(signed, VOTE) is None
    assert authenticator.check(signed, VOTE) is None
    assert counting.calls == 1


def test_a_bad_signature_is_not_remembered_as_good_nor_as_bad() -> None:
    world, counting = World(), CountingVerify()
    authenticator = Authenticator(world.cluster, counting)
    good = world.sign("r2", VOTE)
    bad = Signed("r2", good.payload, bytes(64))
    for _ in range(2):
        assert authenticator.check(bad, VOTE) == Refusal("bad signature")
    assert counting.calls == 2
    assert authenticator.check(good, VOTE) is None


def test_what_is_remembered_is_exact() -> None:
    """Another payload, signature or signer is checked anew."""
    world = World()
    authenticator = Authenticator(world.cluster, verify)
    good = world.sign("r2", VOTE)
    assert accepts(authenticator, good)
    assert not accepts(authenticator, Signed("r2", good.payload, good.signature[::-1]))
    assert not accepts(authenticator, Signed("r3", good.payload, good.signature))
    other = encode_message(Prepare(0, 2, bytes(32), 2))
    assert not accepts(authenticator, Signed("r2", other, good.signature))


def test_the_oldest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authentication, "REMEMBERED_MAX", 2)
    world, counting = World(), CountingVerify()
    authenticator = Authenticator(world.cluster, counting)
    votes = [world.prepare(n, bytes(32), 2) for n in (1, 2, 3)]
    for signed in votes:
        assert accepts(authenticator, signed)
    assert accepts(authenticator, votes[2])
    assert counting.calls == 3
    assert accepts(authenticator, votes[0])
    assert counting.calls == 4


@pytest.mark.parametrize(
    ("name", "message", "reason"),
    [
        ("r2", Prepare(0, 1, bytes(32), 3), "not the replica"),
        ("r2", Prepare(0, 1, bytes(32), 900), "not the replica"),
        ("client", VOTE, "not the replica"),
        ("stranger", VOTE, "not the replica"),
        ("r2", Request("client", 1, b""), "not the client"),
        ("stranger", Request("stranger", 1, b""), "unknown signer"),
        ("stranger", Hello("dialler", "stranger", "r1", bytes(32), bytes(32)), "unknown signer"),
    ],
)
def test_who_may_say_what(name: str, message: Prepare | Request | Hello, reason: str) -> None:
    world = World()
    read = Authenticator(world.cluster, verify).read(world.sign(name, message))
    assert isinstance(read, Refusal)
    assert reason in read.reason


def test_malformed_payloads_are_refused_with_a_reason() -> None:
    read = Authenticator(World().cluster, verify).read(Signed("r2", b"noise", bytes(64)))
    assert isinstance(read, Refusal)
    assert read.reason.startswith("malformed")


EVERY_KIND: tuple[AnyMessage, ...] = (
    Request("r3", 1, b"x"),
    PrePrepare(0, 1, bytes(32), 3),
    Prepare(0, 1, bytes(32), 3),
    Commit(0, 1, bytes(32), 3),
    Checkpoint(8, bytes(32), 3),
    ViewChange(1, 0, (), (), 3),
    ViewChange(1, 0, (), (), 3, 8),
    NewView(1, (), (), 3),
    Status(0, True, 0, 0, 3),
    Status(2**40, False, 2**62, 300, 3),
    FetchBody(1, bytes(32), 3),
    Body(1, bytes(32), 3),
    FetchState(8, (), 3),
    FetchState(8, tuple(f"part {n}" for n in range(100)), 3),
    StateLeaves(8, (), 3),
    StateParts(8, (), 3),
    Recover(bytes(32), 3, 0),
    Replies((), 3),
    Replies((Reply("client", 1, bytes(32), "done", b"", b""),) * 20, 3),
    Hello("dialler", "r3", "r1", bytes(32), bytes(32)),
)


@pytest.mark.parametrize("message", EVERY_KIND, ids=lambda message: type(message).__name__)
def test_where_i_stand_and_send_me_that_come_from_their_signers_only(message: AnyMessage) -> None:
    """All else proves itself, whoever brings it: requests, votes, certificates, bodies."""
    signed = World().sign("r3", message)
    assert not is_relayed("r3", signed)
    expected = isinstance(message, Status | FetchBody | FetchState | Replies)
    assert [is_relayed(peer, signed) for peer in ("r2", "client", "")] == [expected] * 3


def test_every_kind_is_tried() -> None:
    assert {type(message) for message in EVERY_KIND} == set(get_args(AnyMessage))


def test_without_what_is_relayed_the_rest_keeps_its_order() -> None:
    world = World()
    own, others = world.sign("r2", Status(0, True, 0, 0, 2)), world.sign("r3", EVERY_KIND[8])
    vote, noise = world.sign("r3", EVERY_KIND[2]), Signed("r3", b"noise", bytes(64))
    came = [Envelope(signed) for signed in (vote, others, own, noise, others)]
    assert without_relayed("r2", came) == [Envelope(signed) for signed in (vote, own, noise)]


# --- with real keys -----------------------------------------------------------------------------

KEYS = {
    name: SigningKey(name.encode().ljust(32, b"\0")) for name in ("r0", "r1", "r2", "r3", "client")
}


def ed25519_verify(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(key).verify(message, signature)
    except BadSignatureError:
        return False
    return True


def ed25519_sign(name: str, message: bytes) -> bytes:
    return KEYS[name].sign(message).signature


def real_cluster() -> Cluster:
    def member(name: str, role: str) -> Member:
        return Member(name, KEYS[name].verify_key.encode(), (role,))

    replicas = tuple(member(f"r{index}", "replica") for index in range(4))
    return Cluster(Genesis(PROTOCOL_MIN, replicas, (member("client", "gateway"),), 8, 16, 8, b""))


def test_ed25519_holds_for_the_signed_message_only() -> None:
    cluster = real_cluster()
    authenticator = Authenticator(cluster, ed25519_verify)
    signed = sign_message(
        VOTE, encode_message(VOTE), Identity(cluster, "r2", lambda m: ed25519_sign("r2", m))
    )
    assert accepts(authenticator, signed)
    for position in range(0, 64, 7):
        broken = bytearray(signed.signature)
        broken[position] ^= 1
        assert not accepts(authenticator, Signed("r2", signed.payload, bytes(broken)))
    by_another = sign_message(
        VOTE, signed.payload, Identity(cluster, "r2", lambda m: ed25519_sign("r3", m))
    )
    assert not accepts(authenticator, by_another)


def test_ed25519_signatures_are_not_malleable() -> None:
    """S + L verifies under a lax rule; the group's order is added to the second half."""
    order = 2**252 + 27742317777372353535851937790883648493
    cluster = real_cluster()
    signed = sign_message(
        VOTE, encode_message(VOTE), Identity(cluster, "r2", lambda m: ed25519_sign("r2", m))
    )
    scalar = int.from_bytes(signed.signature[32:], "little") + order
    other = signed.signature[:32] + scalar.to_bytes(32, "little")
    assert not accepts(Authenticator(cluster, ed25519_verify), Signed("r2", signed.payload, other))


def test_a_group_with_real_keys_agrees() -> None:
    cluster = real_cluster()
    replicas = {
        name: Replica(
            Identity(cluster, name, partial(ed25519_sign, name)),
            ed25519_verify,
            Journal(),
        )
        for name in cluster.replica_names
    }
    client = Client(cluster, "client", ed25519_verify)
    request = make_request(
        Identity(cluster, "client", lambda m: ed25519_sign("client", m)), 1, b"x"
    )
    queue = [
        (name, send.envelope)
        for send in client.ask(request, frozenset({"done"}), 0.0).messages
        for name in replicas
    ]
    accepted = []
    while queue:
        name, envelope = queue.pop(0)
        if name == "client":
            accepted += client.receive([envelope], 0.0).accepted
            continue
        for send in replicas[name].receive([envelope], 0.0).messages:
            receivers = [send.to] if send.to else [other for other in replicas if other != name]
            queue += [(receiver, send.envelope) for receiver in receivers]
    assert [answer.timestamp for answer in accepted] == [1]
    assert {replica.core.executed for replica in replicas.values()} == {1}


def test_the_stand_in_of_the_tests_tells_keys_and_messages_apart() -> None:
    """The other tests rest on it."""
    world = World()
    key = world.cluster.public_key("r1")
    assert key is not None
    assert verify(key, b"m", signer("r1")(b"m"))
    assert not verify(key, b"n", signer("r1")(b"m"))
    assert not verify(key, b"m", signer("r2")(b"m"))
