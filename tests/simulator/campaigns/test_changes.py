"""Runs whose members change: from four to seven and back, with what goes wrong around each end."""

import pytest

from pbft.genesis import PROTOCOL_MAX, PROTOCOL_MIN
from simulator.campaigns.campaign import Failure, Task, run_task
from simulator.campaigns.simulation import Result, Simulation
from simulator.faults.parameters import draw_change, next_parameters
from simulator.faults.thief import STOLEN_KEY
from simulator.world.reader import SharedAuthenticator
from simulator.world.violation import Violation

# f liars in each epoch; somebody away for a whole change
LIARS, AWAY = 17, 111
# a vacant seat of the second epoch has an owner in the third
REFILLED = 1798100606
# all replicas are down at once, and for more than a second nothing happens
ALL_DOWN = 1798202936


def run(seed: int) -> Result:
    parameters = draw_change(seed)
    assert (parameters.replicas, *parameters.next_sizes) == (4, 7, 4)
    return Simulation(parameters).run()


def test_members_change_twice_beside_liars_in_each_epoch() -> None:
    result = run(LIARS)
    assert result.goals["an epoch's end is decided"] == 2
    assert result.goals["a build goes over to the next epoch"]
    assert result.goals["a message of the epoch before is refused"]
    assert result.faults["stolen key"]
    assert result.faults["crash at the end of an epoch"]
    assert result.faults["partition at the end of an epoch"]
    assert result.verdicts


def test_members_change_while_somebody_is_away() -> None:
    result = run(AWAY)
    assert result.goals["an epoch's end is decided"] == 2
    assert result.faults["away for a change of members"]
    assert result.goals["a replica begins an epoch without the whole ledger"]
    assert result.faults["ledger entries fetched"]


def test_a_run_says_if_a_retired_key_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedAuthenticator, "has_held", lambda self, signed: True)
    with pytest.raises(Violation) as caught:
        run(LIARS)
    assert caught.value.invariant == STOLEN_KEY


def test_who_takes_a_vacant_seat_has_another_key_than_the_one_that_was_retired() -> None:
    result = Simulation(draw_change(REFILLED)).run()
    assert result.goals["the seat of a replica is vacant"]
    assert result.goals["an epoch's end is decided"] == 2


def test_a_run_goes_on_where_nothing_happens_for_a_second() -> None:
    assert Simulation(draw_change(ALL_DOWN)).run().goals["an epoch ends"]


def test_each_epoch_has_its_f_liars_or_somebody_who_is_away() -> None:
    drawn = [draw_change(seed) for seed in range(300)]
    later = [next_parameters(parameters) for parameters in drawn]
    for parameters in (*drawn, *later):
        faults_max = (parameters.replicas - 1) // 3
        assert len({*parameters.faulty, *parameters.away}) <= faults_max
        assert not set(parameters.faulty) & set(parameters.away)
        if parameters.all_faulty_lie:
            assert len({*parameters.byzantine, *parameters.vacant}) == faults_max
    assert 100 < sum(parameters.all_faulty_lie for parameters in drawn) < 200
    assert sum(bool(parameters.away) for parameters in drawn) > 50
    assert sum(parameters.next_sizes == (7, 4) for parameters in drawn) > 50
    assert not any(parameters.away for parameters in later if not parameters.next_sizes)
    assert not any(parameters.vacant for parameters in drawn)
    vacant = [parameters.protocol for parameters in later if parameters.vacant]
    assert vacant.count(PROTOCOL_MIN) > 20
    assert vacant.count(PROTOCOL_MAX) > 20


def test_a_task_may_change_members() -> None:
    task = Task(LIARS, changes_members=True)
    assert task.parameters == draw_change(LIARS)
    assert run_task(Task(3, 4, changes_members=True)) == run_task(Task(3, 4, changes_members=True))
    failure = Failure(5, 7, 17, "1 agreement", "r1 at 3", changes_members=True)
    assert str(failure).endswith("python -m simulator replay 5 --replicas 7 --changes")
