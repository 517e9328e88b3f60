"""How the two ends of a link prove who they are, before there is a link. No IO.

Four messages, of which docs/PROTOCOL.md says what each end knows after it:

1. the dialler asks;
2. the acceptor offers a challenge, and signs nothing;
3. the dialler proves itself: it signs both names, both challenges and its role (`Hello`);
4. the acceptor proves itself likewise.

The rule: who was dialled keeps nothing for a stranger, and signs nothing for one. A challenge says
itself when it was made, under a key of this process, so none has to be remembered; and of each
member only a proof with a newer challenge than its last one counts, so that none counts twice.

Each end says in its challenge which link versions it speaks, as a server of TLS 1.3 does in its
random bytes (RFC 8446, 4.1.3). Both ends sign both challenges. So nobody between them can make them
speak an older version than the newest that both know, and an end that knows no versions takes
these bytes for random ones, as they were before.

Over TLS both proofs are bound to the certificates of both ends. The dialler's challenge is then the
digest of its secret and of both certificates, and the secret is sent along: whoever passes proofs
between two TLS connections has two pairs of certificates, so the proof of one is none in the other.
"""

import base64
import hashlib
import hmac
import os
import re
from typing import TypeVar

import msgspec

from common.configuration.keys import verify
from pbft.authentication import Authenticator, Identity, sign_message
from pbft.codec import encode_message
from pbft.messages import Digest, Hello, Name, Signed
from pbft.ports import Refusal

# From a challenge to the proof with it.
PROOF_SECONDS = 2.0
# A proof is a few hundred bytes; what is longer is not looked at.
PROOF_BYTES_MAX = 4096

_TIME_BYTES = 8
_CHALLENGE_BYTES = 32
# The last bytes of a challenge that says versions; the oldest and the newest follow, a byte each.
_VERSIONS_MARK = b"pbftci"
_VERSIONS_BYTES = len(_VERSIONS_MARK) + 2
_SAID = re.compile(r"([0-9]{1,3})-([0-9]{1,3})", re.ASCII)
_LEAVES_TAG = b"pbft-ci link over TLS\0"


class LinkRefused(Exception):
    """The other end is not who it must be; the text says why."""


class LinkVersions(msgspec.Struct, frozen=True):
    """The link versions that an end speaks, from the oldest to the newest; both are 1 to 255."""

    oldest: int
    newest: int

    def __str__(self) -> str:
        return f"{self.oldest}" if self.oldest == self.newest else f"{self.oldest} to {self.newest}"

    def agree(self, other: str, theirs: "LinkVersions") -> int:
        """The highest that both speak. Raises LinkRefused if there is none.

        other: how an error names the other end.
        """
        highest = min(self.newest, theirs.newest)
        if highest >= max(self.oldest, theirs.oldest):
            return highest
        older = other if theirs.newest < self.oldest else "this member"
        raise LinkRefused(
            f"{other} speaks link version {theirs}, this member {self}; upgrade PBFT/CI of {older}"
        )


# A link version names what frames hold; the handshake is the same in all of them. A release also
# speaks the newest version of the release before it, or members cannot be upgraded one by one.
LINK_VERSIONS = LinkVersions(2, 2)
# What an end speaks that says nothing: its release is older than this rule.
UNSAID_VERSIONS = LinkVersions(2, 2)


class _Offer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Message 2: who was dialled, and what the dialler has to sign.

    version: the oldest that the acceptor speaks, for diallers that look for none in the challenge.
    """

    version: int
    cluster_id: Digest
    name: Name
    challenge: Digest


class Leaves(msgspec.Struct, frozen=True):
    """The digests of the certificates at both ends of a TLS connection."""

    dialler: Digest
    acceptor: Digest


class _BoundProof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Message 3 over TLS: the signed HELLO, and the secret in its `dialler_challenge`."""

    signed: Signed
    secret: Digest


class Dialling(msgspec.Struct, frozen=True):
    """A handshake under way, at the dialler's end."""

    hello: Hello
    # message 3
    proof: str
    # which link version both ends will speak
    version: int


class Accepted(msgspec.Struct, frozen=True):
    """A handshake that the acceptor is content with."""

    # who dialled
    peer: str
    # message 4
    proof: str
    # which link version both ends will speak
    version: int


class Handshakes:
    """One member's end of all its handshakes."""

    def __init__(self, identity: Identity, versions: LinkVersions = LINK_VERSIONS) -> None:
        self.versions = versions
        self._versions_said = _VERSIONS_MARK + bytes((versions.oldest, versions.newest))
        self._identity = identity
        self._cluster, self._name = identity.cluster, identity.name
        self._authenticator = Authenticator(identity.cluster, verify)
        self._secret = os.urandom(32)
        self._offered = 0
        # of each member, when the challenge was made that it last proved itself with
        self._proved: dict[str, int] = {}

    def offer(self, now: float) -> str:
        """Message 2, to whoever asks."""
        # two in one microsecond are told apart, too
        self._offered = max(int(now * 1_000_000), self._offered + 1)
        challenge = self._challenge(self._offered.to_bytes(_TIME_BYTES, "big"))
        return _text(_Offer(self.versions.oldest, self._cluster.id, self._name, challenge))

    def said(self) -> str:
        """The versions of this end, for message 1; `check_said` reads it."""
        return f"{self.versions.oldest}-{self.versions.newest}"

    def check_said(self, text: str, member: str | None) -> None:
        """Raises LinkRefused where message 1 names no version of this end.

        Nothing proves message 1, so this decides nothing: the dialler refuses the offer, too. It is
        for the log of this end, where the dialler's operator is not the one who reads.
        text: `said` of the dialler; empty where it says none. member: whose certificate it has.
        """
        match = _SAID.fullmatch(text)
        theirs = LinkVersions(*map(int, match.groups())) if match else UNSAID_VERSIONS
        self.versions.agree("the dialler" if member is None else repr(member), theirs)

    def answer(self, text: str, peer: str, leaves: Leaves | None = None) -> Dialling:
        """Message 3, to the offer of who should be that peer. Raises LinkRefused.

        leaves: those of the TLS connection; None without TLS. Both ends must give the same.
        """
        offer = _read(text, _Offer)
        if offer.cluster_id != self._cluster.id:
            raise LinkRefused(f"{offer.name!r} belongs to another cluster")
        if offer.name != peer:
            raise LinkRefused(f"{offer.name!r} answers where {peer!r} should")
        alone = LinkVersions(offer.version, offer.version)
        version = self.versions.agree(repr(peer), _versions_said(offer.challenge) or alone)
        secret = os.urandom(_CHALLENGE_BYTES - _VERSIONS_BYTES) + self._versions_said
        if leaves is None:
            hello = Hello("dialler", self._name, peer, secret, offer.challenge)
            return Dialling(hello, _text(self._signed(hello)), version)
        hello = Hello("dialler", self._name, peer, _bound(secret, leaves), offer.challenge)
        return Dialling(hello, _text(_BoundProof(self._signed(hello), secret)), version)

    def accept(self, text: str, now: float, leaves: Leaves | None = None) -> Accepted:
        """The other end, where message 3 proves who it is. Raises LinkRefused.

        leaves: as for `answer`.
        """
        if leaves is None:
            signed, hello = self._check_proof(_read(text, Signed))
            secret = hello.dialler_challenge
        else:
            bound = _read(text, _BoundProof)
            signed, hello = self._check_proof(bound.signed)
            secret = bound.secret
            if hello.dialler_challenge != _bound(secret, leaves):
                raise LinkRefused("a proof for another TLS connection")
        if (hello.role, hello.acceptor) != ("dialler", self._name):
            raise LinkRefused("a proof for somebody else")
        if hello.dialler == self._name:
            raise LinkRefused("a proof of this one itself")
        made_at = int.from_bytes(hello.acceptor_challenge[:_TIME_BYTES], "big")
        mine = self._challenge(hello.acceptor_challenge[:_TIME_BYTES])
        if not hmac.compare_digest(mine, hello.acceptor_challenge):
            raise LinkRefused("a proof with another challenge")
        if now - made_at / 1_000_000 > PROOF_SECONDS:
            raise LinkRefused(f"a proof that took longer than {PROOF_SECONDS:g} s")
        if made_at <= self._proved.get(hello.dialler, -1):
            raise LinkRefused("a proof that was used before")
        self._check(signed, hello)
        self._proved[hello.dialler] = made_at
        theirs = _versions_said(secret) or UNSAID_VERSIONS
        version = self.versions.agree(repr(hello.dialler), theirs)
        answer = self._signed(msgspec.structs.replace(hello, role="acceptor"))
        return Accepted(hello.dialler, _text(answer), version)

    def complete(self, dialling: Dialling, text: str) -> None:
        """Take message 4. Raises LinkRefused where the other end did not prove itself."""
        signed, hello = self._check_proof(_read(text, Signed))
        if hello != msgspec.structs.replace(dialling.hello, role="acceptor"):
            raise LinkRefused("a proof for somebody else")
        self._check(signed, hello)

    def _challenge(self, made_at: bytes) -> bytes:
        mark = hmac.new(self._secret, made_at, hashlib.sha256).digest()
        mark_bytes = _CHALLENGE_BYTES - _TIME_BYTES - _VERSIONS_BYTES
        return made_at + mark[:mark_bytes] + self._versions_said

    def _signed(self, hello: Hello) -> Signed:
        return sign_message(hello, encode_message(hello), self._identity)

    def _check_proof(self, signed: Signed) -> tuple[Signed, Hello]:
        """What is said to be signed by a member, for the end that it is at. Raises LinkRefused."""
        hello = self._authenticator.read(signed)
        if isinstance(hello, Refusal):
            raise LinkRefused(f"no proof: {hello.reason}")
        if not isinstance(hello, Hello):
            raise LinkRefused("no proof: another message")
        if signed.signer != (hello.dialler if hello.role == "dialler" else hello.acceptor):
            raise LinkRefused("a proof of one member that is signed by another")
        return signed, hello

    def _check(self, signed: Signed, hello: Hello) -> None:
        """Raises LinkRefused where the signature is not that member's."""
        if self._authenticator.check(signed, hello) is not None:
            raise LinkRefused(f"{signed.signer!r} did not prove that it has its key")


_Words = TypeVar("_Words", _Offer, Signed, _BoundProof)


def _versions_said(challenge: bytes) -> LinkVersions | None:
    """The versions that the end speaks that made this challenge; None: it says none."""
    said = challenge[-_VERSIONS_BYTES:]
    if not said.startswith(_VERSIONS_MARK):
        return None
    return LinkVersions(*said[len(_VERSIONS_MARK) :])


def _bound(secret: bytes, leaves: Leaves) -> bytes:
    """A dialler's challenge that stands for both certificates; all parts have 32 bytes."""
    return hashlib.sha256(_LEAVES_TAG + secret + leaves.dialler + leaves.acceptor).digest()


def _text(value: _Offer | Signed | _BoundProof) -> str:
    return base64.b64encode(msgspec.msgpack.encode(value)).decode()


def _read(text: str, wanted: type[_Words]) -> _Words:
    if len(text) > PROOF_BYTES_MAX:
        raise LinkRefused(f"more than {PROOF_BYTES_MAX} bytes for a proof")
    try:
        return msgspec.msgpack.decode(base64.b64decode(text, validate=True), type=wanted)
    except (msgspec.MsgspecError, ValueError) as error:
        raise LinkRefused(f"not the words of this protocol: {error}") from error
