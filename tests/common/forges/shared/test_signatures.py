"""common.forges.shared.signatures: vectors of the forges' documents, and of the openssl command."""

import base64
import hmac
from typing import Any

import pytest

from common.forges.shared.signatures import (
    TOLERANCE_SECONDS,
    Proof,
    header_bytes,
    is_hmac_hex,
    is_same_secret,
    standard_key,
    standard_webhooks_check,
)
from tests.common.forges.deliveries import NOW, OTHER_SECRET, SECRET, openssl_hmac, signing_headers

# docs/FACTS.md, from GitHub's "Validating webhook deliveries".
GITHUB_VECTOR = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
KEY = bytes(range(24))
TOKEN = b"whsec_" + base64.b64encode(KEY)
BODY = b'{"object_kind": "push"}'


def test_githubs_own_test_vector() -> None:
    body = b"Hello, World!"
    assert openssl_hmac(b"It's a Secret to Everybody", body).hex() == GITHUB_VECTOR
    assert is_hmac_hex([SECRET], body, f"sha256={GITHUB_VECTOR}", prefix=b"sha256=")
    assert not is_hmac_hex([SECRET], body + b" ", f"sha256={GITHUB_VECTOR}", prefix=b"sha256=")
    assert not is_hmac_hex([SECRET], body, f"sha256={GITHUB_VECTOR.upper()}", prefix=b"sha256=")
    assert not is_hmac_hex([SECRET], body, GITHUB_VECTOR, prefix=b"sha256=")
    assert not is_hmac_hex([], body, f"sha256={GITHUB_VECTOR}", prefix=b"sha256=")


def test_any_of_several_secrets_will_do() -> None:
    signature = openssl_hmac(SECRET, BODY).hex()
    assert is_hmac_hex([OTHER_SECRET, SECRET], BODY, signature)
    assert is_hmac_hex([SECRET, OTHER_SECRET], BODY, signature)
    assert not is_hmac_hex([OTHER_SECRET], BODY, signature)


@pytest.mark.parametrize("value", ["grün", "\udcff\udcfe", "日本", ""])
def test_a_header_that_is_not_ascii_is_wrong_and_raises_nothing(value: str) -> None:
    assert not is_hmac_hex([SECRET], BODY, value)
    assert not is_same_secret([SECRET], value)
    header_bytes(value)


def test_a_token_is_the_whole_secret() -> None:
    text = SECRET.decode()
    assert is_same_secret([OTHER_SECRET, SECRET], text)
    assert not is_same_secret([SECRET], text[:-1])
    assert not is_same_secret([SECRET], text + "x")
    assert not is_same_secret([], text)


def check(headers: dict[str, str], body: bytes = BODY, now: float = NOW) -> Proof:
    return standard_webhooks_check(
        [TOKEN],
        identity=headers.get("webhook-id"),
        timestamp=headers.get("webhook-timestamp"),
        signature=headers.get("webhook-signature"),
        body=body,
        now=now,
    ).proof


def test_standard_webhooks_as_openssl_signs_them() -> None:
    headers = signing_headers(KEY, BODY)
    assert check(headers) is Proof.VALID
    assert check(headers, body=BODY + b"\n") is Proof.WRONG
    assert check(headers | {"webhook-id": "another"}) is Proof.WRONG
    assert check(headers | {"webhook-timestamp": str(int(NOW) + 1)}) is Proof.WRONG
    assert check(signing_headers(KEY[1:], BODY)) is Proof.WRONG


@pytest.mark.parametrize(
    ("off", "proof"),
    [
        (0, Proof.VALID),
        (TOLERANCE_SECONDS, Proof.VALID),
        (-TOLERANCE_SECONDS, Proof.VALID),
        (TOLERANCE_SECONDS + 1, Proof.WRONG),
        (-TOLERANCE_SECONDS - 1, Proof.WRONG),
    ],
)
def test_five_minutes_of_tolerance_either_way(off: int, proof: Proof) -> None:
    assert TOLERANCE_SECONDS == 5 * 60
    assert check(signing_headers(KEY, BODY), now=NOW + off) is proof


def test_one_good_signature_of_several_suffices() -> None:
    headers = signing_headers(KEY, BODY)
    good = headers["webhook-signature"]
    for several in (f"v1,AAAA {good}", f"{good} v1,AAAA", f"v2,{good[3:]} {good}"):
        assert check(headers | {"webhook-signature": several}) is Proof.VALID
    for wrong in (good[3:], f"v1a,{good[3:]}", f"v2,{good[3:]}", "v1,", "v1", " ", "é,é"):
        assert check(headers | {"webhook-signature": wrong}) is Proof.WRONG


@pytest.mark.parametrize("timestamp", ["", "now", "1.5", "-1", "9" * 400, "١٢٣", " 1"])
def test_a_timestamp_that_is_no_number_is_wrong(timestamp: str) -> None:
    headers = signing_headers(KEY, BODY) | {"webhook-timestamp": timestamp}
    assert check(headers) is Proof.WRONG


def test_many_signatures_do_not_have_the_body_hashed_as_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed = []
    real_new = hmac.new

    def new(key: bytes, start: bytes, digest: Any) -> hmac.HMAC:
        hashed.append(key)
        return real_new(key, start, digest)

    headers = signing_headers(KEY, BODY) | {"webhook-signature": " ".join(["v1,AAAA"] * 16)}
    monkeypatch.setattr(hmac, "new", new)
    assert check(headers) is Proof.WRONG
    assert hashed == [KEY]


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_each_header_is_needed(missing: str) -> None:
    headers = signing_headers(KEY, BODY)
    del headers[missing]
    assert check(headers) is Proof.WRONG


@pytest.mark.parametrize("secret", [b"whsec_", b"whsec_%%%", b"secret", b"whsec_abc"])
def test_what_is_no_signing_token_signs_nothing(secret: bytes) -> None:
    assert standard_key(secret) is None
    headers = signing_headers(secret, BODY)
    answer = standard_webhooks_check(
        [secret],
        identity=headers["webhook-id"],
        timestamp=headers["webhook-timestamp"],
        signature=headers["webhook-signature"],
        body=BODY,
        now=NOW,
    )
    assert answer.proof is Proof.WRONG
