"""Which commit this program was started from, for whoever wants to see again what it showed."""

import subprocess
from pathlib import Path

GIT_SECONDS_MAX = 10


def source_commit(folder: Path) -> str:
    """The commit that is checked out there, with "+" where files were changed; "": not known."""
    try:
        commit = _git(folder, "rev-parse", "--short", "HEAD")
        is_changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}+" if is_changed else commit


def commit_hash(folder: Path) -> str:
    """The whole hash of the commit that is checked out there; "": not known."""
    try:
        return _git(folder, "rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=GIT_SECONDS_MAX,
    ).stdout.strip()
