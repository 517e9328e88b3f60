"""simulator.campaigns.source_commit: the commit that is checked out, and whether it was changed."""

import os
import subprocess
from pathlib import Path

import pytest

from simulator.campaigns.source_commit import commit_hash, source_commit


def git(folder: Path, *arguments: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
    }
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_checkout_is_named_and_a_change_is_marked(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    file = tmp_path / "file"
    file.write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message=one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    found = source_commit(tmp_path)
    assert len(found) >= 4
    assert commit.startswith(found)
    assert commit_hash(tmp_path) == commit
    file.write_text("two")
    assert source_commit(tmp_path) == f"{found}+"
    assert commit_hash(tmp_path) == commit


def test_where_nothing_is_checked_out_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # whatever the folder of the tests lies in
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert source_commit(tmp_path) == commit_hash(tmp_path) == ""
    monkeypatch.setenv("PATH", "")
    assert source_commit(tmp_path) == commit_hash(tmp_path) == ""
