"""The entries of caches on a node's disk, and the index that says what they must be. Blocking.

The rule: an entry never changes, and it is used only if its file has the length and the SHA-256
that the index names. A crash at any point leaves a file without a row, which the next start
removes, or an entry that is whole. Entries of builds without a verdict are not used, and do not
outlive the process.

No trouble of this store, such as a full disk, reaches a build: it is a miss, and a line in the log.
"""

import hashlib
import logging
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from common.retention import KeepRules, KeptItem, find_surplus
from node.caches.entry_archive import CHUNK_BYTES, Content, EntryRefused, EntryWriter, Part
from node.storage import folders
from node.work.threads import Stop

INDEX_NAME = "index.sqlite3"
# A file of another number is removed with all entries: caches are made again.
FORMAT_VERSION = 1
# So much stays free on the disk, for what the node must save.
FREE_BYTES_MIN = 1024 * 2**20
# Names of builds that used an entry and never came to a verdict here.
USES_SECONDS_MAX = 7 * 86400.0
# Why an entry goes: too long unused; of a limit of all, of a repository; its file is not what was
# written; the engine does not take it; a build that used it differs from the verdict.
EVICTION_REASONS = ("age", "size", "repository", "damaged", "unusable", "dissent")
_ENTRY, _DRAFT = ".tar", ".draft"
_SCHEMA = """
CREATE TABLE entries (
    file TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    repository TEXT NOT NULL,
    name TEXT NOT NULL,
    build TEXT NOT NULL,
    opened INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    length INTEGER NOT NULL,
    parts BLOB NOT NULL,
    used_at REAL NOT NULL,
    is_kept INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX kept ON entries (key) WHERE is_kept;
CREATE TABLE uses (
    build TEXT NOT NULL,
    opened INTEGER NOT NULL,
    key TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (build, opened, key)
) STRICT;
"""
_ENTRY_OF_KEY = """
SELECT file, key, repository, name, build, opened, sha256, length, parts FROM entries
WHERE key = ? AND is_kept
"""
_STAGED_BY = """
SELECT file, key, repository, name, build, opened, sha256, length, parts FROM entries
WHERE build = ? AND opened = ? AND NOT is_kept
"""
_KEPT = """
SELECT file, key, repository, name, build, opened, sha256, length, parts, used_at FROM entries
WHERE is_kept
"""

_log = logging.getLogger(__name__)

BuildKey = tuple[str, int]


class CacheRules(msgspec.Struct, frozen=True):
    """How much is kept at most: bytes of all, of a repository and of an entry; seconds unused."""

    bytes_max: int
    repository_bytes_max: int
    entry_bytes_max: int
    seconds_max: float


class Entry(msgspec.Struct, frozen=True):
    """An entry as the index has it. build, opened: the build that made it (id in hex)."""

    file: str
    key: str
    repository: str
    name: str
    build: str
    opened: int
    sha256: str
    length: int
    parts: tuple[Part, ...]


class CacheCounts(msgspec.Struct):
    """What came of caches since the start of this process."""

    hits: int = 0
    misses: int = 0
    restored_bytes: int = 0
    restored_seconds: float = 0.0
    stored: int = 0
    stored_bytes: int = 0
    stored_seconds: float = 0.0
    cold_rebuilds: int = 0
    # what there is now
    entries: int = 0
    bytes: int = 0
    evictions: Counter[str] = msgspec.field(
        default_factory=lambda: Counter(dict.fromkeys(EVICTION_REASONS, 0))
    )

    @property
    def numbers(self) -> dict[str, float]:
        """All of it by name, but for the evictions."""
        names = (name for name in self.__struct_fields__ if name != "evictions")
        return {name: getattr(self, name) for name in names}


class CacheStore:
    """Every method may be called from any thread, and raises nothing of the disk or of SQLite.

    free_bytes: what is free on a folder's disk.
    """

    def __init__(
        self,
        folder: Path,
        rules: CacheRules,
        *,
        clock: Callable[[], float] = time.time,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self.rules = rules
        self.counts = CacheCounts()
        self._folder = folder
        self._clock = clock
        self._free_bytes = free_bytes
        self._lock = threading.RLock()
        self._index = _closed()
        self._is_open = False

    def start(self) -> None:
        """Open the index, and remove what a crash left; without an index nothing is cached."""
        with self._lock:
            self._start()

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._close()

    # --- reading --------------------------------------------------------------------------------

    def find(self, key: str) -> Entry | None:
        """The entry of that key."""
        with self._trouble("find") as index:
            row = index.execute(_ENTRY_OF_KEY, (key,)).fetchone()
            return None if row is None else _entry(row)
        return None

    def open(self, entry: Entry, stop: Stop) -> BinaryIO | None:
        """The entry's file at its beginning, whole and as it was written; None: it is not, and the
        entry is removed. Raises Stopped."""
        file: BinaryIO | None = None
        problem = "its file is not what was written"
        try:
            descriptor = os.open(
                self._folder / entry.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            )
            file = os.fdopen(descriptor, "rb", buffering=0)
            if os.fstat(descriptor).st_size == entry.length:
                digest = hashlib.sha256()
                while chunk := file.read(4 * CHUNK_BYTES):
                    stop.check()
                    digest.update(chunk)
                if digest.hexdigest() == entry.sha256:
                    file.seek(0)
                    self._note_use_of(entry)
                    return file
        except OSError as error:
            problem = str(error)
        except BaseException:
            if file is not None:
                file.close()
            raise
        if file is not None:
            file.close()
        _log.error("cache %s of %s is removed: %s", entry.name, entry.repository, problem)
        self.evict(entry, "damaged")
        return None

    def note_use(self, entry: Entry, build: BuildKey) -> bool:
        """Remember that a build uses the entry, until its verdict; False: it must not use it."""
        with self._trouble("use") as index:
            row = (*build, entry.key, self._clock())
            index.execute("INSERT OR REPLACE INTO uses VALUES (?, ?, ?, ?)", row)
            return True
        return False

    def users(self) -> set[BuildKey]:
        """The builds that used entries and have no verdict yet, as far as is known here."""
        with self._trouble("users") as index:
            return set(index.execute("SELECT DISTINCT build, opened FROM uses"))
        return set()

    # --- writing --------------------------------------------------------------------------------

    def stage(self, entry: Entry, write: Callable[[EntryWriter], None]) -> bool:
        """Write a new entry, which is used once `keep` was called for its build.

        entry: its key, repository, name and build; the rest is filled in. write: adds the content,
        and raises EntryRefused, Stopped and what else reading the content raises.
        Returns False if there is no entry then: nothing to keep, or no room for it.
        """
        began_at = time.monotonic()
        draft = self._folder / f"{secrets.token_hex(16)}{_DRAFT}"
        try:
            self._check_free(min(self.rules.entry_bytes_max, self.rules.bytes_max))
            with draft.open("xb", buffering=4 * CHUNK_BYTES) as file:
                writer = EntryWriter(file, self.rules.entry_bytes_max, lambda: self._check_free(0))
                write(writer)
                if writer.is_empty:
                    return False
                content = writer.finish()
                file.flush()
                os.fsync(file.fileno())
            is_staged = self._add_draft(draft, entry, content)
        except (EntryRefused, _NoRoom, OSError) as error:
            _log.warning("cache %s of %s is not stored: %s", entry.name, entry.repository, error)
            return False
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        if is_staged:
            self.counts.stored_seconds += time.monotonic() - began_at
        return is_staged

    def keep(self, build: BuildKey) -> None:
        """The verdict is `passed`, and this replica's ballot agrees: use what the build staged."""
        with self._trouble("keep") as index:
            for row in index.execute(_STAGED_BY, build).fetchall():
                entry = _entry(row)
                # an entry never changes: the first one stays
                if self.find(entry.key) is not None:
                    self._remove(entry)
                    continue
                index.execute(
                    "UPDATE entries SET is_kept = 1, used_at = ? WHERE file = ?",
                    (self._clock(), entry.file),
                )
                self.counts.stored += 1
                self.counts.stored_bytes += entry.length
                _log.info(
                    "cache %s of %s is kept: %d bytes", entry.name, entry.repository, entry.length
                )
        self.sweep()

    def discard(self, build: BuildKey) -> None:
        """Remove what the build staged."""
        with self._trouble("discard") as index:
            for row in index.execute(_STAGED_BY, build).fetchall():
                self._remove(_entry(row))

    def forget_uses(self, build: BuildKey, *, is_dissent: bool) -> None:
        """The build has its verdict. is_dissent: it found something else, so what it used goes."""
        with self._trouble("forget") as index:
            keys = index.execute("SELECT key FROM uses WHERE build = ? AND opened = ?", build)
            for (key,) in keys.fetchall():
                entry = self.find(key)
                if is_dissent and entry is not None:
                    _log.warning(
                        "cache %s of %s is removed: build %s used it and differs from the verdict",
                        entry.name,
                        entry.repository,
                        build[0][:12],
                    )
                    self.evict(entry, "dissent")
            index.execute("DELETE FROM uses WHERE build = ? AND opened = ?", build)

    def evict(self, entry: Entry, reason: str) -> None:
        """Remove an entry."""
        with self._trouble("remove"):
            if self._remove(entry):
                self.counts.evictions[reason] += 1

    def sweep(self) -> None:
        """Remove what is too old, then the least recently used until the rest is small enough."""
        with self._trouble("sweep") as index:
            now = self._clock()
            index.execute("DELETE FROM uses WHERE at < ?", (now - USES_SECONDS_MAX,))
            kept: dict[str, tuple[Entry, KeptItem]] = {}
            for *columns, used_at in index.execute(_KEPT).fetchall():
                entry = _entry(tuple(columns))
                kept[entry.file] = entry, KeptItem(entry.file, used_at, entry.length)
            of_repository: dict[str, list[KeptItem]] = {}
            for entry, item in kept.values():
                of_repository.setdefault(entry.repository, []).append(item)
            own = KeepRules(
                bytes_max=self.rules.repository_bytes_max, seconds_max=self.rules.seconds_max
            )
            for items in of_repository.values():
                surplus = find_surplus(items, own, now)
                for reason, names in (("age", surplus.too_old), ("repository", surplus.too_large)):
                    for name in names:
                        self.evict(kept.pop(name)[0], reason)
            left = [item for _, item in kept.values()]
            for name in find_surplus(left, KeepRules(bytes_max=self.rules.bytes_max), now).names:
                self.evict(kept.pop(name)[0], "size")
            self.counts.entries = len(kept)
            self.counts.bytes = sum(item.bytes for _, item in kept.values())

    # --- inside ---------------------------------------------------------------------------------

    @contextmanager
    def _trouble(self, what: str) -> Iterator[sqlite3.Connection]:
        """The index, for one thread at a time; what fails in the body is logged, and ends it."""
        with self._lock:
            try:
                yield self._index
            except (OSError, sqlite3.Error) as error:
                if self._is_open:
                    _log.error("caches: %s failed: %s", what, error)

    def _start(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                self._open()
            except _Unreadable as error:
                _log.warning("caches: %s; all of them are removed", error)
                self._close()
                shutil.rmtree(self._folder)
                self._folder.mkdir(mode=0o700)
                self._open()
        except (OSError, sqlite3.Error) as error:
            self._close()
            _log.error("caches: nothing is cached, the index cannot be opened: %s", error)
            return
        with self._trouble("the start"):
            self._sweep_files()
        self.sweep()

    def _open(self) -> None:
        """Open the index, or make it. Raises _Unreadable, OSError, sqlite3.Error."""
        path = self._folder / INDEX_NAME
        # Each statement is a transaction: a crash may come between any two of them.
        self._index = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            (found,) = self._index.execute("PRAGMA user_version").fetchone()
            if found == 0 and not self._index.execute("SELECT 1 FROM sqlite_schema").fetchall():
                self._index.executescript(
                    f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT_VERSION}; COMMIT;"
                )
            elif found != FORMAT_VERSION:
                raise _Unreadable(f"the index has format {found}, not {FORMAT_VERSION}")
            elif (problem := self._index.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
                raise _Unreadable(f"the index is damaged: {problem[0]}")
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise _Unreadable(f"the index is damaged: {error}") from error
        self._is_open = True

    def _close(self) -> None:
        self._is_open = False
        self._index.close()

    def _sweep_files(self) -> None:
        """Remove drafts, files without a row, and rows without a file."""
        self._index.execute("DELETE FROM entries WHERE NOT is_kept")
        known = {name for (name,) in self._index.execute("SELECT file FROM entries")}
        there = {path.name for path in self._folder.iterdir()}
        for name in known - there:
            self._index.execute("DELETE FROM entries WHERE file = ?", (name,))
        for name in there - known:
            if name.endswith((_ENTRY, _DRAFT)):
                (self._folder / name).unlink(missing_ok=True)

    def _add_draft(self, draft: Path, entry: Entry, content: Content) -> bool:
        """Put a whole file into the index; whether it is there. Raises _NoRoom, OSError."""
        file = draft.with_suffix(_ENTRY)
        with self._trouble("store") as index:
            (staged_bytes,) = index.execute(
                "SELECT coalesce(sum(length), 0) FROM entries WHERE NOT is_kept"
            ).fetchone()
            if staged_bytes + content.length > self.rules.bytes_max:
                raise _NoRoom("entries that wait for their verdicts fill cache_bytes_max")
            draft.rename(file)
            folders.sync(self._folder)
            row = (
                *(file.name, entry.key, entry.repository, entry.name),
                *(entry.build, entry.opened, content.sha256, content.length),
                *(msgspec.json.encode(content.parts), self._clock(), 0),
            )
            index.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            return True
        with suppress(OSError):
            file.unlink(missing_ok=True)
        return False

    def _note_use_of(self, entry: Entry) -> None:
        with self._trouble("use") as index:
            row = (self._clock(), entry.file)
            index.execute("UPDATE entries SET used_at = ? WHERE file = ?", row)

    def _remove(self, entry: Entry) -> bool:
        """Remove the row, then the file; whether it was there. Raises OSError, sqlite3.Error."""
        removed = self._index.execute("DELETE FROM entries WHERE file = ?", (entry.file,))
        (self._folder / entry.file).unlink(missing_ok=True)
        return removed.rowcount > 0

    def _check_free(self, needed_bytes: int) -> None:
        """Raises _NoRoom, OSError."""
        if self._free_bytes(self._folder) < FREE_BYTES_MIN + needed_bytes:
            raise _NoRoom(
                f"less than {FREE_BYTES_MIN // 2**20} MiB would stay free on the disk of"
                " data_directory"
            )


class _Unreadable(Exception):
    """The index cannot be used; the text says why."""


class _NoRoom(Exception):
    """There is no room for an entry; the text says where."""


def _entry(row: tuple[Any, ...]) -> Entry:
    values = dict(zip(Entry.__struct_fields__, row, strict=True))
    return Entry(**values | {"parts": msgspec.json.decode(values["parts"], type=tuple[Part, ...])})


def _closed() -> sqlite3.Connection:
    """What each use of raises sqlite3.Error."""
    connection = sqlite3.connect(":memory:")
    connection.close()
    return connection
