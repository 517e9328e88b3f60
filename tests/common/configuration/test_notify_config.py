"""common.configuration.notify_config: what a gateway's configuration may say of whom it tells."""

from pathlib import Path
from typing import Any

import pytest

from common.config_error import ConfigError
from common.configuration.config_reader import read_struct
from common.configuration.notify_config import NotifyTarget, check_notify, is_private

FILE = Path("/etc/pbft-ci/client.yml")
REPOSITORIES = ("https://forge.example.org/r.git",)
HOOK: dict[str, Any] = {
    "name": "team", "kind": "webhook", "url": "https://hooks.example.org/x", "secret_file": "s",
}  # fmt: skip
CHAT = {"name": "chat", "kind": "slack", "url_file": "u"}
MATRIX = {
    "name": "m", "kind": "matrix", "url": "https://m.example.org", "secret_file": "s",
    "room": "!id:example.org",
}  # fmt: skip
MAIL: dict[str, Any] = {
    "name": "mail", "kind": "mail", "server": "mail.example.org:587", "sender": "ci@example.org",
    "recipients": ["ann@example.org"],
}  # fmt: skip


def check(*entries: dict[str, Any]) -> None:
    targets = [read_struct(NotifyTarget, entry, FILE, key="notify") for entry in entries]
    check_notify(targets, REPOSITORIES, FILE)


def test_one_of_each_kind() -> None:
    check(HOOK, CHAT, MATRIX, MAIL, {**CHAT, "name": "mm", "kind": "mattermost"})
    local = {"server": "127.0.0.1:25", "tls": "off", "private_allowed": True}
    check({**HOOK, "url": "http://localhost:1/x", "private_allowed": True}, {**MAIL, **local})


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({**HOOK, "url": "http://hooks.example.org/x"}, "https://host/path is needed"),
        ({**HOOK, "url": "ftp://hooks.example.org/x"}, "https://host/path is needed"),
        ({**HOOK, "url": "https://user@hooks.example.org/x"}, "https://host/path is needed"),
        ({**HOOK, "url": "https://10.0.0.1/x"}, "10.0.0.1 is a private address"),
        ({**HOOK, "url": "https://[::ffff:10.0.0.1]/x"}, "is a private address"),
        ({**HOOK, "url": "https://169.254.169.254/latest"}, "is a private address"),
        ({**HOOK, "url": "http://localhost/x"}, "localhost is a private address"),
        ({**HOOK, "url_file": "u"}, "needs one of url and url_file"),
        ({**CHAT, "url_file": None}, "needs one of url and url_file"),
        ({**HOOK, "secret_file": None}, "secret_file: is missing"),
        ({**MATRIX, "secret_file": None}, "secret_file: is missing"),
        ({**MATRIX, "room": None}, "room: is missing"),
        ({**MATRIX, "room": "!a\nb"}, "room"),
        ({**CHAT, "recipients": ["a@example.org"]}, "has keys of mail"),
        ({**MAIL, "url": "https://x.example.org"}, "has url or room"),
        ({**MAIL, "recipients": []}, "server, sender and recipients are needed"),
        ({**MAIL, "sender": "ci@example.org\nBcc: x@y.org"}, "is no mailbox"),
        ({**MAIL, "recipients": ["Ann <ann@example.org>"]}, "is no mailbox"),
        ({**MAIL, "user": "ci"}, "has one of user and secret_file"),
        ({**MAIL, "tls": "off"}, "tls: is off"),
        ({**MAIL, "server": "192.168.1.1:25"}, "private_allowed: true"),
        ({**HOOK, "repositories": ["https://other.example.org/r.git"]}, "is not on the list"),
        ({**HOOK, "events": ["never"]}, "events"),
        ({**HOOK, "name": "a b"}, "name"),
    ],
)
def test_what_is_refused(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(entry)
    assert words in str(refused.value)
    # a URL may be a secret
    assert "/latest" not in str(refused.value)


def test_a_name_is_there_once() -> None:
    with pytest.raises(ConfigError, match="team is there twice"):
        check(HOOK, HOOK)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.1.1.1", "169.254.1.1", "::1", "fd00::1", "100.64.0.1"]
)
def test_what_is_private(host: str) -> None:
    assert is_private(host)


@pytest.mark.parametrize("host", ["8.8.8.8", "2606:4700::1111", "example.org"])
def test_what_is_not(host: str) -> None:
    assert not is_private(host)
