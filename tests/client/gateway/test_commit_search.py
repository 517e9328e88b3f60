"""client.gateway.commit_search: an accepted build is searched for until its commit is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ci.operations import Event
from ci.statement import parse_statement
from client.gateway import commit_search
from client.gateway.resolve import FoundCommit, NoSuchBranch
from client.storage.database import Database, StorageFailed
from tests.ci.builders import COMMIT
from tests.client.gateway.test_gateway import decided, record_of, until
from tests.client.running_network import REPOSITORY, FixedResolver, Network, run_gateway


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


async def test_a_name_that_only_a_tag_has_is_built_as_that_tag(
    network: Network, tmp_path: Path
) -> None:
    resolver = FixedResolver(NoSuchBranch(), FoundCommit(COMMIT))
    running = await run_gateway(network, tmp_path, resolver)
    build = await running.gateway.submit(REPOSITORY, "v9", None)
    record = await decided(running, build)
    assert (record.event, record.ref, record.commit) == (Event.TAG, "refs/tags/v9", COMMIT)
    verdict = parse_statement(record.statement or b"").verdict
    assert (verdict.event, verdict.branch, verdict.ref) == (Event.TAG, "v9", "refs/tags/v9")
    await running.close()
