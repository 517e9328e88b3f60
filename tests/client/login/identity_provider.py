"""A small identity provider: OpenID Connect with PKCE, and what logins use of GitHub's API.

It signs with `cryptography` alone, not with the library that the gateway checks tokens with. It
refuses what a provider has to refuse: another redirect URI, a code twice, a wrong verifier or
secret. A test makes it lie by changing its public fields.

    python -m tests.client.login.identity_provider --redirect-url URL --port PORT

serves until it is ended.
"""

import argparse
import asyncio
import base64
import functools
import hashlib
import hmac
import html
import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlencode

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

CLIENT_ID = "pbft-ci"
CLIENT_SECRET = "a secret of 24 letters :%"
USERS: Mapping[str, tuple[str, ...]] = {"ana": ("maintainers", "all"), "bo": ("all",)}


def encoded(data: bytes) -> str:
    """Base64url without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@functools.cache
def private_key(number: int) -> rsa.RSAPrivateKey:
    """One of a few RSA keys."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk_of(key: rsa.RSAPrivateKey, kid: str) -> dict[str, str]:
    """The public key as a JSON Web Key."""
    numbers = key.public_key().public_numbers()
    exponent, modulus = (
        encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))
        for value in (numbers.e, numbers.n)
    )
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": modulus, "e": exponent}


def signed_token(
    claims: Mapping[str, Any], *, algorithm: str = "RS256", kid: str = "1", key: int = 0
) -> str:
    """A JSON Web Token. `none` has no signature, HS256 is made with the client's secret."""
    header = {"alg": algorithm, "kid": kid, "typ": "JWT"}
    text = ".".join(encoded(json.dumps(part).encode()) for part in (header, claims))
    signature = b""
    if algorithm == "HS256":
        signature = hmac.digest(CLIENT_SECRET.encode(), text.encode(), "sha256")
    elif algorithm != "none":
        signature = private_key(key).sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{text}.{encoded(signature)}"


class IdentityProvider:
    """The provider. Its fields say how it lies."""

    def __init__(self, redirect_url: str) -> None:
        self.redirect_url = redirect_url
        self.issuer = ""
        # over what it would say
        self.discovery: dict[str, Any] = {}
        self.claims: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.left_out: set[str] = set()
        self.algorithm = "RS256"
        self.kid = "1"
        self.key = 0
        self.listed: list[dict[str, Any]] = [jwk_of(private_key(0), "1")]
        self.token_answer: web.Response | None = None
        self.seconds = 0.0
        # path -> how often it was asked for
        self.asked: dict[str, int] = {}
        self._codes: dict[str, dict[str, str]] = {}

    def application(self) -> web.Application:
        """Its HTTP application."""
        application = web.Application(middlewares=[self._count])
        router = application.router
        router.add_get("/.well-known/openid-configuration", self._show_discovery)
        router.add_get("/keys", self._show_keys)
        for path in ("/authorize", "/login/oauth/authorize"):
            router.add_get(path, self._ask)
            router.add_post(path, self._confirm)
        for path in ("/token", "/login/oauth/access_token"):
            router.add_post(path, self._give_tokens)
        router.add_get("/userinfo", self._show_user)
        router.add_get("/api/v3/user", self._show_github_user)
        router.add_get("/api/v3/user/orgs", self._show_organizations)
        router.add_get("/api/v3/user/teams", self._show_teams)
        return application

    def code_for(self, query: Mapping[str, str], user: str) -> str:
        """The code for a login that was begun with this query."""
        code = encoded(hashlib.sha256(f"{len(self._codes)}{time.time()}".encode()).digest())
        self._codes[code] = {**query, "user": user}
        return code

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked[request.path] = self.asked.get(request.path, 0) + 1
        await asyncio.sleep(self.seconds)
        response: web.StreamResponse = await handler(request)
        return response

    async def _show_discovery(self, request: web.Request) -> web.Response:
        found = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "jwks_uri": f"{self.issuer}/keys",
        }
        return web.json_response(found | self.discovery)

    async def _show_keys(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": self.listed})

    async def _ask(self, request: web.Request) -> web.Response:
        """Who is it? As a page with a button for each user."""
        query = request.query
        if (query["client_id"], query["redirect_uri"]) != (CLIENT_ID, self.redirect_url):
            raise web.HTTPBadRequest(text="another client, or another redirect URI")
        if query["code_challenge_method"] != "S256":
            raise web.HTTPBadRequest(text="no PKCE")
        fields = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in query.items()
        )
        buttons = "".join(f'<button name="user" value="{user}">{user}</button>' for user in USERS)
        form = f'<form method="post">{fields}{buttons}</form>'
        page = f'<!DOCTYPE html><html lang="en"><title>Who?</title>{form}'
        return web.Response(text=page, content_type="text/html")

    async def _confirm(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        user = form.pop("user")
        answer = urlencode({"code": self.code_for(form, user), "state": form["state"]})
        return web.Response(status=303, headers={"Location": f"{self.redirect_url}?{answer}"})

    async def _give_tokens(self, request: web.Request) -> web.Response:
        form = await request.post()
        basic = request.headers.get("Authorization", "").removeprefix("Basic ")
        if basic:
            client, _, secret = base64.b64decode(basic).decode().partition(":")
            shown = unquote(client), unquote(secret)
        else:
            shown = str(form.get("client_id")), str(form.get("client_secret"))
        asked = self._codes.pop(str(form["code"]), None)
        challenge = encoded(hashlib.sha256(str(form["code_verifier"]).encode()).digest())
        if self.token_answer is not None:
            return self.token_answer
        if (
            shown != (CLIENT_ID, CLIENT_SECRET)
            or asked is None
            or asked["code_challenge"] != challenge
            or form["redirect_uri"] != self.redirect_url
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        user = asked["user"]
        answer = {"access_token": f"token of {user}", "token_type": "Bearer"}
        if "nonce" in asked:
            claims = self._claims(user) | {
                "iss": self.issuer,
                "aud": CLIENT_ID,
                "iat": int(time.time()),
                "exp": int(time.time()) + 300,
                "nonce": asked["nonce"],
            }
            claims |= self.claims
            for name in self.left_out:
                claims.pop(name, None)
            answer["id_token"] = signed_token(
                claims, algorithm=self.algorithm, kid=self.kid, key=self.key
            )
        return web.json_response(answer)

    def _claims(self, user: str) -> dict[str, Any]:
        return {"sub": f"id-{user}", "preferred_username": user, "groups": list(USERS[user])}

    def _user(self, request: web.Request) -> str:
        return request.headers["Authorization"].removeprefix("Bearer token of ")

    async def _show_user(self, request: web.Request) -> web.Response:
        return web.json_response(self._claims(self._user(request)) | self.userinfo)

    async def _show_github_user(self, request: web.Request) -> web.Response:
        user = self._user(request)
        return web.json_response({"id": 100 + len(user), "login": user, "name": "A Person"})

    async def _show_organizations(self, request: web.Request) -> web.Response:
        return web.json_response([{"login": "acme", "id": 1}])

    async def _show_teams(self, request: web.Request) -> web.Response:
        teams = USERS[self._user(request)]
        return web.json_response([{"slug": t, "organization": {"login": "acme"}} for t in teams])


async def started(provider: IdentityProvider, port: int | None = None) -> TestServer:
    """Serve it on this machine, on a free port if none is given; whoever starts it closes it."""
    server = TestServer(provider.application(), port=port)
    await server.start_server()
    provider.issuer = str(server.make_url("/")).rstrip("/")
    return server


async def _main(redirect_url: str, port: int) -> None:
    await started(IdentityProvider(redirect_url), port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve an identity provider of the tests.")
    parser.add_argument("--redirect-url", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    asyncio.run(_main(options.redirect_url, options.port))
