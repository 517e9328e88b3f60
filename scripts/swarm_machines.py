"""Two engines in one swarm, each in namespaces and folders of its own."""

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import docker
import docker.errors
import requests

from scripts.base_image import import_busybox
from tests.waiting import block_until

IMAGE = "pbft-ci-swarm:local"
# of the cable between the two machines, which nothing else is on
_NETWORK = "10.234.77"
_CGROUPS = Path("/sys/fs/cgroup")


class Machine:
    """A machine with an engine. All of its processes die with the first one, as without power."""

    def __init__(self, number: int, mark: str, folder: Path) -> None:
        """number: 1 or 2. mark: so that several tests have machines of their own."""
        self.name = f"pbft{mark}-{number}"
        self.address = f"{_NETWORK}.{number}"
        self.host = f"unix://{folder / 'docker.sock'}"
        self.client = docker.DockerClient(base_url=self.host, version="1.41", timeout=60)
        folder.mkdir()
        daemon = (
            f"hostname {self.name}; ip link set lo up; exec dockerd --data-root={folder}/data"
            f" --exec-root={folder}/exec --pidfile={folder}/docker.pid --host={self.host}"
            f" --storage-driver=overlay2 --cgroup-parent=/{self.name} --bridge=none"
            " --iptables=false --ip6tables=false --log-level=error"
        )
        apart = ("--net", "--uts", "--mount", "--propagation", "private", "--pid", "--mount-proc")
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            ("unshare", *apart, "--fork", "--kill-child", "sh", "-c", daemon),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def plug(self, interface: str) -> None:
        """Take an interface for its own, with its address."""
        _run("ip", "link", "set", interface, "netns", str(self._first_process()))
        inside = ("nsenter", f"--net=/proc/{self._first_process()}/ns/net", "ip")
        _run(*inside, "addr", "add", f"{self.address}/24", "dev", interface)
        _run(*inside, "link", "set", interface, "up")

    def wait(self) -> None:
        """Return once its engine answers."""
        block_until(self._answers, f"the engine of {self.name}")

    def kill(self) -> None:
        """End all of its processes at once, by the process that holds the others."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Leave nothing of it."""
        self.client.close()
        self.kill()
        self._log.close()
        for group in _CGROUPS.glob(f"*/{self.name}"):
            block_until(lambda group=group: _is_removed(group), f"the end of {group}")  # type: ignore[misc]

    def _first_process(self) -> int:
        """The number here of the machine's first process, in the namespaces of its own."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        block_until(lambda: bool(children.read_text().split()), f"{self.name} begins")
        return int(children.read_text().split()[0])

    def _answers(self) -> bool:
        assert self._process.poll() is None, Path(self._log.name).read_text()
        try:
            return self.client.ping()
        except (docker.errors.DockerException, requests.exceptions.RequestException):
            return False


@contextmanager
def running_swarm() -> Iterator[tuple[Machine, Machine]]:
    """The manager and a worker of a swarm, with IMAGE on both. Needs root."""
    mark = secrets.token_hex(2)
    folder = Path(tempfile.mkdtemp(prefix="pbft-"))
    machines: list[Machine] = []
    try:
        for number in (1, 2):
            machines.append(Machine(number, mark, folder / str(number)))
        ends = (f"pb{mark}a", f"pb{mark}b")
        _run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for machine, end in zip(machines, ends, strict=True):
            machine.plug(end)
        for machine in machines:
            machine.wait()
            import_busybox(machine.client, IMAGE)
        manager, worker = machines
        manager.client.swarm.init(manager.address, manager.address)
        token = manager.client.swarm.attrs["JoinTokens"]["Worker"]
        worker.client.swarm.join(
            [f"{manager.address}:2377"],
            token,
            listen_addr=worker.address,
            advertise_addr=worker.address,
        )
        yield manager, worker
    finally:
        for machine in machines:
            machine.close()
        shutil.rmtree(folder)


def _is_removed(group: Path) -> bool:
    """Whether a cgroup is gone, with those below it; a process that ends is in it for a moment."""
    for each in (*sorted(group.glob("**"), reverse=True), group):
        with suppress(OSError):
            each.rmdir()
    return not group.exists()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=60, capture_output=True)
