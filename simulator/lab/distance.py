"""What distance costs a cluster whose links all take as long, on the simulator's clock.

Processors and disks take no time here, so every second is the protocol's: the links, and the
timers. The timers are those of a node that is not configured otherwise.
"""

import msgspec

from ci.operations import Noop, SubmitBuild
from pbft.core import Settings
from simulator.lab.scripted_cluster import Pace, ScriptedCluster
from simulator.world.gateways import Asked
from simulator.world.scheduler import SECOND

# As a node has it (node.main).
BATCH_DELAY_SECONDS = 0.25
REQUESTS = 20
# The lower bound keeps the pace of null requests below half of the shortest timer.
MILLISECONDS_MIN, MILLISECONDS_MAX = 50, 1000
# Every build takes as long, so what is more is the protocol's.
BUILD_SECONDS = 0.1
ANSWERED_SECONDS_MAX = 300.0
# How close the shortest timer is looked for.
TIMER_STEP_LINKS = 0.25
TIMER_LINKS_MAX = 16
# Before the primary is killed, and for links to be quiet again.
SETTLE_SECONDS = 3.0


class NoAnswer(Exception):
    """A simulated request that was not answered in the time there is; the text says which."""


class Distance(msgspec.Struct, frozen=True, kw_only=True):
    """Of one cluster at one distance. link_seconds: one way.

    order_seconds: from a client's request to f+1 equal replies. verdict_seconds: the same of a
    build, without the build itself. outage_seconds: from the kill of so many primaries in a row to
    the next answer, by their number; view_change_seconds: the timer in it. timer_seconds_min: the
    shortest such timer under which no correct primary lost its view.
    """

    replicas: int
    link_seconds: float
    order_seconds: float
    verdict_seconds: float
    view_change_seconds: float
    outage_seconds: dict[int, float]
    timer_seconds_min: float


def measure(replicas: int, link_seconds: float, view_change_seconds: float = 4.0) -> Distance:
    """Play requests, builds and crashes at that distance. Raises NoAnswer."""
    scripted = _cluster(replicas, link_seconds, view_change_seconds)
    orders = [_order(scripted) for _ in range(REQUESTS)]
    faults_max = scripted.cluster.quorums.faults_max
    return Distance(
        replicas=replicas,
        link_seconds=link_seconds,
        order_seconds=sorted(orders)[len(orders) // 2],
        verdict_seconds=_build(scripted) - BUILD_SECONDS,
        view_change_seconds=view_change_seconds,
        outage_seconds={
            dead: _outage(replicas, link_seconds, view_change_seconds, dead=dead)
            for dead in range(1, faults_max + 1)
        },
        timer_seconds_min=_shortest_timer(replicas, link_seconds),
    )


def table(rows: list[Distance]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| replicas | link, one way | order of a request | verdict, without its build"
        " | outage, 1 to f primaries dead | shortest timer that works |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        link = row.link_seconds
        outages = ", ".join(f"{seconds:.1f}" for seconds in row.outage_seconds.values())
        lines.append(
            f"| {row.replicas} | {1000 * link:.0f} ms"
            f" | {row.order_seconds:.2f} s ({row.order_seconds / link:.1f} links)"
            f" | {row.verdict_seconds:.2f} s ({row.verdict_seconds / link:.1f} links)"
            f" | {outages} s"
            f" | {row.timer_seconds_min:.2f} s ({row.timer_seconds_min / link:.2f} links) |"
        )
    return "\n".join(lines)


def _cluster(replicas: int, link_seconds: float, view_change_seconds: float) -> ScriptedCluster:
    settings = Settings(
        view_change_seconds=view_change_seconds,
        view_change_seconds_max=16 * view_change_seconds,
        batch_delay_seconds=min(BATCH_DELAY_SECONDS, view_change_seconds / 8),
    )
    return ScriptedCluster(
        replicas=replicas,
        pace=Pace(
            link_seconds=link_seconds,
            link_step_seconds=0.0,
            settings=settings,
            checkpoint_interval=128,
            window=256,
            build_seconds=0.0,
        ),
    )


def _order(scripted: ScriptedCluster) -> float:
    scripted.client.ask(Noop(), frozenset({"done"}))
    return _answered(scripted)


def _build(scripted: ScriptedCluster) -> float:
    identity = len(scripted.client.asked).to_bytes(32, "big")
    operation = SubmitBuild(identity, "https://forge.example/project.git", "main", "0" * 40)
    scripted.client.ask(operation, frozenset({"decided"}))
    return _answered(scripted)


def _answered(scripted: ScriptedCluster) -> float:
    """Let time pass until what was asked last is answered; how long that took."""
    asked = _last(scripted)
    end = scripted.scheduler.seconds + ANSWERED_SECONDS_MAX
    while asked.finished_at is None:
        # replicas send STATUS for ever, so there always is a next step
        if scripted.scheduler.seconds > end or not scripted.scheduler.step():
            raise NoAnswer(f"no answer within {ANSWERED_SECONDS_MAX:g} s to {asked.operation}")
    return (asked.finished_at - asked.asked_at) / SECOND


def _last(scripted: ScriptedCluster) -> Asked:
    return scripted.client.asked[max(scripted.client.asked)]


def _outage(replicas: int, link_seconds: float, view_change_seconds: float, *, dead: int) -> float:
    scripted = _cluster(replicas, link_seconds, view_change_seconds)
    _order(scripted)
    scripted.run(SETTLE_SECONDS)
    for name in scripted.names[:dead]:
        scripted.kill(name)
    return _order(scripted)


def _shortest_timer(replicas: int, link_seconds: float) -> float:
    """Raises NoAnswer: none is long enough."""
    # no order is faster than one link
    steps = round((TIMER_LINKS_MAX - 1) / TIMER_STEP_LINKS)
    for step in range(steps + 1):
        timer = (1 + step * TIMER_STEP_LINKS) * link_seconds
        if not _is_deposed(_cluster(replicas, link_seconds, timer)):
            return timer
    raise NoAnswer(f"a correct primary is deposed by a timer of {timer:g} s, too")


def _is_deposed(scripted: ScriptedCluster) -> bool:
    """Whether a correct primary loses its view while requests come one after the other."""
    for _ in range(REQUESTS):
        scripted.client.ask(Noop(), frozenset({"done"}))
        while _last(scripted).finished_at is None:
            scripted.scheduler.step()
            if any(scripted.core(name).view for name in scripted.names):
                return True
    return False
