"""Machines on one switch, the installation that they share, and the cluster that runs on them."""

import contextlib
import functools
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import docker
import yaml

from common.address import Address
from scripts.base_image import EXAMPLE_IMAGE, import_busybox
from scripts.docker_engine import GO_SETTINGS, daemon_command, ping
from scripts.folders import ROOT
from scripts.free_ports import HOST, free_ports
from scripts.processes import Process
from tests.operators.machine import CONFIGURATION, DISK, HOME, Machine, Plan, clock_environment
from tests.operators.packet_switch import WHOLE, Link, PacketSwitch
from tests.pbft_ci.installation import Installation, build, copied, install
from tests.processes.network import ComparedNetwork
from tests.waiting import block_until

INSTALLED = Path("/opt/pbft-ci")
OPERATORS = ("acme", "berg", "corp", "dune")
WEB = "web"
# No user of this machine has such a number, nor its containers.
FIRST_UID = 61_000
# A file with holes. A node builds only if more than 1 GiB is free.
DISK_BYTES = 4 * 2**30
REPLICA_PORT = 10_000
LOCAL_PORT = 11_000
WEB_PORT = 8080
REPOSITORY = f"{HOME}/app.git"
# where each person's key is; in life on none of these machines
KEYS = f"{HOME}/pbft-ci"
ENGINE_SECONDS = 120.0
ENGINE_FOLDER = Path("/run/engine")
# of the host, so that no capture fills the disk
CAPTURES = "/run/captures"
# Debian's libfaketime spoils clock_nanosleep, by which Python sleeps, if it leaves the monotonic
# clock alone: each time.sleep fails with EINVAL (wolfcw/libfaketime, issue 426). A line of a .pth
# file that begins so is run at each start of Python.
SLEEP_FILE = "sleep.pth"
SLEEP_LINE = (
    "import os, select, time; 'LD_PRELOAD' in os.environ and"
    " setattr(time, 'sleep', lambda seconds, wait=select.select: wait((), (), (), seconds))\n"
)


class World:
    """Machines by name. Use it as a context manager, in the thread that makes the machines."""

    def __init__(self, folder: Path, installation: Installation | None, *, seed: int = 0) -> None:
        """folder: of this world alone; made here. seed: of the switch.

        installation: what the machines have in /opt/pbft-ci, in a copy; None: nothing.
        """
        self.folder = folder
        self.machines: dict[str, Machine] = {}
        self.switch = PacketSwitch(seed)
        self._engines: dict[str, Process] = {}
        self._impaired: list[tuple[set[tuple[int, int]], Link]] = []
        folder.mkdir(parents=True)
        self.installation = folder / "installation"
        if installation is None:
            self.installation.mkdir()
        else:
            copy = copied(installation, self.installation, seen_as=INSTALLED)
            (copy.packages / SLEEP_FILE).write_text(SLEEP_LINE)

    def add(self, name: str, disk_bytes: int = DISK_BYTES) -> Machine:
        """Start one more machine."""
        port = len(self.machines) + 1
        plan = Plan(name, port, FIRST_UID + port, disk_bytes)
        machine = Machine(plan, self.folder / name, self.installation, self.switch)
        self.machines[name] = machine
        captures = self.folder / name / "captures"
        captures.mkdir()
        machine.run(
            f"mkdir {CAPTURES}; mount --bind {captures} {CAPTURES};"
            f" chown {machine.plan.uid} {CAPTURES}",
            is_root=True,
        )
        return machine

    def start_engine(self, name: str, image: bytes | None) -> bytes:
        """Start a Docker engine of the machine's own, with the example's image on it.

        image: as another engine gave it, so that both have the same; None: make it. Gives it.
        """
        machine = self.machines[name]
        storage = self.folder / name / "engine"
        storage.mkdir()
        machine.run(
            f"mkdir {ENGINE_FOLDER}; mount --bind {storage} {ENGINE_FOLDER};"
            f" ln -s {ENGINE_FOLDER}/docker.sock /run/docker.sock",
            is_root=True,
        )
        with (
            (self.folder / name / "dockerd.txt").open("ab") as output,
            open("/dev/null") as nothing,
        ):
            self._engines[name] = machine.spawn_as_root(
                daemon_command("dockerd", ENGINE_FOLDER, "overlay2", has_networks=False),
                (nothing, output, output),
                GO_SETTINGS,
            )
        place = machine.root / ENGINE_FOLDER.relative_to("/") / "docker.sock"
        host = f"unix://{place}"
        block_until(
            lambda: place.exists() and ping(host) is None, f"the engine of {name}", ENGINE_SECONDS
        )
        machine.run(f"chown root:{machine.plan.uid} {ENGINE_FOLDER}/docker.sock", is_root=True)
        client = docker.DockerClient(base_url=host, timeout=int(ENGINE_SECONDS))
        with contextlib.closing(client):
            if image is None:
                import_busybox(client, EXAMPLE_IMAGE)
                return b"".join(client.images.get(EXAMPLE_IMAGE).save(named=True))
            client.images.load(image)
        return image

    def impair(self, pairs: Iterable[tuple[str, str]], link: Link) -> Callable[[], None]:
        """Let frames between these machines, each pair one way, travel like this.

        Gives what ends it. Several may be in force: then the worst of each counts.
        """
        ports = {name: machine.plan.port for name, machine in self.machines.items()}
        fault = ({(ports[source], ports[target]) for source, target in pairs}, link)
        self._impaired.append(fault)
        self._set_links(fault[0])

        def end() -> None:
            self._impaired.remove(fault)
            self._set_links(fault[0])

        return end

    def _set_links(self, pairs: Iterable[tuple[int, int]]) -> None:
        for pair in pairs:
            links = (link for places, link in self._impaired if pair in places)
            self.switch.set_link(*pair, functools.reduce(Link.beside, links, WHOLE))

    def __enter__(self) -> Self:
        self.switch.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self.switch.__exit__)
            for machine in self.machines.values():
                stack.callback(machine.close)
            for name, engine in self._engines.items():
                stack.callback(_stop, name, engine)

    def keep(self) -> None:
        """Copy what the machines have on their disks to the folder, for study."""
        for name, machine in self.machines.items():
            for place in (CONFIGURATION, DISK):
                with contextlib.suppress(OSError, shutil.Error):
                    kept = self.folder / name / "kept" / Path(place).parts[1]
                    shutil.copytree(machine.root / place[1:], kept, symlinks=True)


class OperatorNetwork(ComparedNetwork):
    """The nodes and the gateway of a world, as the machines' owners start them."""

    def __init__(
        self,
        world: World,
        gateway_machine: str,
        settings: Mapping[str, Any],
        image: bytes | None = None,
    ) -> None:
        """To be made when the members are: nodes are given a `local_listen`, all a disk of theirs.

        settings: more keys of each node.yml. image: what engines have; None: there are none.
        """
        self.world = world
        self.image = image
        self._gateway_machine = gateway_machine
        # nodes that their operators have stopped for a while
        self._held: set[str] = set()
        inside = {**dict.fromkeys(OPERATORS, LOCAL_PORT), WEB: WEB_PORT}
        listen = {}
        for (name, port), here in zip(inside.items(), free_ports(len(inside)), strict=True):
            listening = socket.create_server((HOST, here))
            self.machine(name, gateway_machine).relay(listening, port)
            listen[name] = Address(HOST, here)
        super().__init__(world.folder, listen, WEB)
        self._settings = {"local_listen": f"{HOST}:{LOCAL_PORT}", **settings}
        for name in OPERATORS:
            self._set_node(name)
        own = {
            "data_directory": f"{DISK}/{WEB}.data",
            "log_file": f"{DISK}/{WEB}.log",
            "results_file": f"{DISK}/results.jsonl",
            "next_private_key_file": next_key_file(WEB, 1),
        }
        self._set(WEB, own)
        ComparedNetwork.living.append(self)

    def _set_node(self, name: str) -> None:
        own = {
            "data_directory": f"{DISK}/{name}.data",
            "log_file": f"{DISK}/{name}.log",
            "capture_file": f"{CAPTURES}/{name}.capture",
            "next_private_key_file": next_key_file(name, 1),
        }
        self._set(name, {**own, **self._settings})

    def add(self, name: str) -> None:
        """One more node, whose configuration is there. It is no member yet."""
        (port,) = free_ports(1)
        self.machine(name).relay(socket.create_server((HOST, port)), LOCAL_PORT)
        self._listen[name] = Address(HOST, port)
        self._set_node(name)

    def leave(self, name: str) -> None:
        """Stop a node for good."""
        self.node_names = tuple(other for other in self.node_names if other != name)
        self.former_names = (*self.former_names, name)
        if self.is_running(name):
            self.processes[name].send_signal(signal.SIGCONT)
            self.stop(name)

    def hold(self, name: str) -> None:
        """Stop a node, so that nobody starts it before `release`."""
        self._held.add(name)
        if self.is_running(name):
            self.kill(name)

    def release(self, name: str) -> None:
        """Start it again."""
        self._held.discard(name)
        self.spawn(name)

    def spawn(self, name: str) -> None:
        """Start one, unless it has left, or runs, or its operator holds it."""
        if name not in self.former_names and name not in self._held and not self.is_running(name):
            super().spawn(name)

    def start_again(self, name: str) -> None:
        """For what is read at a start."""
        self.hold(name)
        self.release(name)

    def data_folder(self, name: str) -> Path:
        """The data directory of a node or the gateway, as seen from here."""
        return self.file_of(name, "data_directory")

    def machine(self, name: str, gateway_machine: str | None = None) -> Machine:
        """The machine of a node or the gateway."""
        place = (gateway_machine or self._gateway_machine) if name == WEB else name
        return self.world.machines[place]

    def config_file(self, name: str) -> Path:
        """The configuration of a node or the gateway."""
        folder = self.machine(name).root / CONFIGURATION[1:]
        return folder / ("client.yml" if name == WEB else "node.yml")

    def file_of(self, name: str, key: str) -> Path:
        """The file that a key of this configuration names, as seen from here."""
        value = yaml.safe_load(self.config_file(name).read_text())[key]
        return self.machine(name).root / str(Path(CONFIGURATION) / value)[1:]

    @property
    def results_file(self) -> Path:
        """Where the gateway writes its results."""
        return self.file_of(WEB, "results_file")

    def log_file(self, name: str) -> Path:
        """The log of a node or the gateway."""
        return self.file_of(name, "log_file")

    def capture_file(self, name: str) -> Path:
        """What a node sent, if `capture_file` in its configuration is in CAPTURES."""
        return self.folder / name / "captures" / f"{name}.capture"

    def _set(self, name: str, keys: Mapping[str, Any]) -> None:
        file = self.config_file(name)
        settings = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump({**settings, **keys}, sort_keys=False))

    def start_program(self, name: str, files: Sequence[IO[Any]]) -> Process:
        """Start a node or the gateway as its operator's user, with a clock that can be moved."""
        program = "pbft-ci-gateway" if name == WEB else "pbft-ci-node"
        config = f"{CONFIGURATION}/{self.config_file(name).name}"
        command = (f"/opt/pbft-ci/bin/{program}", "--config", config)
        return self.machine(name).spawn(command, files, clock_environment())

    def close(self) -> None:
        """End everything that was started here and still runs."""
        with contextlib.suppress(ValueError):
            ComparedNetwork.living.remove(self)
        super().close()


def make_member(world: World, machine: Machine) -> None:
    """Make keys, entries and a configuration: of a replica and its operator, or of the gateway."""
    repository = world.folder / "app.git"
    # each operator's own copy of what a git server gives all of them
    machine.run(
        f"cp -r {repository} {REPOSITORY}; chown -R {machine.plan.uid} {REPOSITORY}",
        is_root=True,
    )
    if machine.name == WEB:
        program, listen = "pbft-ci-gateway", f"127.0.0.1:{WEB_PORT}"
    else:
        program, listen = "pbft-ci-node", f"{machine.plan.address}:{REPLICA_PORT}"
    machine.run(
        f"{program} init --name {machine.name} --folder . --listen {listen}"
        f" --repository {REPOSITORY};"
        # what this machine cannot pull: `init` wrote the line as a comment
        " sed -i 's/^    # local_images:/    local_images:/' *.yml"
    )
    if machine.name != WEB:
        machine.run(
            f"pbft-ci operator init --name of-{machine.name} --folder {KEYS}"
            f" --replica {machine.name}"
        )


def next_key_file(name: str, number: int) -> str:
    """Where an operator puts the next key of a member, in its configuration's folder."""
    return f"key-{number}/{name}.private.pem"


def exchange_entries(world: World, names: Iterable[str]) -> None:
    """Give each machine all public entries: what operators send to each other, and nothing else."""
    entries: dict[str, bytes] = {}
    for machine in world.machines.values():
        for folder in (CONFIGURATION, f"{HOME}/pbft-ci"):
            for file in (machine.root / folder[1:]).glob("*.entry.yml"):
                entries[file.name] = file.read_bytes()
    for name in names:
        for file_name, text in entries.items():
            place = world.machines[name].root / CONFIGURATION[1:] / file_name
            if not place.exists():
                place.write_bytes(text)


def installed(folder: Path) -> Installation:
    """An installation of this checkout. folder: made here, for it alone."""
    folder.mkdir()
    return install(build(ROOT, "wheel", folder / "wheel"), folder / "venv")


def _stop(name: str, engine: Process) -> None:
    """End an engine in order: it removes the control groups of its containers."""
    engine.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        engine.wait(ENGINE_SECONDS)
