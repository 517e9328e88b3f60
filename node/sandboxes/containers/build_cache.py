"""Puts entries of caches into a build's workspace, and takes new ones out of it. Blocking.

The engine unpacks an entry before the first step, below the commit's own files, which win. It packs
the cached paths after the last step, when no step runs any more: so the image needs no tar.
"""

import time
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

import docker
import docker.errors
import msgspec

from ci.limits import Limits
from common.pipeline.pipeline_file import HOME_ROOT, WORKSPACE_ROOT, Cache
from node.caches.cache_store import Entry
from node.caches.entry_archive import CHUNK_BYTES, EntryRefused, EntryWriter
from node.sandboxes.containers.container import HOME, files_max
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


def restore_caches(
    client: docker.APIClient,
    container: str,
    work: Work,
    *,
    found: FoundEntries,
    stop: Stop,
) -> None:
    """Unpack what was found for this build into the container's empty file systems.

    container: one that runs, and whose file systems are volumes. Raises Stopped, OSError and what
    the library raises: then the file systems may hold a part of what `CacheAccess.used` names.
    """
    access = work.caches
    assert access is not None, "asked for only if the pipeline names caches"
    rooms = _rooms(work.limits, work.tree.stat().st_size)
    for cache, entry in found:
        problem = "the file systems of this build are smaller"
        if _take_room(rooms, entry) and access.note_use(entry):
            file = access.store.open(entry, stop)
            if file is not None:
                with file:
                    _restore(client, container, work, entry=entry, file=file, stop=stop)
                continue
            problem = "its entry was not as it was written"
        access.store.counts.misses += 1
        work.log.note(f"cache {cache.name}: not used, {problem}")


def _restore(
    client: docker.APIClient,
    container: str,
    work: Work,
    *,
    entry: Entry,
    file: BinaryIO,
    stop: Stop,
) -> None:
    """Unpack one entry. Raises as restore_caches."""
    began_at = time.monotonic()
    access = work.caches
    assert access is not None, "it has the entry"
    access.used.append(entry)
    try:
        for part in entry.parts:
            client.put_archive(container, ROOTS[part.root], _chunks(file, part.length, stop))
    except docker.errors.APIError:
        # the engine answered, and does not take it: so it would be each time
        access.store.evict(entry, "unusable")
        raise
    seconds = time.monotonic() - began_at
    counts = access.store.counts
    counts.hits += 1
    counts.restored_bytes += entry.length
    counts.restored_seconds += seconds
    work.log.note(
        f"cache {entry.name}: {entry.length} bytes in {seconds:.1f} s, made by build"
        f" {entry.build[:12]}"
    )


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
