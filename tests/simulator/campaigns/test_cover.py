"""The cover: runs that reach what all do, as often as is wanted, and few events of them."""

from collections import Counter
from pathlib import Path

from simulator.campaigns import cover
from simulator.campaigns.campaign import Task, long_gate
from simulator.campaigns.cover import encode_cover, reached, read_cover, smallest_cover
from simulator.campaigns.simulation import Result


def result(seed: int, cells: str, events: int = 100) -> Result:
    """A run that reached these cells, a letter each."""
    return Result(
        seed=seed,
        replicas=4,
        events=events,
        virtual_seconds=1.0,
        executed=1,
        verdicts=0,
        views=0,
        faults={},
        cells=dict.fromkeys(cells, 1),
        event_counts={},
        goals={},
        trace="",
    )


def seeds_of(*results: Result, times: int = 1) -> list[int]:
    """The seeds of the cover of these."""
    tasks = {Task(one.seed, 4): one for one in results}
    return [task.seed for task in smallest_cover(tasks, times)]


def test_cells_marks_and_faults_are_reached_each_under_its_own_name() -> None:
    one = result(1, "a")
    one.goals["a"] = 2
    one.faults["a"] = one.faults["b"] = 1
    assert reached(one) == {"cell: a", "goal: a", "fault: a", "fault: b"}


def test_runs_that_reach_nothing_of_their_own_are_left_out() -> None:
    assert seeds_of(result(1, "a"), result(2, "abc"), result(3, "cd"), result(4, "")) == [2, 3]
    assert seeds_of() == []


def test_short_runs_come_before_long_ones() -> None:
    assert seeds_of(result(1, "ab", 900), result(2, "a"), result(3, "b")) == [2, 3]


def test_a_run_that_later_ones_make_needless_goes() -> None:
    # The first is the best per event; the others are needed, and have its cells.
    assert seeds_of(result(1, "abcd", 100), result(2, "abx", 200), result(3, "cdy", 200)) == [2, 3]


def test_what_is_reached_often_is_covered_as_often_as_wanted() -> None:
    results = [result(seed, "a") for seed in range(5)] + [result(9, "ab")]
    for times in (1, 2, 3):
        seeds = seeds_of(*results, times=times)
        assert 9 in seeds, "the only one with b"
        assert len(seeds) == times


def test_the_file_has_a_line_for_each_run(tmp_path: Path) -> None:
    tasks = [Task(3, 7), Task(1, is_directed=True)]
    file = tmp_path / "cover.json"
    file.write_bytes(encode_cover(tasks))
    assert read_cover(file) == tasks
    assert file.read_text().count("\n") == 4


def test_the_cover_that_is_kept_is_of_the_gate() -> None:
    counts = Counter(read_cover())
    assert set(counts) <= set(long_gate())
    assert set(counts.values()) == {1}
    assert cover.FILE.read_bytes() == encode_cover(read_cover())
