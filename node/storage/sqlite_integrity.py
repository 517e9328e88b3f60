"""Checks the structure of a SQLite file: one part before the replica votes, the rest later.

A start checks the tables that the replica needs to vote, tree by tree, however long the history
beside them is. It also checks the list of free pages, because SQLite would overwrite a page that is
on the list by mistake, whoever owns the page. `check_all` checks everything else by reading the
whole file: in the background, or at the start if there is a marker (`node.storage.damage`).

https://www.sqlite.org/fileformat2.html has the layout of the header, of the free list and of the
pointer map.
"""

import functools
import os
import sqlite3
from pathlib import Path

# Of a size that the window bounds, or f, whatever the number of builds.
BOUNDED_TABLES = ("sqlite_schema", "meta", "records", "bodies", "gaps", "evidence")

_HEADER_BYTES = 100
_FREE_PAGE = 2
_POINTER_BYTES = 5
# SQLite keeps the page with this byte for locks: it is never used.
_LOCK_BYTE = 2**30


class CannotTell(Exception):
    """This part of the file cannot be looked at by itself: the whole is to be checked."""


def check_at_start(database: sqlite3.Connection, file: "StoreFile") -> str | None:
    """What is wrong with what a replica speaks from, or with the free pages; None: nothing.

    Where that cannot be told apart from the rest, of everything. Raises sqlite3.Error, OSError.
    """
    # The file shows all only when nothing is left in the write-ahead log.
    (is_busy, *_) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    try:
        if is_busy:
            raise CannotTell("somebody else reads it")
        return file.check_free_pages() or _check_bounded(database)
    except CannotTell:
        return check_all(database)


def check_schema(database: sqlite3.Connection, schema: str, optional: str) -> str | None:
    """What is wrong with the definitions of the tables; None: they are those of this schema.

    optional: what a store may have beside it. A bit in a definition changes what rows are read as.
    """
    wanted, allowed = _definitions(schema), _definitions(f"{schema};{optional}")
    found = _defined(database)
    if not wanted <= found or not found <= allowed:
        names = sorted(str(name) for name, _ in (wanted - found) | (found - allowed))
        return f"the definition of {names[0]} is not what was saved"
    return None


def check_all(database: sqlite3.Connection) -> str | None:
    """What SQLite finds wrong in the whole file; None: nothing. Raises sqlite3.Error."""
    return _said(database, "PRAGMA integrity_check(1)")


def is_unreadable(problem: str) -> bool:
    """Whether SQLite could not read a page: that page may be whole."""
    return " get page " in problem or " get the page" in problem


class StoreFile:
    """The database's file itself, to be read where SQLite shows nothing of it.

    It stays open as long as the connection: closing any descriptor of a file takes all of the
    process' locks on it away, SQLite's too (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close it, after the connection."""
        os.close(self._descriptor)

    def check_free_pages(self) -> str | None:
        """What is wrong with the list of free pages, or the length of the file; None: nothing.

        Each page on the list must be free by the pointer map as well. Nothing may be left in the
        write-ahead log. Raises CannotTell, OSError.
        """
        header = self._read(0, _HEADER_BYTES)
        page_bytes = int.from_bytes(header[16:18], "big")
        page_bytes = 65536 if page_bytes == 1 else page_bytes
        has_pointer_map = any(header[52:56])
        if page_bytes < 512 or header[20] or not has_pointer_map:
            raise CannotTell("it has no pointer map")
        pages = os.fstat(self._descriptor).st_size // page_bytes
        if int.from_bytes(header[28:32], "big") != pages:
            return f"its header says another length than the {pages} pages that it has"
        return _FreeList(self, page_bytes, pages).check(
            first=int.from_bytes(header[32:36], "big"), count=int.from_bytes(header[36:40], "big")
        )

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise CannotTell("it is shorter than it should be")
        return data

    def page(self, number: int, page_bytes: int) -> bytes:
        """One page, counted from 1. Raises CannotTell, OSError."""
        return self._read((number - 1) * page_bytes, page_bytes)


class _FreeList:
    def __init__(self, file: StoreFile, page_bytes: int, pages: int) -> None:
        self._file = file
        self._page_bytes = page_bytes
        self._pages = pages
        self._maps: dict[int, bytes] = {}

    def check(self, first: int, count: int) -> str | None:
        """first: the page where the list begins. count: how many it should have."""
        seen: set[int] = set()
        trunk = first
        while trunk:
            if problem := self._check_page(trunk, seen):
                return problem
            data = self._file.page(trunk, self._page_bytes)
            numbers = [int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4)]
            trunk, leaves = numbers[0], numbers[1]
            if leaves > len(numbers) - 2:
                return "its list of free pages cannot be read"
            for leaf in numbers[2 : 2 + leaves]:
                if problem := self._check_page(leaf, seen):
                    return problem
        if len(seen) != count:
            return f"its list of free pages has {len(seen)} and should have {count}"
        return None

    def _check_page(self, number: int, seen: set[int]) -> str | None:
        if not 2 < number <= self._pages or number in seen:
            return f"page {number} cannot be free"
        seen.add(number)
        each = self._page_bytes // _POINTER_BYTES + 1
        place = (number - 2) // each * each + 2
        if place == _LOCK_BYTE // self._page_bytes + 1:
            place += 1
        if number <= place:
            return f"page {number} cannot be free"
        if place not in self._maps:
            self._maps[place] = self._file.page(place, self._page_bytes)
        if self._maps[place][(number - place - 1) * _POINTER_BYTES] != _FREE_PAGE:
            return f"page {number} is said to be free, and is in use"
        return None


def _check_bounded(database: sqlite3.Connection) -> str | None:
    for table in BOUNDED_TABLES:
        problem = _said(database, f"PRAGMA integrity_check({table})")
        if problem is not None:
            return f"{table}: {problem}"
    return None


@functools.cache
def _definitions(schema: str) -> frozenset[tuple[object, ...]]:
    """What SQLite makes of a schema of ours: the same at each start, so worked out once."""
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(schema)
        return _defined(database)
    finally:
        database.close()


def _defined(database: sqlite3.Connection) -> frozenset[tuple[object, ...]]:
    """Names and definitions, however their lines are broken."""
    rows = database.execute("SELECT name, type || ' ' || tbl_name || ' ' || sql FROM sqlite_schema")
    return frozenset(
        (name, None if text is None else " ".join(str(text).split())) for name, text in rows
    )


def _said(database: sqlite3.Connection, question: str) -> str | None:
    # Twice: a read that failed once is told in the same words as damage.
    for _ in range(2):
        (found,) = database.execute(question).fetchone()
        if found == "ok":
            return None
    return " ".join(str(found).split())
