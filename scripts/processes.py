"""Processes in the background, with pid files that never end a stranger's process.

A pid alone says little: the number may belong to somebody else by now. A pid file therefore also
holds when that process started (field 22 of /proc/PID/stat, in clock ticks since boot) and which
boot that was. Only where all of it is true is the process taken for ours.
"""

import contextlib
import errno
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from common.configuration.config import Address
from common.logs import STDERR_VARIABLE
from common.safe_text import log_text
from scripts.folders import ROOT

# A node may have to read its log back first; a minute is far more than that takes.
READY_SECONDS_MAX = 60.0
# A node ends its builds and removes their containers first.
STOP_SECONDS_MAX = 20.0
KILL_SECONDS_MAX = 5.0
POLL_SECONDS = 0.05
HEALTH_SECONDS_MAX = 2.0
LAST_LINES = 5
LAST_BYTES = 8192
LINE_CHARACTERS_MAX = 400

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class StartFailed(RuntimeError):
    """Processes that did not come up; the text has a line for each, with the reason."""


@dataclass(frozen=True)
class Identity:
    """What makes a process ours: pid, start time in clock ticks since boot, boot, command."""

    pid: int
    start_ticks: int
    boot_id: str
    command: tuple[str, ...]

    def is_running(self) -> bool:
        """Whether this very process is there and is no zombie."""
        return self.boot_id == boot_id() and start_ticks(self.pid) == self.start_ticks


@dataclass(frozen=True)
class Program:
    """Something to start: its name, its command, where it listens, and where that is written.

    log_files: where to look for the reason when it does not come up and said nothing itself.
    """

    name: str
    command: tuple[str, ...]
    listen: Address
    config_file: Path
    log_files: tuple[Path, ...] = ()


class Process(Protocol):
    """A process that was started here; the part of subprocess.Popen that callers use."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """The exit code, -n where signal n ended it; None while it runs."""

    def wait(self, timeout: float) -> int:
        """The exit code. Raises subprocess.TimeoutExpired after so many seconds."""

    def send_signal(self, number: int, /) -> None:
        """Send a signal, if it has not ended."""

    def terminate(self) -> None:
        """SIGTERM."""

    def kill(self) -> None:
        """SIGKILL."""


class Processes:
    """The processes whose pid files are in one folder."""

    def __init__(self, folder: Path, output_folder: Path) -> None:
        """output_folder: what a process says before it has opened its log goes there."""
        self._folder = folder
        self._output_folder = output_folder

    def running(self) -> dict[str, Identity]:
        """Our processes that run now, by name. Stale pid files are removed on the way."""
        found = {}
        for file in sorted(self._folder.glob("*.json")):
            identity = _read(file)
            if identity is not None and identity.is_running():
                found[file.stem] = identity
            else:
                file.unlink(missing_ok=True)
        return found

    def start(
        self,
        programs: Sequence[Program],
        *,
        environment: Mapping[str, str] | None = None,
        ready_seconds_max: float = READY_SECONDS_MAX,
    ) -> None:
        """Start all programs and return when all answer GET /healthz.

        Raises StartFailed, a line for each that did not, with its last lines of log; those that
        this call started are stopped again then. Nothing is started where a port is taken.
        """
        running = self.running()
        refused = []
        for program in programs:
            if program.name in running:
                pid = running[program.name].pid
                refused.append(f"{program.name}: it is running already (pid {pid})")
            elif (reason := port_taken(program)) is not None:
                refused.append(reason)
        if refused:
            raise StartFailed("\n".join(refused))
        started = {}
        try:
            for program in programs:
                started[program.name] = self.spawn(
                    program.name, program.command, environment=environment
                )
            failures = self._wait_until_ready(programs, started, ready_seconds_max)
        except BaseException:
            self.stop(list(started))
            raise
        if failures:
            self.stop(list(started))
            raise StartFailed("\n".join(failures))

    def spawn(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start one process in a session of its own and write its pid file. Raises StartFailed."""
        self._output_folder.mkdir(parents=True, exist_ok=True)
        variables = {**os.environ, STDERR_VARIABLE: "no", **(environment or {})}
        with self.output_file(name).open("wb") as output, open(os.devnull, "rb") as nothing:
            try:
                process = start_process(command, (nothing, output, output), variables)
            except OSError as error:
                raise StartFailed(f"{name}: cannot start {command[0]}: {error.strerror}") from error
        self.remember(name, process.pid, command)
        return process

    def remember(self, name: str, pid: int, command: Sequence[str]) -> None:
        """Write the pid file of a process that runs. Does nothing where it has ended already."""
        ticks = start_ticks(pid)
        if ticks is None:
            return
        identity = Identity(pid, ticks, boot_id(), tuple(command))
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{name}.json"
        temporary = file.with_suffix(f".{os.getpid()}.part")
        temporary.write_text(json.dumps(asdict(identity), indent=1) + "\n", encoding="utf-8")
        temporary.replace(file)

    def stop(
        self,
        names: Sequence[str] | None = None,
        *,
        stop_seconds_max: float = STOP_SECONDS_MAX,
        on_wait: Callable[[str], None] | None = None,
    ) -> list[str]:
        """End our processes of these names (all by default): SIGTERM, a wait, then SIGKILL.

        Gives a line for each that did not stop when asked to. on_wait is told the names that are
        waited for, once.
        """
        handles = {}
        for name, identity in self.running().items():
            if (names is None or name in names) and (handle := _open(identity)) is not None:
                handles[name] = (identity, handle)
        lines = []
        try:
            for _, handle in handles.values():
                _send(handle, signal.SIGTERM)
            if handles and on_wait is not None:
                on_wait(", ".join(handles))
            stubborn = _wait_for_end(handles, stop_seconds_max)
            for name in stubborn:
                _send(handles[name][1], signal.SIGKILL)
            left = _wait_for_end({name: handles[name] for name in stubborn}, KILL_SECONDS_MAX)
            for name in stubborn:
                pid = handles[name][0].pid
                lines.append(
                    f"{name}: pid {pid} does not end, not even when killed"
                    if name in left
                    else f"{name}: did not end within {stop_seconds_max:g} s and was killed"
                )
            for name in handles.keys() - set(left):
                (self._folder / f"{name}.json").unlink(missing_ok=True)
        finally:
            for _, handle in handles.values():
                os.close(handle)
        return lines

    def output_file(self, name: str) -> Path:
        """Where a process writes what does not go into its log."""
        return self._output_folder / f"{name}.txt"

    def _wait_until_ready(
        self,
        programs: Sequence[Program],
        started: Mapping[str, "subprocess.Popen[bytes]"],
        ready_seconds_max: float,
    ) -> list[str]:
        deadline = time.monotonic() + ready_seconds_max
        waiting = list(programs)
        failures = []
        while waiting:
            for program in list(waiting):
                code = started[program.name].poll()
                if code is not None:
                    waiting.remove(program)
                    failures.append(self._failure(program, f"ended with exit code {code}"))
                elif answers(program.listen):
                    waiting.remove(program)
            if waiting and time.monotonic() > deadline:
                failures += [
                    self._failure(
                        program,
                        f"no answer from {program.listen.url}/healthz "
                        f"within {ready_seconds_max:g} s",
                    )
                    for program in waiting
                ]
                break
            if waiting:
                time.sleep(POLL_SECONDS)
        return failures

    def _failure(self, program: Program, reason: str) -> str:
        """One line with the reason, and what the process said; more than a line comes below."""
        lines = last_lines(self.output_file(program.name))
        source = self.output_file(program.name)
        for file in program.log_files:
            if not lines:
                lines, source = last_lines(file), file
        safe = [log_text(line, LINE_CHARACTERS_MAX) for line in lines]
        if len(safe) <= 1:
            return ": ".join([program.name, reason, *safe])
        return "\n    ".join([f"{program.name}: {reason}; the end of {source}:", *safe])


def start_process(
    command: Sequence[str],
    files: Sequence[IO[Any]],
    environment: Mapping[str, str],
    *,
    folder: Path = ROOT,
) -> "subprocess.Popen[bytes]":
    """Start a program. files: its standard input, output and error. Raises OSError.

    folder: where it runs; `python -m node` finds our packages there.
    """
    stdin, stdout, stderr = files
    return subprocess.Popen(
        list(command),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment,
        cwd=folder,
        # Ctrl-C in the terminal is for whoever starts it, who ends it in order or leaves it.
        start_new_session=True,
    )


def boot_id() -> str:
    """Which boot of the machine this is."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None where it has ended (or is a
    zombie, which has ended and only waits for its parent to notice)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the name in parentheses, which may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    state, ticks = fields[0], int(fields[22 - 3])
    return None if state in ("Z", "X", "x") else ticks


def port_taken(program: Program) -> str | None:
    """One line that names port and config key where the program could not listen, else None."""
    listen = program.listen
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
    except OSError as error:
        where = f"{program.config_file}: listen:"
        if error.errno == errno.EADDRINUSE:
            return f"{where} port {listen.port} is in use by another program; take a free one"
        return f"{where} {listen} cannot be used ({error.strerror}); use one of this machine"
    return None


def answers(address: Address) -> bool:
    """Whether GET /healthz there gives 200."""
    # A proxy of the caller's environment must not be asked for an address of this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address.url}/healthz", timeout=HEALTH_SECONDS_MAX) as response:
            return bool(response.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def last_lines(file: Path) -> list[str]:
    """The last lines of a text file, bounded; none where there is no such file."""
    return [line for line in last_bytes(file).splitlines() if line.strip()][-LAST_LINES:]


def last_bytes(file: Path) -> str:
    """The end of a text file, bounded; empty if there is no such file."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - LAST_BYTES))
            return stream.read(LAST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _read(file: Path) -> Identity | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        return Identity(
            int(value["pid"]),
            int(value["start_ticks"]),
            str(value["boot_id"]),
            tuple(str(part) for part in value["command"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _open(identity: Identity) -> int | None:
    """A handle on the process that stays with it, whoever gets the number later."""
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    # Looked at again now that the handle holds the process: before, the number could change hands.
    if not identity.is_running():
        os.close(handle)
        return None
    return handle


def _send(handle: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, number)


def _wait_for_end(handles: Mapping[str, tuple[Identity, int]], seconds: float) -> list[str]:
    """The names of those that still run after at most so many seconds."""
    deadline = time.monotonic() + seconds
    left = dict(handles)
    poll = select.poll()
    for _, handle in left.values():
        poll.register(handle, select.POLLIN)
    while left:
        for name, (identity, handle) in list(left.items()):
            if not identity.is_running():
                poll.unregister(handle)
                del left[name]
        remaining = deadline - time.monotonic()
        if not left or remaining <= 0:
            break
        poll.poll(remaining * 1000)
    return list(left)
