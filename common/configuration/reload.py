"""A configuration read anew on SIGHUP: taken as a whole, or refused in one line.

What may change is the list of repositories, with everything in its entries. It is each operator's
own: nothing of it is in the genesis, no replica knows another's, and a build of a repository that
is not on it gets an abstention. Every other key (names, keys, addresses, folders, bounds) is read
at the start alone, and so is the cluster file. A reload that finds one of them changed changes
nothing.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from common.configuration.config import (
    ClientConfig,
    ClusterConfig,
    ConfigError,
    NodeConfig,
    RepositoryEntry,
    load_cluster_config,
)
from common.configuration.process_file import LastReload, ProcessFile
from common.english import plural

RELOADED = frozenset({"repositories"})

_log = logging.getLogger(__name__)

Config = TypeVar("Config", NodeConfig, ClientConfig)


def ignore_reloads() -> None:
    """Let SIGHUP do nothing, whose default would end the process.

    Before `Reloads.start` none is lost, for that reads the file once more.
    """
    # Not SIG_IGN, which programs that are started would inherit.
    signal.signal(signal.SIGHUP, lambda *_: None)


def check_reloadable(
    running: NodeConfig | ClientConfig, read: NodeConfig | ClientConfig, cluster: ClusterConfig
) -> None:
    """Refuse a configuration that only a restart can take. Raises ConfigError.

    running: what the process runs with. cluster: the cluster file that it read at its start.
    """
    changed = [
        field.name
        for field in msgspec.structs.fields(running)
        if field.name not in RELOADED and getattr(running, field.name) != getattr(read, field.name)
    ]
    if changed:
        raise _needs_restart(read.file, ", ".join(changed))
    if load_cluster_config(read.cluster_file) != cluster:
        raise _needs_restart(read.cluster_file, "")


def changes_of(before: Sequence[RepositoryEntry], after: Sequence[RepositoryEntry]) -> str:
    """In words, how one list of repositories differs from another."""
    old, new = ({entry.url: entry for entry in entries} for entries in (before, after))
    counts = {
        "added": len(new.keys() - old.keys()),
        "removed": len(old.keys() - new.keys()),
        "changed": sum(old[url] != new[url] for url in old.keys() & new.keys()),
    }
    told = [
        f"{count} {plural(count, 'repository', 'repositories')} {what}"
        for what, count in counts.items()
        if count
    ]
    return ", ".join(told) or "the same repositories as before"


class Reloads(Generic[Config]):
    """Reads a process's configuration anew whenever SIGHUP asks for it."""

    def __init__(self, config: Config, read: Callable[[], Config]) -> None:
        """config: as it was read at the start. read: reads it again, with the flags of the command
        line over it; raises ConfigError.

        Raises ConfigError if the cluster file cannot be read.
        """
        self.config: Config = config
        self.last: LastReload | None = None
        # seconds since 1970, when the configuration was last read, be it taken or not
        self.read_at = time.time()
        self._cluster = load_cluster_config(config.cluster_file)
        self._read: Callable[[], Config] = read
        self._file: ProcessFile | None = None
        self._requested = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_taken(self) -> bool:
        """Whether the process runs with what was last read."""
        return self.last is None or self.last.is_taken

    def start(self, apply: Callable[[Config], None]) -> None:
        """Serve SIGHUP from now on. Raises ConfigError if `process.json` cannot be written.

        apply: makes the process use this configuration. It raises ConfigError before it changes
        anything, or not at all.
        """
        self._file = ProcessFile(self.config.data_directory)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._requested.set)
        self._task = loop.create_task(self._serve(apply, self._file), name="reloads")

    async def close(self) -> None:
        """Take no further SIGHUP; one that comes while the process stops does not end it."""
        if self._task is None or self._file is None:
            return
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        ignore_reloads()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._file.close()

    async def _serve(self, apply: Callable[[Config], None], file: ProcessFile) -> None:
        # Whoever changed the configuration before the lock was there found nobody to tell.
        with contextlib.suppress(ConfigError):
            if await asyncio.to_thread(self._read) != self.config:
                self._requested.set()
        while True:
            await self._requested.wait()
            self._requested.clear()
            reload = await self._reload(apply)
            try:
                file.note_reload(reload)
            except OSError as error:
                _log.error("process.json: %s; who asked for the reload does not see it", error)

    async def _reload(self, apply: Callable[[Config], None]) -> LastReload:
        try:
            # in a thread: files of secrets may be on a disk that is slow
            config = await asyncio.to_thread(self._checked)
            apply(config)
        except ConfigError as error:
            return self._note(False, f"reload refused, nothing changed: {error}")
        except Exception:  # noqa: BLE001 (told in full; a reload must not end what runs)
            _log.exception("a reload failed by a fault of our own")
            return self._note(False, "reload failed by a fault of this program; see its log")
        changes = changes_of(self.config.repositories, config.repositories)
        self.config = config
        return self._note(True, f"reloaded {config.file}: {changes}")

    def _checked(self) -> Config:
        config = self._read()
        check_reloadable(self.config, config, self._cluster)
        return config

    def _note(self, is_taken: bool, text: str) -> LastReload:
        self.read_at = time.time()
        count = 1 if self.last is None else self.last.count + 1
        self.last = LastReload(count, is_taken, text)
        _log.log(logging.INFO if is_taken else logging.ERROR, "%s", text)
        return self.last


def _needs_restart(file: Path, key: str) -> ConfigError:
    return ConfigError.at(
        file, key, "changed, and needs a restart", "a reload takes repositories alone"
    )
