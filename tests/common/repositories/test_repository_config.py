"""common.repositories.repository_config: what a gateway's and a node's repositories may say."""

from pathlib import Path

import pytest

from common.config_error import ConfigError
from common.configuration.config import load_client_config, load_node_config
from common.repositories.repository_config import (
    GatewayRepository,
    RepositoryEntry,
    StatusTarget,
    project_of,
    status_target,
)

COMMON = """
cluster_file: cluster.yml
name: client
private_key_file: client.pem
listen: 127.0.0.1:8080
data_directory: data
log_file: client.log
"""


def loaded(folder: Path, *repositories: str) -> tuple[GatewayRepository, ...]:
    """client.yml with these repositories, as flow mappings."""
    file = folder / "client.yml"
    lines = "\n".join(f"  - {repository}" for repository in repositories)
    file.write_text(f"{COMMON}results_file: results.jsonl\nrepositories:\n{lines}\n")
    return load_client_config(file).repositories


def error_of(folder: Path, *repositories: str) -> str:
    """What the person who typed that reads, after the file's name."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, *repositories)
    return str(caught.value).partition("client.yml: ")[2]


def test_all_keys(tmp_path: Path) -> None:
    (entry,) = loaded(
        tmp_path,
        '{url: "https://github.com/o/r.git", forge: github, aliases: ["git@github.com:o/r.git"], '
        "webhook_secret_file: secret, events: [push], branches: [main, 'v*'], "
        "pull_requests: all, report: gateway, status_token_file: token}",
    )
    assert entry.webhook_secret_file == tmp_path / "secret"
    assert (entry.events, entry.branches) == (("push",), ("main", "v*"))
    assert (entry.pull_requests, entry.report, entry.unsigned_allowed) == ("all", "gateway", False)
    assert status_target(entry) == StatusTarget(
        "github", "https://api.github.com", "o/r", tmp_path / "token"
    )


def test_what_is_not_said_is_safe(tmp_path: Path) -> None:
    (entry,) = loaded(tmp_path, "{url: 'https://h/o/r', webhook_secret_file: secret}")
    assert not entry.unsigned_allowed
    assert entry.pull_requests == "same_repository"
    assert entry.report == "none"
    assert status_target(entry) is None


@pytest.mark.parametrize(
    ("repository", "wrong"),
    [
        ("{url: 'https://h/o/r'}", "repositories[0]: has neither webhook_secret_file nor unsigned"),
        (
            "{url: 'https://h/o/r', unsigned_allowed: true, report: replicas}",
            "repositories[0].forge: is missing; report: replicas needs it",
        ),
        (
            "{url: 'https://github.com/o/r', unsigned_allowed: true, "
            "report: gateway, forge: github}",
            "repositories[0].status_token_file: is missing",
        ),
        (
            "{url: 'https://h/o/r', unsigned_allowed: true, forge: gitea, status_token_file: t}",
            "repositories[0].api_url: is missing",
        ),
        (
            "{url: 'https://h/o/r', unsigned_allowed: true, status_token_file: t}",
            "repositories[0].forge: is missing",
        ),
        (
            "{url: 'https://h/r', unsigned_allowed: true, forge: gitea, status_token_file: t, "
            "api_url: 'https://h/api/v1'}",
            "repositories[0].project: is None",
        ),
        (
            "{url: 'https://h/o/r', unsigned_allowed: true, api_url: 'http://h/api/v1'}",
            "repositories[0].api_url: is 'http://h/api/v1'; https://host/path is needed",
        ),
        (
            "{url: 'https://h/o/r', unsigned_allowed: true, api_url: 'https://u:p@h/api'}",
            "repositories[0].api_url: is ",
        ),
        (
            "{url: 'https://h/o/r', unsigned_allowed: true, events: []}",
            "repositories[0].events: is",
        ),
        (
            "{url: 'https://h/o/r', unsigned_allowed: true, submodule_of: ['https://h/o/r']}",
            "repositories[0].submodule_of: is for nodes",
        ),
        (
            "{url: 'https://h/o/r', unsigned_allowed: true, local_images: ['a:1']}",
            "repositories[0].local_images: is for nodes",
        ),
        (
            "{url: 'https://h/o/r', unsigned_allowed: true, events: [pull]}",
            "repositories[0].events[0]: is 'pull'",
        ),
        (
            "{url: 'https://h/o/r', unsigned_allowed: true, pull_requests: forks}",
            "repositories[0].pull_requests: is 'forks'; one of same_repository, all, none",
        ),
        (
            "{url: 'https://h/o/r', unsigned_allowed: true, forge: gitbucket}",
            "repositories[0].forge: is 'gitbucket'",
        ),
        (
            f"{{url: 'h', unsigned_allowed: true, branches: [{', '.join(['a'] * 65)}]}}",
            "repositories[0].branches: has 65 items; at most 64",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, repository: str, wrong: str) -> None:
    assert error_of(tmp_path, repository).startswith(wrong)


def test_a_name_belongs_to_one_repository(tmp_path: Path) -> None:
    first = "{url: 'https://h/a', unsigned_allowed: true}"
    second = "{url: 'https://h/b', unsigned_allowed: true, aliases: ['https://h/a']}"
    assert error_of(tmp_path, first, second).startswith("repositories[1].aliases: https://h/a is")


def test_http_only_on_this_machine(tmp_path: Path) -> None:
    (entry,) = loaded(
        tmp_path,
        "{url: 'https://h/o/r', unsigned_allowed: true, forge: gitea, status_token_file: t, "
        "api_url: 'http://127.0.0.1:3000/api/v1/'}",
    )
    target = status_target(entry)
    assert target is not None
    assert target.api_url == "http://127.0.0.1:3000/api/v1"


def test_a_node_has_a_target_and_none_of_the_gateways_keys(tmp_path: Path) -> None:
    file = tmp_path / "node.yml"
    entry = "{url: 'git@gitlab.com:g/s/r.git', forge: gitlab, status_token_file: t}"
    file.write_text(f"{COMMON}repositories:\n  - {entry}\n")
    (repository,) = load_node_config(file).repositories
    assert type(repository) is RepositoryEntry
    assert status_target(repository) == StatusTarget(
        "gitlab", "https://gitlab.com/api/v4", "g/s/r", tmp_path / "t"
    )
    file.write_text(f"{COMMON}repositories:\n  - {{url: a, unsigned_allowed: true}}\n")
    with pytest.raises(ConfigError, match="there is no such key"):
        load_node_config(file)


@pytest.mark.parametrize(
    ("url", "project"),
    [
        ("https://github.com/owner/name.git", "owner/name"),
        ("https://github.com/owner/name/", "owner/name"),
        ("git@gitlab.com:group/sub/name.git", "group/sub/name"),
        ("ssh://git@host:2222/owner/name", "owner/name"),
        ("https://host/name.git", None),
        ("file:///srv/git/name.git", None),
    ],
)
def test_the_project_is_in_the_url(url: str, project: str | None) -> None:
    assert project_of(url) == project


@pytest.mark.parametrize(
    ("entry", "needs_consent"),
    [
        (RepositoryEntry("https://a.example/b"), False),
        (RepositoryEntry("https://a.example/b", ca_file=Path("/ca")), False),
        (RepositoryEntry("https://a.example/b", fetch_url="https://mirror.example/b"), False),
        (RepositoryEntry("https://a.example/b", fetch_url="file:///b"), True),
        (RepositoryEntry("file:///b", fetch_url="https://a.example/b"), False),
        (RepositoryEntry("file:///b"), True),
        (RepositoryEntry("/b"), True),
        (RepositoryEntry("https://a.example/b", https_token_file=Path("/token")), True),
        (RepositoryEntry("https://user:word@a.example/b"), True),
        (RepositoryEntry("https://a.example/b", fetch_url="git@a.example:b"), True),
        (RepositoryEntry("ssh://a.example/b", ssh_key_file=Path("/key")), True),
        # the keys of the node's user
        (RepositoryEntry("ssh://a.example/b"), True),
        (RepositoryEntry("a.example:b"), True),
    ],
)
def test_what_strangers_cannot_fetch(entry: RepositoryEntry, needs_consent: bool) -> None:
    assert entry.needs_consent is needs_consent
