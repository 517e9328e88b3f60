"""How long nothing is decided while the members change, and what the change costs afterwards.

Four nodes and a gateway, with the intervals of the product. Builds are asked for one after the
other, and an operator who stands for all replicas decides the next configuration: `ready`, then
`members propose`. The time without a verdict is the longest between two verdicts since then: from
the last of the old epoch to the first of the new one. It is measured with all replicas up, and with
one that is away. The others wait for that one. When it comes back, it fetches the state and follows
by itself.

Then a build and a noop are compared with those of a network beside, whose members never changed.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import yaml

from bench.build_times import build_seconds
from bench.closed_loop import measure
from bench.context import Context
from bench.figures import ratios, spread
from bench.network import BenchFailed, open_network, wait_until_linked
from bench.noop_clients import NoopClient, noop_clients
from bench.rows import Row, Target
from ci.limits import Limits, encode_limits
from common.configuration.config import load_cluster_config
from pbft.genesis import Cluster
from scripts.harness import CLIENT, Network, NoAnswer

NAME = "change"
BRANCH = "master"
# What people are told: the null requests of an idle cluster, and the wait for a replica that is
# down, and a start.
SECONDS_WANTED = 20.0
# Other work on the machine moves a build by more.
AFTER_WANTED = 1.15
NODES = ("node0", "node1", "node2", "node3")
AWAY = "node3"
OPERATOR = "operator"
LOAD = "load0"
COMMAND_SECONDS = 120.0
CHANGE_SECONDS = 180.0
VERDICT_SECONDS = 300.0
POLL_SECONDS = 0.02


class _Change(msgspec.Struct, frozen=True):
    """One change of members. follows_seconds: from the start of who was away until it is there."""

    seconds: float
    follows_seconds: float | None = None


async def run(context: Context) -> list[Row]:
    """Changes one after the other. Raises BenchFailed, NetworkFailed, StartFailed."""
    changes, pairs = (1, 1) if context.is_quick else (5, 9)
    with _opened(context, "changing") as changing, _opened(context, "same") as same:
        for network in (changing, same):
            await asyncio.to_thread(network.start)
            await asyncio.to_thread(wait_until_linked, network)
            # mirrors are made, caches are warm
            await _build(network)
        whole = [await _change(context, changing, is_away=False) for _ in range(changes)]
        away = [await _change(context, changing, is_away=True) for _ in range(changes)]
        built = await context.pairs(pairs, lambda: _build(changing), lambda: _build(same))
        async with _asking(changing) as ours, _asking(same) as theirs:
            noops = await context.pairs(
                pairs,
                lambda: _noop(context, changing, ours),
                lambda: _noop(context, same, theirs),
            )
    return [
        _row("time without a verdict, all replicas up", whole),
        _row("time without a verdict, one replica away", away),
        *(
            Row(
                bench=NAME,
                what=f"{what} after {2 * changes} changes of members",
                against="beside, in a network without one",
                target=Target(AFTER_WANTED),
                ratio=ratios(now, before),
                figures={"ms": 1000 * statistics.median(now)},
            )
            for what, (now, before) in (("a build", built), ("a noop, p50", noops))
        ),
    ]


def _opened(context: Context, name: str) -> AbstractContextManager[Network]:
    # An end comes sooner with smaller intervals.
    quick = {"cluster": {"checkpoint_interval": 16, "window": 32}} if context.is_quick else {}
    return open_network(context, f"{NAME}-{name}", clients=[LOAD], operates=NODES, overrides=quick)


def _row(what: str, changes: Sequence[_Change]) -> Row:
    follows = [c.follows_seconds for c in changes if c.follows_seconds is not None]
    return Row(
        bench=NAME,
        what=what,
        against=f"{SECONDS_WANTED:g} s",
        target=Target(1.0),
        ratio=spread([change.seconds / SECONDS_WANTED for change in changes]),
        figures={"s": statistics.median(change.seconds for change in changes)}
        | ({"follows, s": statistics.median(follows)} if follows else {}),
    )


async def _build(network: Network) -> float:
    return (await build_seconds(network, lambda: network.post(BRANCH))).seconds


def _asking(network: Network) -> AbstractAsyncContextManager[list[NoopClient]]:
    return noop_clients(network, [LOAD], cluster=_present(network))


async def _noop(context: Context, network: Network, clients: list[NoopClient]) -> float:
    pids = [network.processes[name].pid for name in network.node_names]
    return (await measure(clients, 0.5 if context.is_quick else 3.0, pids)).p50_seconds


async def _change(context: Context, network: Network, *, is_away: bool) -> _Change:
    """Have operators decide the next members while builds go on."""
    epoch = _present(network).epoch + 1
    away = AWAY if is_away else None
    staying = [name for name in network.node_names if name != away]
    if away is not None:
        await asyncio.to_thread(network.stop, away)
    async with _verdicts(network) as decided:
        await _until(lambda: len(decided) > 1, "a verdict before the change")
        await asyncio.to_thread(_decide, network, staying)
        made_at = time.monotonic()
        await _until(lambda: _is_in(network, staying, epoch), f"epoch {epoch}")
        began_at = time.monotonic()
        await _until(lambda: decided[-1] > began_at, "a verdict after the change")
    gaps = [later - earlier for earlier, later in pairwise(decided) if later > made_at]
    follows_seconds = None
    if away is not None:
        since = time.monotonic()
        await asyncio.to_thread(network.start, away)
        await _until(lambda: _is_in(network, [away], epoch), f"{away} in epoch {epoch}")
        follows_seconds = time.monotonic() - since
        await asyncio.to_thread(wait_until_linked, network)
    context.say(f"epoch {epoch}: {max(gaps):.1f} s without a verdict")
    return _Change(max(gaps), follows_seconds)


@asynccontextmanager
async def _verdicts(network: Network) -> AsyncIterator[list[float]]:
    """Ask for one build after the other; when each was decided, in seconds of time.monotonic."""
    decided: list[float] = []
    is_over = False

    async def ask() -> None:
        while not is_over:
            build = await asyncio.to_thread(network.post, BRANCH)
            view = await asyncio.to_thread(network.verdict, build, VERDICT_SECONDS)
            if view["verdict"]["outcome"] != "passed":
                raise BenchFailed(f"build {build} did not pass")
            decided.append(time.monotonic())

    asking = asyncio.create_task(ask())
    try:
        yield decided
    finally:
        is_over = True
        await asking


async def _until(condition: Callable[[], bool], what: str) -> None:
    """Wait until that holds. Raises BenchFailed."""
    ends_at = time.monotonic() + CHANGE_SECONDS
    while not await asyncio.to_thread(_holds, condition):
        if time.monotonic() > ends_at:
            raise BenchFailed(f"waited {CHANGE_SECONDS:g} s in vain: {what}")
        await asyncio.sleep(POLL_SECONDS)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except NoAnswer:
        return False  # a node that goes over does not listen


def _is_in(network: Network, names: Sequence[str], epoch: int) -> bool:
    return all(network.status(name)["epoch"] == epoch for name in names)


def _cluster_file(network: Network) -> Path:
    """Of the epoch that node0 is in."""
    epoch = int(network.status(network.node_names[0])["epoch"])
    if epoch == 0:
        return network.config_file("cluster")
    return network.data_directory(network.node_names[0]) / f"epoch-{epoch}" / "cluster.yml"


def _present(network: Network) -> Cluster:
    config = load_cluster_config(_cluster_file(network))
    return config.cluster(encode_limits(config.limits_as(Limits)))


def _decide(network: Network, staying: Sequence[str]) -> None:
    """The operator decides: the same members, and a larger window of clients."""
    following = network.config_file("cluster").with_name("cluster.next.yml")
    settings = yaml.safe_load(_cluster_file(network).read_text())
    settings.pop("ancestry", None)
    settings["client_window"] = settings.get("client_window", 256) + 1
    following.write_text(yaml.safe_dump(settings, sort_keys=False))
    readies = []
    for name in staying:
        ready = network.folder / f"{name}.ready.yml"
        ready.unlink(missing_ok=True)
        _type(network.command(name), "ready", following, "--output", ready)
        readies.append(ready)
    config = ("--config", network.config_file(CLIENT))
    key = ("--operator-key", network.key_file(OPERATOR))
    propose = ["-m", "client", "members", "propose"]
    _type(propose, following, "--ready", *readies, *config, *key, "--yes")


def _type(command: Sequence[str], *words: object) -> None:
    """Run one command to its end. Raises BenchFailed."""
    typed = [sys.executable, *command, *map(str, words)]
    ended = subprocess.run(
        typed, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    if ended.returncode != 0:
        raise BenchFailed(f"{' '.join(typed)}: {ended.stderr}")
