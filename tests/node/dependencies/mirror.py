"""A server of packages in a thread of this process, which can be told to misbehave."""

import http.server
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Mirror:
    """files: by path. asked: the requests so far, as (path, headers)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        # by path, what to do in place of an answer; true: it did all of it
        self.tricks: dict[str, Callable[[http.server.BaseHTTPRequestHandler], bool]] = {}
        self.url = ""

    def once(self, path: str, trick: Callable[[http.server.BaseHTTPRequestHandler], None]) -> None:
        """Play a trick on the first who asks for that path."""

        def first(handler: http.server.BaseHTTPRequestHandler) -> bool:
            del self.tricks[path]
            trick(handler)
            return True

        self.tricks[path] = first


@contextmanager
def running_mirror(context: ssl.SSLContext | None = None) -> Iterator[Mirror]:
    """A mirror on a port of its own. context: of one that speaks TLS."""
    mirror = Mirror()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            mirror.asked.append((self.path, dict(self.headers)))
            trick = mirror.tricks.get(self.path)
            if trick is not None and trick(self):
                return
            data = mirror.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            given = self.headers.get("Range")
            begin = int(given.removeprefix("bytes=").rstrip("-")) if given else 0
            self.send_response(206 if given else 200)
            if given:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Type", mirror.types.get(self.path, "text/html"))
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            self.wfile.write(data[begin:])

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    mirror.url = f"http://127.0.0.1:{server.server_port}"
    if context is not None:
        # the handshake is for the request's thread, or a refused one would hold up the next
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        mirror.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
