"""node.going_over: when a replica leaves its epoch, be it sealed or was the replica away."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from common import epoch_folder as common_folder
from common.epoch_folder import LINK_NAME
from common.membership.confirmation import read_cluster
from common.membership.epochs import epochs_of, in_present_epoch
from common.web.bounded_http import bounded_session
from node.going_over import (
    LAGGARD_SECONDS,
    LEDGER_SECONDS,
    GoingOver,
    may_follow_link,
    may_go_over,
    may_leave_ledger,
)
from node.opening import open_replica, read_member
from node.replica.runtime import Runtime
from node.storage import epoch_folder, recovery_files
from node.storage.damage import StoreUnusable
from node.storage.epoch_folder import read_begin
from node.storage.store import Store
from pbft.core import Core
from pbft.epoch_link import EpochLink
from pbft.ports import SavedEntry
from tests.ci.builders import cluster_of
from tests.client.commands.epoch_links import lead, rekeyed
from tests.node.epochs import (
    AWAY,
    FIRST,
    LEDGER,
    SECOND,
    STATES,
    THIRD,
    TO_SECOND,
    TO_THIRD,
    Others,
)
from tests.node.epochs import (
    GROWN as SEVEN,
)

BEFORE = cluster_of(4)
NAMES = BEFORE.replica_names
FOLLOWING = BEFORE.succeeded_by(cluster_of(4).genesis, 128, bytes(32))
GROWN = BEFORE.succeeded_by(cluster_of(7).genesis, 128, bytes(32))


@pytest.mark.parametrize(
    ("sealed", "begun", "waited", "goes"),
    [
        (4, 0, 0.0, True),
        (3, 0, 0.0, False),
        (3, 0, LAGGARD_SECONDS, True),
        # whoever is alone with the end waits: others need its word
        (2, 0, 1000.0, False),
        (1, 0, 1000.0, False),
        # a replica that was away finds the others gone
        (1, 2, LAGGARD_SECONDS, True),
        (1, 3, 0.0, True),
    ],
)
def test_a_replica_leaves_once_strong_have_the_end_and_the_rest_had_its_time(
    sealed: int, begun: int, waited: float, goes: bool
) -> None:
    here, there = frozenset(NAMES[:sealed]), frozenset(NAMES[sealed : sealed + begun])
    assert may_go_over(BEFORE, FOLLOWING, sealed=here, begun=there, waited_seconds=waited) is goes


def test_a_next_epoch_that_only_waits_for_this_replica_is_enough() -> None:
    """Others of the old epoch have stopped, and newcomers count in the next one."""
    new = frozenset(GROWN.replica_names[4:])
    for begun, goes in ((new | {NAMES[1]}, True), (new, False)):
        is_time = may_go_over(
            BEFORE,
            GROWN,
            sealed=frozenset({NAMES[0]}),
            begun=begun,
            waited_seconds=LAGGARD_SECONDS,
        )
        assert is_time is goes


@pytest.mark.parametrize(
    ("missing", "whole", "waited", "goes"),
    [
        (0, 0, 0.0, True),
        (5, 0, LEDGER_SECONDS - 1, False),
        # one may lie about what it has, of two one does not
        (5, 1, LEDGER_SECONDS - 1, False),
        (5, 2, 0.0, True),
        # nobody in the old epoch gives more
        (5, 0, LEDGER_SECONDS, True),
    ],
)
def test_a_replica_fetches_the_ledger_entries_that_it_lacks_before_it_leaves(
    missing: int, whole: int, waited: float, goes: bool
) -> None:
    there = frozenset(NAMES[:whole])
    leaves = may_leave_ledger(FOLLOWING, missing=missing, whole=there, waited_seconds=waited)
    assert leaves is goes


@pytest.mark.parametrize(
    ("linked", "waited", "follows"),
    [
        (0, 0.0, True),
        # a member that stays in the ended epoch may still give it the end
        (1, LAGGARD_SECONDS - 1, False),
        (3, LAGGARD_SECONDS, True),
    ],
)
def test_a_replica_that_was_away_follows_a_link_once_nobody_gives_it_the_end(
    linked: int, waited: float, follows: bool
) -> None:
    assert may_follow_link(linked=linked, waited_seconds=waited) is follows


class Away:
    """replica-0 in the first epoch, with some of its ledger, while the others have gone over."""

    def __init__(self, others: Others) -> None:
        self.others = others
        others.links = {0: TO_SECOND}
        self.config = others.config(AWAY, others.put_file(FIRST, "cluster.yml"))
        self.connected: frozenset[str] = frozenset()
        self.going_over: GoingOver | None = None
        self.runtime: Runtime | None = None

    def open(self) -> GoingOver:
        """The node as it starts."""
        member = read_member(self.config)
        self.runtime = open_replica(self.config, member.identity, member.limits)
        self.going_over = GoingOver(
            self.config, self.runtime, member.others(), connected=lambda: self.connected
        )
        return self.going_over

    async def look(self) -> str | None:
        """One look; `over`, or what the node waits for."""
        going_over = self.going_over or self.open()
        async with bounded_session() as session:
            if await going_over._is_time_by_link(session):
                return "over"
        return going_over.waits_for

    def take_over(self) -> None:
        assert self.going_over is not None
        self.going_over.take_over()

    def epochs(self) -> list[int]:
        """Those that the node was in, at its next start."""
        return [read_cluster(each.cluster_file)[1].epoch for each in epochs_of(self.config)]

    def close(self) -> None:
        if self.runtime is not None:
            self.runtime.store.close()
        self.going_over = self.runtime = None


@pytest_asyncio.fixture
async def away(tmp_path: Path) -> AsyncIterator[Away]:
    others = Others(tmp_path)
    await others.start()
    made = Away(others)
    try:
        yield made
    finally:
        made.close()
        await others.close()


async def test_a_replica_that_was_away_goes_over_by_a_link_and_the_state_of_others(
    away: Away,
) -> None:
    away.others.put_file(SEVEN, "cluster.next.yml")
    away.open()
    assert away.runtime is not None
    away.runtime.store.save([SavedEntry(entry) for entry in LEDGER[:3]], [])
    assert await away.look() == "over"
    away.take_over()
    assert away.epochs() == [0, 1]
    present = in_present_epoch(away.config)
    assert read_cluster(present.cluster_file)[1].id == SECOND.id
    data = away.config.data_directory
    assert read_begin(data, SECOND) == STATES[1]
    assert not recovery_files.is_begun(data / "epoch-1")
    # it gives others the link, has the ledger that it had, and fetches the rest
    assert (data / "epoch-1" / LINK_NAME).read_bytes() == msgspec.msgpack.encode(TO_SECOND)
    store = Store(data / "epoch-1", SECOND.id, AWAY, lineage=SECOND.lineage)
    assert store.ledger.entries(1, 100) == LEDGER[:3]
    assert store.ledger.missing() == len(LEDGER) - 3
    store.close()


async def test_who_was_away_for_two_changes_passes_over_the_epoch_between(away: Away) -> None:
    away.others.links[1] = TO_THIRD
    away.others.put_file(FIRST, "cluster.next.yml")
    assert await away.look() == "over"
    away.take_over()
    assert away.epochs() == [0, 2]
    data = away.config.data_directory
    assert read_begin(data, THIRD) == STATES[2]
    assert [each.name for each in (data / "epoch-1").iterdir()] == [LINK_NAME]


async def test_who_has_the_end_and_the_file_of_a_later_epoch_passes_over_the_one_between(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its operator gives it the file late, when members have changed once more."""
    going_over = away.open()
    monkeypatch.setattr(Core, "is_sealed", property(lambda _: True))
    away.others.put_file(SEVEN, "cluster.next.yml")
    async with bounded_session() as session:
        assert not await going_over._is_time(session)
        away.others.links[1] = TO_THIRD
        away.others.put_file(FIRST, "cluster.next.yml")
        going_over._link_look_at = 0.0
        assert await going_over._is_time(session)
    away.take_over()
    assert away.epochs() == [0, 2]


async def test_an_epoch_that_was_to_be_passed_over_can_be_begun(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node ends after it kept the link, and then the operator gives the other file."""
    away.others.links[1] = TO_THIRD
    away.others.put_file(FIRST, "cluster.next.yml")
    assert await away.look() == "over"
    with monkeypatch.context() as patched:

        def fail(*_: object, **__: object) -> None:
            raise OSError("the power is gone")

        patched.setattr("node.succession.take_over", fail)
        with pytest.raises(StoreUnusable, match="the power is gone"):
            away.take_over()
    assert away.epochs() == [0]
    away.close()
    away.others.put_file(SEVEN, "cluster.next.yml")
    assert await away.look() == "over"
    away.take_over()
    assert away.epochs() == [0, 1]
    store = Store(away.config.data_directory / "epoch-1", SECOND.id, AWAY, lineage=SECOND.lineage)
    assert store.ledger.missing() == len(LEDGER)
    store.close()


async def test_a_crash_at_any_write_leaves_it_in_its_epoch_or_in_the_next(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    away.others.links[1] = TO_THIRD
    away.others.put_file(FIRST, "cluster.next.yml")
    write = epoch_folder._write

    def failing(count: int) -> Callable[[Path, bytes], None]:
        written: list[Path] = []

        def fail(file: Path, data: bytes) -> None:
            if len(written) == count:
                raise OSError("the power is gone")
            written.append(file)
            write(file, data)

        return fail

    for module, name, broken in (
        (common_folder, "sync_folder", failing(0)),
        *((epoch_folder, "_write", failing(count)) for count in range(3)),
    ):
        assert await away.look() == "over"
        with monkeypatch.context() as patched:
            patched.setattr(module, name, lambda *a, do=broken: do(*a) if a[1:] else do(a[0], b""))
            with pytest.raises(StoreUnusable, match="the power is gone"):
                away.take_over()
        assert away.epochs() == [0]
        away.close()
    assert await away.look() == "over"
    away.take_over()
    assert away.epochs() == [0, 2]


async def test_it_says_which_file_is_missing_and_fetches_nothing_before(away: Away) -> None:
    told = await away.look()
    assert told is not None
    assert "epoch 0 has ended, and the next one cannot begin here" in told
    assert "cluster.next.yml: is missing: it says where the members of epoch 1 are; put" in told
    assert not away.others.asked
    away.others.put_file(SEVEN, "cluster.next.yml")
    assert await away.look() == "over"


OF_ANOTHER_CLUSTER, _ = lead(rekeyed(FIRST), SEVEN)


@pytest.mark.parametrize(
    "link",
    [
        msgspec.structs.replace(TO_SECOND, checkpoints=TO_SECOND.checkpoints[:2]),
        OF_ANOTHER_CLUSTER,
        TO_THIRD,
        b"no link",
    ],
)
async def test_what_strong_replicas_of_its_epoch_did_not_sign_leads_it_nowhere(
    away: Away, link: EpochLink | bytes
) -> None:
    away.others.put_file(SEVEN, "cluster.next.yml")
    away.others.links = {0: link}
    assert await away.look() is None
    assert not away.others.asked


async def test_a_liar_that_gives_another_state_costs_one_question(away: Away) -> None:
    away.others.put_file(SEVEN, "cluster.next.yml")
    away.others.lies = {"replica-1": away.others.states[2]}
    told = await away.look()
    assert told is not None
    assert "replica-1 gave another state than epoch 1 begins with" in told
    assert await away.look() == "over"
    # it has the state now, and asks nobody again
    assert await away.look() == "over"
    assert away.others.asked == ["replica-1", "replica-2"]


async def test_it_asks_members_of_its_epoch_first_where_some_are_left(away: Away) -> None:
    away.others.put_file(SEVEN, "cluster.next.yml")
    away.connected = frozenset({"replica-3"})
    told = await away.look()
    assert told is not None
    assert "it asks 1 other replica for it, and then goes over without" in told
    away.connected = frozenset()
    assert await away.look() == "over"


async def test_it_waits_for_ledger_entries_that_members_that_leave_may_have(away: Away) -> None:
    away.others.put_file(SEVEN, "cluster.next.yml")
    away.open()
    assert away.runtime is not None
    away.runtime.store.note_ledger_position(LEDGER[4].index, LEDGER[4].head)
    told = await away.look()
    assert told is not None
    assert "this replica lacks 5 ledger entries, and fetches them first" in told


async def test_who_recovers_recovers_in_the_next_epoch_too(away: Away) -> None:
    """It may have voted there before it lost its disk, and was restored from an old backup."""
    away.others.put_file(SEVEN, "cluster.next.yml")
    away.config.data_directory.mkdir()
    recovery_files.note_begun(away.config.data_directory)
    assert await away.look() == "over"
    away.take_over()
    away.close()
    present = in_present_epoch(away.config)
    assert recovery_files.is_begun(away.config.data_directory / "epoch-1")
    assert read_cluster(present.cluster_file)[1].epoch == 1


async def test_a_replica_that_leaves_stays_and_says_so(away: Away) -> None:
    fewer = cluster_of(4)
    replicas = tuple(
        msgspec.structs.replace(member, name="replica-9") if member.name == AWAY else member
        for member in fewer.genesis.replicas
    )
    without = type(fewer)(msgspec.structs.replace(fewer.genesis, replicas=replicas))
    away.others.links = {0: lead(FIRST, without)[0]}
    away.others.addresses["replica-9"] = away.others.addresses["replica-6"]
    told = await away.look()
    assert told is not None
    assert f"{AWAY} is no replica of epoch 1" in told
