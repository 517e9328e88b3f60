"""A running replica whose state goes wrong in memory says so loudly, and is given the right one."""

import logging
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci.operations import Append
from pbft.core import ReplicaStatus
from tests.node.local_network import NAMES, Network, server_of
from tests.waiting import wait_until

# That of the network's cluster: the state is compared at each such number.
INTERVAL = 8


async def test_a_state_that_goes_wrong_in_memory_is_told_and_repaired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(tmp_path)
    for name in NAMES:
        network.start(name)
    core = network.runtimes["node3"].replica.core
    is_held = True

    def is_cut(sender: str, receiver: str) -> bool:
        """Once node3 knows, it is given nothing for a while: else it may be right too soon."""
        return is_held and core.is_diverged and "node3" in (sender, receiver)

    monkeypatch.setattr(network, "is_cut", is_cut)
    network.ask(Append("right"))
    await wait_until(lambda: core.executed == 1, "the first number on node3")
    network.applications["node3"].journal_digest = bytes(32)
    for number in range(2, INTERVAL + 1):
        network.ask(Append(f"{number}"))
        await wait_until(
            lambda number=number: all(  # type: ignore[misc]
                runtime.replica.core.executed >= number for runtime in network.runtimes.values()
            ),
            f"number {number} on all",
        )
    await wait_until(lambda: core.is_diverged, "node3 knows that its state is wrong")
    (told,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert told.getMessage().startswith(f"diverged sequence={INTERVAL} own=")
    async with TestClient(TestServer(server_of(network, "node3").application())) as client:
        status = await (await client.get("/pbft/status")).json()
        assert (status["status"], status["in_sync"]) == ("diverged", False)
        ready = await client.get("/readyz")
        assert ready.status == 503
        assert "it is in status diverged" in (await ready.json())["reasons"]
        is_held = False
        await wait_until(lambda: core.status is ReplicaStatus.NORMAL, "the repair of node3")
        status = await (await client.get("/pbft/status")).json()
        assert status["status"] == "normal"
        assert status["counters"]["state_transferred"] == 1
    assert core.low == INTERVAL
    assert len({a.journal_digest for a in network.applications.values()}) == 1
    assert len({a.ledger_head for a in network.applications.values()}) == 1
    network.ask(Append("after"))
    await wait_until(lambda: core.executed == INTERVAL + 1, "node3 goes on")
    assert [r for r in caplog.records if r.levelno == logging.CRITICAL] == [told], "once"
    await network.close()
