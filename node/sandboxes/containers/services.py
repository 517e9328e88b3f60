"""The services of a build: containers beside its steps, in one network namespace. Blocking.

The keeper's namespace has the loopback interface and nothing else, and its `/etc/hosts` gives each
service's name that address. So a step reaches a service by its name, and neither reaches the
machine, another build, or anything beyond. A service is confined as a step is. It has no workspace.

The rule: time says nothing of a commit. A service that is not ready in time makes this replica
abstain. A service that ended before it was ready is a finding, which is the same on every replica.
Afterwards only the log says that a service ended: when that is noticed depends on the machine, and
the exit codes of the steps tell what it meant to them.
"""

import os
import posixpath
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import docker
import docker.errors
import msgspec

from ci.limits import Limits
from common.pipeline.pipeline_file import Pipeline, Service
from node.outputs.build_log import BuildLog
from node.sandboxes.containers.container import (
    JOINING,
    TEMPORARY,
    ContainerOrder,
    create_container,
)
from node.sandboxes.containers.container_output import ContainerOutput
from node.sandboxes.containers.container_run import is_out_of_memory, read_some
from node.sandboxes.containers.docker_engine import EngineResources, Image
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

FILE_SYSTEM_BYTES_MAX = 512 * 2**20
# of what is kept of a build's output, so that no service crowds out the steps
LOG_PART = 8
LINE_BYTES_MAX = 4096
POLL_SECONDS = 0.02
# how often a service is looked at while it is waited for, and how long it rests between two tries
# of its command
LOOK_SECONDS = 0.25
# for the last words of a service that ended
LAST_WORDS_SECONDS = 2.0
# Exit code 0 once something listens on the port ($1, in hexadecimal) on all addresses, by builtin
# commands of a shell; 3 if it must be asked again, for an image without `sleep`. It asks the kernel
# (proc(5), tcp): the service needs no tools. 0A is LISTEN.
_WAIT_FOR_PORT = """while :; do
  for table in /proc/net/tcp /proc/net/tcp6; do
    test -r $table || continue
    while read -r number place peer state rest; do
      case $state:$place in
        0A:00000000:$1|0A:00000000000000000000000000000000:$1) exit 0;;
      esac
    done <$table
  done
  sleep 0.05 2>/dev/null || sleep 1 2>/dev/null || exit 3
done"""
_ASK_AGAIN = 3


class ServiceEnded(Exception):
    """A service ended before it was ready; the text is for the log."""

    def __init__(self, problem: str, *, is_out_of_memory: bool) -> None:
        super().__init__(problem)
        self.is_out_of_memory = is_out_of_memory


class ServicesOrder(msgspec.Struct, frozen=True):
    """What services a build has, and what they share with it."""

    pipeline: Pipeline
    images: Mapping[str, Image]
    # the id of the container whose network they join
    keeper: str
    # the beginning of all names on the engine, and the labels of all that is made there
    name: str
    labels: Mapping[str, str]
    limits: Limits
    # gets their ids
    resources: EngineResources


class _Started(msgspec.Struct):
    """A service's container."""

    service: Service
    container: str
    started_at: float
    is_noted: bool = False


class RunningServices:
    """The services of one build, from their start until its end."""

    def __init__(self, client: docker.APIClient, log: BuildLog, started: list[_Started]) -> None:
        self._client = client
        self._log = log
        self._started = started

    def note_ended(self, during: str) -> None:
        """A line in the log for each service that ended since this was called before."""
        for entry in self._started:
            state = self._client.inspect_container(entry.container)["State"]
            if not state["Running"] and not entry.is_noted:
                entry.is_noted = True
                self._log.note(
                    f"service {entry.service.name} ended with exit code {state['ExitCode']}"
                    f" (noticed after step {during})"
                )


@contextmanager
def running_services(
    client: docker.APIClient, order: ServicesOrder, log: BuildLog, *, stop: Stop
) -> Iterator[RunningServices]:
    """Start all services, wait until all are ready, and follow their output until the end.

    Removing the containers is the caller's. Raises ServiceEnded, InfrastructureError for one that
    is not ready in time, Stopped, OSError and what the library raises.
    """
    started: list[_Started] = []
    with _Follower(log, order.limits.log_bytes_max // LOG_PART) as follower:
        for service in order.pipeline.services:
            stop.check()
            container = create_container(client, _container_order(order, service))
            order.resources.containers.append(container)
            stream = client.attach_socket(
                container, params={"stdin": 0, "stdout": 1, "stderr": 1, "stream": 1}
            )
            follower.follow(service.name, stream)
            client.start(container)
            started.append(_Started(service, container, time.monotonic()))
        for entry in started:
            try:
                _wait_until_ready(client, order, entry, stop=stop)
            except ServiceEnded:
                follower.wait_for_end(entry.service.name)
                raise
            seconds = time.monotonic() - entry.started_at
            log.note(f"service {entry.service.name} is ready ({seconds:.1f} s)")
        yield RunningServices(client, log, started)


def _container_order(order: ServicesOrder, service: Service) -> ContainerOrder:
    image = order.images[service.image]
    # Half of its memory each: with the other half its processes learn that one is full.
    size = min(FILE_SYSTEM_BYTES_MAX, service.memory_bytes // 2)
    resources = order.pipeline.resources
    return ContainerOrder(
        image=image,
        name=f"{order.name}-service-{service.name}",
        labels=order.labels,
        environment=dict(service.environment),
        entrypoint=None,
        command=service.command,
        seconds=None,
        memory_bytes=service.memory_bytes,
        cpus=resources.cpus,
        pids=resources.pids,
        temporary=dict.fromkeys(
            (TEMPORARY, *map(posixpath.normpath, image.volumes), *service.temporary), size
        ),
        network=f"{JOINING}{order.keeper}",
        is_root=service.is_root,
    )


def _wait_until_ready(
    client: docker.APIClient, order: ServicesOrder, entry: _Started, *, stop: Stop
) -> None:
    """Raises ServiceEnded, InfrastructureError if its time is over, Stopped."""
    service, ready = entry.service, entry.service.ready
    command = ready.command or order.images[service.image].health_check
    if ready.port is not None:
        asked = order.keeper
        command = ("sh", "-c", _WAIT_FOR_PORT, "pbft-ci", f"{ready.port:04X}")
        wanted = f"nothing listens on its port {ready.port} on all addresses (0.0.0.0 or ::)"
    elif command:
        asked = entry.container
        wanted = f"{'its command' if ready.command else 'the health check of its image'} fails"
    else:
        return
    # asked at least once, also if another service took all the time
    ends_at = max(entry.started_at + ready.seconds, time.monotonic() + 4 * LOOK_SECONDS)
    while True:
        stop.check()
        code = _ask(client, asked, command, entry=entry, ends_at=ends_at, stop=stop)
        if code == 0:
            return
        _check_it_runs(client, entry, stop)
        if time.monotonic() >= ends_at:
            raise InfrastructureError(
                f"service {service.name} is not ready after {ready.seconds} s: {wanted}"
            )
        stop.wait(POLL_SECONDS if code == _ASK_AGAIN else LOOK_SECONDS)


def _ask(
    client: docker.APIClient,
    container: str,
    command: Sequence[str],
    *,
    entry: _Started,
    ends_at: float,
    stop: Stop,
) -> int | None:
    """The exit code of a command in a container; None if the time is over first, or it is gone.

    What still runs then ends with the container. Raises ServiceEnded, Stopped.
    """
    try:
        asked: dict[str, Any] = client.exec_create(container, list(command))
        client.exec_start(asked["Id"], detach=True)
        look_at = time.monotonic() + LOOK_SECONDS
        while True:
            state = client.exec_inspect(asked["Id"])
            if not state["Running"]:
                return int(state["ExitCode"] or 0)
            now = time.monotonic()
            if now >= ends_at:
                return None
            if now >= look_at:
                _check_it_runs(client, entry, stop)
                look_at = now + LOOK_SECONDS
            stop.wait(POLL_SECONDS)
            stop.check()
    except docker.errors.APIError:
        # the engine runs nothing in a container that has ended
        _check_it_runs(client, entry, stop)
        raise


def _check_it_runs(client: docker.APIClient, entry: _Started, stop: Stop) -> None:
    """Raises ServiceEnded."""
    state = client.inspect_container(entry.container)["State"]
    if state["Running"]:
        return
    is_killed = bool(state["ExitCode"]) and is_out_of_memory(client, entry.container, stop)
    reason = "had too little memory" if is_killed else f"ended with exit code {state['ExitCode']}"
    raise ServiceEnded(
        f"service {entry.service.name} {reason} before it was ready", is_out_of_memory=is_killed
    )


class _Follower:
    """Writes the output of services into the log, each line with the service's name before it."""

    def __init__(self, log: BuildLog, bytes_max: int) -> None:
        self._log = log
        self._bytes_max = bytes_max
        self._streams: dict[int, _Stream] = {}
        self._open: dict[str, threading.Event] = {}
        self._added: list[int] = []
        self._lock = threading.Lock()
        self._wake, self._waker = os.pipe()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="services", daemon=True)

    def __enter__(self) -> "_Follower":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        os.write(self._waker, b".")
        self._thread.join()
        for stream in self._streams.values():
            # what came since the thread looked last
            stream.has_ended()
            stream.close()
        os.close(self._wake)
        os.close(self._waker)

    def follow(self, name: str, stream: Any) -> None:
        """Take the output of a service. stream: what the library hands out to attach to it."""
        connection: socket.socket = getattr(stream, "_sock", stream)
        connection.setblocking(False)
        lines = _Lines(self._log, name, self._bytes_max)
        output = ContainerOutput(lines, is_tree_expected=False)
        with self._lock:
            self._streams[connection.fileno()] = _Stream(connection, stream, output, lines)
            self._added.append(connection.fileno())
        self._open[name] = lines.has_ended
        os.write(self._waker, b".")

    def wait_for_end(self, name: str) -> None:
        """Wait for the last words of a service that ended."""
        self._open[name].wait(LAST_WORDS_SECONDS)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        while not self._is_over:
            # bounded, because TLS may hold bytes that the socket no longer shows
            ready = poll.poll(200)
            with self._lock:
                for number in self._added:
                    poll.register(number, select.POLLIN)
                self._added.clear()
                streams = list(self._streams.items())
            if any(number == self._wake for number, _event in ready):
                os.read(self._wake, 64)
            for number, stream in streams:
                if stream.has_ended():
                    poll.unregister(number)
                    with self._lock:
                        del self._streams[number]
                    stream.close()


class _Stream(msgspec.Struct, frozen=True):
    """The output of one service. attached: what the library gave, around the connection."""

    connection: socket.socket
    attached: Any
    output: ContainerOutput
    lines: "_Lines"

    def has_ended(self) -> bool:
        """Take what there is; whether nothing more is to come, or to be kept.

        A full disk shows where the output of the steps comes.
        """
        try:
            return read_some(self.connection, self.output) == 0 or self.lines.is_full
        except OSError:
            return True

    def close(self) -> None:
        """Let go of it: the engine throws away what nobody reads."""
        with suppress(OSError):
            self.lines.end()
        self.attached.close()
        self.connection.close()
        self.lines.has_ended.set()


class _Lines:
    """Takes output as it comes, and hands whole lines to the log, with a name before each."""

    def __init__(self, log: BuildLog, name: str, bytes_max: int) -> None:
        self.has_ended = threading.Event()
        self._log = log
        self._prefix = f"[{name}] ".encode()
        self._room = bytes_max
        self._rest = b""

    @property
    def is_full(self) -> bool:
        """Whether no more is kept."""
        return self._room <= 0

    def write(self, data: bytes) -> None:
        """Output of the service. Raises OSError (disk full)."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._add(line)
        while len(self._rest) >= LINE_BYTES_MAX:
            self._add(self._rest[:LINE_BYTES_MAX])
            self._rest = self._rest[LINE_BYTES_MAX:]

    def end(self) -> None:
        """No more comes. Raises OSError (disk full)."""
        if self._rest:
            self._add(self._rest)
            self._rest = b""

    def _add(self, line: bytes) -> None:
        if self._room <= 0:
            return
        self._room -= len(line) + len(self._prefix) + 1
        self._log.write_line(self._prefix + line + b"\n")
        if self._room <= 0:
            self._log.write_line(self._prefix + b"(what it says from here on is left out)\n")
