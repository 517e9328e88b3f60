"""What TLS between members costs: `noop` with it, beside the same network without it."""

import asyncio
from collections.abc import Callable
from functools import partial

from bench.closed_loop import Load, measure
from bench.context import Context
from bench.figures import ratios, spread
from bench.network import open_network, wait_until_linked
from bench.noop_clients import client_names, noop_clients
from bench.rows import Row, Target
from scripts.harness import Network

NAME = "tls"
CLIENTS = 64
AGAINST = "the same without TLS"
THROUGHPUT = Target(0.85, is_floor=True)
LATENCY = Target(1.2)


async def run(context: Context) -> list[Row]:
    """One client, then 64, in two networks that stand side by side.

    Raises BenchFailed, NetworkFailed, StartFailed.
    """
    names = client_names(CLIENTS + 1)
    overrides = {"cluster": {"tls": "required"}}
    with (
        open_network(context, "with", clients=names, overrides=overrides) as secured,
        open_network(context, "without", clients=names) as plain,
    ):
        for network in (secured, plain):
            await asyncio.to_thread(network.start, *network.node_names)
            await asyncio.to_thread(wait_until_linked, network)
        one = await _compare(context, secured, plain, names=names[CLIENTS:])
        many = await _compare(context, secured, plain, names=names[:CLIENTS])
    return [
        _row(
            "noop over TLS, 1 client: latency, p50",
            LATENCY,
            one,
            value=lambda load: load.p50_seconds,
        ),
        _row(
            f"noop over TLS, {CLIENTS} clients: operations per second",
            THROUGHPUT,
            many,
            value=lambda load: load.operations_per_second,
        ),
    ]


_Sides = tuple[list[Load], list[Load]]


async def _compare(
    context: Context, secured: Network, plain: Network, *, names: list[str]
) -> _Sides:
    """These clients of the one network and of the other, in turn."""
    context.say(f"{len(names)} clients")
    seconds, repetitions = (1.0, 1) if context.is_quick else (5.0, 7)
    async with noop_clients(secured, names) as ours, noop_clients(plain, names) as theirs:
        return await context.pairs(
            repetitions,
            partial(measure, ours, seconds, _nodes(secured)),
            partial(measure, theirs, seconds, _nodes(plain)),
        )


def _nodes(network: Network) -> list[int]:
    return [network.processes[name].pid for name in network.node_names]


def _row(what: str, target: Target, sides: _Sides, *, value: Callable[[Load], float]) -> Row:
    secured, plain = sides
    return Row(
        bench=NAME,
        what=what,
        against=AGAINST,
        target=target,
        ratio=ratios([value(load) for load in secured], [value(load) for load in plain]),
        figures={
            "CPU of the nodes, ratio": ratios(
                [load.server_cpu_seconds for load in secured],
                [load.server_cpu_seconds for load in plain],
            ).median,
            **_figures("with", secured),
            **_figures("without", plain),
        },
    )


def _figures(which: str, loads: list[Load]) -> dict[str, float]:
    return {
        f"{which}: operations/s": spread([load.operations_per_second for load in loads]).median,
        f"{which}: p50 ms": 1000 * spread([load.p50_seconds for load in loads]).median,
        f"{which}: CPU ms/operation, nodes": 1000
        * spread([load.server_cpu_seconds for load in loads]).median,
    }
