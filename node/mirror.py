"""One bare mirror of a repository: fetch a branch or a tag, prove that a commit is on it, read it.

Blocking; runs in a thread. Whoever calls `prove` or `throw_away` holds the mirror's lock.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from common.credentials import access_problem
from common.git_environment import GitAccess
from common.pipeline import PIPELINE_BYTES_MAX, PIPELINE_FILE
from node.dockerfile import DOCKERFILE, DOCKERFILE_BYTES_MAX
from node.git_process import GitAnswer, mirror_environment, run_git
from node.threads import Stop
from node.tree import (
    CorruptMirror,
    TreeEntry,
    TreeRefused,
    check_tree,
    export_tree,
    list_tree,
    read_blob,
)
from node.trouble import OwnTrouble

# what a tar header holds
COMMIT_SECONDS_MAX = 2**33 - 1
# an answer of ls-remote names one branch and those whose names end like it
ANSWER_BYTES_MAX = 1024 * 1024

_ANSWERED_NOTHING = 2


class NotAFile(msgspec.Struct, frozen=True):
    """A path that should be a small file and is something else; the same on every replica."""

    problem: str


class Source(msgspec.Struct, frozen=True):
    """The commit's files. The pipeline file and the Dockerfile are None where absent.

    tree: a tar file of everything, or why there is none. commit_seconds: the commit's own time.
    """

    pipeline: bytes | NotAFile | None
    dockerfile: bytes | NotAFile | None
    tree: Path | TreeRefused
    commit_seconds: int


class Remote(msgspec.Struct, frozen=True):
    """A repository's server, as git is to reach it.

    environment: of common.git_environment, for this url alone. url: checked already.
    """

    url: str
    access: GitAccess
    environment: Mapping[str, str]

    def trouble(self, what: str, complaint: str) -> OwnTrouble:
        """What git complains of as this node's own trouble; a login that failed by its file."""
        problem = access_problem(complaint, self.url, self.access)
        return OwnTrouble(f"{what}: {complaint}" if problem is None else f"{problem} ({complaint})")


def has_reference(remote: Remote, reference: str, stop: Stop) -> bool:
    """Whether the server says that it has it. Raises OwnTrouble where it says nothing."""
    answer = run_git(
        ["ls-remote", "--quiet", "--exit-code", "--", remote.url, reference],
        environment=remote.environment,
        stop=stop,
        output_bytes_max=ANSWER_BYTES_MAX,
    )
    if answer.exit_code == _ANSWERED_NOTHING:
        return False
    if answer.exit_code != 0:
        raise remote.trouble("the git server did not answer", answer.problem)
    return any(line.endswith(b"\t" + reference.encode()) for line in answer.output.splitlines())


class Mirror:
    """One commit of one branch, tag or request in one mirror."""

    def __init__(self, folder: Path, remote: Remote, reference: str, commit: str) -> None:
        """reference: the full name at the server; it and the commit are checked already."""
        self._folder = folder
        self._remote = remote
        self._theirs = reference
        self._commit = commit
        self._environment = mirror_environment(remote.environment, folder)
        # a name of its own: branches `a` and `a/b` may follow each other in a mirror's life
        self._reference = f"refs/pbft-ci/{hashlib.sha256(reference.encode()).hexdigest()}"

    def prove(self, stop: Stop) -> str | None:
        """None where the commit is reachable from the reference, else what the answer was.

        Asks the server only where the mirror does not prove it yet. Raises OwnTrouble,
        CorruptMirror, Stopped, OSError.
        """
        self._make(stop)
        if self._is_reachable(stop) is True:
            return self._check_kind(stop)
        self._remove_locks()
        fetched = self._git(
            stop,
            *("fetch", "--quiet", "--force", "--no-tags", "--no-recurse-submodules"),
            *("--no-write-fetch-head", "--no-show-forced-updates", "--", self._remote.url),
            f"+{self._theirs}:{self._reference}",
        )
        if fetched.exit_code != 0:
            if not has_reference(self._remote, self._theirs, stop):
                return f"the server has no {self._theirs}"
            if self._git(stop, "fsck", "--connectivity-only", "--no-dangling").exit_code != 0:
                raise CorruptMirror(fetched.problem)
            raise self._remote.trouble("git fetch failed", fetched.problem)
        is_reachable = self._is_reachable(stop)
        if (
            is_reachable is None
            and self._git(stop, "rev-list", "--quiet", self._reference).exit_code
        ):
            # the walk broke off: the commit may be on the part that cannot be read
            raise CorruptMirror("the history cannot be read")
        if not is_reachable:
            return f"the commit is not on {self._theirs}"
        return self._check_kind(stop)

    def read(self, target: Path, workspace_bytes: int, stop: Stop) -> Source:
        """The commit's files; a tree larger than workspace_bytes is refused, not exported.

        Raises CorruptMirror, Stopped, OwnTrouble, OSError.
        """
        listed = self._git(
            stop, "rev-list", "--no-walk", "--max-count=1", "--timestamp", self._commit
        )
        words = listed.output.split()
        if listed.exit_code != 0 or len(words) != 2 or not words[0].isdigit():
            raise CorruptMirror(listed.problem or "the commit cannot be read")
        commit_seconds = min(int(words[0]), COMMIT_SECONDS_MAX)
        top = list_tree(self._commit, (PIPELINE_FILE, DOCKERFILE), self._environment, stop)
        assert not isinstance(top, TreeRefused), "two entries are never too many"
        by_path = {entry.path: entry for entry in top}
        pipeline = self._file(by_path.get(PIPELINE_FILE), PIPELINE_BYTES_MAX, stop)
        dockerfile = self._file(by_path.get(DOCKERFILE), DOCKERFILE_BYTES_MAX, stop)
        entries = list_tree(self._commit, (), self._environment, stop)
        refused = (
            entries if isinstance(entries, TreeRefused) else check_tree(entries, workspace_bytes)
        )
        if refused is not None or isinstance(entries, TreeRefused):
            assert refused is not None
            return Source(pipeline, dockerfile, refused, commit_seconds)
        export_tree(entries, target, commit_seconds, self._environment, stop)
        return Source(pipeline, dockerfile, target, commit_seconds)

    def throw_away(self, stop: Stop) -> None:
        """Remove the mirror. Raises OSError."""
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def _make(self, stop: Stop) -> None:
        """An empty mirror where there is none; it appears at its place only when complete."""
        if self._folder.exists():
            return
        draft = self._folder.with_suffix(".new")
        if draft.exists():
            shutil.rmtree(draft)
        kind = "sha256" if len(self._commit) == 64 else "sha1"
        made = run_git(
            ["init", "--quiet", "--bare", "--template=", f"--object-format={kind}"],
            environment=mirror_environment(self._environment, draft),
            stop=stop,
        )
        if made.exit_code != 0:
            raise OwnTrouble(f"git init failed: {made.problem}")
        draft.rename(self._folder)

    def _is_reachable(self, stop: Stop) -> bool | None:
        """None: git cannot tell: the reference, the commit or something between is missing."""
        answer = self._git(stop, "merge-base", "--is-ancestor", self._commit, self._reference)
        return {0: True, 1: False}.get(answer.exit_code)

    def _check_kind(self, stop: Stop) -> str | None:
        """A tag's id leads to a commit too, but is none."""
        answer = self._git(stop, "cat-file", "-t", self._commit)
        if answer.exit_code != 0:
            raise CorruptMirror(answer.problem)
        return None if answer.output == b"commit\n" else "the id is not that of a commit"

    def _file(self, entry: TreeEntry | None, bytes_max: int, stop: Stop) -> bytes | NotAFile | None:
        """A file from git's objects, never from a work tree: a link there could lead anywhere."""
        if entry is None:
            return None
        if not entry.is_file:
            return NotAFile("is not a plain file")
        if entry.size > bytes_max:
            return NotAFile(f"has {entry.size} bytes; at most {bytes_max}")
        return read_blob(entry, self._environment, stop)

    def _remove_locks(self) -> None:
        """A git that was killed leaves its locks and half of a pack; nobody else writes here."""
        for pattern in ("*.lock", "refs/pbft-ci/*.lock", "objects/pack/tmp_*", "gc.pid"):
            for leftover in self._folder.glob(pattern):
                leftover.unlink()

    def _git(self, stop: Stop, *arguments: str) -> GitAnswer:
        return run_git(arguments, environment=self._environment, stop=stop)
