"""Faults by a seed while webhooks come; afterwards, what was promised about each is checked.

A fault is inflicted for a while and then healed. Which faults come, on whom and for how long is
drawn from the seed alone. A draw that cannot be done now (its victim is down) is passed over.
Afterwards: every webhook that was answered with 202 has exactly one verdict, the right one; the
ledgers are equal byte for byte; no replica signed two digests for one phase, view and sequence
number, by the captures of all that was sent.
"""

import contextlib
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import docker

from ci.statement import parse_statement
from pbft.genesis import Cluster
from tests.node.conftest import things_of
from tests.processes.network import ComparedNetwork, NoAnswer, ask, pipeline, verdict_entries
from tests.processes.promises import broken_promises
from tests.processes.webhook_load import builds_of

POST_AGAIN_SECONDS = 0.2
TICK_SECONDS = 0.05
SETTLE_SECONDS = 600.0
REMOVED_SECONDS_MAX = 60.0

EXPECTED = {"green": ("passed", 0), "red": ("failed", 3), "slow": ("passed", 0)}
# What a node or the gateway writes only where something is wrong with it, not with its world.
ALARMS = (" CRITICAL ", "Traceback", "a fault of our own", "a task of the gateway failed")

Say = Callable[[str], None]
Heal = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """One kind of fault. seconds: the shortest and the longest time until it is healed."""

    kind: str
    seconds: tuple[float, float]
    # draws what it needs, and does it: what was done, and what heals it; None if it cannot be
    inflict: Callable[[random.Random], tuple[str, Heal] | None]


@dataclass(frozen=True)
class Pace:
    """How fast faults and webhooks come."""

    # between one fault and the next
    fault_seconds: tuple[float, float] = (1.0, 3.0)
    post_seconds_max: float = 0.5
    faults_at_once_max: int = 8
    # beyond so many builds without a verdict no webhook comes
    undecided_max: int = sys.maxsize


@dataclass
class Posted:
    """What was asked for. lost: questions without an answer, which may count or not.

    before: the builds that were there already.
    """

    builds: dict[str, str] = field(default_factory=dict)
    lost: int = 0
    before: set[str] = field(default_factory=set)


def branches(image: str) -> dict[str, dict[str, str]]:
    """A branch of each kind; the slow one is there to be killed in the middle."""
    return {
        "green": pipeline("echo green", image=image),
        "red": pipeline("echo red", "exit 3", image=image),
        "slow": pipeline("sleep 1", image=image),
    }


class Poster:
    """Posts webhooks, whatever happens to the gateway. Use it as a context manager."""

    def __init__(
        self, network: ComparedNetwork, seed: int, pace: Pace, count_max: int = sys.maxsize
    ) -> None:
        """count_max: it posts no more once so many were accepted."""
        self.posted = Posted()
        self._count_max = count_max
        self._network = network
        self._chance = random.Random(f"posts {seed}")
        self._pace = pace
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._post, name="poster")

    def __enter__(self) -> Posted:
        self.posted.before = builds_of(self._network)
        self._thread.start()
        return self.posted

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(SETTLE_SECONDS)

    def _post(self) -> None:
        while not self._is_over.wait(self._chance.uniform(0, self._pace.post_seconds_max)):
            if self._undecided() >= self._pace.undecided_max:
                continue
            branch = self._chance.choice(sorted(EXPECTED))
            body = json.dumps({"branch": branch}).encode()
            try:
                answer = ask(f"{self._network.gateway_url}/webHook", body, seconds=10)
            except NoAnswer:
                self.posted.lost += 1
                self._is_over.wait(POST_AGAIN_SECONDS)
                continue
            if answer.status == 202:
                self.posted.builds[answer.json()["build"]] = branch
                if len(self.posted.builds) >= self._count_max:
                    return

    def _undecided(self) -> int:
        if self._pace.undecided_max == sys.maxsize:
            return 0
        return len(self.posted.builds.keys() - decided(self._network))


class Nemesis:
    """Inflicts the faults that a seed draws. All kinds come before one comes again."""

    def __init__(self, faults: Sequence[Fault], seed: int, pace: Pace, say: Say) -> None:
        self._faults = list(faults)
        self._chance = random.Random(f"faults {seed}")
        self._pace = pace
        self._say = say
        self._deck: list[Fault] = []
        self._active: list[tuple[float, str, Heal]] = []
        self._began_at = time.monotonic()
        self._next_at = self._began_at + self._chance.uniform(*pace.fault_seconds)
        self.counts: Counter[str] = Counter()

    def act(self) -> None:
        """Do what is due now."""
        now = time.monotonic()
        due = [entry for entry in self._active if entry[0] <= now]
        self._active = [entry for entry in self._active if entry[0] > now]
        for _, text, heal in due:
            self._tell(f"healed: {text}")
            heal()
        if now < self._next_at or len(self._active) >= self._pace.faults_at_once_max:
            return
        if not self._deck:
            self._deck = [*self._faults]
            self._chance.shuffle(self._deck)
        fault = self._deck.pop()
        # drawn whether or not it can be done, so that the seed alone says what comes next
        seconds = self._chance.uniform(*fault.seconds)
        self._next_at = now + self._chance.uniform(*self._pace.fault_seconds)
        inflicted = fault.inflict(random.Random(self._chance.getrandbits(64)))
        if inflicted is None:
            return
        text, heal = inflicted
        self.counts[fault.kind] += 1
        self._active.append((time.monotonic() + seconds, text, heal))
        self._tell(f"{text}, for {seconds:.1f} s")

    def heal_all(self) -> None:
        """End all faults."""
        for _, text, heal in self._active:
            self._tell(f"healed: {text}")
            heal()
        self._active = []

    def _tell(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began_at:7.1f} s  {text}")


def kill_fault(network: ComparedNetwork, seconds: tuple[float, float] = (0.1, 2.0)) -> Fault:
    """kill -9 of a node or the gateway, which is started again a moment later."""

    def inflict(chance: random.Random) -> tuple[str, Heal] | None:
        victim = chance.choice((*network.node_names, network.gateway_name))
        if not network.is_running(victim):
            return None
        network.kill(victim)
        return f"kill -9 {victim}", lambda: network.spawn(victim)

    return Fault("kill", seconds, inflict)


def check_nobody_ended(network: ComparedNetwork) -> None:
    """Fail if a node or the gateway has ended by itself."""
    for name, process in network.processes.items():
        code = process.poll()
        assert code is None, f"{name} ended by itself, exit code {code}"


def decided(network: ComparedNetwork) -> set[str]:
    """The builds in results.jsonl; its last line may be half written."""
    file = network.results_file
    found = set()
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError):
            found.add(json.loads(line)["id"])
    return found


def problems(
    network: ComparedNetwork,
    posted: Posted,
    say: Say,
    *,
    reads_captures: bool = True,
    epochs: Sequence[Cluster] = (),
) -> list[str]:
    """A line for each promise that was broken, once all webhooks have their verdicts.

    reads_captures: look for what a replica said twice. epochs: the cluster of each epoch, if
    members changed.

    Raises NetworkFailed if the network does not come to rest.
    """
    network.wait_until_ready((*network.node_names, network.gateway_name))
    # of what was asked without an answer, too: it may have become a build
    network.verdicts(sorted(builds_of(network) | posted.builds.keys()), SETTLE_SECONDS)
    ledger = network.settle(seconds=SETTLE_SECONDS)
    say(f"the ledgers of {len(ledger)} entries are equal byte for byte, and their chain holds")
    found = broken_promises(network, epochs) if reads_captures else []
    entries = verdict_entries(ledger)
    counted = Counter(entry.build for entry in entries)
    verdicts = {entry.build: parse_statement(bytes(entry.statement)).verdict for entry in entries}
    for build, branch in posted.builds.items():
        if counted[build] != 1:
            found.append(f"build {build} ({branch}) has {counted[build]} verdicts")
            continue
        came_to = (verdicts[build].outcome.value, verdicts[build].exit_code)
        if came_to != EXPECTED[branch]:
            found.append(f"build {build} ({branch}) is {came_to}, not {EXPECTED[branch]}")
    unasked = counted.keys() - posted.builds.keys() - posted.before
    if len(unasked) > posted.lost:
        found.append(f"{len(unasked)} builds that nobody asked for")
    written = Counter(line["id"] for line in network.results_of(counted))
    if written != counted:
        differing = sorted(
            build for build in counted.keys() | written.keys() if counted[build] != written[build]
        )
        found.append(f"results.jsonl differs from the ledger in {differing}")
    for name in (*network.node_names, *network.former_names, network.gateway_name):
        for file in (network.log_file(name), network.output_file(name)):
            found.extend(
                f"{file}: {line}"
                for line in file.read_text(errors="replace").splitlines()
                if any(alarm in line for alarm in ALARMS)
            )
    return found


def left_on_engine(network: ComparedNetwork, engine: docker.DockerClient | None) -> list[str]:
    """A line where containers or images of the network are still there. None: no engine."""
    if engine is None:
        return []
    cluster = bytes.fromhex(network.status(network.node_names[0])["cluster"])
    ends_at = time.monotonic() + REMOVED_SECONDS_MAX
    # what a build leaves is removed behind its ballot
    while (left := things_of(engine, cluster)) and time.monotonic() < ends_at:
        time.sleep(TICK_SECONDS)
    return [f"left on the engine: {sorted(left)}"] if left else []
