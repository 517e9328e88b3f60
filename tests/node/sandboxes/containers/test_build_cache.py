"""node.sandboxes.containers.build_cache: no entry is read before its digest is checked."""

import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from ci.limits import Limits
from common.pipeline.pipeline_file import Cache, CachedPath
from node.caches.cache_store import Entry
from node.caches.entry_archive import Part
from node.sandboxes.containers.build_cache import CacheNotWhole, early_archives, opening_caches
from node.sandboxes.sandbox import Work
from node.work.threads import Stop, Stopped

DATA = b"x" * 1024


class Store:
    """Opens an entry when the test says so."""

    class Counts:
        misses = 0

    counts = Counts()

    def __init__(self, folder: Path, is_whole: bool) -> None:
        self.go_on = threading.Event()
        self.path = folder / "entry"
        self.path.write_bytes(DATA)
        self.is_whole = is_whole
        self.opened: BinaryIO | None = None

    def open(self, entry: Entry, stop: Stop) -> BinaryIO | None:
        while not self.go_on.wait(0.01):
            stop.check()
        self.opened = self.path.open("rb") if self.is_whole else None
        return self.opened


class Access:
    def __init__(self, store: Store, is_noted: bool = True) -> None:
        self.store = store
        self.is_noted = is_noted

    def note_use(self, entry: Entry) -> bool:
        return self.is_noted


class Asked:
    """As much of a Work as is looked at."""

    limits = Limits()

    def __init__(self, folder: Path, access: Access) -> None:
        self.tree = folder / "tree.tar"
        self.tree.write_bytes(b"")
        self.caches = access


ENTRY = Entry("", "key", "", "libraries", "b" * 64, 1, "", 1024, (Part("home", 1024, 1, 4096),))
FOUND = ((Cache("libraries", (CachedPath("home", "x"),), ("lock",)), ENTRY),)


def asked(folder: Path, access: Access) -> Work:
    return Asked(folder, access)  # type: ignore[return-value]


def test_the_digest_is_checked_beside_the_caller_and_before_the_first_byte(tmp_path: Path) -> None:
    store = Store(tmp_path, is_whole=True)
    with opening_caches(asked(tmp_path, Access(store)), found=FOUND, stop=Stop()) as (opening,):
        (archive,) = early_archives(opening, Stop())
        assert (archive.folder, archive.length) == ("/home/build", 1024)
        assert not opening.opened.done()
        store.go_on.set()
        assert b"".join(archive.pieces) == DATA
    assert store.opened is not None
    assert store.opened.closed


@pytest.mark.parametrize(("is_whole", "is_noted"), [(False, True), (True, False)])
def test_what_must_not_be_used_gives_nothing(
    tmp_path: Path, is_whole: bool, is_noted: bool
) -> None:
    store = Store(tmp_path, is_whole)
    store.go_on.set()
    access = Access(store, is_noted)
    with opening_caches(asked(tmp_path, access), found=FOUND, stop=Stop()) as (opening,):
        (archive,) = early_archives(opening, Stop())
        with pytest.raises(CacheNotWhole, match="cache libraries"):
            next(iter(archive.pieces))


def test_a_stop_ends_the_look_and_so_does_the_end_of_the_block(tmp_path: Path) -> None:
    store, stop = Store(tmp_path, is_whole=True), Stop()
    with opening_caches(asked(tmp_path, Access(store)), found=FOUND, stop=stop) as (opening,):
        stop.set()
        with pytest.raises(Stopped):
            opening.file()
    with opening_caches(asked(tmp_path, Access(store)), found=FOUND, stop=Stop()) as (opening,):
        pass
    assert opening.opened.done()
