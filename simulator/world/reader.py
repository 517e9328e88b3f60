"""Reads signed messages once for a whole world: for its checkers, and for all of its replicas."""

from collections.abc import Callable

from pbft.authentication import Authenticator
from pbft.codec import MalformedMessage, decode_message, signing_bytes
from pbft.genesis import Cluster
from pbft.messages import AnyMessage, Signed
from pbft.ports import Refusal, Verify

# payload -> its message; raises MalformedMessage
Decode = Callable[[bytes], AnyMessage]


class Reader:
    """What a payload says, and whether its signer really signed it."""

    def __init__(self, cluster: Cluster, verify: Verify) -> None:
        self.verify = verify
        self._cluster = cluster
        self._decoded: dict[bytes, AnyMessage] = {}
        self._malformed: dict[bytes, str] = {}

    def decode(self, payload: bytes) -> AnyMessage:
        """The message. Raises MalformedMessage."""
        message = self._decoded.get(payload)
        return message if message is not None else self._decode_new(payload)

    def _decode_new(self, payload: bytes) -> AnyMessage:
        if (reason := self._malformed.get(payload)) is not None:
            raise MalformedMessage(reason)
        try:
            message = self._decoded[payload] = decode_message(payload)
        except MalformedMessage as error:
            self._malformed[payload] = str(error)
            raise
        return message

    def holds(self, signed: Signed) -> bool:
        """Whether the member that is named as the signer signed it."""
        message = self.decode(signed.payload)
        public_key = self._cluster.public_key(signed.signer)
        covered = signing_bytes(
            message, signed.payload, self._cluster.id, epoch=self._cluster.epoch
        )
        return public_key is not None and self.verify(public_key, covered, signed.signature)


class SharedAuthenticator(Authenticator):
    """The core's own authenticator, whose answers all replicas of a world share.

    Whether bytes are a message, and whether a signature that was made holds, is the same for all
    of them; a refusal of `check` is not kept, for the signature may be made later.
    """

    def __init__(self, cluster: Cluster, verify: Verify) -> None:
        super().__init__(cluster, verify)
        self._known: dict[tuple[str, bytes], AnyMessage | Refusal] = {}
        self._held: dict[tuple[str, bytes, bytes], None] = {}

    def read(self, signed: Signed) -> AnyMessage | Refusal:
        """As Authenticator.read."""
        key = (signed.signer, signed.payload)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = super().read(signed)
        return known

    def has_held(self, signed: Signed) -> bool:
        """Whether a replica asked for exactly this, and it held."""
        return (signed.signer, signed.payload, signed.signature) in self._held

    def check(self, signed: Signed, message: AnyMessage) -> Refusal | None:
        """As Authenticator.check."""
        key = (signed.signer, signed.payload, signed.signature)
        if key in self._held:
            return None
        refusal = super().check(signed, message)
        if refusal is None:
            self._held[key] = None
        return refusal
