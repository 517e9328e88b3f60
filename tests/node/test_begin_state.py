"""node.begin_state: who is asked for the state of an epoch, and what of the answers counts."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import yaml

from common.configuration.config import AncestryEntry, NodeConfig
from common.web.bounded_http import bounded_session
from common.web.peers import Peers
from node import begin_state
from node.begin_state import SECONDS_MAX, SECONDS_MIN, BeginStateFetch, Turns, join_by_itself
from node.opening import read_member
from node.storage import recovery_files
from node.storage.epoch_folder import read_begin
from node.storage.store import Store
from pbft.genesis import Cluster
from tests.node.epochs import LEDGER, NEW, SECOND, STATES, Others
from tests.waiting import wait_until

ALL = ("a", "b", "c")


def test_each_is_asked_in_turn_and_gets_more_time_once_all_had_theirs() -> None:
    turns = Turns(ALL)
    asked = [turns.next() for _ in range(7)]
    assert [name for name, _ in asked] == [*ALL, *ALL, "a"]
    assert [seconds / SECONDS_MIN for _, seconds in asked] == [1, 1, 1, 2, 2, 2, 4]
    for _ in range(100):
        _, seconds = turns.next()
    assert seconds == SECONDS_MAX


def test_who_gave_another_state_is_not_asked_before_the_others() -> None:
    turns = Turns(ALL)
    first, _ = turns.next()
    turns.note_wrong(first)
    assert [turns.next()[0] for _ in range(4)] == ["b", "c", "b", "c"]
    # where all are wrong, perhaps none of them is
    for name in ("b", "c"):
        turns.note_wrong(name)
    assert {turns.next()[0] for _ in range(3)} == set(ALL)


class Joining:
    """A replica that is new in the second epoch, and the others there."""

    def __init__(self, others: Others) -> None:
        self.others = others
        ancestry = SECOND.ancestry
        assert ancestry is not None
        file = others.put_file(SECOND, "cluster.yml")
        settings = yaml.safe_load(file.read_text())
        settings["ancestry"] = msgspec.to_builtins(AncestryEntry.of(ancestry))
        file.write_text(yaml.safe_dump(settings))
        self.config: NodeConfig = others.config(NEW, file)

    @property
    def cluster(self) -> Cluster:
        return read_member(self.config).identity.cluster

    async def fetched(self, times: int) -> tuple[Mapping[str, bytes] | None, str]:
        """The state after that many questions, one at a time, and what is missing."""
        member = read_member(self.config)
        fetch = BeginStateFetch(self.config, self.cluster, member.others())
        parts = None
        async with bounded_session() as session:
            for _ in range(times):
                assert parts is None
                parts = await fetch.ask(session)
        return parts, fetch.reason


@pytest_asyncio.fixture
async def joining(tmp_path: Path) -> AsyncIterator[Joining]:
    others = Others(tmp_path)
    await others.start()
    yield Joining(others)
    await others.close()


async def test_any_member_may_give_the_state_and_wrong_bytes_are_its_fault(
    joining: Joining,
) -> None:
    """replica-0 gives another epoch's, replica-1 no state at all, replica-2 the right one."""
    others = joining.others
    others.lies = {"replica-0": others.states[2], "replica-1": b"\xff\xff"}
    parts, reason = await joining.fetched(3)
    assert parts == STATES[1]
    assert others.asked == ["replica-0", "replica-1", "replica-2"]
    assert reason == "replica-1 gave another state than epoch 1 begins with"
    # nothing of it stays
    assert not list((others.folder / "data").iterdir())


async def test_who_gives_too_much_or_too_slowly_is_left(
    joining: Joining, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = joining.others
    others.lies = {"replica-0": b"\x00" * 100_000}
    others.silent = {"replica-1"}
    monkeypatch.setattr(begin_state, "FETCHED_BYTES_MAX", 50_000)
    monkeypatch.setattr(begin_state, "SECONDS_MIN", 0.3)
    assert await joining.fetched(1) == (
        None,
        "replica-0 gave no state: more than the 50000 bytes that it may have",
    )
    parts, reason = await joining.fetched(3)
    assert parts == STATES[1]
    assert reason == "replica-1 gave no state: no whole answer in 0.3 s"


async def test_who_lacks_the_state_says_so(joining: Joining) -> None:
    joining.others.states.clear()
    assert await joining.fetched(1) == (
        None,
        "replica-0 gave no state: it answered with status 410",
    )
    fetch = BeginStateFetch(joining.config, joining.cluster, Peers({}))
    async with bounded_session() as session:
        assert await fetch.ask(session) is None
    assert fetch.reason == "no other replica is known"


async def test_a_disk_that_takes_nothing_is_told(joining: Joining) -> None:
    (joining.config.data_directory / "epoch-1.fetched").mkdir(parents=True)
    parts, reason = await joining.fetched(1)
    assert parts is None
    assert "epoch-1.fetched cannot be written: " in reason


@pytest.mark.parametrize("spoke_before", [False, True])
async def test_a_new_replica_begins_with_the_state_that_its_cluster_file_names(
    joining: Joining, spoke_before: bool
) -> None:
    """Whoever lost its disk says so, and the node recovers in the epoch that it begins."""
    data = joining.config.data_directory
    if spoke_before:
        data.mkdir()
        recovery_files.note_begun(data)
    member = read_member(joining.config)
    assert await join_by_itself(joining.config, member)
    assert read_begin(data, joining.cluster) == STATES[1]
    assert recovery_files.is_begun(data / "epoch-1") is spoke_before
    store = Store(data / "epoch-1", joining.cluster.id, NEW, lineage=joining.cluster.lineage)
    assert store.ledger.missing() == len(LEDGER)
    store.close()
    # it asks nobody again
    joining.others.asked.clear()
    assert await join_by_itself(joining.config, member)
    assert not joining.others.asked


async def test_a_new_replica_waits_until_it_is_told_to_stop(
    joining: Joining, caplog: pytest.LogCaptureFixture
) -> None:
    joining.others.states.clear()
    task = asyncio.create_task(join_by_itself(joining.config, read_member(joining.config)))
    await wait_until(lambda: "status 410" in caplog.text, "it says what it waits for")
    os.kill(os.getpid(), signal.SIGTERM)
    assert await task is False
    assert "epoch 1 begins here once another replica gives the state" in caplog.text
