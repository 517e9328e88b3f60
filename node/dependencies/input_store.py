"""The inputs of builds on disk, each under the digest that a lock file pins it by. Blocking.

The rule: what is stored under a digest has that digest. It is checked when it is put in, and again
when it is read for a build. So nobody can poison a name, and all builds of an operator share them.
"""

import base64
import hashlib
import os
import time
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from node.work.threads import Stop

UNFINISHED = ".new"
# A fetch that was killed leaves files behind; none that runs is as old (fetch_timeout_seconds).
UNFINISHED_SECONDS_MAX = 2 * 86_400
CHUNK_BYTES = 2**20
# Go's limits of a module's archive (golang.org/x/mod/zip), and how many files one has at most
GO_MODULE_BYTES_MAX = 500 * 2**20
GO_MODULE_FILES_MAX = 100_000


class WrongBytes(Exception):
    """A file has another digest than its name says."""


def store_name(digest: str) -> str:
    """The name of the file with that digest: no character of it means anything to a file system."""
    algorithm, _, value = digest.partition(":")
    if algorithm == "h1":
        value = base64.b64decode(value).hex()
    return f"{algorithm}-{value}"


def digest_of(file: Path, like: str, part: str = "") -> str:
    """The digest of a file, by the algorithm of the digest `like`.

    part: of a Go module (`common.dependencies.lock_file.Input`). Raises OSError, and WrongBytes if
    it is no archive of a module.
    """
    algorithm = like.partition(":")[0]
    if algorithm == "h1":
        return _go_digest(file, part)
    with file.open("rb") as stream:
        return f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"


def _go_digest(file: Path, part: str) -> str:
    """Hash1 of golang.org/x/mod/sumdb/dirhash: of the names and digests of all files, sorted."""
    lines = []
    if part == "mod":
        lines.append(("go.mod", hashlib.sha256(file.read_bytes()).hexdigest()))
    else:
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                if (
                    len(entries) > GO_MODULE_FILES_MAX
                    or sum(entry.file_size for entry in entries) > GO_MODULE_BYTES_MAX
                ):
                    raise WrongBytes("too large for a Go module")
                for entry in entries:
                    if "\n" in entry.filename:
                        raise WrongBytes("a name in it has a line's end")
                    hashed = hashlib.sha256()
                    with archive.open(entry) as stream:
                        while chunk := stream.read(CHUNK_BYTES):
                            hashed.update(chunk)
                    lines.append((entry.filename, hashed.hexdigest()))
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise WrongBytes("no archive of a Go module") from error
    text = "".join(f"{hashed}  {name}\n" for name, hashed in sorted(lines))
    return "h1:" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class InputStore:
    """The files of one node, least recently used ones removed by `sweep`."""

    def __init__(self, folder: Path, bytes_max: int, seconds_max: float) -> None:
        self.folder = folder
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max

    def start(self) -> None:
        """Make the folder, and remove what a crash left. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(f"*{UNFINISHED}*"):
            left.unlink(missing_ok=True)

    def path(self, digest: str) -> Path:
        """Where the file with this digest is, or would be."""
        return self.folder / store_name(digest)

    def has(self, digest: str) -> bool:
        """Whether it is there; then it is kept as one that was used now. Raises OSError."""
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            return False
        return True

    def put(self, file: Path, digest: str, part: str = "") -> None:
        """Take a file over, if it has the digest. Raises WrongBytes, OSError."""
        found = digest_of(file, digest, part)
        if found != digest:
            raise WrongBytes(found)
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        file.replace(self.path(digest))

    def check(self, digest: str, part: str = "") -> None:
        """Raises WrongBytes if the file was changed, which removes it, and OSError."""
        path = self.path(digest)
        try:
            found = digest_of(path, digest, part)
        except WrongBytes:
            found = ""
        if found != digest:
            path.unlink(missing_ok=True)
            raise WrongBytes(found)

    def sweep(self, used: Iterable[str], stop: Stop) -> None:
        """Remove the files that were used longest ago, until the rest is within the bounds.

        used: digests that a build needs now. Raises Stopped, OSError.
        """
        kept = {store_name(digest) for digest in used}
        files = []
        now = time.time()
        for path in self.folder.iterdir():
            stop.check()
            with suppress(FileNotFoundError):
                found = path.stat()
                if UNFINISHED in path.name and now - found.st_mtime > UNFINISHED_SECONDS_MAX:
                    path.unlink()
                    continue
                files.append((found.st_mtime, found.st_size, path))
        total = 0
        for used_at, size, path in sorted(files, reverse=True):
            total += size
            is_old = now - used_at > self._seconds_max or total > self._bytes_max
            if is_old and path.name not in kept and UNFINISHED not in path.name:
                path.unlink(missing_ok=True)
                total -= size
