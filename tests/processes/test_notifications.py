"""A gateway that is killed between a verdict and its message sends the message after its start."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes.conftest import NetworkMaker
from tests.processes.network import CLIENT, VERDICT_SECONDS, Network, pipeline
from tests.secret_files import secret_file

pytestmark = pytest.mark.processes

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """Refuses what it is sent until it `takes`."""

    def __init__(self) -> None:
        self.takes = False
        self.refused: list[str] = []
        self.taken: list[tuple[str, dict[str, Any]]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805 - the base class's name; self is the receiver
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                identity = handler.headers["webhook-id"]
                if self.takes:
                    self.taken.append((identity, json.loads(body)))
                else:
                    self.refused.append(identity)
                handler.send_response(204 if self.takes else 503)
                handler.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def waiting_in(network: Network) -> int:
    settings = yaml.safe_load(network.config_file(CLIENT).read_text())
    folder = network.config_file(CLIENT).parent / str(settings["data_directory"])
    with closing(sqlite3.connect(folder / "gateway.sqlite", timeout=30)) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM messages WHERE is_settled = 0"
        ).fetchone()
        return int(count)


def test_no_message_is_lost_over_kill_9_and_none_comes_twice(
    make_network: NetworkMaker, receiver: Receiver, tmp_path: Path
) -> None:
    network = make_network({"red": pipeline("false")})
    secret = secret_file(tmp_path / "notify-secret", SECRET)

    def tell(settings: dict[str, Any]) -> None:
        settings["notify"] = [
            {
                "name": "team",
                "kind": "webhook",
                "url": receiver.url,
                "secret_file": str(secret),
                "private_allowed": True,
            }
        ]

    network.rewrite(CLIENT, tell)
    network.start()
    build = network.post("red")
    view = network.verdict(build)
    assert view["verdict"]["outcome"] == "failed"
    network.wait_until(lambda: bool(receiver.refused), "a first try", VERDICT_SECONDS)
    network.kill(CLIENT)
    assert waiting_in(network) == 1
    receiver.takes = True
    network.start(CLIENT)
    network.wait_until(lambda: waiting_in(network) == 0, "the message", VERDICT_SECONDS)
    ((identity, body),) = receiver.taken
    assert {identity} == set(receiver.refused)
    assert (body["type"], body["data"]["build"]) == ("build.broken", build)
    assert body["data"]["url"].endswith(f"/builds/{build}")
    # still red: there is nothing to tell
    network.verdict(network.post("red"))
    assert waiting_in(network) == 0
    assert len(receiver.taken) == 1
