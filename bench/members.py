"""What more members cost: noops and builds of 7, 10 and 13 real nodes, beside the same of 4.

All nodes run on this machine, so they share its cores. What counts is the CPU of one replica for
one operation, which would be its own machine's: the paper has each replica send and receive a
number of messages that grows with n, so it may grow with n - 1, and not faster. Times by the wall
clock grow with all n replicas here, as on no real cluster.

Builds are plain processes: a container costs each replica the same whatever n is. What the network
costs at rest (STATUS, heartbeats) is measured apart and taken off.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator

import msgspec

from bench.build_times import build_seconds
from bench.closed_loop import Load, measure
from bench.context import Context
from bench.figures import ratios, spread
from bench.long_history import Growth, measure_growth, write_history
from bench.network import open_network, traffic_sent, wait_until_linked
from bench.noop_clients import NoopClient, client_names, noop_clients
from bench.process_use import children_cpu_seconds, cpu_seconds, resident_bytes
from bench.rows import Row, Target
from scripts.harness import CLIENT, Network

NAME = "members"
BRANCH = "master"
SIZES = (4, 7, 10, 13)
SIZES_QUICK = (4, 7)
IN_FLIGHT = 64
NOOP = "noop, 1 client"
DEEP = f"noop, 1 client with {IN_FLIGHT} under way"
BUILD = "build of a trivial process"
DISK = "bytes of a build in a node's database"
# The figures of the rows.
REPLICAS = "replicas"
CPU_OF_ALL = "CPU ms/operation, all"
CPU_OF_ONE = "CPU ms/operation, one"
CPU_OF_GATEWAY = "CPU ms/operation, gateway"
MESSAGES = "messages/operation"
KIB = "KiB/operation"
SECONDS = "s"
PER_SECOND = "operations/s"
IDLE_CPU = "idle CPU ms/s, one"
IDLE_MESSAGES = "idle messages/s, one"
IDLE_KIB = "idle KiB/s, one"
NODE_MIB = "node MiB"
GATEWAY_MIB = "gateway MiB"
NODE_KIB = "node KiB/build"
GATEWAY_KIB = "gateway KiB/build"
LEDGER_BYTES = "ledger bytes/build"
STATE_KIB = "state KiB"
# Of a history, for what a build leaves on disk.
HISTORY_BUILDS = 2000
HISTORY_BUILDS_QUICK = 200
IDLE_SECONDS = 5.0


class _Use(msgspec.Struct, frozen=True):
    """What all nodes used, with their children, and the gateway; sums since the starts."""

    cpu_seconds: float
    messages: float
    bytes: float
    gateway_cpu_seconds: float
    at: float

    def since(self, earlier: "_Use") -> "_Use":
        """What was used in between, and how long that was."""
        before = msgspec.structs.astuple(earlier)
        return _Use(*(a - b for a, b in zip(msgspec.structs.astuple(self), before, strict=True)))

    def without(self, idle: "_Use") -> "_Use":
        """Without what such a time costs at rest."""
        share = self.at / idle.at
        return _Use(
            self.cpu_seconds - share * idle.cpu_seconds,
            self.messages - share * idle.messages,
            self.bytes - share * idle.bytes,
            self.gateway_cpu_seconds - share * idle.gateway_cpu_seconds,
            self.at,
        )


class _Cost(msgspec.Struct, frozen=True):
    """Of one operation: all nodes together. seconds: until it is answered, the median."""

    seconds: float
    operations_per_second: float
    cpu_seconds: float
    messages: float
    bytes: float
    gateway_cpu_seconds: float = 0.0


class _Side(msgspec.Struct, frozen=True):
    """One network that runs. one, deep: clients with 1 and with 64 requests under way."""

    network: Network
    one: NoopClient
    deep: NoopClient
    idle: _Use

    @property
    def replicas(self) -> int:
        """How many."""
        return len(self.network.node_names)


_Costs = tuple[list[_Cost], list[_Cost]]


async def run(context: Context) -> list[Row]:
    """One size after the other beside the smallest. Raises BenchFailed, NetworkFailed, StartFailed.

    The smallest beside itself shows how far two equal measurements are apart.
    """
    first, *others = SIZES_QUICK if context.is_quick else SIZES
    async with _opened(context, first) as base:
        rows = await _compare(context, base, base)
        for replicas in others:
            context.say(f"{replicas} replicas")
            async with _opened(context, replicas) as side:
                rows += await _compare(context, side, base)
    disks = {
        replicas: await asyncio.to_thread(_disk_bytes, context, replicas)
        for replicas in (first, *others)
    }
    rows += [_disk_row(replicas, disk, disks[first]) for replicas, disk in disks.items()]
    return rows


@contextlib.asynccontextmanager
async def _opened(context: Context, replicas: int) -> AsyncIterator[_Side]:
    names = client_names(2)
    with open_network(context, f"{NAME}-{replicas}", clients=names, replicas=replicas) as network:
        await asyncio.to_thread(network.start)
        await asyncio.to_thread(wait_until_linked, network)
        async with (
            noop_clients(network, names[:1]) as (one,),
            noop_clients(network, names[1:], IN_FLIGHT) as (deep,),
        ):
            # mirrors are made, caches are warm
            await build_seconds(network, lambda: network.post(BRANCH))
            before = await asyncio.to_thread(_use, network, is_end=False)
            await asyncio.sleep(1.0 if context.is_quick else IDLE_SECONDS)
            idle = (await asyncio.to_thread(_use, network)).since(before)
            yield _Side(network, one, deep, idle)


async def _compare(context: Context, side: _Side, base: _Side) -> list[Row]:
    pairs = 1 if context.is_quick else 3
    one = await context.pairs(
        pairs,
        lambda: _noops(context, side, side.one),
        lambda: _noops(context, base, base.one),
    )
    deep = await context.pairs(
        pairs,
        lambda: _noops(context, side, side.deep),
        lambda: _noops(context, base, base.deep),
    )
    built = await context.pairs(
        pairs,
        lambda: _builds(context, side),
        lambda: _builds(context, base),
    )
    return [
        _row(NOOP, side, base, costs=one),
        _row(DEEP, side, base, costs=deep),
        _row(BUILD, side, base, costs=built),
    ]


async def _noops(context: Context, side: _Side, client: NoopClient) -> _Cost:
    network = side.network
    nodes = [network.processes[name].pid for name in network.node_names]
    before = await asyncio.to_thread(_use, network, is_end=False)
    load: Load = await measure([client], 1.0 if context.is_quick else 5.0, nodes)
    used = (await asyncio.to_thread(_use, network)).since(before).without(side.idle)
    # those before and after the measured time were counted, too
    operations = len(client.answers)
    idle_cpu = side.idle.cpu_seconds / side.idle.at
    return _Cost(
        load.p50_seconds,
        load.operations_per_second,
        load.server_cpu_seconds - idle_cpu / load.operations_per_second,
        used.messages / operations,
        used.bytes / operations,
    )


async def _builds(context: Context, side: _Side) -> _Cost:
    network = side.network
    alone, at_once = (1, 2) if context.is_quick else (5, 16)

    def ask() -> str:
        return network.post(BRANCH)

    seconds = [(await build_seconds(network, ask)).seconds for _ in range(alone)]
    before = await asyncio.to_thread(_use, network, is_end=False)
    built = await build_seconds(network, ask, at_once)
    used = (await asyncio.to_thread(_use, network)).since(before).without(side.idle)
    return _Cost(
        statistics.median(seconds),
        at_once / built.seconds,
        used.cpu_seconds / at_once,
        used.messages / at_once,
        used.bytes / at_once,
        used.gateway_cpu_seconds / at_once,
    )


def _use(network: Network, *, is_end: bool = True) -> _Use:
    """is_end: of a measurement. The nodes' CPU for their answers about traffic is not in it."""
    traffic = None if is_end else traffic_sent(network)
    nodes = [network.processes[name].pid for name in network.node_names]
    cpu = sum(cpu_seconds(pid) + children_cpu_seconds(pid) for pid in nodes)
    gateway, at = cpu_seconds(network.processes[CLIENT].pid), time.monotonic()
    traffic = traffic or traffic_sent(network)
    return _Use(cpu, traffic.messages, traffic.bytes, gateway, at)


def _row(what: str, side: _Side, base: _Side, *, costs: _Costs) -> Row:
    ours, theirs = costs
    replicas = side.replicas

    def of_one(cost: _Cost, of: _Side) -> float:
        return cost.cpu_seconds / of.replicas

    def median(values: list[float]) -> float:
        return spread(values).median

    nodes = [side.network.processes[name].pid for name in side.network.node_names]
    return Row(
        bench=NAME,
        what=f"{what}, {replicas} replicas: CPU of one of them",
        against=f"of one of {base.replicas}",
        target=Target((replicas - 1) / (base.replicas - 1)),
        ratio=ratios([of_one(c, side) for c in ours], [of_one(c, base) for c in theirs]),
        figures={
            REPLICAS: replicas,
            CPU_OF_ALL: 1000 * median([c.cpu_seconds for c in ours]),
            CPU_OF_ONE: 1000 * median([of_one(c, side) for c in ours]),
            CPU_OF_GATEWAY: 1000 * median([c.gateway_cpu_seconds for c in ours]),
            MESSAGES: median([c.messages for c in ours]),
            KIB: median([c.bytes for c in ours]) / 1024,
            SECONDS: median([c.seconds for c in ours]),
            PER_SECOND: median([c.operations_per_second for c in ours]),
            IDLE_CPU: 1000 * side.idle.cpu_seconds / side.idle.at / replicas,
            IDLE_MESSAGES: side.idle.messages / side.idle.at / replicas,
            IDLE_KIB: side.idle.bytes / side.idle.at / replicas / 1024,
            NODE_MIB: statistics.median(resident_bytes(pid) for pid in nodes) / 2**20,
            GATEWAY_MIB: resident_bytes(side.network.processes[CLIENT].pid) / 2**20,
        },
    )


class _Disk(msgspec.Struct, frozen=True):
    """What one build leaves: in a node's database, in the gateway's, and of it in the ledger."""

    node: float
    gateway: float
    growth: Growth


def _disk_bytes(context: Context, replicas: int) -> _Disk:
    builds = HISTORY_BUILDS_QUICK if context.is_quick else HISTORY_BUILDS
    with open_network(context, f"{NAME}-disk-{replicas}", replicas=replicas) as network:
        write_history(network, builds, context.say)
        sizes = [
            sum(file.stat().st_size for file in network.data_directory(name).glob("*.sqlite*"))
            for name in (network.node_names[0], CLIENT)
        ]
        growth = measure_growth(network, builds)
    node, gateway = (size / builds for size in sizes)
    return _Disk(node, gateway, growth)


def _disk_row(replicas: int, disk: _Disk, smallest: _Disk) -> Row:
    return Row(
        bench=NAME,
        what=f"{DISK}, {replicas} replicas",
        against=f"of {SIZES[0]}",
        # each build has a ballot of each replica, so it grows with n
        target=Target(1.1 * replicas / SIZES[0]),
        ratio=spread([disk.node / smallest.node]),
        figures={
            REPLICAS: replicas,
            NODE_KIB: disk.node / 1024,
            GATEWAY_KIB: disk.gateway / 1024,
            LEDGER_BYTES: disk.growth.ledger_bytes,
            STATE_KIB: disk.growth.state_bytes / 1024,
        },
    )
