"""From a branch or a tag to its commit, by asking the repository's server (`git ls-remote`).

Two answers are answers: this commit, or no such branch. Everything else (unreachable, refused,
timed out) says nothing about the branch, and is asked again later.

The rule: one question asks for all that waits for it when it begins. So a crowd of webhooks costs
a few git processes, and nobody gets an answer from before it asked.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import git
import msgspec

from common.configuration.config import RepositoryEntry
from common.ref_names import check_commit, check_ref, ref_of
from common.repositories.credentials import access_problem, hide_secrets
from common.repositories.git_environment import git_environment, is_foreign_variable, protocol_of
from common.safe_text import log_text

ASK_TIMEOUT_SECONDS = 20.0
# Each question is a git process that mostly waits for a server; one server that gives no answer
# must not keep the questions to the others waiting.
QUESTIONS_PER_REPOSITORY_MAX = 2
QUESTIONS_AT_ONCE_MAX = 32
# A command line has room for many more; the server looks each of them up.
REFERENCES_PER_QUESTION_MAX = 100
REASON_CHARACTERS_MAX = 300
NOT_CONFIGURED = "the repository is no longer in this gateway's configuration"
STOPPING = "the gateway is stopping"

_log = logging.getLogger(__name__)


class FoundCommit(msgspec.Struct, frozen=True):
    """The branch (tag, request) points at this commit (40 or 64 hexadecimal digits)."""

    commit: str


class NoSuchBranch(msgspec.Struct, frozen=True):
    """The server answered, and has no branch of that name."""


class Unreachable(msgspec.Struct, frozen=True):
    """No answer; one line why."""

    reason: str


Resolution = FoundCommit | NoSuchBranch | Unreachable


class _Remote(msgspec.Struct, frozen=True):
    """A configured repository, and the environment in which git asks its server."""

    entry: RepositoryEntry
    environment: dict[str, str]


Remotes = dict[str, _Remote]


class _NoAnswer(Exception):
    """Why the server gave no answer."""


class Resolver:
    """Asks the servers of the configured repositories, a few at a time, never in the loop."""

    def __init__(
        self,
        repositories: tuple[RepositoryEntry, ...],
        home: Path,
        timeout_seconds: float = ASK_TIMEOUT_SECONDS,
    ) -> None:
        """home: an empty folder for git to call home, made here.

        What this process inherited that would steer git (or make it talk about a login) is
        dropped from its environment.
        """
        home.mkdir(parents=True, exist_ok=True)
        for name in [name for name in os.environ if is_foreign_variable(name)]:
            del os.environ[name]
        self._directory = home
        self._remotes = self.remotes_of(repositories)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_closed = False
        self._timeout_seconds = timeout_seconds
        # by repository: who waits for the next question, by reference
        self._waiting: defaultdict[str, dict[str, list[asyncio.Future[Resolution]]]] = defaultdict(
            dict
        )
        self._askers: defaultdict[str, set[asyncio.Task[None]]] = defaultdict(set)
        self._threads = concurrent.futures.ThreadPoolExecutor(
            QUESTIONS_AT_ONCE_MAX, thread_name_prefix="resolve"
        )

    def remotes_of(self, repositories: Sequence[RepositoryEntry]) -> Remotes:
        """What `use` takes for these repositories. Raises ValueError for what git must not ask."""
        # each with its own protocol and its own login, and none of the others'
        return {
            entry.url: _Remote(
                entry,
                git_environment(
                    [protocol_of(entry.fetched_from)],
                    self._directory,
                    entry.fetched_from,
                    access=entry.access,
                ),
            )
            for entry in repositories
        }

    def use(self, remotes: Remotes) -> None:
        """Ask these from now on; a question that is under way goes on."""
        self._remotes = remotes

    async def resolve(self, repository: str, branch: str, ref: str | None = None) -> Resolution:
        """Where `ref`, else `branch`, of a configured `repository` points now. Raises nothing."""
        if repository not in self._remotes:
            return Unreachable(NOT_CONFIGURED)
        if self._is_closed:
            return Unreachable(STOPPING)
        reference = ref_of(branch, ref)
        if check_ref(reference) is not None:
            # no server can have it; the replicas know the same grammar
            return NoSuchBranch()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Resolution] = loop.create_future()
        self._waiting[repository].setdefault(reference, []).append(answer)
        askers = self._askers[repository]
        if len(askers) < QUESTIONS_PER_REPOSITORY_MAX:
            # It begins in the loop's next turn, after all that came in this one.
            askers.add(loop.create_task(self._ask(repository)))
        return await answer

    async def _ask(self, repository: str) -> None:
        asker = asyncio.current_task()
        assert asker is not None
        try:
            await self._ask_while_anybody_waits(repository)
        finally:
            # Not by a callback, which comes a turn later: who asks in between would wait for it.
            self._askers[repository].discard(asker)

    async def _ask_while_anybody_waits(self, repository: str) -> None:
        loop = asyncio.get_running_loop()
        waiting = self._waiting[repository]
        while waiting:
            names = list(waiting)[:REFERENCES_PER_QUESTION_MAX]
            answers = {name: waiting.pop(name) for name in names}
            found: dict[str, Resolution] = dict.fromkeys(names, Unreachable(STOPPING))
            try:
                if not self._is_closed:
                    found = await loop.run_in_executor(self._threads, self.ask, repository, names)
            except Exception as error:  # noqa: BLE001 - told in full; those who wait are asked for next
                _log.exception("%s could not be asked", repository)
                problem = Unreachable(_one_line(f"it could not be asked: {error}"))
                found = dict.fromkeys(names, problem)
            finally:
                # also where the question was called off
                for name, waiters in answers.items():
                    for waiter in waiters:
                        if not waiter.done():
                            waiter.set_result(found[name])

    def ask(self, repository: str, references: Sequence[str]) -> dict[str, Resolution]:
        """Where each of these full names of a configured repository points now. Blocking.

        references: see common.ref_names.check_ref. git is killed after `timeout_seconds`.
        """
        try:
            listed = self._list(repository, references)
        except _NoAnswer as error:
            return dict.fromkeys(references, Unreachable(_one_line(str(error))))
        found: dict[str, Resolution] = {}
        for name in references:
            commit = listed.get(_peeled(name)) or listed.get(name)
            found[name] = NoSuchBranch() if commit is None else FoundCommit(commit)
        return found

    def _list(self, repository: str, references: Sequence[str]) -> dict[str, str]:
        """What the server lists of these: full name -> object. Raises _NoAnswer."""
        remote = self._remotes.get(repository)
        if remote is None:
            raise _NoAnswer(NOT_CONFIGURED)
        entry, environment = remote.entry, remote.environment
        address = entry.fetched_from
        patterns = [pattern for name in references for pattern in (name, _peeled(name))]
        try:
            status, output, errors = self._run_git(
                ["git", "ls-remote", "--", address, *patterns], environment
            )
        except (git.exc.GitError, OSError, ValueError) as error:
            raise _NoAnswer(f"git could not be run: {error}") from error
        except subprocess.TimeoutExpired as error:
            raise _NoAnswer(f"no answer in {self._timeout_seconds:g} s") from error
        if status != 0:
            complaint = hide_secrets(errors, environment)
            login = access_problem(complaint, address, entry.access)
            complaint = complaint if login is None else f"{login} ({complaint})"
            raise _NoAnswer(complaint.strip() or f"git ended with status {status}")
        # ls-remote matches the tail of a name, so x/refs/heads/branch could be listed too.
        return {
            name: commit
            for commit, _, name in (line.partition("\t") for line in output.splitlines())
            if check_commit(commit) is None
        }

    def close(self) -> None:
        """Ask nothing more; what is being asked is ended, so that nothing of it stays behind."""
        with self._lock:
            self._is_closed = True
            for process in self._running:
                _end(process)
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _run_git(self, command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
        """Exit status, output and errors of one git. Raises subprocess.TimeoutExpired."""
        with self._lock:
            if self._is_closed:
                raise OSError(STOPPING)
            # A group of its own: git's helper for the protocol has to be ended with it.
            interruptible = git.cmd.Git(str(self._directory)).execute(
                command, as_process=True, env=environment, start_new_session=True
            )
            process = interruptible.proc
            assert process is not None, "it was just started"
            self._running.add(process)
        try:
            output, errors = process.communicate(timeout=self._timeout_seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            process.communicate()
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        return process.returncode, _text(output), _text(errors)


def _peeled(reference: str) -> str:
    """A tag may be an object of its own, which leads to the commit: the server shows both."""
    return f"{reference}^{{}}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its helpers, if it has not ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")


def _one_line(text: str) -> str:
    return log_text(" ".join(text.split()), REASON_CHARACTERS_MAX)
