"""From an order to the files of its commit, through one bare mirror per repository.

Other repositories inside a tree (submodules) come from their own entries on the operator's list,
through their own mirrors and with their own logins.

A checkout fails in one of two ways. `NotThere` is what the server *answered*; honest replicas get
the same answer whenever they ask. `InfrastructureError` is everything else. A commit that is not
where the request says belongs there too, since a branch or tag may have moved meanwhile.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from common.configuration.config import NodeConfig, RepositoryEntry
from common.pipeline.pipeline_file import Clone
from common.ref_names import BRANCH_PREFIX, check_commit, check_ref
from common.repositories.git_environment import git_environment, is_foreign_variable, protocol_of
from node.sources.changes import Changes, find_changes
from node.sources.commits import list_commits
from node.sources.fetch_bounds import FETCH_BYTES_MIN
from node.sources.git_process import OutputTooLong
from node.sources.gitmodules import (
    MODULE_DEPTH_MAX,
    MODULES_MAX,
    WantedModule,
    plain_address,
    shown_path,
    wanted_modules,
)
from node.sources.history import History, HistoryRoom, add_history
from node.sources.mirror import (
    Heads,
    Listing,
    Mirror,
    Remote,
    Source,
    has_reference,
    heads_of,
    throw_away,
)
from node.sources.mirror_cache import MirrorCache
from node.sources.tree import (
    ENTRIES_MAX,
    CorruptMirror,
    TreePart,
    TreeRefused,
    check_tree,
    export_tree,
    needed_bytes_of,
)
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop, in_thread

# A forge may tell of a push a moment before it serves it.
ASKED_AGAIN_SECONDS = 10.0
ASKED_AGAIN_EVERY_SECONDS = 1.0
# how often mirrors are looked for that have become too old
TIDY_AGAIN_SECONDS = 600.0

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class NotThere(msgspec.Struct, frozen=True):
    """The server's answer shows that this cannot be built.

    is_permanent: whenever it is asked it answers so, which makes it a result. Else a reference may
    have been moved or deleted between the push and the question, or between the questions of two
    replicas, so that correct ones differ: then it says nothing of the build.
    """

    problem: str
    is_permanent: bool = True


class Checkout:
    """Checks commits out. Each mirror is written by one build at a time."""

    def __init__(
        self,
        config: NodeConfig,
        threads: ThreadPoolExecutor,
        *,
        asked_again_seconds: float = ASKED_AGAIN_SECONDS,
    ) -> None:
        """asked_again_seconds: see check_out."""
        self._listed = _Listed(config.repositories)
        self._mirrors = MirrorCache(
            config.data_directory / "mirrors", config.mirrors_bytes_max, config.mirrors_days_max
        )
        self._fetch_bytes_max = max(config.mirrors_bytes_max, FETCH_BYTES_MIN)
        self._home = config.data_directory / "git-home"
        self._timeout_seconds = config.checkout_timeout_seconds
        self._threads = threads
        self._asked_again_seconds = asked_again_seconds
        # Mirrors are measured file by file: only where they may be too much, or may be too old.
        self._has_grown = False
        self._tidy_at = 0.0

    def start(self) -> None:
        """Make the folders, and drop what this process inherited that would steer git.

        Raises OSError.
        """
        self._mirrors.start()
        self._home.mkdir(parents=True, exist_ok=True)
        for name in [name for name in os.environ if is_foreign_variable(name)]:
            _log.warning("the environment variable %s would steer git and is dropped", name)
            del os.environ[name]

    def use_repositories(self, repositories: Sequence[RepositoryEntry]) -> None:
        """Take another list of repositories; a checkout that has begun keeps the one it has."""
        self._listed = _Listed(repositories)

    async def check_access(self, entry: RepositoryEntry) -> None:
        """Ask the repository's server for its branches, as a build does.

        Raises InfrastructureError: it does not answer, or does not let this node in.
        """
        remote = self._remote(entry)
        await self._in_thread(lambda stop: has_reference(remote, "HEAD", stop))

    async def ask_heads(self, entry: RepositoryEntry, reference: str) -> Heads:
        """What the server says now of its HEAD and of a reference, which is checked already.

        Raises InfrastructureError.
        """
        remote = self._remote(entry)
        return await self._in_thread(lambda stop: heads_of(remote, reference, stop))

    def entry_of(self, repository: str) -> RepositoryEntry | None:
        """The operator's entry of that URL, if it is on the list."""
        return self._listed.entries.get(repository)

    async def check_out(
        self,
        repository: str,
        reference: str,
        commit: str | None,
        *,
        target: Path,
        workspace_bytes: int,
    ) -> Source | NotThere:
        """The files of `commit`, proved to be reachable from `reference`; the tree as a tar file.

        reference: a full name, see common.ref_names.check_ref. The tree goes to `target`; one of
        more than workspace_bytes is refused.

        The answer "not there" is asked for again for asked_again_seconds where a commit is named;
        what is then still not where the request says raises InfrastructureError, because references
        move (docs/PROTOCOL.md, What is agreed about a build). Without a commit the only good answer
        is NotThere.
        """
        listed = self._listed
        entry = listed.entries.get(repository)
        if entry is None:
            raise InfrastructureError(
                "the repository is not on this replica's list", is_permanent=True
            )
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
        asked_until: float | None = None
        while True:
            try:
                with ExitStack() as in_use:
                    need = _Need(listed, entry, reference, commit)
                    room = _Room(target, workspace_bytes)
                    found = await self._try(need, room, in_use)
            except InfrastructureError:
                await self._tidy_where_due()
                raise
            if not isinstance(found, NotThere):
                await self._tidy_where_due()
                return found
            now = time.monotonic()
            if asked_until is None:
                asked_until = now + self._asked_again_seconds
            if now >= asked_until:
                await self._tidy_where_due()
                if not found.is_permanent:
                    raise InfrastructureError(
                        f"{found.problem}, now: it never was, or was moved since; ask for what is"
                        " there",
                        is_permanent=True,
                    )
                return found
            await asyncio.sleep(min(ASKED_AGAIN_EVERY_SECONDS, asked_until - now))

    async def add_history(
        self, repository: str, reference: str, commit: str, *, clone: Clone, room: HistoryRoom
    ) -> History | TreeRefused:
        """Add `.git` to the tree of a commit that was just checked out.

        Raises InfrastructureError, also where the mirror has lost the commit since.
        """
        entry = self._listed.entries.get(repository)
        if entry is None:
            raise InfrastructureError("the repository is not on this replica's list any more")
        ends_at = time.monotonic() + self._timeout_seconds
        folder = self._mirror_folder(entry, commit)
        environment = git_environment(["file"], self._home)
        with self._mirrors.using(folder):
            try:
                if clone.has_tags:
                    mirror = Mirror(
                        folder,
                        self._remote(entry),
                        reference,
                        commit=commit,
                        fetch_bytes_max=self._fetch_bytes_max,
                    )
                    async with self._mirrors.lock(folder):
                        await self._in_thread(mirror.fetch_tags, ends_at)
                    self._has_grown = True
                add = partial(
                    add_history,
                    commit,
                    clone,
                    mirror=folder,
                    environment=environment,
                    room=room,
                )
                return await self._in_thread(lambda stop: add(stop=stop), ends_at)
            except CorruptMirror as error:
                # the next try reads all of it, and makes it anew if it is corrupt
                raise InfrastructureError(f"the history cannot be read: {error}") from error

    async def list_commits(self, repository: str, commit: str) -> bytes:
        """The objects of a commit that was just checked out and of those before it.

        See node.sources.commits. Raises InfrastructureError.
        """
        entry = self._listed.entries.get(repository)
        if entry is None:
            raise InfrastructureError("the repository is not on this replica's list any more")
        folder = self._mirror_folder(entry, commit)
        environment = git_environment(["file"], self._home)
        with self._mirrors.using(folder):
            try:
                return await self._in_thread(
                    lambda stop: list_commits(folder, commit, environment=environment, stop=stop)
                )
            except CorruptMirror as error:
                raise InfrastructureError(f"the history cannot be read: {error}") from error

    async def find_changes(self, repository: str, branch: str, commit: str) -> Changes:
        """Which files a request changes, whose commit was just checked out. branch: its target.

        Raises InfrastructureError: also if the target branch has this commit already, or is gone.
        Then the branch was moved, and other replicas may have asked before that.
        """
        entry = self._listed.entries.get(repository)
        if entry is None:
            raise InfrastructureError("the repository is not on this replica's list any more")
        reference = BRANCH_PREFIX + branch
        if (problem := check_ref(reference)) is not None:
            raise InfrastructureError(
                f"no branch can have the name of the target: {problem}", is_permanent=True
            )
        ends_at = time.monotonic() + self._timeout_seconds
        folder = self._mirror_folder(entry, commit)
        mirror = Mirror(
            folder,
            self._remote(entry),
            reference,
            commit=commit,
            fetch_bytes_max=self._fetch_bytes_max,
        )
        with self._mirrors.using(folder):
            try:
                async with self._mirrors.lock(folder):
                    tip = await self._in_thread(mirror.fetch_head, ends_at)
                self._has_grown |= mirror.has_fetched
                if tip is None:
                    raise InfrastructureError(
                        f"the server has no {reference}, and a step has when: path",
                        is_permanent=True,
                    )
                find = partial(
                    find_changes,
                    folder,
                    tip,
                    commit,
                    environment=git_environment(["file"], self._home),
                )
                found = await self._in_thread(lambda stop: find(stop=stop), ends_at)
            except CorruptMirror as error:
                # the next try reads all of it, and makes it anew if it is corrupt
                raise InfrastructureError(f"the history cannot be read: {error}") from error
        if found.base == commit:
            raise InfrastructureError(
                f"{reference} has the commit already, so what it changed cannot be told for when:"
                " path; ask for a build of the branch",
                is_permanent=True,
            )
        return found

    async def _try(self, need: "_Need", room: "_Room", in_use: ExitStack) -> Source | NotThere:
        """One try. A mirror that turns out to be corrupt is made anew, each once.

        in_use: keeps the mirrors that are read.
        """
        ends_at = time.monotonic() + self._timeout_seconds
        made_anew: set[Path] = set()
        while True:
            try:
                return await self._gather(need, room, in_use, ends_at=ends_at)
            except CorruptMirror as error:
                folder = error.folder
                assert folder is not None, "whoever reads a mirror says which"
                if folder in made_anew:
                    raise InfrastructureError(f"the mirror cannot be read: {error}") from error
                _log.warning("mirror %s is corrupt and made anew: %s", folder.name, error)
                async with self._mirrors.lock(folder):
                    await self._in_thread(partial(throw_away, folder), ends_at)
                made_anew.add(folder)

    async def _gather(
        self, need: "_Need", room: "_Room", in_use: ExitStack, *, ends_at: float
    ) -> Source | NotThere:
        """Everything that the commit consists of, in one tar file. Raises CorruptMirror."""
        top = await self._look(need, in_use, ends_at)
        if isinstance(top, NotThere):
            return top
        modules: list[str] = []
        parts = await self._parts(need, top, modules, in_use=in_use, ends_at=ends_at)
        if isinstance(parts, NotThere):
            return parts
        if not isinstance(parts, TreeRefused):
            entries = tuple(entry for part in parts for entry in part.entries)
            refused = await self._in_thread(
                lambda stop: check_tree(entries, room.bytes_max), ends_at
            )
            if refused is None:
                export = partial(export_tree, parts, room.target, commit_seconds=top.commit_seconds)
                await self._in_thread(export, ends_at)
                return Source(
                    top.pipeline,
                    top.dockerfile,
                    room.target,
                    top.commit_seconds,
                    tuple(modules),
                    need.entry.local_images,
                    needed_bytes_of(entries),
                    top.heads,
                )
            parts = refused
        return Source(top.pipeline, top.dockerfile, parts, top.commit_seconds)

    async def _parts(
        self, need: "_Need", top: Listing, modules: list[str], *, in_use: ExitStack, ends_at: float
    ) -> tuple[TreePart, ...] | TreeRefused | NotThere:
        """The tree and, level by level, the other repositories in it. Raises CorruptMirror.

        modules: gets a line about each of them.
        """
        parts: list[TreePart] = []
        entry_count = 0
        # (where it is, how deep, what it came from, what it is)
        pending = deque([("", 0, need.entry.url, top)])
        while pending:
            prefix, depth, parent, listing = pending.popleft()
            if isinstance(listing.part, TreeRefused):
                return listing.part
            parts.append(listing.part.below(prefix))
            entry_count += len(listing.part.entries)
            if entry_count > ENTRIES_MAX:
                return TreeRefused(f"has more than {ENTRIES_MAX} entries")
            wanted = wanted_modules(listing.part, listing.modules, parent)
            if isinstance(wanted, TreeRefused):
                return wanted
            if wanted and depth == MODULE_DEPTH_MAX:
                return TreeRefused(f"has submodules more than {MODULE_DEPTH_MAX} levels deep")
            if len(parts) + len(pending) + len(wanted) > MODULES_MAX + 1:
                return TreeRefused(f"has more than {MODULES_MAX} submodules")
            for module in wanted:
                module_need = _module_need(need, prefix + module.path, module)
                path = shown_path(prefix + module.path)
                modules.append(f"submodule {path}: {module.address} commit {module.commit}")
                found = await self._look(module_need, in_use, ends_at)
                if isinstance(found, NotThere):
                    return NotThere(f"submodule {path}: {found.problem}", found.is_permanent)
                place = f"{prefix}{module.path}/"
                pending.append((place, depth + 1, module.address, found))
        return tuple(parts)

    async def _look(self, need: "_Need", in_use: ExitStack, ends_at: float) -> Listing | NotThere:
        """What a commit consists of, after it is proved to be where it should be."""
        folder = self._mirror_folder(need.entry, need.commit)
        in_use.enter_context(self._mirrors.using(folder))
        mirror = Mirror(
            folder,
            self._remote(need.entry),
            need.reference,
            commit=need.commit,
            fetch_bytes_max=self._fetch_bytes_max,
        )
        async with self._mirrors.lock(folder):
            try:
                problem = await self._in_thread(mirror.prove, ends_at)
            finally:
                self._has_grown |= mirror.has_fetched
        if problem is not None:
            return NotThere(problem.problem, problem.is_permanent)
        return await self._in_thread(mirror.look, ends_at)

    async def _tidy_where_due(self) -> None:
        """Remove mirrors that are too old or too much; what fails is tried with the next build."""
        if not self._has_grown and time.monotonic() < self._tidy_at:
            return
        self._has_grown = False
        self._tidy_at = time.monotonic() + TIDY_AGAIN_SECONDS
        try:
            kept = await self._in_thread(lambda stop: self._mirrors.measure())
            withdrawn = self._mirrors.withdraw(kept)
            await self._in_thread(lambda stop: self._mirrors.remove(withdrawn))
        except InfrastructureError as error:
            self._has_grown = True
            _log.warning("old mirrors stay for now: %s", error.reason)

    async def _check_absent(self, remote: Remote, reference: str) -> NotThere:
        """The request says that there is no such branch: NotThere where the server agrees."""
        if await self._in_thread(lambda stop: has_reference(remote, reference, stop)):
            raise InfrastructureError(f"{reference} exists now; ask again", is_permanent=True)
        return NotThere(f"the server has no {reference}")

    def _remote(self, entry: RepositoryEntry) -> Remote:
        """Only the one protocol of the operator's own entry is allowed."""
        url = entry.fetched_from
        try:
            protocol = protocol_of(url)
        except ValueError as error:
            raise InfrastructureError(f"repositories: {error}", is_permanent=True) from error
        environment = git_environment([protocol], self._home, url, access=entry.access)
        return Remote(url, entry.access, environment, entry.url)

    def _mirror_folder(self, entry: RepositoryEntry, commit: str) -> Path:
        """A repository's mirror; one for each kind of object id that it may have."""
        kind = "sha256-" if len(commit) == 64 else ""
        return self._mirrors.path_of(kind + hashlib.sha256(entry.fetched_from.encode()).hexdigest())

    async def _in_thread(
        self, work: Callable[[Stop], Result], ends_at: float | None = None
    ) -> Result:
        """Blocking work within the time for checkouts.

        Raises InfrastructureError for a full disk too.
        """
        seconds: float = self._timeout_seconds
        if ends_at is not None:
            seconds = max(0.0, ends_at - time.monotonic())
        try:
            return await in_thread(self._threads, work, timeout_seconds=seconds)
        except TimeoutError as error:
            raise InfrastructureError(
                f"the checkout took more than {self._timeout_seconds} s"
            ) from error
        except OutputTooLong as error:
            raise InfrastructureError("git answered with more than is taken") from error
        except OSError as error:
            raise InfrastructureError(f"the checkout failed on this machine: {error}") from error


class _Listed:
    """The operator's list of repositories, as it was when a checkout began."""

    def __init__(self, repositories: Sequence[RepositoryEntry]) -> None:
        self.entries = {entry.url: entry for entry in repositories}
        # how a submodule may name them
        self.urls = {plain_address(url): url for url in self.entries}


class _Room(msgspec.Struct, frozen=True):
    """The file that the tree goes to, and the most that the tree may have in bytes."""

    target: Path
    bytes_max: int


class _Need(msgspec.Struct, frozen=True):
    """A commit of a repository; reference None: by its id alone."""

    listed: _Listed
    entry: RepositoryEntry
    reference: str | None
    commit: str


def _module_need(top: _Need, path: str, module: WantedModule) -> _Need:
    """What a submodule needs.

    Raises InfrastructureError if this operator's list does not give it; another's may.

    top: what is built. Who may push there, or may see its builds, can read what is in its tree, by
    whatever way that came in.
    """
    url = top.listed.urls.get(plain_address(module.address))
    if url is None:
        raise InfrastructureError(
            f"submodule {shown_path(path)} comes from {module.address}, which is not on this"
            " replica's list: add it to repositories",
            is_permanent=True,
        )
    entry = top.listed.entries[url]
    allowed = entry.submodule_of
    if allowed is None and not entry.needs_consent:
        return _Need(top.listed, entry, None, module.commit)
    if top.entry.url not in (url, *(allowed or ())):
        raise InfrastructureError(
            f"submodule {shown_path(path)} comes from {module.address}, which this replica does"
            f" not give to builds of {top.entry.url}: add that url to its submodule_of, if whoever"
            " pushes there or sees its builds may read all of it",
            is_permanent=True,
        )
    return _Need(top.listed, entry, None, module.commit)
