"""Which engine is taken, and what is said where there is none."""

import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from scripts import docker_engine
from scripts.docker_engine import (
    LONGEST_SOCKET,
    NoEngine,
    OwnEngine,
    check_socket_path,
    find_engine,
    ping,
)
from scripts.folders import ROOT
from scripts.processes import Processes, start_ticks


class PingHandler(http.server.BaseHTTPRequestHandler):
    """An engine that can do nothing but say that it is there."""

    def do_GET(self) -> None:
        body = b"OK" if self.path.endswith("/_ping") else b'{"ApiVersion": "1.41"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the tests' output is for the tests."""


@pytest.fixture
def socket_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a path short enough for sockets."""
    folder = tmp_path_factory.mktemp("s")
    assert len(str(folder)) < 80
    return folder


@pytest.fixture
def own(socket_folder: Path) -> OwnEngine:
    """An engine of our own that was not started."""
    return OwnEngine(
        socket_folder / "docker", Processes(socket_folder / "pids", socket_folder / "output")
    )


def serve(path: Path) -> "socketserver.UnixStreamServer":
    """An engine at this socket, until it is shut down."""
    path.parent.mkdir(parents=True, exist_ok=True)
    server = socketserver.ThreadingUnixStreamServer(str(path), PingHandler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def fake_dockerd(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A dockerd that does what the script says, first in the path."""
    program = folder / "bin" / "dockerd"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys, time\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(docker_engine, "_SYSTEM_PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(docker_engine, "_may_have_networks", lambda: False)


def test_an_engine_is_looked_for_in_this_order(own: OwnEngine, socket_folder: Path) -> None:
    default = socket_folder / "default.sock"
    named = socket_folder / "named.sock"
    assert find_engine(own, {}, default) is None
    servers = []
    try:
        for path, environment in (
            (own.socket, {}),
            (default, {}),
            (named, {"DOCKER_HOST": f"unix://{named}"}),
        ):
            servers.append(serve(path))
            engine = find_engine(own, environment, default)
            assert engine is not None
            assert engine.host == f"unix://{path}"
            assert not engine.started
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def test_a_dead_default_socket_is_passed_over(own: OwnEngine, socket_folder: Path) -> None:
    default = socket_folder / "default.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(default))
    assert find_engine(own, {}, default) is None


def test_docker_host_that_does_not_answer_is_not_passed_over(
    own: OwnEngine, socket_folder: Path
) -> None:
    host = f"unix://{socket_folder}/none.sock"
    with pytest.raises(NoEngine, match=f"DOCKER_HOST={host} does not answer") as caught:
        find_engine(own, {"DOCKER_HOST": host}, socket_folder / "default.sock")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["nonsense", "tcp://127.0.0.1:1", "unix:///nowhere/x.sock"])
def test_ping_gives_a_reason_in_one_line(host: str) -> None:
    reason = ping(host)
    assert reason
    assert reason.isprintable()


def test_a_socket_path_that_linux_does_not_take() -> None:
    folder = Path("/" + "x" * (107 - len(LONGEST_SOCKET) - 2))
    check_socket_path(folder)
    too_long = Path(f"{folder}yyy")
    with pytest.raises(NoEngine) as caught:
        check_socket_path(too_long)
    assert str(too_long) in str(caught.value)
    assert "110 characters, 107 are allowed" in str(caught.value)
    assert "whose path is 3 shorter" in str(caught.value)


def test_the_limit_of_a_socket_path_is_that_of_this_kernel(tmp_path: Path) -> None:
    base = "/tmp/" + "x" * (docker_engine.SOCKET_PATH_BYTES_MAX - len("/tmp/"))
    for path, fits in ((base, True), (base + "x", False)):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                # Nothing listens there: a path that fits is looked up and not found.
                probe.connect(path)
            except FileNotFoundError:
                assert fits
            except OSError:
                assert not fits


def test_without_the_program_and_without_root(
    own: OwnEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(docker_engine, "_SYSTEM_PATH", str(tmp_path))
    with pytest.raises(NoEngine, match=r"dockerd is missing; install docker\.io"):
        own.start()
    fake_dockerd(tmp_path, monkeypatch, "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NoEngine, match="only root can start one"):
        own.start()


def test_an_engine_that_does_not_start_gives_the_reason_of_its_log(
    own: OwnEngine, socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_dockerd(
        socket_folder,
        monkeypatch,
        "print('time=x level=info msg=hello')\n"
        "driver = [a for a in sys.argv if a.startswith('--storage-driver')]\n"
        "print('failed to start daemon: no', *driver)\n"
        "print('time=x level=info msg=bye')\n"
        "sys.exit(1)",
    )
    with pytest.raises(NoEngine) as caught:
        own.start()
    assert str(caught.value) == (
        "the Docker engine does not start: failed to start daemon: no --storage-driver=vfs"
    )


def test_a_driver_that_has_images_is_kept(
    own: OwnEngine, socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (socket_folder / "docker/data/image/overlay2").mkdir(parents=True)
    fake_dockerd(socket_folder, monkeypatch, "sys.exit(sys.argv[-1])")
    monkeypatch.setattr(docker_engine, "STORAGE_DRIVERS", ("vfs", "overlay2"))
    seen = socket_folder / "output/dockerd.txt"
    with pytest.raises(NoEngine):
        own.start()
    assert seen.exists()
    assert own._drivers() == ("overlay2",)


def test_an_engine_without_networks_is_better_than_none(
    own: OwnEngine, socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = socket_folder / "seen"
    fake_dockerd(
        socket_folder,
        monkeypatch,
        f"open({str(seen)!r}, 'a').write(' '.join(a for a in sys.argv if 'iptables=' in a or"
        " 'driver=' in a) + '\\n'); sys.exit(1)",
    )
    monkeypatch.setattr(docker_engine, "_may_have_networks", lambda: True)
    with pytest.raises(NoEngine):
        own.start()
    assert [line.split()[:2] for line in seen.read_text().splitlines()] == [
        [f"--storage-driver={driver}", f"--iptables={rules}"]
        for driver in docker_engine.STORAGE_DRIVERS
        for rules in ("true", "false")
    ]


def test_beside_another_daemon_no_firewall_rules_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "iptables"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(docker_engine, "_SYSTEM_PATH", str(program.parent))
    for number, name in (("1", "init"), ("2", "dockerd-like")):
        (tmp_path / "proc" / number).mkdir(parents=True)
        (tmp_path / "proc" / number / "comm").write_text(f"{name}\n")
    assert docker_engine._may_have_networks(tmp_path / "proc")
    (tmp_path / "proc" / "2" / "comm").write_text("dockerd\n")
    assert not docker_engine._may_have_networks(tmp_path / "proc")
    program.unlink()
    (tmp_path / "proc" / "2" / "comm").unlink()
    assert not docker_engine._may_have_networks(tmp_path / "proc")


def test_an_engine_that_never_answers_is_ended(
    own: OwnEngine, socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_dockerd(
        socket_folder,
        monkeypatch,
        f"import os; open({str(socket_folder / 'pid')!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "print('waiting for nobody', flush=True); time.sleep(300)",
    )
    monkeypatch.setattr(docker_engine, "START_SECONDS_MAX", 5.0)
    with pytest.raises(NoEngine, match="no answer within 5 s: waiting for nobody"):
        own.start()
    pids = [int(line) for line in (socket_folder / "pid").read_text().split()]
    assert len(pids) == len(docker_engine.STORAGE_DRIVERS)
    assert all(start_ticks(pid) is None for pid in pids)


def test_stop_ends_the_daemon_of_the_pid_file_and_no_stranger(
    own: OwnEngine, socket_folder: Path
) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        pids = socket_folder / "pids"
        pids.mkdir()
        record = {"pid": stranger.pid, "start_ticks": 1, "boot_id": "x", "command": ["dockerd"]}
        (pids / "dockerd.json").write_text(json.dumps(record))
        assert own.stop() == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.docker
@pytest.mark.long
@pytest.mark.skipif(
    os.environ.get("PBFT_CI_WITHOUT_DOCKER") == "1", reason="asked for: --without-docker"
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a Docker engine")
def test_our_own_engine_runs_beside_another_and_ends(own: OwnEngine) -> None:
    own.start()
    try:
        assert own.answers()
        found = find_engine(own, {}, Path("/nowhere/docker.sock"))
        assert found is not None
        assert found.host == own.host
    finally:
        assert own.stop() == []
    assert not own.answers()


NETWORKS = """
import shutil, sys
from pathlib import Path
import docker
from scripts import docker_engine
from scripts.processes import Processes
folder = Path(sys.argv[1])
own = docker_engine.OwnEngine(
    folder / "docker", Processes(folder / "pids", folder / "output")
)
(folder / "docker").mkdir()
program = shutil.which("dockerd", path=docker_engine._SYSTEM_PATH)
problem = own._try(program, "overlay2", True)
if problem:
    sys.exit(problem)
try:
    client = docker.DockerClient(base_url=own.host)
    network = client.networks.create("of-one-build", driver="bridge")
    print(sorted(each.name for each in client.networks.list()))
    network.remove()
finally:
    print(own.stop())
"""


@pytest.mark.docker
@pytest.mark.long
@pytest.mark.skipif(
    os.environ.get("PBFT_CI_WITHOUT_DOCKER") == "1", reason="asked for: --without-docker"
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a Docker engine")
def test_our_own_engine_makes_networks_for_builds(socket_folder: Path) -> None:
    """In a network namespace of its own, so that nothing of the machine is touched."""
    arguments = ["unshare", "--net", sys.executable, "-c", NETWORKS, str(socket_folder)]
    done = subprocess.run(
        arguments,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # no bridge for everybody, one for the build
    assert done.stdout.splitlines() == ["['host', 'none', 'of-one-build']", "[]"]
