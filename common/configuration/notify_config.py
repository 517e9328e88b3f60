"""`notify:` of client.yml: whom a gateway tells when a branch turns red, and green again."""

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from common.address import Address
from common.config_error import ConfigError
from common.repositories.repository_config import Glob

NotifyKind = Literal["webhook", "slack", "mattermost", "matrix", "mail"]
NotifyEvent = Literal["push", "tag", "cron", "pull_request", "merge_group"]
MailTls = Literal["implicit", "starttls", "off"]

TARGETS_MAX = 32
RECIPIENTS_MAX = 32
GLOBS_MAX = 64
# One address, without a name before it, as SMTP takes it. ASCII: no server must know SMTPUTF8.
_MAILBOX = re.compile(r"[A-Za-z0-9._%+=-]{1,64}@[A-Za-z0-9.-]{1,253}")
_ROOM = re.compile(r"![!-~]{1,255}")

Name = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z",
        description="up to 64 letters, digits, `-`, `_`, `.`",
    ),
]


class NotifyTarget(msgspec.Struct, frozen=True):
    """Whom to tell, how, and of which builds."""

    name: Name
    kind: NotifyKind
    # where an http message goes; url_file: the file that holds it, if the URL itself is a secret
    url: str | None = None
    url_file: Path | None = None
    # signs webhooks; the access token for Matrix; the password for mail
    secret_file: Path | None = None
    # of Matrix
    room: str | None = None
    # of mail
    server: Address | None = None
    tls: MailTls = "starttls"
    user: str | None = None
    sender: str | None = None
    recipients: tuple[str, ...] = ()
    # of which builds; empty: of all
    repositories: tuple[str, ...] = ()
    branches: tuple[Glob, ...] = ()
    authors: tuple[Glob, ...] = ()
    events: tuple[NotifyEvent, ...] = ("push", "cron")
    # whether it may be on this machine, or in a private network
    private_allowed: bool = False


def check_notify(targets: Sequence[NotifyTarget], urls: Sequence[str], file: Path) -> None:
    """Refuse what could not be sent, or would be sent in the clear. urls: of the repositories.

    Raises ConfigError.
    """
    names: set[str] = set()
    if len(targets) > TARGETS_MAX:
        raise ConfigError.at(
            file, "notify", f"has {len(targets)} items", f"at most {TARGETS_MAX} are allowed"
        )
    for index, target in enumerate(targets):
        key = f"notify[{index}]"
        if target.name in names:
            raise ConfigError.at(
                file, f"{key}.name", f"{target.name} is there twice", "each has its own"
            )
        names.add(target.name)
        for name in ("repositories", "branches", "authors"):
            if len(getattr(target, name)) > GLOBS_MAX:
                raise ConfigError.at(
                    file, f"{key}.{name}", "is too long", f"at most {GLOBS_MAX} items are allowed"
                )
        for url in target.repositories:
            if url not in urls:
                raise ConfigError.at(
                    file, f"{key}.repositories", f"{url} is not on the list", "give an entry's url"
                )
        if target.kind == "mail":
            _check_mail(target, file, key)
        else:
            _check_http(target, file, key)


def check_url(url: str, target: NotifyTarget, file: Path, *, key: str = "") -> None:
    """By TLS, or to this machine if that is allowed. Raises ConfigError, without the URL's path."""
    allowed = "https://host/path is needed (http only on this machine, with private_allowed: true)"
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError as error:
        raise ConfigError.at(file, key, "is no URL", allowed) from error
    host = parts.hostname or ""
    is_loopback = bool(host) and Address(host, port).is_loopback
    is_plain_url = host and not (parts.fragment or parts.username or parts.password)
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback)
    if not is_plain_url or not is_safe or not (url.isascii() and url.isprintable()):
        raise ConfigError.at(file, key, "cannot be sent to", allowed)
    if not target.private_allowed and (is_loopback or is_private(host)):
        raise ConfigError.at(
            file, key, f"{host} is a private address", "set private_allowed: true if it is meant"
        )


def is_private(host: str) -> bool:
    """Whether this text is an address that is not on the internet; False for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_global


def _check_http(target: NotifyTarget, file: Path, key: str) -> None:
    if (target.url is None) is (target.url_file is None):
        raise ConfigError.at(file, key, "needs one of url and url_file", "give one of them")
    if target.url is not None:
        check_url(target.url, target, file, key=f"{key}.url")
    if target.kind in ("webhook", "matrix") and target.secret_file is None:
        what = "signs what is sent" if target.kind == "webhook" else "has the access token"
        raise ConfigError.at(file, f"{key}.secret_file", "is missing", f"a file that {what}")
    if (target.kind == "matrix") is (target.room is None):
        raise ConfigError.at(file, f"{key}.room", "is missing or too much", "it is for matrix")
    if target.room is not None and not _ROOM.fullmatch(target.room):
        raise ConfigError.at(file, f"{key}.room", f"is {target.room!r}", "as !id:server")
    if target.server or target.user or target.sender or target.recipients:
        raise ConfigError.at(
            file, key, "has keys of mail", "server, user, sender, recipients are for kind: mail"
        )


def _check_mail(target: NotifyTarget, file: Path, key: str) -> None:
    if target.url is not None or target.url_file is not None or target.room is not None:
        raise ConfigError.at(file, key, "has url or room", "they are not for kind: mail")
    if target.server is None or target.sender is None or not target.recipients:
        raise ConfigError.at(
            file, key, "lacks a key", "server, sender and recipients are needed for kind: mail"
        )
    if len(target.recipients) > RECIPIENTS_MAX:
        raise ConfigError.at(
            file, f"{key}.recipients", "is too long", f"at most {RECIPIENTS_MAX} are allowed"
        )
    for mailbox in (target.sender, *target.recipients):
        if not _MAILBOX.fullmatch(mailbox):
            raise ConfigError.at(file, key, f"{mailbox!r} is no mailbox", "as ci@example.org")
    if (target.user is None) is not (target.secret_file is None):
        raise ConfigError.at(
            file, key, "has one of user and secret_file", "a login takes both, none takes neither"
        )
    host = target.server.host
    is_here = target.server.is_loopback
    if target.tls == "off" and not is_here:
        raise ConfigError.at(
            file, f"{key}.tls", "is off", "implicit or starttls is needed beyond this machine"
        )
    if not target.private_allowed and (is_here or is_private(host)):
        raise ConfigError.at(
            file, f"{key}.server", f"{host} is a private address", "set private_allowed: true"
        )
