"""Test cases end to end: four real nodes, whose builds write JUnit XML that differs between them.

One case fails on one machine alone, another by chance, drawn anew by each replica in each build,
and one is quarantined.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.case_results import case_sha256, report_sha256
from ci.flaky import CaseState
from common.pipeline.pipeline_file import commit_date
from scripts.example_repository import COMMIT_TIME
from tests.processes.network import VERDICT_SECONDS, Network, ask
from tests.processes.programs import client

pytestmark = pytest.mark.processes

ODD_ONE = "node3"
STEADY, MACHINE, CHANCE = (f"suite::test_{name}" for name in ("steady", "machine", "chance"))
# HOME is in a folder of each node's own. Builds' ids are random, so half the replicas see it fail.
SCRIPT = f"""\
failed='<failure message="no luck"/>'
machine= chance=
case "$HOME" in */{ODD_ONE}/*) machine="$failed";; esac
drawn=$(printf '%s %s' "$HOME" "$PBFTCI_BUILD" | cksum | cut -d ' ' -f 1)
if test $((drawn % 2)) = 0; then chance="$failed"; fi
cat >report.xml <<END
<testsuite name="suite">
<testcase name="test_steady" time="0.25"/>
<testcase name="test_machine" time="1.5">$machine</testcase>
END
if test -e chance; then echo "<testcase name='test_chance'>$chance</testcase>" >>report.xml; fi
echo "</testsuite>" >>report.xml
"""
EQUAL = """\
echo '<testsuite name="suite"><testcase name="test_steady" time="1"/></testsuite>' >report.xml
"""
PIPELINE = yaml.safe_dump(
    {"image": "none", "commands": ["sh tests.sh"], "tests": {"junit": ["report.xml"]}}
)
MATRIX = yaml.safe_dump(
    {
        "image": "none",
        "matrix": {"TOOL": ["old/1", "new:2"]},
        "steps": [
            {
                "name": "make",
                "commands": [
                    f'case "$TOOL$HOME" in new*/{ODD_ONE}/*) exit 3;; esac',
                    "echo $TOOL >made",
                ],
            },
            {"name": "old", "commands": ["echo >>made"], "when": {"matrix": {"TOOL": "old/1"}}},
        ],
        "artifacts": ["made"],
    },
    sort_keys=False,
)
# Which replicas see test_known fail, whether another case fails, and the exit code.
KNOWN = "suite::test_known"
KNOWN_SCRIPT = """\
known= other= code=0
if {where}; then known='<failure/>' code={code}; fi
{more}
cat >report.xml <<END
<testsuite name="suite"><testcase name="test_known">$known</testcase>
<testcase name="test_other">$other</testcase></testsuite>
END
exit $code
"""
ALL, HALF = "true", """case "$HOME" in */node[12]/*) true;; *) false;; esac"""


def quarantining(where: str, *, days: int = 30, code: int = 1, more: str = "") -> dict[str, str]:
    """A commit whose test_known is quarantined for so many days from the commit on."""
    until = commit_date(int(COMMIT_TIME.split()[0])) + timedelta(days=days)
    entry = {"case": KNOWN, "until": str(until), "reason": "see #7"}
    tests = {"junit": ["report.xml"], "quarantine": [entry]}
    pipeline = {"image": "none", "commands": ["sh tests.sh"], "tests": tests}
    script = KNOWN_SCRIPT.format(where=where, code=code, more=more)
    return {".pbft-ci.yml": json.dumps(pipeline), "tests.sh": script}


# A case is flaky on two commits or more, so two branches have it.
BRANCHES: dict[str, dict[str, str]] = {
    # no replica differs, so the report is agreed on whichever ballots come first
    "equal": {".pbft-ci.yml": PIPELINE, "tests.sh": EQUAL},
    "steady": {".pbft-ci.yml": PIPELINE, "tests.sh": SCRIPT},
    "matrix": {".pbft-ci.yml": MATRIX},
    "chance-1": {".pbft-ci.yml": PIPELINE, "tests.sh": SCRIPT, "chance": "1"},
    "chance-2": {".pbft-ci.yml": PIPELINE, "tests.sh": SCRIPT, "chance": "2"},
    "known-everywhere": quarantining(ALL),
    "known-on-two": quarantining(HALF),
    "expired": quarantining(ALL, days=0),
    "another-too": quarantining(ALL, more="other='<failure/>'"),
    "exit-2": quarantining(ALL, code=2),
}
# Replicas agree by chance in one of eight builds, and it takes two in which they do not.
BUILDS_MAX = 20


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Four nodes and a gateway that run."""
    with Network(tmp_path_factory.mktemp("cases"), BRANCHES) as network:
        network.start()
        yield network


def get(network: Network, path: str) -> dict[str, Any]:
    """GET a path of the gateway."""
    answer = ask(f"{network.gateway_url}{path}")
    assert answer.status == 200, answer.body
    value: dict[str, Any] = answer.json()
    return value


def build(network: Network, branch: str) -> str:
    """A build with all its ballots, once the gateway has what it shows of its tests."""
    found = network.post(branch)
    network.complete(found)
    network.wait_until(
        lambda: bool(get(network, f"/api/v1/builds/{found}/tests")["slowest"]),
        "the details of test cases",
        VERDICT_SECONDS,
    )
    return found


def wait_for(network: Network, case: str, is_there: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the gateway's history of that case is so."""

    def look() -> bool:
        answer = ask(f"{network.gateway_url}/api/v1/tests/{case_sha256(case)}")
        return answer.status == 200 and is_there(answer.json())

    network.wait_until(look, f"what is known of {case}", VERDICT_SECONDS)


def test_a_case_that_fails_on_one_machine_is_told_as_its_fault(network: Network) -> None:
    builds = [build(network, "steady") for _ in range(2)]
    wait_for(network, MACHINE, lambda found: found["case"]["disagreements"] >= 2)
    repository = network.build(builds[0])["repository"]
    listed = get(network, f"/api/v1/tests?repository={repository}")["cases"]
    (case,) = (case for case in listed if case["id"] == MACHINE)
    assert case["state"] == CaseState.ONE_MACHINE
    assert case["differed"] == [{"replica": ODD_ONE, "times": case["disagreements"]}]
    tests = get(network, f"/api/v1/builds/{builds[1]}/tests")
    (row,) = tests["cases"]
    seen = {one["replica"]: one["message"] for one in row["seen"] if one["outcome"] == "failed"}
    assert seen == {ODD_ONE: "no luck"}
    assert tests["slowest"][0] == {"id": MACHINE, "sha256": case["sha256"], "seconds": 1.5}

    shown = client(network, "tests", builds[1])
    assert shown.code == 0, shown
    assert f"one machine  {MACHINE}" in shown.output


def test_an_agreed_report_proves_offline_that_a_case_passed(
    network: Network, tmp_path: Path
) -> None:
    found = build(network, "equal")
    report, envelope = tmp_path / "report", tmp_path / "envelope"
    written = client(network, "tests", found, "--report", str(report))
    assert written.code == 0, written
    tests = get(network, f"/api/v1/builds/{found}/tests")
    assert report_sha256(report.read_bytes()) == tests["agreed_report_sha256"]
    assert client(network, "attest", found, "--output", str(envelope)).code == 0
    for required, code in ((STEADY, 0), (MACHINE, 2)):
        verified = client(
            network, "verify", str(envelope), "--any", "--tests", str(report),
            "--require-test", required,
        )  # fmt: skip
        assert verified.code == code, verified


def test_cells_of_a_matrix_are_cases_of_one_build(network: Network, tmp_path: Path) -> None:
    """One cell fails on one replica: green, with dissent, and it is said which cell it was."""
    found = build(network, "matrix")
    view = network.build(found)
    assert (view["verdict"]["outcome"], view["verdict"]["exit_code"]) == ("passed", 0)
    odd = next(ballot for ballot in view["ballots"] if ballot["replica"] == ODD_ONE)
    assert (odd["outcome"], odd["exit_code"]) == ("failed", 3)
    (row,) = get(network, f"/api/v1/builds/{found}/tests")["cases"]
    assert row["id"] == "TOOL=new:2"
    seen = {one["replica"]: one["message"] for one in row["seen"] if one["outcome"] == "failed"}
    assert seen == {ODD_ONE: "failed, exit code 3"}
    envelope = tmp_path / "envelope"
    assert client(network, "attest", found, "--output", str(envelope)).code == 0
    report = tmp_path / "report"
    assert client(network, "tests", found, "--report", str(report)).code == 0
    assert report.read_text() == "TOOL=new:2\tpassed\nTOOL=old/1\tpassed\n"
    required = ("--tests", str(report), "--require-test", "TOOL=new:2")
    verified = client(network, "verify", str(envelope), "--any", *required)
    assert verified.code == 0, verified
    files = tmp_path / "files"
    assert client(network, "artifacts", found, "--output", str(files)).code == 0
    assert (files / "TOOL=new:2" / "made").read_text() == "new:2\n"
    assert (files / "TOOL=old_1" / "made").read_text() == "old/1\n\n"


def test_a_case_that_fails_by_chance_is_flaky(network: Network) -> None:
    branches = itertools.cycle(("chance-1", "chance-2"))
    for branch in itertools.islice(branches, BUILDS_MAX):
        build(network, branch)
        path = f"/api/v1/tests/{case_sha256(CHANCE)}"
        answer = ask(f"{network.gateway_url}{path}")
        if answer.status == 200 and answer.json()["case"]["state"] == CaseState.FLAKY:
            break
    else:
        pytest.fail(f"not flaky after {BUILDS_MAX} builds: {answer.body!r}")
    listed = client(
        network, "tests", "--repository", answer.json()["case"]["repository"], "--state", "flaky"
    )
    assert listed.code == 0, listed
    assert listed.output.rstrip().endswith(CHANCE)
    assert MACHINE not in listed.output


@pytest.mark.parametrize(
    ("branch", "code"),
    [
        ("known-everywhere", 0),
        ("known-on-two", 0),
        ("expired", 1),
        ("another-too", 1),
        ("exit-2", 2),
    ],
)
def test_a_quarantined_case_is_a_warning_and_nothing_else_is(
    network: Network, tmp_path: Path, branch: str, code: int
) -> None:
    found = network.post(branch)
    network.complete(found)
    verdict = network.build(found)["verdict"]
    assert (verdict["exit_code"], len(verdict["agreeing"]) >= 3 - bool(code)) == (code, True)
    envelope = tmp_path / "envelope"
    assert client(network, "attest", found, "--output", str(envelope)).code == 0
    verified = client(network, "verify", str(envelope), "--any")
    assert verified.code == (1 if code else 0), verified
    cases = get(network, f"/api/v1/builds/{found}/tests")["cases"]
    seen = {row["id"]: [one["outcome"] for one in row["seen"]] for row in cases}
    assert seen[KNOWN].count("failed" if branch == "expired" else "warned") == (
        2 if branch == "known-on-two" else 4
    )
    if branch == "known-everywhere":
        assert ", 1 quarantined" in verified.output
        repository = network.build(found)["repository"]
        listing = ("tests", "--repository", repository, "--quarantined")
        network.wait_until(
            lambda: (
                "30 days  2024-01-31  suite::test_known  see #7" in client(network, *listing).output
            ),
            "the quarantined case in the list",
            VERDICT_SECONDS,
        )
        # it fails on every replica, so nothing shows that it is flaky
        wait_for(network, KNOWN, lambda found: found["case"]["disagreements"] == 0)
        assert client(network, "verify", str(envelope), "--any", "--no-warnings").code == 1
