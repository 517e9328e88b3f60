"""Writes what a build left at its cached paths into a tar file of this node's own. Blocking.

The rule: an entry has the form that this module gives it, whatever a build or an engine wrote.
It holds plain files, folders, symbolic links (as they are, and nothing behind one) and hard links
to an earlier plain file of the same entry. All belong to the user of builds. Anything else, or more
than the bounds below, raises EntryRefused, and nothing is kept.

Any tar unpacks it: long names have the form that BusyBox understands, and folders come once more at
the end of each part, with their time, for a tar that does not put that off by itself.

`tarfile` reads a header of any size into memory and calls itself for each extended header. So only
its parser of one block is used here; headers and their records are bounded before they are read.
"""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO

import msgspec

from common.safe_text import log_text
from node.work.threads import Stop

ENTRIES_MAX = 100_000
# of all names together, for they are held in memory
NAMES_BYTES_MAX = 32 * 2**20
# of a long name or of extended records
HEADER_BYTES_MAX = 64 * 1024
# extended headers that one member has: records, a long name and a long link target
EXTENDED_HEADERS_MAX = 4
PATH_BYTES_MAX = 4000
NAME_BYTES_MAX = 255
# of the file systems that entries are unpacked into
PAGE_BYTES = 4096
# a file system in memory holds the target of a link in a page if it is no shorter
LINK_BYTES_MIN = 128
CHUNK_BYTES = 256 * 1024
OWNER_ID = 65534
SECONDS_MAX = 2**33 - 1
_BLOCK = tarfile.BLOCKSIZE
_END = b"\0" * (2 * _BLOCK)
_RECORD_DIGITS_MAX = 6
_PARENT_MODE = 0o755
_ENCODING, _ERRORS = "utf-8", "surrogateescape"


class EntryRefused(Exception):
    """What a build left is no entry; the text says why."""


class Part(msgspec.Struct, frozen=True):
    """The tar of the paths below one root, in the entry's file behind the parts before it.

    root: as in `common.pipeline.pipeline_file.CachedPath`. page_bytes, file_count: what it needs of
    the file system that it is unpacked into.
    """

    root: str
    length: int
    page_bytes: int
    file_count: int


class Content(msgspec.Struct, frozen=True):
    """A whole entry, as it was written: SHA-256 (hex) and length of all parts together."""

    parts: tuple[Part, ...]
    sha256: str
    length: int


class EntryWriter:
    """Writes one entry: `begin` a root, `add` its paths, and so on; then `finish`.

    file: takes the bytes. bytes_max: of all of it. check: called every few MiB; what it raises
    ends the writing.
    """

    def __init__(self, file: BinaryIO, bytes_max: int, check: Callable[[], None]) -> None:
        self._file = file
        self._bytes_max = bytes_max
        self._check = check
        self._digest = hashlib.sha256()
        self._length = 0
        self._checked_at = 0
        self._parts: list[Part] = []
        self._root: str | None = None
        self._began_at = 0
        self._page_bytes = 0
        self._file_count = 0
        # of this root: the names of folders, and of plain files that a link may lead to
        # folders with their permissions and seconds
        self._folders: dict[str, tuple[int, int]] = {}
        self._files: set[str] = set()
        self._others: set[str] = set()
        self._entry_count = 0
        self._names_bytes = 0

    def begin(self, root: str) -> None:
        """What is added from now on lies below this root. Raises EntryRefused, OSError."""
        self._end_part()
        self._root = root
        self._began_at = self._length

    def add(self, path: str, stream: IO[bytes], stop: Stop) -> None:
        """Add what an engine's tar stream holds of this path, a relative one.

        The stream names the last part of the path, and what is below it. Raises EntryRefused,
        Stopped, OSError, and what reading raises.
        """
        assert self._root is not None, "a root is begun first"
        parent, _, base = path.rpartition("/")
        self._add_parents(parent)
        reader = MemberReader(stream)
        while (member := reader.next()) is not None:
            stop.check()
            self._add_member(parent, base, member, reader=reader, stop=stop)

    def finish(self) -> Content:
        """What was written. Raises EntryRefused, OSError."""
        self._end_part()
        return Content(tuple(self._parts), self._digest.hexdigest(), self._length)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return self._entry_count == 0

    def _add_parents(self, parent: str) -> None:
        parts = parent.split("/") if parent else []
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in self._folders:
                self._note_name(folder)
                self._add_folder(folder, _PARENT_MODE, 0)

    def _add_member(
        self, parent: str, base: str, member: "Member", *, reader: "MemberReader", stop: Stop
    ) -> None:
        path = _path_in(parent, base, member.name)
        above = path.rpartition("/")[0]
        if above and above not in self._folders:
            raise EntryRefused(f"{log_text(path)} is inside something that is no folder")
        if path in self._folders or path in self._files or path in self._others:
            raise EntryRefused(f"{log_text(path)} is there twice")
        self._note_name(path)
        if member.kind != tarfile.REGTYPE and member.size:
            raise EntryRefused(f"{log_text(path)} has content and is no file")
        mode, seconds = member.mode & 0o777, min(max(member.seconds, 0), SECONDS_MAX)
        match member.kind:
            case tarfile.DIRTYPE:
                self._add_folder(path, mode, seconds)
            case tarfile.REGTYPE:
                self._files.add(path)
                # before anything is read: a file with holes may seem to have terabytes
                self._check_room(member.size + 2 * _BLOCK)
                self._page_bytes += -(-member.size // PAGE_BYTES) * PAGE_BYTES
                self._write_header(path, member.kind, mode=mode, seconds=seconds, size=member.size)
                for chunk in reader.content():
                    stop.check()
                    self._write(chunk)
                self._write(b"\0" * (-member.size % _BLOCK))
            case tarfile.SYMTYPE:
                self._others.add(path)
                target = member.target.encode(_ENCODING, _ERRORS)
                if not 0 < len(target) <= PATH_BYTES_MAX:
                    raise EntryRefused(f"{log_text(path)} is a link with too long a target")
                self._page_bytes += PAGE_BYTES if len(target) >= LINK_BYTES_MIN else 0
                self._write_header(
                    path, member.kind, mode=mode, seconds=seconds, target=member.target
                )
            case tarfile.LNKTYPE:
                target_path = _path_in(parent, base, member.target)
                if target_path not in self._files:
                    raise EntryRefused(
                        f"{log_text(path)} is a second name of {log_text(target_path)}, which is no"
                        " earlier file of this entry"
                    )
                self._files.add(path)
                self._write_header(
                    path, member.kind, mode=mode, seconds=seconds, target=target_path
                )
            case _:
                raise EntryRefused(f"{log_text(path)} is a special file")

    def _add_folder(self, path: str, mode: int, seconds: int) -> None:
        self._folders[path] = mode, seconds
        self._write_header(path, tarfile.DIRTYPE, mode=mode, seconds=seconds)

    def _write_header(
        self,
        path: str,
        kind: bytes,
        *,
        mode: int,
        seconds: int,
        size: int = 0,
        target: str = "",
    ) -> None:
        header = tarfile.TarInfo(path)
        header.type, header.size, header.linkname = kind, size, target
        header.uid = header.gid = OWNER_ID
        header.mode, header.mtime = mode, seconds
        self._write(header.tobuf(tarfile.GNU_FORMAT, _ENCODING, _ERRORS))

    def _note_name(self, path: str) -> None:
        """Count a name before it is held. Raises EntryRefused."""
        self._file_count += 1
        self._entry_count += 1
        if self._entry_count > ENTRIES_MAX:
            raise EntryRefused(f"there are more than {ENTRIES_MAX} entries")
        length = len(path.encode(_ENCODING, _ERRORS))
        if length > PATH_BYTES_MAX:
            raise EntryRefused(f"there is a path of more than {PATH_BYTES_MAX} bytes")
        self._names_bytes += length
        if self._names_bytes > NAMES_BYTES_MAX:
            raise EntryRefused(f"its names have more than {NAMES_BYTES_MAX} bytes")

    def _check_room(self, more: int) -> None:
        if self._length + more > self._bytes_max:
            raise EntryRefused(f"it has more than {self._bytes_max} bytes")

    def _write(self, data: bytes) -> None:
        self._check_room(len(data))
        self._length += len(data)
        self._digest.update(data)
        self._file.write(data)
        if self._length - self._checked_at >= 32 * CHUNK_BYTES:
            self._checked_at = self._length
            self._check()

    def _end_part(self) -> None:
        if self._root is not None:
            # from below: what is in a folder changes its time
            for path, (mode, seconds) in reversed(self._folders.items()):
                self._write_header(path, tarfile.DIRTYPE, mode=mode, seconds=seconds)
            self._write(_END)
            length = self._length - self._began_at
            self._parts.append(Part(self._root, length, self._page_bytes, self._file_count))
        self._root = None
        self._page_bytes = self._file_count = 0
        self._folders, self._files, self._others = {}, set(), set()


class Member(msgspec.Struct, frozen=True):
    """A member of a tar stream, whose content follows. kind: `tarfile`'s type of it."""

    name: str
    kind: bytes
    size: int
    mode: int
    seconds: int
    target: str


class MemberReader:
    """Reads a tar stream member by member, with a bound on all that it holds."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        # of the last member, still to be read
        self._left = 0
        self._padding = 0

    def next(self) -> Member | None:
        """The next member; None at the end. Its content, if it has any, is to be read first.

        Raises EntryRefused.
        """
        assert self._left == 0, "the content of the member before was read"
        self._take(self._padding)
        self._padding = 0
        records: dict[str, str] = {}
        for _ in range(EXTENDED_HEADERS_MAX + 1):
            block = self._take(_BLOCK)
            if not block.strip(b"\0"):
                return None
            try:
                header = tarfile.TarInfo.frombuf(block, _ENCODING, _ERRORS)
            except (tarfile.TarError, ValueError) as error:
                raise EntryRefused(f"the engine's archive cannot be read: {error}") from error
            match header.type:
                case tarfile.XHDTYPE:
                    records |= _records(self._extended(header.size))
                case tarfile.GNUTYPE_LONGNAME:
                    records["path"] = _text(self._extended(header.size))
                case tarfile.GNUTYPE_LONGLINK:
                    records["linkpath"] = _text(self._extended(header.size))
                case _:
                    return self._member(header, records)
        raise EntryRefused("the engine's archive has too many headers for one file")

    def content(self) -> Iterator[bytes]:
        """The content of the member that `next` gave."""
        while self._left:
            chunk = self._take(min(self._left, CHUNK_BYTES))
            self._left -= len(chunk)
            yield chunk

    def _member(self, header: tarfile.TarInfo, records: dict[str, str]) -> Member:
        size = _number(records["size"]) if "size" in records else header.size
        if size < 0:
            raise EntryRefused("the engine's archive has a file of less than no bytes")
        kind = tarfile.REGTYPE if header.type == tarfile.AREGTYPE else header.type
        if kind == tarfile.REGTYPE:
            self._left, self._padding = size, -size % _BLOCK
        seconds = int(header.mtime)
        if "mtime" in records:
            seconds = _number(records["mtime"].partition(".")[0].removeprefix("-") or "0")
        return Member(
            name=records.get("path", header.name),
            kind=kind,
            size=size,
            mode=header.mode,
            seconds=seconds,
            target=records.get("linkpath", header.linkname),
        )

    def _extended(self, size: int) -> bytes:
        if not 0 <= size <= HEADER_BYTES_MAX:
            raise EntryRefused(
                f"the engine's archive has a header of {size} bytes; at most {HEADER_BYTES_MAX}"
            )
        data = self._take(size)
        self._take(-size % _BLOCK)
        return data

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size) if size else b""
        if len(data) != size:
            raise EntryRefused("the engine's archive is cut off")
        return data


def _records(data: bytes) -> dict[str, str]:
    """The records of an extended header that matter here. Raises EntryRefused."""
    found: dict[str, str] = {}
    place = 0
    while place < len(data):
        space = data.find(b" ", place, place + _RECORD_DIGITS_MAX + 1)
        digits = data[place:space] if space > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        end = place + length
        if not place < space < end <= len(data) or data[end - 1 : end] != b"\n":
            raise EntryRefused("the engine's archive has a header that cannot be read")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        if key.startswith(b"GNU.sparse."):
            raise EntryRefused("the engine's archive has a file with holes")
        if key in (b"path", b"linkpath", b"size", b"mtime"):
            found[key.decode()] = _text(value)
        place = end
    return found


def _text(data: bytes) -> str:
    """A name. Raises EntryRefused."""
    data = data.removesuffix(b"\0")
    if b"\0" in data:
        raise EntryRefused("the engine's archive has a name with a NUL")
    return data.decode(_ENCODING, _ERRORS)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise EntryRefused("the engine's archive has a header that cannot be read")
    return int(text)


def _path_in(parent: str, base: str, name: str) -> str:
    """A member's path below the root; `name` begins with `base`. Raises EntryRefused."""
    name = name.rstrip("/")
    parts = name.split("/")
    if parts[0] != base or any(part in ("", ".", "..") for part in parts):
        raise EntryRefused(f"the engine's archive names {log_text(name)}, which was not asked for")
    if any(len(part.encode(_ENCODING, _ERRORS)) > NAME_BYTES_MAX for part in parts):
        raise EntryRefused(f"there is a name of more than {NAME_BYTES_MAX} bytes")
    return f"{parent}/{name}" if parent else name
