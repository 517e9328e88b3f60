"""builder_watch: what an engine says of an instruction that ends while it is looked at."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import docker
import pytest

from node.sandboxes.containers.builder_watch import BuilderWatch
from node.work.threads import Stop

LABELS = {"build": "this one"}
CONTAINER = {"Id": "c" * 64, "ImageID": "sha256:0", "Labels": LABELS, "SizeRw": 1000}


class _Engine(BaseHTTPRequestHandler):
    """Has one container, of which it knows nothing when it is asked for the first time.

    So Docker's engine answers if the container ends between the question and the measurement; with
    a real one that moment cannot be chosen.
    """

    asked = 0

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.endswith("/stats"):
            type(self).asked += 1
            self._answer(b"" if self.asked == 1 else b'{"pids_stats": {"current": 65}}')
        elif path.endswith("/containers/json"):
            self._answer(json.dumps([CONTAINER]).encode())
        else:
            self._answer(b"[]" if path.endswith("/images/json") else b"{}")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: it is not ours."""


@pytest.fixture
def client() -> Iterator[docker.APIClient]:
    _Engine.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), _Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made = docker.APIClient(f"tcp://127.0.0.1:{server.server_port}", version="1.41")
        yield made
        made.close()
        server.shutdown()


def test_an_instruction_that_ends_while_it_is_looked_at_is_no_trouble(
    client: docker.APIClient,
) -> None:
    watch = BuilderWatch(client, LABELS)
    assert "64 processes" in watch.wait_for_excess(2000, 64, Stop())
    assert _Engine.asked == 2
