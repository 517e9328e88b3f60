"""client.gateway goes on: after a disk that could not be read, and replicas that forgot a build."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from client.database import StorageFailed
from tests.client.network import REPOSITORY, Running
from tests.client.test_gateway import altered_reply, decided, record_of, until


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


async def test_a_build_is_collected_also_after_the_disk_could_not_be_read(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes bad as soon as the verdict is on it, and is good again a moment later."""
    monkeypatch.setattr("client.gateway.ATTEST_AGAIN_SECONDS", 0.02)
    disk = UnreadableDisk(running, monkeypatch)
    complete = running.gateway._complete_envelope

    def complete_without_disk(build: bytes) -> None:
        disk.is_bad = True
        asyncio.get_running_loop().call_later(0.2, setattr, disk, "is_bad", False)
        complete(build)

    monkeypatch.setattr(running.gateway, "_complete_envelope", complete_without_disk)
    running.network.alter = altered_reply(
        running.network, "replica-0", lambda reply: {"attestation": bytes(64)}
    )
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: disk.failures > 2 and not disk.is_bad)
    await until(lambda: running.gateway._answering.is_envelope_complete(build))
    await until(lambda: record_of(running, build).collected)
    assert running.gateway.task is not None
    assert not running.gateway.task.done()
