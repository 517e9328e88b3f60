"""Twins and ByzzFuzz go through what they say, find nothing in the core, and find broken ones."""

import pytest

from pbft import genesis
from pbft.quorums import Quorums, quorums_for
from simulator import main
from simulator.campaigns.byzzfuzz import FAULTS_MAX, KINDS, ROUNDS, ByzzFuzzSimulation, plan_of
from simulator.campaigns.explore import explore
from simulator.campaigns.twins import CUTS, TwinsSimulation, cuts_of, scenarios
from tests.thoroughness import times


@pytest.fixture
def small_quorums(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that takes 2f for a quorum: two of them need not share a correct replica."""

    def too_small(replicas: int) -> Quorums:
        good = quorums_for(replicas)
        return Quorums(
            good.replicas, good.faults_max, good.strong - 1, good.weak, good.prepares - 1
        )

    monkeypatch.setattr(genesis, "quorums_for", too_small)


def test_all_cuts_of_all_views_are_gone_through() -> None:
    assert scenarios(3) == 4096
    assert len({cuts_of(number, 3) for number in range(scenarios(3))}) == 4096
    assert {cut for number in range(256) for cut in cuts_of(number, 2)} == set(range(CUTS))


def test_twins_contradict_each_other_and_break_nothing() -> None:
    event_counts: dict[str, int] = {}
    views = 0
    for number in range(0, scenarios(3), 127):
        simulation = TwinsSimulation(number, 3)
        result = simulation.run()
        views += result.views
        for name, count in result.event_counts.items():
            event_counts[name] = event_counts.get(name, 0) + count
        first, second = simulation._instances()[:2]
        assert first.disk is not second.disk
    assert event_counts["equivocation"] > 5
    assert views > 10


def test_messages_of_a_view_do_not_cross_its_cut() -> None:
    # In view 0 r2 and r3 are by themselves, in view 1 r3 alone.
    simulation = TwinsSimulation(0b1000_1100, 2)
    assert simulation.cuts == (0b1100, 0b1000)
    assert simulation._is_cut(0, 2, 3)
    assert not simulation._is_cut(0, 3, 4)
    assert not simulation._is_cut(1, 2, 3)
    assert simulation._is_cut(1, 0, 4)
    assert not simulation._is_cut(2, 0, 4), "later views are whole"


def test_twins_find_a_quorum_that_is_too_small(small_quorums: None) -> None:
    broken = [
        violation
        for number in range(0, scenarios(3), 61)
        if (violation := explore(("twins", 3, number))[1])
    ]
    assert len(broken) > 30


def test_plans_stay_within_their_bounds_and_use_all_of_them() -> None:
    plans = [plan_of(seed) for seed in range(300)]
    counts = {(len(plan.process), len(plan.network)) for plan in plans}
    assert counts == {(c, d) for c in range(FAULTS_MAX + 1) for d in range(FAULTS_MAX + 1)}
    assert {fault.round for plan in plans for fault in plan.process} == set(range(ROUNDS))
    assert {fault.kind for plan in plans for fault in plan.process} == set(KINDS)
    assert {plan.faulty for plan in plans} == {(index,) for index in range(4)}
    larger = [plan_of(seed, 7) for seed in range(100)]
    assert all(len(set(plan.faulty)) == 2 for plan in larger)
    senders = {fault.sender for plan in larger for fault in plan.process}
    assert senders == {f"r{index}" for index in range(7)}


def test_byzzfuzz_injects_what_it_plans_and_breaks_nothing() -> None:
    faults: dict[str, int] = {}
    for seed in range(60):
        result = ByzzFuzzSimulation(seed).run()
        for kind, count in result.faults.items():
            faults[kind] = faults.get(kind, 0) + count
    assert {f"byzzfuzz: {kind}" for kind in (*KINDS, "cut")} <= faults.keys()


def test_byzzfuzz_has_two_liars_among_seven() -> None:
    for seed in range(8):
        simulation = ByzzFuzzSimulation(seed, 7)
        assert len(simulation.adversary.liars) == 2
        assert simulation.run().executed > 0


def test_byzzfuzz_finds_a_quorum_that_is_too_small(small_quorums: None) -> None:
    assert any(explore(("byzzfuzz", 4, seed))[1] for seed in range(200))


def test_the_commands_say_what_they_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["twins", "--views", "1"]) == 0
    assert "16 scenarios, 0 violations" in capsys.readouterr().out
    assert main.main(["byzzfuzz", "--first", "3", "--seeds", "4"]) == 0
    assert "4 scenarios, 0 violations" in capsys.readouterr().out
    assert main.main(["byzzfuzz", "--only", "3"]) == 0
    assert "no violation" in capsys.readouterr().out.splitlines()[-1]


def test_a_violation_prints_the_command_that_shows_it(
    capsys: pytest.CaptureFixture[str], small_quorums: None
) -> None:
    number = next(n for n in range(0, scenarios(3), 61) if explore(("twins", 3, n))[1])
    assert main.main(["twins", "--views", "3", "--only", str(number)]) == 1
    assert "invariant" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "command",
    [
        ["twins", "--views", "2", "--processes", "2"],
        ["byzzfuzz", "--first", "1", "--seeds", str(times(100)), "--processes", "2"],
    ],
    ids=["all twins of two views", "byzzfuzz"],
)
def test_many_of_it(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(command) == 0, capsys.readouterr().out
