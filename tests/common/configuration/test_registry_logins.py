"""Logins for registries: which entry an image gets, and what a bad file is told."""

import base64
import json
from pathlib import Path

import pytest

from common.config_error import ConfigError
from common.configuration.registry_logins import is_from, read_registry_logins, registry_of

SECRET = "s3cr3t:with-a-colon"
AUTH = base64.b64encode(f"user:{SECRET}".encode()).decode()


def logins_file(folder: Path, value: object, mode: int = 0o600) -> Path:
    file = folder / "auth.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("busybox", None),
        ("user/image:1", None),
        ("docker.io/library/busybox", "docker.io"),
        ("index.docker.io/a/b", "docker.io"),
        ("ghcr.io/a/b:1", "ghcr.io"),
        ("localhost/a", "localhost"),
        ("registry:5000/a@sha256:" + "0" * 64, "registry:5000"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000"),
        ("busybox:1.36", None),
        # engines from 23 on take it for a host
        ("METADATA/a", "METADATA"),
    ],
)
def test_the_registry_of_a_name(image: str, registry: str | None) -> None:
    assert registry_of(image) == registry


@pytest.mark.parametrize(
    ("image", "places", "expected"),
    [
        ("busybox:1", ["docker.io"], True),
        ("busybox", ["docker.io/library"], True),
        ("busybox", ["docker.io/library/busybox"], True),
        ("busybox", ["docker.io/library/busy"], False),
        ("user/image", ["docker.io/library"], False),
        ("index.docker.io/user/image", ["docker.io/user"], True),
        ("ghcr.io/team/a:1", ["ghcr.io/team"], True),
        ("ghcr.io/team/a/b@sha256:" + "0" * 64, ["x.org", "ghcr.io/team"], True),
        ("ghcr.io/team-of-others/a", ["ghcr.io/team"], False),
        ("ghcr.io/a", ["ghcr.io:443"], False),
        ("127.0.0.1:5000/a", ["127.0.0.1:5000"], True),
        ("127.0.0.1:5000/a", ["127.0.0.1"], False),
        ("ghcr.io/a", [], False),
        ("docker.io/busybox", ["docker.io/library"], True),
        ("localhost:5000/a", ["127.0.0.1:5000"], False),
        ("METADATA/a", ["docker.io"], False),
        ("docker.io.evil.example/a", ["docker.io"], False),
        ("docker.io:443/a", ["docker.io"], False),
        ("169.254.169.254/latest", ["docker.io"], False),
        ("2852039166/latest", ["docker.io/library"], False),
    ],
)
def test_where_an_image_is_from(image: str, places: list[str], expected: bool) -> None:
    assert is_from(image, places) is expected


def test_an_image_gets_the_entry_of_its_registry_alone(tmp_path: Path) -> None:
    file = logins_file(
        tmp_path,
        {
            "auths": {
                "ghcr.io": {"auth": AUTH, "email": "a@example.org"},
                "https://index.docker.io/v1/": {"username": "hub", "password": "word"},
                "https://127.0.0.1:5000/v2/": {"identitytoken": "t0ken"},
            },
            "HttpHeaders": {"User-Agent": "Docker"},
        },
    )
    logins = read_registry_logins(file, tmp_path / "node.yml", "registry_auth_file")
    assert logins.login_for("ghcr.io/a/b:1") == {
        "username": "user",
        "password": SECRET,
        "serveraddress": "ghcr.io",
    }
    assert logins.login_for("busybox")["username"] == "hub"
    assert logins.login_for("docker.io/a/b")["username"] == "hub"
    assert logins.login_for("127.0.0.1:5000/x")["identitytoken"] == "t0ken"
    assert logins.login_for("quay.io/a/b") == {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "empty"),
        ("{", "no logins that can be read"),
        ([], "no logins that can be read"),
        ({"auth": {}}, "no logins that can be read"),
        ({"auths": {"ghcr.io": {"auth": 7, "note": SECRET}}}, "no logins that can be read"),
        ({"auths": {"ghcr.io": {}}, "credsStore": "pass"}, "no login for ghcr.io; .*credsStore"),
        ({"auths": {"ghcr.io": {"auth": f"{SECRET}!"}}}, "no login for ghcr.io"),
        ({"auths": {"ghcr.io": {"auth": base64.b64encode(b"x").decode()}}}, "no login for ghcr.io"),
    ],
)
def test_files_that_are_none(tmp_path: Path, value: object, words: str) -> None:
    file = logins_file(tmp_path, value)
    with pytest.raises(ConfigError, match=words) as error:
        read_registry_logins(file, tmp_path / "node.yml", "registry_auth_file")
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None, "it would have quoted the file"


def test_a_file_that_others_may_read(tmp_path: Path) -> None:
    file = logins_file(tmp_path, {"auths": {}}, mode=0o644)
    with pytest.raises(ConfigError, match=r"registry_auth_file: others may read .*chmod 600"):
        read_registry_logins(file, tmp_path / "node.yml", "registry_auth_file")
