"""Reads from a `.gitmodules` file where the submodules of a tree come from.

This module refuses by the text of the file alone, so that all replicas refuse the same. Whether a
submodule may be fetched is another question, which each operator's list answers.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from common.repositories.git_environment import protocol_of
from node.sources.tree import TreePart, TreeRefused

MODULES_FILE = ".gitmodules"
MODULES_FILE_BYTES_MAX = 64 * 1024
# repositories in repositories, and all of them together
MODULE_DEPTH_MAX = 4
MODULES_MAX = 64

_ABSOLUTE = frozenset({"https", "ssh", "http", "git"})


class AddressRefused(msgspec.Struct, frozen=True):
    """Why an address of a `.gitmodules` file is not taken."""

    problem: str


class WantedModule(msgspec.Struct, frozen=True):
    """Another repository's commit: its path in the tree around it, and where it comes from."""

    path: str
    address: str
    commit: str


def parse_listing(listing: bytes) -> dict[str, str]:
    """The address of each module by its path, from what `git config -z --list` prints.

    A module that is never updated (`update = none`) is left out: it stays an empty folder.
    """
    modules: dict[str, dict[str, str]] = {}
    for item in listing.split(b"\0"):
        key, _, value = item.partition(b"\n")
        section, _, rest = key.decode(errors="surrogateescape").partition(".")
        name, dot, variable = rest.rpartition(".")
        if section == "submodule" and dot:
            modules.setdefault(name, {})[variable] = value.decode(errors="surrogateescape")
    return {
        module["path"].rstrip("/"): module["url"]
        for module in modules.values()
        if "path" in module and "url" in module and module.get("update") != "none"
    }


def resolve_address(parent: str, address: str) -> str | AddressRefused:
    """Where a module is, for a repository that is at `parent`; an address relative to it is taken.

    parent: of the request, or found here. A relative address never leaves the parent's server.
    """
    if address.startswith(("./", "../")):
        return _resolve_relative(parent.rstrip("/"), address)
    try:
        protocol = protocol_of(address)
    except ValueError as error:
        return AddressRefused(str(error))
    if protocol not in _ABSOLUTE:
        return AddressRefused(f"protocol '{protocol}' is not taken from a repository")
    if "://" in address and urlsplit(address).password is not None:
        return AddressRefused("a password in an address is not taken")
    return address


def wanted_modules(
    part: TreePart, modules: Mapping[str, str] | TreeRefused, parent: str
) -> tuple[WantedModule, ...] | TreeRefused:
    """The modules of a tree that are to be fetched, in its order.

    modules: addresses by path. parent: where the tree came from. A commit in the tree that
    `.gitmodules` says nothing about stays an empty folder, as in a plain clone.
    """
    found: list[WantedModule] = []
    for entry in part.entries:
        if not entry.is_module:
            continue
        if isinstance(modules, TreeRefused):
            return modules
        address = modules.get(entry.path)
        if address is None:
            continue
        resolved = resolve_address(parent, address)
        if isinstance(resolved, AddressRefused):
            path = shown_path(entry.path)
            return TreeRefused(f"has a submodule {path} whose url is refused: {resolved.problem}")
        found.append(WantedModule(entry.path, resolved, entry.object_id))
    return tuple(found)


def shown_path(path: str) -> str:
    """A path of a stranger's tree, as it may be in a message."""
    return path.encode("unicode_escape", "backslashreplace").decode()[:100]


def plain_address(address: str) -> str:
    """An address without what may be left out at its end."""
    return address.rstrip("/").removesuffix(".git").rstrip("/")


def _resolve_relative(parent: str, address: str) -> str | AddressRefused:
    """As git does it: each `../` takes away the last part of the parent's path."""
    base, separator, path = _split(parent)
    parts = [part for part in path.split("/") if part]
    rest = address
    while True:
        if rest.startswith("./"):
            rest = rest[2:]
        elif rest.startswith("../"):
            if not parts:
                return AddressRefused("leads out of the server of its repository")
            parts.pop()
            rest = rest[3:]
        else:
            break
    added = rest.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in added):
        return AddressRefused("has '..' or nothing between two '/'")
    resolved = base + separator + "/".join((*parts, *added))
    try:
        protocol_of(resolved)
    except ValueError as error:
        return AddressRefused(str(error))
    return resolved


def _split(address: str) -> tuple[str, str, str]:
    """An address as its server, what stands between, and the path there."""
    scheme, mark, rest = address.partition("://")
    if mark:
        host, _, path = rest.partition("/")
        return f"{scheme}://{host}", "/", path
    if address.startswith("/"):
        return "", "/", address[1:]
    host, _, path = address.partition(":")
    return host, ":", path
