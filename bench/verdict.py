"""From a webhook to the accepted verdict of a trivial build, beside bare containers.

Product and reference run on the same engine, one after the other. The product's time ends when
the gateway has written the verdict to results.jsonl: f+1 equal signed replies are accepted and on
its disk. The reference's ends when the last of its containers has. Neither waits for the removal
of the last ones, and both have removed everything before the other's time begins.
"""

import asyncio
import secrets

from bench.bare_containers import BareContainers
from bench.build_times import bare_seconds, build_seconds
from bench.context import Context
from bench.engine import ReadyEngine, ready_engine
from bench.figures import ratios, spread
from bench.network import open_network, wait_until_linked
from bench.rows import Row, Target
from ci.executors import MINIMAL
from ci.limits import ALL
from pbft.quorums import quorums_for
from scripts.harness import Network, pipeline

NAME = "verdict"
BRANCH = "master"
WEBHOOKS = 40
WEBHOOKS_QUICK = 3
ONE_TARGET = Target(1.15)
MANY_TARGET = Target(0.9, is_floor=True)
# Each is drawn by three of four: hardly any replica is left out of so many.
WARM_BUILDS = 8


async def run(context: Context) -> list[Row]:
    """One build at a time, then many webhooks at once.

    First with `executors: all`, then with `minimal`, in a network of its own. Raises BenchFailed,
    NetworkFailed, StartFailed.
    """
    rows = []
    async with ready_engine() as engine:
        for executors in (ALL, MINIMAL):
            with open_network(
                context,
                f"{NAME}-{executors}",
                executor="docker",
                branches={BRANCH: pipeline("true", image=engine.image)},
                overrides={
                    "node": {"docker_host": engine.host},
                    "cluster": {"limits": {"executors": executors}},
                },
            ) as network:
                await asyncio.to_thread(network.start)
                await asyncio.to_thread(wait_until_linked, network)
                rows += await _measure(context, network, engine, executors=executors)
    return rows


async def _measure(
    context: Context, network: Network, engine: ReadyEngine, *, executors: str
) -> list[Row]:
    bare = BareContainers(network.folder / "bare", network, engine, label=secrets.token_hex(4))
    commit = network.commits[BRANCH]
    quorums = quorums_for(len(network.node_names))
    builders = quorums.replicas - (quorums.faults_max if executors == MINIMAL else 0)
    webhooks = WEBHOOKS_QUICK if context.is_quick else WEBHOOKS

    async def one_bare() -> None:
        await bare.build_in(builders, BRANCH, commit)

    async def many_bare() -> None:
        await asyncio.gather(*(bare.build_in(builders, BRANCH, commit) for _ in range(webhooks)))

    async def builds(count: int) -> float:
        return (await build_seconds(network, lambda: network.post(BRANCH), count)).seconds

    try:
        # mirrors are made, images and caches are warm; where not all build, on all by then
        await builds(1 if executors == ALL else WARM_BUILDS)
        await asyncio.gather(*(one_bare() for _ in network.node_names))
        await bare.settle()
        one = await context.pairs(
            1 if context.is_quick else 15,
            lambda: builds(1),
            lambda: bare_seconds(one_bare, bare),
        )
        context.say(f"{webhooks} webhooks at once, executors: {executors}")
        many = await context.pairs(
            1 if context.is_quick else 3,
            lambda: builds(webhooks),
            lambda: bare_seconds(many_bare, bare),
        )
    finally:
        await asyncio.to_thread(bare.close)
    containers = webhooks * builders
    return [
        Row(
            bench=NAME,
            what=f"webhook to accepted verdict, trivial build, executors: {executors}",
            against=f"{builders} bare containers at once",
            target=ONE_TARGET,
            ratio=ratios(*one),
            figures={"s": spread(one[0]).median, "bare s": spread(one[1]).median},
        ),
        Row(
            bench=NAME,
            what=f"{webhooks} webhooks at once, verdicts per second, executors: {executors}",
            against=f"{containers} bare containers with the same concurrency",
            target=MANY_TARGET,
            # rates: what took twice as long has half of it
            ratio=ratios(many[1], many[0]),
            figures={
                "verdicts/s": webhooks / spread(many[0]).median,
                "bare containers/s": containers / spread(many[1]).median,
            },
        ),
    ]
