"""Storing and restoring the cache of a build, beside the engine's own part of it.

A tree of random files lies in the HOME of a build's keeper. The product packs it into an entry of
its store, and unpacks that entry into a new keeper, by the node's own functions. The reference lets
the engine pack the same tree into a file, which is synced, and unpack that file: it checks and
rewrites nothing.
"""

import asyncio
import io
import itertools
import os
import secrets
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker

from bench.context import Context
from bench.engine import ReadyEngine, ready_engine
from bench.figures import ratios, spread
from bench.network import BenchFailed
from bench.rows import Row, Target
from ci.limits import Limits
from common.pipeline.pipeline_file import HOME_ROOT, Cache, CachedPath
from node.caches.build_caches import BuildCaches
from node.caches.cache_store import CacheRules, CacheStore
from node.caches.scope import Scope
from node.outputs.build_log import BuildLog
from node.sandboxes.containers.build_cache import find_caches, restore_caches, stage_caches
from node.sandboxes.containers.container import HOME
from node.sandboxes.containers.docker_engine import DockerEngine, EngineResources
from node.sandboxes.containers.workspace import keeper_order, make_workspace
from node.sandboxes.sandbox import Origin, Work
from node.work.threads import Stop

NAME = "caches"
FILES, FILES_QUICK = 5000, 50
FILE_BYTES = 20 * 1024
REPETITIONS = 9
LABEL = "pbft-ci.bench"
CACHE = Cache("tree", (CachedPath(HOME_ROOT, "tree"),), ("lock",))
AGAINST = "the engine and one file alone"
STORE_TARGET = Target(2.0)
RESTORE_TARGET = Target(1.5)
_CHUNK_BYTES = 256 * 1024


async def run(context: Context) -> list[Row]:
    """One tree, stored and restored again and again. Raises BenchFailed."""
    files = FILES_QUICK if context.is_quick else FILES
    repetitions = 1 if context.is_quick else REPETITIONS
    async with ready_engine() as engine:
        with context.folder(NAME) as folder:
            site = _Site(engine, folder)
            try:
                await asyncio.to_thread(site.prepare, files)
                stored = await context.pairs(
                    repetitions, _timed(site.stage), _timed(site.pack_alone)
                )
                restored = await context.pairs(
                    repetitions, _timed(site.restore), _timed(site.unpack_alone)
                )
            finally:
                await asyncio.to_thread(site.close)
    megabytes = files * FILE_BYTES / 1e6
    what = f"a tree of {megabytes:.0f} MB in {files} files"
    return [
        _row(f"{what}: stored, seconds", STORE_TARGET, sides=stored, megabytes=megabytes),
        _row(f"{what}: restored, seconds", RESTORE_TARGET, sides=restored, megabytes=megabytes),
    ]


def _row(
    what: str, target: Target, *, sides: tuple[list[float], list[float]], megabytes: float
) -> Row:
    product, reference = sides
    return Row(
        bench=NAME,
        what=what,
        against=AGAINST,
        target=target,
        ratio=ratios(product, reference),
        figures={
            "MB/s": megabytes / spread(product).median,
            "alone MB/s": megabytes / spread(reference).median,
        },
    )


def _timed(work: Callable[[], float]) -> Callable[[], "asyncio.Future[float]"]:
    """The work in a thread; it says itself how many seconds counted."""
    return lambda: asyncio.ensure_future(asyncio.to_thread(work))


class _Site:
    """A keeper with the tree, a store, and a file of the reference. Blocking."""

    def __init__(self, engine: ReadyEngine, folder: Path) -> None:
        self._folder = folder
        self._name = f"pbft-ci-bench-{secrets.token_hex(4)}"
        self._engine = DockerEngine(engine.host, 2)
        image = self._engine.find_image(engine.image)
        if image is None:
            raise BenchFailed(f"the image {engine.image} is gone")
        self._image = image
        self._limits = Limits()
        self._numbers = itertools.count()
        rules = CacheRules(
            bytes_max=2**40, repository_bytes_max=2**40, entry_bytes_max=2**32, seconds_max=1e9
        )
        self._caches = BuildCaches(CacheStore(folder / "caches", rules), "bench")
        self._resources = EngineResources()
        self._full = ""
        self._log = BuildLog(folder / "log", 2**20)

    @property
    def _client(self) -> docker.APIClient:
        return self._engine.client()

    def prepare(self, files: int) -> None:
        """Fill a keeper with the tree, and have both sides store it once."""
        self._caches.start()
        self._full = self._make_keeper(self._resources)
        (self._folder / "tree.tar").write_bytes(b"")
        with tarfile.open(self._folder / "made.tar", "w") as archive:
            for number in range(files):
                header = tarfile.TarInfo(f"tree/{number % 100}/{number}")
                header.size = FILE_BYTES
                archive.addfile(header, io.BytesIO(secrets.token_bytes(FILE_BYTES)))
        with (self._folder / "made.tar").open("rb") as file:
            self._client.put_archive(self._full, HOME, _chunks(file))
        self.stage("first")
        self.pack_alone()

    def close(self) -> None:
        """Leave nothing on the engine."""
        self._engine.remove_certain(self._resources)
        self._engine.close()
        self._caches.store.close()
        self._log.close()

    def stage(self, branch: str | None = None) -> float:
        """Write an entry; the seconds it took."""
        work = self._work(is_written=True, branch=branch)
        began_at = time.perf_counter()
        stage_caches(self._client, self._full, work, stop=Stop())
        seconds = time.perf_counter() - began_at
        self._caches.store.keep((work.label, 1))
        if self._caches.store.counts.entries == 0:
            raise BenchFailed("the tree was not stored")
        return seconds

    def restore(self) -> float:
        """Restore the first entry into a new keeper; the seconds it took."""
        with self._new_keeper() as keeper:
            work = self._work(is_written=False, branch="first")
            began_at = time.perf_counter()
            found = find_caches(work, (self._image.id,))
            restore_caches(self._client, keeper, work, found=found, stop=Stop())
            seconds = time.perf_counter() - began_at
        assert work.caches is not None
        if not work.caches.used:
            raise BenchFailed("the tree was not restored")
        return seconds

    def pack_alone(self) -> float:
        """Have the engine pack the tree into a file; the seconds it took."""
        began_at = time.perf_counter()
        pieces, _ = self._client.get_archive(self._full, f"{HOME}/tree")
        with (self._folder / "alone.tar").open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        return time.perf_counter() - began_at

    def unpack_alone(self) -> float:
        """Have the engine unpack that file into a new keeper; the seconds it took."""
        with self._new_keeper() as keeper, (self._folder / "alone.tar").open("rb") as file:
            began_at = time.perf_counter()
            self._client.put_archive(keeper, HOME, _chunks(file))
            return time.perf_counter() - began_at

    def _work(self, *, is_written: bool, branch: str | None = None) -> Work:
        """A build whose caches are those of a branch; None: of one of its own."""
        number = next(self._numbers)
        label = f"{number:064x}"
        access = self._caches.access(
            (label, 1),
            Scope(branch or str(number), is_written),
            "bench",
            caches=(CACHE,),
            files={"lock": "0" * 64},
        )
        if is_written:
            access.find((self._image.id,), lambda _: None)
        origin = Origin(label, "bench", "main", "refs/heads/main", "push", "0" * 40, 0)
        return Work(
            label=label,
            tree=self._folder / "tree.tar",
            folder=self._folder,
            job=b"",
            origin=origin,
            limits=self._limits,
            log=self._log,
            show_state=lambda _: None,
            local_images=(),
            caches=access,
        )

    @contextmanager
    def _new_keeper(self) -> Iterator[str]:
        resources = EngineResources()
        try:
            yield self._make_keeper(resources)
        finally:
            self._engine.remove_certain(resources)

    def _make_keeper(self, resources: EngineResources) -> str:
        name = f"{self._name}-{next(self._numbers)}"
        order = keeper_order(self._image, name, {LABEL: self._name}, limits=self._limits)
        return make_workspace(
            self._client, order, self._limits, ca_bundle=None, resources=resources
        ).keeper


def _chunks(file: io.BufferedReader) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
