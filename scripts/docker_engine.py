"""A Docker engine for the example: one that runs already, else one of our own in run/docker/.

Our own daemon has no bridge of its own. Where it is the only one on the machine it may make the
networks of builds that ask for one, with the firewall rules that they need. Beside another daemon,
or where the machine permits no such rules, it touches nothing outside of its folder, and builds
have no network.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors
import requests

from common.safe_text import log_text
from scripts.folders import RUN, exclusive
from scripts.processes import POLL_SECONDS, Processes, StartFailed, last_lines

DEFAULT_SOCKET = Path("/var/run/docker.sock")
# sockaddr_un.sun_path holds 108 bytes, the last of which is a zero.
SOCKET_PATH_BYTES_MAX = 107
# The longest path of a socket below the folder of our own daemon: its containerd makes it.
LONGEST_SOCKET = "exec/containerd/containerd.sock.ttrpc"
STORAGE_DRIVERS = ("overlay2", "vfs")
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
PING_SECONDS_MAX = 5
PROCESS_NAME = "dockerd"
WITHOUT_DOCKER = "./scripts/demo.sh --executor process"
# Debian puts system programs where the PATH of an ordinary user does not look.
_SYSTEM_PATH = os.pathsep.join(
    (os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin")
)
# For each container a daemon starts a dozen programs in Go, which inherit these. Each lives for
# some milliseconds, so it collects no garbage before it ends, and one thread is enough. The daemon
# itself grows to 100 MB. A container costs a fifth less CPU.
GO_SETTINGS = {"GOGC": "800", "GOMAXPROCS": "1"}


class NoEngine(RuntimeError):
    """There is no Docker engine and none can be started; the text says why and what to do."""


@dataclass(frozen=True)
class Engine:
    """An engine that answers. host: for DOCKER_HOST; whose: who started it, in words."""

    host: str
    whose: str
    started: bool = False


class OwnEngine:
    """The daemon that the example starts where there is none, all of it in one folder."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        """folder: for its data, sockets and log. processes: where its pid file is kept."""
        self._folder = folder
        self._processes = processes
        self.socket = folder / "docker.sock"
        self.host = f"unix://{self.socket}"

    def answers(self) -> bool:
        """Whether it runs and answers."""
        return self.socket.exists() and ping(self.host) is None

    def start(self) -> None:
        """Start it, with overlay2, else with vfs. Raises NoEngine with the reason from its log."""
        check_socket_path(self._folder)
        program = shutil.which("dockerd", path=_SYSTEM_PATH)
        if program is None:
            raise NoEngine("no Docker engine answers and dockerd is missing; install docker.io")
        if os.geteuid() != 0:
            raise NoEngine(
                "no Docker engine answers, and only root can start one; start this as root, or "
                f"join the group docker to use an engine that runs at {DEFAULT_SOCKET}"
            )
        print(
            f"starting a Docker engine in {self._folder} (at most {START_SECONDS_MAX:g} s) ...",
            file=sys.stderr,
            flush=True,
        )
        self.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        problem = ""
        for driver in self._drivers():
            for has_networks in (True, False) if _may_have_networks() else (False,):
                problem = self._try(program, driver, has_networks)
                if not problem:
                    if not has_networks:
                        print("builds on this engine have no network", file=sys.stderr)
                    return
        raise NoEngine(f"the Docker engine does not start: {problem}")

    def stop(self) -> list[str]:
        """Stop exactly the daemon that was started here; a line for what did not go well."""
        return self._processes.stop([PROCESS_NAME], stop_seconds_max=STOP_SECONDS_MAX)

    def _drivers(self) -> tuple[str, ...]:
        """The storage drivers to try: the one that images are in already comes alone."""
        used = [
            name for name in STORAGE_DRIVERS if (self._folder / "data" / "image" / name).exists()
        ]
        return tuple(used[:1]) or STORAGE_DRIVERS

    def _try(self, program: str, driver: str, has_networks: bool) -> str:
        """Start with this storage driver; empty where it answers, else the reason."""
        command = daemon_command(program, self._folder, driver, has_networks=has_networks)
        # A stale pid file of an earlier daemon makes dockerd refuse when a stranger has the pid.
        (self._folder / "docker.pid").unlink(missing_ok=True)
        environment = {"PATH": _SYSTEM_PATH, **GO_SETTINGS}
        try:
            process = self._processes.spawn(PROCESS_NAME, command, environment=environment)
        except StartFailed as error:
            return str(error)
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return self._reason()
            if self.answers():
                return ""
            time.sleep(POLL_SECONDS)
        reason = self._reason()
        self.stop()
        return f"no answer within {START_SECONDS_MAX:g} s: {reason}"

    def _reason(self) -> str:
        lines = last_lines(self._processes.output_file(PROCESS_NAME))
        serious = [line for line in lines if "level=" not in line or "level=fatal" in line]
        return log_text((serious or lines or ["it wrote nothing"])[-1], 500)


def daemon_command(
    program: str, folder: Path, driver: str, *, has_networks: bool
) -> tuple[str, ...]:
    """How a daemon of our own is started. folder: for its data, pid file and `docker.sock`."""
    rules = "true" if has_networks else "false"
    return (
        program,
        f"--data-root={folder / 'data'}",
        f"--exec-root={folder / 'exec'}",
        f"--pidfile={folder / 'docker.pid'}",
        f"--host=unix://{folder / 'docker.sock'}",
        f"--storage-driver={driver}",
        # Its output goes to a file that nothing rotates.
        "--log-level=error",
        # No bridge for everybody; a build that may have a network gets one of its own.
        "--bridge=none",
        f"--iptables={rules}",
        f"--ip-forward={rules}",
        f"--ip-masq={rules}",
        "--ip6tables=false",
        # Where the machine has a containerd of its own, dockerd uses that one, and another
        # daemon may do so too: a namespace of our own keeps the containers apart.
        "--containerd-namespace=pbft-ci",
        "--containerd-plugins-namespace=pbft-ci-plugins",
    )


def _may_have_networks(processes: Path = Path("/proc")) -> bool:
    """Whether firewall rules can be made, and no other daemon runs whose rules might be hurt."""
    if shutil.which("iptables", path=_SYSTEM_PATH) is None:
        return False
    for name in processes.glob("[0-9]*/comm"):
        try:
            if name.read_text() == "dockerd\n":
                return False
        except OSError:
            # it has ended meanwhile
            continue
    return True


def own_engine() -> OwnEngine:
    """The daemon of this project's run/ folder."""
    return OwnEngine(RUN / "docker", own_processes())


def own_processes() -> Processes:
    """The processes of this project's run/ folder."""
    return Processes(RUN / "pids", RUN / "output")


def find_engine(
    own: OwnEngine, environment: Mapping[str, str], default_socket: Path = DEFAULT_SOCKET
) -> Engine | None:
    """An engine that runs: DOCKER_HOST's, the machine's, our own; or None.

    Raises NoEngine where DOCKER_HOST is set and does not answer: who set it wants no other.
    """
    host = environment.get("DOCKER_HOST")
    if host:
        problem = ping(host)
        if problem is not None:
            raise NoEngine(
                f"DOCKER_HOST={host} does not answer ({problem}); start that engine or unset it"
            )
        return Engine(host, "the engine of DOCKER_HOST")
    if default_socket.exists() and ping(f"unix://{default_socket}") is None:
        return Engine(f"unix://{default_socket}", "the machine's engine")
    if own.answers():
        return Engine(own.host, "our own engine, which runs already")
    return None


def ensure_engine() -> Engine:
    """An engine that runs, else our own, started. Raises NoEngine."""
    with exclusive(RUN / "docker.lock"):
        own = own_engine()
        engine = find_engine(own, os.environ)
        if engine is not None:
            return engine
        own.start()
        return Engine(own.host, "our own engine, just started", started=True)


def check_socket_path(folder: Path) -> None:
    """Raise NoEngine where the sockets below the folder would have paths too long for Linux."""
    length = len(os.fsencode(folder / LONGEST_SOCKET))
    if length > SOCKET_PATH_BYTES_MAX:
        raise NoEngine(
            f"the path {folder} is too long for our own Docker engine: a socket in it would "
            f"have {length} characters, {SOCKET_PATH_BYTES_MAX} are allowed; move the project to a "
            f"folder whose path is {length - SOCKET_PATH_BYTES_MAX} shorter, or set DOCKER_HOST"
        )


def ping(host: str) -> str | None:
    """Ask an engine for a sign of life; None where it gave one, else the reason in one line."""
    try:
        client = docker.DockerClient(base_url=host, timeout=PING_SECONDS_MAX)
        try:
            client.ping()
        finally:
            client.close()
    except (docker.errors.DockerException, requests.RequestException, ValueError) as error:
        return log_text(str(error), 200)
    return None


def main() -> int:
    """`python -m scripts.docker_engine ensure|running|stop`."""
    parser = argparse.ArgumentParser(prog="python -m scripts.docker_engine", description=__doc__)
    parser.add_argument(
        "action",
        choices=("ensure", "running", "stop"),
        help="ensure: print the DOCKER_HOST of an engine that answers, started if need be; "
        "running: exit code 0 where our own engine answers; stop: stop our own engine",
    )
    arguments = parser.parse_args()
    if arguments.action == "running":
        return 0 if own_engine().answers() else 1
    if arguments.action == "stop":
        lines = own_engine().stop()
        print("\n".join(lines), end="\n" if lines else "", file=sys.stderr)
        return 1 if lines else 0
    try:
        engine = ensure_engine()
    except NoEngine as error:
        print(f"{error}; without Docker: {WITHOUT_DOCKER}", file=sys.stderr)
        return 1
    print(engine.host)
    return 0


if __name__ == "__main__":
    sys.exit(main())
