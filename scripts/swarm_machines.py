"""Machines with Docker engines of their own, in namespaces and folders of their own: for swarms.

Each has a host name, a network that leads to the other ones alone, and its processes. Needs root.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import docker
import docker.errors
import requests

from scripts.base_image import import_busybox

# of the bridge between the machines, which nothing else is on
_NETWORK = "10.234.77"
_CGROUPS = Path("/sys/fs/cgroup")
_WAIT_SECONDS_MAX = 90.0
_PAUSE_SECONDS = 0.1
# where a daemon looks for a socket that it is handed
_FIRST_HANDED = 3


class Machine:
    """A machine with an engine. All of its processes die with the first one, as without power.

    name: its host name. host: of its engine, as in DOCKER_HOST. client: over its Unix socket.
    """

    def __init__(self, number: int, mark: str, *, folder: Path, tls_folder: Path | None) -> None:
        """number: from 1. mark: so that several swarms have machines of their own.

        tls_folder: with ca.pem, cert.pem and key.pem; `host` is then an address of loopback that
        the engine serves over TLS, to who has a certificate of that authority.
        """
        self.name = f"pbft{mark}-{number}"
        self.address = f"{_NETWORK}.{number}"
        # Below one for all: beside other work, two engines get no more of the CPU than one.
        self._group = f"pbft{mark}/{self.name}"
        local = f"unix://{folder / 'docker.sock'}"
        self.client = docker.DockerClient(base_url=local, version="1.41", timeout=60)
        folder.mkdir()
        daemon = (
            f"hostname {self.name}; ip link set lo up; exec dockerd --data-root={folder}/data"
            f" --exec-root={folder}/exec --pidfile={folder}/docker.pid --host={local}"
            f" --storage-driver=overlay2 --cgroup-parent=/{self._group} --bridge=none"
            " --iptables=false --ip6tables=false --log-level=error"
        )
        environment, handed = dict(os.environ), []
        self.host = local
        if tls_folder is not None:
            # made out here: the machine's own network has no way from here
            handed.append(socket.create_server(("127.0.0.1", 0)))
            self.host = f"tcp://127.0.0.1:{handed[0].getsockname()[1]}"
            daemon += f" --host=fd:// --tlsverify --tlscacert={tls_folder}/ca.pem"
            daemon += f" --tlscert={tls_folder}/cert.pem --tlskey={tls_folder}/key.pem"
            environment |= {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
        apart = ("--net", "--uts", "--mount", "--propagation", "private", "--pid", "--mount-proc")
        # the shell gives a socket the number that the daemon expects
        begin = 'exec "$@"' + "".join(f" {_FIRST_HANDED}<&{each.fileno()}" for each in handed)
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            (
                "bash",
                "-c",
                begin,
                "-",
                "unshare",
                *apart,
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                daemon,
            ),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environment,
            pass_fds=[each.fileno() for each in handed],
        )
        for each in handed:
            # so that nobody listens any more when the machine is dead
            each.close()

    def plug(self, interface: str) -> None:
        """Take an interface for its own, with its address. Raises CalledProcessError."""
        _run("ip", "link", "set", interface, "netns", str(self.first_process()))
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", interface)
        self.run("ip", "link", "set", interface, "up")

    def run(self, *command: str) -> None:
        """Run a command in its network, with the files from here. Raises CalledProcessError."""
        _run("nsenter", f"--net=/proc/{self.first_process()}/ns/net", *command)

    def wait(self) -> None:
        """Return once its engine answers. Raises RuntimeError."""
        _wait_until(self._answers, f"the engine of {self.name}")

    def kill(self) -> None:
        """End all of its processes at once, by the process that holds the others."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Leave nothing of it. Raises RuntimeError."""
        self.client.close()
        self.kill()
        self._log.close()
        for group in _CGROUPS.glob(f"*/{self._group}"):
            _wait_until(lambda group=group: _is_removed(group), f"the end of {group}")  # type: ignore[misc]

    def processes_of_containers(self) -> list[int]:
        """The numbers, out here, of all processes in its containers."""
        found: set[int] = set()
        for file in _CGROUPS.glob(f"pids/{self._group}/**/cgroup.procs"):
            with suppress(OSError):
                found.update(int(number) for number in file.read_text().split())
        return sorted(found)

    def first_process(self) -> int:
        """The number, out here, of its first process, which is the engine."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        _wait_until(lambda: bool(children.read_text().split()), f"{self.name} begins")
        return int(children.read_text().split()[0])

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(Path(self._log.name).read_text(errors="replace")[-2000:])
        try:
            return self.client.ping()
        except (docker.errors.DockerException, requests.exceptions.RequestException):
            return False


@contextmanager
def running_machines(
    image: str, count: int, tls_folder: Path | None = None
) -> Iterator[list[Machine]]:
    """So many machines, of which nothing is left, with a busybox of that name on each.

    tls_folder: as `Machine` takes it; for all but the first. Raises RuntimeError if an engine does
    not start, and CalledProcessError.
    """
    mark = secrets.token_hex(2)
    folder = Path(tempfile.mkdtemp(prefix="pbft-"))
    machines: list[Machine] = []
    try:
        for number in range(1, count + 1):
            tls = tls_folder if number > 1 else None
            machines.append(Machine(number, mark, folder=folder / str(number), tls_folder=tls))
        # The bridge is in the first machine, so nothing of it is left when that one ends.
        first = machines[0]
        first.run("ip", "link", "add", "cable", "type", "bridge")
        first.run("ip", "addr", "add", f"{first.address}/24", "dev", "cable")
        first.run("ip", "link", "set", "cable", "up")
        for number, machine in enumerate(machines[1:], 2):
            ends = (f"pb{mark}{number}a", f"pb{mark}{number}b")
            _run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
            _run("ip", "link", "set", ends[0], "netns", str(first.first_process()))
            first.run("ip", "link", "set", ends[0], "master", "cable", "up")
            machine.plug(ends[1])
        for machine in machines:
            machine.wait()
            import_busybox(machine.client, image)
        yield machines
    finally:
        for machine in machines:
            machine.close()
        for group in _CGROUPS.glob(f"*/pbft{mark}"):
            group.rmdir()
        shutil.rmtree(folder)


def join_swarm(machines: Sequence[Machine]) -> None:
    """Make a swarm of them, the first as its manager. Raises what the library raises."""
    manager = machines[0]
    manager.client.swarm.init(manager.address, manager.address)
    token = manager.client.swarm.attrs["JoinTokens"]["Worker"]
    for worker in machines[1:]:
        worker.client.swarm.join(
            [f"{manager.address}:2377"],
            token,
            listen_addr=worker.address,
            advertise_addr=worker.address,
        )


def _is_removed(group: Path) -> bool:
    """Whether a cgroup is gone, with those below it; a process that ends is in it for a moment."""
    for each in (*sorted(group.glob("**"), reverse=True), group):
        with suppress(OSError):
            each.rmdir()
    return not group.exists()


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return once it holds. Raises RuntimeError, which names `what`, after a long time."""
    ends_at = time.monotonic() + _WAIT_SECONDS_MAX
    while not condition():
        if time.monotonic() >= ends_at:
            raise RuntimeError(f"waited {_WAIT_SECONDS_MAX:g} s in vain: {what}")
        time.sleep(_PAUSE_SECONDS)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=60, capture_output=True)
