"""Coverage goals: each event and refusal hits its own goal, and none is forgotten."""

import re
from pathlib import Path

from pbft.ports import Event
from simulator.campaigns.simulation import Simulation
from simulator.faults.adversary import BALLOT_BEHAVIOURS, BEHAVIOURS
from simulator.faults.floods import FLOODS
from simulator.faults.parameters import FaultPlan, Parameters
from simulator.world import coverage_goals
from simulator.world.coverage_goals import CoverageGoals

PBFT = Path(__file__).resolve().parents[3] / "pbft"


def refusals() -> str:
    """All texts of refusals in the core."""
    return "\n".join(
        text
        for path in sorted(PBFT.glob("*.py"))
        for text in re.findall(r'Refusal\(\s*f?"([^"]*)"', path.read_text())
    )


def test_every_mark_of_a_refusal_is_of_one_that_the_core_makes() -> None:
    texts = refusals()
    for goal, wanted in coverage_goals.REFUSALS.items():
        for text in wanted:
            assert text in texts or text == "malformed: ", goal


def test_a_refusal_hits_the_most_particular_goal() -> None:
    seen = CoverageGoals()
    core = next(iter(Simulation(Parameters(seed=1)).processes.values()))
    core.boot()
    assert core.replica is not None
    for reason in (
        "a request in the body: bad signature",
        "bad signature",
        "a VIEW-CHANGE in the NEW-VIEW: too few backups in a prepared certificate",
        "nobody knows this reason",
    ):
        seen.on_event(core.replica.core, Event("refused", {"signer": "r1", "reason": reason}))
    assert seen.counts == {
        "refused: a forged request in a body": 1,
        "refused: a bad signature": 1,
        "refused: a VIEW-CHANGE with a false certificate": 1,
    }


def test_what_has_no_hit_is_told() -> None:
    assert coverage_goals.unseen({}) == list(coverage_goals.ALL)
    assert coverage_goals.unseen(dict.fromkeys(coverage_goals.ALL, 1)) == []
    assert len(dict.fromkeys(coverage_goals.ALL)) == len(coverage_goals.ALL) >= 40


def test_a_run_counts_its_goals() -> None:
    counts = Simulation(Parameters(seed=1, gateways=1)).run().goals
    assert counts["a build passes"] > 0
    assert not counts.keys() - dict.fromkeys(coverage_goals.ALL)


def test_a_fault_that_no_run_had_is_told() -> None:
    assert coverage_goals.never_injected({}) == list(coverage_goals.FAULTS)
    assert coverage_goals.never_injected(dict.fromkeys(coverage_goals.FAULTS, 1)) == []
    for fault in coverage_goals.FAULTS:
        others = dict.fromkeys(f for f in coverage_goals.FAULTS if f != fault)
        assert coverage_goals.never_injected(others) == [fault]


def test_every_way_to_lie_is_a_fault_that_must_be_injected() -> None:
    """Some ways are counted by what they do; a twin is an instance of its own, and not counted."""
    ways = (*BEHAVIOURS, *FLOODS, *BALLOT_BEHAVIOURS)
    uncounted = [way for way in ways if way not in coverage_goals.FAULTS]
    assert uncounted == ["twin", "byzzfuzz", "censor"]
    for kind in ("censored", "byzzfuzz old", "byzzfuzz view", "byzzfuzz sequence"):
        assert kind in coverage_goals.FAULTS


def test_a_save_that_is_refused_reaches_its_goal() -> None:
    plan = FaultPlan(refusals=0.5)
    result = Simulation(Parameters(seed=1, plan=plan)).run()
    assert result.faults["saves failed"] > 0
    assert result.goals["a save that the disk refused is tried again"] > 0
