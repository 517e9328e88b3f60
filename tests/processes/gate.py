"""A git server on this machine, and gates on the way to it that can be shut and opened."""

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from scripts.free_ports import free_ports
from tests.waiting import block_until

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024


class GitServer:
    """`git daemon` for one repository. A context manager."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._process: subprocess.Popen[bytes] | None = None
        (self.port,) = free_ports(1)

    def connect(self) -> socket.socket:
        """A connection to the server."""
        return socket.create_connection((HOST, self.port))

    def url(self, port: int) -> str:
        """Where the repository is for whoever goes through that port."""
        return f"git://{HOST}:{port}/{self._repository.name}"

    def __enter__(self) -> Self:
        # `git daemon` itself would be a second process, which its parent's end leaves behind
        programs = subprocess.run(
            ["git", "--exec-path"], check=True, capture_output=True, text=True, timeout=10
        )
        self._process = subprocess.Popen(
            [
                f"{programs.stdout.strip()}/git-daemon",
                "--export-all",
                "--reuseaddr",
                f"--listen={HOST}",
                f"--port={self.port}",
                f"--base-path={self._repository.parent}",
                str(self._repository.parent),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        block_until(self._listens, "git daemon listens")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
            return True
        return False


class Gate:
    """A port that leads to another place while the gate is open. It is shut at first.

    Shut, it either refuses connections, as a machine does whose server is off, or takes them and
    says nothing until it is opened, as one does that is lost on the way. A context manager.
    """

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        *,
        is_silent: bool = False,
        bytes_max: int | None = None,
    ) -> None:
        """connect: to where the gate leads.

        bytes_max: so much comes through each connection from there, and then nothing more.
        """
        (self.port,) = free_ports(1)
        self.tries = 0
        self._connect = connect
        self._is_silent = is_silent
        self._bytes_max = bytes_max
        self._is_open = False
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if self._is_silent:
            self._listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_silent = False
        self.shut()

    def open(self) -> None:
        """Let connections through from now on; those that were held are cut."""
        # first this: what is accepted in between is carried
        self._is_open = True
        self._cut()
        if self._listener is None:
            self._listen()

    def shut(self) -> None:
        """Let nothing through from now on; what goes through now is cut."""
        self._is_open = False
        if self._listener is not None and not self._is_silent:
            # wakes the thread that waits for connections
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self._cut()

    def _cut(self) -> None:
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        self._listener = socket.create_server((HOST, self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.tries += 1
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._carry, args=(connection,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near:
            if not self._is_open:
                # held until it is cut, or given up at the other end
                with contextlib.suppress(OSError):
                    while near.recv(CHUNK_BYTES):
                        pass
                return
            with self._connect() as far:
                with self._lock:
                    self._connections.add(far)
                back = threading.Thread(
                    target=_copy, args=(far, near, self._bytes_max), daemon=True
                )
                back.start()
                _copy(near, far)
                back.join()


def _copy(source: socket.socket, target: socket.socket, bytes_max: int | None = None) -> None:
    copied = 0
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            target.sendall(data)
            copied += len(data)
            if bytes_max is not None and copied >= bytes_max:
                return
        target.shutdown(socket.SHUT_WR)
