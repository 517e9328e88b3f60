"""Real nodes with long links between all members, beside the simulator at the same distance.

A relay in front of each node passes everything on a while later, in both directions
(bench/delaying_relay.py): what replicas send each other, and what the gateway and clients send
them. The simulator (simulator/lab/distance.py) counts links and timers and nothing else, so what is
above it is CPU, disks and HTTP. The same nodes without a delay stand beside: the build itself, and
the CPU of an order, are taken from there.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator

import msgspec

from bench.build_times import build_seconds
from bench.closed_loop import measure
from bench.context import Context
from bench.failover import CLIENTS, TIMER_SECONDS, kill_primaries
from bench.figures import spread
from bench.network import open_network, wait_until_linked
from bench.noop_clients import client_names, noop_clients
from bench.rows import Row, Target
from scripts.configuration import HOST
from scripts.free_ports import free_ports
from scripts.harness import Network, start_python
from simulator.lab import distance

NAME = "links"
BRANCH = "master"
REPLICAS = 4
# One way.
MILLISECONDS = (50, 100, 200)
MILLISECONDS_QUICK = (50,)
RELAY_END_SECONDS = 10.0
TARGET = Target(1.2)
# What the rows are about.
ORDER, VERDICT, OUTAGE = WHAT = ("a noop", "a verdict", "outage when the primary is killed")
# The figures of the rows.
LINK = "link ms"
SECONDS = "s"
EXPECTED = "expected s"


class _Measured(msgspec.Struct, frozen=True):
    """In seconds. outages: of each kill of a primary; without a delay nothing is killed."""

    orders: list[float]
    verdicts: list[float]
    outages: list[float]


async def run(context: Context) -> list[Row]:
    """One delay after the other. Raises BenchFailed, NetworkFailed, StartFailed."""
    near = await _measure(context, 0)
    rows = []
    for milliseconds in MILLISECONDS_QUICK if context.is_quick else MILLISECONDS:
        context.say(f"links of {milliseconds} ms")
        far = await _measure(context, milliseconds)
        simulated = await asyncio.to_thread(
            distance.measure, REPLICAS, milliseconds / 1000, TIMER_SECONDS
        )
        rows += _rows(milliseconds, near, far, simulated=simulated)
    return rows


async def _measure(context: Context, milliseconds: int) -> _Measured:
    names = client_names(1 + CLIENTS)
    repetitions = 1 if context.is_quick else 5
    with _far_network(context, milliseconds, names) as network:
        await asyncio.to_thread(network.start)
        await asyncio.to_thread(wait_until_linked, network)
        async with noop_clients(network, names[:1]) as one:
            loads = [
                await measure(one, 2.0 if context.is_quick else 5.0, []) for _ in range(repetitions)
            ]

        def ask() -> str:
            return network.post(BRANCH)

        # mirrors are made, caches are warm
        await build_seconds(network, ask)
        verdicts = [(await build_seconds(network, ask)).seconds for _ in range(2 * repetitions)]
        outages: list[float] = []
        if milliseconds:
            async with noop_clients(network, names[1:]) as clients:
                kills = 1 if context.is_quick else 3
                outages = await kill_primaries(context, network, clients, kills=kills)
    return _Measured([load.p50_seconds for load in loads], verdicts, outages)


@contextlib.contextmanager
def _far_network(context: Context, milliseconds: int, names: list[str]) -> Iterator[Network]:
    """A network, not started yet, whose members reach each replica by a relay that runs."""
    own_ports = free_ports(REPLICAS)
    overrides: dict[str, dict[str, object]] = {
        "node": {
            "view_change_seconds": TIMER_SECONDS,
            "view_change_seconds_max": 8 * TIMER_SECONDS,
        }
    }
    for index, port in enumerate(own_ports):
        overrides[f"node{index}"] = {"listen": f"{HOST}:{port}"}
    with open_network(
        context,
        f"{NAME}-{milliseconds}",
        clients=names,
        replicas=REPLICAS,
        overrides=overrides,
    ) as network:
        entries = network.configuration.cluster.replicas
        ports = [
            f"{entry.address.port}:{port}" for entry, port in zip(entries, own_ports, strict=True)
        ]
        command = ["-m", "bench.delaying_relay", "--milliseconds", str(milliseconds), *ports]
        with (network.folder / "relay-output").open("wb") as output, open(os.devnull) as nothing:
            relay = start_python(command, (nothing, output, output), os.environ)
        try:
            yield network
        finally:
            network.close()
            relay.terminate()
            relay.wait(RELAY_END_SECONDS)


def _rows(
    milliseconds: int, near: _Measured, far: _Measured, *, simulated: distance.Distance
) -> list[Row]:
    near_order, near_verdict = spread(near.orders).median, spread(near.verdicts).median
    without = f"the simulator's {1000 * simulated.link_seconds:g} ms, and the same without a delay"
    return [
        _row(
            ORDER,
            without,
            milliseconds,
            measured=far.orders,
            expected=simulated.order_seconds + near_order,
        ),
        _row(
            VERDICT,
            without,
            milliseconds,
            measured=far.verdicts,
            expected=simulated.verdict_seconds + near_verdict,
        ),
        _row(
            OUTAGE,
            f"the simulator's, with a timer of {TIMER_SECONDS:g} s",
            milliseconds,
            measured=far.outages,
            expected=simulated.outage_seconds[1],
        ),
    ]


def _row(
    what: str, against: str, milliseconds: int, *, measured: list[float], expected: float
) -> Row:
    return Row(
        bench=NAME,
        what=f"links of {milliseconds} ms: {what}",
        against=against,
        target=TARGET,
        ratio=spread([seconds / expected for seconds in measured]),
        figures={
            LINK: milliseconds,
            SECONDS: spread(measured).median,
            EXPECTED: expected,
        },
    )
