"""A client over Docker's library whose every wait ends: after a time, or when it is stopped.

The library waits without limit for what may take long (a pull, an attached container, events). It
returns a response only when the header has arrived, and an engine sends no header before it has
something to report. While the engine waits for a registry that never answers, only the connection
can be ended (docs/decisions/0021).
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import docker
import docker.transport
import requests.adapters
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool


class EngineClient(docker.APIClient):
    """As the library's; `timeout` is the longest silence of any answer."""

    def send(self, request: requests.PreparedRequest, **settings: Any) -> requests.Response:
        """Where the library asks for no limit, the client's own holds."""
        if settings.get("timeout") is None:
            settings["timeout"] = self.timeout
        return super().send(request, **settings)


class Connections:
    """The connections that a client makes from now on; for one answer that goes on for long."""

    def __init__(self, client: docker.APIClient) -> None:
        self._sockets: list[Any] = []
        self._is_broken_off = False
        self._has_ended_requests = False
        adapter = client.get_adapter(client.base_url)
        client.mount(
            client.base_url,
            _UnixAdapter(adapter.socket_path, self._keep)
            if isinstance(adapter, docker.transport.UnixHTTPAdapter)
            else _TcpAdapter(self._keep),
        )

    def break_off(self) -> None:
        """End all of them, also those that are made later. From any thread; never blocks long."""
        self._is_broken_off = True
        for connection in tuple(self._sockets):
            _break_off(connection)

    def end_requests(self) -> None:
        """Say that no request will come any more, like one who has gone; what comes is still read.

        Where a transport has no way to say that, they are broken off.
        """
        self._has_ended_requests = True
        for connection in tuple(self._sockets):
            _end_requests(connection)

    def _keep(self, connection: Any) -> None:
        # first kept, then looked whether it is too late: the others do it the other way round
        self._sockets.append(connection)
        if self._is_broken_off:
            _break_off(connection)
        elif self._has_ended_requests:
            _end_requests(connection)


Keep = Callable[[socket.socket], None]


class _TcpAdapter(requests.adapters.HTTPAdapter):
    """As the library's over TCP and TLS; `keep` gets each connection before its first request."""

    def __init__(self, keep: Keep) -> None:
        super().__init__()
        self._keep = keep

    def get_connection_with_tls_context(self, *arguments: Any, **more: Any) -> Any:
        """The pool of the engine's address, which watches its connections."""
        pool: Any = super().get_connection_with_tls_context(*arguments, **more)
        # only once: urllib3 keeps its pools, and hands out the same one again
        if "ConnectionCls" not in vars(pool):
            pool.ConnectionCls = _watched(pool.ConnectionCls, self._keep)
        return pool


class _UnixAdapter(docker.transport.UnixHTTPAdapter):
    """As the library's over a Unix socket; `keep` gets each connection before its first request."""

    def __init__(self, path: str, keep: Keep) -> None:
        super().__init__(path)
        # The library's own pools make connections of a fixed class.
        self._pool = HTTPConnectionPool("localhost")
        self._pool.ConnectionCls = _watched(_unix_connection(path), keep)

    def get_connection_with_tls_context(self, *arguments: Any, **more: Any) -> Any:
        """The one pool."""
        return self._pool

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self._pool.close()


def _unix_connection(path: str) -> type[HTTPConnection]:
    class UnixConnection(HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(path)

    return UnixConnection


def _watched(kind: Any, keep: Keep) -> Any:
    class Watched(kind):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            keep(self.sock)

    return Watched


def _break_off(connection: Any) -> None:
    with suppress(OSError):
        if isinstance(connection, socket.socket):
            # that of a socket below TLS: TLS's own must not be called while another thread reads
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
        else:
            connection.close()


def _end_requests(connection: Any) -> None:
    if isinstance(connection, socket.socket):
        with suppress(OSError):
            # below TLS as well: TLS's own would end the reading, too
            socket.socket.shutdown(connection, socket.SHUT_WR)
            return
    _break_off(connection)
