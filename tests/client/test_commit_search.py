"""client.commit_search: an accepted build is searched for until its commit is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from client import commit_search
from client.database import Database, StorageFailed
from tests.ci.builders import COMMIT
from tests.client.network import REPOSITORY, Network, run_gateway
from tests.client.test_gateway import record_of, until


async def test_a_disk_that_cannot_be_read_ends_no_search(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody would ask again before the next start."""
    running = await run_gateway(network, tmp_path)
    failed: list[str] = []
    rows = Database.rows

    def fail_once(self: Database, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        if not failed and "outbox_places" in query:
            failed.append(query)
            raise StorageFailed("disk I/O error")
        return rows(self, query, values)

    monkeypatch.setattr(Database, "rows", fail_once)
    monkeypatch.setattr(commit_search, "AGAIN_SECONDS", 0.05)
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).commit == COMMIT)
    assert failed
    await running.close()
