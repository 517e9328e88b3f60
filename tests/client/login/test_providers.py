"""client.login.providers: a provider that answers, and ones that lie, are slow, or say too much."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp import web

from client.login import providers
from client.login.attempts import Attempt, Attempts
from client.login.person import NoPerson, Person
from client.login.providers import ANSWER_BYTES_MAX, Provider, ProviderFailed, make_provider
from common.address import Address
from common.configuration.config import ClientConfig, LoginConfig
from tests.client.login.identity_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    IdentityProvider,
    jwk_of,
    private_key,
    started,
)

REDIRECT_URL = "https://ci.example.org/login/callback"


@pytest.fixture
async def served() -> AsyncIterator[IdentityProvider]:
    """A provider that tells the truth until a test says otherwise."""
    provider = IdentityProvider(REDIRECT_URL)
    server = await started(provider)
    yield provider
    await server.close()


def login_config(served: IdentityProvider, folder: Path, **changed: Any) -> LoginConfig:
    """`login:` of a gateway that trusts this provider."""
    secret = folder / "client-secret"
    secret.write_text(CLIENT_SECRET)
    secret.chmod(0o600)
    named: dict[str, Any] = {
        "provider": "oidc",
        "issuer": served.issuer,
        "client_id": CLIENT_ID,
        "client_secret_file": secret,
    }
    return LoginConfig(**(named | changed))


def provider_of(served: IdentityProvider, folder: Path, **changed: Any) -> Provider:
    """What asks it."""
    config = ClientConfig(
        file=folder / "client.yml",
        cluster_file=folder / "cluster.yml",
        name="gateway",
        private_key_file=folder / "key",
        listen=Address("127.0.0.1", 8080),
        data_directory=folder,
        log_file=folder / "log",
        results_file=folder / "results",
        repositories=(),
        public_url="https://ci.example.org/",
        login=login_config(served, folder, **changed),
    )
    return make_provider(config)


def begun() -> Attempt:
    return Attempts(b"k" * 32).begin(b"r" * 32, "/", time.time())


async def log_in(
    served: IdentityProvider, asking: Provider, user: str = "ana", **changed: str
) -> Person:
    """The way of a browser: to the provider, and back with its code."""
    attempt = begun()
    query = dict(parse_qsl(urlsplit(await asking.login_url(attempt)).query)) | changed
    assert query["redirect_uri"] == REDIRECT_URL
    assert (query["state"], query["client_id"]) == (attempt.state, CLIENT_ID)
    return await asking.person(served.code_for(query, user), attempt)


async def test_a_person_logs_in(served: IdentityProvider, tmp_path: Path) -> None:
    asking = provider_of(served, tmp_path)
    assert await log_in(served, asking) == Person("id-ana", "ana", ("maintainers", "all"))
    await log_in(served, asking, "bo")
    # what it says of itself and its keys are kept, and userinfo has nothing more
    assert served.asked["/.well-known/openid-configuration"] == served.asked["/keys"] == 1
    assert "/userinfo" not in served.asked


async def test_claims_that_the_token_lacks_come_from_userinfo_of_the_same_person(
    served: IdentityProvider, tmp_path: Path
) -> None:
    served.left_out = {"groups"}
    asking = provider_of(served, tmp_path)
    assert (await log_in(served, asking)).groups == ("maintainers", "all")
    served.userinfo = {"sub": "id-bo"}
    with pytest.raises(NoPerson, match="another one"):
        await log_in(served, asking)


async def test_a_code_counts_with_its_own_verifier_once(
    served: IdentityProvider, tmp_path: Path
) -> None:
    asking = provider_of(served, tmp_path)
    with pytest.raises(NoPerson, match="does not take the code"):
        await log_in(served, asking, code_challenge="another")
    attempt = begun()
    query = dict(parse_qsl(urlsplit(await asking.login_url(attempt)).query))
    code = served.code_for(query, "ana")
    await asking.person(code, attempt)
    with pytest.raises(NoPerson):
        await asking.person(code, attempt)


@pytest.mark.parametrize(
    "lie",
    [
        {"claims": {"iss": "https://other.example.org"}},
        {"claims": {"aud": "another"}},
        {"claims": {"nonce": "of another attempt"}},
        {"claims": {"exp": 1}},
        {"claims": {"preferred_username": "a\nb"}},
        {"algorithm": "none"},
        {"algorithm": "HS256"},
        {"key": 1},
    ],
)
async def test_a_token_that_is_not_right_makes_nobody(
    served: IdentityProvider, tmp_path: Path, lie: dict[str, Any]
) -> None:
    for name, value in lie.items():
        setattr(served, name, value)
    with pytest.raises(NoPerson):
        await log_in(served, provider_of(served, tmp_path))


async def test_a_new_key_is_asked_for_and_no_more_often_than_that(
    served: IdentityProvider, tmp_path: Path
) -> None:
    asking = provider_of(served, tmp_path)
    await log_in(served, asking)
    served.kid, served.key, served.listed = "2", 1, [jwk_of(private_key(1), "2")]
    for _ in range(3):
        with pytest.raises(NoPerson):
            await log_in(served, asking)
    assert served.asked["/keys"] == 1
    assert isinstance(asking, providers.OpenIdProvider)
    asking._keys_at -= providers.KEYS_AGAIN_SECONDS
    assert (await log_in(served, asking)).name == "ana"
    assert served.asked["/keys"] == 2


@pytest.mark.parametrize(
    "lie",
    [
        {"issuer": "https://other.example.org"},
        {"token_endpoint": "http://127.0.0.1:1/token"},
        {"jwks_uri": "https://other.example.org/keys"},
        {"userinfo_endpoint": "file:///etc/passwd"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"token_endpoint": 7},
        {"padding": "x" * ANSWER_BYTES_MAX},
    ],
)
async def test_a_provider_that_names_others_or_says_too_much_is_not_asked(
    served: IdentityProvider, tmp_path: Path, lie: dict[str, Any]
) -> None:
    served.discovery = lie
    asking = provider_of(served, tmp_path)
    for _ in range(3):
        with pytest.raises(ProviderFailed):
            await asking.login_url(begun())
    # a failure is kept for a moment: many who try to log in are no flood
    assert served.asked == {"/.well-known/openid-configuration": 1}


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
        web.Response(text="[" * 100_000),
        web.Response(text="{}" + " " * ANSWER_BYTES_MAX),
        web.Response(status=500),
    ],
)
async def test_tokens_that_are_none_make_nobody(
    served: IdentityProvider, tmp_path: Path, answer: web.Response
) -> None:
    served.token_answer = answer
    with pytest.raises(ProviderFailed):
        await log_in(served, provider_of(served, tmp_path))


async def test_a_slow_provider_is_given_up_and_few_wait_for_it(
    served: IdentityProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "ANSWER_SECONDS", 0.05)
    served.seconds = 60.0
    with pytest.raises(ProviderFailed, match="no whole answer"):
        await provider_of(served, tmp_path).login_url(begun())
    monkeypatch.setattr(providers, "AT_ONCE_MAX", 0)
    with pytest.raises(ProviderFailed, match="wait for the provider"):
        await provider_of(served, tmp_path).login_url(begun())


async def test_github_says_who_an_access_token_is_of(
    served: IdentityProvider, tmp_path: Path
) -> None:
    asking = provider_of(served, tmp_path, provider="github")
    person = await log_in(served, asking)
    assert person == Person("103", "ana", ("acme", "acme/maintainers", "acme/all"))
    assert served.asked["/login/oauth/access_token"] == 1
    served.token_answer = web.json_response({"error": "bad_verification_code"})
    with pytest.raises(NoPerson, match="does not take the code"):
        await log_in(served, asking)


async def test_githubs_own_addresses_are_those_of_its_site_and_its_api(
    served: IdentityProvider, tmp_path: Path
) -> None:
    asking = provider_of(served, tmp_path, provider="github", issuer=None)
    url = await asking.login_url(begun())
    assert url.startswith("https://github.com/login/oauth/authorize?")
    assert "scope=read%3Aorg" in url
