"""Which mirrors stay on the disk, for how long."""

import os
from pathlib import Path

import pytest

from node.mirror import Source
from node.mirror_shelf import MirrorShelf
from tests.node.conftest import CheckoutMaker, ConfigMaker, GitRepository

DAY = 86_400
NOW = 1e9


def put(shelf: MirrorShelf, name: str, size_bytes: int, age_days: float) -> Path:
    """A mirror of that size that was used so long ago."""
    mirror = shelf.place(name)
    (mirror / "objects").mkdir(parents=True)
    (mirror / "objects" / "pack").write_bytes(b"x" * size_bytes)
    os.utime(mirror, (NOW - age_days * DAY,) * 2)
    return mirror


def shelf_of(folder: Path, bytes_max: int = 10**9, days_max: int = 30) -> MirrorShelf:
    shelf = MirrorShelf(folder / "mirrors", bytes_max, days_max, lambda: NOW)
    shelf.start()
    return shelf


def tidy(shelf: MirrorShelf) -> None:
    shelf.remove(shelf.withdraw(shelf.measure()))


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "mirrors").iterdir()}


async def test_by_age(tmp_path: Path) -> None:
    shelf = shelf_of(tmp_path)
    put(shelf, "old", 1, 31)
    put(shelf, "new", 1, 29)
    used = put(shelf, "used", 1, 365)
    with shelf.using(used):
        tidy(shelf)
        assert names(tmp_path) == {"new.git", "used.git"}
    # its use was just now
    tidy(shelf)
    assert names(tmp_path) == {"new.git", "used.git"}


async def test_by_size(tmp_path: Path) -> None:
    shelf = shelf_of(tmp_path, bytes_max=250)
    oldest = put(shelf, "oldest", 100, 3)
    written = put(shelf, "written", 100, 2.5)
    for index in range(3):
        put(shelf, f"m{index}", 100, 2 - index / 2)
    with shelf.using(oldest):
        async with shelf.lock(written):
            tidy(shelf)
    assert names(tmp_path) == {"oldest.git", "written.git"}
    tidy(shelf)
    assert names(tmp_path) == {"oldest.git", "written.git"}


async def test_what_a_crash_left_on_its_way_out(tmp_path: Path) -> None:
    shelf = shelf_of(tmp_path, bytes_max=0)
    put(shelf, "a", 1, 1)
    assert shelf.withdraw(shelf.measure())
    assert names(tmp_path) == {"a.removed"}
    shelf_of(tmp_path)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("bytes_max", [0, 10**9])
async def test_after_a_checkout(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
    bytes_max: int,
) -> None:
    """A mirror that is larger than everything allowed is fetched anew for each build."""
    checkout = make_checkout(make_config(repository.url, mirrors_bytes_max=bytes_max))
    for number in range(2):
        commit = repository.commit({"a": str(number)})
        found = await checkout.check_out(repository.url, "refs/heads/main", commit, target)
        assert isinstance(found, Source)
        assert len(list((tmp_path / "data" / "mirrors").iterdir())) == (1 if bytes_max else 0)
