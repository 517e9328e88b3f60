"""example-config/egress.nft itself, in network namespaces: what a build's bridge reaches with it.

Three namespaces stand for a build, the machine that the filter is loaded on, and everything else.
"""

import ctypes
import logging
import os
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from node.sandboxes.containers import egress_filter
from node.sandboxes.containers.egress_filter import (
    BRIDGE_PREFIX,
    TABLE,
    bridge_name,
    log_egress_filter,
)
from scripts.folders import EXAMPLE_CONFIG, ROOT

FILTER = EXAMPLE_CONFIG / "egress.nft"
# where `scripts/test.sh` unpacks it
UNPACKED = ROOT / "run" / "nft"
_CLONE_NEWNET = 0x40000000
_CONNECT_SECONDS = 60

Found = TypeVar("Found")

# addresses of the machine, and of what is behind it: private, metadata, public
OWN = ("10.77.1.1", "172.30.9.1", "2a00:77::1", "fd00:77::1")
PRIVATE = ("172.30.9.2", "169.254.169.254", "100.64.9.2", "fd00:77::2")
PUBLIC = ("192.31.196.2", "2a00:99::2")


def find_nft() -> str | None:
    """The program, with the library that was unpacked beside it."""
    return shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:{UNPACKED}/usr/sbin")


class Namespaces:
    """`build`, `machine` and `others`, joined by two cables; gone after `close`."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(3)
        self.bridge = bridge_name()
        self.names = {name: f"pbftci-test-{self.mark}-{name}" for name in ROLES}
        self.servers: list[socket.socket] = []
        self.ports: dict[str, int] = {}

    def make(self) -> None:
        """The namespaces, with a server on each address of `machine` and `others`."""
        for name in self.names.values():
            ip("netns", "add", name)
        build, machine, others = (self.names[role] for role in ROLES)
        for namespace, end, far_end in ((build, "b0", "m0"), (others, "o0", "m1")):
            cable = ("type", "veth", "peer", "name", far_end, "netns", machine)
            ip("-n", namespace, "link", "add", end, *cable)
        batch(
            machine,
            f"link add {self.bridge} type bridge",
            f"link set m0 master {self.bridge} up",
            f"link set {self.bridge} up",
            "link set lo up",
            "link set m1 up",
            f"addr add 10.77.1.1/24 dev {self.bridge}",
            f"addr add 2a00:77::1/64 dev {self.bridge} nodad",
            "addr add 172.30.9.1/24 dev m1",
            "addr add 192.31.196.1/24 dev m1",
            "addr add fd00:77::1/64 dev m1 nodad",
            "addr add 2a00:99::1/64 dev m1 nodad",
            "route add 169.254.169.254/32 dev m1",
            "route add 100.64.9.0/24 dev m1",
        )
        batch(
            others,
            "link set lo up",
            "link set o0 up",
            *(f"addr add {address}/24 dev o0" for address in PRIVATE[:3]),
            "addr add 192.31.196.2/24 dev o0",
            "addr add fd00:77::2/64 dev o0 nodad",
            "addr add 2a00:99::2/64 dev o0 nodad",
            "route add default via 172.30.9.1",
            "route add ::/0 via fd00:77::1",
        )
        batch(
            build,
            "link set lo up",
            "link set b0 up",
            "addr add 10.77.1.2/24 dev b0",
            "addr add 2a00:77::2/64 dev b0 nodad",
            "route add default via 10.77.1.1",
            "route add ::/0 via 2a00:77::1",
        )
        self.inside("machine", forward_packets)
        for role in ("machine", "others"):
            self.ports[role] = self.inside(role, self._listen)

    def inside(self, role: str, work: Callable[[], Found]) -> Found:
        """What comes of it in a thread that is in that namespace."""
        results: list[Found] = []

        def run() -> None:
            with open(f"/run/netns/{self.names[role]}") as namespace:
                libc = ctypes.CDLL(None, use_errno=True)
                assert libc.setns(namespace.fileno(), _CLONE_NEWNET) == 0, os.strerror(
                    ctypes.get_errno()
                )
            results.append(work())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        (result,) = results
        return result

    def nft(self, *arguments: str) -> str:
        """What nft says on the machine."""
        program = find_nft()
        assert program is not None
        done = subprocess.run(
            ["ip", "netns", "exec", self.names["machine"], program, *arguments],
            env={**os.environ, "LD_LIBRARY_PATH": library_path()},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def reaches(self, role: str, address: str, port: int) -> bool:
        """Whether a connection from there comes about; no answer at all fails the test."""

        def connect() -> bool:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family) as connection:
                connection.settimeout(_CONNECT_SECONDS)
                try:
                    connection.connect((address, port))
                except TimeoutError:
                    raise
                except OSError:
                    return False
                return True

        return self.inside(role, connect)

    def close(self) -> None:
        for server in self.servers:
            server.close()
        for name in self.names.values():
            if Path(f"/run/netns/{name}").exists():
                ip("netns", "del", name)

    def _listen(self) -> int:
        # the kernel takes the connections: nobody need accept them
        server = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.servers.append(server)
        return int(server.getsockname()[1])


ROLES = ("build", "machine", "others")


def forward_packets() -> None:
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path(f"/proc/sys/net/{setting}").write_text("1")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def batch(namespace: str, *lines: str) -> None:
    text = "\n".join(lines)
    done = subprocess.run(
        ["ip", "-n", namespace, "-batch", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def library_path() -> str:
    return ":".join(str(path) for path in UNPACKED.glob("usr/lib/*-linux-gnu"))


@pytest.fixture(scope="module")
def namespaces() -> Iterator[Namespaces]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root can make network namespaces, with ip (iproute2)")
    if find_nft() is None:
        pytest.skip("nft is not here: `./scripts/test.sh` unpacks it")
    made = Namespaces()
    try:
        made.make()
        yield made
    finally:
        made.close()


@pytest.fixture
def loaded(namespaces: Namespaces) -> Iterator[Namespaces]:
    namespaces.nft("-f", str(FILTER))
    yield namespaces
    namespaces.nft("delete", "table", *TABLE.split())


def reached(namespaces: Namespaces, role: str = "build") -> set[str]:
    own = {a for a in OWN if namespaces.reaches(role, a, namespaces.ports["machine"])}
    return own | {
        a for a in (*PRIVATE, *PUBLIC) if namespaces.reaches(role, a, namespaces.ports["others"])
    }


def test_without_it_a_build_reaches_everything(namespaces: Namespaces) -> None:
    """So what is not reached below is the filter's doing."""
    assert reached(namespaces) == {*OWN, *PRIVATE, *PUBLIC}


def test_with_it_a_build_reaches_what_is_public(loaded: Namespaces) -> None:
    assert reached(loaded) == set(PUBLIC)
    # and answers come back to what this machine itself asks; others ask it as ever
    assert loaded.reaches("others", OWN[1], loaded.ports["machine"])
    # a second time replaces the first
    loaded.nft("-f", str(FILTER))
    assert not loaded.reaches("build", OWN[0], loaded.ports["machine"])
    assert loaded.nft("list", "tables").count("pbft_ci_egress") == 1


def test_what_is_listed_is_reached_at_that_port_alone(loaded: Namespaces) -> None:
    own, others = loaded.ports["machine"], loaded.ports["others"]
    add = ("add", "element", *TABLE.split())
    loaded.nft(*add, "allowed_ipv4", f"{{ {OWN[1]} . tcp . {own}, {PRIVATE[0]} . tcp . {others} }}")
    loaded.nft(*add, "allowed_ipv6", f"{{ {OWN[2]} . tcp . {own} }}")
    assert reached(loaded) == {OWN[1], OWN[2], PRIVATE[0], *PUBLIC}
    assert not loaded.reaches("build", OWN[1], own + 1)


def test_another_bridge_is_left_alone(loaded: Namespaces) -> None:
    """Only builds have bridges of that name."""
    machine = loaded.names["machine"]
    batch(machine, f"link set {loaded.bridge} down", f"link set {loaded.bridge} name br-other")
    batch(machine, "link set br-other up", "addr replace 2a00:77::1/64 dev br-other nodad")
    try:
        assert loaded.reaches("build", OWN[0], loaded.ports["machine"])
    finally:
        batch(machine, "link set br-other down", f"link set br-other name {loaded.bridge}")
        batch(machine, f"link set {loaded.bridge} up")


def test_the_name_of_a_bridge_fits() -> None:
    names = {bridge_name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(BRIDGE_PREFIX) and len(name) <= 15 for name in names)
    assert f'iifname "{BRIDGE_PREFIX}*"' in FILTER.read_text()


def test_what_a_node_says_at_its_start(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it stands, lacks something, or is not there; one line, with what to do."""
    program = find_nft()
    assert program is not None
    monkeypatch.setattr(egress_filter, "_PATH", os.path.dirname(program))
    monkeypatch.setenv("LD_LIBRARY_PATH", library_path())
    caplog.set_level(logging.INFO)

    def said(docker_host: str = "unix:///run/docker.sock") -> str:
        caplog.clear()
        namespaces.inside("machine", lambda: log_egress_filter(docker_host))
        (record,) = caplog.records
        assert "\n" not in record.getMessage()
        return record.getMessage()

    assert "is not there" in said()
    assert "load example-config/egress.nft" in said()
    namespaces.nft("-f", str(FILTER))
    try:
        assert said() == f"network_allowed: the egress filter stands (table {TABLE})"
        assert "the engine is on another machine" in said("tcp://engine.example:2376")
        namespaces.nft("flush", "chain", *TABLE.split(), "through_this_machine")
        namespaces.nft("delete", "chain", *TABLE.split(), "through_this_machine")
        assert "lacks `hook forward`" in said()
    finally:
        namespaces.nft("delete", "table", *TABLE.split())
    monkeypatch.setattr(egress_filter, "_PATH", "/nowhere")
    assert "the program nft is missing" in said()
