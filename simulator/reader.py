"""Reads signed messages for the checkers: decoded once, verified by the world's own signatures."""

from pbft.codec import decode_message, signing_bytes
from pbft.genesis import Cluster
from pbft.messages import AnyMessage, Signed
from pbft.ports import Verify


class Reader:
    """What a payload says, and whether its signer really signed it."""

    def __init__(self, cluster: Cluster, verify: Verify) -> None:
        self.verify = verify
        self._cluster = cluster
        self._decoded: dict[bytes, AnyMessage] = {}

    def decode(self, payload: bytes) -> AnyMessage:
        """The message. Raises MalformedMessage."""
        message = self._decoded.get(payload)
        if message is None:
            message = self._decoded[payload] = decode_message(payload)
        return message

    def holds(self, signed: Signed) -> bool:
        """Whether the member that is named as the signer signed it."""
        message = self.decode(signed.payload)
        public_key = self._cluster.public_key(signed.signer)
        covered = signing_bytes(message, signed.payload, self._cluster.id, self._cluster.epoch)
        return public_key is not None and self.verify(public_key, covered, signed.signature)
