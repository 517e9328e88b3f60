"""Cargo.lock, versions 3 and 4 (The Cargo Book, "Cargo.toml vs Cargo.lock"; `checksum` is the
SHA-256 of a crate).

What has no source is in the repository and is no input.
"""

import re
import tomllib

import msgspec

from common.dependencies.lock_file import Input, LockWriter, Tool, hex_digest, shown

# tomllib needs a second for so many at worst; 5,000 packages are one megabyte
BYTES_MAX = 4 * 2**20
VERSIONS = (3, 4)
LOCK = "run `cargo generate-lockfile` and commit Cargo.lock"
_REGISTRIES = ("registry+", "sparse+")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+([+-][0-9A-Za-z.+-]*)?")


class _Package(msgspec.Struct, frozen=True):
    name: str
    version: str
    source: str | None = None
    checksum: str | None = None


class _Lock(msgspec.Struct, frozen=True):
    version: int = 1
    package: tuple[_Package, ...] = ()


def read_cargo_lock(data: bytes, writer: LockWriter) -> None:
    """Note what the file pins. Raises TooManyInputs."""
    if len(data) > BYTES_MAX:
        writer.flaw("", f"{len(data)} bytes; at most {BYTES_MAX}", "divide the workspace in two")
        return
    try:
        lock = msgspec.convert(tomllib.loads(data.decode()), _Lock)
    except (ValueError, RecursionError) as error:
        # tomllib's, msgspec's and the text's own errors are ValueErrors
        writer.flaw("", f"is no Cargo.lock ({shown(str(error))})", LOCK)
        return
    if lock.version not in VERSIONS:
        writer.flaw("version", f"is {lock.version}, not 3 or 4", LOCK)
        return
    for package in lock.package:
        if writer.is_full:
            return
        if package.source is not None:
            _read_package(package, package.source, writer)


def _read_package(package: _Package, source: str, writer: LockWriter) -> None:
    place = shown(f"{package.name} {package.version}")
    if not source.startswith(_REGISTRIES):
        writer.flaw(
            place,
            f"{shown(source)} is no registry",
            "depend on a published version, or vendor it (`cargo vendor`)",
        )
        return
    if not _NAME.fullmatch(package.name) or not _VERSION.fullmatch(package.version):
        writer.flaw(place, "is no name and version of Cargo's", LOCK)
        return
    digest = hex_digest("sha256", package.checksum or "")
    if digest is None:
        writer.flaw(place, "has no checksum", LOCK)
        return
    writer.add(Input(Tool.CARGO, package.name, package.version, (digest,), place=place))
