"""What becomes of what a build staged and used, once the ledger has its verdict."""

from pathlib import Path

import pytest

from ci.ledger import AnyEntry, decode_entry
from ci.operations import Agreement, Ballot
from common.pipeline.pipeline_file import Cache, CachedPath
from node.caches import build_caches
from node.caches.build_caches import BuildCaches, CacheAccess, standing_of
from node.caches.cache_store import BuildKey, CacheStore
from node.caches.scope import Scope
from tests.ci.builders import ABSTAIN, FAILED, FAILED_2, PASSED, World, finding
from tests.node.caches.test_cache_store import RULES, content

CACHE = Cache("name", (CachedPath("home", "file"),), ("lock",))
FILES = {"lock": "1" * 64}
WEAK = finding(agreement=Agreement.WEAK)


def entries_after(*ballots: Ballot) -> tuple[BuildKey, list[AnyEntry]]:
    """A real ledger: four replicas cast these in their order, replica-0 first."""
    world = World()
    build = world.open()
    opened = world.opened(build)
    for index, ballot in enumerate(ballots):
        world.cast(build, index, ballot)
    return (build.hex(), opened), [decode_entry(entry.body) for entry in world.ledger]


class Site:
    """The caches of replica-0 or another, and a build in them."""

    def __init__(self, folder: Path, replica: str) -> None:
        self.folder = folder
        self.replica = replica
        self.caches = self.again()

    def again(self) -> BuildCaches:
        store = CacheStore(self.folder, RULES, free_bytes=lambda _: 2**40)
        self.caches = BuildCaches(store, self.replica)
        self.caches.start()
        return self.caches

    def access(self, build: BuildKey, *, is_written: bool = True) -> CacheAccess:
        scope = Scope("main", is_written)
        access = self.caches.access(build, scope, "url", caches=(CACHE,), files=FILES)
        for _, entry in access.find(("image",), lambda _: None):
            assert access.note_use(entry)
            access.used.append(entry)
        return access

    def stage(self, build: BuildKey) -> None:
        access = self.access(build)
        for cache, key in access.to_write():
            assert access.stage(cache, key, content(100))

    def finish(self, build: BuildKey, entries: list[AnyEntry], *, is_late: bool = False) -> None:
        """The build is staged, and the ledger has these entries; is_late: in the other order."""
        standings = []
        if not is_late:
            standings.append(self.caches.note_staged(build))
        standings += [self.caches.note_entry(entry) for entry in entries]
        if is_late:
            standings.append(self.caches.note_staged(build))
        for standing in standings:
            if standing is not None:
                self.caches.conclude(standing)
        assert not self.caches.is_waiting

    @property
    def entry_count(self) -> int:
        self.caches.store.sweep()
        return self.caches.store.counts.entries


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    ("replica", "ballots", "is_kept"),
    [
        (0, (PASSED, PASSED, PASSED), True),
        # a ballot behind the verdict
        (3, (PASSED, PASSED, PASSED, PASSED), True),
        # another green: the images differ
        (3, (PASSED, PASSED, PASSED, finding(image_digest="sha256:" + "1" * 64)), False),
        (0, (FAILED, FAILED), False),
        (0, (PASSED, FAILED, FAILED), False),
        (0, (PASSED, PASSED, FAILED, FAILED_2), False),
        (0, (ABSTAIN, PASSED, PASSED, PASSED), False),
    ],
)
def test_what_a_build_left_is_kept_only_if_a_passed_verdict_confirms_it(
    tmp_path: Path, *, is_late: bool, replica: int, ballots: tuple[Ballot, ...], is_kept: bool
) -> None:
    build, entries = entries_after(*ballots)
    site = Site(tmp_path, f"replica-{replica}")
    site.stage(build)
    assert site.entry_count == 0
    site.finish(build, entries, is_late=is_late)
    assert site.entry_count == is_kept
    assert len(list(tmp_path.glob("*.tar"))) == is_kept


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize(
    ("replica", "ballots", "is_there"),
    [
        (0, (PASSED, PASSED, PASSED), True),
        (0, (FAILED, FAILED), True),
        (0, (FAILED, PASSED, PASSED, PASSED), False),
        (3, (PASSED, PASSED, PASSED, FAILED), False),
        (0, (PASSED, FAILED, FAILED), False),
        # nothing was agreed on
        (0, (PASSED, PASSED, FAILED, FAILED_2), True),
        (0, (ABSTAIN, PASSED, PASSED, PASSED), True),
    ],
)
def test_what_a_build_used_goes_if_its_finding_differs(
    tmp_path: Path, *, is_restarted: bool, replica: int, ballots: tuple[Ballot, ...], is_there: bool
) -> None:
    site = Site(tmp_path, f"replica-{replica}")
    first = ("f" * 64, 1)
    site.stage(first)
    site.caches.store.keep(first)
    site.caches.forget(first)
    build, entries = entries_after(*ballots)
    assert site.access(build, is_written=False).used
    site.caches.note_staged(build)
    if is_restarted:
        site.again()
    site.finish(build, entries)
    assert site.entry_count == is_there


def test_a_restart_drops_what_waited(tmp_path: Path) -> None:
    build, entries = entries_after(PASSED, PASSED, PASSED)
    site = Site(tmp_path, "replica-0")
    site.stage(build)
    site.again()
    assert [site.caches.note_entry(entry) for entry in entries] == [None] * len(entries)
    assert site.entry_count == 0


def test_only_so_many_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_caches, "WAITING_MAX", 1)
    build, entries = entries_after(PASSED, PASSED, PASSED)
    site = Site(tmp_path, "replica-0")
    site.stage(build)
    site.access(("e" * 64, 1))
    standing = site.caches.note_staged(build)
    assert standing is not None
    site.caches.conclude(standing)
    site.caches.forget(("e" * 64, 1))
    site.finish(build, entries)
    assert site.entry_count == 0


def test_what_others_cast_says_nothing_of_this_replica() -> None:
    _, entries = entries_after(PASSED, PASSED, PASSED, FAILED)
    assert [standing_of(entry, "replica-3") for entry in entries[:-1]] == [None] * (
        len(entries) - 1
    )
    late = standing_of(entries[-1], "replica-3")
    assert late is not None
    assert (late.is_confirmed, late.is_dissent) == (False, True)
    assert standing_of(entries[-1], "replica-0") is None
