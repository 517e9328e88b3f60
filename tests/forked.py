"""Our programs, forked from a process that has imported them: `python -m`, without the imports.

Importing is nearly all that the start of a node costs. A worker of the tests starts one server,
which imports the programs once and forks a child for each start. The child has the arguments, the
environment, the folder, the files and the session that a start of its own would have.

The rule: what was started ends with whoever started it. The server kills its children when the
tests' end of its connection closes, and the kernel kills them when the server is gone.

What differs from `python -m`: all children of one server have the server's hash seed, and the
server's command line. tests/processes/test_main_job.py and tests/seeds start the real commands.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from Crypto.PublicKey import ECC

from client.command_line import load_all
from scripts.folders import ROOT
from scripts.processes import Process, start_process

PROGRAMS = ("node", "client", "simulator")
# What one message over such a socket may have, by default, is a little more.
MESSAGE_BYTES_MAX = 128 * 1024
SERVER_STOP_SECONDS = 10.0
PR_SET_PDEATHSIG = 1


class Forked:
    """A program that was forked; a Process (scripts.processes)."""

    def __init__(self, server: "ForkServer", pid: int, handle: int) -> None:
        """handle: a descriptor of the process (pidfd_open), which stays with it."""
        self._server = server
        self._handle = handle
        self.pid = pid
        self.returncode: int | None = None

    def __del__(self) -> None:
        os.close(self._handle)

    def poll(self) -> int | None:
        """The exit code, -n where signal n ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ended(self.pid, 0.0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit code. Raises subprocess.TimeoutExpired after so many seconds."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            left = end - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self.returncode = self._server.ended(self.pid, left)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The tests' side of the server; `start` may be called from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codes: dict[int, int] = {}
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = f"from tests.forked import serve; serve({theirs.fileno()})"
            self._process = subprocess.Popen(
                [sys.executable, "-c", command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The server's own pid."""
        return self._process.pid

    def start(
        self,
        program: str,
        arguments: Sequence[str],
        files: Sequence[IO[Any]],
        environment: Mapping[str, str],
    ) -> Forked:
        """Start `python -m PROGRAM ARGUMENTS...`. files: standard input, output and error."""
        assert program in PROGRAMS, program
        request = json.dumps([program, [*arguments], {**environment}]).encode()
        assert len(request) <= MESSAGE_BYTES_MAX
        with self._lock:
            descriptors = [file.fileno() for file in files]
            socket.send_fds(self._connection, [request], descriptors)
            while (started := self._receive()) is None:
                pass
        return Forked(self, *started)

    def ended(self, pid: int, seconds: float) -> int | None:
        """How a child ended, waiting at most so long for news of any child; None: not yet."""
        with self._lock:
            while pid not in self._codes:
                if not select.select([self._connection], [], [], seconds)[0]:
                    return None
                self._receive()
            return self._codes[pid]

    def close(self) -> None:
        """End the server, and with it all its children."""
        self._connection.close()
        try:
            self._process.wait(SERVER_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _receive(self) -> tuple[int, int] | None:
        """The pid and handle of the child that was started; None: the message told of an end."""
        message, handles, _, _ = socket.recv_fds(self._connection, MESSAGE_BYTES_MAX, 1)
        assert message, "the server of the programs has ended"
        pid, code = json.loads(message)
        if handles:
            self._codes.pop(pid, None)  # of an earlier child that had this number
            return pid, handles[0]
        self._codes[pid] = code
        return None


_server: ForkServer | None = None


def server() -> ForkServer:
    """This process's server, started when it is first asked for."""
    global _server  # noqa: PLW0603 - one a process, as the imports that it stands for
    if _server is None:
        _server = ForkServer()
    return _server


def stop_server() -> None:
    """End this process's server, where it has one, and all that it started."""
    global _server  # noqa: PLW0603 - as above
    if _server is not None:
        _server.close()
        _server = None


def start(
    command: Sequence[str], files: Sequence[IO[Any]], environment: Mapping[str, str]
) -> Process:
    """Start a program in the checkout's folder, in a session of its own.

    command: what comes after `python`; forked where that is `-m` and one of PROGRAMS. files:
    standard input, output and error.
    """
    if command[0] == "-m" and command[1] in PROGRAMS:
        return server().start(command[1], command[2:], files, environment)
    return start_process((sys.executable, *command), files, environment)


def cpu_seconds() -> float:
    """What the server and its ended children have used; 0.0 where there is none."""
    if _server is None:
        return 0.0
    try:
        text = Path(f"/proc/{_server.pid}/stat").read_text()
    except OSError:
        return 0.0
    # utime, stime, cutime and cstime, in clock ticks
    return sum(map(int, text.rpartition(")")[2].split()[11:15])) / os.sysconf("SC_CLK_TCK")


# --- in the server -------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Fork what the other end asks for, until it is closed; then kill what still runs."""
    for program in PROGRAMS:
        importlib.import_module(f"{program}.main")
    # the client's imports what a command needs when it runs
    load_all()
    importlib.import_module("client.serving")
    # What the library imports when it reads its first key takes half of a program's start.
    ECC.import_key(ECC.generate(curve="Ed25519").public_key().export_key(format="PEM"))
    assert threading.active_count() == 1, "a child would lack the other threads"
    gc.collect()
    gc.freeze()
    connection = socket.socket(fileno=descriptor)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([connection.fileno(), woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            _report_ended(connection, children)
        if connection.fileno() in ready:
            request, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES_MAX, 3)
            if not request:
                break
            children.add(_fork(connection, request, files))
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)


def _report_ended(connection: socket.socket, children: set[int]) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            children.remove(pid)
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(BrokenPipeError):
                connection.send(json.dumps([pid, code]).encode())


def _fork(connection: socket.socket, request: bytes, files: list[int]) -> int:
    server_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        connection.detach()
        program, arguments, environment = json.loads(request)
        _become(program, arguments, environment, files, server_pid)
    handle = os.pidfd_open(pid)
    with contextlib.suppress(BrokenPipeError):
        socket.send_fds(connection, [json.dumps([pid, None]).encode()], [handle])
    for descriptor in (handle, *files):
        os.close(descriptor)
    return pid


def _become(
    program: str,
    arguments: list[str],
    environment: dict[str, str],
    files: list[int],
    server_pid: int,
) -> NoReturn:
    """Run the program in this child."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != server_pid:
        os._exit(1)
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, descriptor in enumerate(files):
        os.dup2(descriptor, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [program, *arguments]
    leave(code_of(program))


def code_of(module: str) -> int:
    """The exit code of what Python runs as -m module."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        sys.stderr.write(f"{ended.code}\n")
        return 1
    except BaseException:  # noqa: BLE001 - what Python does with it at its end
        traceback.print_exc()
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """End without taking apart what was imported, which takes longer than a short command."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
