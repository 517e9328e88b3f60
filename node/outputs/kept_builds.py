"""The folders of a node's builds: log and artifacts of each, and a work folder while it runs.

Age, number and size limit how many are kept. A ballot names its log by SHA-256, so removing a
folder loses nothing that counts. The ledger is stored elsewhere and is never cut.
"""

import logging
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from common.retention import KeepRules, KeptItem, find_surplus

# Looking at all folders takes a while where there are many; so much later is soon enough.
SWEEP_SECONDS = 30.0
WORK_FOLDER = "work"

_log = logging.getLogger(__name__)


class KeptBuilds:
    """Blocking; every method may be called from any thread."""

    def __init__(self, folder: Path, rules: KeepRules, clock: Callable[[], float]) -> None:
        """clock: seconds since 1970 (time.time)."""
        self._folder = folder
        self._rules = rules
        self._clock = clock
        self._lock = threading.Lock()
        self._swept_at: float | None = None
        # how many were removed since the start, for the status
        self.removed_count = 0

    def start(self) -> None:
        """Make the folder; remove the work folders that a crash left. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for folder in self._folder.glob(f"*/{WORK_FOLDER}"):
            _log.warning("removed the work folder of a build that a crash ended: %s", folder)
            remove_folder(folder)

    def path(self, name: str) -> Path:
        """The folder of one build."""
        return self._folder / name

    def sweep(self, is_in_use: Callable[[str], bool]) -> None:
        """Remove what the rules say, unless that was done a moment ago. Never raises OSError.

        is_in_use: says of a name whether that build runs; then its folder stays.
        """
        now = self._clock()
        with self._lock:
            # a clock that was set back must not stop this for long
            if self._swept_at is not None and 0 <= now - self._swept_at < SWEEP_SECONDS:
                return
            self._swept_at = now
        surplus = find_surplus(self._items(), self._rules, now)
        removed = 0
        for name in surplus.names:
            if not is_in_use(name):
                remove_folder(self._folder / name)
                removed += 1
        if removed:
            self.removed_count += removed
            _log.info("removed the logs of %d builds: %s", removed, surplus.in_words())

    def _items(self) -> Iterator[KeptItem]:
        # Folders may go while they are looked at.
        with suppress(OSError):
            for folder in self._folder.iterdir():
                with suppress(OSError):
                    if folder.is_dir():
                        yield KeptItem(folder.name, folder.stat().st_mtime, _size(folder))


def _size(folder: Path) -> int:
    """What the files in a folder take, but for those that a running build works with."""
    total = 0
    for root, folders, files in os.walk(folder):
        if WORK_FOLDER in folders:
            folders.remove(WORK_FOLDER)
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total


def remove_folder(folder: Path) -> None:
    """Remove a folder, whatever a build made of it; never raises.

    It may have taken away the permission to look into parts of it, or nested them deeper than
    Python can follow.
    """
    with suppress(OSError, RecursionError):
        shutil.rmtree(folder)
        return
    with suppress(OSError):
        os.chmod(folder.parent, stat.S_IRWXU)
    if not os.path.lexists(folder):
        return
    with suppress(OSError):
        if folder.is_symlink():
            # Never what it points to: that is not the build's.
            folder.unlink()
        else:
            _run("chmod", "-R", "u+rwx", "--", folder)
            _run("rm", "-rf", "--", folder)
    if os.path.lexists(folder):
        _log.warning("cannot be removed: %s", folder)


def _run(*command: str | Path) -> None:
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
