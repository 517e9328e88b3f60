"""The supervisor of a build: nothing outlives it, and it outlives neither build nor node."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from node.sandboxes import build_supervisor
from scripts.folders import ROOT
from tests.node.conftest import end_processes_in
from tests.node.sandboxes.test_process_sandbox import is_running
from tests.waiting import block_until

WAIT_SECONDS = 90


def start(folder: Path, script: str) -> subprocess.Popen[bytes]:
    """A supervised shell in a folder, as node.sandboxes.process_sandbox starts one."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", build_supervisor.__file__, "/bin/sh", "-c", script],
        cwd=folder,
        stdin=subprocess.PIPE,
    )


def number_in(file: Path) -> int:
    """The process number that a script wrote there."""
    block_until(lambda: file.exists() and file.read_text().endswith("\n"), str(file))
    return int(file.read_text())


# In the group, in a session of its own, and orphaned by a parent that ended.
CHILDREN = """
sleep 600 & echo $! > in-group
setsid sh -c 'echo $$ > in-session; exec sleep 600' &
(setsid sh -c 'sleep 600 & echo $! > orphan') &
"""


def children(folder: Path) -> list[int]:
    """The three."""
    return [number_in(folder / name) for name in ("in-group", "in-session", "orphan")]


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -PIPE $$", 141)],
)
def test_the_exit_code_is_handed_on(tmp_path: Path, script: str, code: int) -> None:
    assert start(tmp_path, script).wait(WAIT_SECONDS) == code


def test_what_a_command_leaves_behind_is_killed(tmp_path: Path) -> None:
    script = f"{CHILDREN} until [ -s in-group -a -s in-session -a -s orphan ]; do :; done; exit 3"
    process = start(tmp_path, script)
    assert process.wait(WAIT_SECONDS) == 3
    assert not [pid for pid in children(tmp_path) if is_running(pid)]


def test_when_the_pipe_closes_everything_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, f"{CHILDREN} wait")
    started = children(tmp_path)
    assert all(is_running(pid) for pid in started)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(WAIT_SECONDS) == 137
    assert not [pid for pid in started if is_running(pid)]


# It takes its time to die, for the kernel frees its memory first: only then is its child ours.
SLOW_TO_DIE = """
import subprocess

memory = b"1" * 2**28
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
with open("child", "w") as file:
    print(child.pid, file=file)
child.wait()
"""


def test_what_a_command_hands_over_as_it_dies_is_killed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_TO_DIE)
    process = start(tmp_path, f"exec {sys.executable} slow.py")
    number_in(tmp_path / "child")
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(WAIT_SECONDS) == 137
    assert end_processes_in(tmp_path) == {}


def test_a_node_that_is_killed_takes_its_build_along(tmp_path: Path) -> None:
    """kill -9 of the process that holds the pipe."""
    command = [sys.executable, "-I", "-S", build_supervisor.__file__, "/bin/sh", "-c"]
    program = (
        "import subprocess, sys\n"
        "process = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)\n"
        "open('supervisor', 'w').write(f'{process.pid}\\n')\n"
        "process.wait()\n"
    )
    node = subprocess.Popen(
        [sys.executable, "-c", program, *command, f"{CHILDREN} wait"], cwd=tmp_path
    )
    started = [*children(tmp_path), number_in(tmp_path / "supervisor")]
    assert all(is_running(pid) for pid in started)
    node.kill()
    node.wait(WAIT_SECONDS)
    block_until(lambda: not any(is_running(pid) for pid in started), "the end of the build")


def test_a_supervisor_that_is_killed_takes_the_shell_along(tmp_path: Path) -> None:
    process = start(tmp_path, "echo $$ > shell; while :; do sleep 1; done")
    shell = number_in(tmp_path / "shell")
    process.kill()
    process.wait(WAIT_SECONDS)
    block_until(lambda: not is_running(shell), "the end of the shell")


def test_a_request_to_end_reaches_the_command(tmp_path: Path) -> None:
    process = start(tmp_path, "trap 'exit 5' TERM; echo $$ > ready; while :; do sleep 0.1; done")
    number_in(tmp_path / "ready")
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(WAIT_SECONDS) == 5


# The supervisor itself, with its SIGTERM before or after the command has begun (and has its
# three children), but in either case before it knows the command's number.
STOPPED_EARLY = """
import os, signal, sys, time
from node.sandboxes import build_supervisor

start, when = build_supervisor.start, sys.argv[1]

def start_and_be_stopped(command):
    if when == "before":
        os.kill(os.getpid(), signal.SIGTERM)
    pid = start(command)
    if when == "after":
        while not os.path.exists("all-run"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
    return pid

build_supervisor.start = start_and_be_stopped
sys.exit(build_supervisor.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_request_to_end_that_comes_while_the_command_is_started(
    tmp_path: Path, when: str
) -> None:
    script = (
        f"{CHILDREN} until [ -s in-group -a -s in-session -a -s orphan ]; do :; done;"
        " touch all-run; wait"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED_EARLY, when, "/bin/sh", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
    )
    assert process.wait(WAIT_SECONDS) == 128 + signal.SIGTERM
    assert end_processes_in(tmp_path) == {}
