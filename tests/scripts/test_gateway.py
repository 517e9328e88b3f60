"""The demo's view of the gateway's API."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from scripts.gateway import BuildView, Found, Gateway, GatewayFailed, read_build

DECIDED: dict[str, object] = {
    "id": "ab",
    "branch": "feature",
    "commit": "c0ffee",
    "status": "decided",
    "verdict": {
        "outcome": "failed",
        "exit_code": 7,
        "agreeing": ["node0", "node1"],
        "dissenting": ["node3"],
        "ledger_index": 4,
    },
    "ballots": [
        {
            "replica": "node0",
            "outcome": "failed",
            "exit_code": 7,
            "commit": "c0ffee",
            "log_sha256": "00",
            "abstains": None,
        },
        {
            "replica": "node2",
            "outcome": None,
            "exit_code": None,
            "commit": None,
            "log_sha256": None,
            "abstains": "Docker is down",
        },
    ],
}


class Server(http.server.HTTPServer):
    """A gateway that gives one prepared answer, and remembers what it was asked."""

    status = 200
    body = b""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, bytes]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers whatever is asked."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        length = int(self.headers.get("Content-Length", 0))
        self.server.asked.append((f"{self.command} {self.path}", self.rfile.read(length)))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the tests' output is for the tests."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A gateway on a port of its own."""
    made = Server()
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join(10)
    made.server_close()


@pytest.fixture
def gateway(server: Server) -> Gateway:
    """What the demo uses to talk to it."""
    return Gateway(f"http://127.0.0.1:{server.server_address[1]}")


def test_a_decided_build_is_read() -> None:
    assert read_build(DECIDED) == BuildView(
        status="decided",
        commit="c0ffee",
        ballots={
            "node0": Found("failed", 7, "c0ffee"),
            "node2": Found("abstains", None, None),
        },
        verdict=Found("failed", 7, "c0ffee"),
        dissenting=frozenset({"node3"}),
    )


def test_an_undecided_build_is_read() -> None:
    view = read_build({**DECIDED, "status": "queued", "verdict": None, "ballots": []})
    assert (view.status, view.verdict, view.ballots) == ("queued", None, {})


def test_what_was_found_in_words() -> None:
    assert str(Found("passed", 0, None)) == "passed 0"
    assert str(Found("timed_out", None, None)) == "timed_out"


def test_a_webhook_is_posted(server: Server, gateway: Gateway) -> None:
    server.status, server.body = 202, b'{"build": "ab", "url": "http://x/"}'
    assert gateway.post_webhook("master") == "ab"
    assert server.asked == [("POST /webHook", b'{"branch": "master"}')]


def test_a_build_is_fetched(server: Server, gateway: Gateway) -> None:
    server.body = json.dumps(DECIDED).encode()
    assert gateway.build("ab") == read_build(DECIDED)
    assert server.asked[0][0] == "GET /api/v1/builds/ab"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (429, b'{"error": "full\x1b[2J"}', r"answers 429: .*full\\x1b\[2J"),
        (200, b"nonsense", "no answer from the gateway"),
        (200, b"[]", "not a gateway's answer"),
        (200, b'{"status": "queued"}', "not a build"),
        (200, json.dumps({**DECIDED, "ballots": None}).encode(), "not a build"),
        (200, json.dumps({**DECIDED, "verdict": "passed"}).encode(), "not a build"),
    ],
)
def test_other_answers_are_one_line(
    server: Server, gateway: Gateway, status: int, body: bytes, reason: str
) -> None:
    server.status, server.body = status, body
    with pytest.raises(GatewayFailed, match=reason) as caught:
        gateway.build("ab")
    assert "\n" not in str(caught.value)


def test_a_webhook_without_a_build_is_not_believed(server: Server, gateway: Gateway) -> None:
    server.body = b'{"url": "x"}'
    with pytest.raises(GatewayFailed, match="names no build"):
        gateway.post_webhook("master")


def test_a_gateway_that_is_gone_is_named() -> None:
    with pytest.raises(GatewayFailed, match="no answer from the gateway"):
        Gateway("http://127.0.0.1:1").post_webhook("master")
