"""Asks the provider who logged in: OpenID Connect, and GitHub's OAuth.

The rule: a provider is a stranger. Each answer is bounded in size and time, no redirect is
followed, all that is asked is at the issuer's own origin, what is kept is asked for again only so
often, and few are asked at once. So a slow or hostile provider keeps nobody from anything else.
"""

import asyncio
import base64
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from joserfc.jwk import KeySet

from client.login.attempts import Attempt
from client.login.id_token import UnknownKey, check_id_token, read_keys
from client.login.person import NoPerson, Person, make_person
from common.config_error import ConfigError
from common.configuration.config import ClientConfig, LoginConfig
from common.configuration.login_config import GITHUB
from common.configuration.secret_file import read_secrets
from common.safe_text import log_text
from common.tls.dialling import DiallingTls
from common.web.bounded_http import (
    Answer,
    AnswerBounds,
    HttpRequest,
    NoAnswer,
    ask,
    bounded_session,
    decode_json,
)
from common.web.limited_listener import origin_of

CALLBACK_PATH = "/login/callback"
ANSWER_BYTES_MAX = 256 * 1024
ANSWER_SECONDS = 10.0
# Logins that the provider is asked about at once; whoever comes then is told to try again.
AT_ONCE_MAX = 16
# What the provider says of itself is kept so long; after a failure it is not asked for a moment.
KEPT_SECONDS = 3600.0
FAILURE_SECONDS = 5.0
# A token with an unknown key makes the gateway ask for keys again, but no more often than this.
KEYS_AGAIN_SECONDS = 60.0
CODE_CHARACTERS_MAX = 2048
# GitHub gives no more at once; who is in more organizations or teams has no role by the others.
GITHUB_PAGE = 100
_Kind = TypeVar("_Kind")
_SECRET = "client secret"  # noqa: S105 - what an error calls it


class ProviderFailed(Exception):
    """The provider did not answer, or with something else; one line what."""


class Provider(Protocol):
    """Whoever vouches for people."""

    async def login_url(self, attempt: Attempt) -> str:
        """Where the browser goes to log in. Raises ProviderFailed."""

    async def person(self, code: str, attempt: Attempt) -> Person:
        """Who came back with this code. Raises ProviderFailed, NoPerson."""


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] | None = None


class _Tokens(msgspec.Struct, frozen=True):
    access_token: str = ""
    id_token: str = ""


class _GithubUser(msgspec.Struct, frozen=True):
    id: int
    login: str


class _GithubOrganization(msgspec.Struct, frozen=True):
    login: str


class _GithubTeam(msgspec.Struct, frozen=True):
    slug: str
    organization: _GithubOrganization


class _Client:
    """Asks the provider, as the application that this gateway is there."""

    def __init__(self, login: LoginConfig, redirect_url: str, secret: str) -> None:
        assert login.client_id is not None, "check_login lets no provider pass without"
        self.client_id = login.client_id
        self.redirect_url = redirect_url
        self._secret = secret
        self._context = None if login.ca_file is None else _context(login)
        self._asking = 0

    async def get(self, url: str, access_token: str = "") -> Answer:
        """GET, with that token if there is one. Raises ProviderFailed."""
        headers = {"Accept": "application/json"}
        if access_token:
            headers["Authorization"] = f"Bearer {access_token}"
        return await self._ask(HttpRequest(url=url, headers=headers))

    async def tokens(self, url: str, code: str, attempt: Attempt, *, has_basic: bool) -> _Tokens:
        """What the provider gives for a code (RFC 6749, 4.1.3). Raises ProviderFailed, NoPerson."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_url,
            "code_verifier": attempt.verifier,
        }
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        if has_basic:
            pair = f"{quote(self.client_id, safe='')}:{quote(self._secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": self.client_id, "client_secret": self._secret}
        request = HttpRequest(
            method="POST", url=url, headers=headers, body=urlencode(form).encode()
        )
        answer = await self._ask(request, statuses=(200, 400, 401))
        if answer.status != 200:
            raise NoPerson(
                "the provider does not take the code: log in again, and if it stays so,"
                " compare client_id, client_secret_file and the redirect URI with it"
            )
        return read(answer, _Tokens)

    async def _ask(self, request: HttpRequest, statuses: tuple[int, ...] = (200,)) -> Answer:
        if self._asking >= AT_ONCE_MAX:
            raise ProviderFailed(f"{AT_ONCE_MAX} logins wait for the provider: try again")
        self._asking += 1
        host = urlsplit(request.url).hostname or ""
        if self._context is not None and request.url.startswith("https://"):
            tls = DiallingTls(self._context, host, b"")
            request = msgspec.structs.replace(request, tls=tls)
        try:
            async with bounded_session() as session:
                answer = await ask(session, request, AnswerBounds(ANSWER_BYTES_MAX, ANSWER_SECONDS))
        except NoAnswer as error:
            raise ProviderFailed(f"{host}: {error}") from error
        finally:
            self._asking -= 1
        if answer.status not in statuses:
            raise ProviderFailed(f"{host} answers with status {answer.status}")
        return answer


class OpenIdProvider:
    """An OpenID Connect provider (Core 1.0, 3.1, and Discovery 1.0)."""

    def __init__(
        self,
        login: LoginConfig,
        client: _Client,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """clock: seconds since 1970."""
        assert login.issuer is not None, "check_login lets no provider pass without"
        self._login = login
        self._issuer = login.issuer
        self._client = client
        self._clock = clock
        self._discovered: _Discovery | None = None
        self._discovered_at = self._failed_at = self._keys_at = float("-inf")
        self._failure = ""
        self._keys: KeySet | None = None
        # one question for all who wait for the answer
        self._turn = asyncio.Lock()

    async def login_url(self, attempt: Attempt) -> str:
        """Where the browser goes to log in. Raises ProviderFailed."""
        discovery = await self._discover()
        query = {
            "response_type": "code",
            "client_id": self._client.client_id,
            "redirect_uri": self._client.redirect_url,
            "scope": " ".join(self._login.wanted_scopes),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        return _with_query(discovery.authorization_endpoint, query)

    async def person(self, code: str, attempt: Attempt) -> Person:
        """Who came back with this code. Raises ProviderFailed, NoPerson."""
        discovery = await self._discover()
        methods = discovery.token_endpoint_auth_methods_supported
        tokens = await self._client.tokens(
            discovery.token_endpoint,
            code,
            attempt,
            # as the specification has it where nothing is said (Discovery 1.0, 3)
            has_basic=methods is None or "client_secret_basic" in methods,
        )
        claims = await self._check(tokens.id_token, attempt)
        named = {self._login.name_claim, self._login.groups_in, *self._login.claims_named}
        if named - claims.keys() and discovery.userinfo_endpoint and tokens.access_token:
            answer = await self._client.get(discovery.userinfo_endpoint, tokens.access_token)
            more = read(answer, dict[str, Any])
            # Core 1.0, 5.3.2: else it may be about somebody else
            if more.get("sub") != claims["sub"]:
                raise NoPerson("what the provider says of the person is about another one")
            claims = {**more, **claims}
        return make_person(
            claims["sub"],
            claims.get(self._login.name_claim),
            groups=claims.get(self._login.groups_in),
            claims={key: claims[key] for key in self._login.claims_named if key in claims},
        )

    async def _check(self, token: str, attempt: Attempt) -> Mapping[str, Any]:
        for is_again in (False, True):
            try:
                return check_id_token(
                    token,
                    await self._key_set(is_again=is_again),
                    issuer=self._issuer,
                    client_id=self._client.client_id,
                    nonce=attempt.nonce,
                    now=self._clock(),
                )
            except UnknownKey:
                if is_again:
                    raise
        raise AssertionError("the second try returns or raises")

    async def _key_set(self, *, is_again: bool) -> KeySet:
        """The provider's keys. is_again: those that are here were not enough."""
        discovery = await self._discover()
        async with self._turn:
            age = self._clock() - self._keys_at
            if self._keys is None or age >= (KEYS_AGAIN_SECONDS if is_again else KEPT_SECONDS):
                self._keys_at = self._clock()
                answer = await self._client.get(discovery.jwks_uri)
                self._keys = read_keys(read(answer, dict[str, Any]))
            return self._keys

    async def _discover(self) -> _Discovery:
        """What the provider says of itself. Raises ProviderFailed."""
        async with self._turn:
            now = self._clock()
            if self._discovered is not None and now < self._discovered_at + KEPT_SECONDS:
                return self._discovered
            if now < self._failed_at + FAILURE_SECONDS:
                raise ProviderFailed(self._failure)
            try:
                url = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
                found = read(await self._client.get(url), _Discovery)
                self._check_discovery(found)
            except ProviderFailed as error:
                self._failed_at, self._failure = self._clock(), str(error)
                raise
            self._discovered, self._discovered_at = found, self._clock()
            return found

    def _check_discovery(self, found: _Discovery) -> None:
        """Its own issuer (Discovery 1.0, 4.3), and no address of anybody else: with the code and
        the secret the gateway asks nobody but whom the operator named."""
        if found.issuer != self._issuer:
            raise ProviderFailed(
                f"the provider calls itself {log_text(found.issuer)}, and login.issuer is"
                f" {self._issuer}: write it as the provider does"
            )
        origin = origin_of(self._issuer)
        for url in (
            found.authorization_endpoint,
            found.token_endpoint,
            found.jwks_uri,
            found.userinfo_endpoint or self._issuer,
        ):
            if origin_of(url) != origin:
                raise ProviderFailed(
                    f"the provider names an address elsewhere than at its issuer: {log_text(url)}"
                )


class GithubProvider:
    """GitHub's OAuth: no id token, so its API is asked who the access token is of."""

    def __init__(self, login: LoginConfig, client: _Client) -> None:
        self._login = login
        self._site = (login.issuer or GITHUB).rstrip("/")
        is_public = self._site == GITHUB
        self._api = "https://api.github.com" if is_public else f"{self._site}/api/v3"
        self._client = client

    async def login_url(self, attempt: Attempt) -> str:
        """Where the browser goes to log in."""
        query = {
            "client_id": self._client.client_id,
            "redirect_uri": self._client.redirect_url,
            "scope": " ".join(self._login.wanted_scopes),
            "state": attempt.state,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        return _with_query(f"{self._site}/login/oauth/authorize", query)

    async def person(self, code: str, attempt: Attempt) -> Person:
        """Who came back with this code. Raises ProviderFailed, NoPerson.

        Groups are the names of organizations, and ORGANIZATION/TEAM.
        """
        url = f"{self._site}/login/oauth/access_token"
        tokens = await self._client.tokens(url, code, attempt, has_basic=False)
        if not tokens.access_token:
            # GitHub answers 200 to a code that it does not take
            raise NoPerson("the provider does not take the code: log in again")
        token = tokens.access_token
        user = read(await self._client.get(f"{self._api}/user", token), _GithubUser)
        page = f"?per_page={GITHUB_PAGE}"
        answer = await self._client.get(f"{self._api}/user/orgs{page}", token)
        organizations = read(answer, list[_GithubOrganization])
        answer = await self._client.get(f"{self._api}/user/teams{page}", token)
        teams = read(answer, list[_GithubTeam])
        groups = [
            *(organization.login for organization in organizations),
            *(f"{team.organization.login}/{team.slug}" for team in teams),
        ]
        return make_person(str(user.id), user.login, groups=groups)


def make_provider(config: ClientConfig) -> Provider:
    """The provider of `login:`. Raises ConfigError where its files cannot be used."""
    login = config.login
    assert login is not None, "only a gateway with login: has a provider"
    assert login.client_secret_file is not None, "check_login lets no provider pass without"
    redirect_url = (config.public_url or config.listen.url).rstrip("/") + CALLBACK_PATH
    (secret,) = read_secrets(login.client_secret_file, _SECRET, 1)
    client = _Client(login, redirect_url, secret.decode("ascii"))
    if login.provider == "github":
        return GithubProvider(login, client)
    return OpenIdProvider(login, client)


def read(answer: Answer, kind: type[_Kind]) -> _Kind:
    """A JSON answer as that type. Raises ProviderFailed."""
    try:
        return decode_json(answer.data, kind)
    except NoAnswer as error:
        raise ProviderFailed(str(error)) from error


def _context(login: LoginConfig) -> ssl.SSLContext:
    assert login.ca_file is not None
    try:
        return ssl.create_default_context(cafile=str(login.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError.at(
            login.ca_file, "", f"cannot be used ({error})", "certificates as PEM are needed"
        ) from error


def _with_query(url: str, query: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
