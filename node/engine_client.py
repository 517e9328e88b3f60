"""Docker's library as a client all of whose waiting ends: after a time, or when it is broken off.

The library waits without limit for what may take long (a pull, an attached container, events), and
hands out a response only when its header has come. An engine sends none before it has something to
say: while it waits for a registry that never answers, there is nothing but a connection to end.
"""

import socket
from contextlib import suppress
from typing import Any

import docker
import requests


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
        # Below the library's three transports is urllib3, and all of them take a connection from
        # one of its pools. Neither tells anybody of a connection that still waits for its header.
        adapter: Any = client.get_adapter(client.base_url)
        find_pool = adapter.get_connection_with_tls_context
        watched: list[Any] = []

        def find_watched_pool(*arguments: Any, **more: Any) -> Any:
            pool = find_pool(*arguments, **more)
            if pool not in watched:
                watched.append(pool)
                self._watch(pool)
            return pool

        adapter.get_connection_with_tls_context = find_watched_pool

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

    def _watch(self, pool: Any) -> None:
        take = pool._get_conn

        def take_watched(*arguments: Any, **more: Any) -> Any:
            connection = take(*arguments, **more)
            connect = connection.connect

            def connect_watched() -> None:
                connect()
                self._keep(connection.sock)

            connection.connect = connect_watched
            if connection.sock is not None:
                self._keep(connection.sock)
            return connection

        pool._get_conn = take_watched

    def _keep(self, connection: Any) -> None:
        # first kept, then looked whether it is too late: the others do it the other way round
        self._sockets.append(connection)
        if self._is_broken_off:
            _break_off(connection)
        elif self._has_ended_requests:
            _end_requests(connection)


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
