"""The way from a step to the proxy of its hosts: a relay in its network namespace. Blocking.

The step's namespace has the loopback interface and nothing else. A container of the operator's own
image joins it, listens there, and carries each connection over its standard input and output
(`node.egress.relay_program`). At the other end of these, in this process, is the step's proxy. So
it takes no more of an engine than to attach to a container: the engine may be on another machine,
the node needs no rights, and the step gets no address beyond its own.

A relay lives as long as its step: no other step, and nothing of another build, can reach the proxy.
"""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import docker.errors
import msgspec

from node.egress import relay_program
from node.egress.channels import RelayChannel, RelayChannels, RelayFailed
from node.egress.egress_proxy import CONNECTIONS_AT_ONCE_MAX, EgressProxy, EgressRules
from node.egress.traffic import Traffic
from node.outputs.build_log import BuildLog
from node.sandboxes.containers.container import JOINING, ContainerOrder, create_container
from node.sandboxes.containers.container_output import ContainerOutput
from node.sandboxes.containers.docker_engine import EngineResources, Image
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

# Of the loopback interface of each such step; below the ports that a kernel gives by itself.
PROXY_PORT = 28128
START_SECONDS_MAX = 30.0
RELAY_MEMORY_BYTES = 64 * 2**20
RELAY_PIDS = 8
POLL_SECONDS = 0.05
CHUNK_BYTES = 64 * 1024


class RelayOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a relay is made of, and what its proxy allows."""

    rules: EgressRules
    # the operator's (network_relay_image)
    image: Image
    # the id of the container whose namespace it joins
    keeper: str
    # its own name on the engine, and its labels
    name: str
    labels: Mapping[str, str]
    cpus: float


def proxy_variables(names: Iterable[str] = ()) -> dict[str, str]:
    """The variables by which programs find the proxy. names: of services beside the step."""
    proxy = f"http://127.0.0.1:{PROXY_PORT}"
    direct = ",".join(("localhost", "127.0.0.1", "::1", *names))
    lower = {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": direct}
    return lower | {name.upper(): value for name, value in lower.items()}


class Egress:
    """The proxy of a step and its relay, until `close`."""

    def __init__(self, client: docker.APIClient, container: str, connection: Any) -> None:
        self._client = client
        self._container = container
        self._attached = connection
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._end: Callable[[], None] = lambda: None
        self._is_over = False
        self._failure: str | None = None
        self._traffic = Traffic()

    @property
    def trouble(self) -> str | None:
        """Why this machine did not reach a host that the step may reach; None: it reached all."""
        return self._failure or self._traffic.trouble

    def start(self, rules: EgressRules, *, stop: Stop) -> None:
        """Return when the step can be connected. Raises InfrastructureError, Stopped."""
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(rules)), name="egress", daemon=True
        )
        self._thread.start()
        ends_at = time.monotonic() + START_SECONDS_MAX
        while not self._ready.wait(POLL_SECONDS):
            stop.check()
            if self._failure is not None or time.monotonic() >= ends_at:
                why = self._failure or f"it is not ready after {START_SECONDS_MAX:g} s"
                raise InfrastructureError(f"the relay of network_relay_image: {why}")

    def close(self, log: BuildLog, resources: EngineResources) -> None:
        """End all connections and the relay, and tell the log what was reached.

        Raises OSError (disk full) and what the library raises.
        """
        self.abandon()
        for line in self._traffic.lines():
            log.note(line)
        self._client.remove_container(self._container, force=True, v=True)
        resources.containers.remove(self._container)

    def abandon(self) -> None:
        """End all connections; the container is removed by others."""
        self._is_over = True
        self._end()
        if self._thread is not None:
            self._thread.join()

    async def _run(self, rules: EgressRules) -> None:
        """Serve the relay until its end, or until `abandon`."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        self._end = lambda: _call_soon(loop, ended.set)
        if self._is_over:
            return
        proxy = EgressProxy(rules)
        self._traffic = proxy.traffic
        serving: set[asyncio.Task[None]] = set()

        def fail(reason: str) -> None:
            if not self._is_over:
                self._failure = self._failure or reason
            ended.set()

        def serve(channel: RelayChannel) -> None:
            task = asyncio.create_task(_serve(proxy, channel, channels))
            serving.add(task)
            task.add_done_callback(serving.discard)

        stream = _EngineStream(self._attached, loop, fail)
        channels = RelayChannels(stream.write, serve)
        output = ContainerOutput(channels, is_tree_expected=False)
        stream.follow(output.take)
        readying = asyncio.create_task(self._note_ready(channels))
        try:
            await ended.wait()
        finally:
            # First: a connection that came meanwhile would be served, and not be cancelled.
            stream.stop_reading()
            for task in (readying, *serving):
                task.cancel()
            await asyncio.gather(readying, *serving, return_exceptions=True)
            stream.close()

    async def _note_ready(self, channels: RelayChannels) -> None:
        await channels.is_ready.wait()
        self._ready.set()


@contextmanager
def running_egress(
    client: docker.APIClient,
    order: RelayOrder,
    log: BuildLog,
    *,
    resources: EngineResources,
    stop: Stop,
) -> Iterator[Egress]:
    """The proxy of a step while it runs. Afterwards the log says what was reached.

    Raises InfrastructureError if there is none, Stopped, OSError and what the library raises.
    """
    egress = start_egress(client, order, resources=resources, stop=stop)
    try:
        yield egress
    except BaseException:
        # what is left is removed with the build
        egress.abandon()
        raise
    egress.close(log, resources)


def start_egress(
    client: docker.APIClient, order: RelayOrder, *, resources: EngineResources, stop: Stop
) -> Egress:
    """A relay and its proxy, ready; resources: gets its id. Raises as `running_egress`."""
    container = create_container(client, _container_order(order))
    resources.containers.append(container)
    attached = client.attach_socket(
        container, params={"stdin": 1, "stdout": 1, "stderr": 0, "stream": 1}
    )
    egress = Egress(client, container, attached)
    try:
        client.start(container)
        egress.start(order.rules, stop=stop)
    except docker.errors.APIError as error:
        egress.abandon()
        raise InfrastructureError(
            f"the relay of network_relay_image does not start: {error.explanation or error}"
        ) from error
    except BaseException:
        egress.abandon()
        raise
    return egress


def _container_order(order: RelayOrder) -> ContainerOrder:
    source = Path(relay_program.__file__).read_text(encoding="utf-8")
    return ContainerOrder(
        image=order.image,
        name=order.name,
        labels=order.labels,
        environment={},
        entrypoint=("python3", "-I", "-S", "-c", source),
        command=(str(PROXY_PORT), str(CONNECTIONS_AT_ONCE_MAX)),
        seconds=None,
        memory_bytes=RELAY_MEMORY_BYTES,
        cpus=order.cpus,
        pids=RELAY_PIDS,
        temporary={},
        network=f"{JOINING}{order.keeper}",
        has_input=True,
    )


async def _serve(proxy: EgressProxy, channel: RelayChannel, channels: RelayChannels) -> None:
    try:
        await proxy.serve(channel)
    finally:
        channel.close()
        channels.forget(channel.number)


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    # it may be closed by now
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


class _EngineStream:
    """The streams of an attached container, for an event loop; also over TLS, whose sockets an
    event loop's own streams do not take."""

    def __init__(
        self, attached: Any, loop: asyncio.AbstractEventLoop, fail: Callable[[str], None]
    ) -> None:
        """attached: what the library hands out. fail: told once why nothing more comes."""
        self._attached = attached
        self._connection: socket.socket = getattr(attached, "_sock", attached)
        self._connection.setblocking(False)
        self._loop = loop
        self._fail = fail
        self._output = bytearray()
        self._take: Callable[[bytes], None] = lambda data: None

    def follow(self, take: Callable[[bytes], None]) -> None:
        """Hand on what comes. take: may raise RelayFailed."""
        self._take = take
        self._loop.add_reader(self._connection.fileno(), self._read)
        # TLS may have read more than was asked for
        self._read()

    def write(self, data: bytes) -> None:
        """Send bytes; the windows of the channels limit how many wait here."""
        self._output += data
        self._flush()

    def stop_reading(self) -> None:
        """Hand on nothing more; what is written is still sent."""
        self._loop.remove_reader(self._connection.fileno())

    def close(self) -> None:
        """Let go of it."""
        self.stop_reading()
        self._loop.remove_writer(self._connection.fileno())
        self._attached.close()
        self._connection.close()

    def _read(self) -> None:
        # until there is nothing: the socket does not show what TLS holds already
        while True:
            try:
                data = self._connection.recv(CHUNK_BYTES)
                if not data:
                    self._stop("its container has ended; the image needs python3, 3.9 or later")
                    return
                self._take(data)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except (OSError, RelayFailed) as error:
                self._stop(str(error))
                return

    def _flush(self) -> None:
        try:
            while self._output:
                del self._output[: self._connection.send(self._output[:CHUNK_BYTES])]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._loop.add_writer(self._connection.fileno(), self._flush)
            return
        except OSError as error:
            self._output.clear()
            self._stop(str(error))
        self._loop.remove_writer(self._connection.fileno())

    def _stop(self, reason: str) -> None:
        self.stop_reading()
        self._fail(reason)
