"""Whether the engine is still the process that it was when a build began.

An engine that ends stops all containers, and their programs end with an exit code (143) that looks
like a finding. With a socket that outlives the engine, such as that of Debian's docker.socket, no
question fails: each waits until the next engine answers it.

The rule: a connection that an engine answered stands as long as that engine lives. If a new
connection is answered, and the one before still stands after that, both are of one process, and it
is not about to end: an engine that ends takes no new connections, and only then stops containers.
"""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import docker

from node.sandboxes.containers.docker_engine import DockerEngine
from node.sandboxes.containers.engine_client import Connections
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

# What is between may end a connection that was held for long, so it gives way to a new one.
RENEW_SECONDS = 60.0
CHUNK_BYTES = 64 * 1024
# An answer that does not end, so that a proxy keeps its own connection to the engine as well. No
# container has this label, so nothing comes.
_FILTER = json.dumps({"label": ["pbft-ci.nobody-has-this-label"]})
_REQUEST = f"GET /events?filters={quote(_FILTER)} HTTP/1.1\r\nHost: docker\r\n\r\n".encode()


class HeldConnection:
    """A connection that an engine has answered."""

    def __init__(self, client: docker.APIClient, connection: Any) -> None:
        self._client = client
        self._connection = connection

    def stands(self) -> bool:
        """Whether the other end has it open. Does not block."""
        try:
            while self._connection.recv(CHUNK_BYTES):
                pass
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Let go of it."""
        self._client.close()


def hold_connection(engine: DockerEngine, stop: Stop) -> HeldConnection:
    """A new connection to the engine, which has answered. Raises what the library raises."""
    client = engine.new_client()
    try:
        connections = Connections(client)
        with stop.interrupting(connections.break_off):
            client.ping()
        stop.check()
        (connection,) = connections.made
        connection.sendall(_REQUEST)
        connection.setblocking(False)
    except BaseException:
        client.close()
        raise
    return HeldConnection(client, connection)


class EngineWatch:
    """Of one engine, for one event loop.

    hold: makes a new connection, and raises InfrastructureError if the engine does not answer.
    """

    def __init__(self, hold: Callable[[], Awaitable[HeldConnection]]) -> None:
        self._hold = hold
        self._held: HeldConnection | None = None
        # how often a connection did not stand any more
        self._losses = 0
        self._lock = asyncio.Lock()

    async def begin(self) -> int:
        """A mark of the process that the engine is now. Raises InfrastructureError."""
        async with self._lock:
            if self._held is None or not self._held.stands():
                await self._renew()
            return self._losses

    async def is_same(self, mark: int) -> bool:
        """Whether the engine is still the process of that mark, and takes connections.

        Raises InfrastructureError.
        """
        async with self._lock:
            await self._renew()
            return mark == self._losses

    async def keep(self, is_needed: Callable[[], bool]) -> None:
        """Renew the connection now and then while that is so. Ends when it is cancelled."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if is_needed():
                # an engine that does not answer is asked again; what stood before tells then
                with suppress(InfrastructureError):
                    await self.is_same(self._losses)

    def close(self) -> None:
        """Let go of the connection."""
        if self._held is not None:
            self._held.close()
            self._held = None

    async def _renew(self) -> None:
        new = await self._hold()
        old, self._held = self._held, new
        # looked at only after the new one was answered
        if old is None or not old.stands():
            self._losses += 1
        if old is not None:
            old.close()
