"""Marks: each notice and refusal hits the one that it is meant for, and none is forgotten."""

import re
from pathlib import Path

from pbft.ports import Notice
from simulator import marks
from simulator.marks import Marks
from simulator.parameters import Parameters
from simulator.simulation import Simulation

PBFT = Path(__file__).resolve().parent.parent.parent / "pbft"


def refusals() -> str:
    """All texts of refusals in the core."""
    return "\n".join(
        text
        for path in sorted(PBFT.glob("*.py"))
        for text in re.findall(r'Refusal\(\s*f?"([^"]*)"', path.read_text())
    )


def test_every_mark_of_a_refusal_is_of_one_that_the_core_makes() -> None:
    texts = refusals()
    for mark, wanted in marks.REFUSALS.items():
        for text in wanted:
            assert text in texts or text == "malformed: ", mark


def test_a_refusal_hits_the_most_particular_mark() -> None:
    seen = Marks()
    core = next(iter(Simulation(Parameters(seed=1)).processes.values()))
    core.boot()
    assert core.replica is not None
    for reason in (
        "a request in the body: bad signature",
        "bad signature",
        "a VIEW-CHANGE in the NEW-VIEW: too few backups in a prepared certificate",
        "nobody knows this reason",
    ):
        seen.on_notice(core.replica.core, Notice("refused", {"signer": "r1", "reason": reason}))
    assert seen.counts == {
        "refused: a forged request in a body": 1,
        "refused: a bad signature": 1,
        "refused: a VIEW-CHANGE with a false certificate": 1,
    }


def test_what_has_no_hit_is_told() -> None:
    assert marks.unseen({}) == list(marks.ALL)
    assert marks.unseen(dict.fromkeys(marks.ALL, 1)) == []
    assert len(dict.fromkeys(marks.ALL)) == len(marks.ALL) >= 40


def test_a_run_counts_its_marks() -> None:
    counts = Simulation(Parameters(seed=1, gateways=1)).run().marks
    assert counts["a build passes"] > 0
    assert not counts.keys() - dict.fromkeys(marks.ALL)
