"""The kept transcripts are what happens today; a change shows as a difference to be read.

To write them anew: python -m simulator transcripts tests/simulator/campaigns/transcripts
"""

import re
from pathlib import Path

import pytest

from simulator import main
from simulator.campaigns.transcripts import SCENARIOS, transcript

FOLDER = Path(__file__).parent / "transcripts"


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_happens_is_what_is_kept(name: str) -> None:
    assert transcript(name) == (FOLDER / f"{name}.txt").read_text(), (
        "read the difference; if it is right: "
        "python -m simulator transcripts tests/simulator/campaigns/transcripts"
    )


def test_nothing_else_is_kept() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(SCENARIOS)


def test_the_normal_case_is_the_papers() -> None:
    """Figure 1: REQUEST, one PRE-PREPARE to each backup, PREPAREs, COMMITs, and a reply of each."""
    text = (FOLDER / "normal_case.txt").read_text()
    kinds = re.findall(r" > \w+: (\w+)", text)
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "Request": 4, "PrePrepare": 3, "Prepare": 9, "Commit": 12, "Replies": 4
    }  # fmt: skip


def test_the_scenarios_show_what_they_are_about() -> None:
    texts = {path.stem: path.read_text() for path in FOLDER.iterdir()}
    assert "r1: new_view view=1 primary=1" in texts["primary_crash"]
    assert "equivocation" in texts["equivocation"]
    assert "state_transferred" in texts["state_transfer"]
    assert "has ledger entries 1 to" in texts["state_transfer"]


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["transcripts", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.txt" for name in SCENARIOS}
    assert str(tmp_path / "normal_case.txt") in capsys.readouterr().out
