"""A client over Docker's library whose every wait ends: after a time, or when it is stopped.

The library waits without limit for what may take long (a pull, an attached container, events). It
returns a response only when the header has arrived, and an engine sends no header before it has
something to report. While the engine waits for a registry that never answers, only the connection
can be ended (docs/decisions/0021).

The library reaches an engine at ssh:// through pipes, which have no timeouts, or by a library that
we do not have. So the program ssh gets one end of a pair of sockets here: our end is a socket like
any other.
"""

import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import docker
import docker.transport
import requests.adapters
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

SSH_SCHEME = "ssh://"
# of the engine's command line on the other machine: its standard input and output are the engine's
# socket. `docker -H ssh://...` calls the same.
DIAL = ("docker", "system", "dial-stdio")
# nobody is there to answer a question, and a link that is cut must end
SSH_OPTIONS = (
    *("-T", "-oBatchMode=yes", "-oConnectTimeout=30"),
    *("-oServerAliveInterval=15", "-oServerAliveCountMax=3"),
)
# for a program that was told to end
SSH_END_SECONDS = 5.0


class EngineClient(docker.APIClient):
    """As the library's; `timeout` is the longest silence of any answer."""

    def __init__(
        self, base_url: str | None = None, *, runtime: str | None = None, **settings: Any
    ) -> None:
        """The library's arguments. Raises docker.errors.DockerException.

        runtime: of each container that this client makes; None: the engine's default.
        """
        self._runtime = runtime
        self._ssh_url: str | None = None
        if base_url is not None and base_url.startswith(SSH_SCHEME):
            # For the library it is an engine with a socket here, and `mount` connects it otherwise.
            self._ssh_url, base_url = base_url, "unix://"
        super().__init__(base_url, **settings)

    def mount(self, prefix: str | bytes, adapter: requests.adapters.BaseAdapter) -> None:
        """Take an adapter; that of a socket here gives way to ssh where the engine is behind it."""
        is_socket = isinstance(adapter, docker.transport.UnixHTTPAdapter)
        if self._ssh_url is not None and is_socket and not isinstance(adapter, _SshAdapter):
            adapter = _SshAdapter(self._ssh_url)
        super().mount(prefix, adapter)

    def create_host_config(self, *arguments: Any, **settings: Any) -> Any:
        """As the library's. The runtime is set here, so that no container can be without it."""
        settings.setdefault("runtime", self._runtime)
        return super().create_host_config(*arguments, **settings)

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
        client.mount(client.base_url, _watching(adapter, self._keep))

    @property
    def made(self) -> tuple[Any, ...]:
        """Those that were made so far."""
        return tuple(self._sockets)

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
    """As the library's over a Unix socket, with connections of a class of ours."""

    def __init__(self, path: str, keep: Keep | None = None) -> None:
        """keep: gets each connection before its first request."""
        super().__init__(path)
        # The library's own pools make connections of a fixed class.
        self._pool = HTTPConnectionPool("localhost")
        self._pool.ConnectionCls = _of_sockets(self._connected, keep)

    def _connected(self, timeout: Any) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        connection.connect(self.socket_path)
        return connection

    def get_connection_with_tls_context(self, *arguments: Any, **more: Any) -> Any:
        """The one pool."""
        return self._pool

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self._pool.close()


class _SshAdapter(_UnixAdapter):
    """Connections to the engine's socket on another machine, each through a program ssh."""

    def __init__(self, url: str, keep: Keep | None = None) -> None:
        super().__init__(url, keep)
        self.url = url
        self._programs: list[subprocess.Popen[bytes]] = []

    def _connected(self, timeout: Any) -> socket.socket:
        # those that ended since are no longer looked after
        self._programs = [program for program in self._programs if program.poll() is None]
        connection, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            self._programs.append(
                subprocess.Popen(ssh_command(self.url), stdin=number, stdout=number)
            )
        connection.settimeout(timeout)
        return connection

    def close(self) -> None:
        """Close the connections, and end the programs."""
        super().close()
        for program in self._programs:
            program.terminate()
        for program in self._programs:
            with suppress(subprocess.TimeoutExpired):
                program.wait(SSH_END_SECONDS)


def ssh_command(url: str) -> tuple[str, ...]:
    """What connects its standard input and output with the engine at that ssh:// address."""
    parts = urlsplit(url)
    login = () if parts.username is None else ("-l", parts.username)
    port = () if parts.port is None else ("-p", str(parts.port))
    return ("ssh", *SSH_OPTIONS, *login, *port, "--", str(parts.hostname), *DIAL)


def _watching(adapter: requests.adapters.BaseAdapter, keep: Keep) -> requests.adapters.BaseAdapter:
    """One like this; `keep` gets each connection before its first request."""
    if isinstance(adapter, _SshAdapter):
        return _SshAdapter(adapter.url, keep)
    if isinstance(adapter, docker.transport.UnixHTTPAdapter):
        return _UnixAdapter(adapter.socket_path, keep)
    return _TcpAdapter(keep)


def _of_sockets(connected: Callable[[Any], socket.socket], keep: Keep | None) -> Any:
    class Connection(HTTPConnection):
        def connect(self) -> None:
            self.sock = connected(self.timeout)

    return Connection if keep is None else _watched(Connection, keep)


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
