"""Test reports of whole builds: from the pipeline file to the ballot, and what is kept beside."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ci.case_results import encode_report, report_sha256
from ci.operations import BuildResult, Outcome, ResultWithTests
from common.junit import report_process
from driver.ports import BuildOrder
from node.outputs.case_details import CaseDetails
from tests.node.conftest import (
    Builder,
    BuilderMaker,
    ConfigMaker,
    GitRepository,
    Room,
    pipeline,
)

PASSED = '<testsuite name="s"><testcase name="a"/><testcase name="b"/></testsuite>'
FAILED = PASSED.replace('"b"/>', '"b"><failure message="said"/></testcase>')
LINES = "s::a\tpassed\ns::b\tpassed\n"
FAILED_LINES = LINES.replace("b\tpassed", "b\tfailed")


def writing(report: str, file: str = "report.xml") -> str:
    return f"cat >{file} <<'END'\n{report}\nEND\n"


@pytest.fixture(name="process_builder")
async def fixture_process_builder(
    repository: GitRepository, make_config: ConfigMaker, make_builder: BuilderMaker
) -> Builder:
    return await make_builder(make_config(repository.url, executor="process"))


async def find(
    builder: Builder, repository: GitRepository, text: str
) -> tuple[BuildResult, BuildOrder]:
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    return await builder.find(order), order


def reporting(*commands: str, image: str = "none", **tests: Any) -> str:
    return pipeline(image, *commands, tests={"junit": ["*.xml"], **tests})


def details(builder: Builder, order: BuildOrder) -> CaseDetails | None:
    path = builder.runner.cases_path(order.build, order.opened)
    return msgspec.json.decode(path.read_bytes(), type=CaseDetails) if path.exists() else None


async def test_a_ballot_has_the_report_of_a_red_step(
    process_builder: Builder, repository: GitRepository
) -> None:
    text = reporting(writing(FAILED), "exit 3")
    found, order = await find(process_builder, repository, text)
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.FAILED, 3)
    assert isinstance(found, ResultWithTests)
    assert found.tests.lines == FAILED_LINES
    kept = details(process_builder, order)
    assert kept is not None
    assert kept.report_sha256 == found.tests.report_sha256
    assert report_sha256(encode_report(kept.outcomes)) == found.tests.report_sha256
    assert [row.message for row in kept.cases] == [None, "said"]
    assert "[pbft-ci] tests: 2 cases, 1 failed, 1 passed\n" in process_builder.log(order)
    folder = process_builder.runner.log_path(order.build, order.opened).parent
    assert {path.name for path in folder.iterdir()} == {
        *("commits", "log", "log-times", "tests.json")
    }


async def test_each_suite_of_a_build_is_reported_though_the_first_failed(
    process_builder: Builder, repository: GitRepository
) -> None:
    always = {"status": ["success", "failure"]}
    suites = [
        {"name": "backend", "commands": [writing(FAILED, "backend.xml"), "exit 3"], "when": always},
        {
            "name": "frontend",
            "commands": [writing(PASSED.replace('"s"', '"t"'), "frontend.xml")],
            "when": always,
        },
    ]
    text = json.dumps({"image": "any", "steps": suites, "tests": {"junit": ["*.xml"]}})
    found, _ = await find(process_builder, repository, text)
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.FAILED, 3)
    assert isinstance(found, ResultWithTests)
    assert found.tests.lines == FAILED_LINES + LINES.replace("s::", "t::")


async def test_a_report_changes_no_verdict(
    process_builder: Builder, repository: GitRepository
) -> None:
    green, _ = await find(process_builder, repository, reporting(writing(FAILED), required=True))
    assert (green.compared.outcome, green.compared.exit_code) == (Outcome.PASSED, 0)
    assert isinstance(green, ResultWithTests)
    red, _ = await find(process_builder, repository, reporting(writing(PASSED), "false"))
    assert (red.compared.outcome, red.compared.exit_code) == (Outcome.FAILED, 1)
    assert isinstance(red, ResultWithTests)


@pytest.mark.parametrize(
    ("commands", "problem"),
    [
        (["true"], "there is no test report"),
        ([writing("<testsuite/>")], "no test report has a case"),
        ([writing(PASSED), writing("<a/>", "z.xml")], "test report z.xml: its first element is"),
        (["ln -s /etc/passwd a.xml"], "test report a.xml: is a symbolic link to /etc/passwd"),
        (["mkfifo a.xml"], "test report a.xml: is a special file, no plain file"),
        (["head -c 10485761 /dev/zero >a.xml"], "test report a.xml: more than 10485760 bytes"),
        (
            ["for n in $(seq 201); do echo >$n.xml; done"],
            "is one more than 200 files",
        ),
        (
            ["for n in 1 2 3 4; do { echo $n; head -c 9000000 /dev/zero; } >$n.xml; done"],
            "test report 4.xml: more than 33554432 bytes with those before it",
        ),
    ],
)
async def test_without_a_report_there_is_none_in_the_ballot(
    process_builder: Builder, repository: GitRepository, commands: list[str], problem: str
) -> None:
    """And the build has failed if it is required."""
    found, order = await find(process_builder, repository, reporting(*commands))
    assert found.compared.outcome is Outcome.PASSED
    assert type(found) is BuildResult
    kept = details(process_builder, order)
    assert kept is not None
    assert kept.problem is not None
    assert problem in kept.problem
    assert (kept.report_sha256, kept.cases) == (None, ())
    assert f"[pbft-ci] tests: {kept.problem}\n" in process_builder.log(order)
    text = reporting(*commands, required=True)
    found, order = await find(process_builder, repository, text)
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.FAILED, 1)
    assert type(found) is BuildResult
    assert re.search(r"tests: .*, and the pipeline requires one", process_builder.log(order))


async def test_a_required_report_that_is_absent_leaves_a_red_build_as_it_is(
    process_builder: Builder, repository: GitRepository
) -> None:
    text = pipeline(
        "none", "exit 9", tests={"junit": ["a.xml"], "required": True}, artifacts=["made"]
    )
    found, order = await find(process_builder, repository, text)
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.FAILED, 9)
    text = pipeline(
        "none", "echo >made", tests={"junit": ["a.xml"], "required": True}, artifacts=["made"]
    )
    found, order = await find(process_builder, repository, text)
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.FAILED, 1)
    assert found.compared.artifacts == ()
    assert not process_builder.runner.artifacts_path(order.build, order.opened).exists()


async def test_all_reports_are_taken_after_the_last_step(
    process_builder: Builder, repository: GitRepository
) -> None:
    steps = [
        {"name": "one", "commands": ["mkdir reports", writing(PASSED, "reports/1.xml")]},
        {"name": "two", "commands": [writing(FAILED, "reports/2.xml"), "echo >made", "sleep 60"]},
        {"name": "three", "commands": ["rm -r reports"]},
    ]
    text = msgspec.json.encode(
        {
            "image": "none",
            "steps": steps,
            "timeout_seconds": 2,
            "artifacts": ["made"],
            "tests": {"junit": ["reports", "none.xml"]},
        }
    ).decode()
    found, order = await find(process_builder, repository, text)
    assert found.compared.outcome is Outcome.TIMED_OUT
    assert "[pbft-ci] no file matches none.xml\n" in process_builder.log(order)
    assert isinstance(found, ResultWithTests)
    assert found.tests.lines == FAILED_LINES


async def test_ids_are_the_same_wherever_the_sandbox_has_the_files(
    process_builder: Builder, repository: GitRepository
) -> None:
    report = 'printf \'<testsuite><testcase name="%s/a.js"/></testsuite>\' "$PWD" >report.xml'
    found, _ = await find(process_builder, repository, reporting(report))
    assert isinstance(found, ResultWithTests)
    assert found.tests.lines == "a.js\tpassed\n"


async def test_what_this_machine_cannot_read_is_no_finding(
    process_builder: Builder,
    repository: GitRepository,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    script = tmp_path / "killed.py"
    script.write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr(report_process, "__file__", str(script))
    text = reporting(writing(PASSED))
    order = process_builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    ballot = await process_builder.build(order)
    assert "the process that reads test reports ended with -9" in str(ballot)
    assert details(process_builder, order) is None


@pytest.mark.parametrize("commands", [["exit 3"], ["true"]])
async def test_a_pipeline_without_tests_has_a_ballot_as_before(
    process_builder: Builder, repository: GitRepository, commands: list[str]
) -> None:
    text = pipeline("none", writing(PASSED), *commands)
    order = process_builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    # of a try before, which this machine ended
    path = process_builder.runner.cases_path(order.build, order.opened)
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    found = await process_builder.find(order)
    assert type(found) is BuildResult
    assert details(process_builder, order) is None


def quarantine(*cases: str, days: int = 30) -> list[dict[str, str]]:
    """Entries that end so many days after the commits of a test."""
    until = (datetime.now(UTC) + timedelta(days=days)).date()
    return [{"case": case, "until": str(until), "reason": "see #7"} for case in cases]


@pytest.mark.parametrize("code", [1, 8, 100])
async def test_a_step_in_which_only_quarantined_cases_failed_has_passed(
    process_builder: Builder, repository: GitRepository, code: int
) -> None:
    text = reporting(writing(FAILED), f"exit {code}", quarantine=quarantine("s::b", "s::none"))
    found, order = await find(process_builder, repository, text)
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.PASSED, 0)
    assert isinstance(found, ResultWithTests)
    assert found.tests.lines == LINES.replace("b\tpassed", "b\twarned")
    kept = details(process_builder, order)
    assert kept is not None
    assert kept.report_sha256 == found.tests.report_sha256
    until = quarantine("s::b")[0]["until"]
    assert kept.cases[1].message == f"quarantined until {until}: see #7\nsaid"
    log = process_builder.log(order)
    assert f"exit code {code} after" in log
    assert "taken as passed, since its failed test is quarantined\n" in log


OTHER = FAILED.replace('"b"', '"c"')
_NOW = [writing(FAILED), "exit 1"]


@pytest.mark.parametrize(
    ("commands", "entries", "code"),
    [
        ([writing(FAILED), "exit 2"], quarantine("s::b"), 2),
        ([writing(FAILED), "kill -9 $$"], quarantine("s::b"), 137),
        ([*_NOW], quarantine("s::a"), 1),
        ([*_NOW], quarantine("s::b", days=-1), 1),
        ([writing(OTHER, "other.xml"), *_NOW], quarantine("s::b"), 1),
        ([writing(PASSED), "exit 1"], quarantine("s::b"), 1),
        ([writing("<a/>", "z.xml"), *_NOW], quarantine("s::b"), 1),
        (["mkfifo z.xml", *_NOW], quarantine("s::b"), 1),
        (["exit 1"], quarantine("s::b"), 1),
    ],
    ids=[
        *("another exit code", "killed", "not quarantined", "expired", "another case too"),
        *("no failed case", "an unreadable report", "a report that is no file", "no report"),
    ],
)
async def test_a_step_fails_in_spite_of_a_quarantine(
    process_builder: Builder,
    repository: GitRepository,
    commands: list[str],
    entries: list[dict[str, str]],
    code: int,
) -> None:
    found, _ = await find(process_builder, repository, reporting(*commands, quarantine=entries))
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.FAILED, code)


async def test_an_expired_quarantine_is_told_in_the_log(
    process_builder: Builder, repository: GitRepository
) -> None:
    entries = quarantine("s::b", days=-1)
    found, order = await find(process_builder, repository, reporting(*_NOW, quarantine=entries))
    assert isinstance(found, ResultWithTests)
    assert found.tests.lines == FAILED_LINES
    told = f"the quarantine of s::b ended on {entries[0]['until']}, and the commit is of "
    assert told in process_builder.log(order)


def steps(*commands: list[str], **more: Any) -> str:
    """A pipeline whose steps are called 1, 2, 3, and whose case s::b is quarantined."""
    listed = [{"name": f"{n}", "commands": texts} for n, texts in enumerate(commands, 1)]
    tests = {"junit": ["*.xml"], "quarantine": quarantine("s::b")}
    return json.dumps({"image": "none", "steps": listed, "tests": tests, **more})


async def test_steps_run_after_one_in_which_only_quarantined_cases_failed(
    process_builder: Builder, repository: GitRepository
) -> None:
    text = steps(_NOW, ["echo >made"], artifacts=["made"])
    found, _ = await find(process_builder, repository, text)
    assert found.compared.outcome is Outcome.PASSED
    assert [artifact.path for artifact in found.compared.artifacts] == ["made"]


@pytest.mark.parametrize(
    "commands",
    [(_NOW, ["exit 1"]), ([writing(FAILED)], ["exit 1"]), (_NOW, _NOW[:1], ["exit 1"])],
)
async def test_a_report_excuses_only_the_step_that_wrote_it(
    process_builder: Builder, repository: GitRepository, commands: tuple[list[str], ...]
) -> None:
    found, _ = await find(process_builder, repository, steps(*commands))
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.FAILED, 1)
    assert isinstance(found, ResultWithTests)
    assert found.tests.lines == LINES.replace("b\tpassed", "b\twarned")


async def test_a_quarantine_holds_in_each_cell_of_a_matrix(
    process_builder: Builder, repository: GitRepository
) -> None:
    matrix = {"V": ["1", "2"]}
    text = reporting(*_NOW, image="none", quarantine=quarantine("s::b"))
    found, order = await find(
        process_builder, repository, json.dumps({**json.loads(text), "matrix": matrix})
    )
    assert found.compared.outcome is Outcome.PASSED, process_builder.log(order)
    assert isinstance(found, ResultWithTests)
    assert (found.tests.warned, found.tests.failed, found.tests.quarantined) == (2, 0, (0, 1))


async def test_a_report_of_the_repository_excuses_no_step(
    process_builder: Builder, repository: GitRepository
) -> None:
    files: dict[str, str | bytes] = {".pbft-ci.yml": steps(["exit 1"]), "a.xml": FAILED}
    order = process_builder.order(repository.url, repository.commit(files))
    assert (await process_builder.find(order)).compared.outcome is Outcome.FAILED


async def test_a_quarantine_that_is_too_long_makes_the_pipeline_invalid(
    process_builder: Builder, repository: GitRepository
) -> None:
    text = reporting("true", quarantine=quarantine("s::b", days=92))
    found, _ = await find(process_builder, repository, text)
    assert found.compared.outcome is Outcome.PIPELINE_INVALID


@pytest.mark.docker
async def test_a_quarantine_in_containers(room: Room) -> None:
    builder = await room.make_builder(room.make_config(room.repository.url))
    for second, outcome in ((["echo done"], Outcome.PASSED), (["exit 1"], Outcome.FAILED)):
        text = json.dumps(json.loads(steps(_NOW, second)) | {"image": room.image})
        found, order = await find(builder, room.repository, text)
        assert found.compared.outcome is outcome, builder.log(order)
        assert isinstance(found, ResultWithTests)
        assert found.tests.lines == LINES.replace("b\tpassed", "b\twarned")


@pytest.mark.docker
async def test_containers_have_reports_of_red_steps_too(room: Room) -> None:
    text = reporting(writing(FAILED), "exit 3", image=room.image)
    builder = await room.make_builder(room.make_config(room.repository.url))
    found, order = await find(builder, room.repository, text)
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.FAILED, 3)
    assert isinstance(found, ResultWithTests)
    assert found.tests.lines == FAILED_LINES
    kept = details(builder, order)
    assert kept is not None
    assert [row.message for row in kept.cases] == [None, "said"]
