"""A repository with a long history, made for a bench: random files, so nothing in it compresses.

The files of the newest commit are a part of all that its history holds: each of the first commits
replaces all files, each later one adds a small one.
"""

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.network import BenchFailed
from scripts.harness import pipeline

FILE_BYTES = 2**20
GIT_SECONDS_MAX = 600
_WHO = b"PBFT/CI bench <bench@pbft-ci.invalid>"
_BEGAN_AT = 1704067200
_PIPELINE_FILE, _PIPELINE = next(iter(pipeline("true").items()))


def make_repository(folder: Path, *, history: int, tree_files: int, commits: int) -> list[str]:
    """Make a bare repository in the new folder; its commits, the oldest first.

    history: how often all files are replaced; the last of these is the first that is given back.
    tree_files: how many files of a MiB the tree has. commits: how many small ones follow. No branch
    points at any of them yet. Raises BenchFailed.
    """
    _git(None, "init", "--quiet", "--bare", "--initial-branch=master", str(folder))
    data = b"".join(_stream(history, tree_files, commits))
    # One pack without deltas, as a forge has it: a server that had to look for deltas between
    # random files in its first answer would make the first clone take ten times as long.
    packed = ("-c", "fastimport.unpackLimit=1")
    _git(folder, *packed, "fast-import", "--quiet", "--force", "--depth=0", data=data)
    listed = _git(folder, "rev-list", "--reverse", "refs/heads/all").split()
    _git(folder, "update-ref", "-d", "refs/heads/all")
    _git(folder, "update-ref", "refs/keep/all", listed[-1])
    return listed[history - 1 :]


def point_branch(folder: Path, branch: str, commit: str) -> None:
    """What a push does. Raises BenchFailed."""
    _git(folder, "update-ref", f"refs/heads/{branch}", commit)


def _stream(history: int, tree_files: int, commits: int) -> Iterator[bytes]:
    """The input of git fast-import: the same for the same numbers."""
    chance = random.Random(20240101)  # noqa: S311 - contents of a bench
    for number in range(history + commits):
        yield b"commit refs/heads/all\n"
        yield b"committer %b %d +0000\n" % (_WHO, _BEGAN_AT + number)
        yield _data(b"Commit %d" % number)
        if number < history:
            yield b"deleteall\n"
            yield _file(_PIPELINE_FILE.encode(), _PIPELINE.encode())
            for index in range(tree_files):
                yield _file(b"big/%d" % index, chance.randbytes(FILE_BYTES))
        else:
            yield _file(b"small/%d" % number, b"%d\n" % number)


def _file(path: bytes, content: bytes) -> bytes:
    return b"M 100644 inline %b\n%b" % (path, _data(content))


def _data(content: bytes) -> bytes:
    return b"data %d\n%b\n" % (len(content), content)


def _git(folder: Path | None, *arguments: str, data: bytes = b"") -> str:
    where = [] if folder is None else [f"--git-dir={folder}"]
    variables = {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    try:
        done = subprocess.run(
            ["git", *where, *arguments],
            input=data,
            capture_output=True,
            check=True,
            env=variables,
            timeout=GIT_SECONDS_MAX,
        )
    except subprocess.CalledProcessError as error:
        raise BenchFailed(f"git {arguments[0]}: {error.stderr[-500:]!r}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchFailed(f"git {arguments[0]}: {error}") from error
    return done.stdout.decode()
