"""One operator's machine: namespaces for network, mounts and processes, a user, a disk, a clock.

All of it hangs on one process, PID 1 of the machine. When that ends, the kernel ends every process
of the machine, and its mounts and devices are gone. It ends with the tests, even if those are
killed.
"""

import asyncio
import contextlib
import ctypes
import functools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from scripts.folders import ROOT
from scripts.free_ports import HOST
from scripts.processes import Process, start_process
from tests.operators.packet_switch import DEVICE, PacketSwitch, mac_of, open_tap
from tests.waiting import block_until

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
START_SECONDS = 30.0
STOP_SECONDS = 60.0
COMMAND_SECONDS = 120.0
RELAY_BYTES = 65_536
# Debian puts system programs where the PATH of an ordinary user does not look.
SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
PROGRAMS = ("ip", "nsenter", "unshare", "setpriv", "mkfs.ext4", "losetup", "fsfreeze", "openssl")
# where `scripts/test.sh` unpacks it
FAKETIME = "lib/*/faketime/libfaketime.so.1"
FAKETIME_FOLDERS = (Path("/usr"), ROOT / "run" / "faketime" / "usr")
# How often a process with such a clock looks at the file with its offset.
CLOCK_CACHE_SECONDS = 1
HOME = "/run/home"
CLOCK_FILE = "/run/clock"
CONFIGURATION = "/etc/pbft-ci"
# a file system of its own
DISK = "/var/lib/pbft-ci"
FILLER = f"{DISK}/filler"

# In the new namespaces, as root: a disk of its own, and `/run`, `/etc` ... that others do not see.
SET_UP = """\
set -e
umask 022
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/over
for place in {overlaid}; do
    upper="/run/over/$(echo "$place" | tr / _)"
    mkdir "$upper" "$upper.work"
    mount -t overlay over -o "lowerdir=$place,upperdir=$upper,workdir=$upper.work" "$place"
done
for place in {reachable}; do chmod o+x "$place"; done
mkdir -p {configuration} {disk} /opt/pbft-ci {home}
mount -o loop {image} {disk}
chown {uid}:{uid} {configuration} {disk} {home}
chmod 0700 {configuration} {disk} {home}
mount --bind {installation} /opt/pbft-ci
# libfaketime leaves two files in /dev/shm for each process; {folder} may be below it
mkdir /run/folder
mount --bind {folder} /run/folder
mount -t tmpfs -o mode=1777 shm /dev/shm
mkdir -p {folder}
mount --bind /run/folder {folder}
echo 'pbft-ci:x:{uid}:{uid}::{home}:/bin/sh' >> /etc/passwd
echo 'pbft-ci:x:{uid}:' >> /etc/group
echo +0 > {clock}
ip link set lo up
ip link set {device} address {mac}
ip address add {address}/24 dev {device}
ip link set {device} up
"""


def missing_programs() -> list[str]:
    """Why no such machine can be made here, in a word each; none if it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]
    missing.extend(
        device for device in ("/dev/net/tun", "/dev/loop-control") if not Path(device).exists()
    )
    if os.geteuid() != 0:
        missing.append("root's rights")
    return missing


def faketime_library() -> Path | None:
    """The library that gives a process another clock; None if it is not here."""
    return next((file for f in FAKETIME_FOLDERS for file in f.glob(FAKETIME)), None)


@dataclass(frozen=True)
class Plan:
    """What a machine is to be."""

    name: str
    # its port of the switch, and the last part of its address
    port: int
    uid: int
    disk_bytes: int

    @property
    def address(self) -> str:
        """Its address in the network of the machines."""
        return f"10.0.0.{self.port}"


class Entered:
    """A process of a machine; a Process (scripts.processes)."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        """process: nsenter, which waits for the process it started inside and ends as that does."""
        self._outer = process

    @property
    def pid(self) -> int:
        """Its number outside of the machine; that of nsenter until it has started the process."""
        return _child_of(self._outer.pid) or self._outer.pid

    def poll(self) -> int | None:
        """The exit code, -n where signal n ended it; None while it runs."""
        return self._outer.poll()

    def wait(self, timeout: float) -> int:
        """The exit code. Raises subprocess.TimeoutExpired after so many seconds."""
        return self._outer.wait(timeout)

    def send_signal(self, number: int, /) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        # nsenter stops itself once it sees that what it started is stopped. It then sees neither
        # its end nor that it goes on. Told to go on, it has what it started go on, too: if that
        # came after the next stop, the stop would not last. So both are waited for.
        if number == signal.SIGSTOP:
            self._wait_for_outer("T")
        if number in (signal.SIGCONT, signal.SIGKILL):
            self._outer.send_signal(signal.SIGCONT)
        if number == signal.SIGCONT:
            self._wait_for_outer("S")

    def _wait_for_outer(self, state: str) -> None:
        stat = Path(f"/proc/{self._outer.pid}/stat")
        block_until(
            lambda: (
                self.poll() is not None or stat.read_text().rpartition(")")[2].split()[0] == state
            ),
            f"nsenter in state {state}",
            STOP_SECONDS,
        )

    def leave(self) -> None:
        """Wait for it no more: its machine is gone."""
        self._outer.kill()
        self._outer.wait(STOP_SECONDS)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Machine:
    """A machine that runs. `close` it, in the thread that made it: it ends with that thread."""

    def __init__(self, plan: Plan, folder: Path, installation: Path, switch: PacketSwitch) -> None:
        """folder: for the image of its disk. installation: is seen as /opt/pbft-ci."""
        self.plan = plan
        self.name = plan.name
        self._entered: list[Entered] = []
        folder.mkdir(parents=True)
        image = folder / "disk.ext4"
        with image.open("wb") as file:
            file.truncate(plan.disk_bytes)
        _run_here("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", str(image))
        hold = 'trap "" CHLD; exec sleep infinity'
        command = (
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--net", "--mount", "--propagation", "private", "--pid", "--mount-proc"),
            *("--fork", "--kill-child", "sh", "-c", hold),
        )
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=_environment())
        try:
            block_until(
                lambda: _child_of(self._process.pid) is not None, "the first process", START_SECONDS
            )
            pid = _child_of(self._process.pid)
            assert pid is not None
            self.pid = pid
            block_until(lambda: _comm(pid) == "sleep", f"PID 1 of {plan.name}", START_SECONDS)
            self._inside = _Inside(pid)
            switch.plug(plan.port, self._inside.call(open_tap))
            self._set_up(image, installation)
        except BaseException:
            self.close()
            raise

    @property
    def root(self) -> Path:
        """Its file system, as seen from here by root."""
        return Path(f"/proc/{self.pid}/root")

    def close(self) -> None:
        """End the machine and all its processes."""
        if hasattr(self, "_inside"):
            self._inside.close()
        self._process.kill()
        self._process.wait(STOP_SECONDS)
        for entered in self._entered:
            entered.leave()
        if hasattr(self, "pid"):
            # the kernel ends PID 1 last, when all others of the machine have ended
            block_until(lambda: _comm(self.pid) != "sleep", f"end of {self.name}", STOP_SECONDS)

    # --- processes ------------------------------------------------------------------------------

    def spawn(
        self, command: Sequence[str], files: Sequence[IO[Any]], environment: Mapping[str, str]
    ) -> Process:
        """Start a program as the operator's user. files: standard input, output and error."""
        return self._spawn(command, files, environment, is_root=False)

    def spawn_as_root(
        self, command: Sequence[str], files: Sequence[IO[Any]], environment: Mapping[str, str]
    ) -> Process:
        """Start a program of the system."""
        return self._spawn(command, files, environment, is_root=True)

    def run(self, script: str, *, text: str = "", is_root: bool = False) -> str:
        """Run lines of a shell in /etc/pbft-ci; what they print. Raises CommandFailed."""
        command = ("sh", "-ec", f"cd {CONFIGURATION}\n{script}")
        ended = subprocess.run(
            self._entering(command, is_root=is_root),
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            timeout=COMMAND_SECONDS,
            check=False,
        )
        output = ended.stdout.decode("utf-8", "replace")
        if ended.returncode:
            raise CommandFailed(f"{self.name}$ {script}\n{output}(exit code {ended.returncode})")
        return output

    def _spawn(
        self,
        command: Sequence[str],
        files: Sequence[IO[Any]],
        environment: Mapping[str, str],
        *,
        is_root: bool,
    ) -> Process:
        # nsenter itself is a process of the host: no variable of the program is for it
        variables = [f"{name}={value}" for name, value in environment.items()]
        entering = self._entering(("env", *variables, *command), is_root=is_root)
        # if it is stopped with its program, nothing but this signal ends it
        entering = ["setpriv", "--pdeathsig", "KILL", *entering]
        entered = Entered(start_process(entering, files, _environment()))
        self._entered.append(entered)
        return entered

    def _entering(self, command: Sequence[str], *, is_root: bool) -> list[str]:
        into = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--"]
        if is_root:
            return [*into, *command]
        user = f"--reuid={self.plan.uid}", f"--regid={self.plan.uid}", "--clear-groups"
        return [*into, "setpriv", *user, "--inh-caps=-all", *command]

    # --- network --------------------------------------------------------------------------------

    def relay(self, listening: socket.socket, port: int) -> None:
        """Connect whoever calls a socket of the host with a port of the machine's loopback."""
        self._inside.call(functools.partial(self._inside.relay, listening, port))

    def call(self, function: Callable[[], T]) -> T:
        """Call a function whose sockets are to be this machine's."""
        return self._inside.call(function)

    # --- disk and clock -------------------------------------------------------------------------

    def fill_disk(self) -> None:
        """Leave no byte free on its disk."""
        self.run(
            # reserved at once, without writing; then what no reservation of that size took
            f"fallocate -l $(df --output=avail -B1 {DISK} | tail -n 1) {FILLER} || true;"
            f" cat /dev/zero >> {FILLER} 2>/dev/null || true",
            is_root=True,
        )

    def free_disk(self) -> None:
        """Take away what filled the disk."""
        self.run(f"rm -f {FILLER}", is_root=True)

    def slow_disk(self, seconds: float, stall_seconds: float) -> "subprocess.Popen[bytes]":
        """For so long let every write wait up to stall_seconds, by freezing the file system.

        Its process is no part of the machine and ends by itself: nobody may end it between
        freezing and thawing.
        """
        rounds = max(1, int(seconds / (stall_seconds * 1.25)))
        script = (
            f"for i in $(seq {rounds}); do fsfreeze -f {DISK}; sleep {stall_seconds};"
            f" fsfreeze -u {DISK}; sleep {stall_seconds / 4}; done"
        )
        into = ("nsenter", "--target", str(self.pid), "--mount", "--")
        return subprocess.Popen(
            (*into, "sh", "-c", script),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )

    @staticmethod
    def wait_until_fast(process: "subprocess.Popen[bytes]") -> None:
        """Wait for the end of what `slow_disk` gave."""
        process.wait(COMMAND_SECONDS)

    def set_clock(self, offset_seconds: int) -> None:
        """Move the clock of those processes that were started with `clock_environment`."""
        draft = self.root / f"{CLOCK_FILE[1:]}.draft"
        draft.write_text(f"{offset_seconds:+d}\n")
        draft.chmod(0o644)
        draft.rename(self.root / CLOCK_FILE[1:])

    def _set_up(self, image: Path, installation: Path) -> None:
        overlaid, closed = _closed_folders(Path(sys.executable), Path(sys.base_prefix), ROOT)
        script = SET_UP.format(
            overlaid=" ".join(map(shlex.quote, ("/etc", "/opt", "/var/lib", *overlaid))),
            reachable=" ".join(map(shlex.quote, closed)),
            configuration=CONFIGURATION,
            disk=DISK,
            home=HOME,
            uid=self.plan.uid,
            image=shlex.quote(str(image)),
            installation=shlex.quote(str(installation)),
            # of all machines: commands take files from there
            folder=shlex.quote(str(image.parent.parent)),
            clock=CLOCK_FILE,
            device=DEVICE,
            mac=mac_of(self.plan.port),
            address=self.plan.address,
        )
        into = ("nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--")
        _run_here(*into, "sh", "-c", script)


class CommandFailed(Exception):
    """A command of an operator ended badly; the text has the command and what it printed."""


def clock_environment() -> dict[str, str]:
    """The variables of a process whose clock `set_clock` moves; none without the library."""
    library = faketime_library()
    if library is None:
        return {}
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": CLOCK_FILE,
        "FAKETIME_CACHE_DURATION": str(CLOCK_CACHE_SECONDS),
        # only the time of day may jump: that is what an operator or an NTP server sets
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


class _Inside:
    """A thread in the network namespace of a machine; sockets made there are the machine's."""

    def __init__(self, pid: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._is_in: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(pid,), name=f"inside {pid}")
        self._thread.start()
        self._is_in.result(START_SECONDS)

    def call(self, function: Callable[[], T]) -> T:
        """Call it in that thread; what it gives or raises."""

        async def called() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(START_SECONDS)

    def relay(self, listening: socket.socket, port: int) -> None:
        """To be called in the thread."""

        async def serve() -> None:
            async def on_connection(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter
            ) -> None:
                with contextlib.suppress(OSError):
                    there, here = await asyncio.open_connection(HOST, port)
                    await asyncio.gather(_pump(reader, here), _pump(there, writer))
                writer.close()

            await asyncio.start_server(on_connection, sock=listening)

        task = self._loop.create_task(serve())
        task.add_done_callback(lambda done: done.result())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)

    def _run(self, pid: int) -> None:
        try:
            with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
                _setns(namespace.fileno(), CLONE_NEWNET)
        except OSError as error:
            self._is_in.set_exception(error)
            return
        self._is_in.set_result(None)
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(RELAY_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


def _setns(descriptor: int, kind: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, kind) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _closed_folders(*needed: Path) -> tuple[list[str], list[str]]:
    """The folders in the way of a stranger who runs this Python, and the mounts to open them on."""
    tops, closed = [], []
    for place in needed:
        for folder in reversed(place.resolve().parents):
            if not folder.stat().st_mode & 0o001 and str(folder) not in closed:
                closed.append(str(folder))
                top = f"/{folder.parts[1]}"
                if top not in tops:
                    tops.append(top)
    return tops, closed


def _environment() -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in ("PBFT_CI_TEST_RUN",) if name in os.environ},
        "PATH": f"/opt/pbft-ci/bin:{SYSTEM_PATH}",
        "HOME": HOME,
        "LANG": "C.UTF-8",
    }


def _run_here(*command: str) -> None:
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(),
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if ended.returncode:
        output = ended.stdout.decode("utf-8", "replace")
        raise CommandFailed(f"{shlex.join(command)}\n{output}(exit code {ended.returncode})")


def _child_of(pid: int) -> int | None:
    """The only child of a process; None while there is none."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.split()[0]) if text.split() else None


def _comm(pid: int) -> str:
    """The name of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
