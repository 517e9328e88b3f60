"""Background processes: readiness, reasons for a failure, and that no stranger is ever ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.configuration.config import Address
from scripts.free_ports import free_ports
from scripts.processes import (
    Processes,
    Program,
    StartFailed,
    answers,
    boot_id,
    last_lines,
    port_taken,
    start_ticks,
)

# A process that answers GET /healthz, for as long as it is let.
HEALTHY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()
    def log_message(self, *arguments):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# Says when it is deaf to SIGTERM, then sleeps.
STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
time.sleep(300)
"""


@pytest.fixture(autouse=True)
def _is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers at all may take long for it, where a test asks but once."""
    monkeypatch.setattr("scripts.processes.HEALTH_SECONDS_MAX", 60.0)


def program(name: str, code: str, *arguments: str, port: int, log: Path | None = None) -> Program:
    """A Python program that is supposed to listen there."""
    return Program(
        name=name,
        command=(sys.executable, "-c", code, *arguments),
        listen=Address("127.0.0.1", port),
        config_file=Path("/etc/x.yml"),
        log_files=() if log is None else (log,),
    )


def healthy(name: str) -> Program:
    """A program that comes up."""
    port = free_ports(1)[0]
    return program(name, HEALTHY, str(port), port=port)


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll until it holds, for at most a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.01)


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is none of ours."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield process
    process.kill()
    process.wait()


def pid_file(tmp_path: Path, name: str, **values: object) -> Path:
    """A pid file as it could have been left behind."""
    (tmp_path / "pids").mkdir(exist_ok=True)
    file = tmp_path / "pids" / f"{name}.json"
    file.write_text(json.dumps({"command": ["x"], **values}))
    return file


def test_start_returns_when_all_answer_and_stop_ends_them(
    processes: Processes, tmp_path: Path
) -> None:
    programs = [healthy("one"), healthy("two")]
    processes.start(programs)
    assert all(answers(each.listen) for each in programs)
    running = processes.running()
    assert {name: identity.command for name, identity in running.items()} == {
        each.name: each.command for each in programs
    }
    assert processes.stop() == []
    assert processes.running() == {}
    assert list((tmp_path / "pids").iterdir()) == []
    assert not any(answers(each.listen) for each in programs)
    assert all(start_ticks(identity.pid) is None for identity in running.values())


def test_stop_ends_the_named_ones_only(processes: Processes) -> None:
    processes.start([healthy("one"), healthy("two")])
    waited: list[str] = []
    assert processes.stop(["one"], on_wait=waited.append) == []
    assert waited == ["one"]
    assert set(processes.running()) == {"two"}


def test_another_start_finds_what_runs(processes: Processes, tmp_path: Path) -> None:
    one = healthy("one")
    processes.start([one])
    pid = processes.running()["one"].pid
    other = Processes(tmp_path / "pids", tmp_path / "output")
    with pytest.raises(StartFailed, match=rf"^one: it is running already \(pid {pid}\)$"):
        other.start([one])
    assert processes.running()["one"].pid == pid


def test_a_stale_pid_file_never_ends_a_stranger(
    processes: Processes, tmp_path: Path, stranger: "subprocess.Popen[bytes]"
) -> None:
    ticks = start_ticks(stranger.pid)
    assert ticks is not None
    stale: dict[str, dict[str, object]] = {
        "earlier": {"pid": stranger.pid, "start_ticks": ticks - 1, "boot_id": boot_id()},
        "rebooted": {"pid": stranger.pid, "start_ticks": ticks, "boot_id": "another boot"},
        "old_format": {"pid": stranger.pid},
    }
    files = [pid_file(tmp_path, name, **values) for name, values in stale.items()]
    assert processes.running() == {}
    assert processes.stop() == []
    assert stranger.poll() is None
    assert not any(file.exists() for file in files)
    # The same file with everything right is believed: so the difference above is what counts.
    pid_file(tmp_path, "ours", pid=stranger.pid, start_ticks=ticks, boot_id=boot_id())
    assert processes.stop() == []
    assert stranger.wait(60) == -signal.SIGTERM


def test_broken_pid_files_are_no_process(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    for index, text in enumerate(("", "{", "[]", '{"pid": "x"}', '{"pid": 1}')):
        (tmp_path / "pids" / f"n{index}.json").write_text(text)
    assert processes.running() == {}


def test_an_ended_process_is_not_running_although_nobody_waited_for_it(
    processes: Processes,
) -> None:
    process = processes.spawn("short", [sys.executable, "-c", "input()"])
    wait_for(lambda: start_ticks(process.pid) is None)
    assert Path(f"/proc/{process.pid}").exists(), "it is a zombie: poll() was not called"
    assert processes.running() == {}
    assert process.wait() == 1


def test_a_program_that_ends_is_named_with_what_it_said(processes: Processes) -> None:
    code = "import sys; print('first', flush=True); sys.exit('listen: 5 is wrong\\x1b[2J')"
    bad = program("bad", code, port=free_ports(1)[0])
    with pytest.raises(StartFailed) as caught:
        processes.start([healthy("good"), bad])
    lines = str(caught.value).splitlines()
    assert lines[0] == f"bad: ended with exit code 1; the end of {processes.output_file('bad')}:"
    assert [line.strip() for line in lines[1:]] == ["first", "listen: 5 is wrong\\x1b[2J"]
    assert processes.running() == {}, "what this call started is stopped again"


def test_a_program_that_says_one_line_is_one_line(processes: Processes) -> None:
    bad = program("bad", "import sys; sys.exit('/x.yml: name: is wrong')", port=free_ports(1)[0])
    with pytest.raises(StartFailed) as caught:
        processes.start([bad])
    assert str(caught.value) == "bad: ended with exit code 1: /x.yml: name: is wrong"


def test_a_program_that_does_not_answer_is_named_with_its_log(
    processes: Processes, tmp_path: Path
) -> None:
    log = tmp_path / "deaf.log"
    log.write_text("".join(f"line {index}\n" for index in range(100)))
    port = free_ports(1)[0]
    deaf = program("deaf", "import time; time.sleep(300)", port=port, log=log)
    with pytest.raises(StartFailed) as caught:
        processes.start([deaf], ready_seconds_max=0.3)
    text = str(caught.value)
    assert f"deaf: no answer from http://127.0.0.1:{port}/healthz within 0.3 s" in text
    assert text.endswith("line 98\n    line 99")
    assert processes.running() == {}


def test_a_port_in_use_is_one_line_with_port_and_key(processes: Processes, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wanted = program("one", HEALTHY, str(port), port=port)
        with pytest.raises(StartFailed) as caught:
            processes.start([healthy("two"), wanted])
    assert str(caught.value) == (
        f"/etc/x.yml: listen: port {port} is in use by another program; take a free one"
    )
    assert not (tmp_path / "pids").exists(), "nothing was started"


def test_an_address_of_another_machine_is_one_line() -> None:
    elsewhere = Program("x", ("x",), Address("192.0.2.1", 80), Path("/etc/x.yml"))
    reason = port_taken(elsewhere)
    assert reason is not None
    assert reason.startswith("/etc/x.yml: listen: 192.0.2.1:80 cannot be used")


def test_a_missing_program_is_one_line(processes: Processes) -> None:
    missing = Program("x", ("/nowhere/x",), Address("127.0.0.1", free_ports(1)[0]), Path("/x.yml"))
    with pytest.raises(StartFailed, match="x: cannot start /nowhere/x: No such file"):
        processes.start([missing])


def test_who_does_not_stop_is_killed_and_named(processes: Processes, tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    process = processes.spawn("stubborn", [sys.executable, "-c", STUBBORN, str(deaf)])
    wait_for(deaf.exists)
    lines = processes.stop(stop_seconds_max=0.2)
    assert lines == ["stubborn: did not end within 0.2 s and was killed"]
    assert process.wait(60) == -signal.SIGKILL
    assert processes.running() == {}


def test_a_process_outlives_the_terminals_interrupt(processes: Processes) -> None:
    process = processes.spawn("one", [sys.executable, "-c", "import time; time.sleep(300)"])
    assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_the_environment_is_handed_on(processes: Processes, tmp_path: Path) -> None:
    code = "import os; print(os.environ['PBFT_CI_LOG_TO_STDERR'], os.environ['DOCKER_HOST'])"
    process = processes.spawn(
        "one", [sys.executable, "-c", code], environment={"DOCKER_HOST": "unix:///x"}
    )
    assert process.wait(60) == 0
    assert processes.output_file("one").read_text() == "no unix:///x\n"


def test_answers_ignores_proxies_and_other_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in (b"HTTP/1.1 200 OK", b"HTTP/1.1 503 Busy", b"nonsense"):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(answer + b"\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        address = Address("127.0.0.1", server.getsockname()[1])
        assert [answers(address) for _ in range(3)] == [True, False, False]
        thread.join(10)


def test_start_ticks_takes_names_with_parentheses_and_spaces(tmp_path: Path) -> None:
    odd = tmp_path / "a) b (c"
    odd.write_bytes(Path("/bin/sleep").read_bytes())
    odd.chmod(0o700)
    process = subprocess.Popen([odd, "300"])
    try:
        first = start_ticks(process.pid)
        assert first is not None
        assert first >= (start_ticks(os.getpid()) or 0)
    finally:
        process.kill()
        process.wait()
    assert start_ticks(process.pid) is None


def test_last_lines_are_few_and_bounded(tmp_path: Path) -> None:
    file = tmp_path / "log"
    assert last_lines(file) == []
    file.write_bytes(b"x" * 100_000 + b"\n\xff\n\n" + b"end\n")
    lines = last_lines(file)
    assert lines[1:] == ["\ufffd", "end"]
    assert len(lines[0]) < 8192
