"""The cache of mirrors on a node's disk: which are in use, and how long the others are kept."""

import asyncio
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from node.sources.fetch_bounds import remove_leftovers, size_bytes

SECONDS_PER_DAY = 86_400
# of a mirror that is not complete yet
DRAFT = ".new"
_REMOVED = ".removed"

_log = logging.getLogger(__name__)


class _Kept(msgspec.Struct, frozen=True):
    folder: Path
    used_at: float
    size_bytes: int


class MirrorCache:
    """Mirrors by name, for one event loop. `measure` and `remove` block and are for threads."""

    def __init__(
        self, folder: Path, bytes_max: int, days_max: int, *, now: Callable[[], float] = time.time
    ) -> None:
        """folder: of all mirrors. now: Unix seconds, as the times of files."""
        self._folder = folder
        self._bytes_max = bytes_max
        self._days_max = days_max
        self._now = now
        self._locks: dict[Path, asyncio.Lock] = {}
        self._uses: Counter[Path] = Counter()

    def start(self) -> None:
        """Make the folder, and remove what an earlier process left unfinished. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for pattern in (_REMOVED, DRAFT):
            self.remove(tuple(self._folder.glob(f"*{pattern}")))
        for mirror in self._folder.glob("*.git"):
            remove_leftovers(mirror)

    def path_of(self, name: str) -> Path:
        """The path of the mirror of that name, which may not exist yet."""
        return self._folder / f"{name}.git"

    def lock(self, mirror: Path) -> asyncio.Lock:
        """The lock that a writer of the mirror holds."""
        return self._locks.setdefault(mirror, asyncio.Lock())

    @contextmanager
    def using(self, mirror: Path) -> Iterator[None]:
        """Inside, the mirror is not removed; afterwards it counts as just used."""
        self._uses[mirror] += 1
        try:
            yield
        finally:
            self._uses[mirror] -= 1
            # it may never have come to be
            with suppress(OSError):
                os.utime(mirror, (self._now(), self._now()))

    def measure(self) -> tuple[_Kept, ...]:
        """All mirrors, the least recently used first."""
        kept = []
        for mirror in self._folder.glob("*.git"):
            # another checkout may be throwing one away
            with suppress(OSError):
                kept.append(_Kept(mirror, mirror.stat().st_mtime, size_bytes(mirror)))
        return tuple(sorted(kept, key=lambda entry: entry.used_at))

    def withdraw(self, kept: tuple[_Kept, ...]) -> tuple[Path, ...]:
        """Withdraw mirrors that are too old, then the oldest until the rest is small enough.

        Returns what is left to `remove`. kept: of `measure`. A mirror in use stays. A withdrawn
        mirror is renamed at once, so that a checkout that begins now makes a new one.
        """
        oldest = self._now() - self._days_max * SECONDS_PER_DAY
        total_bytes = sum(entry.size_bytes for entry in kept)
        withdrawn = []
        for entry in kept:
            if total_bytes <= self._bytes_max and entry.used_at >= oldest:
                break
            if self._uses[entry.folder] or self.lock(entry.folder).locked():
                continue
            total_bytes -= entry.size_bytes
            target = entry.folder.with_suffix(_REMOVED)
            with suppress(OSError):
                entry.folder.rename(target)
                withdrawn.append(target)
                _log.info("mirror %s is removed (%d bytes)", entry.folder.name, entry.size_bytes)
        if total_bytes > self._bytes_max:
            _log.warning("mirrors that are in use have %d bytes: mirrors_bytes_max", total_bytes)
        return tuple(withdrawn)

    def remove(self, withdrawn: tuple[Path, ...]) -> None:
        """Delete them. Raises OSError."""
        for folder in withdrawn:
            shutil.rmtree(folder)
