"""The commit objects that a build's commit leads to, as git has them in the mirror. Blocking.

They prove themselves (common.git_commits), so a node keeps them as they are.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from common.git_commits import COMMITS_BYTES_MAX, COMMITS_MAX
from node.sources.git_process import OutputTooLong, mirror_environment, run_git
from node.sources.tree import CorruptMirror, blamed
from node.work.threads import Stop


def list_commits(mirror: Path, commit: str, *, environment: Mapping[str, str], stop: Stop) -> bytes:
    """The commit and the newest of those before it, as `git cat-file --batch` writes them.

    Fewer if they are long; empty if the commit alone is longer than is kept.
    Raises CorruptMirror, InfrastructureError, Stopped, OSError.
    """
    inside = mirror_environment(environment, mirror)
    with blamed(mirror):
        listed = run_git(
            ["rev-list", f"--max-count={COMMITS_MAX}", commit, "--"],
            environment=inside,
            stop=stop,
        )
        if listed.exit_code != 0:
            raise CorruptMirror(listed.problem)
        ids = listed.output.splitlines(keepends=True)
        # signatures and long messages make the longest of them
        for count in (len(ids), len(ids) // 8, 1):
            try:
                return _objects(b"".join(ids[: max(1, count)]), inside, stop)
            except OutputTooLong:
                continue
    return b""


def _objects(ids: bytes, environment: Mapping[str, str], stop: Stop) -> bytes:
    """Raises OutputTooLong beside what `list_commits` raises."""
    with tempfile.TemporaryFile() as names:
        names.write(ids)
        names.seek(0)
        answer = run_git(
            ["cat-file", "--batch"],
            environment=environment,
            stop=stop,
            output_bytes_max=COMMITS_BYTES_MAX,
            standard_input=names.fileno(),
        )
    if answer.exit_code != 0:
        raise CorruptMirror(answer.problem)
    return answer.output
