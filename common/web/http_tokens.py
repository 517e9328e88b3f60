"""Tokens in HTTP requests: how they are shown, compared and asked for.

Programs send `Authorization: Bearer TOKEN` (RFC 6750, 2.1). A browser asks its user for HTTP Basic
(RFC 7617): the password is the token, the name does not matter. Every token is compared in a time
that says nothing of how close a wrong one was.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

# A token of the longest kind (common.configuration.secret_file) as Basic, with a name before it,
# is shorter.
HEADER_CHARACTERS_MAX = 2048

_BEARER = re.compile(r"Bearer +([!-~]+) *", re.IGNORECASE)
_BASIC = re.compile(r"Basic +([A-Za-z0-9+/]+={0,2}) *", re.IGNORECASE)

_REFUSAL = (
    "reading takes one of the tokens of the file that `read_token_file:` names in the "
    "configuration: send Authorization: Bearer TOKEN, or give it as the password (any user name) "
    "in a browser; the command line takes it from client.yml or --token-file"
)
_ASKS_FOR_TOKEN = {"WWW-Authenticate": 'Basic realm="PBFT/CI", charset="UTF-8"'}


def bearer_token(request: web.Request) -> bytes:
    """The token that a program shows; empty if there is none."""
    found = _BEARER.fullmatch(_authorization(request))
    return b"" if found is None else found[1].encode()


def is_one_of(given: bytes, tokens: Sequence[bytes]) -> bool:
    """Whether it is one of these tokens."""
    # each is compared, so that the time says nothing of which one was close
    matches = [hmac.compare_digest(given, token) for token in tokens]
    return any(matches)


def ask_for_token(
    tokens: Sequence[bytes],
    needs_token: Callable[[str], bool],
    may_pass: Callable[[web.Request], bool] = lambda request: False,
) -> Middleware:
    """A middleware: 401 for what needs a token where none of these is shown.

    needs_token: told the pattern of the request's route; empty: there is no such route.
    may_pass: whether who asks is let in without a token.
    """

    @web.middleware
    async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = "" if resource is None else resource.canonical
        if needs_token(route) and not may_pass(request):
            given = bearer_token(request) or _basic_password(request)
            if not is_one_of(given, tokens):
                return web.json_response({"error": _REFUSAL}, status=401, headers=_ASKS_FOR_TOKEN)
        return await handler(request)

    return ask


def _basic_password(request: web.Request) -> bytes:
    found = _BASIC.fullmatch(_authorization(request))
    if found is None:
        return b""
    try:
        return base64.b64decode(found[1], validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _authorization(request: web.Request) -> str:
    return request.headers.get("Authorization", "")[:HEADER_CHARACTERS_MAX]
