"""What lock files pin, fetched and handed in as a node does it, beside pip and npm by hand.

A mirror on this machine has 50 wheels and 500 packages of npm. With a cold store a node fetches and
checks all of them, and writes what steps are handed; by hand `pip download` and `npm ci` begin with
an empty cache. With a warm store nothing is fetched; that is measured in seconds.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.context import Context
from bench.figures import ratios, spread
from bench.network import BenchFailed, open_network
from bench.package_mirror import npm_packages, package_mirror, python_packages
from bench.rows import Row, Target
from common.configuration.config import NodeConfig
from common.pipeline.pipeline_file import LockedBy
from node.dependencies.input_fetch import InputFetch, Prepared
from node.sources.tree import append_to_tree
from node.work.threads import Stop

NAME = "inputs"
PYTHON, PYTHON_QUICK = 50, 3
NPM, NPM_QUICK = 500, 5
# medians of what projects install are some 100 KB and some 10 KB
WHEEL_BYTES, TARBALL_BYTES = 200_000, 20_000
PAIRS = 9
BY_HAND_SECONDS_MAX = 300
WARM_TARGET, COLD_TARGET, MEMORY_TARGET = Target(0.5), Target(1.2), Target(1.0)
MEMORY_BYTES = 256 * 2**20
_PEAK = re.compile(r"VmHWM:\s+([0-9]+) kB")


async def run(context: Context) -> list[Row]:
    """Both tools, cold and warm, and the memory of what fetches. Raises BenchFailed."""
    python, npm = (PYTHON_QUICK, NPM_QUICK) if context.is_quick else (PYTHON, NPM)
    files: dict[str, bytes] = {}
    with package_mirror(files) as url:
        wheels, lock = python_packages(python, WHEEL_BYTES)
        tarballs, project = npm_packages(npm, TARBALL_BYTES, f"{url}/npm")
        files |= wheels | tarballs
        sources = [{"tool": tool, "url": f"{url}/{tool}"} for tool in ("pip", "npm")]
        with open_network(context, NAME, overrides={"node0": {"sources": sources}}) as network:
            site = _Site(network.configuration.nodes[0], network.folder, url)
            site.write({"requirements.txt": lock, **project})
            repetitions = 1 if context.is_quick else PAIRS
            rows = []
            for what, locked, by_hand in (
                (f"{python} Python packages", LockedBy("pip", "requirements.txt"), site.pip),
                (f"{npm} npm packages", LockedBy("npm", "package-lock.json"), site.npm),
            ):
                rows += await _rows(
                    context, site, what, locked=locked, by_hand=by_hand, repetitions=repetitions
                )
            rows.append(_memory(site))
            return rows


async def _rows(
    context: Context,
    site: "_Site",
    what: str,
    *,
    locked: LockedBy,
    by_hand: Sequence[str],
    repetitions: int,
) -> list[Row]:
    """Cold beside the tool by hand, then warm."""

    async def cold() -> float:
        return await site.prepared(locked, is_cold=True)

    ours, theirs = await context.pairs(repetitions, cold, lambda: site.by_hand(by_hand))
    warm = [await site.prepared(locked, is_cold=False) for _ in range(repetitions)]
    return [
        Row(
            bench=NAME,
            what=f"{what}, store cold: fetched, checked and handed in",
            against=f"`{' '.join(by_hand[:2])}` with an empty cache",
            target=COLD_TARGET,
            ratio=ratios(ours, theirs),
            figures={"s": spread(ours).median, "by hand s": spread(theirs).median},
        ),
        Row(
            bench=NAME,
            what=f"{what}, store warm: checked and handed in",
            against="one second",
            target=WARM_TARGET,
            ratio=spread(warm),
        ),
    ]


def _memory(site: "_Site") -> Row:
    return Row(
        bench=NAME,
        what="the most memory that the process that fetches had",
        against=f"{MEMORY_BYTES // 2**20} MiB",
        target=MEMORY_TARGET,
        ratio=spread([site.peak_bytes / MEMORY_BYTES]),
        figures={"MiB": site.peak_bytes / 2**20},
    )


class _Site:
    """A node's store, and a project with lock files. peak_bytes: of what fetched, so far."""

    def __init__(self, config: NodeConfig, folder: Path, mirror: str) -> None:
        self._config = config
        self._fetch = InputFetch(config)
        self._folder = folder
        self._project = folder / "project"
        self._project.mkdir()
        (folder / "work").mkdir()
        self.peak_bytes = 0
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error")
        self.npm = ("npm", "ci", *quiet, f"--registry={mirror}/npm/", f"--cache={folder}/cache")
        self.pip = (
            *("pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"),
            *("--require-hashes", f"--index-url={mirror}/pip/", f"--dest={folder}/downloaded"),
            *("--requirement", "requirements.txt"),
        )

    def write(self, files: Mapping[str, str]) -> None:
        """The project's files."""
        for name, text in files.items():
            (self._project / name).write_text(text)

    async def prepared(self, locked: LockedBy, *, is_cold: bool) -> float:
        """Seconds from lock file to what steps are handed. Raises BenchFailed."""
        if is_cold:
            shutil.rmtree(self._config.data_directory / "inputs", ignore_errors=True)
            self._fetch = InputFetch(self._config)
        self._fetch.start()
        tree = self._folder / "tree.tar"
        tree.unlink(missing_ok=True)
        append_to_tree(tree, {locked.file: (self._project / locked.file).read_bytes()})
        began_at = time.perf_counter()
        ended = asyncio.ensure_future(
            asyncio.to_thread(
                self._fetch.prepare,
                [locked],
                tree,
                self._folder / "work",
                source=("bench", "0" * 40),
                stop=Stop(),
            )
        )
        while not ended.done():
            self.peak_bytes = max(self.peak_bytes, *(_peak(pid) for pid in _children()), 0)
            await asyncio.wait([ended], timeout=0.02)
        found = await ended
        if not isinstance(found, Prepared):
            raise BenchFailed(f"the inputs were not fetched: {found}")
        return time.perf_counter() - began_at

    async def by_hand(self, command: Sequence[str]) -> float:
        """Seconds that the tool takes with an empty cache. Raises BenchFailed."""
        for left in ("cache", "downloaded", "project/node_modules"):
            await asyncio.to_thread(shutil.rmtree, self._folder / left, ignore_errors=True)
        return await asyncio.to_thread(self._by_hand, command)

    def _by_hand(self, command: Sequence[str]) -> float:
        began_at = time.perf_counter()
        own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        program = [sys.executable, "-m", *command] if command[0] == "pip" else list(command)
        try:
            ended = subprocess.run(
                program,
                cwd=self._project,
                env={**own, "PIP_CONFIG_FILE": os.devnull},
                capture_output=True,
                text=True,
                timeout=BY_HAND_SECONDS_MAX,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchFailed(str(error)) from error
        if ended.returncode != 0:
            raise BenchFailed(f"{command[0]}: {ended.stderr[-300:]}")
        return time.perf_counter() - began_at


def _children() -> list[str]:
    """The processes that this one has started."""
    found: list[str] = []
    for task in Path("/proc/self/task").iterdir():
        try:
            found += (task / "children").read_text().split()
        except OSError:
            continue
    return found


def _peak(pid: str) -> int:
    """The most memory that a process has had; 0 if it is gone, or has not begun."""
    try:
        if b"fetch_process" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return 0
        found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return 0 if found is None else int(found[1]) * 1024
