"""Many webhooks at once: each gets one verdict on every replica; none is lost over a kill -9."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.processes.conftest import NetworkMaker
from tests.processes.network import CLIENT, pipeline, verdict_entries
from tests.processes.webhook_load import builds_of, hook, make_webhooks, send_at_rate

pytestmark = pytest.mark.processes

WEBHOOKS = 12
# At 200 per second; `python -m tests.processes.webhook_load` measures for longer.
LOAD_WEBHOOKS = 300
LOAD_PER_SECOND = 200.0


def test_a_dozen_webhooks_at_once_get_a_dozen_verdicts(
    make_network: NetworkMaker,
) -> None:
    branches = {f"branch-{n}": pipeline(f"exit {n}") for n in range(3)}
    network = make_network(branches)
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
    assert sorted(line["id"] for line in network.results_of(builds)) == sorted(builds)
    assert all(not network.build(build)["verdict"]["dissenting"] for build in builds)


def test_none_of_200_webhooks_per_second_is_lost_over_a_kill_of_the_gateway(
    make_network: NetworkMaker,
) -> None:
    """The gateway alone: what it answers does not wait for the network."""
    webhooks = make_webhooks(LOAD_WEBHOOKS)
    network = make_network({"main": pipeline("true")})
    hook(network, queue_max=2 * LOAD_WEBHOOKS)
    network.start(CLIENT)

    def kill() -> None:
        network.kill(CLIENT)
        network.start(CLIENT)

    url = f"{network.gateway_url}/webHook"
    sent = asyncio.run(send_at_rate(url, webhooks, LOAD_PER_SECOND, kill))
    assert {one.status for one in sent} <= {200, 202}, "none was refused"
    assert len({one.build for one in sent}) == LOAD_WEBHOOKS
    assert builds_of(network) == {one.build for one in sent}
    # once more, all of them: they are the same builds
    again = asyncio.run(send_at_rate(url, webhooks, 2 * LOAD_PER_SECOND))
    assert [one.build for one in again] == [one.build for one in sent]
    assert {one.status for one in again} == {200}
    assert len(builds_of(network)) == LOAD_WEBHOOKS
