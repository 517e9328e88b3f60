"""Hands inputs into a build: an archive of them, and what tells each tool where they are. Blocking.

Steps see the archive's content at INPUTS, and cannot change it. Nothing in a step's commands has to
change: docs/decisions/0052-inputs-by-lock-file.md says what each tool was tried with. Instructions
of a Dockerfile have a copy of their own (docs/decisions/0053).
"""

import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Protocol

import msgspec

from common.dependencies.lock_file import Tool
from node.caches.entry_archive import EntryRefused, MemberReader
from node.dependencies.fetch_messages import Stored
from node.dependencies.input_store import InputStore
from node.sources.tree import BUILD_USER_ID
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

INPUTS = "/pbft-ci-inputs"
CARGO_FOLDER = ".cargo"
PAGE_BYTES = 4096
CHUNK_BYTES = 256 * 1024
# fewer than a file system in memory holds (node.sandboxes.containers.container.FILES_MIN)
FILES_MAX = 100_000

_VARIABLES: Mapping[Tool, Mapping[str, str]] = {
    Tool.PIP: {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": f"{INPUTS}/pip",
        "UV_OFFLINE": "1",
        "UV_NO_INDEX": "1",
        "UV_FIND_LINKS": f"{INPUTS}/pip",
    },
    Tool.NPM: {
        "NPM_CONFIG_AUDIT": "false",
        "NPM_CONFIG_FUND": "false",
        "NPM_CONFIG_UPDATE_NOTIFIER": "false",
    },
    Tool.GO: {"GOPROXY": f"file://{INPUTS}/go", "GOSUMDB": "off", "GOTOOLCHAIN": "local"},
    Tool.CARGO: {"CARGO_NET_OFFLINE": "true"},
    Tool.FILES: {},
}
_CARGO_SETTINGS = f"""[source.crates-io]
replace-with = "pbft-ci"

[source.pbft-ci]
directory = "{INPUTS}/cargo"
"""


class HandedInputs(msgspec.Struct, frozen=True):
    """What a build is given.

    archive: a tar file of what is at INPUTS. page_bytes: what its files take in memory.
    tools: those with lock files. home: a tar file of what they read below HOME; empty if nothing.
    home_folders: the folders at its top.
    """

    archive: Path
    page_bytes: int
    tools: tuple[Tool, ...]
    home: bytes
    home_folders: tuple[str, ...] = ()

    def variables(self, home: str | None) -> dict[str, str]:
        """Those of every step, whose HOME is this folder; None: it is not known.

        A pipeline's own variables win.
        """
        found: dict[str, str] = {}
        for tool in self.tools:
            found |= _VARIABLES[tool]
        if Tool.CARGO in self.tools and home is not None:
            # images of Rust set it to a folder that steps cannot write
            found["CARGO_HOME"] = f"{home}/{CARGO_FOLDER}"
        return found


def hand_in(
    store: InputStore,
    inputs: Iterable[Stored],
    archive: Path,
    *,
    bytes_max: int,
    stop: Stop,
) -> HandedInputs:
    """Write the archive. bytes_max: of all files in it.

    Raises WrongBytes if a file of the store was changed, InfrastructureError if they are too many
    or a crate cannot be unpacked, Stopped, OSError.
    """
    inputs = tuple(inputs)
    tools = tuple(sorted({each.tool for each in inputs}))
    with archive.open("wb") as file:
        writer = _Writer(file, bytes_max)
        for tool in tools:
            writer.add_folders(tool)
        for each in inputs:
            stop.check()
            store.check(each.digest, each.part)
            path = store.path(each.digest)
            if each.tool is Tool.CARGO:
                _add_crate(writer, each, path, stop=stop)
            else:
                with path.open("rb") as content:
                    writer.add_file(f"{each.tool}/{each.file}", content, each.length)
        writer.finish()
    if Tool.CARGO not in tools:
        return HandedInputs(archive, writer.page_bytes, tools, b"")
    in_home = _home_archive(CARGO_FOLDER, "config.toml", _CARGO_SETTINGS.encode())
    return HandedInputs(archive, writer.page_bytes, tools, in_home, (CARGO_FOLDER,))


def _home_archive(folder: str, name: str, data: bytes) -> bytes:
    """A file in a folder, both the build's own."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, kind, content, mode in (
            (folder, tarfile.DIRTYPE, b"", 0o755),
            (f"{folder}/{name}", tarfile.REGTYPE, data, 0o644),
        ):
            header = tarfile.TarInfo(path)
            header.type, header.size, header.mode = kind, len(content), mode
            header.uid = header.gid = BUILD_USER_ID
            archive.addfile(header, io.BytesIO(content))
    return made.getvalue()


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """The next bytes, at most so many; none at the end."""


class _Writer:
    """Writes files, each with the folders that it is in."""

    def __init__(self, file: IO[bytes], bytes_max: int) -> None:
        self._file = file
        self._bytes_max = bytes_max
        self._folders: set[str] = set()
        self.page_bytes = 0
        self.file_count = 0

    def add_folders(self, path: str) -> None:
        """Write a folder and those that it is in, each once."""
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in self._folders:
                self._folders.add(folder)
                self._header(folder, tarfile.DIRTYPE, 0, mode=0o755)

    def add_file(self, path: str, content: _Readable, size: int, *, mode: int = 0o644) -> None:
        """Write a file of that size. Raises InfrastructureError, OSError."""
        parent = path.rpartition("/")[0]
        if parent:
            self.add_folders(parent)
        self._header(path, tarfile.REGTYPE, size, mode=mode)
        left = size
        while left:
            chunk = content.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise InfrastructureError(f"the file of {path} ends too early")
            self._file.write(chunk)
            left -= len(chunk)
        self._file.write(b"\0" * (-size % tarfile.BLOCKSIZE))

    def finish(self) -> None:
        """Write the end. Raises OSError."""
        self._file.write(b"\0" * (2 * tarfile.BLOCKSIZE))

    def _header(self, path: str, kind: bytes, size: int, *, mode: int) -> None:
        self.page_bytes += -(-size // PAGE_BYTES) * PAGE_BYTES
        self.file_count += 1
        if self.page_bytes > self._bytes_max or self.file_count > FILES_MAX:
            raise InfrastructureError(
                f"the inputs have more than {self._bytes_max} bytes (inputs_bytes_max), or more"
                f" than {FILES_MAX} files",
                is_permanent=True,
            )
        header = tarfile.TarInfo(path)
        header.type, header.size, header.mode = kind, size, mode
        self._file.write(header.tobuf(tarfile.PAX_FORMAT))


def _add_crate(writer: _Writer, crate: Stored, path: Path, *, stop: Stop) -> None:
    """A crate's plain files, and the file by which Cargo knows its checksum."""
    top = f"{crate.name}-{crate.version}"
    with path.open("rb") as packed:
        reader = MemberReader(_Unpacked(packed))  # type: ignore[arg-type]  # it reads alone
        try:
            while (member := reader.next()) is not None:
                stop.check()
                if member.kind != tarfile.REGTYPE:
                    continue
                parts = member.name.split("/")
                if parts[0] != top or any(part in ("", ".", "..") for part in parts):
                    raise EntryRefused("a file is outside of its folder")
                mode = 0o755 if member.mode & 0o100 else 0o644
                writer.add_file(
                    f"{Tool.CARGO}/{member.name}", _Content(reader), member.size, mode=mode
                )
        except (EntryRefused, zlib.error) as error:
            raise InfrastructureError(
                f"the crate {top} cannot be unpacked: {error}", is_permanent=True
            ) from error
    known = {"files": {}, "package": crate.digest.partition(":")[2]}
    data = json.dumps(known).encode()
    writer.add_file(f"{Tool.CARGO}/{top}/.cargo-checksum.json", io.BytesIO(data), len(data))


class _Unpacked:
    """A gzip file as a stream that holds no more than is asked for, and one piece."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._inflater = zlib.decompressobj(wbits=31)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """The next bytes, fewer only at the end. Raises zlib.error."""
        parts: list[bytes] = []
        while size:
            piece = self._inflater.decompress(self._rest, size)
            self._rest = self._inflater.unconsumed_tail
            if piece:
                parts.append(piece)
                size -= len(piece)
            elif self._inflater.eof:
                break
            elif not self._rest:
                self._rest = self._packed.read(CHUNK_BYTES)
                if not self._rest:
                    break
        return b"".join(parts)


class _Content:
    """The content of the member that a reader is at, as a file."""

    def __init__(self, reader: MemberReader) -> None:
        self._chunks = reader.content()

    def read(self, size: int, /) -> bytes:
        """One piece of it. The writer asks for as many bytes as are left or a piece."""
        chunk = next(self._chunks, b"")
        assert len(chunk) <= size, "pieces of both are equally long at most"
        return chunk
