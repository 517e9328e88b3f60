"""package-lock.json and npm-shrinkwrap.json, lockfileVersion 2 and 3 (npm documentation). Pure.

A package of a registry is known by name and version: `resolved` names a registry only to say so,
and the operator decides which one. What is in the repository, or in another package's archive, is
no input.
"""

import re
from urllib.parse import urlsplit

import msgspec

from common.dependencies.lock_file import Input, LockWriter, Tool, integrity_digests, shown

VERSIONS = (2, 3)
LOCK = "run `npm install --package-lock-only` and commit package-lock.json"
NO_DIGEST = (
    "delete its entry from package-lock.json, run `npm cache clean --force` and `npm install"
    " --package-lock-only`, and commit the file"
)
_FOLDER = "node_modules/"
# npm's rules for new names, and the capitals that old packages have.
_NAME = re.compile(r"(@[A-Za-z0-9~_-][A-Za-z0-9._~-]*/)?[A-Za-z0-9~_-][A-Za-z0-9._~!'()*-]*")
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+([.+-][0-9A-Za-z.+-]*)?")


class _Entry(msgspec.Struct, frozen=True, rename="camel"):
    """A value of `packages`; all other keys are passed over."""

    name: str | None = None
    version: str | None = None
    resolved: str | bool | None = None
    integrity: str | None = None
    link: bool = False
    in_bundle: bool = False


class _Lock(msgspec.Struct, frozen=True, rename="camel"):
    lockfile_version: int | None = None
    packages: dict[str, _Entry] = {}


_lock = msgspec.json.Decoder(_Lock)


def read_npm_lock(data: bytes, writer: LockWriter) -> None:
    """Note what the file pins. Raises TooManyInputs."""
    try:
        lock = _lock.decode(data)
    except (ValueError, RecursionError) as error:
        # msgspec's and the text's own errors are ValueErrors
        writer.flaw("", f"is no package-lock.json ({shown(str(error))})", LOCK)
        return
    if lock.lockfile_version not in VERSIONS:
        writer.flaw(
            "lockfileVersion",
            f"is {lock.lockfile_version}, not 2 or 3",
            "run `npm install --package-lock-only --lockfile-version 3` and commit the file",
        )
        return
    for key, entry in lock.packages.items():
        if writer.is_full:
            return
        # what is not below node_modules is a folder of the repository (a workspace)
        is_own = _FOLDER not in key
        if not (is_own or entry.link or entry.in_bundle):
            _read_entry(key, entry, writer)


def _read_entry(key: str, entry: _Entry, writer: LockWriter) -> None:
    place = shown(key)
    name = entry.name or key.rpartition(_FOLDER)[2]
    resolved = entry.resolved if isinstance(entry.resolved, str) else None
    scheme = urlsplit(resolved).scheme if resolved and _is_address(resolved) else ""
    if resolved is not None and scheme == "file":
        return
    if scheme.startswith("git") or (resolved is not None and scheme not in ("https", "http")):
        writer.flaw(
            place,
            f"{shown(resolved or '')} is no archive of a registry",
            "depend on a published version instead",
        )
        return
    if not _NAME.fullmatch(name) or ".." in name or not _VERSION.fullmatch(entry.version or ""):
        writer.flaw(place, "has no name and version of npm's", LOCK)
        return
    assert entry.version is not None, "it was matched"
    digests = integrity_digests(entry.integrity or "")
    if not digests:
        problem = "has no integrity" if not entry.integrity else "has none but an old integrity"
        writer.flaw(place, f"{problem} (SHA-512 is needed)", NO_DIGEST)
        return
    url = None if resolved is None or _is_registrys(resolved, name, entry.version) else resolved
    if url is not None and scheme != "https":
        writer.flaw(place, f"{shown(url)} is no address of https", LOCK)
        return
    writer.add(Input(Tool.NPM, name, entry.version, digests, url=url, place=place))


def _is_address(text: str) -> bool:
    try:
        urlsplit(text)
    except ValueError:
        return False
    return True


def _is_registrys(url: str, name: str, version: str) -> bool:
    """Whether a registry has the archive at that address, by the end of its path."""
    path = urlsplit(url).path
    return path.endswith(f"/{name}/-/{name.rpartition('/')[2]}-{version}.tgz")
