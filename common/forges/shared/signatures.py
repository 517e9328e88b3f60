"""Whether a delivery was made by somebody who knows the secret. All comparisons in constant time.

Bytes are compared: a header's text may hold anything, and comparing texts that are not ASCII
raises. No secret is ever shown.
"""

import base64
import binascii
import enum
import hashlib
import hmac
from collections.abc import Iterable

import msgspec

# Standard Webhooks: how far a sender's clock and the way may be off.
TOLERANCE_SECONDS = 300
STANDARD_KEY_PREFIX = b"whsec_"
STANDARD_VERSION = "v1"
HUB_PREFIX = "sha256="
# A header holds one signature per key that is in use; more are not looked at.
STANDARD_SIGNATURES_MAX = 16


class Proof(enum.StrEnum):
    """What a delivery proves of its sender. MISSING: it does not even try."""

    VALID = "valid"
    WRONG = "wrong"
    MISSING = "missing"


class SignatureCheck(msgspec.Struct, frozen=True):
    """The proof, and in words what was looked at or why it does not hold."""

    proof: Proof
    reason: str = ""


def header_bytes(value: str) -> bytes:
    """A header as it came over the wire."""
    return value.encode("utf-8", "surrogateescape")


def is_hmac_hex(
    secrets: Iterable[bytes], content: bytes, signature: str, *, prefix: bytes = b""
) -> bool:
    """Whether this is the lower-case hex HMAC-SHA256 of `content` under one of the secrets."""
    given = header_bytes(signature)
    found = False
    for secret in secrets:
        expected = prefix + hmac.new(secret, content, hashlib.sha256).hexdigest().encode()
        found |= hmac.compare_digest(expected, given)
    return found


def hub_signature_check(
    secrets: Iterable[bytes], body: bytes, signature: str | None
) -> SignatureCheck:
    """X-Hub-Signature as Bitbucket sends it: `sha256=` and the HMAC of the raw body.

    GitHub's old header of that name has SHA-1, which counts for nothing.
    """
    if signature is None or signature == HUB_PREFIX:
        return SignatureCheck(Proof.MISSING, "X-Hub-Signature is missing")
    if is_hmac_hex(secrets, body, signature, prefix=HUB_PREFIX.encode()):
        return SignatureCheck(Proof.VALID)
    return SignatureCheck(Proof.WRONG, "X-Hub-Signature is not that of this body under the secret")


def is_same_secret(secrets: Iterable[bytes], token: str) -> bool:
    """Whether the token is one of the secrets; its length does not show in the time either."""
    given = hashlib.sha256(header_bytes(token)).digest()
    found = False
    for secret in secrets:
        found |= hmac.compare_digest(hashlib.sha256(secret).digest(), given)
    return found


def standard_webhooks_check(
    secrets: Iterable[bytes],
    *,
    identity: str | None,
    timestamp: str | None,
    signature: str | None,
    body: bytes,
    now: float,
) -> SignatureCheck:
    """Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`, base64, not older than 5 minutes.

    secrets: only those that begin with whsec_ count. now: seconds since 1970.
    """
    wrong = Proof.WRONG
    if identity is None or timestamp is None or signature is None:
        return SignatureCheck(wrong, "webhook-id, webhook-timestamp or webhook-signature is empty")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 15):
        return SignatureCheck(wrong, "webhook-timestamp is not a number of seconds")
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return SignatureCheck(
            wrong, f"webhook-timestamp is more than {TOLERANCE_SECONDS} s away from this clock"
        )
    start = b"%b.%b." % (header_bytes(identity), timestamp.encode())
    expected = []
    for key in filter(None, map(standard_key, secrets)):
        # once per key, however many signatures a stranger sends, and without a copy of the body
        signed = hmac.new(key, start, hashlib.sha256)
        signed.update(body)
        expected.append(base64.b64encode(signed.digest()))
    found = False
    for entry in signature.split(" ")[:STANDARD_SIGNATURES_MAX]:
        version, _, given = entry.partition(",")
        if version != STANDARD_VERSION:
            continue
        for digest in expected:
            found |= hmac.compare_digest(digest, header_bytes(given))
    if found:
        return SignatureCheck(Proof.VALID)
    return SignatureCheck(wrong, "webhook-signature is not made with the signing token")


def standard_key(secret: bytes) -> bytes | None:
    """The key in a signing token `whsec_<base64>`; None where it is none."""
    if not secret.startswith(STANDARD_KEY_PREFIX):
        return None
    try:
        key = base64.b64decode(secret.removeprefix(STANDARD_KEY_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key or None
