"""Four real nodes and a gateway with builds of all kinds, for a browser to look at."""

import asyncio
import shlex
from pathlib import Path
from typing import Any

import yaml

from ci.case_results import case_sha256
from tests.processes.network import Network, ask, pipeline

# Legal names of branches: git forbids spaces and backslashes, not markup.
HOSTILE_BRANCH = "<script>alert(1)</script><img/src=x/onerror=alert(2)>\"'&amp;"
HOSTILE_LOG = "\n".join(
    (
        "<script>alert(3)</script><img src=x onerror=alert(4)><iframe src=//example.org></iframe>",
        # a terminal's title and a link, the screen cleared, the cursor sent away, questions
        "\x1b]0;owned\x07\x1b]8;;javascript:alert(5)\x07a link\x1b]8;;\x07",
        "\x1b[2J\x1b[H\x1b[999999999C\x1b[6n\x1bc\x1bP+q\x1b\\after the questions",
        # colours that nobody ends
        "".join(f"\x1b[1;3{i % 8};4{i % 7}m" for i in range(2000)) + "coloured",
        # a long line, and text that runs backwards
        "x" * 200_000,
        "\u202edesrever\x00\x08\x08",
        "the end",
    )
)
DISSENTER = "node3"
# may be made to misbehave from the dashboard
LIAR = "node2"
# Of the branch "tested": a case that fails everywhere, one that fails on one machine alone, one
# that two replicas see fail, one that passes at the second try, and one with a hostile name.
MACHINE_CASE = "pytest::tests.test_clock.TestZone::test_summer_time"
_CASES = f"""\
<testcase classname="tests.test_db" name="test_insert" time="2.5">
<failure message="&lt;script&gt;alert(1)&lt;/script&gt;">10 != 11</failure></testcase>
<testcase classname="tests.test_clock.TestZone" name="test_summer_time" time="0.125">
$machine</testcase>
<testcase classname="tests.test_net" name="test_reconnect[{"x" * 180}]" time="1.75">$pair</testcase>
<testcase classname="tests.test_net" name="test_retry" time="0.5">
<flakyFailure message="timeout"/></testcase>
<testcase classname="tests.test_text" name="&lt;img src=x onerror=alert(2)&gt;" time="0.01">
<error message="no"/></testcase>
<testcase classname="tests.test_text" name="test_fine" time="0.02"/>
"""
_TESTS = f"""\
machine= pair=
case "$HOME" in */{DISSENTER}/*) machine="<failure message='UTC+1 is not UTC+2'/>";; esac
case "$HOME" in */node[01]/*) pair="<failure message='connection reset'/>";; esac
cat >report.xml <<END
<testsuite name="pytest">
{_CASES}</testsuite>
END
exit 1
"""
LINES_BEFORE_DISSENT = 12
DISSENT_LINE = f"{DISSENTER} computes another checksum"


class Site:
    """The network, and the ids of its builds by branch."""

    def __init__(self, folder: Path) -> None:
        """Write everything; `start` starts it."""
        self.machine_case = case_sha256(MACHINE_CASE)
        self._gates = folder / "gates"
        self._gates.mkdir()
        allowed = {LIAR: {"fault_injection": "allowed"}}
        self.network = Network(folder / "network", _branches(self._gates), overrides=allowed)
        self.origin = self.network.gateway_url
        self.builds: dict[str, str] = {}

    async def start(self) -> None:
        """Start all processes and build each branch but the slow one to its end."""
        await asyncio.to_thread(self._start)

    async def begin(self, branch: str) -> str:
        """Ask for a build; its id."""
        return await asyncio.to_thread(self.network.post, branch)

    async def view(self, build: str) -> dict[str, Any]:
        """The build as the API shows it."""
        return await asyncio.to_thread(self.network.build, build)

    async def complete(self, build: str) -> dict[str, Any]:
        """The build once it has its verdict, all ballots and all logs."""
        return await asyncio.to_thread(self.network.complete, build)

    async def cancel(self, build: str) -> None:
        """Cancel a build once the replicas have it, and wait for its verdict."""
        await asyncio.to_thread(
            self.network.wait_until,
            lambda: self.network.build(build)["status"] == "building",
            "the replicas have it",
            60,
        )
        path = f"{self.origin}/api/v1/builds/{build}/cancel"
        answer = await asyncio.to_thread(ask, path, b"{}")
        assert answer.status in (200, 202), answer
        await asyncio.to_thread(self.network.verdict, build)

    def let_end(self, build: str) -> None:
        """Let this build of the slow branch end."""
        (self._gates / build).touch()

    def _start(self) -> None:
        self.network.start()
        for branch in ("master", "broken", "dissent", HOSTILE_BRANCH):
            self.builds[branch] = self.network.post(branch)
        for branch, build in self.builds.items():
            view = self.network.complete(build)
            expected = [DISSENTER] if branch == "dissent" else []
            assert view["verdict"]["dissenting"] == expected, view
        for _ in range(2):
            self.builds["tested"] = self.network.post("tested")
            self.network.complete(self.builds["tested"])
        path = f"{self.origin}/api/v1/tests/{self.machine_case}"
        self.network.wait_until(
            lambda: ask(path).json().get("case", {}).get("disagreements") == 2, "tests", 60
        )


def _branches(gates: Path) -> dict[str, dict[str, str]]:
    lines = f"i=0; while [ $((i += 1)) -le {LINES_BEFORE_DISSENT} ]; do echo line $i; done"
    # HOME is in a folder of each node's own
    differs = f'case "$HOME" in */{DISSENTER}/*) echo "{DISSENT_LINE}"; exit 3;; esac'
    waits = f'while ! test -e {shlex.quote(str(gates))}/"$PBFTCI_BUILD"; do sleep 0.1; done'
    return {
        "master": pipeline("echo compiling", "echo all tests passed"),
        "broken": pipeline("echo compiling", "echo 1 test failed; exit 7"),
        "slow": pipeline("echo waiting", waits, "echo opened"),
        "dissent": pipeline(lines, f"{differs}; echo checksum: ok", "echo done"),
        "tested": {
            ".pbft-ci.yml": yaml.safe_dump(
                {"image": "none", "commands": ["sh t.sh"], "tests": {"junit": ["report.xml"]}}
            ),
            "t.sh": _TESTS,
        },
        HOSTILE_BRANCH: {**pipeline("cat hostile.txt"), "hostile.txt": HOSTILE_LOG},
    }
