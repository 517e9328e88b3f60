"""Marks: each notice and refusal hits the one that it is meant for, and none is forgotten."""

import re
from pathlib import Path

from pbft.ports import Notice
from simulator import marks
from simulator.adversary import BALLOT_BEHAVIOURS, BEHAVIOURS
from simulator.floods import FLOODS
from simulator.marks import Marks
from simulator.parameters import FaultPlan, Parameters
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


def test_a_fault_that_no_run_had_is_told() -> None:
    assert marks.never_injected({}) == list(marks.FAULTS)
    assert marks.never_injected(dict.fromkeys(marks.FAULTS, 1)) == []
    for fault in marks.FAULTS:
        others = dict.fromkeys(f for f in marks.FAULTS if f != fault)
        assert marks.never_injected(others) == [fault]


def test_every_way_to_lie_is_a_fault_that_must_be_injected() -> None:
    """Some ways are counted by what they do; a twin is an instance of its own, and not counted."""
    ways = (*BEHAVIOURS, *FLOODS, *BALLOT_BEHAVIOURS)
    assert [way for way in ways if way not in marks.FAULTS] == ["twin", "byzzfuzz", "censor"]
    for kind in ("censored", "byzzfuzz old", "byzzfuzz view", "byzzfuzz sequence"):
        assert kind in marks.FAULTS


def test_a_save_that_is_refused_hits_its_mark() -> None:
    plan = FaultPlan(refusals=0.5)
    result = Simulation(Parameters(seed=1, plan=plan)).run()
    assert result.faults["saves failed"] > 0
    assert result.marks["a save that the disk refused is tried again"] > 0
