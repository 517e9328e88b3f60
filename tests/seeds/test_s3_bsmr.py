"""Seed 3, PBFT beside BSMR with an equivocating leader: the simulator's command, as it is typed."""

import re
from pathlib import Path

from tests.processes.programs import run

MESSAGE = re.compile(r"r\d+ > r\d+: \w+")


def equivocation(*flags: str) -> list[str]:
    """The lines that the command prints."""
    ended = run("-m", "simulator", "equivocation", *flags)
    assert ended.code == 0, ended
    return ended.output.splitlines()


def states(lines: list[str]) -> list[str]:
    """The list of values of each correct node."""
    said = [line for line in lines if " state: [" in line and "(faulty)" not in line]
    return [line[line.index("[") : line.index("]") + 1] for line in said]


def test_rounds() -> None:
    """No client: the primary proposes a number each round, by PBFT.

    Accepted numbers are appended to a state. (A client's signature stands under each number,
    because replicas order nothing else; nobody waits for its answers.)
    """
    lines = equivocation("--protocol", "pbft", "--faults", "0", "--seed", "3")
    proposed = [line.rsplit(" ", 1)[1] for line in lines if "the primary proposes" in line]
    assert len(proposed) == 3
    assert states(lines) == [f"[{', '.join(proposed)}]"] * 4
    assert lines[-1] == "agreed"


def test_bsmr() -> None:
    """BSMR: the leader takes the minimum and announces it; nobody compares.

    With an honest leader that is good enough.
    """
    lines = equivocation("--protocol", "bsmr", "--faults", "0")
    assert any("r1 > r0: VALUE" in line for line in lines)
    announced = [line for line in lines if re.search(r"r0 > r\d: ANNOUNCE", line)]
    assert len(announced) == 9
    assert len(set(states(lines))) == 1
    assert not any("r1 > r2" in line for line in lines)
    assert lines[-1] == "agreed"


def test_equivocation() -> None:
    """Node 0 equivocates: BSMR forks, PBFT changes the view and goes on.

    `min` to f nodes, `min + 1` to the others; every message is printed, then each node's state,
    then one line. The same seed gives the same again, and another number of replicas works too.
    """
    bsmr = equivocation("--protocol", "bsmr", "--seed", "5")
    assert bsmr[-1] == "forked"
    told_low, *_, told_high = states(bsmr)
    assert int(told_low.strip("[]").split(",")[0]) + 1 == int(told_high.strip("[]").split(",")[0])
    for size in ("4", "7"):
        flags = ("--protocol", "pbft", "--seed", "5", "--replicas", size)
        lines = equivocation(*flags)
        assert lines[-1] == "agreed"
        assert all(" state: [" in line for line in lines[-1 - int(size) : -1])
        assert len(set(states(lines))) == 1
        assert any("ViewChange" in line for line in lines)
        assert all(
            "view 1" in line for line in lines if " state: [" in line and "faulty" not in line
        )
    assert equivocation(*flags) == lines


def test_trace_and_picture(tmp_path: Path) -> None:
    """Four terminals that show the messages between the nodes.

    One terminal shows all of them, with who said it to whom; and a page shows them as a picture.
    """
    lines = equivocation("--protocol", "pbft")
    said = {match[0].split(" > ")[0] for line in lines if (match := MESSAGE.search(line))}
    assert said == {"r0", "r1", "r2", "r3"}
    for protocol, verdict in (("pbft", "agreed"), ("bsmr", "forked")):
        file = tmp_path / f"{protocol}.html"
        assert equivocation("--protocol", protocol, "--html", str(file))[-1] == verdict
        page = file.read_text()
        assert page.startswith("<!doctype html>")
        assert "<svg" in page
        assert "r0 \u2192 r2" in page
