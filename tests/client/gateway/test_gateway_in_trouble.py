"""gateway goes on: after a disk that could not be read, and replicas that forgot a build."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ci.operations import Outcome
from ci.statement import parse_statement
from client.storage.database import StorageFailed
from client.storage.outbox import Outbox
from pbft.codec import decode_request
from pbft.messages import Reply
from tests.ci.builders import COMMIT
from tests.client.gateway.test_gateway import altered_reply, decided, record_of, until
from tests.client.running_network import REPOSITORY, Network, Running, passed, run_gateway


class UnreadableDisk:
    """While it is bad, nothing can be read from a gateway's database."""

    def __init__(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_bad = False
        self.failures = 0
        self._rows = running.database.rows
        monkeypatch.setattr(running.database, "rows", self._read)

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if self.is_bad:
            self.failures += 1
            raise StorageFailed("disk I/O error")
        return self._rows(statement, values)


async def test_a_link_that_is_made_while_the_disk_cannot_be_read(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = UnreadableDisk(running, monkeypatch)
    disk.is_bad = True
    running.gateway.on_connected("replica-0")
    assert "disk I/O error" in caplog.text
    disk.is_bad = False
    await decided(running, await running.gateway.submit(REPOSITORY, "master", None))


async def test_a_full_disk_is_logged_once_a_minute_and_anew_after_it_had_room(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    transaction = running.database.transaction
    is_full = True

    def refuse_if_full() -> contextlib.AbstractContextManager[None]:
        if is_full:
            raise StorageFailed("disk full")
        return transaction()

    monkeypatch.setattr(running.database, "transaction", refuse_if_full)

    async def fail_three_times() -> int:
        for _ in range(3):
            with pytest.raises(StorageFailed):
                await running.gateway.submit(REPOSITORY, "master", None)
        return caplog.text.count("disk full; trying again")

    assert await fail_three_times() == 1
    is_full = False
    await decided(running, await running.gateway.submit(REPOSITORY, "master", None))
    is_full = True
    assert await fail_three_times() == 2
    monkeypatch.setattr("client.gateway.gateway.STORAGE_TOLD_SECONDS", 0.0)
    assert await fail_three_times() == 5
    is_full = False


async def test_a_build_is_collected_also_after_the_disk_could_not_be_read(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes bad as soon as the verdict is on it, and is good again after some tries."""
    monkeypatch.setattr("client.gateway.gateway.ATTEST_AGAIN_SECONDS", 0.02)
    disk = UnreadableDisk(running, monkeypatch)
    complete = running.gateway._complete_envelope
    repairs: list[asyncio.Task[None]] = []

    async def repair() -> None:
        await until(lambda: disk.failures > 2)
        disk.is_bad = False

    def complete_without_disk(build: bytes) -> None:
        disk.is_bad = True
        repairs.append(asyncio.create_task(repair()))
        complete(build)

    monkeypatch.setattr(running.gateway, "_complete_envelope", complete_without_disk)
    running.network.alter = altered_reply(
        running.network, "replica-0", lambda reply: {"attestation": bytes(64)}
    )
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: bool(repairs) and all(task.done() for task in repairs))
    await until(lambda: running.gateway._answering.is_envelope_complete(build))
    await until(lambda: record_of(running, build).collected)
    assert running.gateway.task is not None
    assert not running.gateway.task.done()


# --- replicas that forgot a build which they had opened -------------------------------------------


def forget(network: Network, number: int) -> None:
    """Have all replicas say of that number that it is used, whatever they know of it."""

    def change(reply: Reply) -> dict[str, object]:
        if reply.timestamp != number:
            return {}
        return {
            "request_digest": bytes(32),
            "kind": "used",
            "subject": b"",
            "result": str(number).encode(),
            "attestation": b"",
        }

    changes = {name: altered_reply(network, name, change) for name in network.nodes}
    network.alter = lambda name, envelope: changes[name](name, envelope)


def remember(network: Network) -> None:
    network.alter = lambda name, envelope: envelope


def times_asked(network: Network, number: int) -> int:
    return sum(decode_request(signed).timestamp == number for signed in network.asked)


async def open_build(running: Running) -> tuple[bytes, int]:
    """A build that the network has opened, nobody finishes, and the number that it has."""
    for node in running.network.nodes.values():
        node.finds = lambda build: None
    build = await running.gateway.submit(REPOSITORY, "master", COMMIT)
    await until(lambda: record_of(running, build).opened_at is not None)
    row = Outbox(running.database).build_row(build)
    assert row is not None
    assert row.timestamp is not None
    return build, row.timestamp


async def test_a_withdrawn_build_that_was_forgotten_is_asked_for_until_its_verdict(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network has cancelled it: it is not one that was never asked for."""
    monkeypatch.setattr("client.gateway.gateway.FORGOTTEN_AGAIN_SECONDS", 0.05)
    network = running.network
    build, number = await open_build(running)
    forget(network, number)
    await running.gateway.cancel(build, "not wanted")
    # once to each of four for its opening, and three times more
    await until(lambda: times_asked(network, number) >= 16)
    record = record_of(running, build)
    assert (record.statement, record.is_never_asked) == (None, False)
    remember(network)
    statement = (await decided(running, build)).statement
    assert statement is not None
    assert parse_statement(statement).verdict.outcome is Outcome.CANCELLED
    await until(lambda: running.gateway.unfinished == 0)
    assert times_asked(network, number + 2) == 0, "it has its one number, the cancelling another"


async def test_a_build_that_was_forgotten_is_asked_for_across_a_restart(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.gateway.gateway.FORGOTTEN_AGAIN_SECONDS", 0.05)
    first = await run_gateway(network, tmp_path)
    build, number = await open_build(first)
    await first.close()
    for node in network.nodes.values():
        node.finds = lambda build: passed()
    forget(network, number)
    second = await run_gateway(network, tmp_path)
    await until(lambda: "forgotten" in (record_of(second, build).detail or ""))
    asked = times_asked(network, number)
    await until(lambda: times_asked(network, number) > asked)
    remember(network)
    record = await decided(second, build)
    assert record.detail is None
    assert {decode_request(signed).timestamp for signed in network.asked} == {number}
    await second.close()
