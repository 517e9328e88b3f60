"""One hardened container from its creation to its end: output, limits, grace. Blocking.

Removing it is the caller's: by label, so that it also happens where creating it half failed.
"""

import posixpath
import select
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import docker
import docker.errors
import docker.types
import msgspec

from node.build_log import BuildLog
from node.docker_engine import Image
from node.run_result import GRACE_SECONDS
from node.threads import Stop, Stopped
from node.tree import BUILD_USER_ID

HOME = "/home/build"
TEMPORARY = "/tmp"  # noqa: S108 (inside the container, a file system of its own)
# what programs share in /dev/shm
SHARED_BYTES = 64 * 2**20
# of a file system in the place of a volume that an image declares
VOLUME_BYTES = 64 * 2**20
OPEN_FILES_MAX = 16_384
CPU_PERIOD_MICROSECONDS = 100_000
# where the machine itself runs out of memory, builds go first, not nodes
OUT_OF_MEMORY_SCORE = 500
# a file in memory costs the kernel memory beyond its contents; so many bytes for each one
BYTES_PER_FILE = 8192
# so that a small file system still takes a tree of many empty files
FILES_MIN = 120_000

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
    """What to run, and the walls around it. command and entrypoint None: what the image says.

    seconds: None for a container that nobody waits for. memory_bytes: of its processes and of
    everything that it writes into its file systems in memory, the volumes included.
    temporary: bytes of each file system that ends with the container, by path.
    volumes: shared file systems, by path: the name, and whether it can be written to.
    network: the name of the engine's network, None for none.
    """

    image: Image
    name: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    entrypoint: tuple[str, ...] | None
    command: tuple[str, ...] | None
    seconds: float | None
    memory_bytes: int
    cpus: float
    pids: int
    temporary: Mapping[str, int]
    volumes: Mapping[str, tuple[str, bool]] = {}
    working_directory: str | None = None
    network: str | None = None


def create_container(client: docker.APIClient, order: ContainerOrder) -> str:
    """The id of a container that is made and not started. Raises what the library raises."""
    created: dict[str, Any] = client.create_container(
        image=order.image.id,
        name=order.name,
        command=list(order.command) if order.command is not None else None,
        entrypoint=list(order.entrypoint) if order.entrypoint is not None else None,
        hostname="pbft-ci",
        user=f"{BUILD_USER_ID}:{BUILD_USER_ID}",
        # so that the init process hands a signal on to all, not to the shell alone
        environment=dict(order.environment) | {"TINI_KILL_PROCESS_GROUP": "1"},
        labels=dict(order.labels),
        working_dir=order.working_directory,
        # what nobody waits for waits for an input that never comes
        stdin_open=order.seconds is None,
        network_disabled=order.network is None,
        # an image's own health check would be one more process that nobody asked for
        healthcheck={"test": ["NONE"]},
        host_config=_host_config(client, order),
    )
    container_id: str = created["Id"]
    return container_id


def run_container(
    client: docker.APIClient, order: ContainerOrder, log: BuildLog, stop: Stop
) -> ContainerEnd:
    """Run a container to its end or to the end of its time.

    When stopped, the processes in it are asked to end before they are killed. Raises Stopped,
    OSError (log disk full) and what the library raises.
    """
    assert order.seconds is not None, "what is waited for has a time"
    container_id = create_container(client, order)
    stream = client.attach_socket(
        container_id, params={"stdin": 0, "stdout": 1, "stderr": 1, "stream": 1}
    )
    # the library hands out a file around the socket, which has to be closed as well
    connection: socket.socket = getattr(stream, "_sock", stream)
    try:
        stop.check()
        client.start(container_id)
        ends_at = time.monotonic() + order.seconds
        _read_output(connection, ends_at, log, stop)
        state = _wait(client, container_id, ends_at, stop)
    except Stopped:
        # with nobody left to read, a program that still writes would not get to its end
        with suppress(docker.errors.APIError, OSError):
            _end_gently(client, container_id, connection, log)
        raise
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


def file_system_options(bytes_max: int) -> str:
    """Options of a file system in memory that the build's user owns, of a fixed size."""
    files_max = FILES_MIN + bytes_max // BYTES_PER_FILE
    return f"size={bytes_max},nr_inodes={files_max}"


def _host_config(client: docker.APIClient, order: ContainerOrder) -> dict[str, Any]:
    """The walls around the build; the same for every image and every pipeline."""
    flags = "rw,exec,nosuid,nodev,mode=1777"
    temporary = {
        path: f"{flags},{file_system_options(size)}" for path, size in order.temporary.items()
    }
    for declared in order.image.volumes:
        # A volume that an image declares would be a folder on the host without a quota.
        path = posixpath.normpath(declared)
        if path not in order.volumes:
            temporary.setdefault(path, f"{flags},{file_system_options(VOLUME_BYTES)}")
    # /dev/shm is in memory as well
    memory_bytes = order.memory_bytes + SHARED_BYTES
    config: dict[str, Any] = client.create_host_config(
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        network_mode=order.network or "none",
        read_only=True,
        tmpfs=temporary,
        mounts=[
            docker.types.Mount(path, volume, type="volume", read_only=not is_writable, no_copy=True)
            for path, (volume, is_writable) in order.volumes.items()
        ],
        # a first process that reaps orphans and makes a missing program an exit code
        init=True,
        ipc_mode="private",
        shm_size=SHARED_BYTES,
        mem_limit=memory_bytes,
        # equal to the memory: no swap
        memswap_limit=memory_bytes,
        oom_score_adj=OUT_OF_MEMORY_SCORE,
        # quota and period, not nano_cpus: that one is refused on a machine with fewer CPUs
        cpu_period=CPU_PERIOD_MICROSECONDS,
        cpu_quota=max(1000, round(order.cpus * CPU_PERIOD_MICROSECONDS)),
        pids_limit=order.pids,
        ulimits=[
            docker.types.Ulimit(name="nofile", soft=OPEN_FILES_MAX, hard=OPEN_FILES_MAX),
            docker.types.Ulimit(name="core", soft=0, hard=0),
        ],
        # the output is read as it comes; nothing of it is kept by the engine
        log_config=docker.types.LogConfig(type="none"),
        restart_policy={"Name": "no"},
    )
    return config


def _read_output(
    connection: socket.socket, ends_at: float, log: BuildLog, stop: Stop | None
) -> None:
    """Take the output, until the container closes it or its time is over."""
    connection.setblocking(False)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    frames = _Frames(log)
    while time.monotonic() < ends_at:
        if stop is not None:
            stop.check()
        try:
            data = connection.recv(CHUNK_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            poll.poll(1000 * POLL_SECONDS)
            continue
        except ConnectionResetError:
            return
        if not data:
            return
        frames.take(data)


def _end_gently(
    client: docker.APIClient, container_id: str, connection: socket.socket, log: BuildLog
) -> None:
    """Ask all processes of a container to end, and take their last words for a while."""
    client.kill(container_id, signal="SIGTERM")
    log.note(f"asked to stop; {GRACE_SECONDS} s until it is killed")
    _read_output(connection, time.monotonic() + GRACE_SECONDS, log, None)
    # ended by itself, perhaps
    client.kill(container_id)


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
