"""client.commands.cases: tests, as people type it."""

import json
from pathlib import Path

import pytest

from ci.case_results import case_sha256, report_sha256
from tests.client.commands.test_commands import Terminal, terminal
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import REPOSITORY, Running
from tests.client.tested_builds import CASE, OTHERS, reports

__all__ = ["terminal"]

NAMES = ("replica-0", "replica-1", "replica-2", "replica-3")
FAILED = {CASE: "failed"}
HOSTILE = "pytest::\u202etxt.exe"


async def build_of(terminal: Terminal, running: Running) -> str:
    """The id of a new build, once everything of it is here."""
    _, out, _ = await terminal.ask("submit", "master")
    build = out.strip()
    await until(lambda: record_of(running, bytes.fromhex(build)).collected)
    return build


async def test_a_builds_tests(terminal: Terminal, running: Running) -> None:
    reports(running)
    await build_of(terminal, running)
    reports(
        running,
        otherwise=dict.fromkeys(NAMES, FAILED | {HOSTILE: "passed"})
        | {"replica-3": FAILED | {HOSTILE: "failed"}},
        code=1,
    )
    build = await build_of(terminal, running)
    code, out, _ = await terminal.ask("tests", build[:16])
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "14 tests, agreed (4 replicas): 13 passed, 1 failed"
    assert lines[1].split() == ["xxxx", "new", "healthy", CASE]
    assert r"\u202etxt.exe" in out
    for flag in ("--failed", "--new"):
        _, out, _ = await terminal.ask("tests", build, flag)
        assert [line.split()[-1] for line in out.splitlines()] == [CASE]
    _, out, _ = await terminal.ask("tests", build, "--slowest", "1")
    assert out == "1.300 s  pytest::\\u202etxt.exe\n"
    _, out, _ = await terminal.ask("tests", build, "--json")
    assert json.loads(out)["build"] == build
    reports(running)
    _, out, _ = await terminal.ask("tests", await build_of(terminal, running))
    assert f"fixed: {CASE}" in out


async def test_the_agreed_report_is_written_to_a_new_file(
    terminal: Terminal, running: Running, tmp_path: Path
) -> None:
    reports(running, otherwise={"replica-3": FAILED})
    build = await build_of(terminal, running)
    file = tmp_path / "report"
    assert (await terminal.ask("tests", build, "--report", str(file)))[:2] == (
        0,
        f"{file}: {len(OTHERS) + 1} tests\n",
    )
    _, out, _ = await terminal.ask("tests", build, "--json")
    assert report_sha256(file.read_bytes()) == json.loads(out)["agreed_report_sha256"]
    code, _, err = await terminal.ask("tests", build, "--report", str(file))
    assert (code, "exists already" in err) == (2, True)
    other = tmp_path / "other"
    words = ("tests", build, "--report", str(other), "--replica", "replica-3")
    assert (await terminal.ask(*words))[0] == 0
    assert f"{CASE}\tfailed\n".encode() in other.read_bytes()


async def test_a_repositorys_tests_and_one_case(terminal: Terminal, running: Running) -> None:
    words = ("tests", "--repository", REPOSITORY)
    assert "no test of this repository" in (await terminal.ask(*words))[1]
    reports(running, otherwise={"replica-3": FAILED})
    builds = [await build_of(terminal, running) for _ in range(2)]
    _, out, _ = await terminal.ask(*words, "--state", "one machine")
    assert out.split("  ")[0] == "one machine"
    assert out.rstrip().endswith(CASE)
    assert (
        "no test of this repository is flaky" in (await terminal.ask(*words, "--state", "flaky"))[1]
    )
    assert json.loads((await terminal.ask(*words, "--json"))[1])[0]["id"] == CASE
    for name in (CASE, case_sha256(CASE)):
        code, out, _ = await terminal.ask("tests", "--case", name)
        assert code == 0
        assert "replica-3: 2 times" in out
        assert out.count("...x") == 2
        assert all(build[:12] in out for build in builds)
    code, _, err = await terminal.ask("tests", "--case", "nothing")
    assert (code, "no case of that id is kept" in err) == (3, True)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--new",),
        ("--report", "x"),
        ("0" * 64, "--case", "x"),
        ("0" * 64, "--repository", "r"),
    ],
)
async def test_flags_that_do_not_go_together_are_refused(
    terminal: Terminal, words: tuple[str, ...]
) -> None:
    code, out, err = await terminal.ask("tests", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


async def test_a_build_without_reports_says_so(terminal: Terminal, running: Running) -> None:
    build = await build_of(terminal, running)
    _, out, _ = await terminal.ask("tests", build)
    assert out == "no replica reported tests of this build\n"
