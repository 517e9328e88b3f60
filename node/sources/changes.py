"""Which files a request changes, told from git's objects alone. Blocking; runs in a thread.

The base is where the commit left its target branch: of the commits that the branch's head leads to
by first parents, the newest that is an ancestor of the commit. Replicas ask the server at different
times, and a branch moves. If it goes forward by commits of its own, the base stays the same.
(docs/decisions/0041-what-a-request-changes.md)
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from node.sources.git_process import OutputTooLong, mirror_environment, run_git
from node.sources.tree import CorruptMirror, blamed
from node.work.threads import Stop

# how far back the base is looked for
MAINLINE_MAX = 100_000
# what git may say of the files that differ, some 3,000 with paths of usual lengths
LISTING_BYTES_MAX = 512 * 1024

_SUBMODULE = b"160000"


class Changes(msgspec.Struct, frozen=True):
    """The paths that differ from the base, sorted as git sorts them.

    base None: there is none. paths None: what changed cannot be told; problem says why, and is the
    same on every replica.
    """

    base: str | None
    paths: tuple[str, ...] | None
    problem: str = ""


def find_changes(
    mirror: Path, tip: str, commit: str, *, environment: Mapping[str, str], stop: Stop
) -> Changes:
    """What `commit` changes of the branch with the head `tip`; the mirror has both.

    The base is the commit itself if it is on the branch already.
    Raises CorruptMirror, InfrastructureError, Stopped.
    """
    git = _Git(mirror, mirror_environment(environment, mirror), stop)
    with blamed(mirror):
        base = _base(git, tip, commit)
        if base is None:
            return Changes(None, None, "no base is among the newest commits of the branch")
        if base == commit:
            return Changes(base, ())
        try:
            listed = git.output(
                *("diff-tree", "-r", "-z", "--raw", "--no-renames", "--ignore-submodules=none"),
                *(base, commit, "--"),
                bytes_max=LISTING_BYTES_MAX,
            )
        except OutputTooLong:
            return Changes(base, None, "more files differ than are compared")
        return _parsed(base, listed)


class _Git(msgspec.Struct, frozen=True):
    """One mirror's git."""

    mirror: Path
    environment: Mapping[str, str]
    stop: Stop

    def output(self, *arguments: str, bytes_max: int) -> bytes:
        """What git says. Raises CorruptMirror, OutputTooLong, InfrastructureError, Stopped."""
        answer = run_git(
            arguments, environment=self.environment, stop=self.stop, output_bytes_max=bytes_max
        )
        if answer.exit_code != 0:
            raise CorruptMirror(answer.problem)
        return answer.output

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Raises CorruptMirror, InfrastructureError, Stopped."""
        answer = run_git(
            ["merge-base", "--is-ancestor", older, newer],
            environment=self.environment,
            stop=self.stop,
        )
        if answer.exit_code not in (0, 1):
            raise CorruptMirror(answer.problem)
        return answer.exit_code == 0


def _base(git: _Git, tip: str, commit: str) -> str | None:
    """None if it is not among the newest MAINLINE_MAX of the branch.

    If a commit of the line is an ancestor, all before it are: so a few questions find the newest.
    """
    listed = git.output(
        *("rev-list", "--first-parent", f"--max-count={MAINLINE_MAX}", tip, "--"),
        bytes_max=(len(tip) + 1) * MAINLINE_MAX,
    )
    line = listed.decode("ascii").split()
    # those below `newer` are no ancestors; the one at `older` is, or is beyond the end
    newer, older = 0, 0
    while older < len(line) and not git.is_ancestor(line[older], commit):
        newer, older = older + 1, 2 * older + 1
    older = min(older, len(line))
    while newer < older:
        middle = (newer + older) // 2
        if git.is_ancestor(line[middle], commit):
            older = middle
        else:
            newer = middle + 1
    return line[older] if older < len(line) else None


def _parsed(base: str, listed: bytes) -> Changes:
    """Of `:<mode> <mode> <id> <id> <status> NUL <path> NUL` for each file."""
    fields = listed.split(b"\0")[:-1]
    for difference in fields[::2]:
        if _SUBMODULE in difference.lstrip(b":").split()[:2]:
            return Changes(base, None, "a submodule differs, and what in it is not looked for")
    paths = tuple(path.decode("utf-8", "surrogateescape") for path in fields[1::2])
    return Changes(base, paths)
