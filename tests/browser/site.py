"""Four real nodes and a gateway with builds of all kinds, for a browser to look at."""

import asyncio
import shlex
from pathlib import Path
from typing import Any

from tests.processes.network import Network, pipeline

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
LINES_BEFORE_DISSENT = 12
DISSENT_LINE = f"{DISSENTER} computes another checksum"


class Site:
    """The network, and the ids of its builds by branch."""

    def __init__(self, folder: Path) -> None:
        """Write everything; `start` starts it."""
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
        HOSTILE_BRANCH: {**pipeline("cat hostile.txt"), "hostile.txt": HOSTILE_LOG},
    }
