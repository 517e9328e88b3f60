"""How long nobody is answered when the primary is killed under load.

Clients ask without pause; the primary gets kill -9; the longest time without any accepted answer
that begins around the kill is the time without service. It is compared with the view-change timer
of the configuration (`view_change_seconds`). Then the killed node is started again, and once it
has caught up the next primary's turn comes, so the network is whole each time.
"""

import asyncio
import time
from itertools import pairwise

from bench.closed_loop import answered
from bench.context import Context
from bench.figures import spread
from bench.network import BenchFailed, open_network, wait_until_linked
from bench.noop_clients import NoopClient, client_names, noop_clients
from bench.rows import Row, Target
from scripts.harness import Network

NAME = "failover"
CLIENTS = 8
TIMER_SECONDS = 2.0
TARGET = Target(2.0)
WARM_SECONDS = 1.0
AFTER_SECONDS = 1.0
SERVICE_SECONDS_MAX = 60.0
CAUGHT_UP_SECONDS_MAX = 90.0
MISSES_MAX = 3
POLL_SECONDS = 0.05


async def run(context: Context) -> list[Row]:
    """One kill after another. Raises BenchFailed, NetworkFailed, StartFailed."""
    names = client_names(CLIENTS)
    timers = {"view_change_seconds": TIMER_SECONDS, "view_change_seconds_max": 8 * TIMER_SECONDS}
    with open_network(context, NAME, clients=names, overrides={"node": timers}) as network:
        await asyncio.to_thread(network.start, *network.node_names)
        await asyncio.to_thread(wait_until_linked, network)
        async with noop_clients(network, names) as clients:
            gaps = await kill_primaries(
                context, network, clients, kills=1 if context.is_quick else 7
            )
    return [
        Row(
            bench=NAME,
            what="time without service when the primary is killed under load",
            against=f"the view-change timer ({TIMER_SECONDS:g} s)",
            target=TARGET,
            ratio=spread([gap / TIMER_SECONDS for gap in gaps]),
            figures={"s": spread(gaps).median},
        )
    ]


async def kill_primaries(
    context: Context, network: Network, clients: list[NoopClient], *, kills: int
) -> list[float]:
    """Kill so many primaries, each once the network is whole; seconds without service of each.

    Raises BenchFailed, NetworkFailed.
    """
    gaps: list[float] = []
    misses = 0
    while len(gaps) < kills:
        gap = await _kill_primary(network, clients)
        if gap is not None:
            gaps.append(gap)
            context.say(f"kill {len(gaps)} of {kills}: {gap:.2f} s without service")
        elif (misses := misses + 1) > MISSES_MAX:
            raise BenchFailed("the primary changes by itself, before it can be killed")
        if len(gaps) < kills:
            await asyncio.to_thread(_wait_until_caught_up, network)
    return gaps


async def _kill_primary(network: Network, clients: list[NoopClient]) -> float | None:
    """Seconds without service; the killed node runs again afterwards.

    None where no view ended by it: on a busy machine the primary may just have become another.
    """
    status = await asyncio.to_thread(network.status, network.node_names[0])
    primary = str(status["primary"])
    survivor = next(name for name in network.node_names if name != primary)
    for client in clients:
        client.answers.clear()
        client.start_asking()
    await asyncio.sleep(WARM_SECONDS)
    killed_at = time.monotonic()
    await asyncio.to_thread(network.kill, primary)
    while not answered(clients, killed_at + TIMER_SECONDS / 2, time.monotonic()):
        if time.monotonic() > killed_at + SERVICE_SECONDS_MAX:
            raise BenchFailed(f"no service {SERVICE_SECONDS_MAX:g} s after {primary} was killed")
        await asyncio.sleep(POLL_SECONDS)
    await asyncio.sleep(AFTER_SECONDS)
    await asyncio.gather(*(client.stop_asking() for client in clients))
    times = [at for _, at in answered(clients, 0.0, time.monotonic())]
    gap = max(later - earlier for earlier, later in pairwise(times) if later > killed_at)
    view = int((await asyncio.to_thread(network.status, survivor))["view"])
    await asyncio.to_thread(network.start, primary)
    return gap if view > int(status["view"]) else None


def _wait_until_caught_up(network: Network) -> None:
    """Wait until all nodes are linked, in one view, and stand at one place."""
    wait_until_linked(network)

    def is_equal() -> bool:
        found = [network.status(name) for name in network.node_names]
        return len({(s["view"], s["has_entered_view"], s["sequence"]) for s in found}) == 1

    network.wait_until(is_equal, "all nodes to stand at one place", CAUGHT_UP_SECONDS_MAX)
