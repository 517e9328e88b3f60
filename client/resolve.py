"""From a branch or a tag to its commit, by asking the repository's server (`git ls-remote`).

Two answers are answers: this commit, or no such branch. Everything else (unreachable, refused,
timed out) says nothing about the branch, and is asked again later.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

import git
import msgspec

from common.config import RepositoryEntry
from common.credentials import access_problem, hide_secrets
from common.git_environment import (
    check_commit,
    check_ref,
    git_environment,
    is_foreign_variable,
    protocol_of,
    ref_of,
)
from common.logs import log_text

ASK_TIMEOUT_SECONDS = 20.0
# Each question is a git process that mostly waits for a server; one server that gives no answer
# must not keep the questions to the others waiting.
QUESTIONS_PER_REPOSITORY_MAX = 4
QUESTIONS_AT_ONCE_MAX = 32
REASON_CHARACTERS_MAX = 300


class FoundCommit(msgspec.Struct, frozen=True):
    """The branch (tag, request) points at this commit (40 or 64 hexadecimal digits)."""

    commit: str


class NoSuchBranch(msgspec.Struct, frozen=True):
    """The server answered, and has no branch of that name."""


class Unreachable(msgspec.Struct, frozen=True):
    """No answer; one line why."""

    reason: str


Resolution = FoundCommit | NoSuchBranch | Unreachable


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
        self._entries = {entry.url: entry for entry in repositories}
        # each with its own protocol and its own login, and none of the others'
        self._environments = {
            entry.url: git_environment(
                [protocol_of(entry.fetched_from)], home, entry.fetched_from, entry.access
            )
            for entry in repositories
        }
        self._directory = home
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_closed = False
        self._timeout_seconds = timeout_seconds
        self._places = {
            url: asyncio.Semaphore(QUESTIONS_PER_REPOSITORY_MAX) for url in self._entries
        }
        self._threads = concurrent.futures.ThreadPoolExecutor(
            min(QUESTIONS_AT_ONCE_MAX, QUESTIONS_PER_REPOSITORY_MAX * len(self._places)),
            thread_name_prefix="resolve",
        )

    async def resolve(self, repository: str, branch: str, ref: str | None = None) -> Resolution:
        """Where `ref`, else `branch`, of a configured `repository` points now. Raises nothing."""
        place = self._places.get(repository)
        if place is None:
            return Unreachable("the repository is no longer in this gateway's configuration")
        loop = asyncio.get_running_loop()
        async with place:
            if self._is_closed:
                return Unreachable("the gateway is stopping")
            return await loop.run_in_executor(self._threads, self.ask, repository, branch, ref)

    def ask(self, repository: str, branch: str, ref: str | None = None) -> Resolution:
        """The same for a configured one, blocking; git is killed after `timeout_seconds`.

        ref: a full name, see common.git_environment.check_ref.
        """
        entry = self._entries[repository]
        address = entry.fetched_from
        reference = ref_of(branch, ref)
        if check_ref(reference) is not None:
            # no server can have it; the replicas know the same grammar
            return NoSuchBranch()
        # a tag may be an object of its own, which leads to the commit: the server shows both
        peeled = f"{reference}^{{}}"
        environment = self._environments[repository]
        try:
            status, output, errors = self._run_git(
                ["git", "ls-remote", "--", address, reference, peeled], environment
            )
        except (git.exc.GitError, OSError, ValueError) as error:
            return Unreachable(_one_line(f"git could not be run: {error}"))
        except subprocess.TimeoutExpired:
            return Unreachable(f"no answer in {self._timeout_seconds:g} s")
        if status != 0:
            complaint = hide_secrets(errors, environment)
            login = access_problem(complaint, address, entry.access)
            complaint = complaint if login is None else f"{login} ({complaint})"
            return Unreachable(_one_line(complaint) or f"git ended with status {status}")
        # ls-remote matches the tail of a name, so x/refs/heads/branch could be listed too.
        listed = {
            name: commit
            for commit, _, name in (line.partition("\t") for line in output.splitlines())
            if check_commit(commit) is None
        }
        found = listed.get(peeled) or listed.get(reference)
        return NoSuchBranch() if found is None else FoundCommit(found)

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
                raise OSError("the gateway is stopping")
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


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its helpers, if it has not ended."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")


def _one_line(text: str) -> str:
    return log_text(" ".join(text.split()), REASON_CHARACTERS_MAX)
