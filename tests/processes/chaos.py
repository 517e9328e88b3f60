"""Webhooks while everything is killed -9 again and again; afterwards, what was promised is checked.

`python -m tests.processes.chaos --seed 7 --webhooks 200 [--executor docker]`. Every 1-3 seconds a
random node or the client is killed and started again a moment later, the primary like the others,
sometimes several at once. Who dies when and for how long comes from the seed alone. Afterwards:
every webhook that was answered with 202 has exactly one verdict, the right one; the ledgers are
equal byte for byte; no replica signed two digests for one phase, view and sequence number, by the
captures of all that was sent.
"""

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import docker

from ci.statement import parse_statement
from scripts.base_image import EXAMPLE_IMAGE, ensure_example_image
from tests.node.conftest import things_of
from tests.processes.network import CLIENT, Network, NoAnswer, ask, pipeline, verdict_entries
from tests.processes.promises import broken_promises
from tests.processes.webhook_load import builds_of

KILL_SECONDS = (1.0, 3.0)
DOWN_SECONDS = (0.1, 2.0)
POST_PAUSE_SECONDS_MAX = 0.5
POST_AGAIN_SECONDS = 0.2
TICK_SECONDS = 0.05
# Far more than 200 webhooks take on two busy cores.
CHAOS_SECONDS_MAX = 900.0
SETTLE_SECONDS = 180.0
REMOVED_SECONDS_MAX = 60.0

EXPECTED = {"green": ("passed", 0), "red": ("failed", 3), "slow": ("passed", 0)}
# What a node or the gateway writes only where something is wrong with it, not with its world.
ALARMS = (" CRITICAL ", "Traceback", "a fault of our own", "a task of the gateway failed")

Say = Callable[[str], None]


@dataclass
class Posted:
    """What was asked for. lost: questions without an answer, which may count or not."""

    builds: dict[str, str] = field(default_factory=dict)
    lost: int = 0


def branches(image: str) -> dict[str, dict[str, str]]:
    """A branch of each kind; the slow one is there to be killed in the middle."""
    return {
        "green": pipeline("echo green", image=image),
        "red": pipeline("echo red", "exit 3", image=image),
        "slow": pipeline("sleep 1", image=image),
    }


def run(network: Network, *, seed: int, webhooks: int, say: Say) -> list[str]:
    """Do it on a network that was made with `branches` and is_captured, and not started.

    Gives a line for each thing that is wrong. Raises AssertionError where it does not come to its
    end at all.
    """
    network.start()
    posted = Posted()
    poster = threading.Thread(target=_post, args=(network, posted, webhooks, seed), daemon=True)
    poster.start()
    kills = _kill_until_decided(network, posted, webhooks, random.Random(seed), say)
    say(f"{sum(kills.values())} kills: {dict(sorted(kills.items()))}; now everybody stays alive")
    network.wait_until_ready((*network.node_names, CLIENT))
    poster.join(SETTLE_SECONDS)
    assert len(posted.builds) == webhooks, f"{len(posted.builds)} webhooks were accepted"
    # of what was asked without an answer, too: it may have become a build
    network.verdicts(sorted(builds_of(network) | posted.builds.keys()), SETTLE_SECONDS)
    return _problems(network, posted, say)


def _post(network: Network, posted: Posted, webhooks: int, seed: int) -> None:
    """Post until so many are accepted, whatever happens to the gateway."""
    chance = random.Random(f"posts {seed}")
    while len(posted.builds) < webhooks:
        branch = chance.choice(sorted(EXPECTED))
        body = json.dumps({"branch": branch}).encode()
        try:
            answer = ask(f"{network.gateway_url}/webHook", body, seconds=10)
        except NoAnswer:
            posted.lost += 1
            time.sleep(POST_AGAIN_SECONDS)
            continue
        if answer.status == 202:
            posted.builds[answer.json()["build"]] = branch
        time.sleep(chance.uniform(0, POST_PAUSE_SECONDS_MAX))


def _kill_until_decided(
    network: Network, posted: Posted, webhooks: int, chance: random.Random, say: Say
) -> Counter[str]:
    """Kill and start again until all verdicts are in. Gives how often each was killed."""
    names = (*network.node_names, CLIENT)
    kills: Counter[str] = Counter()
    down: dict[str, float] = {}
    began_at = time.monotonic()
    kill_at = began_at + chance.uniform(*KILL_SECONDS)
    while True:
        now = time.monotonic()
        for name in [name for name, until in down.items() if until <= now]:
            del down[name]
            network.spawn(name)
        for name, process in network.processes.items():
            code = process.poll()
            assert code is None, f"{name} ended by itself, exit code {code}"
        if now >= kill_at:
            # Drawn whether or not it can be done, so that the seed alone says who comes next.
            victim = chance.choice(names)
            away_seconds = chance.uniform(*DOWN_SECONDS)
            kill_at = now + chance.uniform(*KILL_SECONDS)
            if victim in down:
                continue
            network.kill(victim)
            kills[victim] += 1
            down[victim] = now + away_seconds
            decided = len(_decided(network))
            say(
                f"{now - began_at:6.1f} s  kill -9 {victim}, back in {away_seconds:.1f} s"
                f"  ({len(posted.builds)} accepted, {decided} decided)"
            )
            if len(posted.builds) >= webhooks and decided >= webhooks:
                break
        assert now - began_at < CHAOS_SECONDS_MAX, (
            f"{len(_decided(network))} of {len(posted.builds)} decided"
        )
        time.sleep(TICK_SECONDS)
    for name in down:
        network.spawn(name)
    return kills


def _decided(network: Network) -> set[str]:
    """The builds in results.jsonl; its last line may be half written."""
    file = network.configuration.client.results_file
    found = set()
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError):
            found.add(json.loads(line)["id"])
    return found


def _problems(network: Network, posted: Posted, say: Say) -> list[str]:
    ledger = network.settle(seconds=SETTLE_SECONDS)
    say(f"the ledgers of {len(ledger)} entries are equal byte for byte, and their chain holds")
    problems = broken_promises(network)
    entries = verdict_entries(ledger)
    counted = Counter(entry.build for entry in entries)
    verdicts = {entry.build: parse_statement(bytes(entry.statement)).verdict for entry in entries}
    for build, branch in posted.builds.items():
        if counted[build] != 1:
            problems.append(f"build {build} ({branch}) has {counted[build]} verdicts")
            continue
        found = (verdicts[build].outcome.value, verdicts[build].exit_code)
        if found != EXPECTED[branch]:
            problems.append(f"build {build} ({branch}) is {found}, not {EXPECTED[branch]}")
    unasked = counted.keys() - posted.builds.keys()
    if len(unasked) > posted.lost:
        problems.append(f"{len(unasked)} builds that nobody asked for")
    written = Counter(line["id"] for line in network.results_of(counted))
    if written != counted:
        differing = sorted(
            build for build in counted.keys() | written.keys() if counted[build] != written[build]
        )
        problems.append(f"results.jsonl differs from the ledger in {differing}")
    for name in (*network.node_names, CLIENT):
        for file in sorted((network.folder).glob(f"*/{name}.*")):
            if file.parent.name in ("log", "output"):
                problems.extend(
                    f"{file}: {line}"
                    for line in file.read_text(errors="replace").splitlines()
                    if any(alarm in line for alarm in ALARMS)
                )
    return problems


def main() -> int:
    """The program; exit code 0 where every promise was kept."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.processes.chaos", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--webhooks", type=int, default=200)
    parser.add_argument("--executor", choices=("process", "docker"), default="process")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    image = EXAMPLE_IMAGE
    engine: docker.DockerClient | None = None
    if options.executor == "docker":
        engine = docker.from_env()
        image = ensure_example_image(engine)
    folder = Path(tempfile.mkdtemp(prefix="pbft-ci-chaos-"))
    _say(f"seed {seed}, {options.webhooks} webhooks, executor {options.executor}, in {folder}")
    network = Network(
        folder / "network", branches(image), executor=options.executor, is_captured=True
    )
    with network:
        problems = run(network, seed=seed, webhooks=options.webhooks, say=_say)
        problems.extend(left_on_engine(network, engine))
    for problem in problems:
        _say(f"WRONG: {problem}")
    if problems:
        _say(f"seed {seed}: {len(problems)} promises broken; everything is in {folder}")
        return 1
    shutil.rmtree(folder)
    _say(f"seed {seed}: every promise was kept")
    return 0


def left_on_engine(network: Network, engine: docker.DockerClient | None) -> list[str]:
    """A line where containers or images of the network are still there. None: no engine."""
    if engine is None:
        return []
    cluster = bytes.fromhex(network.status(network.node_names[0])["cluster"])
    ends_at = time.monotonic() + REMOVED_SECONDS_MAX
    # what a build leaves is removed behind its ballot
    while (left := things_of(engine, cluster)) and time.monotonic() < ends_at:
        time.sleep(TICK_SECONDS)
    return [f"left on the engine: {sorted(left)}"] if left else []


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
