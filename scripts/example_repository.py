"""The example's bare git repository, made so that everybody gets the same commits.

Author and dates are fixed and each branch is one commit without a parent: the same content gives
the same commit on every machine, and making it again changes nothing.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from scripts.base_image import EXAMPLE_IMAGE
from scripts.folders import RUN, exclusive

REPOSITORY = RUN / "example-repository.git"
# 2024-01-01T00:00:00Z
COMMIT_TIME = "1704067200 +0000"
COMMITTER = "PBFT/CI example"
EMAIL = "example@pbft-ci.invalid"
GIT_SECONDS_MAX = 30

FEATURE_EXIT_CODE = 7

_PIPELINE = """\
# What PBFT/CI runs for this branch: these commands, one after the other, in this image.
image: {image}
commands:
  - {greeting}
  - exit {exit_code}
timeout_seconds: 60
"""
_DOCKERFILE = """\
# This branch has no .pbft-ci.yml: its image is built and run, and the exit code counts.
FROM {image}
RUN echo built > /example.txt
CMD test "$(cat /example.txt)" = built && exit 0
"""


class GitFailed(RuntimeError):
    """A git command that failed; the text is what git said, on one line."""


def example_branches(image: str) -> dict[str, dict[str, str]]:
    """The files of each branch of the example. image: what its builds run in."""

    def pipeline(greeting: str, exit_code: int) -> str:
        return _PIPELINE.format(image=image, greeting=greeting, exit_code=exit_code)

    return {
        "master": {
            "README.md": "The branch whose build passes.\n",
            ".pbft-ci.yml": pipeline("echo this branch is fine", 0),
        },
        "feature": {
            "README.md": f"The branch whose build fails with exit code {FEATURE_EXIT_CODE}.\n",
            ".pbft-ci.yml": pipeline("echo this branch is broken", FEATURE_EXIT_CODE),
        },
        "dockerfile": {"Dockerfile": _DOCKERFILE.format(image=image)},
    }


def ensure_example_repository(image: str = EXAMPLE_IMAGE, folder: Path = REPOSITORY) -> Path:
    """Make the example repository, or bring the one that is there to what it should be.

    Gives the folder of the bare repository. Raises GitFailed.
    """
    with exclusive(folder.with_suffix(".lock")):
        write_repository(folder, example_branches(image))
    return folder


def write_repository(folder: Path, branches: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Make a bare repository, if need be, and set its branches to these files.

    branches: branch -> path -> text. Other branches that are there stay. Gives branch -> commit,
    which depends on nothing but the branch's files. Raises GitFailed.
    """
    if not (folder / "HEAD").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Made aside and moved: a repository is complete or absent, also after a crash.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as made:
            new = Path(made) / "new"
            _git(None, "init", "--quiet", "--bare", "--initial-branch=master", str(new))
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
    commits = {}
    for branch, files in branches.items():
        commits[branch] = _commit(folder, files)
        _git(folder, "update-ref", f"refs/heads/{branch}", commits[branch])
    return commits


def _commit(folder: Path, files: Mapping[str, str]) -> str:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        index = {"GIT_INDEX_FILE": str(Path(temporary) / "index")}
        for path, text in sorted(files.items()):
            blob = _git(folder, "hash-object", "-w", "--stdin", text=text)
            place = f"100644,{blob},{path}"
            _git(folder, "update-index", "--add", "--cacheinfo", place, environment=index)
        tree = _git(folder, "write-tree", environment=index)
    return _git(folder, "commit-tree", "-m", "Example", tree)


def _git(
    folder: Path | None,
    *arguments: str,
    text: str = "",
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run git on the repository, as if the machine had no git configuration; its output."""
    variables = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": COMMITTER,
        "GIT_AUTHOR_EMAIL": EMAIL,
        "GIT_AUTHOR_DATE": COMMIT_TIME,
        "GIT_COMMITTER_NAME": COMMITTER,
        "GIT_COMMITTER_EMAIL": EMAIL,
        "GIT_COMMITTER_DATE": COMMIT_TIME,
        **(environment or {}),
    }
    where = [] if folder is None else [f"--git-dir={folder}"]
    try:
        done = subprocess.run(
            ["git", *where, *arguments],
            input=text.encode(),
            capture_output=True,
            check=True,
            env=variables,
            timeout=GIT_SECONDS_MAX,
        )
    except FileNotFoundError as error:
        raise GitFailed("git is missing; install git") from error
    except subprocess.TimeoutExpired as error:
        raise GitFailed(f"git {arguments[0]}: did not end within {GIT_SECONDS_MAX} s") from error
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.decode("utf-8", "replace").split())
        raise GitFailed(f"git {arguments[0]}: {said or 'failed'}") from error
    return done.stdout.decode("utf-8").strip()


def main() -> int:
    """`python -m scripts.example_repository`: make it and print where it is."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.example_repository", description="Make the example repository."
    )
    parser.add_argument("--image", default=EXAMPLE_IMAGE, help="the image of its builds")
    try:
        print(ensure_example_repository(parser.parse_args().image))
    except GitFailed as error:
        print(f"no example repository: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
