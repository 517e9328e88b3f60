"""An engine that answers little and holds some questions open for ever.

It stands for an engine that waits for somebody else, such as a registry that accepts and never says
a word: the engine itself sends not even a header then.
"""

import json
import socket
import ssl
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_ANSWERS: dict[str, Any] = {
    "/_ping": "OK",
    "/version": {"ApiVersion": "1.43"},
    "/info": {"MemTotal": 2**40, "DockerRootDir": "/nowhere"},
    "/images/json": [],
    "/containers/json": [],
    "/volumes": {"Volumes": []},
    "/networks": [],
    "/containers/create": {"Id": "c" * 64},
}


class SilentEngine(ThreadingHTTPServer):
    """Knows no image; never answers the questions whose path ends with one of `silent`."""

    daemon_threads = True

    def __init__(
        self, path: Path | None, *silent: str, context: ssl.SSLContext | None = None
    ) -> None:
        """path: of its Unix socket, None for TCP. context: its TLS, None for none."""
        self.silent = silent
        # how many of them are held open; the other side may still go away
        self.held = 0
        self.held_ever = 0
        self.lock = threading.Lock()
        self.address_family = socket.AF_INET if path is None else socket.AF_UNIX
        address: Any = ("127.0.0.1", 0) if path is None else str(path)
        super().__init__(address, _Handler)
        self.host = f"unix://{path}"
        if path is None:
            scheme = "http" if context is None else "https"
            self.host = f"{scheme}://127.0.0.1:{self.server_address[1]}"
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def server_bind(self) -> None:
        """The base class asks for the name of a host, and there is none."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def count(self, change: int) -> None:
        """One more is held, or one less."""
        with self.lock:
            self.held += change
            self.held_ever += max(0, change)

    def close(self) -> None:
        """No more answers."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: SilentEngine
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "somebody"

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.endswith(self.server.silent):
            self._hold()
            return
        known = [answer for end, answer in _ANSWERS.items() if path.endswith(end)]
        body = json.dumps(known[0] if known else {"message": "no such image"}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def _hold(self) -> None:
        """Until the other side has gone."""
        self.server.count(1)
        try:
            while self.connection.recv(4096):
                pass
        finally:
            self.server.count(-1)
            self.close_connection = True
