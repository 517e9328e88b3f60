"""`noop` through consensus, beside what it cannot do without (bench/bound.py)."""

import asyncio
from functools import partial

from bench.bound_clients import bound_clients
from bench.closed_loop import Load, measure
from bench.context import Context
from bench.figures import ratios, spread
from bench.network import open_network, wait_until_linked
from bench.noop_clients import client_names, noop_clients
from bench.rows import Row, Target
from scripts.harness import Network

NAME = "noop"
CLIENTS = 64
AGAINST = "signatures, fsyncs and frames alone"
THROUGHPUT = Target(0.6, is_floor=True)
LATENCY = Target(2.2)


async def run(context: Context) -> list[Row]:
    """64 clients, one client, and one client with 64 requests under way.

    Raises BenchFailed, NetworkFailed, StartFailed.
    """
    names = client_names(CLIENTS + 2)
    with open_network(context, NAME, clients=names) as network:
        await asyncio.to_thread(network.start, *network.node_names)
        await asyncio.to_thread(wait_until_linked, network)
        many = await _compare(context, network, names[:CLIENTS], in_flight=1)
        one = await _compare(context, network, names[CLIENTS : CLIENTS + 1], in_flight=1)
        deep = await _compare(context, network, names[CLIENTS + 1 :], in_flight=CLIENTS)
    return [
        _throughput_row(f"noop, {CLIENTS} clients: operations per second", many),
        _latency_row("noop, 1 client: latency, p50", one),
        _throughput_row(f"noop, 1 client with {CLIENTS} under way: operations per second", deep),
    ]


_Sides = tuple[list[Load], list[Load]]


async def _compare(
    context: Context, network: Network, names: list[str], *, in_flight: int
) -> _Sides:
    """These clients of the product, and as many of the bound, in turn."""
    context.say(f"{len(names)} clients, {in_flight} under way each")
    seconds, repetitions = (1.0, 1) if context.is_quick else (5.0, 5)
    nodes = [network.processes[name].pid for name in network.node_names]
    async with (
        noop_clients(network, names, in_flight) as ours,
        bound_clients(network.folder, len(names), in_flight) as (theirs, bound),
    ):
        return await context.pairs(
            repetitions,
            partial(measure, ours, seconds, nodes),
            partial(measure, theirs, seconds, bound),
        )


def _throughput_row(what: str, sides: _Sides) -> Row:
    product, bound = sides
    rates = [load.operations_per_second for load in product]
    return Row(
        bench=NAME,
        what=what,
        against=AGAINST,
        target=THROUGHPUT,
        ratio=ratios(rates, [load.operations_per_second for load in bound]),
        figures={"operations/s": spread(rates).median, **_figures(product, bound)},
    )


def _latency_row(what: str, sides: _Sides) -> Row:
    product, bound = sides
    return Row(
        bench=NAME,
        what=what,
        against=AGAINST,
        target=LATENCY,
        ratio=ratios([load.p50_seconds for load in product], [load.p50_seconds for load in bound]),
        figures={
            "operations/s": spread([load.operations_per_second for load in product]).median,
            **_figures(product, bound),
        },
    )


def _figures(product: list[Load], bound: list[Load]) -> dict[str, float]:
    def milliseconds(seconds: list[float]) -> float:
        return 1000 * spread(seconds).median

    return {
        "CPU of the nodes, ratio": ratios(
            [load.server_cpu_seconds for load in product],
            [load.server_cpu_seconds for load in bound],
        ).median,
        "CPU ms/operation, nodes": milliseconds([load.server_cpu_seconds for load in product]),
        "clients": milliseconds([load.client_cpu_seconds for load in product]),
        "bound nodes": milliseconds([load.server_cpu_seconds for load in bound]),
        "bound clients": milliseconds([load.client_cpu_seconds for load in bound]),
        "p50 ms": milliseconds([load.p50_seconds for load in product]),
        "p99 ms": milliseconds([load.p99_seconds for load in product]),
        "bound operations/s": spread([load.operations_per_second for load in bound]).median,
        "bound p50 ms": milliseconds([load.p50_seconds for load in bound]),
        "bound p99 ms": milliseconds([load.p99_seconds for load in bound]),
    }
