"""The oracle holds nobody's signature but those that were made, and the real keys do as well."""

import nacl.signing
import pytest

from common.configuration.keys import verify as verify_really
from pbft.ports import Sign
from simulator.world.scheduler import Scheduler
from simulator.world.signatures import Oracle, RealKeys, Signatures


def make_key(secret: bytes) -> tuple[bytes, Sign]:
    """A real Ed25519 key from 32 secret bytes."""
    key = nacl.signing.SigningKey(secret)
    return bytes(key.verify_key), lambda message: key.sign(message).signature


@pytest.mark.parametrize(
    "signatures", [Oracle(1, Scheduler()), RealKeys(1, make_key, verify_really)], ids=["o", "real"]
)
def test_only_what_was_signed_verifies(signatures: Signatures) -> None:
    signature = signatures.signer("a")(b"message")
    key, other = signatures.public_key("a"), signatures.public_key("b")
    assert len(signature) == 64
    assert signatures.verify(key, b"message", signature)
    assert not signatures.verify(key, b"massage", signature)
    assert not signatures.verify(other, b"message", signature)
    assert not signatures.verify(key, b"message", bytes(64))
    assert signatures.signer("a")(b"message") == signature
