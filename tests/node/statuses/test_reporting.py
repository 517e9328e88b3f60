"""A replica tells the forges what it executed itself, under its own name, once and in order."""

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ci.operations import Delivery, Event, SubmitBuild
from common.config_error import ConfigError
from common.repositories.repository_config import StatusTarget
from driver.ports import SaveFailed
from node.statuses.reporting import NodeReports
from node.statuses.status_file import FILE_NAME, StatusFile
from node.storage.damage import StoreDamaged, StoreUnusable
from pbft.ports import Entry, Executed, Record
from tests.forge_server import TOKEN, Answer, ForgeServer
from tests.node.local_network import COMMIT, NAMES, Network
from tests.secret_files import secret_file
from tests.waiting import wait_until

URL = "https://example.org/r.git"


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    """Four running replicas whose builds wait until they are allowed to end."""
    network = Network(tmp_path / "network")
    for name in NAMES:
        network.start(name)
        network.runners[name].allowed.clear()
    yield network
    await network.close()


def reports_of(network: Network, name: str, forge: ForgeServer, folder: Path) -> NodeReports:
    """The reporting of one replica, with a file of its own in that folder."""
    folder.mkdir(exist_ok=True)
    token = secret_file(folder / "token", TOKEN)
    target = StatusTarget("gitea", forge.api_url, "owner/name", token)
    return NodeReports(
        network.runtimes[name],
        targets={URL: target},
        public_url="https://ci.example.org/",
        directory=folder,
    )


def allow(network: Network) -> None:
    for name in NAMES:
        network.runners[name].allowed.set()


async def test_each_replica_says_what_it_executed_under_its_own_name(
    network: Network, tmp_path: Path
) -> None:
    with ForgeServer("gitea") as forge:
        reports = [reports_of(network, name, forge, tmp_path / name) for name in NAMES]
        for report in reports:
            report.start()
        network.submit()
        await wait_until(lambda: len(forge.statuses) == 4, "four pending statuses")
        allow(network)
        await wait_until(lambda: len(forge.statuses) == 8, "four verdicts")
        for report in reports:
            await report.close()
    assert forge.wrong == []
    for name in NAMES:
        said = [status for status in forge.statuses if status.context == f"pbft-ci/{name}"]
        assert [status.state for status in said] == ["pending", "success"]
        assert "of 4 replicas: exit 0" in said[1].description
        assert {status.commit for status in said} == {COMMIT}
        assert said[1].target_url is not None
        assert said[1].target_url.startswith("https://ci.example.org/builds/")
    texts = {s.description for s in forge.statuses if s.state == "success"}
    assert len(texts) == 1, "a verdict is frozen: all say the same"


async def test_what_was_decided_while_it_was_down_is_told_later_and_only_once(
    network: Network, tmp_path: Path
) -> None:
    with ForgeServer("gitea") as forge:
        forge.answer_with = lambda number: Answer(503, "down")
        reports = reports_of(network, "node0", forge, tmp_path / "a")
        network.submit()
        await wait_until(lambda: bool(network.applications["node0"].open_builds()), "an open build")
        reports.update()
        reports.update()
        assert reports.reporter.queue.count() == 1
        await reports.close()
        allow(network)
        await wait_until(lambda: network.verdicts("node0") == 1, "a verdict")
        forge.answer_with = lambda number: None
        reports = reports_of(network, "node0", forge, tmp_path / "a")
        reports.start()
        await wait_until(lambda: len(forge.statuses) == 1, "the verdict")
        await reports.close()
        reports = reports_of(network, "node0", forge, tmp_path / "a")
        reports.update()
        assert reports.reporter.queue.count() == 0
        await reports.close()
    assert [status.state for status in forge.statuses] == ["success"]


async def test_what_is_not_on_disk_yet_is_told_to_nobody(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash now would forget that the build was opened."""
    monkeypatch.setattr("node.replica.runtime.SAVE_RETRY_SECONDS", 0.02)
    runtime, store = network.runtimes["node0"], network.stores["node0"]
    real_save, is_full = store.save, True

    def save(records: Sequence[Record], *rest: Any) -> None:
        if is_full and any(isinstance(record, Executed) for record in records):
            raise SaveFailed("no space left on device")
        real_save(records, *rest)

    monkeypatch.setattr(store, "save", save)
    network.submit()
    await wait_until(lambda: bool(network.applications["node0"].open_builds()), "an open build")
    assert runtime.is_unsaved
    with ForgeServer("gitea") as forge:
        reports = reports_of(network, "node0", forge, tmp_path / "a")
        reports.update()
        assert reports.reporter.queue.count() == 0
        is_full = False
        await wait_until(lambda: not runtime.is_unsaved, "the build on disk")
        reports.update()
        assert reports.reporter.queue.count() == 1
        await reports.close()


async def test_a_new_file_does_not_tell_old_verdicts(network: Network, tmp_path: Path) -> None:
    allow(network)
    network.submit()
    await wait_until(lambda: network.verdicts("node0") == 1, "a verdict")
    with ForgeServer("gitea") as forge:
        reports = reports_of(network, "node0", forge, tmp_path / "new")
        reports.update()
        assert reports.reporter.queue.count() == 0
        await reports.close()


async def test_who_recovers_tells_no_verdict_from_before_its_recovery(
    network: Network, tmp_path: Path
) -> None:
    """With its disk it lost what it told, and the ledger comes back from the first entry on."""
    allow(network)
    core = network.runtimes["node0"].replica.core

    def waiting(reports: NodeReports, *, is_recovering: bool) -> int:
        # only while this looks: so it takes part as if it did not
        core.recovery.nonce = bytes(32) if is_recovering else b""
        reports.update()
        core.recovery.nonce = b""
        return reports.reporter.queue.count()

    with ForgeServer("gitea") as forge:
        core.recovery.nonce = bytes(32)
        reports = reports_of(network, "node0", forge, tmp_path / "new")
        assert waiting(reports, is_recovering=True) == 0
        network.submit(1)
        await wait_until(lambda: network.verdicts("node0") == 1, "a verdict")
        assert waiting(reports, is_recovering=True) == 0
        await reports.close()
        reports = reports_of(network, "node0", forge, tmp_path / "new")
        assert waiting(reports, is_recovering=True) == 0, "nor after another start"
        assert waiting(reports, is_recovering=False) == 0
        network.submit(2)
        await wait_until(lambda: network.verdicts("node0") == 2, "another verdict")
        assert waiting(reports, is_recovering=False) == 1
        await reports.close()


async def test_what_waits_for_approval_is_told_so(network: Network, tmp_path: Path) -> None:
    network.ask(
        SubmitBuild(
            bytes(32),
            URL,
            "main",
            COMMIT,
            Event.PULL_REQUEST,
            "refs/pull/1/head",
            Delivery("gitea", bytes(32)),
            needs_approval=True,
        )
    )
    await wait_until(lambda: bool(network.applications["node0"].open_builds()), "an open build")
    with ForgeServer("gitea") as forge:
        reports = reports_of(network, "node0", forge, tmp_path / "a")
        reports.update()
        waiting = reports.reporter.queue.next(URL)
        await reports.close()
    assert waiting is not None
    assert waiting.status.description.startswith("waits for an operator's approval")
    assert (waiting.status.ref, waiting.status.context) == (None, "pbft-ci/node0/pr")


async def test_a_disk_that_cannot_be_read_now_is_tried_again(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.statuses.reporting.LOOK_SECONDS", 0.02)
    ledger = network.stores["node0"].ledger
    real_entries, refused = ledger.entries, 0

    def entries(*arguments: int) -> list[Entry]:
        nonlocal refused
        refused += 1
        if refused <= 3:
            raise StoreUnusable("input/output error")
        return real_entries(*arguments)

    monkeypatch.setattr(ledger, "entries", entries)
    with ForgeServer("gitea") as forge:
        reports = reports_of(network, "node0", forge, tmp_path / "a")
        task = reports.start()
        allow(network)
        network.submit()
        await wait_until(lambda: "success" in {s.state for s in forge.statuses}, "the verdict")
        assert refused > 3
        assert not task.done()
        await reports.close()


async def test_a_store_that_is_damaged_ends_its_task(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so the node: see test_main.py."""

    monkeypatch.setattr("node.statuses.reporting.LOOK_SECONDS", 0.02)
    reads = itertools.count()

    def entries(*_: int) -> list[Entry]:
        if next(reads) == 0:
            return []
        raise StoreDamaged("its structure is broken")

    monkeypatch.setattr(network.stores["node0"].ledger, "entries", entries)
    with ForgeServer("gitea") as forge:
        reports = reports_of(network, "node0", forge, tmp_path / "a")
        with pytest.raises(StoreDamaged):
            await asyncio.wait_for(reports.start(), 20)
        await reports.close()


def test_a_file_of_a_newer_format_or_none_of_ours_is_refused_by_name(tmp_path: Path) -> None:
    StatusFile(tmp_path, 0).close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version=999")
    connection.close()
    with pytest.raises(ConfigError, match="has format 999, this version reads 1; use the version"):
        StatusFile(tmp_path, 0)
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match="move it away"):
        StatusFile(tmp_path, 0)


def test_it_goes_on_from_where_it_was(tmp_path: Path) -> None:
    file = StatusFile(tmp_path, 5)
    with file.transaction():
        file.note_told(9)
    with pytest.raises(ZeroDivisionError), file.transaction():
        file.note_told(1 // 0)
    file.close()
    again = StatusFile(tmp_path, 5)
    assert again.told == 9
    again.close()


async def test_another_target_is_taken_while_it_runs(network: Network, tmp_path: Path) -> None:
    """What waits for one that is gone stays in the queue, and goes to the one that comes."""
    with ForgeServer("gitea") as old, ForgeServer("gitea") as new:
        old.answer_with = lambda number: Answer(503, "down")
        reports = reports_of(network, "node0", old, tmp_path / "a")
        reports.start()
        network.submit()
        await wait_until(lambda: old.requests > 0, "a post to the old one")
        reports.reporter.use_targets({})
        assert reports.reporter.repositories == frozenset()
        assert reports.reporter.queue.count() == 1
        target = StatusTarget("gitea", new.api_url, "owner/name", tmp_path / "a" / "token")
        reports.reporter.use_targets({URL: target})
        await wait_until(lambda: len(new.statuses) == 1, "a post to the new one")
        # the same again disturbs nothing
        reports.reporter.use_targets({URL: target})
        allow(network)
        await wait_until(lambda: len(new.statuses) == 2, "the verdict")
        await reports.close()
    assert old.statuses == []
    assert [status.state for status in new.statuses] == ["pending", "success"]
