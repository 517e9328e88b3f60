"""client.login.id_token: only what this provider wrote for this client and attempt counts."""

from typing import Any

import pytest

from client.login.id_token import (
    KEYS_MAX,
    LEEWAY_SECONDS,
    TOKEN_CHARACTERS_MAX,
    UnknownKey,
    check_id_token,
    read_keys,
)
from client.login.person import NoPerson
from tests.client.login.identity_provider import CLIENT_ID, jwk_of, private_key, signed_token

ISSUER = "https://id.example.org"
NOW = 1_000_000.0
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": CLIENT_ID,
    "sub": "7",
    "nonce": "n",
    "iat": NOW,
    "exp": NOW + 300,
}
KEYS = {"keys": [jwk_of(private_key(0), "1")]}


def check(token: str, now: float = NOW) -> Any:
    return check_id_token(
        token, read_keys(KEYS), issuer=ISSUER, client_id=CLIENT_ID, nonce="n", now=now
    )


def test_a_token_of_the_provider_for_this_client_counts() -> None:
    assert check(signed_token(CLAIMS))["sub"] == "7"
    several = {**CLAIMS, "aud": [CLIENT_ID, "another"], "azp": CLIENT_ID}
    assert check(signed_token(several))["aud"] == [CLIENT_ID, "another"]


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://id.example.org/"},
        {"iss": [ISSUER]},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": [CLIENT_ID, "another"]},
        {"azp": "another"},
        {"nonce": "m"},
        {"nonce": ["n", "m"]},
        {"exp": NOW - LEEWAY_SECONDS - 1},
        {"exp": "never"},
        {"iat": NOW + LEEWAY_SECONDS + 1},
        {"nbf": NOW + LEEWAY_SECONDS + 1},
        {"sub": 7},
    ],
)
def test_a_token_with_another_claim_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(NoPerson):
        check(signed_token({**CLAIMS, **changed}))


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "nonce", "iat", "exp"])
def test_a_token_without_a_claim_is_refused(name: str) -> None:
    claims = {key: value for key, value in CLAIMS.items() if key != name}
    with pytest.raises(NoPerson):
        check(signed_token(claims))


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS1", "RS256x"])
def test_only_algorithms_of_the_list_count(algorithm: str) -> None:
    with pytest.raises(NoPerson):
        check(signed_token(CLAIMS, algorithm=algorithm))


def test_a_token_that_somebody_else_signed_or_changed_is_refused() -> None:
    with pytest.raises(NoPerson):
        check(signed_token(CLAIMS, key=1))
    with pytest.raises(UnknownKey):
        check(signed_token(CLAIMS, kid="2"))
    header, _, signature = signed_token(CLAIMS).split(".")
    other = signed_token({**CLAIMS, "sub": "8"}).split(".")[1]
    with pytest.raises(NoPerson):
        check(f"{header}.{other}.{signature}")


@pytest.mark.parametrize("token", ["", "a", "a.b", "..", "é.b.c", "x" * (TOKEN_CHARACTERS_MAX + 1)])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(NoPerson):
        check(token)


def test_of_a_key_set_only_keys_for_signatures_are_taken() -> None:
    own = jwk_of(private_key(0), "1")
    others: list[Any] = [
        {**own, "kid": "2", "use": "enc"},
        {"kty": "oct", "kid": "3", "k": "c2VjcmV0"},
        {"kty": "RSA", "kid": "4"},
        {"kty": "?", "kid": "5"},
        "no key",
    ]
    assert [key.kid for key in read_keys({"keys": [own, *others]}).keys] == ["1"]
    for wrong in ({}, {"keys": "1"}, {"keys": [own] * (KEYS_MAX + 1)}):
        with pytest.raises(NoPerson):
            read_keys(wrong)
