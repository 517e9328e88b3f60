"""client.main, client.serve, client.index: the gateway as a process, its flags and its errors."""

import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.configuration import DataFolders, Ports, write_configuration
from scripts.free_ports import free_ports
from scripts.processes import Process
from tests import forked
from tests.processes.programs import STOP_SECONDS, Ended, run
from tests.waiting import block_until

ROOT = Path(__file__).resolve().parents[2]


class Place:
    """A configuration in a folder of its own, and the gateways started there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        *node_ports, self.port = free_ports(5)
        write_configuration(
            folder / "config",
            ["https://example.org/r.git"],
            DataFolders(folder / "log", folder / "keys", folder / "data"),
            ports=Ports(node_ports, self.port),
        )
        self.config = folder / "config" / "client.yml"
        self.errors = folder / "errors.txt"
        self.started: list[Process] = []

    def start(self, *flags: str) -> Process:
        """A gateway in the background; what it says on standard error is in `errors`."""
        command = ["-m", "client", "--config", str(self.config), *flags]
        with open(os.devnull, "r+") as nothing, self.errors.open("ab") as errors:
            self.started.append(forked.start(command, (nothing, nothing, errors), os.environ))
        return self.started[-1]

    def run(self, *flags: str) -> Ended:
        """The gateway, until it ends by itself."""
        return run("-m", "client", "--config", str(self.config), *flags)

    def health(self, port: int) -> dict[str, object] | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
                value = json.load(answer)
        except OSError:
            return None
        assert isinstance(value, dict)
        return value

    def wait_up(self, port: int | None = None) -> None:
        block_until(lambda: self.health(port or self.port) is not None, "the gateway is up")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for process in place.started:
        process.kill()
        process.wait(STOP_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_stops_when_told(place: Place, number: signal.Signals) -> None:
    process = place.start()
    place.wait_up()
    process.send_signal(number)
    assert process.wait(STOP_SECONDS) == 0
    assert "Traceback" not in place.errors.read_text()
    assert "stopping" in (place.folder / "log" / "client.log").read_text()


@pytest.mark.parametrize(
    ("public_url", "is_warned"), [("https://ci.example.org", True), ("http://localhost:80", False)]
)
def test_a_public_address_without_tokens_is_warned_of(
    place: Place, public_url: str, is_warned: bool
) -> None:
    with place.config.open("a") as stream:
        stream.write(f"\npublic_url: {public_url}\n")
    place.start()
    place.wait_up()
    log = place.folder / "log" / "client.log"
    block_until(lambda: "webhooks at" in log.read_text(), "it says where it is")
    assert ("set api_token_file" in log.read_text()) is is_warned


def test_what_was_accepted_survives_kill_9(place: Place) -> None:
    first = place.start()
    place.wait_up()
    body = b'{"branch":"master","commit":"%s"}' % (b"c" * 40)
    url = f"http://127.0.0.1:{place.port}/webHook"
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as answer:
        assert answer.status == 202
        build = json.load(answer)["build"]
    first.kill()
    first.wait(STOP_SECONDS)
    place.start()
    place.wait_up()
    shown = f"http://127.0.0.1:{place.port}/api/v1/builds/{build}"
    with urllib.request.urlopen(shown, timeout=60) as answer:
        assert json.load(answer)["status"] == "queued"
    health = place.health(place.port)
    assert health is not None
    assert health["waiting"] == 1


def test_what_a_crowd_was_told_survives_kill_9(place: Place) -> None:
    """Eight at a time share commits; the gateway is killed while they wait for their answers."""
    process = place.start()
    place.wait_up()
    accepted: list[str] = []

    def post_for_ever(who: int) -> None:
        for number in itertools.count():
            body = b'{"branch":"b%d-%d","commit":"%s"}' % (who, number, b"c" * 40)
            request = urllib.request.Request(f"http://127.0.0.1:{place.port}/webHook", data=body)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    accepted.append(json.load(answer)["build"])
            except (OSError, http.client.HTTPException, ValueError):
                return  # it was killed, perhaps in the middle of its answer

    posters = [threading.Thread(target=post_for_ever, args=(who,)) for who in range(8)]
    for poster in posters:
        poster.start()
    block_until(lambda: len(accepted) >= 40, "some were accepted")
    process.kill()
    process.wait(STOP_SECONDS)
    for poster in posters:
        poster.join()
    place.start()
    place.wait_up()
    for build in accepted:
        shown = f"http://127.0.0.1:{place.port}/api/v1/builds/{build}"
        with urllib.request.urlopen(shown, timeout=30) as answer:
            assert json.load(answer)["status"] == "queued"
    health = place.health(place.port)
    assert health is not None
    assert isinstance(health["waiting"], int)
    assert health["waiting"] >= len(accepted)


def test_the_seeds_flags(place: Place) -> None:
    (port,) = free_ports(1)
    log = place.folder / "other.log"
    key = place.folder / "keys" / "client.private.pem"
    moved = key.rename(place.folder / "moved.pem")
    process = place.start(
        *("--path", str(log), "--pkLoc", str(moved), "--webHookPort", str(port)),
        *("--pbftHost", "127.0.0.1", "--pbftPort", "9000"),
    )
    place.wait_up(port)
    process.terminate()
    assert process.wait(STOP_SECONDS) == 0
    errors = place.errors.read_text()
    assert log.exists()
    for flag in ("--pbftHost", "--pbftPort"):
        assert [line for line in errors.splitlines() if line.startswith(f"{flag} is ignored")]


def test_a_port_in_use_is_one_line(place: Place) -> None:
    with socket.create_server(("127.0.0.1", place.port)):
        ended = place.run()
    assert ended.code == 3
    assert f"127.0.0.1:{place.port} is in use" in ended.errors
    assert "Traceback" not in ended.errors


def test_starting_twice_is_one_line(place: Place) -> None:
    place.start()
    place.wait_up()
    ended = place.run("--webHookPort", str(free_ports(1)[0]))
    assert ended.code == 2
    assert "another gateway is using" in ended.errors
    assert ended.errors.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--webHookPort", "99999"], "--webHookPort"),
        (["--pkLoc", "/nonexistent/key.pem"], "/nonexistent/key.pem"),
    ],
)
def test_a_wrong_flag_is_one_line(place: Place, flags: list[str], words: str) -> None:
    ended = place.run(*flags)
    assert ended.code == 2
    assert words in ended.errors
    assert ended.errors.count("\n") == 1


def test_another_members_key_is_one_line(place: Place) -> None:
    ended = place.run("--pkLoc", str(place.folder / "keys" / "node0.private.pem"))
    assert ended.code == 2
    assert "is not the key of client" in ended.errors


@pytest.mark.parametrize(
    ("line", "words"),
    [("colour: red", "colour"), ("queue_max: 0", "queue_max"), ("listen: nowhere", "listen")],
)
def test_a_wrong_configuration_is_one_line(place: Place, line: str, words: str) -> None:
    kept = [
        kept
        for kept in place.config.read_text().splitlines()
        if not kept.startswith(line.split(":")[0])
    ]
    place.config.write_text("\n".join([*kept, line]) + "\n")
    ended = place.run()
    assert ended.code == 2
    assert str(place.config) in ended.errors
    assert words in ended.errors
    assert ended.errors.count("\n") == 1


@pytest.mark.parametrize("start", [["client/index.py"], ["./client/index.py"], ["-m", "client"]])
@pytest.mark.parametrize("flag", ["-h", "--version"])
def test_it_can_be_started_in_every_documented_way(start: list[str], flag: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, *start, flag],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0
    for word in ("--pkLoc", "verify") if flag == "-h" else ("PBFT/CI",):
        assert word in answer.stdout


def test_index_finds_the_project_from_anywhere(tmp_path: Path) -> None:
    """Also with a folder that has modules of the same names."""
    (tmp_path / "pbft").mkdir()
    (tmp_path / "pbft" / "__init__.py").write_text("raise SystemExit('the wrong pbft')")
    answer = subprocess.run(
        [sys.executable, str(ROOT / "client" / "index.py"), "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
