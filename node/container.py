"""One hardened container from its creation to its end: input, output, limits. Blocking.

Removing it is the caller's: by label, so that it also happens where creating it half failed.
"""

import select
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import docker
import docker.errors
import docker.types
import msgspec

from ci.limits import Limits
from node.build_log import BuildLog
from node.docker_engine import Image
from node.threads import Stop
from node.tree import BUILD_USER_ID

WORKSPACE = "/workspace"
TEMPORARY = "/tmp"  # noqa: S108 (inside the container, a file system of its own)
TEMPORARY_BYTES = 64 * 2**20
OPEN_FILES_MAX = 1024
CPU_PERIOD_MICROSECONDS = 100_000

# how late a stop or the end of the time may be noticed
POLL_SECONDS = 0.2
CHUNK_BYTES = 64 * 1024
# the engine may learn of an out-of-memory kill a moment after the exit
OUT_OF_MEMORY_SECONDS = 0.5
_KILLED_EXIT_CODE = 137
# of a frame of an attached stream: which stream, three zeros, the length
_FRAME_HEADER = struct.Struct(">BxxxL")


class ContainerEnd(msgspec.Struct, frozen=True):
    """How a container ended; exit_code is None where its time was over."""

    exit_code: int | None
    is_out_of_memory: bool


class ContainerOrder(msgspec.Struct, frozen=True):
    """What to run. command and entrypoint None: what the image says.

    standard_input: a file that goes in at the start. workspace: whether there is a WORKSPACE.
    """

    image: Image
    name: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    entrypoint: tuple[str, ...] | None
    command: tuple[str, ...] | None
    standard_input: Path | None
    seconds: float


def run_container(
    client: docker.APIClient, order: ContainerOrder, limits: Limits, log: BuildLog, stop: Stop
) -> ContainerEnd:
    """Run a container to its end or to the end of its time.

    Raises Stopped, OSError (log disk full) and what the library raises.
    """
    has_workspace = order.standard_input is not None
    created: dict[str, Any] = client.create_container(
        image=order.image.id,
        name=order.name,
        command=list(order.command) if order.command is not None else None,
        entrypoint=list(order.entrypoint) if order.entrypoint is not None else None,
        hostname="pbft-ci",
        user=f"{BUILD_USER_ID}:{BUILD_USER_ID}",
        environment=dict(order.environment),
        labels=dict(order.labels),
        working_dir=WORKSPACE if has_workspace else None,
        stdin_open=has_workspace,
        network_disabled=True,
        # an image's own health check would be one more process that nobody asked for
        healthcheck={"test": ["NONE"]},
        host_config=_host_config(client, order.image, limits, has_workspace),
    )
    container_id: str = created["Id"]
    stream = client.attach_socket(
        container_id,
        params={"stdin": int(has_workspace), "stdout": 1, "stderr": 1, "stream": 1},
    )
    # the library hands out a file around the socket, which has to be closed as well
    connection: socket.socket = getattr(stream, "_sock", stream)
    try:
        stop.check()
        client.start(container_id)
        ends_at = time.monotonic() + order.seconds
        _exchange(connection, order.standard_input, ends_at, log, stop)
        state = _wait(client, container_id, ends_at, stop)
    finally:
        stream.close()
        connection.close()
    if state is None:
        # removing it kills it as well; this is sooner
        with suppress(docker.errors.APIError):
            client.kill(container_id)
        return ContainerEnd(None, False)
    exit_code = int(state["ExitCode"])
    is_out_of_memory = exit_code != 0 and bool(state["OOMKilled"])
    return ContainerEnd(exit_code, is_out_of_memory)


def _host_config(
    client: docker.APIClient, image: Image, limits: Limits, has_workspace: bool
) -> dict[str, Any]:
    """The walls around the build; the same for every image and every pipeline."""
    flags = "rw,exec,nosuid,nodev"
    owner = f"uid={BUILD_USER_ID},gid={BUILD_USER_ID}"
    # A volume that an image declares would be a folder on the host without a quota.
    temporary = f"{flags},mode=1777,size={TEMPORARY_BYTES}"
    file_systems = dict.fromkeys((*image.volumes, TEMPORARY), temporary)
    if has_workspace:
        file_systems[WORKSPACE] = f"{flags},mode=0755,{owner},size={limits.workspace_bytes}"
    config: dict[str, Any] = client.create_host_config(
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        network_mode="none",
        ipc_mode="private",
        read_only=True,
        tmpfs=file_systems,
        # a first process that reaps orphans and makes a missing program an exit code
        init=True,
        mem_limit=limits.memory_bytes,
        # equal to the memory: no swap
        memswap_limit=limits.memory_bytes,
        # quota and period, not nano_cpus: that one is refused on a machine with fewer CPUs
        cpu_period=CPU_PERIOD_MICROSECONDS,
        cpu_quota=max(1000, round(limits.cpus * CPU_PERIOD_MICROSECONDS)),
        pids_limit=limits.pids_max,
        ulimits=[
            docker.types.Ulimit(name="nofile", soft=OPEN_FILES_MAX, hard=OPEN_FILES_MAX),
            docker.types.Ulimit(name="core", soft=0, hard=0),
        ],
        # the output is read as it comes; nothing of it is kept by the engine
        log_config=docker.types.LogConfig(type="none"),
        restart_policy={"Name": "no"},
    )
    return config


def _exchange(
    connection: socket.socket,
    standard_input: Path | None,
    ends_at: float,
    log: BuildLog,
    stop: Stop,
) -> None:
    """Send the input and take the output, until the container closes it or its time is over."""
    connection.setblocking(False)
    poll = select.poll()
    frames = _Frames(log)
    source = None if standard_input is None else standard_input.open("rb")
    sender = None if source is None else _Sender(connection, source)
    try:
        while time.monotonic() < ends_at:
            stop.check()
            try:
                data = connection.recv(CHUNK_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            except ConnectionResetError:
                return
            else:
                if not data:
                    return
                frames.take(data)
                continue
            wants_to_send = sender is not None and sender.send_some()
            events = select.POLLIN | (select.POLLOUT if wants_to_send else 0)
            poll.register(connection, events)
            poll.poll(1000 * POLL_SECONDS)
    finally:
        if source is not None:
            source.close()


class _Sender:
    """Hands a file to a container as fast as the container takes it."""

    def __init__(self, connection: socket.socket, source: BinaryIO) -> None:
        self._connection = connection
        self._source = source
        self._chunk = memoryview(b"")
        self._is_done = False

    def send_some(self) -> bool:
        """Send what goes without waiting; whether there is more to send."""
        while not self._is_done:
            if not self._chunk:
                self._chunk = memoryview(self._source.read(CHUNK_BYTES))
                if not self._chunk:
                    self._finish()
                    break
            try:
                sent = self._connection.send(self._chunk)
            except (BlockingIOError, ssl.SSLWantWriteError):
                return True
            except (BrokenPipeError, ConnectionResetError):
                # the container does not read any more: its own affair
                self._is_done = True
                break
            self._chunk = self._chunk[sent:]
        return False

    def _finish(self) -> None:
        """Say that this was all; TLS cannot close one half, and tar knows its own end."""
        self._is_done = True
        if not isinstance(self._connection, ssl.SSLSocket):
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)


class _Frames:
    """Takes an attached stream apart and writes what is in it to the log."""

    def __init__(self, log: BuildLog) -> None:
        self._log = log
        self._header = b""
        self._expected_bytes = 0

    def take(self, data: bytes) -> None:
        """The next bytes of the stream, cut anywhere."""
        view = memoryview(data)
        while view:
            if self._expected_bytes == 0:
                missing = _FRAME_HEADER.size - len(self._header)
                self._header += bytes(view[:missing])
                view = view[missing:]
                if len(self._header) == _FRAME_HEADER.size:
                    _, self._expected_bytes = _FRAME_HEADER.unpack(self._header)
                    self._header = b""
                continue
            part = view[: self._expected_bytes]
            self._log.write(bytes(part))
            self._expected_bytes -= len(part)
            view = view[len(part) :]


def _wait(
    client: docker.APIClient, container_id: str, ends_at: float, stop: Stop
) -> dict[str, Any] | None:
    """The state of the ended container, None where its time was over first."""
    pause_seconds = 0.005
    while True:
        state: dict[str, Any] = client.inspect_container(container_id)["State"]
        if state["Status"] in ("exited", "dead"):
            break
        if time.monotonic() >= ends_at:
            return None
        stop.wait(pause_seconds)
        stop.check()
        pause_seconds = min(2 * pause_seconds, POLL_SECONDS)
    late_until = time.monotonic() + OUT_OF_MEMORY_SECONDS
    while (
        state["ExitCode"] == _KILLED_EXIT_CODE
        and not state["OOMKilled"]
        and time.monotonic() < late_until
    ):
        stop.wait(POLL_SECONDS / 4)
        state = client.inspect_container(container_id)["State"]
    return state
