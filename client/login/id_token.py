"""An id token is checked (OpenID Connect Core 1.0, 3.1.3.7), with keys of the provider.

The signature is checked although the token comes from the provider over TLS: a token that somebody
else wrote counts for nothing, whichever way it came. Only algorithms with public keys are allowed:
with HS256 whoever knows the client's secret, and with `none` anybody, could write one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from client.login.person import NoPerson

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
KEYS_MAX = 32
TOKEN_CHARACTERS_MAX = 64 * 1024
# How far the provider's clock and this machine's may be apart.
LEEWAY_SECONDS = 60
_KEY_KINDS = ("RSA", "EC", "OKP")


class UnknownKey(NoPerson):
    """The token names a key that is not among these: the provider may have a new one."""


def read_keys(jwks: Mapping[str, Any]) -> KeySet:
    """The keys that tokens may be signed with, of a provider's JSON Web Key Set. Raises NoPerson.

    Others, for other uses or of kinds that are not known here, are left out.
    """
    listed = jwks.get("keys")
    if not isinstance(listed, list) or len(listed) > KEYS_MAX:
        raise NoPerson(f"the provider's key set is no list of at most {KEYS_MAX} keys")
    found = []
    for key in listed:
        if not isinstance(key, dict) or key.get("kty") not in _KEY_KINDS:
            continue
        if key.get("use", "sig") != "sig":
            continue
        try:
            found.extend(KeySet.import_key_set({"keys": [key]}).keys)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    return KeySet(found)


def check_id_token(
    token: str, keys: KeySet, *, issuer: str, client_id: str, nonce: str, now: float
) -> Mapping[str, Any]:
    """The claims of a token that this issuer wrote for this client, for this attempt.

    now: seconds since 1970. Raises UnknownKey, and NoPerson.
    """
    if len(token) > TOKEN_CHARACTERS_MAX:
        raise NoPerson(f"the id token has more than {TOKEN_CHARACTERS_MAX} characters")
    expected = jwt.JWTClaimsRegistry(
        now=int(now),
        leeway=LEEWAY_SECONDS,
        iss={"essential": True, "value": issuer},
        aud={"essential": True, "value": client_id},
        exp={"essential": True},
        iat={"essential": True},
        sub={"essential": True},
        nonce={"essential": True},
    )
    try:
        claims = jwt.decode(token, keys, algorithms=ALGORITHMS).claims
        expected.validate(claims)
    except InvalidKeyIdError as error:
        raise UnknownKey("the id token is signed with a key that the provider does not list") from (
            error
        )
    except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise NoPerson(f"the id token is refused: {error}") from error
    # here, since the registry would take a list with the right one in it, too
    if claims["nonce"] != nonce:
        raise NoPerson("the id token is refused: it belongs to another attempt (nonce)")
    _check_party(claims, client_id)
    return claims


def _check_party(claims: Mapping[str, Any], client_id: str) -> None:
    """A token for several audiences must have been given to this client."""
    audience = claims["aud"]
    is_shared = (
        isinstance(audience, Sequence) and not isinstance(audience, str) and (len(audience) > 1)
    )
    party = claims.get("azp")
    if (is_shared or party is not None) and party != client_id:
        raise NoPerson("the id token was given to another client (azp)")
