"""client.gateway.write_queue: what counts against the limits of the queue."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from client.gateway.resolve import Unreachable
from client.storage.database import StorageFailed
from tests.client.running_network import REPOSITORY, FixedResolver, Network, run_gateway


class FullDisk:
    """A connection whose commits fail."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(statement, *values)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction


async def test_what_could_not_be_stored_takes_no_place_in_the_queue(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await run_gateway(network, tmp_path, FixedResolver(Unreachable("down")), 1)
    with monkeypatch.context() as patch:
        patch.setattr(running.database, "_connection", FullDisk(running.database._connection))
        with pytest.raises(StorageFailed):
            await running.gateway.submit(REPOSITORY, "master", None)
    assert running.gateway.unfinished == 0
    await running.gateway.submit(REPOSITORY, "master", None)
    assert running.gateway.unfinished == 1
    await running.close()
