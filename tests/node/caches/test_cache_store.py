"""The store of entries: what is used, what is removed, and what a crash or a full disk leaves."""

import io
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.caches.cache_store import FREE_BYTES_MIN, INDEX_NAME, CacheRules, CacheStore, Entry
from node.caches.entry_archive import EntryWriter
from node.work.threads import Stop
from tests.node.caches.test_entry_archive import END, member

DAY = 86400.0
RULES = CacheRules(
    bytes_max=100_000, repository_bytes_max=60_000, entry_bytes_max=50_000, seconds_max=30 * DAY
)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Stores:
    """A folder, and stores over it, one after the other as processes are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.free_bytes = 10 * FREE_BYTES_MIN
        self.store = self.again()

    def again(self, rules: CacheRules = RULES) -> CacheStore:
        self.store = CacheStore(
            self.folder, rules, clock=self.clock, free_bytes=lambda _: self.free_bytes
        )
        self.store.start()
        return self.store

    def stage(self, key: str, *, build: str = "b", size: int = 100, repository: str = "r") -> bool:
        return self.store.stage(new(key, build, repository), content(size))

    def keep(self, key: str, *, size: int = 100, repository: str = "r") -> None:
        assert self.stage(key, build=key, size=size, repository=repository)
        self.store.keep((key, 1))

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {INDEX_NAME}

    def kept(self, *keys: str) -> set[str]:
        return {key for key in keys if self.store.find(key) is not None}


def new(key: str, build: str, repository: str = "r") -> Entry:
    return Entry("", key, repository, "name", build, 1, "", 0, ())


def content(size: int) -> Callable[[EntryWriter], None]:
    def write(writer: EntryWriter) -> None:
        writer.begin("home")
        writer.add("file", io.BytesIO(member("file", data=b"x" * size) + END), Stop())

    return write


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path / "caches")


def test_an_entry_is_used_once_its_build_is_confirmed(stores: Stores) -> None:
    assert stores.stage("key")
    assert stores.store.find("key") is None
    stores.store.keep(("other", 1))
    assert stores.store.find("key") is None
    stores.store.keep(("b", 1))
    entry = stores.again().find("key")
    assert entry is not None
    file = stores.store.open(entry, Stop())
    assert file is not None
    with file:
        data = file.read()
    assert len(data) == entry.length == sum(part.length for part in entry.parts)
    assert b"x" * 100 in data


def test_what_was_not_confirmed_goes(stores: Stores) -> None:
    assert stores.stage("key")
    stores.store.discard(("b", 1))
    assert not stores.files()
    assert stores.stage("key")
    stores.again()
    assert not stores.files()
    stores.store.keep(("b", 1))
    assert stores.store.find("key") is None


def test_an_entry_never_changes(stores: Stores) -> None:
    stores.keep("key", size=100)
    first = stores.store.find("key")
    assert stores.stage("key", build="later", size=200)
    stores.store.keep(("later", 1))
    assert stores.store.find("key") == first
    assert len(stores.files()) == 1


@pytest.mark.parametrize("harm", ["flip", "cut", "longer", "link", "gone", "folder"])
def test_an_entry_that_is_not_what_was_written_is_removed_and_not_used(
    stores: Stores, tmp_path: Path, harm: str
) -> None:
    stores.keep("key")
    entry = stores.store.find("key")
    assert entry is not None
    path = stores.folder / entry.file
    data = path.read_bytes()
    if harm == "flip":
        path.write_bytes(data[:700] + b"y" + data[701:])
    elif harm == "cut":
        path.write_bytes(data[:-1])
    elif harm == "longer":
        path.write_bytes(data + b"\0")
    else:
        path.unlink()
    if harm == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    if harm == "folder":
        path.mkdir()
    assert stores.store.open(entry, Stop()) is None
    assert stores.store.find("key") is None
    if harm != "folder":
        assert +stores.store.counts.evictions == {"damaged": 1}
        assert not stores.files()


def test_what_misled_a_build_goes(stores: Stores) -> None:
    stores.keep("good")
    stores.keep("bad")
    for key, build in (("good", "one"), ("bad", "two")):
        entry = stores.store.find(key)
        assert entry is not None
        assert stores.store.note_use(entry, (build, 1))
    # also where the process began anew meanwhile
    store = stores.again()
    assert store.users() == {("one", 1), ("two", 1)}
    store.forget_uses(("one", 1), is_dissent=False)
    store.forget_uses(("two", 1), is_dissent=True)
    assert stores.kept("good", "bad") == {"good"}
    assert +store.counts.evictions == {"dissent": 1}
    assert not store.users()


def test_the_least_recently_used_goes(stores: Stores) -> None:
    for number, (key, repository) in enumerate(
        [("a", "r"), ("b", "r"), ("c", "other"), ("d", "other")]
    ):
        stores.clock.now += number
        stores.keep(key, size=20_000, repository=repository)
    first = stores.store.find("a")
    assert first is not None
    file = stores.store.open(first, Stop())
    assert file is not None
    file.close()
    # a third of this repository: `b` was used before `a`
    stores.clock.now += 1
    stores.keep("e", size=20_000)
    assert stores.kept("a", "b", "c", "d", "e") == {"a", "c", "d", "e"}
    # of all: `c` is the oldest
    stores.keep("f", size=20_000, repository="third")
    assert stores.kept("a", "c", "d", "e", "f") == {"a", "d", "e", "f"}
    assert +stores.store.counts.evictions == {"repository": 1, "size": 1}
    assert (stores.store.counts.entries, len(stores.files())) == (4, 4)
    stores.clock.now += 30 * DAY + 1
    stores.store.sweep()
    assert not stores.files()
    assert stores.store.counts.evictions["age"] == 4


def test_what_is_too_large_or_does_not_fit_is_not_stored(stores: Stores) -> None:
    assert not stores.stage("large", size=60_000)
    assert stores.stage("one", build="1", size=40_000)
    assert stores.stage("two", build="2", size=40_000)
    # nobody's verdict came yet
    assert not stores.stage("three", build="3", size=40_000)
    assert len(stores.files()) == 2


def test_a_full_disk_is_a_miss(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    stores.keep("key")
    stores.free_bytes = FREE_BYTES_MIN
    assert not stores.stage("other")
    stores.free_bytes *= 10

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        assert not stores.stage("other")
    assert len(stores.files()) == 1
    assert stores.kept("key", "other") == {"key"}


def test_an_index_that_cannot_be_written_stops_nothing(stores: Stores) -> None:
    stores.keep("key")
    entry = stores.store.find("key")
    assert entry is not None
    with sqlite3.connect(stores.folder / INDEX_NAME) as index:
        index.execute("DROP TABLE entries")
        index.execute("DROP TABLE uses")
    assert stores.store.find("key") is None
    assert not stores.store.note_use(entry, ("b", 1))
    assert not stores.stage("other")
    stores.store.keep(("b", 1))
    stores.store.sweep()


@pytest.mark.parametrize("harm", ["damage", "format", "folder"])
def test_an_index_that_cannot_be_read(stores: Stores, harm: str) -> None:
    """All is made anew; if not even that is possible, nothing is cached."""
    stores.keep("key")
    stores.store.close()
    index = stores.folder / INDEX_NAME
    if harm == "damage":
        index.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    elif harm == "format":
        with sqlite3.connect(index) as connection:
            connection.execute("PRAGMA user_version = 99")
    else:
        index.unlink()
        index.mkdir()
    stores.again()
    assert stores.store.find("key") is None
    is_usable = harm != "folder"
    assert stores.stage("key") is is_usable
    stores.store.keep(("b", 1))
    assert (stores.store.find("key") is not None) is is_usable


def test_files_that_are_nobodys_go(stores: Stores) -> None:
    stores.keep("kept")
    stores.keep("lost")
    entry = stores.store.find("lost")
    assert entry is not None
    (stores.folder / entry.file).unlink()
    for name in ("left.draft", "left.tar"):
        (stores.folder / name).write_bytes(b"x")
    stores.again()
    assert len(stores.files()) == 1
    assert stores.kept("kept", "lost") == {"kept"}


def die_at(point: int, folder: Path) -> None:
    """In a process of its own: store and remove, and be killed at that call of the disk."""
    calls = 0

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **more)

        return wrapped

    class Connection(sqlite3.Connection):
        execute = dying(sqlite3.Connection.execute)

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "unlink")):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        connect = sqlite3.connect
        patch.setattr(
            sqlite3, "connect", lambda *a, **more: connect(*a, factory=Connection, **more)
        )
        stores = Stores(folder)
        assert stores.stage("key", size=5000)
        stores.store.keep(("b", 1))
        entry = stores.store.find("old")
        assert entry is not None
        stores.store.evict(entry, "dissent")
        stores.store.close()


def test_killed_at_any_point_it_uses_nothing_that_is_not_whole(
    tmp_path: Path, stores: Stores
) -> None:
    for point in range(1, 100):
        stores.folder = tmp_path / f"caches{point}"
        stores.again()
        stores.keep("old", size=7000)
        stores.store.close()
        process = os.fork()
        if process == 0:
            try:
                die_at(point, stores.folder)
                os._exit(0)
            finally:
                os._exit(1)
        ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert ended in (0, -signal.SIGKILL)
        stores.again()
        for key, size in (("key", 5000), ("old", 7000)):
            entry = stores.store.find(key)
            if entry is not None:
                file = stores.store.open(entry, Stop())
                assert file is not None, f"half an entry after {point} calls"
                with file:
                    assert b"x" * size in file.read()
        assert len(stores.files()) == len(stores.kept("key", "old"))
        stores.store.close()
        if ended == 0:
            assert point > 15
            return
    pytest.fail("it never came to its end")
