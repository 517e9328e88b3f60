"""Which mirrors stay on the disk, for how long."""

import os
from pathlib import Path

import pytest

from node.sources.mirror import Source
from node.sources.mirror_cache import MirrorCache
from tests.node.conftest import WORKSPACE_BYTES, CheckoutMaker, ConfigMaker, GitRepository

DAY = 86_400
NOW = 1e9


def put(cache: MirrorCache, name: str, size_bytes: int, age_days: float) -> Path:
    """A mirror of that size that was used so long ago."""
    mirror = cache.path_of(name)
    (mirror / "objects").mkdir(parents=True)
    (mirror / "objects" / "pack").write_bytes(b"x" * size_bytes)
    os.utime(mirror, (NOW - age_days * DAY,) * 2)
    return mirror


def cache_of(folder: Path, bytes_max: int = 10**9, days_max: int = 30) -> MirrorCache:
    cache = MirrorCache(folder / "mirrors", bytes_max, days_max, now=lambda: NOW)
    cache.start()
    return cache


def tidy(cache: MirrorCache) -> None:
    cache.remove(cache.withdraw(cache.measure()))


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "mirrors").iterdir()}


async def test_by_age(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    put(cache, "old", 1, 31)
    put(cache, "new", 1, 29)
    used = put(cache, "used", 1, 365)
    with cache.using(used):
        tidy(cache)
        assert names(tmp_path) == {"new.git", "used.git"}
    # its use was just now
    tidy(cache)
    assert names(tmp_path) == {"new.git", "used.git"}


async def test_by_size(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, bytes_max=250)
    oldest = put(cache, "oldest", 100, 3)
    written = put(cache, "written", 100, 2.5)
    for index in range(3):
        put(cache, f"m{index}", 100, 2 - index / 2)
    with cache.using(oldest):
        async with cache.lock(written):
            tidy(cache)
    assert names(tmp_path) == {"oldest.git", "written.git"}
    tidy(cache)
    assert names(tmp_path) == {"oldest.git", "written.git"}


async def test_what_a_crash_left_on_its_way_out(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, bytes_max=0)
    put(cache, "a", 1, 1)
    assert cache.withdraw(cache.measure())
    assert names(tmp_path) == {"a.removed"}
    cache_of(tmp_path)
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
        found = await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )
        assert isinstance(found, Source)
        assert len(list((tmp_path / "data" / "mirrors").iterdir())) == (1 if bytes_max else 0)
