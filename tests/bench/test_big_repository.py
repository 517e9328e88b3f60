"""The repository of the bench `repository`."""

import subprocess
from pathlib import Path

from bench.big_repository import FILE_BYTES, make_repository, point_branch


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", f"--git-dir={folder}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_history_is_big_and_the_tree_a_part_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "big.git"
    first, *later = make_repository(folder, history=3, tree_files=2, commits=4)
    assert len(later) == 4
    point_branch(folder, "master", later[-1])
    assert _git(folder, "rev-list", "--count", "master").strip() == "7"
    assert _git(folder, "ls-tree", "-r", "--name-only", first).splitlines() == [
        ".pbft-ci.yml",
        "big/0",
        "big/1",
    ]
    assert len(_git(folder, "ls-tree", "-r", "--name-only", later[-1]).splitlines()) == 7
    packed = sum(file.stat().st_size for file in folder.glob("objects/pack/*.pack"))
    assert packed > 6 * FILE_BYTES, "random files do not compress"


def test_the_same_numbers_give_the_same_commits(tmp_path: Path) -> None:
    one, other = (
        make_repository(tmp_path / name, history=2, tree_files=1, commits=1) for name in "ab"
    )
    assert one == other
