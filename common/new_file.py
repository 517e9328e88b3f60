"""Files that are written whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.config_error import ConfigError


class FileThere(ConfigError):
    """The file exists already; it was left as it is."""


def write_new_file(file: Path, text: str, mode: int) -> None:
    """Write a new file, with its folder; after a crash it is complete or absent.

    mode: its permissions, which it has from the first byte on. Raises FileThere where it exists,
    and ConfigError where it cannot be written.
    """
    with new_file(file, mode) as stream:
        stream.write(_lines(text))


@contextlib.contextmanager
def new_file(file: Path, mode: int) -> Iterator[BinaryIO]:
    """As `write_new_file`, for bytes that come in pieces; what the block raises leaves no file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                os.fchmod(stream.fileno(), mode)
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            # A link fails where the name is taken, a rename would overwrite it.
            os.link(name, file)
        except FileExistsError as error:
            raise FileThere.at(
                file, "", "exists already", "move it away, or choose another name or folder"
            ) from error
        finally:
            os.unlink(name)
        sync_folder(file.parent)
    except OSError as error:
        raise _cannot_be_written(file, error) from error


def replace_file(file: Path, text: str) -> None:
    """Put `text` in the place of a file's content; after a crash it is the old or the new one.

    Permissions and owner stay, and a link keeps leading to it. Raises ConfigError where it cannot
    be written.
    """
    file = file.resolve()
    try:
        before = file.stat()
        name = _write_beside(file, text, before.st_mode & 0o777)
        try:
            made = os.stat(name)
            if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
                # root may edit the file of a service's user, who must still be able to read it
                os.chown(name, before.st_uid, before.st_gid)
            os.replace(name, file)
        except OSError:
            os.unlink(name)
            raise
        sync_folder(file.parent)
    except OSError as error:
        raise _cannot_be_written(file, error) from error


def sync_folder(folder: Path) -> None:
    """Have the names in it on disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lines(text: str) -> bytes:
    return text.rstrip("\n").encode() + b"\n"


def _write_beside(file: Path, text: str, mode: int) -> str:
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(_lines(text))
        stream.flush()
        os.fchmod(stream.fileno(), mode)
        os.fsync(stream.fileno())
    return name


def _cannot_be_written(file: Path, error: OSError) -> ConfigError:
    return ConfigError.at(
        file, "", f"cannot be written ({error.strerror})", "a folder that can be written to"
    )
