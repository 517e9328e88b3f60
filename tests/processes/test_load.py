"""Thirty webhooks at once: thirty verdicts, each of them once, on every replica."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.processes.conftest import Engine, NetworkMaker
from tests.processes.network import pipeline, verdict_entries

pytestmark = pytest.mark.processes

WEBHOOKS = 30


@pytest.mark.timeout(300)
def test_thirty_webhooks_at_once_get_thirty_verdicts(
    engine: Engine, make_network: NetworkMaker
) -> None:
    branches = {f"branch-{n}": pipeline(f"exit {n}", image=engine.image) for n in range(3)}
    network = make_network(branches, executor=engine.executor)
    network.start()
    posted = [f"branch-{n % 3}" for n in range(WEBHOOKS)]
    with ThreadPoolExecutor(WEBHOOKS) as threads:
        builds = list(threads.map(network.post, posted))
    assert len(set(builds)) == WEBHOOKS
    views = network.verdicts(builds, seconds=200)
    for number, build in enumerate(builds):
        verdict = views[build]["verdict"]
        expected = ("failed", number % 3) if number % 3 else ("passed", 0)
        assert (verdict["outcome"], verdict["exit_code"]) == expected
    ledger = network.settle()
    assert sorted(entry.build for entry in verdict_entries(ledger)) == sorted(builds)
    assert sorted(line["id"] for line in network.results) == sorted(builds)
    assert all(not network.build(build)["verdict"]["dissenting"] for build in builds)
