"""What nodes said of the messages of the newest builds, kept: a node remembers them for minutes.

The rule: a kept trace is one node's own word, as a fresh one is, and takes its place only while
that node says nothing more. Files are complete or absent, and of at most `diagrams_max` builds.
"""

import asyncio
import contextlib
import gzip
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from client.api.routes import Site
from client.network.nodes import NodeFailed, ServedTrace

FOLDER = "diagrams"
SUFFIX = ".json.gz"
# Of the JSON of all nodes' traces: bounded by what a node may answer, and by this.
BYTES_MAX = 32 * 2**20
# Ballots and checkpoints that come just after the verdict belong to its picture.
SETTLED_SECONDS = 2.0

_log = logging.getLogger(__name__)


class KeptTraces:
    """Fetches and keeps the traces of builds that were decided while this runs."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._folder = site.config.data_directory / FOLDER
        # builds whose traces are to be kept; the oldest goes where there are too many
        self._wanted: dict[bytes, None] = {}
        self._is_wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        if site.config.diagrams_max:
            site.archive.listen(self._note)

    async def start(self) -> None:
        """Begin to keep them."""
        self._task = asyncio.create_task(self._run(), name="message diagrams")

    async def close(self) -> None:
        """Stop. What was not kept by now is not."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def traces(self, build: bytes) -> dict[str, ServedTrace]:
        """What is kept of that build, by replica; empty: nothing, or it cannot be read."""
        return await asyncio.to_thread(_read, self._file(build))

    async def keep(self, build: bytes) -> None:
        """Fetch what the nodes know of a build, and keep it beside what was kept before."""
        names = self._site.nodes.names
        answers = await asyncio.gather(
            *(self._site.nodes.messages(name, build) for name in names), return_exceptions=True
        )
        traces = await self.traces(build)
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, ServedTrace):
                if len(answer.messages) >= len(traces[name].messages if name in traces else ()):
                    traces[name] = answer
            elif not isinstance(answer, NodeFailed):
                raise answer
        if any(trace.messages for trace in traces.values()):
            await asyncio.to_thread(
                _write, self._file(build), traces, files_max=self._site.config.diagrams_max
            )

    def _note(self, builds: frozenset[bytes]) -> None:
        for build in builds:
            record = self._site.archive.get(build)
            if record is not None and record.statement is not None:
                self._wanted[build] = None
        while len(self._wanted) > self._site.config.diagrams_max:
            del self._wanted[next(iter(self._wanted))]
        if self._wanted:
            self._is_wanted.set()

    async def _run(self) -> None:
        while True:
            await self._is_wanted.wait()
            await asyncio.sleep(SETTLED_SECONDS)
            self._is_wanted.clear()
            wanted, self._wanted = self._wanted, {}
            for build in wanted:
                try:
                    await self.keep(build)
                except Exception as error:  # noqa: BLE001 - told; the next build's may be kept
                    _log.warning("the messages of build %s are not kept: %s", build.hex(), error)

    def _file(self, build: bytes) -> Path:
        return self._folder / f"{build.hex()}{SUFFIX}"


def _read(file: Path) -> dict[str, ServedTrace]:
    try:
        with gzip.open(file) as stream:
            data = stream.read(BYTES_MAX + 1)
        return msgspec.json.decode(data, type=dict[str, ServedTrace])
    except (OSError, EOFError, msgspec.DecodeError):
        return {}


def _write(file: Path, traces: Mapping[str, ServedTrace], *, files_max: int) -> None:
    """Raises OSError. Afterwards there are at most files_max such files, the newest."""
    data = msgspec.json.encode(traces)
    if len(data) > BYTES_MAX:
        return
    file.parent.mkdir(mode=0o700, exist_ok=True)
    beside = file.with_suffix(".new")
    # A picture that a power cut takes is no loss: it is not flushed.
    beside.write_bytes(gzip.compress(data, 6))
    os.replace(beside, file)
    files = sorted(file.parent.glob(f"*{SUFFIX}"), key=lambda kept: kept.stat().st_mtime_ns)
    for oldest in files[: max(0, len(files) - files_max)]:
        oldest.unlink(missing_ok=True)
