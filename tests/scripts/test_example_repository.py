"""The example repository: the same commits everywhere, and nothing changed the second time."""

import subprocess
from pathlib import Path

import pytest
import yaml

from scripts.example_repository import (
    GitFailed,
    ensure_example_repository,
    example_branches,
    write_repository,
)

IMAGE = "example/image:1"
MASTER_COMMIT = "b8a641b8af993589a8e1d6bb752b1e921b7d3b68"


def git(repository: Path, *arguments: str) -> str:
    """What git says about the repository."""
    done = subprocess.run(
        ["git", f"--git-dir={repository}", *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commits(repository: Path) -> dict[str, str]:
    """Branch -> commit."""
    lines = git(repository, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.removeprefix("refs/heads/").split() for line in lines)


def test_the_branches_are_those_of_the_demo(tmp_path: Path) -> None:
    repository = ensure_example_repository(IMAGE, tmp_path / "example.git")
    assert set(commits(repository)) == {"master", "feature", "dockerfile"}
    for branch, exit_code in (("master", 0), ("feature", 7)):
        pipeline = yaml.safe_load(git(repository, "show", f"{branch}:.pbft-ci.yml"))
        assert set(pipeline) == {"image", "commands", "timeout_seconds"}
        assert pipeline["image"] == IMAGE
        assert pipeline["commands"][-1] == f"exit {exit_code}"
    assert git(repository, "ls-tree", "--name-only", "dockerfile") == "Dockerfile"
    dockerfile = git(repository, "show", "dockerfile:Dockerfile").splitlines()
    assert f"FROM {IMAGE}" in dockerfile
    assert any(line.startswith("RUN ") for line in dockerfile)
    assert git(repository, "symbolic-ref", "HEAD") == "refs/heads/master"


def test_the_same_commits_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = ensure_example_repository(IMAGE, tmp_path / "one.git")
    # Another person's name, clock and settings do not matter.
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text("[user]\nname = X\n[core]\nautocrlf = true\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Y")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    two = ensure_example_repository(IMAGE, tmp_path / "two.git")
    assert commits(one) == commits(two)
    # Fixed here, so that a change of the example is a decision and no accident.
    assert commits(one)["master"] == MASTER_COMMIT


def test_making_it_again_changes_nothing(tmp_path: Path) -> None:
    repository = ensure_example_repository(IMAGE, tmp_path / "example.git")
    before = {file: file.stat().st_mtime_ns for file in (repository / "objects").rglob("*")}
    tips = commits(repository)
    ensure_example_repository(IMAGE, repository)
    assert commits(repository) == tips
    assert {file for file in (repository / "objects").rglob("*") if file.is_file()} == {
        file for file in before if file.is_file()
    }
    assert git(repository, "fsck", "--strict") == ""


def test_another_image_is_another_commit_and_other_branches_stay(tmp_path: Path) -> None:
    repository = ensure_example_repository(IMAGE, tmp_path / "example.git")
    tips = commits(repository)
    git(repository, "branch", "mine", "master")
    ensure_example_repository("other:2", repository)
    assert commits(repository)["master"] != tips["master"]
    assert commits(repository)["mine"] == tips["master"]


def test_a_half_made_folder_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "example.git" / "objects").mkdir(parents=True)
    repository = ensure_example_repository(IMAGE, tmp_path / "example.git")
    assert "master" in commits(repository)


def test_any_files_in_any_folders(tmp_path: Path) -> None:
    made = write_repository(tmp_path / "r.git", {"a/b": {"x/y.txt": "1\n", "z": "2\n"}})
    assert commits(tmp_path / "r.git") == made
    assert git(tmp_path / "r.git", "show", "a/b:x/y.txt") == "1"


def test_what_git_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(GitFailed, match="git update-ref: ") as caught:
        write_repository(tmp_path / "r.git", {"bad..name": {"a": ""}})
    assert "\n" not in str(caught.value)


def test_the_dockerfile_says_whether_it_was_built() -> None:
    assert (
        'test "$(cat /example.txt)" = built' in example_branches(IMAGE)["dockerfile"]["Dockerfile"]
    )
