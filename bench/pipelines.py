"""What a service, a report of test cases and hosts by name add to a build, in seconds.

A service says when something listens on its port, and the first step when it begins, both by the
kernel's own clock (`/proc/uptime`, hundredths of a second), so no other run is needed. A report is
timed as one build with `tests:` beside one that makes the same report and names none. Both have two
steps: a build with one step and nothing else is one container, which `tests:` takes from it. In the
same way one build's second step names a host. It asks that for nothing, so what shows is the relay.
"""

import asyncio
import json
import re
import statistics
from collections.abc import Sequence
from contextlib import closing

import docker
import msgspec

from bench.build_times import build_seconds
from bench.context import Context
from bench.engine import ReadyEngine, ready_engine
from bench.figures import spread
from bench.network import BenchFailed, open_network, wait_until_linked
from bench.rows import Row, Target
from scripts.harness import Network
from scripts.relay_image import ensure_relay_image

NAME = "pipelines"
CASES, CASES_QUICK = 5000, 10
PAIRS = 9
AGAINST = "one second"
SERVICE_TARGET = Target(0.5)
REPORT_TARGET = Target(0.3)
# a container more, in a network of its own: nobody asked for a figure before it was measured
HOSTS_TARGET = Target(1.0)
HOST = "packages.example.org"

_PORT = 5432
_NOW = 'read now rest </proc/uptime; echo "{what} $now"'
# Looks at the port without a pause: then it knows the hundredth of a second.
_SERVE = (
    f"sleep 0.5; nc -l -p {_PORT} &"
    f" until grep -q ':{_PORT:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6; do :; done;"
    f" {_NOW.format(what='listening')}; wait"
)
_TIMES = re.compile(r"^(?:\[database\] )?(listening|began|ended|again) ([0-9.]+)$", re.MULTILINE)


class _Seconds(msgspec.Struct, frozen=True):
    """From the first listen to the first step, and between two steps."""

    to_step: float
    between_steps: float


async def run(context: Context) -> list[Row]:
    """All rows. Raises BenchFailed, NetworkFailed, StartFailed."""
    async with ready_engine() as engine:
        relay_image = await asyncio.to_thread(_relay_image, engine.host)
        with open_network(
            context,
            NAME,
            executor="docker",
            branches=_branches(engine, CASES_QUICK if context.is_quick else CASES),
            overrides={
                "node": {
                    "docker_host": engine.host,
                    "network_hosts": [HOST],
                    "network_relay_image": relay_image,
                }
            },
        ) as network:
            await asyncio.to_thread(network.start)
            await asyncio.to_thread(wait_until_linked, network)
            cases = CASES_QUICK if context.is_quick else CASES
            return [
                await _service_row(context, network),
                await _added_row(
                    context,
                    network,
                    "reported",
                    what=f"`tests` with {cases:,} cases",
                    target=REPORT_TARGET,
                ),
                await _added_row(
                    context,
                    network,
                    "named",
                    what="a step with `network: [host]`",
                    target=HOSTS_TARGET,
                ),
            ]


def _relay_image(host: str) -> str:
    with closing(docker.DockerClient(base_url=host)) as client:
        return ensure_relay_image(client)


def _branches(engine: ReadyEngine, cases: int) -> dict[str, dict[str, str]]:
    def branch(
        first: Sequence[str], second: Sequence[str], *, network: Sequence[str] = (), **more: object
    ) -> dict[str, str]:
        steps: list[dict[str, object]] = [
            {"name": name, "commands": commands}
            for name, commands in (("first", first), ("second", second))
        ]
        if network:
            steps[1]["network"] = network
        return {".pbft-ci.yml": json.dumps({"image": engine.image, "steps": steps, **more})}

    def now(what: str) -> str:
        return _NOW.format(what=what)

    service = {"name": "database", "image": engine.image, "command": ["sh", "-c", _SERVE]}
    ready = {"ready": {"port": _PORT, "seconds": 60}}
    case = r's|.*|<testcase classname="tests.test_module" name="test_&"/>|'
    report = f"(echo '<testsuite>'; seq {cases} | sed '{case}'; echo '</testsuite>') >report.xml"
    return {
        "master": branch([report], ["true"]),
        "reported": branch([report], ["true"], tests={"junit": ["report.xml"], "required": True}),
        "named": branch([report], ["true"], network=[HOST]),
        "served": branch([now("began"), now("ended")], [now("again")], services=[service | ready]),
    }


async def _service_row(context: Context, network: Network) -> Row:
    """Of each build the median over the replicas."""
    found = []
    for number in range(1 if context.is_quick else PAIRS):
        (view,) = (await build_seconds(network, lambda: network.post("served"))).views
        seconds = [_seconds(network, name, view["id"]) for name in network.node_names]
        found.append(
            _Seconds(
                statistics.median(one.to_step for one in seconds),
                statistics.median(one.between_steps for one in seconds),
            )
        )
        context.say(f"build {number + 1}: {found[-1].to_step:.2f} s")
    return Row(
        bench=NAME,
        what="a service: seconds from its port's first listen to the first step",
        against=AGAINST,
        target=SERVICE_TARGET,
        ratio=spread([one.to_step for one in found]),
        figures={"between two steps s": spread([one.between_steps for one in found]).median},
    )


async def _added_row(
    context: Context, network: Network, branch: str, *, what: str, target: Target
) -> Row:
    """What that branch takes beyond `master`. what: it has that `master` has not."""

    async def one(name: str) -> float:
        return (await build_seconds(network, lambda: network.post(name))).seconds

    for name in ("master", branch):
        await one(name)
    ours, theirs = await context.pairs(
        1 if context.is_quick else PAIRS, lambda: one(branch), lambda: one("master")
    )
    return Row(
        bench=NAME,
        what=f"{what}: seconds more than without, to the accepted verdict",
        against=AGAINST,
        target=target,
        ratio=spread([mine - other for mine, other in zip(ours, theirs, strict=True)]),
        figures={"s": spread(ours).median, "without s": spread(theirs).median},
    )


def _seconds(network: Network, name: str, build: str) -> _Seconds:
    """What that node's log says. Raises BenchFailed."""
    (file,) = (network.data_directory(name) / "builds").glob(f"{build}-*/log")
    log = file.read_text(encoding="utf-8", errors="replace")
    at = {what: float(seconds) for what, seconds in _TIMES.findall(log)}
    if len(at) != len(("listening", "began", "ended", "again")):
        raise BenchFailed(f"the log of {name} does not name all times: {log[-500:]}")
    return _Seconds(at["began"] - at["listening"], at["again"] - at["ended"])
