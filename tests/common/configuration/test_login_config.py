"""`login:` of client.yml: what is refused, and with which words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.configuration.config import ConfigError, LoginConfig, load_client_config
from common.doctor.redaction import secret_files

REPOSITORY = "https://example.org/one"
PROVIDER: dict[str, Any] = {
    "provider": "gitea",
    "issuer": "https://git.example.org",
    "client_id": "abc",
    "client_secret_file": "secret",
    "roles": {"approve": ["group:maintainers"]},
}
PROXY: dict[str, Any] = {
    "provider": "proxy",
    "user_header": "X-Forwarded-User",
    "proxies": ["127.0.0.1"],
    "roles": {"approve": ["user:ana"]},
}


def load(folder: Path, login: dict[str, Any], **changed: Any) -> LoginConfig:
    """The `login:` of such a file."""
    named: dict[str, Any] = {
        "cluster_file": "cluster.yml",
        "name": "client",
        "private_key_file": "key",
        "listen": "127.0.0.1:8080",
        "data_directory": "data",
        "log_file": "log",
        "results_file": "results",
        "repositories": [
            {"url": url, "unsigned_allowed": True} for url in (REPOSITORY, "../two.git")
        ],
        "public_url": "https://ci.example.org",
        "login": {key: value for key, value in login.items() if value is not None},
    }
    file = folder / "client.yml"
    file.write_text(yaml.safe_dump({k: v for k, v in (named | changed).items() if v is not None}))
    found = load_client_config(file).login
    assert found is not None
    return found


def test_a_provider_has_the_scopes_and_claims_of_its_kind(tmp_path: Path) -> None:
    found = load(tmp_path, PROVIDER)
    assert found.wanted_scopes == ("openid", "profile", "groups")
    assert (found.name_claim, found.groups_in) == ("preferred_username", "groups")
    assert load(tmp_path, PROVIDER | {"provider": "gitlab"}).groups_in == "groups_direct"
    github = load(tmp_path, PROVIDER | {"provider": "github", "issuer": None})
    assert github.wanted_scopes == ("read:org",)
    assert load(tmp_path, PROXY).is_proxy


def test_a_repository_is_named_as_in_the_list(tmp_path: Path) -> None:
    entries = [{"repository": "../two.git", "note": ["any"]}]
    found = load(tmp_path, PROVIDER | {"repository_roles": entries})
    assert found.repository_roles[0].repository == (tmp_path.parent / "two.git").as_uri()


def test_claims_that_rules_look_at_are_known(tmp_path: Path) -> None:
    roles = {"cancel": ["claim:https://x.example.org/level=3", "any"]}
    assert load(tmp_path, PROVIDER | {"roles": roles}).claims_named == {
        "https://x.example.org/level"
    }


def test_the_client_secret_is_taken_out_of_reports(tmp_path: Path) -> None:
    load(tmp_path, PROVIDER)
    assert tmp_path / "secret" in secret_files(load_client_config(tmp_path / "client.yml"))


@pytest.mark.parametrize(
    ("login", "told"),
    [
        (PROVIDER | {"provider": "gite"}, "gitea"),
        (PROVIDER | {"isuer": "https://x"}, "issuer"),
        (PROVIDER | {"issuer": None}, "login.issuer: is missing"),
        (PROVIDER | {"issuer": "http://git.example.org"}, "without TLS"),
        (PROVIDER | {"issuer": "https://git.example.org/?x"}, "https://HOST/PATH"),
        (PROVIDER | {"issuer": "https://ana@git.example.org"}, "no login"),
        (PROVIDER | {"client_id": None}, "login.client_id: is missing"),
        (PROVIDER | {"client_secret_file": None}, "login.client_secret_file: is missing"),
        (PROVIDER | {"proxies": ["127.0.0.1"]}, "use provider: proxy"),
        (PROVIDER | {"scopes": ["profile"]}, "lacks openid"),
        (PROVIDER | {"scopes": ["openid"] * 21}, "20 are allowed"),
        (PROVIDER | {"session_hours": 721}, "720"),
        (PROVIDER | {"roles": {}}, "gives nobody a role"),
        (PROVIDER | {"roles": {"approve": ["ana"]}}, "user:NAME"),
        (PROVIDER | {"roles": {"approve": ["user:a\nb"]}}, "user:NAME"),
        (PROVIDER | {"roles": {"delete": ["any"]}}, "cancel, rebuild, approve, note"),
        (PROVIDER | {"roles": {"note": ["any"] * 101}}, "100 are allowed"),
        (
            PROVIDER | {"repository_roles": [{"repository": f"{REPOSITORY}s", "note": ["any"]}]},
            f"did you mean {REPOSITORY}?",
        ),
        (
            PROVIDER
            | {
                "repository_roles": [
                    {"repository": REPOSITORY, "note": [x]} for x in ("any", "user:a")
                ]
            },
            "is there twice",
        ),
        (
            PROVIDER | {"provider": "github", "roles": {"note": ["claim:a=b"]}},
            "github tells none",
        ),
        (PROXY | {"user_header": None}, "login.user_header: is missing"),
        (PROXY | {"user_header": "X User"}, "the name of a header"),
        (PROXY | {"proxies": None}, "holds 0 addresses"),
        (PROXY | {"proxies": ["proxy.example.org"]}, "as 127.0.0.1 or 10.1.0.0/24"),
        (PROXY | {"proxies": ["0.0.0.0/0"]}, "is every address"),
        (PROXY | {"proxies": ["127.0.0.1"] * 21}, "1 to 20"),
        (PROXY | {"client_id": "abc"}, "is for a provider that is asked"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path: Path, login: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, login)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"public_url": "http://ci.example.org"}, "without TLS"),
        (
            {"public_url": None, "listen": "192.0.2.1:8080", "plaintext_allowed": True},
            "public_url: is missing",
        ),
    ],
)
def test_sessions_are_for_protected_addresses(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        load(tmp_path, PROVIDER, **changed)
    load(tmp_path, PROVIDER, public_url=None)
