"""The replicated timestamps of clients: the lowest, window, executed ones, kept results."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.client_table import ClientTable, StoredResult
from pbft.codec import digest_of


def result(timestamp: int) -> StoredResult:
    return StoredResult(digest_of(b"%d" % timestamp), "done", b"", b"%d" % timestamp)


def execute(table: ClientTable, *timestamps: int, client: str = "c") -> None:
    for timestamp in timestamps:
        table.record(client, timestamp, result(timestamp))


def test_an_unknown_client_starts_at_floor_zero() -> None:
    table = ClientTable(3)
    assert table.low_timestamp("c") == 0
    assert [table.is_executable("c", t) for t in range(5)] == [False, True, True, True, False]
    assert not table.was_executed("c", 1)
    assert table.was_executed("c", 0) is False
    assert table.result("c", 1) is None
    assert table.parts() == {}


def test_the_floor_rises_over_every_executed_number() -> None:
    table = ClientTable(5)
    execute(table, 2, 4, 5)
    assert table.low_timestamp("c") == 0
    execute(table, 1)
    assert table.low_timestamp("c") == 2
    assert table.was_executed("c", 4)
    assert not table.is_executable("c", 4)
    assert table.is_executable("c", 7)
    execute(table, 3)
    assert table.low_timestamp("c") == 5


def test_results_are_kept_above_the_floor_minus_the_window() -> None:
    table = ClientTable(2)
    execute(table, 1, 2, 3)
    assert table.result("c", 1) is None
    assert table.result("c", 2) == result(2)
    assert table.result("c", 3) == result(3)
    execute(table, 5)
    assert table.result("c", 2) == result(2), "low_timestamp did not move"
    execute(table, 4)
    assert [table.result("c", t) is not None for t in range(1, 6)] == [False] * 3 + [True] * 2


@pytest.mark.parametrize("timestamp", [0, 1, 4, 100])
def test_recording_what_is_not_executable_is_our_own_fault(timestamp: int) -> None:
    table = ClientTable(2)
    execute(table, 1)
    with pytest.raises(AssertionError):
        execute(table, timestamp)


def test_clients_do_not_touch_each_other() -> None:
    table = ClientTable(2)
    execute(table, 1, 2, client="a")
    execute(table, 1, client="b")
    assert (table.low_timestamp("a"), table.low_timestamp("b"), table.low_timestamp("c")) == (
        2,
        1,
        0,
    )
    assert sorted(table.parts()) == ["client/a", "client/b"]


@settings(derandomize=True, deadline=None, database=None, max_examples=200)
@given(st.integers(1, 8), st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 20))))
def test_it_is_what_a_plain_set_of_numbers_says(
    window: int, attempts: list[tuple[str, int]]
) -> None:
    table = ClientTable(window)
    done: dict[str, set[int]] = {"a": set(), "b": set()}
    for client, timestamp in attempts:
        low = next(n for n in range(100) if n + 1 not in done[client])
        expected = low < timestamp <= low + window and timestamp not in done[client]
        assert table.is_executable(client, timestamp) == expected
        if expected:
            execute(table, timestamp, client=client)
            done[client].add(timestamp)
    for client, numbers in done.items():
        low = next(n for n in range(100) if n + 1 not in numbers)
        assert table.low_timestamp(client) == low
        for timestamp in range(1, 30):
            assert table.was_executed(client, timestamp) == (timestamp in numbers)
            is_kept = timestamp in numbers and timestamp > low - window
            assert (table.result(client, timestamp) is not None) == is_kept
    restored = ClientTable(window)
    restored.restore({**table.parts(), "other": b"not a client"})
    assert restored.parts() == table.parts()
    for client in done:
        for timestamp in range(1, 30):
            assert restored.is_executable(client, timestamp) == table.is_executable(
                client, timestamp
            )


def test_the_parts_do_not_depend_on_the_order_of_execution_within_the_window() -> None:
    first, second = ClientTable(4), ClientTable(4)
    execute(first, 1, 2, 4)
    execute(second, 4, 2, 1)
    assert first.parts() == second.parts()


def test_restoring_replaces_everything() -> None:
    table, other = ClientTable(4), ClientTable(4)
    execute(table, 1, client="old")
    execute(other, 1, 2, client="new")
    table.restore(other.parts())
    assert table.low_timestamp("old") == 0
    assert table.low_timestamp("new") == 2
