"""What leaves a machine has none of its secrets, in whatever form a program wrote it."""

import base64
import json
from pathlib import Path
from typing import get_type_hints
from urllib.parse import quote

import pytest

from common.address import Address
from common.configuration.config import ClientConfig, GatewayRepository, NodeConfig
from common.doctor.redaction import PUBLIC, CannotRead, Redactor, secret_files
from common.repositories.credentials import HIDDEN
from common.repositories.repository_config import RepositoryEntry
from tests.secret_files import secret_file

SECRET = "s3cret/with+odd=characters&and spaces"


def config_of(folder: Path, *entries: RepositoryEntry, **settings: object) -> NodeConfig:
    return NodeConfig(
        file=folder / "node.yml",
        cluster_file=folder / "cluster.yml",
        name="node0",
        private_key_file=folder / "key.pem",
        listen=Address("127.0.0.1", 1),
        data_directory=folder / "data",
        log_file=folder / "log",
        repositories=entries,
        **settings,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("kind", [NodeConfig, ClientConfig, GatewayRepository])
def test_each_path_of_a_configuration_is_a_secret_or_known_to_be_none(kind: type) -> None:
    """Whoever adds one decides: a new key counts as a secret until it is listed in PUBLIC."""
    hints = get_type_hints(kind)
    paths = {name for name, hint in hints.items() if Path in (hint, *getattr(hint, "__args__", ()))}
    assert paths - PUBLIC <= {
        "private_key_file",
        "private_key_passphrase_file",
        "next_private_key_file",
        "registry_auth_file",
        "docker_tls_folder",
        "read_token_file",
        "api_token_file",
        "ssh_key_file",
        "https_token_file",
        "status_token_file",
        "webhook_secret_file",
    }


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET, safe=""),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"robot:{SECRET}".encode()).decode(),
        json.dumps({"token": SECRET}),
    ],
)
def test_a_secret_is_found_in_each_form(tmp_path: Path, form: str) -> None:
    token = secret_file(tmp_path / "token", f"{SECRET}\n")
    entry = RepositoryEntry("https://example.org/r.git", https_token_file=token, https_user="robot")
    cleaned = Redactor.of(config_of(tmp_path, entry)).clean(f"a line with {form} in it\n")
    assert HIDDEN in cleaned
    for part in (SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode()[:16]):
        assert part not in cleaned


def test_each_line_of_a_file_and_each_login_of_a_registry_is_one(tmp_path: Path) -> None:
    lines = secret_file(tmp_path / "lines", "first secret\n\n second secret \n")
    auth = base64.b64encode(b"robot:of the registry").decode()
    logins = secret_file(tmp_path / "logins", json.dumps({"auths": {"ghcr.io": {"auth": auth}}}))
    config = config_of(tmp_path, read_token_file=lines, registry_auth_file=logins)
    redactor = Redactor.of(config)
    text = f"first secret, second secret, {auth}, of the registry, ghcr.io"
    assert redactor.clean(text) == f"{HIDDEN}, {HIDDEN}, {HIDDEN}, {HIDDEN}, ghcr.io"


def test_a_key_in_a_folder_is_one(tmp_path: Path) -> None:
    secret_file(tmp_path / "key.pem", "-----BEGIN\nkey of the engine\n-----END\n")
    redactor = Redactor.of(config_of(tmp_path, docker_tls_folder=tmp_path))
    assert redactor.clean("key of the engine") == HIDDEN


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("https://user:word@host/x", f"https://{HIDDEN}@host/x"),
        ("https://token@host/x", f"https://{HIDDEN}@host/x"),
        ("ssh git@host:path", "ssh git@host:path"),
        ("Authorization: Bearer abc", f"Authorization: {HIDDEN}"),
        ('{"Authorization": "Basic xyz"}', f'{{"Authorization": {HIDDEN}'),
        ("sent bearer abcdefgh123", f"sent bearer {HIDDEN}"),
        ("GET /x?access_token=abc&y=1", f"GET /x?access_token={HIDDEN}&y=1"),
        ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n", f"{HIDDEN}\n"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc", HIDDEN),
    ],
)
def test_what_looks_like_a_secret_goes_too(text: str, cleaned: str) -> None:
    assert Redactor().clean(text) == cleaned


def test_a_secret_that_is_too_short_is_no_secret(tmp_path: Path) -> None:
    token = secret_file(tmp_path / "token", "abc\n")
    config = config_of(tmp_path, read_token_file=token)
    assert Redactor.of(config).clean("abcdef") == "abcdef"


def test_a_file_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    config = config_of(tmp_path, read_token_file=tmp_path / "none")
    assert secret_files(config) == [tmp_path / "key.pem", tmp_path / "none"]
    assert Redactor.of(config).clean("text") == "text"


def test_a_file_that_cannot_be_read_may_hold_anything(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    config = config_of(tmp_path, read_token_file=tmp_path / "folder")
    with pytest.raises(CannotRead, match=r"folder cannot be read"):
        Redactor.of(config)
