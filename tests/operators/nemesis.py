"""Four operators' machines in a bad world: links, processes, disks and clocks fail by a seed.

`python -m tests.operators.nemesis --seed 7 --minutes 60 [--executor docker]`, as root. Each fault
is printed with its time. When the time is over, all faults are healed. Then it is checked that
service is back within the bound, and what tests/processes/nemesis.py promises of each webhook.
"""

import argparse
import contextlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from common.installation import EXAMPLE_CONFIG
from common.links.link import HANDSHAKE_SECONDS, HEARTBEAT_SECONDS, RECONNECT_SECONDS_MAX
from scripts.base_image import EXAMPLE_IMAGE
from scripts.example_repository import write_repository
from tests.operators.machine import (
    CONFIGURATION,
    CommandFailed,
    Machine,
    faketime_library,
    missing_programs,
)
from tests.operators.member_changes import THIEF, MemberChanges
from tests.operators.packet_switch import CUT, Link
from tests.operators.world import (
    KEYS,
    OPERATORS,
    WEB,
    OperatorNetwork,
    World,
    exchange_entries,
    installed,
    make_member,
)
from tests.processes.nemesis import (
    TICK_SECONDS,
    Fault,
    Heal,
    Nemesis,
    Pace,
    Poster,
    Say,
    branches,
    decided,
    kill_fault,
    problems,
)
from tests.processes.network import NoAnswer, ask
from tests.processes.programs import run as run_program

PACE = Pace(fault_seconds=(2.0, 6.0), post_seconds_max=4.0, faults_at_once_max=3, undecided_max=3)
# Of the cluster file: small, so that an epoch ends soon after its change.
RULES = {"checkpoint_interval: 128": "checkpoint_interval: 16", "window: 256": "window: 32"}
# At least ten times the round trip of 200 ms links (docs/OPERATING.md).
TIMER_SECONDS = 4
TIMER_SECONDS_MAX = 16
# The answers from which it is measured what this machine needs when nothing fails.
USUAL_ANSWERS = 10
USUAL_SECONDS_MIN = 0.25
USUAL_WAITS_MAX = 20
ANSWER_SECONDS_MAX = 300.0
PROGRESS_SECONDS = 30.0
# RestartSec of the unit in docs/OPERATING.md
RESTART_SECONDS = 10.0
# A limit that no drawn change has, nor the example.
LIMIT_SECONDS = 60
CLOCK_SECONDS = 600
# A run that is longer has time for seven replicas.
LONG_SECONDS = 100.0
STALL_SECONDS = 0.3
LINK_SECONDS = 0.2


def bring_up(world: World, executor: str) -> OperatorNetwork:
    """A cluster of four machines and the gateway's; not started."""
    for name in (*OPERATORS, WEB, THIEF):
        world.add(name)
    write_repository(world.folder / "app.git", branches(EXAMPLE_IMAGE))
    rules = (EXAMPLE_CONFIG / "cluster.yml").read_text()
    for line, other in RULES.items():
        assert rules.count(f"\n{line}\n") == 1
        rules = rules.replace(f"\n{line}\n", f"\n{other}\n")
    image = None
    for name in OPERATORS if executor == "docker" else ():
        image = world.start_engine(name, image)

    def join(machine: Machine) -> None:
        (machine.root / CONFIGURATION[1:] / "rules.yml.from").write_text(rules)
        machine.run(
            "pbft-ci cluster assemble *.entry.yml --rules rules.yml.from --output cluster.yml"
            " > shown;"
            " words=$(sed -n 's/^In digits: //p' shown);"
            " if [ -f node.yml ]; then pbft-ci-node confirm $words --config node.yml;"
            " else pbft-ci-gateway confirm $words --config client.yml;"
            # webhooks of the nemesis are not signed
            " sed -i 's/^    webhook_secret_file:.*/    unsigned_allowed: true/' client.yml; fi"
        )

    machines = [world.machines[name] for name in (*OPERATORS, WEB)]
    with ThreadPoolExecutor(len(machines)) as operators:
        list(operators.map(partial(make_member, world), machines))
        exchange_entries(world, (*OPERATORS, WEB))
        list(operators.map(join, machines))
    settings = {
        "executor": executor,
        "view_change_seconds": TIMER_SECONDS,
        "view_change_seconds_max": TIMER_SECONDS_MAX,
    }
    return OperatorNetwork(world, WEB, settings, image)


class LimitChanges:
    """Operators who change a limit, three of four, by the commands that people type."""

    def __init__(self, network: OperatorNetwork, members: MemberChanges, say: Say) -> None:
        """members: know where the newest cluster file is, and how many operators it takes."""
        self._network = network
        self._members = members
        self._say = say
        self._thread = threading.Thread()
        self.made = 0

    def fault(self) -> Fault:
        """It fails nothing by itself: it goes on beside the faults."""

        def inflict(chance: random.Random) -> tuple[str, Heal] | None:
            operators = chance.sample(*self._whose())
            seconds = chance.randint(61, 119)
            if self._thread.is_alive():
                return None
            self._thread = threading.Thread(target=self._try, args=(operators, seconds))
            self._thread.start()
            return f"limits: {', '.join(operators)} want build_seconds_max={seconds}", _nothing

        return Fault("change of limits", (1.0, 1.0), inflict)

    def _whose(self) -> tuple[Sequence[str], int]:
        """Who can, and how many it takes."""
        return self._network.node_names, self._members.clusters[-1].quorums.strong

    def change_for_sure(self, seconds: int) -> None:
        """While nothing fails. Raises CommandFailed, subprocess.TimeoutExpired."""
        names, strong = self._whose()
        self.change(names[-strong:], seconds)

    def wait(self) -> None:
        """Until the last change is made, or has failed."""
        if self._thread.ident is not None:
            self._thread.join()

    def change(self, operators: Sequence[str], seconds: int) -> None:
        """Propose and approve. Raises CommandFailed, subprocess.TimeoutExpired."""
        first, *others = operators
        said = self._limits(first, f"propose build_seconds_max={seconds}")
        (digest,) = re.findall("proposed by [^:]*: ([0-9a-f]{64})", said)
        for name in others:
            said = self._limits(name, f"approve {digest}")
        if " is made" not in said:
            raise CommandFailed(
                f"enough operators approved, and the limits are not changed: {said}"
            )
        self.made += 1

    def _try(self, operators: Sequence[str], seconds: int) -> None:
        try:
            self.change(operators, seconds)
            self._say(f"           limits: build_seconds_max={seconds} holds")
        except (CommandFailed, subprocess.TimeoutExpired) as error:
            # as it may, while links and nodes fail; a later change begins anew
            reason = str(error).splitlines()[-2:]
            self._say(f"           limits: not changed now: {' '.join(reason)[:200]}")

    def _limits(self, name: str, words: str) -> str:
        key = f"{KEYS}/of-{name}.private.pem"
        file = self._members.cluster_file(name)
        return self._network.machine(name).run(
            f"pbft-ci limits {words} --yes --operator-key {key} --cluster {file}"
        )


class Service:
    """The unit of each node and gateway: it starts again what ended while its disk was full."""

    def __init__(self, network: OperatorNetwork, say: Say) -> None:
        self._network = network
        self._say = say
        self._due: dict[str, float] = {}
        # which machines' disks are full, or were so a moment ago
        self.full: set[str] = set()
        self.problems: list[str] = []

    def act(self) -> None:
        """Look after all processes."""
        now = time.monotonic()
        for name, process in list(self._network.processes.items()):
            if (code := process.poll()) is None:
                continue
            del self._network.processes[name]
            line = f"{name} ended by itself, exit code {code}"
            self._say(f"           {line}; started again in {RESTART_SECONDS:g} s")
            if name not in self.full:
                self.problems.append(line)
            self._due[name] = now + RESTART_SECONDS
        for name, due in list(self._due.items()):
            if due <= now:
                del self._due[name]
                if not self._network.is_running(name):
                    self._network.spawn(name)

    def start_all(self) -> None:
        """Start what waits for its restart."""
        self._due = dict.fromkeys(self._due, 0.0)
        self.act()


def _nothing() -> None:
    """Heal what ends by itself."""


def faults_of(network: OperatorNetwork, service: Service) -> list[Fault]:
    """Every kind of fault."""
    world = network.world

    def names() -> tuple[str, ...]:
        return (*network.node_names, WEB)

    def cut(text: str, pairs: Sequence[tuple[str, str]]) -> tuple[str, Heal]:
        return text, world.impair(pairs, CUT)

    def halves(chance: random.Random) -> tuple[str, Heal]:
        drawn = chance.sample(names(), len(names()))
        size = chance.randint(1, len(drawn) - 1)
        one, other = drawn[:size], drawn[size:]
        text = f"partition: {', '.join(one)} | {', '.join(other)}"
        return cut(text, between(one, other))

    def one_way(chance: random.Random) -> tuple[str, Heal]:
        name, is_deaf = chance.choice(names()), chance.random() < 0.5
        others = [other for other in names() if other != name]
        pairs = [(other, name) if is_deaf else (name, other) for other in others]
        return cut(f"one-way: {name} is {'deaf' if is_deaf else 'mute'}", pairs)

    def primary_alone(chance: random.Random) -> tuple[str, Heal] | None:
        asked = chance.choice(network.node_names)
        if not network.is_running(asked):
            return None
        try:
            view = json.loads(ask(f"{network.url(asked)}/pbft/status", seconds=2).body)["view"]
        except NoAnswer:
            return None
        primary = network.node_names[view % len(network.node_names)]
        others = [name for name in names() if name != primary]
        return cut(f"the primary alone: {primary}, view {view}", between([primary], others))

    def bridge(chance: random.Random) -> tuple[str, Heal]:
        middle, alone, *others = chance.sample(network.node_names, len(network.node_names))
        one, other = [alone], others
        chance.choice((one, other)).append(WEB)
        text = f"bridge: {', '.join(one)} | {', '.join(other)}, joined by {middle}"
        return cut(text, between(one, other))

    def everywhere(text: str, link: Link) -> tuple[str, Heal]:
        pairs = [(a, b) for a in names() for b in names() if a != b]
        return text, world.impair(pairs, link)

    def loss(chance: random.Random) -> tuple[str, Heal]:
        share = chance.uniform(0.02, 0.2)
        return everywhere(f"loss: {share:.0%} of all packets", Link(loss=share))

    def duplication(chance: random.Random) -> tuple[str, Heal]:
        share = chance.uniform(0.1, 0.5)
        return everywhere(f"duplication: {share:.0%} of all packets", Link(duplication=share))

    def slow_links(chance: random.Random) -> tuple[str, Heal]:
        return everywhere("links of 200 ms", Link(delay_seconds=LINK_SECONDS))

    def stop(chance: random.Random) -> tuple[str, Heal] | None:
        name = chance.choice(names())
        if not network.is_running(name):
            return None
        process = network.processes[name]
        process.send_signal(signal.SIGSTOP)
        return f"SIGSTOP {name}", lambda: process.send_signal(signal.SIGCONT)

    def clock(chance: random.Random) -> tuple[str, Heal]:
        name, offset = chance.choice(names()), chance.choice((-CLOCK_SECONDS, CLOCK_SECONDS))
        machine = network.machine(name)
        machine.set_clock(offset)
        return f"the clock of {name} jumps by {offset:+d} s", lambda: machine.set_clock(0)

    def full_disk(chance: random.Random) -> tuple[str, Heal] | None:
        name = chance.choice(names())
        if name in service.full:
            return None
        machine = network.machine(name)
        service.full.add(name)
        machine.fill_disk()

        def heal() -> None:
            machine.free_disk()
            # what found it full may end a moment later
            timer = threading.Timer(RESTART_SECONDS, service.full.discard, (name,))
            timer.daemon = True
            timer.start()

        return f"the disk of {name} is full", heal

    def slow_disk(chance: random.Random) -> tuple[str, Heal]:
        name, seconds = chance.choice(names()), chance.uniform(5.0, 18.0)
        process = network.machine(name).slow_disk(seconds, STALL_SECONDS)
        text = f"the disk of {name} stalls for {STALL_SECONDS:g} s again and again"
        return text, lambda: Machine.wait_until_fast(process)

    faults = [
        Fault("partition", (5.0, 20.0), halves),
        Fault("one-way partition", (5.0, 20.0), one_way),
        Fault("primary alone", (5.0, 20.0), primary_alone),
        Fault("bridge", (5.0, 20.0), bridge),
        Fault("loss", (5.0, 20.0), loss),
        Fault("duplication", (5.0, 20.0), duplication),
        Fault("slow links", (10.0, 20.0), slow_links),
        kill_fault(network, (0.1, 5.0)),
        kill_fault(network, (0.1, 5.0)),
        Fault("SIGSTOP", (60.0, 60.0), stop),
        Fault("full disk", (5.0, 20.0), full_disk),
        Fault("slow disk", (20.0, 20.0), slow_disk),
    ]
    if faketime_library() is not None:
        faults.append(Fault("clock", (10.0, 60.0), clock))
    return faults


def between(one: Sequence[str], other: Sequence[str]) -> list[tuple[str, str]]:
    """All links between two groups, both ways."""
    pairs = [(a, b) for a in one for b in other]
    return pairs + [(b, a) for a, b in pairs]


def answer_seconds(network: OperatorNetwork, text: str) -> float:
    """How long a journal entry needs to be ordered. It is asked for again until it is."""
    began = time.monotonic()

    def is_answered() -> bool:
        body = json.dumps({"text": text}).encode()
        return ask(f"{network.gateway_url}/api/v1/append", body, 30).status == 200

    network.wait_until(is_answered, f"the answer to {text}", ANSWER_SECONDS_MAX)
    return time.monotonic() - began


def back_seconds_max(usual_seconds: float) -> float:
    """Within which service must be back once all faults are healed.

    A dead link is noticed after a heartbeat and a half, and made again. The view's timer may have
    grown to its maximum; f + 1 primaries may be passed over with it, and then there is the load.
    """
    links = 1.5 * HEARTBEAT_SECONDS + HANDSHAKE_SECONDS + RECONNECT_SECONDS_MAX
    views = 2 * TIMER_SECONDS_MAX
    return links + views + USUAL_WAITS_MAX * usual_seconds


def run(
    network: OperatorNetwork,
    *,
    seed: int,
    seconds: float,
    say: Say,
    changes_members: bool = True,
) -> list[str]:
    """Do it with a network that was not started; a line for each promise that was broken.

    changes_members: at least once, which may take longer than the seconds of faults.
    """
    members = MemberChanges(network, seed, say, is_long=seconds > LONG_SECONDS)
    network.start()
    usual = max(answer_seconds(network, f"usual {number}") for number in range(USUAL_ANSWERS))
    usual = max(usual, USUAL_SECONDS_MIN)
    say(f"usual: an answer within {usual:.2f} s")
    trust = network.folder / "trust.json"
    trust.write_text(client_command("trust", "--cluster", str(genesis_file(network))))
    build = network.post("green")
    network.verdict(build)
    if changes_members:
        members.attest(build)
        members.prepare()
    service = Service(network, say)
    limits = LimitChanges(network, members, say)
    faults = [*faults_of(network, service), limits.fault(), limits.fault()]
    nemesis = Nemesis(faults, seed, PACE, say)
    began = time.monotonic()
    progress_at = began + PROGRESS_SECONDS
    is_healed = False

    def is_owed() -> bool:
        """Whether the members are still to change, at least once."""
        return changes_members and not members.made and not members.has_failed

    with Poster(network, seed, PACE) as posted:
        members.begin(posted)
        # webhooks come until the change is made that is under way
        while not is_healed or members.is_busy or is_owed():
            now = time.monotonic()
            service.act()
            if now < began + seconds:
                nemesis.act()
            elif not is_healed:
                is_healed = True
                nemesis.heal_all()
                service.start_all()
            is_due = is_healed and is_owed()
            members.act(may_begin=is_due or (changes_members and not is_healed), is_due=is_due)
            if now >= progress_at:
                progress_at += PROGRESS_SECONDS
                with contextlib.suppress(OSError):
                    done = len(decided(network))
                    say(f"           {len(posted.builds)} accepted, {done} decided, by now")
            time.sleep(TICK_SECONDS)
    if members.has_failed:
        say(f"WRONG: {members.problems}")
        return members.problems
    waited = answer_seconds(network, "after all faults")
    bound = back_seconds_max(usual)
    say(f"service was back after {waited:.1f} s (at most {bound:.1f} s)")
    limits.wait()
    made_meanwhile = limits.made
    if not made_meanwhile:
        limits.change_for_sure(LIMIT_SECONDS)
    say(f"limits were changed {made_meanwhile} times meanwhile, and {limits.made} in all")
    say(f"members were changed {members.made} times")
    say(f"faults: {dict(sorted(nemesis.counts.items()))}")
    say(f"packets: {dict(sorted(network.world.switch.counts.items()))}")
    found = service.problems + members.problems
    if waited > bound:
        found.append(f"service was back after {waited:.1f} s, which is more than {bound:.1f} s")
    found += problems(network, posted, say, epochs=members.clusters)
    if changes_members:
        found += problems_over_epochs(network, members, trust)
    for problem in found:
        say(f"WRONG: {problem}")
    return found


def problems_over_epochs(
    network: OperatorNetwork, members: MemberChanges, trust: Path
) -> list[str]:
    """A line for each promise about all epochs together that was broken."""
    found = []
    root = members.clusters[0].id.hex()
    for name in network.node_names:
        status = network.status(name)
        if (status["lineage"], status["cluster"]) != (root, members.clusters[-1].id.hex()):
            found.append(
                f"{name} is in {status['cluster']}, which goes back to {status['lineage']}"
            )
        if network.node(name, "/pbft/evidence").json()["total"]:
            found.append(f"{name} has evidence against somebody, and nobody lied as a member")
    if not members.refusals:
        found.append("the thief was never sent away, so it tried nothing")
    members.attest()
    web = network.machine(WEB)
    web.run("pbft-ci ledger --verify")
    place = web.root / CONFIGURATION[1:] / "trust.json"
    place.write_bytes(trust.read_bytes())
    web.run(f"chown {web.plan.uid}:{web.plan.uid} . trust.json", is_root=True)
    renewed = web.run("pbft-ci trust --refresh trust.json")
    if f"was  epoch 0  {root}" not in renewed:
        found.append(f"the trust file was not renewed from the genesis on: {renewed}")
    # from here on nobody is asked
    for name in members.envelopes:
        envelope = web.root / CONFIGURATION[1:] / name
        verified = run_program(
            "scripts/verify_build.py",
            str(envelope),
            "--trust",
            str(place),
            "--trust-root",
            root,
            "--any",
        )
        if verified.code != 0:
            found.append(f"{name} does not verify: {verified}")
    if len(members.envelopes) != len(members.clusters):
        found.append(f"{members.envelopes} are not of all of {len(members.clusters)} epochs")
    return found


def client_command(*words: str) -> str:
    """What a command of the client says that needs no network."""
    ended = run_program("-m", "client", *words)
    assert ended.code == 0, ended
    return ended.output


def genesis_file(network: OperatorNetwork) -> Path:
    """The cluster file of epoch 0."""
    return network.config_file(WEB).with_name("cluster.yml")


def main() -> int:
    """The program; exit code 0 if every promise was kept."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.operators.nemesis", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--executor", choices=("process", "docker"), default="process")
    options = parser.parse_args()
    if missing := missing_programs():
        _say(f"no machines can be made here: {', '.join(missing)}")
        return 2
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="pbft-ci-nemesis-"))
    _say(f"seed {seed}, {options.minutes:g} minutes, executor {options.executor}, in {folder}")
    with (
        World(folder / "world", installed(folder / "installed"), seed=seed) as world,
        bring_up(world, options.executor) as network,
    ):
        try:
            found = run(network, seed=seed, seconds=options.minutes * 60, say=_say)
        finally:
            world.keep()
    if found:
        _say(f"seed {seed}: {len(found)} promises broken; everything is in {folder}")
        return 1
    shutil.rmtree(folder)
    _say(f"seed {seed}: every promise was kept")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
