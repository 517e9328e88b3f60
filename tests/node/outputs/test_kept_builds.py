"""kept_builds: folders of builds go by age, number and size, with a clock of the test's."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.retention import DAY_SECONDS, KeepRules
from node.outputs.kept_builds import SWEEP_SECONDS, KeptBuilds, remove_folder

NOW = 1_700_000_000.0
NOBODY = 65534


class Disk:
    """Folders of builds whose age and size a test says."""

    def __init__(self, folder: Path, rules: KeepRules) -> None:
        self.folder = folder
        self.now = NOW
        self.running: set[str] = set()
        self.kept = KeptBuilds(folder, rules, lambda: self.now)
        self.kept.start()

    def add(self, name: str, days_ago: float, *, log_bytes: int = 10) -> None:
        """A build's folder, as it was left so long ago."""
        folder = self.folder / name
        (folder / "artifacts").mkdir(parents=True)
        (folder / "log").write_bytes(bytes(log_bytes))
        at = NOW - days_ago * DAY_SECONDS
        os.utime(folder, (at, at))

    def sweep(self) -> set[str]:
        """Sweep; what is left."""
        self.kept.sweep(lambda name: name in self.running)
        return {folder.name for folder in self.folder.iterdir()}


def test_old_builds_go_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    disk = Disk(tmp_path, KeepRules(seconds_max=3 * DAY_SECONDS))
    for number in range(6):
        disk.add(f"build{number}", number)
    assert disk.sweep() == {"build0", "build1", "build2", "build3"}
    assert disk.kept.removed_count == 2
    assert "removed the logs of 2 builds: 2 too old" in caplog.text
    disk.now += DAY_SECONDS
    assert disk.sweep() == {"build0", "build1", "build2"}
    assert disk.kept.removed_count == 3


def test_the_oldest_make_room_for_number_and_size(tmp_path: Path) -> None:
    disk = Disk(tmp_path, KeepRules(items_max=3, bytes_max=250))
    disk.add("large", 1, log_bytes=200)
    disk.add("new", 0, log_bytes=100)
    disk.add("old", 2)
    disk.add("oldest", 3)
    assert disk.sweep() == {"new"}


def test_what_runs_is_never_removed(tmp_path: Path) -> None:
    disk = Disk(tmp_path, KeepRules(items_max=1, seconds_max=1))
    disk.add("running", 100)
    disk.add("over", 100)
    disk.running = {"running"}
    assert disk.sweep() == {"running"}
    assert disk.kept.removed_count == 1


def test_artifacts_count_and_a_running_builds_work_does_not(tmp_path: Path) -> None:
    disk = Disk(tmp_path, KeepRules(bytes_max=150))
    disk.add("a", 1)
    (tmp_path / "a" / "work").mkdir()
    (tmp_path / "a" / "work" / "file").write_bytes(bytes(1000))
    disk.add("b", 0)
    assert disk.sweep() == {"a", "b"}
    (tmp_path / "b" / "artifacts" / "program").write_bytes(bytes(200))
    disk.now += SWEEP_SECONDS
    assert "b" not in disk.sweep()


def test_it_does_not_look_all_the_time(tmp_path: Path) -> None:
    disk = Disk(tmp_path, KeepRules(items_max=1))
    disk.add("a", 2)
    assert disk.sweep() == {"a"}
    disk.add("b", 1)
    disk.now += SWEEP_SECONDS - 1
    assert disk.sweep() == {"a", "b"}
    disk.now += 1
    assert disk.sweep() == {"b"}


def test_a_clock_that_was_set_back_stops_nothing(tmp_path: Path) -> None:
    disk = Disk(tmp_path, KeepRules(items_max=1))
    disk.sweep()
    disk.add("a", 2)
    disk.add("b", 1)
    disk.now -= 1000 * DAY_SECONDS
    assert disk.sweep() == {"b"}


def test_folders_that_a_build_closed_up_go_too(tmp_path: Path) -> None:
    disk = Disk(tmp_path, KeepRules(items_max=0))
    disk.add("closed", 1)
    (tmp_path / "closed" / "artifacts" / "x").mkdir()
    (tmp_path / "closed" / "artifacts").chmod(0)
    assert disk.sweep() == set()


@contextmanager
def ordinary_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in that folder, and not as root, whom no permission hinders."""
    monkeypatch.chdir(folder)
    if os.geteuid() != 0:
        yield
        return
    os.chown(folder, NOBODY, -1)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.parametrize(
    "closed",
    [
        "mkdir x; touch x/f; chmod 0 x",
        "mkdir x; chmod 0 x",
        "mkdir -p x/y; touch x/y/f; chmod 400 x",
        "mkdir -p x/y/z; touch x/y/z/f; chmod 0 x/y/z; chmod 100 x/y; chmod 200 x",
        "mkdir x; touch x/f; chmod 0 x .. .",
    ],
)
def test_what_an_ordinary_user_may_not_look_into_goes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    with ordinary_user(tmp_path, monkeypatch):
        work = Path("build", "work")
        work.mkdir(parents=True)
        subprocess.run(closed, shell=True, cwd=work, check=True)
        remove_folder(work)
        assert os.listdir("build") == []


def test_what_is_nested_deeper_than_python_follows_goes_too(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    folder = os.open(work, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 100):
        os.mkdir("d", dir_fd=folder)
        outer, folder = folder, os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(outer)
    os.close(folder)
    try:
        remove_folder(work)
        assert not work.exists()
    finally:
        # pytest could not clean up after itself either
        subprocess.run(["rm", "-rf", work], check=True)


def test_what_a_link_in_place_of_the_folder_points_to_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o500)
    work = tmp_path / "work"
    work.symlink_to(tmp_path / "other")
    remove_folder(work)
    assert not work.is_symlink()
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o500


def test_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    kept = KeptBuilds(tmp_path / "none", KeepRules(items_max=1), lambda: NOW)
    kept.sweep(lambda name: False)
    assert kept.removed_count == 0
