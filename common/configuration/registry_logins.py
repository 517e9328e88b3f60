"""The registries of images: which one a name means, which are taken from, and the logins for them.

Logins are in a file as `docker login` writes it. An image's registry gets its own entry and nothing
of the rest.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from common.config_error import ConfigError
from common.repositories.credentials import check_secret_file

DOCKER_HUB = "docker.io"
_NAMES_OF_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_SHAPE = 'a file as docker login writes it is needed: {"auths": {"HOST": {"auth": "..."}}}'


class _Entry(msgspec.Struct, frozen=True):
    """One entry of `auths`; Docker's own words. Other keys of the file are not ours."""

    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class _File(msgspec.Struct, frozen=True):
    auths: dict[str, _Entry]


class RegistryLogins(msgspec.Struct, frozen=True):
    """Logins by registry host, in the form that an engine takes; a secret, never shown."""

    by_host: Mapping[str, Mapping[str, str]]

    def login_for(self, image: str) -> dict[str, str]:
        """The login for an image's registry; empty where there is none."""
        return dict(self.by_host.get(registry_of(image) or DOCKER_HUB, {}))


NO_LOGINS = RegistryLogins({})


def read_registry_logins(path: Path, file: Path, key: str) -> RegistryLogins:
    """The logins in a file that only its owner may read. Raises ConfigError, without its content.

    file and key: where the path is configured.
    """
    data = check_secret_file(path, file, key)
    try:
        found = msgspec.json.decode(data, type=_File)
    except msgspec.DecodeError:
        # its words could quote the file
        raise ConfigError.at(
            file, key, f"{path} holds no logins that can be read", _SHAPE
        ) from None
    logins: dict[str, dict[str, str]] = {}
    for name, entry in found.auths.items():
        login = _login(entry)
        if login is None:
            raise ConfigError.at(
                file,
                key,
                f"{path} has no login for {_host(name)}",
                "docker login puts it elsewhere where credsStore or credHelpers is set: " + _SHAPE,
            )
        logins[_host(name)] = {**login, "serveraddress": name}
    return RegistryLogins(logins)


def registry_of(image: str) -> str | None:
    """The registry host that an image's name begins with, None where it has none.

    Docker's own rule: a first part with a dot or a port, or `localhost`. Newer engines also take a
    first part with a capital letter for a host; older ones refuse such a name.
    """
    first, slash, _ = image.partition("/")
    is_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    if slash and is_host:
        return DOCKER_HUB if first in _NAMES_OF_DOCKER_HUB else first
    return None


def full_name(image: str) -> str:
    """An image's name with all that may be left out: the registry, `library/`, the tag `latest`."""
    host = registry_of(image)
    path, at, digest = image.partition("@")
    if host is not None:
        path = path.partition("/")[2]
    if host in (None, DOCKER_HUB) and "/" not in path:
        path = f"library/{path}"
    path = f"{host or DOCKER_HUB}/{path}"
    if not at and ":" not in path.rpartition("/")[2]:
        path += ":latest"
    return path + at + digest


def is_from(image: str, places: Sequence[str]) -> bool:
    """Whether an image is of one of these registries or of a folder in them.

    A host is compared as text: one address has many names, and only those that are listed count.
    """
    head, slash, last = full_name(image).partition("@")[0].rpartition("/")
    repository = head + slash + last.partition(":")[0]
    return any(f"{repository}/".startswith(f"{place}/") for place in places)


def check_places(places: Sequence[str], file: Path, key: str) -> None:
    """Refuse a place that no image's name could ever mean. Raises ConfigError.

    file and key: where the places are configured.
    """
    for index, place in enumerate(places):
        first = place.partition("/")[0]
        host = registry_of(f"{first}/image")
        if host != first:
            meant = f"{host}{place[len(first) :]}" if host else f"{DOCKER_HUB}/{place}"
            raise ConfigError.at(
                file,
                f"{key}[{index}]",
                f"{place} does not begin with a registry's host as images' names do",
                f"did you mean {meant}?",
            )


def _host(name: str) -> str:
    """A key of `auths`, which may be a URL, as the host of an image's name."""
    host = name.partition("://")[2] or name
    host = host.partition("/")[0]
    return DOCKER_HUB if host in _NAMES_OF_DOCKER_HUB else host


def _login(entry: _Entry) -> dict[str, str] | None:
    if entry.identitytoken or entry.registrytoken:
        tokens = {"identitytoken": entry.identitytoken, "registrytoken": entry.registrytoken}
        return {name: value for name, value in tokens.items() if value}
    if entry.username and entry.password:
        return {"username": entry.username, "password": entry.password}
    try:
        text = base64.b64decode(entry.auth, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    user, _, word = text.partition(":")
    return {"username": user, "password": word.rstrip("\0")} if user and word else None
