"""Puts entries of caches into a build's workspace, and takes new ones out of it. Blocking.

An entry is unpacked before the first step, below the commit's own files, which win. The only
container of a build takes it over its standard input; else the engine unpacks it into the keeper,
so the image needs no tar. The engine packs the cached paths after the last step, when no step runs
any more.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import IO, BinaryIO, cast

import docker
import docker.errors
import msgspec

from ci.limits import Limits
from common.pipeline.pipeline_file import HOME_ROOT, WORKSPACE_ROOT, Cache
from node.caches.build_caches import CacheAccess
from node.caches.cache_store import Entry
from node.caches.entry_archive import CHUNK_BYTES, EntryRefused, EntryWriter
from node.sandboxes.containers.container import HOME, files_max
from node.sandboxes.containers.container_run import EarlyArchive
from node.sandboxes.containers.workspace import FOLDER, ArchiveStream, archive_of
from node.sandboxes.sandbox import Work
from node.sources.tree import ENTRIES_MAX, WORKSPACE
from node.work.threads import Stop

ROOTS = {HOME_ROOT: HOME, WORKSPACE_ROOT: WORKSPACE}
# the least that a file of a tree takes in its tar
_HEADER_BYTES = 512


class _Room(msgspec.Struct):
    """What is free in a file system."""

    bytes: int
    files: int


# What a store has for one build: the caches of its pipeline with their entries.
FoundEntries = tuple[tuple[Cache, Entry], ...]


def find_caches(work: Work, image_ids: tuple[str, ...]) -> FoundEntries:
    """What there is for this build, which runs in these images; the log says what there is not."""
    return () if work.caches is None else work.caches.find(image_ids, work.log.note)


class OpenEntry(msgspec.Struct, frozen=True):
    """An entry that the build uses. file: at its beginning; it was as it was written."""

    entry: Entry
    file: BinaryIO


class CacheNotWhole(Exception):
    """An entry is not as it was written, or its use cannot be noted: it must not be used."""


class OpeningEntry(msgspec.Struct, frozen=True):
    """An entry that is looked at by another thread. opened: None if it cannot be used."""

    entry: Entry
    opened: "Future[BinaryIO | None]"

    def file(self) -> BinaryIO:
        """The file at its beginning, once all of it was found as it was written.

        Waits for that. Raises CacheNotWhole, Stopped.
        """
        file = self.opened.result()
        if file is None:
            raise CacheNotWhole(f"cache {self.entry.name}: its entry is not as it was written")
        return file


@contextmanager
def opening_caches(
    work: Work, *, found: FoundEntries, stop: Stop
) -> Iterator[tuple[OpeningEntry, ...]]:
    """Those of what was found that fit into the build's file systems.

    A thread notes their use and checks their digests meanwhile: before `OpeningEntry.file` gives
    back a file, nothing of it was read by anybody else. The log says why another one is not used.
    Raises Stopped.
    """
    access = work.caches
    fitting = _fitting(work, found)
    if access is None or not fitting:
        yield ()
        return
    given_up = Stop()
    opening: list[OpeningEntry] = []
    with ThreadPoolExecutor(1, thread_name_prefix="cache") as threads:
        try:
            with stop.interrupting(given_up.set):
                for entry in fitting:
                    opened = threads.submit(_open, access, entry, given_up)
                    opening.append(OpeningEntry(entry, opened))
                yield tuple(opening)
        finally:
            given_up.set()
            for one in opening:
                _close_behind(one.opened)


def _open(access: CacheAccess, entry: Entry, stop: Stop) -> BinaryIO | None:
    """The entry's file, whole, with its use noted; None: it must not be used. Raises Stopped."""
    file = access.store.open(entry, stop) if access.note_use(entry) else None
    if file is None:
        access.store.counts.misses += 1
    return file


def _close_behind(opened: "Future[BinaryIO | None]") -> None:
    """Wait for the thread's end with that file, and close it."""
    if opened.cancel() or opened.exception() is not None:
        return
    if (file := opened.result()) is not None:
        file.close()


@contextmanager
def open_caches(work: Work, *, found: FoundEntries, stop: Stop) -> Iterator[tuple[OpenEntry, ...]]:
    """Those of what was found that fit into the build's file systems and are whole.

    The log says why another one is not used. Raises Stopped.
    """
    access = work.caches
    opened = []
    with ExitStack() as files:
        for entry in _fitting(work, found):
            assert access is not None, "it found the entry"
            file = _open(access, entry, stop)
            if file is not None:
                opened.append(OpenEntry(entry, files.enter_context(file)))
            else:
                work.log.note(f"cache {entry.name}: not used, its entry is not as it was written")
        yield tuple(opened)


def _fitting(work: Work, found: FoundEntries) -> tuple[Entry, ...]:
    """The entries that fit into the build's file systems; the log names the others."""
    fitting = []
    rooms = _rooms(work.limits, work.tree.stat().st_size)
    for cache, entry in found:
        if _take_room(rooms, entry):
            fitting.append(entry)
            continue
        assert work.caches is not None, "it found the entry"
        work.caches.store.counts.misses += 1
        work.log.note(f"cache {cache.name}: not used, the file systems of this build are smaller")
    return tuple(fitting)


def early_archives(opening: OpeningEntry, stop: Stop) -> Iterator[EarlyArchive]:
    """The entry for a container that takes it before its tree.

    The pieces of what comes are to be read in its order. Reading the first one waits for the
    entry's digest. Reading them raises Stopped, CacheNotWhole, OSError.
    """
    for part in opening.entry.parts:
        pieces = _pieces_of(opening, part.length, stop)
        yield EarlyArchive(ROOTS[part.root], part.length, pieces)


def _pieces_of(opening: OpeningEntry, length: int, stop: Stop) -> Iterator[bytes]:
    yield from _chunks(opening.file(), length, stop)


def count_restored(work: Work, restored: Sequence[Entry], seconds: float) -> None:
    """Count entries that the build uses, and that were unpacked together in that time."""
    if restored:
        assert work.caches is not None, "it has the entries"
        counts = work.caches.store.counts
        counts.hits += len(restored)
        counts.restored_bytes += sum(entry.length for entry in restored)
        counts.restored_seconds += seconds


def note_restored(work: Work, restored: Sequence[Entry], seconds: float) -> None:
    """Say in the log which entries were unpacked together in that time."""
    for entry in restored:
        work.log.note(
            f"cache {entry.name}: {entry.length} bytes in {seconds:.1f} s"
            f"{' with the others' if len(restored) > 1 else ''}, made by build {entry.build[:12]}"
        )


def restore_caches(
    client: docker.APIClient,
    container: str,
    work: Work,
    *,
    found: FoundEntries,
    stop: Stop,
) -> None:
    """Have the engine unpack what was found for this build into the container's empty file systems.

    container: one that runs, and whose file systems are volumes. Raises Stopped, OSError and what
    the library raises: then the file systems may hold a part of what `CacheAccess.used` names.
    """
    with open_caches(work, found=found, stop=stop) as entries:
        for opened in entries:
            _restore(client, container, work, opened=opened, stop=stop)


def _restore(
    client: docker.APIClient, container: str, work: Work, *, opened: OpenEntry, stop: Stop
) -> None:
    """Unpack one entry. Raises as restore_caches."""
    began_at = time.monotonic()
    access = work.caches
    assert access is not None, "it has the entry"
    access.used.append(opened.entry)
    try:
        for part in opened.entry.parts:
            client.put_archive(container, ROOTS[part.root], _chunks(opened.file, part.length, stop))
    except docker.errors.APIError:
        # the engine answered, and does not take it: so it would be each time
        access.store.evict(opened.entry, "unusable")
        raise
    seconds = time.monotonic() - began_at
    count_restored(work, (opened.entry,), seconds)
    note_restored(work, (opened.entry,), seconds)


def stage_caches(client: docker.APIClient, keeper: str, work: Work, *, stop: Stop) -> None:
    """Write what the build left at the paths of its caches into entries that are not used yet.

    Raises Stopped and what the library raises.
    """
    access = work.caches
    if access is None:
        return
    for cache, key in access.to_write():

        def write(writer: EntryWriter, cache: Cache = cache) -> None:
            _pack(client, keeper, cache, writer=writer, stop=stop)

        access.stage(cache, key, write)


def _pack(
    client: docker.APIClient, keeper: str, cache: Cache, *, writer: EntryWriter, stop: Stop
) -> None:
    root: str | None = None
    for cached in cache.paths:
        folder = ROOTS[cached.root]
        if not _leads_through_folders(client, keeper, folder=folder, path=cached.path):
            continue
        found = archive_of(client, keeper, f"{folder}/{cached.path}")
        if found is None:
            continue
        if root != cached.root:
            root = cached.root
            writer.begin(root)
        pieces = found[0]
        try:
            writer.add(cached.path, cast(IO[bytes], ArchiveStream(pieces, stop)), stop)
        finally:
            pieces.close()


def _leads_through_folders(
    client: docker.APIClient, keeper: str, *, folder: str, path: str
) -> bool:
    """Whether the path is there and only real folders are above it: the engine follows links.

    Raises EntryRefused.
    """
    parts = path.split("/")
    for depth in range(1, len(parts)):
        above = "/".join(parts[:depth])
        found = archive_of(client, keeper, f"{folder}/{above}")
        if found is None:
            return False
        found[0].close()
        if found[1] != FOLDER:
            raise EntryRefused(f"{above} is {found[1]}, no folder")
    return True


def _rooms(limits: Limits, tree_bytes: int) -> dict[str, _Room]:
    tree_files = min(ENTRIES_MAX, tree_bytes // _HEADER_BYTES)
    workspace, home = limits.workspace_bytes, limits.home_bytes
    return {
        HOME_ROOT: _Room(home, files_max(home)),
        WORKSPACE_ROOT: _Room(workspace - tree_bytes, files_max(workspace) - tree_files),
    }


def _take_room(rooms: dict[str, _Room], entry: Entry) -> bool:
    """Take the room that the entry needs; False, and nothing is taken, if there is too little."""
    if any(
        part.page_bytes > rooms[part.root].bytes or part.file_count > rooms[part.root].files
        for part in entry.parts
    ):
        return False
    for part in entry.parts:
        rooms[part.root].bytes -= part.page_bytes
        rooms[part.root].files -= part.file_count
    return True


def _chunks(file: BinaryIO, length: int, stop: Stop) -> Iterator[bytes]:
    while length:
        stop.check()
        chunk = file.read(min(length, CHUNK_BYTES))
        if not chunk:
            raise OSError("the entry of a cache became shorter while it was read")
        length -= len(chunk)
        yield chunk
