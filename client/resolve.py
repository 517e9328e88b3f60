"""From a branch to the commit it points at, by asking the repository's server (`git ls-remote`).

Two answers are answers: this commit, or no such branch. Everything else (unreachable, refused,
timed out) says nothing about the branch, and is asked again later.
"""

import asyncio
import concurrent.futures
import logging
from pathlib import Path

import git
import msgspec

from common.config import RepositoryEntry
from common.git_environment import check_commit, git_environment, protocol_of
from common.logs import log_text

ASK_TIMEOUT_SECONDS = 20.0
# Each question is a git process that mostly waits for a server.
QUESTIONS_AT_ONCE_MAX = 4
REASON_CHARACTERS_MAX = 300

_log = logging.getLogger(__name__)


class FoundCommit(msgspec.Struct, frozen=True):
    """The branch points at this commit (40 or 64 hexadecimal digits)."""

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
        """home: an empty folder for git to call home, made here."""
        home.mkdir(parents=True, exist_ok=True)
        self._fetched_from = {entry.url: entry.fetched_from for entry in repositories}
        protocols = {protocol_of(url) for url in self._fetched_from.values()}
        self._environment = git_environment(sorted(protocols), home)
        self._directory = home
        self._timeout_seconds = timeout_seconds
        self._threads = concurrent.futures.ThreadPoolExecutor(
            QUESTIONS_AT_ONCE_MAX, thread_name_prefix="resolve"
        )

    async def resolve(self, repository: str, branch: str) -> Resolution:
        """Where `branch` of a configured `repository` points now. Raises nothing."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self.ask, repository, branch)

    def ask(self, repository: str, branch: str) -> Resolution:
        """The same, blocking: at most `timeout_seconds`, then the process is killed."""
        address = self._fetched_from.get(repository)
        if address is None:
            return Unreachable("the repository is no longer in this gateway's configuration")
        reference = f"refs/heads/{branch}"
        try:
            status, output, errors = git.cmd.Git(str(self._directory)).execute(
                ["git", "ls-remote", "--heads", "--", address, reference],
                with_extended_output=True,
                with_exceptions=False,
                kill_after_timeout=self._timeout_seconds,
                env=self._environment,
            )
        except (git.exc.GitError, OSError, ValueError) as error:
            return Unreachable(_one_line(f"git could not be run: {error}"))
        if status != 0:
            return Unreachable(_one_line(str(errors)) or f"git ended with status {status}")
        for line in str(output).splitlines():
            commit, _, name = line.partition("\t")
            # ls-remote matches the tail of a name, so x/refs/heads/branch could be listed too.
            if name == reference and check_commit(commit) is None:
                return FoundCommit(commit)
        return NoSuchBranch()

    def close(self) -> None:
        """Ask nothing more; what is being asked ends by its own time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _one_line(text: str) -> str:
    return log_text(" ".join(text.split()), REASON_CHARACTERS_MAX)
