"""The file of a backup: a plain tar that begins with `backup.json` and ends with `SHA256SUMS`.

The rule: whoever made the file is an enemy. It is read in pieces, never unpacked as a whole, and
nothing of it is used before all of it was checked: it is not compressed, holds plain files alone,
each once and under a name that its reader expects, and every file has the digest that the last one
lists. The sums find what a disk or a transfer changed. They do not prove who made the backup.

`tar xf` and `sha256sum -c SHA256SUMS` read it as well.
"""

import contextlib
import errno
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import msgspec

from common.config_error import ConfigError
from common.new_file import new_file
from common.safe_text import log_text

# 1: the first one.
FORMAT_VERSION = 1
HEADER_NAME = "backup.json"
SUMS_NAME = "SHA256SUMS"
BACKUP_MODE = 0o600

HEADER_BYTES_MAX = 64 * 1024
# A node keeps at most a million builds; who keeps so many has another way to copy them.
FILES_MAX = 200_000
# POSIX's own tar header (ustar) has no more, in two parts.
NAME_CHARACTERS_MAX = 255
CHUNK_BYTES = 1024 * 1024
SUMS_BYTES_MAX = FILES_MAX * (hashlib.sha256().digest_size * 2 + 3 + NAME_CHARACTERS_MAX)

Kind = Literal["node", "gateway"]


class BackupRefused(ConfigError):
    """The backup cannot be used; the text is one line."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}")


class Header(msgspec.Struct, frozen=True):
    """Whose backup it is. made_at: ISO 8601, UTC. cluster: its id (hex)."""

    format: int
    kind: Kind
    name: str
    cluster: str
    version: str
    made_at: str


class _Format(msgspec.Struct, frozen=True):
    """What every format's header says, whatever else a newer one has."""

    format: int


class Stored(NamedTuple):
    """A file in a backup. modified_at: seconds since 1970."""

    name: str
    size: int
    modified_at: float


class BackupWriter:
    """Writes a backup, file by file. Raises OSError."""

    def __init__(self, stream: BinaryIO, header: Header) -> None:
        self._stream = stream
        self._sums: list[str] = []
        self._made_at = 0.0
        self.add_bytes(HEADER_NAME, msgspec.json.format(msgspec.json.encode(header), indent=1))

    def add_bytes(self, name: str, data: bytes) -> None:
        """Add a file with this content."""
        self._begin(Stored(name, len(data), 0.0))
        self._stream.write(data)
        self._end(name, len(data), hashlib.sha256(data).hexdigest())

    def add_file(self, name: str, file: Path) -> bool:
        """Add a plain file; False if there is none by now.

        What is added to it meanwhile is left out. Raises ConfigError if it gets shorter.
        """
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):
                return False
            raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            return False
        with open(descriptor, "rb") as source:
            self._begin(Stored(name, status.st_size, status.st_mtime))
            digest = hashlib.sha256()
            left = status.st_size
            while left and (chunk := source.read(min(left, CHUNK_BYTES))):
                self._stream.write(chunk)
                digest.update(chunk)
                left -= len(chunk)
        if left:
            raise ConfigError(f"{file} got shorter while it was copied; make the backup again")
        self._end(name, status.st_size, digest.hexdigest())
        return True

    def finish(self) -> None:
        """Add the sums, and the end of the tar."""
        self.add_bytes(SUMS_NAME, "".join(self._sums).encode())
        self._stream.write(bytes(2 * tarfile.BLOCKSIZE))

    def _begin(self, file: Stored) -> None:
        if len(self._sums) >= FILES_MAX:
            raise ConfigError(f"a backup has at most {FILES_MAX} files; leave the logs out")
        info = tarfile.TarInfo(file.name)
        info.size, info.mtime, info.mode = file.size, int(file.modified_at), BACKUP_MODE
        try:
            self._stream.write(info.tobuf(tarfile.USTAR_FORMAT))
        except ValueError as error:
            raise ConfigError(f"{file.name} cannot be in a backup: {error}") from error

    def _end(self, name: str, size: int, digest: str) -> None:
        self._stream.write(bytes(-size % tarfile.BLOCKSIZE))
        self._sums.append(f"{digest}  {name}\n")


@contextlib.contextmanager
def new_backup(file: Path, header: Header) -> Iterator[BackupWriter]:
    """A backup to be written; the file is there when the block is left, whole, or never.

    Nobody but its owner reads it. Raises ConfigError where it exists or cannot be written.
    """
    with new_file(file, BACKUP_MODE) as stream:
        writer = BackupWriter(stream, header)
        yield writer
        writer.finish()


class Backup:
    """A backup that was checked as a whole. Use it as a context manager."""

    def __init__(self, file: Path, is_expected: Callable[[str], bool]) -> None:
        """Open and check it. is_expected: whether a backup of this kind has a file of that name.

        Raises BackupRefused.
        """
        self.file = file
        self._is_expected = is_expected
        self.files: dict[str, Stored] = {}
        try:
            self._stream = open(  # noqa: SIM115 - closed by `close`
                os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
            )
        except OSError as error:
            raise BackupRefused(file, f"cannot be read ({error.strerror})") from error
        try:
            if not stat.S_ISREG(os.fstat(self._stream.fileno()).st_mode):
                raise self._refused("is no plain file")
            self.header = self._check()
        except OSError as error:
            self._stream.close()
            raise BackupRefused(file, f"cannot be read ({error.strerror})") from error
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> "Backup":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    @property
    def size(self) -> int:
        """How many bytes all its files have together."""
        return sum(stored.size for stored in self.files.values())

    def read(self, name: str, bytes_max: int) -> bytes | None:
        """The content of a small file; None if it is not in the backup. Raises BackupRefused."""
        found = self.files.get(name)
        if found is None:
            return None
        if found.size > bytes_max:
            raise self._refused(f"{name} has {found.size} bytes; {bytes_max} is the most")
        for stored, content in self.contents():
            if stored.name == name:
                return b"".join(content)
        raise self._refused("changed while it was read")

    def contents(self) -> Iterator[tuple[Stored, Iterator[bytes]]]:
        """Each file, with its content in pieces, to be read before the next one is asked for.

        Raises BackupRefused.
        """
        for stored, content in self._walk():
            if stored.name in self.files:
                yield stored, content

    def _check(self) -> Header:
        """All of it, before any of it is used."""
        header: Header | None = None
        sums: dict[str, str] = {}
        listed: dict[str, str] | None = None
        for stored, content in self._walk():
            if listed is not None:
                raise self._refused(f"has something behind {SUMS_NAME}")
            if header is None:
                if stored.name != HEADER_NAME:
                    raise self._refused("is no backup of PBFT/CI")
                data = self._small(stored, content, HEADER_BYTES_MAX)
                header = self._header(data)
                sums[stored.name] = hashlib.sha256(data).hexdigest()
            elif stored.name == SUMS_NAME:
                listed = self._sums(self._small(stored, content, SUMS_BYTES_MAX))
            else:
                self._take(stored)
                digest = hashlib.sha256()
                for chunk in content:
                    digest.update(chunk)
                sums[stored.name] = digest.hexdigest()
        if header is None or listed is None:
            raise self._refused("is cut off, or is no backup of PBFT/CI")
        for name in sums | listed:
            if sums.get(name) != listed.get(name):
                raise self._refused(f"{log_text(name)} is not what {SUMS_NAME} says: it is damaged")
        return header

    def _take(self, stored: Stored) -> None:
        if stored.name in self.files:
            raise self._refused(f"has {log_text(stored.name)} twice")
        if not self._is_expected(stored.name):
            raise self._refused(f"has {log_text(stored.name)}, which does not belong in a backup")
        if len(self.files) >= FILES_MAX:
            raise self._refused(f"has more than {FILES_MAX} files")
        self.files[stored.name] = stored

    def _header(self, data: bytes) -> Header:
        try:
            found = msgspec.json.decode(data, type=_Format).format
            if found != FORMAT_VERSION:
                raise self._refused(
                    f"has format {found}, this version reads {FORMAT_VERSION}; use the version of"
                    " PBFT/CI that wrote it, or a newer one"
                )
            return msgspec.json.decode(data, type=Header)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._refused(f"its {HEADER_NAME} cannot be read") from error

    def _sums(self, data: bytes) -> dict[str, str]:
        lines = data.decode(errors="replace").splitlines()
        return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}

    def _small(self, stored: Stored, content: Iterator[bytes], bytes_max: int) -> bytes:
        if stored.size > bytes_max:
            raise self._refused(f"its {stored.name} is too large")
        return b"".join(content)

    def _walk(self) -> Iterator[tuple[Stored, Iterator[bytes]]]:
        """Every file up to the end of the tar, whatever it is called."""
        self._stream.seek(0)
        while True:
            block = self._exactly(tarfile.BLOCKSIZE)
            if not any(block):
                return
            try:
                # The standard library's reader of whole archives takes links, sparse files, and
                # headers of any length; of one block it takes nothing but the block.
                info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            except (tarfile.HeaderError, UnicodeDecodeError) as error:
                raise self._refused("is damaged, or is no backup of PBFT/CI") from error
            if info.type != tarfile.REGTYPE or info.size < 0:
                raise self._refused(f"has {log_text(info.name)}, which is no plain file")
            begins = self._stream.tell()
            yield (
                Stored(info.name, info.size, float(info.mtime)),
                self._content(info.size),
            )
            self._stream.seek(begins + info.size + -info.size % tarfile.BLOCKSIZE)

    def _content(self, size: int) -> Iterator[bytes]:
        while size:
            chunk = self._exactly(min(size, CHUNK_BYTES))
            size -= len(chunk)
            yield chunk

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise self._refused("is cut off")
        return data

    def _refused(self, reason: str) -> BackupRefused:
        return BackupRefused(self.file, reason)
