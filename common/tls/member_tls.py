"""The TLS of one member: its leaf, renewed each day, and its contexts."""

import contextlib
import ssl
from collections.abc import Callable

import msgspec

from common.configuration.keys import SigningKey
from common.tls.certificates import (
    LEAF_SEED_BYTES,
    SERIAL_BYTES,
    Leaf,
    NotAMember,
    PeerLeaf,
    PinnedKeys,
    host_of,
    issue_leaf,
    whose_leaf,
)
from common.tls.contexts import dialling_context, listening_context, renewed_context
from common.tls.dialling import DiallingTls

# A leaf is replaced long before it ends, so that links made with it last for days.
RENEWAL_SECONDS = 24 * 3600.0


class Channel(msgspec.Struct, frozen=True):
    """Both ends of a connection: the digest of the leaf that this end showed, and the other's.

    earlier_epoch: the other end is a member of that earlier epoch, and proved no more than that;
    None: it is a member of the present one.
    """

    own_digest: bytes
    peer: PeerLeaf
    earlier_epoch: int | None = None


class MemberTls:
    """The TLS of one member: contexts for dialling each other member and for listening.

    Its leaf is renewed each day, when a context is next asked for.

    A member may have been one in earlier epochs of its cluster. Whoever still is in one of those
    dials the name that this member had there, for the name is made of the epoch's id. So the name
    that is asked for decides whose leaf is shown, and whose keys are trusted.
    """

    def __init__(
        self,
        pinned: PinnedKeys,
        name: str,
        signing_key: SigningKey,
        *,
        clock: Callable[[], float],
        randomness: Callable[[int], bytes],
    ) -> None:
        """clock: seconds since 1970. randomness: so many secret bytes."""
        # by the name that is asked for: an earlier epoch, and this member's TLS of it
        self._earlier: dict[str, tuple[int, MemberTls]] = {}
        self._pinned = pinned
        self._name = name
        self._signing_key = signing_key
        self._clock = clock
        self._randomness = randomness
        self._dialling: dict[str, DiallingTls] = {}
        self._renew()
        self.listening = renewed_context(self._newest_listening)

    def serve_earlier(self, earlier: "MemberTls", epoch: int) -> None:
        """Let members of an earlier epoch connect, too; `Channel.earlier_epoch` says which one.

        earlier: this member's TLS in that epoch.
        """
        self._earlier[host_of(earlier._pinned.cluster_id, earlier._name)] = (epoch, earlier)

    @property
    def leaf(self) -> Leaf:
        """What this member shows now."""
        self._renew_if_due()
        return self._leaf

    def dialling(self, peer: str) -> DiallingTls:
        """For a connection to that member. The same until the leaf is renewed."""
        self._renew_if_due()
        dialling = self._dialling.get(peer)
        if dialling is None:
            context = dialling_context(self._pinned, peer, self._leaf)
            host = host_of(self._pinned.cluster_id, peer)
            dialling = self._dialling[peer] = DiallingTls(context, host, self._leaf.digest)
        return dialling

    def accepted(self, connection: ssl.SSLObject) -> Channel:
        """Both ends of a connection that a member just dialled. Raises NotAMember.

        connection: what asyncio and uvloop give as `ssl_object` of a transport.
        """
        try:
            return Channel(self._leaf.digest, self.whose(connection))
        except NotAMember:
            # A leaf names its cluster's epoch, so it is one of at most one of them.
            for epoch, earlier in self._earlier.values():
                with contextlib.suppress(NotAMember):
                    peer = earlier.whose(connection)
                    return Channel(earlier.leaf.digest, peer, epoch)
            raise

    def whose(self, connection: ssl.SSLObject) -> PeerLeaf:
        """Which member is at the other end of a connection. Raises NotAMember."""
        return whose_leaf(connection.getpeercert(True), self._pinned, self._clock())

    def seconds_left(self, peer: PeerLeaf) -> float:
        """How long a connection with that member may last: until one end's leaf ends."""
        return min(self._leaf.not_after, peer.not_after) - self._clock()

    def _newest_listening(self, name: str | None) -> ssl.SSLContext:
        """For a connection that asks for that name."""
        if name in self._earlier:
            _, earlier = self._earlier[name]
            return earlier._newest_listening(None)
        self._renew_if_due()
        return self._listening

    def _renew_if_due(self) -> None:
        # A clock that was put back counts as well: others might find the leaf not yet valid.
        if not 0 <= self._clock() - self._renewed_at < RENEWAL_SECONDS:
            self._renew()

    def _renew(self) -> None:
        self._renewed_at = self._clock()
        self._leaf = issue_leaf(
            self._pinned.cluster_id,
            self._name,
            self._signing_key,
            now=self._renewed_at,
            randomness=self._randomness(LEAF_SEED_BYTES + SERIAL_BYTES),
        )
        self._dialling.clear()
        self._listening = listening_context(self._pinned, self._leaf)
