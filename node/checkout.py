"""From an order to the files of its commit, through one bare mirror per repository.

Two kinds of bad news, never mixed: the server *answered* that there is no such branch or commit
(`NotThere`, which honest replicas see alike), and everything else (`OwnTrouble`).
"""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from common.config import NodeConfig, RepositoryEntry
from common.git_environment import (
    check_commit,
    check_ref,
    git_environment,
    is_foreign_variable,
    protocol_of,
)
from node.git_process import OutputTooLong
from node.mirror import Mirror, Remote, Source, has_reference
from node.threads import Stop, in_thread
from node.tree import CorruptMirror
from node.trouble import OwnTrouble

# A forge may tell of a push a moment before it serves it.
ASKED_AGAIN_SECONDS = 10.0
ASKED_AGAIN_EVERY_SECONDS = 1.0

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class NotThere(msgspec.Struct, frozen=True):
    """The server answered that the branch or tag is not there or does not lead to the commit."""

    problem: str


class Checkout:
    """Checks commits out. Each mirror is written by one build at a time."""

    def __init__(
        self,
        config: NodeConfig,
        workspace_bytes: int,
        threads: ThreadPoolExecutor,
        asked_again_seconds: float = ASKED_AGAIN_SECONDS,
    ) -> None:
        """workspace_bytes: a larger tree is refused. asked_again_seconds: see check_out."""
        self._repositories = {entry.url: entry for entry in config.repositories}
        self._mirrors_folder = config.data_directory / "mirrors"
        self._home = config.data_directory / "git-home"
        self._timeout_seconds = config.checkout_timeout_seconds
        self._workspace_bytes = workspace_bytes
        self._threads = threads
        self._asked_again_seconds = asked_again_seconds
        self._locks: dict[Path, asyncio.Lock] = {}

    def start(self) -> None:
        """Make the folders, and drop what this process inherited that would steer git.

        Raises OSError.
        """
        self._mirrors_folder.mkdir(parents=True, exist_ok=True)
        self._home.mkdir(parents=True, exist_ok=True)
        for name in [name for name in os.environ if is_foreign_variable(name)]:
            _log.warning("the environment variable %s would steer git and is dropped", name)
            del os.environ[name]

    async def check_out(
        self, repository: str, reference: str, commit: str | None, target: Path
    ) -> Source | NotThere:
        """The files of `commit`, proved to be reachable from `reference`; the tree as a tar file.

        reference: a full name, see common.git_environment.check_ref. The tree goes to `target`.

        The answer "not there" is asked for again for asked_again_seconds where a commit is named.
        Without a commit the only good answer is NotThere. Raises OwnTrouble.
        """
        entry = self._repositories.get(repository)
        if entry is None:
            raise OwnTrouble("the repository is not on this replica's list", is_lasting=True)
        # no server can have what breaks the grammar, and every replica knows the same grammar
        problem = check_ref(reference)
        if problem is not None:
            return NotThere(f"nothing can have this name: {problem}")
        problem = None if commit is None else check_commit(commit)
        if problem is not None:
            return NotThere(problem)
        remote = self._remote(entry)
        if commit is None:
            return await self._check_absent(remote, reference)
        folder = self._mirror_folder(entry, commit)
        mirror = Mirror(folder, remote, reference, commit)
        asked_until: float | None = None
        while True:
            found = await self._try(mirror, folder, target)
            if not isinstance(found, NotThere):
                return found
            now = time.monotonic()
            if asked_until is None:
                asked_until = now + self._asked_again_seconds
            if now >= asked_until:
                return found
            await asyncio.sleep(min(ASKED_AGAIN_EVERY_SECONDS, asked_until - now))

    async def _try(self, mirror: Mirror, folder: Path, target: Path) -> Source | NotThere:
        """One try. A mirror that turns out to be corrupt is made anew, once."""
        lock = self._locks.setdefault(folder, asyncio.Lock())
        is_second = False
        while True:
            try:
                async with lock:
                    problem = await self._in_thread(mirror.prove)
                if problem is not None:
                    return NotThere(problem)
                return await self._in_thread(
                    lambda stop: mirror.read(target, self._workspace_bytes, stop)
                )
            except CorruptMirror as error:
                if is_second:
                    raise OwnTrouble(f"the mirror cannot be read: {error}") from error
                _log.warning("mirror %s is corrupt and made anew: %s", folder.name, error)
                async with lock:
                    await self._in_thread(mirror.throw_away)
                is_second = True

    async def _check_absent(self, remote: Remote, reference: str) -> NotThere:
        """The request says that there is no such branch: NotThere where the server agrees."""
        if await self._in_thread(lambda stop: has_reference(remote, reference, stop)):
            raise OwnTrouble(f"{reference} exists now; ask again", is_lasting=True)
        return NotThere(f"the server has no {reference}")

    def _remote(self, entry: RepositoryEntry) -> Remote:
        """Only the one protocol of the operator's own entry is allowed."""
        url = entry.fetched_from
        try:
            protocol = protocol_of(url)
        except ValueError as error:
            raise OwnTrouble(f"repositories: {error}", is_lasting=True) from error
        return Remote(url, entry.access, git_environment([protocol], self._home, url, entry.access))

    def _mirror_folder(self, entry: RepositoryEntry, commit: str) -> Path:
        """A repository's mirror; one for each kind of object id that it may have."""
        kind = "sha256-" if len(commit) == 64 else ""
        name = hashlib.sha256(entry.fetched_from.encode()).hexdigest()
        return self._mirrors_folder / f"{kind}{name}.git"

    async def _in_thread(self, work: Callable[[Stop], Result]) -> Result:
        """Blocking work within the time for checkouts. Raises OwnTrouble for a full disk too."""
        try:
            return await in_thread(self._threads, work, timeout_seconds=self._timeout_seconds)
        except TimeoutError as error:
            raise OwnTrouble(f"the checkout took more than {self._timeout_seconds} s") from error
        except OutputTooLong as error:
            raise OwnTrouble("git answered with more than is taken") from error
        except OSError as error:
            raise OwnTrouble(f"the checkout failed on this machine: {error}") from error
