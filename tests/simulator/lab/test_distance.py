"""What distance costs on the simulator's clock: links and timers, and nothing else."""

from pathlib import Path

import pytest

from simulator.lab.distance import measure, table
from simulator.main import main

PAGE = Path(__file__).resolve().parents[3] / "docs" / "SCALE.md"
LINK = 0.05
TIMER = 4.0


def test_four_replicas() -> None:
    found = measure(4, LINK, TIMER)
    # request, PRE-PREPARE, PREPARE, COMMIT, reply
    assert found.order_seconds == pytest.approx(5 * LINK)
    # and the same of the ballots, of which the verdict's reply is the last
    assert found.verdict_seconds == pytest.approx(9 * LINK)
    # request, timer, VIEW-CHANGE, NEW-VIEW, PREPARE, COMMIT, reply
    assert found.outage_seconds == {1: pytest.approx(TIMER + 6 * LINK, abs=0.001)}
    # from a request to its COMMIT
    assert 3 * LINK < found.timer_seconds_min <= 3.25 * LINK
    assert table([found]).splitlines()[-1] in PAGE.read_text(encoding="utf-8").splitlines()


def test_two_dead_primaries_of_seven_cost_two_timers() -> None:
    found = measure(7, LINK, TIMER)
    assert list(found.outage_seconds) == [1, 2]
    assert found.outage_seconds[2] == pytest.approx(2 * TIMER + 7 * LINK, abs=0.001)
    assert found.order_seconds == pytest.approx(5 * LINK)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--replicas", "5"], "5"),
        (["--replicas", "4", "--milliseconds", "1"], "50 to 1000 are allowed"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distance", *arguments]) == 2
    assert said in capsys.readouterr().out
