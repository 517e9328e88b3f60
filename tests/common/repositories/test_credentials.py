"""Logins of repositories: what a configuration may say, and what a bad one is told."""

import base64
from pathlib import Path

import pytest
import yaml

from common.configuration.config import ConfigError, NodeConfig, load_node_config
from common.repositories.credentials import access_problem, hide_secrets
from common.repositories.git_environment import LOGIN_FILE_VARIABLE, GitAccess, git_environment

HTTPS = "https://git.example.org/a.git"
SSH = "ssh://git@git.example.org/a.git"
SECRET = "s3cr3t-and-more"


def load(folder: Path, **entry: str) -> NodeConfig:
    """A node's configuration with one repository."""
    file = folder / "node.yml"
    settings = {
        "cluster_file": "cluster.yml",
        "name": "node0",
        "private_key_file": "node0.key",
        "listen": "127.0.0.1:10000",
        "data_directory": "data",
        "log_file": "node0.log",
        "repositories": [entry],
    }
    file.write_text(yaml.safe_dump(settings))
    return load_node_config(file)


def written(file: Path, text: str = SECRET, mode: int = 0o600) -> str:
    file.write_text(text)
    file.chmod(mode)
    return file.name


def test_paths_are_of_the_files_folder(tmp_path: Path) -> None:
    token, ca = written(tmp_path / "token"), written(tmp_path / "ca.pem", mode=0o644)
    (entry,) = load(tmp_path, url=HTTPS, https_token_file=token, ca_file=ca).repositories
    assert entry.access == GitAccess(
        https_token_file=tmp_path / "token", ca_file=tmp_path / "ca.pem"
    )
    key, hosts = written(tmp_path / "key"), written(tmp_path / "hosts", mode=0o644)
    (entry,) = load(tmp_path, url=SSH, ssh_key_file=key, known_hosts_file=hosts).repositories
    assert entry.access.ssh_key_file == tmp_path / "key"


def test_the_address_that_is_fetched_from_counts(tmp_path: Path) -> None:
    token = written(tmp_path / "token")
    load(tmp_path, url=SSH, fetch_url=HTTPS, https_token_file=token)
    with pytest.raises(ConfigError, match=r"repositories\[0\]\.https_token_file: is not for ssh"):
        load(tmp_path, url=HTTPS, fetch_url=SSH, https_token_file=token)
    with pytest.raises(ConfigError, match="https_token_file: is not for http:"):
        load(tmp_path, url="http://git.example.org/a", https_token_file=token)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_secrets_that_others_may_read(tmp_path: Path, mode: int) -> None:
    token = written(tmp_path / "token", mode=mode)
    with pytest.raises(ConfigError, match=f"others may read .*token .*chmod 600 {tmp_path}/token"):
        load(tmp_path, url=HTTPS, https_token_file=token)
    key, hosts = written(tmp_path / "key", mode=mode), written(tmp_path / "hosts")
    with pytest.raises(ConfigError, match=r"ssh_key_file: others may read"):
        load(tmp_path, url=SSH, ssh_key_file=key, known_hosts_file=hosts)


@pytest.mark.parametrize(
    "text",
    [f"{SECRET}\nmore\n", f"{SECRET} more", f"{SECRET}\r\n", "\n\n", f"{SECRET}\x00", "short"],
)
def test_tokens_that_are_none(tmp_path: Path, text: str) -> None:
    token = written(tmp_path / "token", text)
    with pytest.raises(ConfigError, match="one line with a token") as error:
        load(tmp_path, url=HTTPS, https_token_file=token)
    assert SECRET not in str(error.value)


def test_files_that_are_not_there_or_not_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    written(tmp_path / "empty", "")
    for name, words in (("nothing", "no file"), ("folder", "directory"), ("empty", "empty")):
        with pytest.raises(ConfigError, match=rf"https_token_file: .*{words}"):
            load(tmp_path, url=HTTPS, https_token_file=name)
        with pytest.raises(ConfigError, match=rf"ca_file: .*{words}"):
            load(tmp_path, url=HTTPS, ca_file=name)


def test_a_key_needs_the_hosts_that_it_is_for(tmp_path: Path) -> None:
    key = written(tmp_path / "key")
    with pytest.raises(ConfigError, match=r"known_hosts_file: is missing; .*ssh-keyscan"):
        load(tmp_path, url=SSH, ssh_key_file=key)
    odd = tmp_path / "a b"
    odd.mkdir()
    written(odd / "key")
    with pytest.raises(ConfigError, match="ssh takes no such path"):
        load(tmp_path, url=SSH, ssh_key_file="a b/key", known_hosts_file="key")


@pytest.mark.parametrize("user", ["", "a:b", "a\nb"])
def test_users_that_are_none(tmp_path: Path, user: str) -> None:
    token = written(tmp_path / "token")
    with pytest.raises(ConfigError, match="https_user"):
        load(tmp_path, url=HTTPS, https_token_file=token, https_user=user)


def test_a_login_is_in_the_environment_by_its_file_alone(tmp_path: Path) -> None:
    written(tmp_path / "token")
    access = GitAccess(https_token_file=tmp_path / "token")
    environment = git_environment(["https"], tmp_path, HTTPS, access=access)
    assert environment[LOGIN_FILE_VARIABLE] == str(tmp_path / "token")
    assert all(SECRET not in value for value in environment.values())
    assert "credential.https://git.example.org.helper" in environment.values()
    login = base64.b64encode(f"git:{SECRET}".encode()).decode()
    for text in (SECRET, login, f"Basic {login}"):
        assert SECRET not in hide_secrets(f"a {text} b", environment)
        assert login not in hide_secrets(f"a {text} b", environment)
    assert hide_secrets("nothing in it", environment) == "nothing in it"
    assert hide_secrets(SECRET, git_environment(["https"], tmp_path)) == SECRET


@pytest.mark.parametrize(
    ("complaint", "url", "words"),
    [
        ("git@x: Permission denied (publickey).", SSH, "set ssh_key_file"),
        ("Host key verification failed.", SSH, "set known_hosts_file"),
        ("fatal: Authentication failed for 'https://x'", HTTPS, "set https_token_file"),
        ("fatal: could not read Username for 'https://x'", HTTPS, "set https_token_file"),
        ("The requested URL returned error: 403", HTTPS, "set https_token_file"),
        ("remote: Not Found fatal: repository 'https://x/' not found", HTTPS, "no such repository"),
        ("server certificate verification failed. CAfile: none", HTTPS, "set ca_file"),
        ("Could not resolve host: x", HTTPS, None),
        ("The requested URL returned error: 500", HTTPS, None),
        ("the remote end hung up unexpectedly", SSH, None),
    ],
)
def test_complaints_about_the_login(complaint: str, url: str, words: str | None) -> None:
    problem = access_problem(complaint, url, GitAccess())
    assert problem is None if words is None else problem is not None and words in problem
