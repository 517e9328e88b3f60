"""Operators change the members while machines fail, and a thief has each key that is retired.

The seed draws when, who and how: another key, another machine in a seat, a vacant seat, four
replicas or seven. A replica may be cut off from before the decision until the next epoch has begun
without it: it sees nothing of the change. Everything is done by the commands that people type, on
the machine of whoever types them. What fails meanwhile is tried again, as people do.

The work is done in a thread of its own. What touches processes, links and machines it has done by
the thread of the nemesis (`act`).
"""

import itertools
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from common.configuration.keys import load_signing_key
from common.membership.confirmation import read_cluster
from pbft.genesis import PROTOCOL_MAX, Cluster
from scripts.folders import ROOT
from scripts.processes import Process
from tests.operators.machine import CONFIGURATION, DISK, CommandFailed, Machine
from tests.operators.packet_switch import CUT, DEVICE, mac_of
from tests.operators.thief import Plan, Pose, Report, Stolen, lies, posted_to, secrets_told
from tests.operators.world import (
    KEYS,
    REPLICA_PORT,
    REPOSITORY,
    WEB,
    OperatorNetwork,
    make_member,
    next_key_file,
)
from tests.processes.nemesis import TICK_SECONDS, Posted, Say, decided
from tests.processes.network import NoAnswer, ask

T = TypeVar("T")

THIEF = "thief"
FIRST_SECONDS = (1.0, 6.0)
PAUSE_SECONDS = (2.0, 15.0)
LOOK_SECONDS = 0.3
AGAIN_SECONDS = 1.0
ASK_SECONDS = 5
# Of each step: within it all faults of the nemesis end, and what they held up goes on.
STEP_SECONDS = 600.0
THIEF_SECONDS = 120.0
# The thief's routes for packets that are led to it.
LED_TABLE = 100
# of those whose keys the thief tries over the network, the last ones
EPOCHS_TRIED = 3
ENVELOPES_OF = ("green", "slow")
NEWCOMERS = ("edda", "fred", "gero", "hild", "ivar", "jutta", "knut", "lena", "maud", "nils")


@dataclass(frozen=True)
class Change:
    """What becomes of the members. All are names."""

    kind: str
    # get another key: replicas, or the gateway
    keys: tuple[str, ...] = ()
    # who has a seat: another one in it, None for nobody
    seats: Mapping[str, str | None] = field(default_factory=dict)
    joining: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    # cut off from before the decision until the next epoch has begun
    away: str | None = None

    def __str__(self) -> str:
        parts = [
            *(f"another key for {name}" for name in self.keys),
            *(f"{new or 'nobody'} in the seat of {old}" for old, new in self.seats.items()),
            *(f"{name} joins" for name in self.joining),
            *(f"{name} leaves" for name in self.leaving),
        ]
        return ", ".join(parts) + (f"; {self.away} is cut off meanwhile" if self.away else "")


@dataclass(frozen=True)
class Prepared:
    """What operators have ready before they decide."""

    change: Change
    newcomers: Sequence[str]
    # what the change retires
    stolen: Sequence[Stolen]
    following: Cluster
    # what replicas of the next epoch signed
    ready: Mapping[str, bytes]


class MemberChanges:
    """Changes of members, one after the other. `act` does what is due, in the nemesis' thread."""

    def __init__(self, network: OperatorNetwork, seed: int, say: Say, *, is_long: bool) -> None:
        """is_long: there is time for seven replicas."""
        self.network = network
        self.made = 0
        self.problems: list[str] = []
        # a change came to no end
        self.has_failed = False
        file = network.config_file(network.node_names[0]).with_name("cluster.yml")
        # the cluster of each epoch
        self.clusters = [read_cluster(file)[1]]
        # how often a member in a later epoch sent the thief away
        self.refusals = 0
        # the envelope of a build of each epoch, on the gateway's machine
        self.envelopes: list[str] = []
        self._chance = random.Random(f"members {seed}")
        self._say = say
        self._is_long = is_long
        self._newcomers = itertools.chain(NEWCOMERS, map("new{}".format, itertools.count()))
        # the newest cluster file, and the file to come
        self._text = file.read_text()
        self._next_text = ""
        self._prepared: Prepared | None = None
        self._vacant: str | None = None
        self._stolen: list[Stolen] = []
        self._errands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread()
        self._posted = Posted()
        self._next_at = 0.0
        # the newest epoch that each was seen in
        self._seen_in: dict[str, int] = {}

    # --- in the nemesis' thread -----------------------------------------------------------------

    def prepare(self) -> None:
        """Make ready for the first change, while nothing fails: so it falls among the faults."""
        change = self._draw()

        def prepare() -> None:
            self._prepared = self._prepare(change)

        with ThreadPoolExecutor(1) as operators:
            done = operators.submit(prepare)
            while not done.done():
                self._do_errands()
                time.sleep(TICK_SECONDS)
        done.result()

    def begin(self, posted: Posted) -> None:
        """From now on changes come. posted: the webhooks of the run."""
        self._posted = posted
        self._next_at = time.monotonic() + self._chance.uniform(*FIRST_SECONDS)

    @property
    def is_busy(self) -> bool:
        """Whether a change is under way."""
        return self._thread.is_alive()

    def act(self, *, may_begin: bool, is_due: bool = False) -> None:
        """Do errands, and begin the next change if it may. is_due: at once."""
        self._do_errands()
        if self.is_busy or self.has_failed or not may_begin:
            return
        if is_due or time.monotonic() >= self._next_at:
            change = self._draw() if self._prepared is None else self._prepared.change
            # it must not keep a test from its end that has failed
            self._thread = threading.Thread(target=self._try, args=(change,), daemon=True)
            self._thread.start()

    def _do_errands(self) -> None:
        while not self._errands.empty():
            errand, answer = self._errands.get()
            try:
                answer.set_result(errand())
            except Exception as error:  # noqa: BLE001 - for whoever asked
                answer.set_exception(error)

    def _draw(self) -> Change:
        chance, cluster = self._chance, self.clusters[-1]
        names, size = self.network.node_names, len(cluster.replica_names)
        if self._vacant is not None:
            newcomer = next(self._newcomers)
            return Change("a vacant seat is filled", seats={self._vacant: newcomer})
        kinds = ["key", "seat", "seat and key"]
        if self.made:
            kinds += ["gateway's key", "vacant"]
            if self._is_long:
                kinds += ["grow", "grow"] if size == 4 else ["shrink", "shrink", "shrink"]
        kind = chance.choice(kinds)
        one, other, *rest = chance.sample(names, len(names))
        away = rest[0] if not self.made or chance.random() < 0.5 else None
        match kind:
            case "key":
                return Change(kind, keys=(one,), away=away)
            case "seat":
                return Change(kind, seats={one: next(self._newcomers)}, away=away)
            case "seat and key":
                seats = {one: next(self._newcomers)}
                return Change(kind, keys=(other,), seats=seats, away=away)
            case "gateway's key":
                return Change(kind, keys=(WEB,), away=away)
            case "vacant":
                return Change(kind, seats={one: None})
            case "grow":
                joining = tuple(next(self._newcomers) for _ in range(3))
                return Change(kind, joining=joining, away=away)
            case _:
                return Change(kind, leaving=(one, other, rest[1]), away=away)

    # --- in the thread of the change ------------------------------------------------------------

    def _try(self, change: Change) -> None:
        try:
            began = time.monotonic()
            self.tell(f"{change.kind}: {change}")
            self._make(change)
            self.made += 1
            self.tell(f"all are in epoch {self._epoch}, after {time.monotonic() - began:.1f} s")
        except Exception as error:  # noqa: BLE001 - told in full, and the run has failed
            self.has_failed = True
            self.problems.append(f"the members could not change ({change}): {error!r}")
            self.tell(traceback.format_exc())
        self._next_at = time.monotonic() + self._chance.uniform(*PAUSE_SECONDS)

    def _prepare(self, change: Change) -> Prepared:
        """All that comes before the proposal."""
        self.attest()
        newcomers = [*change.joining, *(name for name in change.seats.values() if name)]
        for name in newcomers:
            self.on_main(partial(self.network.world.add, name))
        self._all(self._make_newcomer, newcomers)
        self._all(self._make_key, change.keys)
        stolen = self._steal(change)
        following = self._write_next(change)
        return Prepared(change, newcomers, stolen, following, self._ready(change, newcomers))

    def _make(self, change: Change) -> None:
        network, before = self.network, self.clusters[-1]
        prepared, self._prepared = self._prepared or self._prepare(change), None
        newcomers = prepared.newcomers
        heal: Callable[[], None] | None = None
        if change.away is not None:
            others = [name for name in (*network.node_names, WEB) if name != change.away]
            pairs = [(change.away, name) for name in others]
            pairs += [(name, change.away) for name in others]
            heal = self.on_main(lambda: network.world.impair(pairs, CUT))
        self._decide(prepared)
        self.tell("it is decided")
        for name in (*network.node_names, *newcomers, WEB):
            self._put(name, "cluster.next.yml", self._next_text)
        begun = self._wait_for(lambda: self._first_in(before.epoch + 1), "the next epoch")
        self.tell(f"{begun} is the first in epoch {before.epoch + 1}")
        self._take_in(begun)
        thief = _Thief(self, prepared.stolen, change)
        try:
            self._admit(change, newcomers)
            present = network.node_names
            members = [name for name in present if self._is_member(name)]
            strong = self.clusters[-1].quorums.strong
            self._wait_for(
                lambda: self._count_in(members) >= strong, f"{strong} members in the next epoch"
            )
            if heal is not None:
                # until now it heard the thief alone
                thief.let_go(change.away)
                self.on_main(heal)
                self.tell(f"{change.away} is cut off no more")
            self._wait_for(
                lambda: self._are_all_over(members), "all members and the gateway in the next epoch"
            )
            self._hand_over_lies()
        finally:
            self.problems += thief.end(
                [name for name in network.node_names if self._is_member(name)]
            )
        self.refusals += thief.refusals
        for name in set(present) - set(members):
            self.on_main(partial(self._leave, name))

    @property
    def _epoch(self) -> int:
        return self.clusters[-1].epoch

    def tell(self, text: str) -> None:
        """Say what operators do, and what comes of it."""
        self._say(f"           members: {text}")

    def on_main(self, errand: Callable[[], T]) -> T:
        """What the nemesis' thread gives or raises, which does it."""
        answer: Future[T] = Future()
        self._errands.put((errand, answer))
        return answer.result(STEP_SECONDS)

    def _wait_for(self, condition: Callable[[], T | None], what: str) -> T:
        """What the condition gives, once that is something."""
        ends_at = time.monotonic() + STEP_SECONDS
        while not (found := condition()):
            if time.monotonic() > ends_at:
                raise CommandFailed(f"waited {STEP_SECONDS:g} s in vain for {what}")
            time.sleep(LOOK_SECONDS)
        return found

    def _all(self, do: Callable[[str], None], names: Sequence[str]) -> None:
        if names:
            with ThreadPoolExecutor(len(names)) as operators:
                list(operators.map(do, names))

    def _machine(self, name: str) -> Machine:
        return self.network.machine(name)

    def _put(self, name: str, file: str, content: str | bytes) -> None:
        """What an operator has from another one; at once, since the node may read it now."""
        place = self._machine(name).root / CONFIGURATION[1:] / file
        draft = place.with_name(f"{file}.draft")
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        draft.rename(place)

    # --- what is asked of the nodes -------------------------------------------------------------

    def _asked(self, name: str, path: str) -> dict[str, Any] | None:
        """What a node says; None if it does not answer now."""
        try:
            answer = ask(f"{self.network.url(name)}{path}", seconds=ASK_SECONDS)
        except NoAnswer:
            return None
        return dict(answer.json()) if answer.status == 200 else None

    def _is_in(self, name: str, epoch: int) -> bool:
        """Whether a node or the gateway was seen in that epoch: nobody goes back."""
        if self._seen_in.get(name, 0) < epoch:
            said = self._asked(name, "/api/v1/network" if name == WEB else "/pbft/status")
            if said is not None:
                self._seen_in[name] = said["epoch"]
        return self._seen_in.get(name, 0) >= epoch

    def _first_in(self, epoch: int) -> str | None:
        return next((name for name in self.network.node_names if self._is_in(name, epoch)), None)

    def _is_member(self, name: str) -> bool:
        return name in self.clusters[-1].expected_names

    def _count_in(self, names: Sequence[str]) -> int:
        return sum(self._is_in(name, self._epoch) for name in names)

    def _are_all_over(self, names: Sequence[str]) -> bool:
        """Whether all members and the gateway are in the newest epoch. Nobody helps them there."""
        return self._is_in(WEB, self._epoch) and self._count_in(names) == len(names)

    def _join(self, name: str) -> None:
        """A newcomer begins with the cluster file; it gets the state from others."""
        self._put(name, "cluster.yml", self._text)
        digits = self.clusters[-1].id.hex()
        self._machine(name).run(f"pbft-ci-node confirm {digits} --config node.yml > shown")

    # --- the steps ------------------------------------------------------------------------------

    def attest(self, build: str | None = None) -> None:
        """Get the envelope of a green build (None: the newest) while this epoch lasts, if there is
        none yet."""
        file = f"epoch-{self._epoch}.intoto.json"
        if file in self.envelopes:
            return

        def is_done() -> bool:
            done = decided(self.network)
            green = [b for b, branch in self._posted.builds.items() if branch in ENVELOPES_OF]
            found = [build] if build else [b for b in green if b in done]
            if not found:
                return False
            return self._typed(WEB, f"pbft-ci attest {found[-1]} --output {file}") is not None

        self._wait_for(is_done, "an envelope")
        self.envelopes.append(file)

    @property
    def newest_build(self) -> str:
        """The last one that was accepted."""
        builds = self._wait_for(lambda: list(self._posted.builds), "a webhook")
        return builds[-1]

    # --- what the thief is given -----------------------------------------------------------------

    @property
    def present_text(self) -> str:
        """The newest cluster file, which is public."""
        return self._text

    def stolen_lately(self) -> list[Stolen]:
        """The retired keys of the last changes."""
        files = {
            f"{CONFIGURATION}/cluster-{c.epoch}.yml" for c in self.clusters[-1 - EPOCHS_TRIED : -1]
        }
        return [stolen for stolen in self._stolen if stolen.cluster_file in files]

    def is_taking_links(self) -> bool:
        """Whether it takes links this time."""
        return self._chance.random() < 0.5

    def gone_over(self) -> list[str]:
        """Who is in the newest epoch now."""
        return [name for name in self.network.node_names if self._is_in(name, self._epoch)]

    def was_replica(self, name: str) -> bool:
        """Whether it was a replica of the epoch before."""
        return self.clusters[-2].replica_index(name) is not None

    def machine_of_thief(self) -> Machine:
        """Where the thief is."""
        return self._machine(THIEF)

    def _typed(self, name: str, line: str) -> str | None:
        """What a command says; None if it failed, as it may while machines fail."""
        try:
            return self._machine(name).run(line)
        except (CommandFailed, subprocess.TimeoutExpired) as error:
            reason = " ".join(str(error).splitlines()[-2:])
            self.tell(f"to be tried again: {reason[:200]}")
            time.sleep(AGAIN_SECONDS)
            return None

    def _make_newcomer(self, name: str) -> None:
        network = self.network
        if network.image is not None:
            self.on_main(lambda: network.world.start_engine(name, network.image))
        make_member(network.world, network.machine(name))
        network.add(name)

    def _make_key(self, name: str) -> None:
        """Another key, in the folder that `next_private_key_file` names."""
        machine = self._machine(name)
        config = self.network.config_file(name)
        settings = yaml.safe_load(config.read_text())
        file = Path(settings["next_private_key_file"])
        if (machine.root / CONFIGURATION[1:] / file).exists():
            # The last change took it into use. The operator names it so, and the one to come.
            settings["private_key_file"] = str(file)
            file = Path(next_key_file(name, 1 + int(file.parent.name.partition("-")[2])))
            settings["next_private_key_file"] = str(file)
            config.write_text(yaml.safe_dump(settings, sort_keys=False))
            self.on_main(lambda: self.network.start_again(name))
        program = "pbft-ci-gateway" if name == WEB else "pbft-ci-node"
        machine.run(
            f"{program} init --name {name} --folder {file.parent} --listen {settings['listen']}"
            f" --repository {REPOSITORY}"
        )

    def _steal(self, change: Change) -> list[Stolen]:
        """Read the keys that will be retired off the disks."""
        before = self.clusters[-1]
        gone = [*change.keys, *change.leaving]
        gone += [name for name in change.seats if name != self._vacant]
        thief = self._machine(THIEF)
        folder = thief.root / CONFIGURATION[1:]
        cluster_file = f"cluster-{before.epoch}.yml"
        (folder / cluster_file).write_text(self._text)
        for name in gone:
            config = yaml.safe_load(self.network.config_file(name).read_text())
            home = self._machine(name).root / CONFIGURATION[1:]
            files = [home / config["private_key_file"], home / config["next_private_key_file"]]
            member = before.public_key(name)
            (key,) = [f for f in files if f.exists() and _public_key(f) == member]
            stolen = Stolen(
                name,
                f"{CONFIGURATION}/{cluster_file}",
                f"{CONFIGURATION}/{name}-{before.epoch}.private.pem",
            )
            place = thief.root / stolen.key_file[1:]
            place.touch(mode=0o600)
            place.write_bytes(key.read_bytes())
            self._stolen.append(stolen)
        thief.run(f"chown -R {thief.plan.uid} {CONFIGURATION}", is_root=True)
        return self._stolen[-len(gone) :] if gone else []

    def _write_next(self, change: Change) -> Cluster:
        """NEXT.yml: the newest cluster file without ancestry, with other members."""
        settings: dict[str, Any] = yaml.safe_load(self._text)
        settings.pop("ancestry", None)
        entries = {name: self._entry(name, f"{name}.entry.yml") for name in change.joining}
        replicas = []
        for replica in settings["replicas"]:
            name = replica["name"]
            newcomer = change.seats.get(name, name)
            if name in change.leaving:
                continue
            if newcomer is None:
                replicas.append({**replica, "public_key": "vacant"})
                settings["protocol"] = PROTOCOL_MAX
            elif newcomer != name:
                replicas.append(
                    self._seat(newcomer, self._entry(newcomer, f"{newcomer}.entry.yml"))
                )
            else:
                replicas.append(replica)
        replicas += [self._seat(name, entry) for name, entry in entries.items()]
        settings["replicas"] = replicas
        staying = {replica["name"] for replica in replicas if replica["public_key"] != "vacant"}
        settings["clients"] = [
            c for c in settings["clients"] if set(c.get("operates", ())) <= staying
        ]
        standing = {name for c in settings["clients"] for name in c.get("operates", ())}
        for name in sorted(staying - standing):
            entry = self._entry(name, f"{KEYS}/of-{name}.entry.yml")
            settings["clients"].append(
                {
                    "name": f"of-{name}",
                    "public_key": entry["public_key"],
                    "roles": ["operator"],
                    "operates": [name],
                }
            )
        for name in change.keys:
            key = self._new_key(name).parent / f"{name}.entry.yml"
            entry = self._entry(name, str(key))
            for listed in (*settings["replicas"], *settings["clients"]):
                if listed["name"] == name:
                    listed["public_key"] = entry["public_key"]
        self._next_text = yaml.safe_dump(settings, sort_keys=False)
        first = self.network.node_names[0]
        self._put(first, "next.yml", self._next_text)
        return read_cluster(self._machine(first).root / CONFIGURATION[1:] / "next.yml")[1]

    def _entry(self, name: str, file: str) -> dict[str, Any]:
        place = self._machine(name).root / str(Path(CONFIGURATION) / file)[1:]
        entry: dict[str, Any] = yaml.safe_load(place.read_text())
        return entry

    @staticmethod
    def _seat(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": name, "public_key": entry["public_key"], "address": entry["address"]}

    def _new_key(self, name: str) -> Path:
        """The key that this change gives a member, from its configuration folder."""
        settings = yaml.safe_load(self.network.config_file(name).read_text())
        return Path(settings["next_private_key_file"])

    def _ready(self, change: Change, newcomers: Sequence[str]) -> dict[str, bytes]:
        """What each replica of the next epoch signs; no more of them than are needed."""
        following = yaml.safe_load(self._next_text)
        names = [r["name"] for r in following["replicas"] if r["public_key"] != "vacant"]
        new = [*newcomers, *(name for name in change.keys if name in names)]
        rest = [name for name in names if name not in (*new, change.away)]
        strong = len(following["replicas"]) * 2 // 3 + 1
        ready: dict[str, bytes] = {}

        def sign(name: str) -> None:
            self._put(name, "next.yml", self._next_text)
            self._put(name, "present.yml", self._text)
            key = f"--key {self._new_key(name)}" if name in change.keys else ""
            file = f"ready-{self._epoch}.yml"
            machine = self._machine(name)
            machine.run(
                f"rm -f {file}; pbft-ci-node --config node.yml ready next.yml"
                f" --cluster present.yml {key} --output {file}"
            )
            ready[name] = (machine.root / CONFIGURATION[1:] / file).read_bytes()

        self._all(sign, [*new, *rest[: max(0, strong - len(new))]])
        return ready

    def _decide(self, prepared: Prepared) -> None:
        """Propose and approve, again and again until the change is made."""
        following, ready, change = prepared.following, prepared.ready, prepared.change
        before = self.clusters[-1]
        able = [name for name in self.network.node_names if name != change.away]
        operators = self._chance.sample(able, before.quorums.strong)
        first = operators[0]
        for name, content in ready.items():
            self._put(first, f"{name}.ready.yml", content)
        files = " ".join(f"{name}.ready.yml" for name in ready)
        for name in operators:
            self._put(name, "next.yml", self._next_text)

        def is_made() -> bool:
            answers = [self._asked(name, "/pbft/members") for name in self.network.node_names]
            said = [answer for answer in answers if answer is not None]
            if any(
                answer["epoch"] > before.epoch
                or answer["configuration"] == following.configuration.hex()
                for answer in said
            ):
                return True
            if not said:
                return False
            newest = max(said, key=lambda answer: int(answer["sequence"]))
            wanted = following.encoded.hex()
            pending = [p for p in newest["pending"] if p["configuration"] == wanted]
            if not pending:
                self._members(first, f"propose next.yml --ready {files}")
                return False
            approved = pending[0]["approvals"]
            for name in operators:
                if f"of-{name}" not in approved:
                    self._members(name, "approve next.yml")
                    break
            return False

        self._wait_for(is_made, "the decision")

    def _members(self, name: str, words: str) -> None:
        self._typed(
            name,
            f"pbft-ci members {words} --yes --operator-key {KEYS}/of-{name}.private.pem"
            f" --cluster {self.cluster_file(name)}",
        )

    def cluster_file(self, name: str) -> str:
        """The newest cluster file on that machine."""
        for epoch in range(self._epoch, 0, -1):
            file = f"{DISK}/{name}.data/epoch-{epoch}/cluster.yml"
            if (self._machine(name).root / file[1:]).exists():
                return file
        return "cluster.yml"

    def _take_in(self, begun: str) -> None:
        """Get the cluster file of a member that has begun."""
        folder = self.network.data_folder(begun) / f"epoch-{self._epoch + 1}"
        self._text = (folder / "cluster.yml").read_text()
        self.clusters.append(read_cluster(folder / "cluster.yml")[1])

    def _admit(self, change: Change, newcomers: Sequence[str]) -> None:
        """New members begin. Those that leave stay in the network until all others have begun."""
        network = self.network
        self._all(self._join, newcomers)
        leaving = [*change.leaving, *(name for name in change.seats if name != self._vacant)]
        self._vacant = next((seat for seat, new in change.seats.items() if new is None), None)
        names = (*self.clusters[-1].expected_names, *leaving)

        def begin() -> None:
            network.node_names = names
            for name in newcomers:
                network.spawn(name)

        self.on_main(begin)

    def _leave(self, name: str) -> None:
        """A member that has left: its node ends, and its operator destroys the key."""
        self.network.leave(name)
        machine = self._machine(name)
        machine.run("rm -f *.private.pem */*.private.pem")

    def _hand_over_lies(self) -> None:
        """Somebody on each machine passes on what the thief signs: that door asks for nothing."""
        build = bytes.fromhex(self.newest_build)
        for stolen in self._stolen:
            pose = Pose.of(_seen_from_here(stolen, self._machine(THIEF).root))
            for cluster in (pose.cluster, self.clusters[-1]):
                for signed in lies(pose, cluster, build):
                    path, body = posted_to(signed)
                    for name in self.network.node_names:
                        if not self._is_member(name):
                            continue
                        try:
                            answer = ask(
                                f"{self.network.url(name)}{path}",
                                json.dumps(body).encode(),
                                seconds=ASK_SECONDS,
                            )
                        except NoAnswer:
                            continue
                        if answer.status not in (400, 401):
                            self.problems.append(
                                f"{name} took {signed.payload[:40]!r} of {stolen}: {answer}"
                            )


class _Thief:
    """The thief while one change is under way. `end` it."""

    def __init__(self, changes: MemberChanges, stolen: Sequence[Stolen], change: Change) -> None:
        """To be made when the first member is in the next epoch.

        stolen: what this change retires. Whoever dials those replicas where they were is led here:
        the gateway, and the replica that is cut off.
        """
        self.refusals = 0
        self._changes = changes
        self._machine = changes.machine_of_thief()
        self._folder = self._machine.root / CONFIGURATION[1:]
        self._report = "report.json"
        (self._folder / self._report).unlink(missing_ok=True)
        (self._folder / "present.yml").write_text(changes.present_text)
        plan = Plan(
            tuple(changes.stolen_lately()),
            f"{CONFIGURATION}/present.yml",
            f"0.0.0.0:{REPLICA_PORT}",
            changes.newest_build,
            changes.is_taking_links(),
        )
        (self._folder / "plan.json").write_bytes(msgspec.json.encode(plan))
        self._gone_over = changes.gone_over()
        reading, self._telling = os.pipe()
        output = changes.network.folder / "output" / "thief.txt"
        with os.fdopen(reading, "rb") as told, output.open("ab") as shown:
            self._process: Process = changes.on_main(lambda: self._spawn(told, shown))
        self._led: list[tuple[Machine, str]] = []
        mine = [s for s in stolen if changes.was_replica(s.name)]
        for name in {WEB, change.away} - {None} - {s.name for s in mine}:
            for each in mine:
                self._lead(changes.network.machine(str(name)), changes.network.machine(each.name))

    def _spawn(self, told: Any, shown: Any) -> Process:
        command = (sys.executable, "-m", "tests.operators.thief", "plan.json", self._report)
        environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        inside = ("sh", "-c", f'cd {CONFIGURATION} && exec "$@"', "sh", *command)
        return self._machine.spawn(inside, (told, shown, shown), environment)

    def _lead(self, victim: Machine, retired: Machine) -> None:
        """What is sent to the retired member's address goes to the thief, as by a false ARP."""
        address = retired.plan.address
        self._machine.run(
            "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore;"
            f" ip route replace local {address} dev lo table {LED_TABLE};"
            # what this machine sends there itself still goes to the member
            f" ip rule | grep -q {LED_TABLE} || ip rule add iif {DEVICE} lookup {LED_TABLE}",
            is_root=True,
        )
        mac = mac_of(self._machine.plan.port)
        victim.run(
            f"ip neigh replace {address} lladdr {mac} dev {DEVICE} nud permanent", is_root=True
        )
        self._led.append((victim, address))

    def let_go(self, name: str | None = None) -> None:
        """Whoever was led here (None: all) reaches the others again."""
        for victim, address in [led for led in self._led if name in (None, led[0].name)]:
            victim.run(f"ip neigh del {address} dev {DEVICE}", is_root=True)
            self._led.remove((victim, address))

    def end(self, members: Sequence[str]) -> list[str]:
        """End it; what it was told and should not have been. members: of the newest epoch."""
        self.let_go()
        gone_over = self._changes.gone_over()
        os.write(self._telling, b"\n")
        os.close(self._telling)
        try:
            code = self._process.wait(THIEF_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            return ["the thief did not end"]
        if code:
            return [f"the thief ended with {code}; output/thief.txt says why"]
        self._machine.run(f"ip route flush table {LED_TABLE} || true", is_root=True)
        report = msgspec.json.decode((self._folder / self._report).read_bytes(), type=Report)
        self.refusals = sum(row.status == 410 for rows in report.knocks for row in rows)
        self._changes.tell(
            f"the thief was sent away {self.refusals} times, linked as"
            f" {', '.join(sorted(report.linked)) or 'nobody'}, and was asked for {report.served}"
        )
        assert set(gone_over) <= set(members)
        return [
            *secrets_told(report, knock=0, gone_over=self._gone_over),
            *secrets_told(report, knock=1, gone_over=gone_over),
        ]


def _public_key(file: Path) -> bytes:
    return load_signing_key(file).public_key


def _seen_from_here(stolen: Stolen, root: Path) -> Stolen:
    return msgspec.structs.replace(
        stolen,
        cluster_file=str(root / stolen.cluster_file[1:]),
        key_file=str(root / stolen.key_file[1:]),
    )
