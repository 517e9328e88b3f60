"""common.log_times: when each part of a log came, in few entries whatever is written."""

import pytest

from common.log_times import (
    ENTRIES_MAX,
    GAP_MILLISECONDS,
    TIMES_BYTES_MAX,
    LogTimes,
    milliseconds_at,
    read_times,
)


def test_each_byte_has_the_time_of_what_came_with_it() -> None:
    times = LogTimes()
    for offset, milliseconds in ((0, 0), (10, 3), (20, 500), (90, 2000)):
        times.note(offset, milliseconds)
    entries = read_times(times.encode())
    # the second came so soon that it has the time of the first
    assert entries == ((0, 0), (20, 500), (90, 2000))
    found = [milliseconds_at(entries, offset) for offset in (0, 19, 20, 89, 90, 10**9)]
    assert found == [0, 0, 500, 500, 2000, 2000]
    assert milliseconds_at((), 5) is None
    assert milliseconds_at(entries[1:], 5) is None


def test_entries_are_few_however_much_is_written_and_never_too_late() -> None:
    times = LogTimes()
    count = 20 * ENTRIES_MAX
    for index in range(count):
        times.note(100 * index, GAP_MILLISECONDS * index)
    data = times.encode()
    entries = read_times(data)
    assert ENTRIES_MAX // 4 < len(entries) <= ENTRIES_MAX
    assert len(data) <= TIMES_BYTES_MAX
    for index in range(0, count, 997):
        found = milliseconds_at(entries, 100 * index)
        assert found is not None
        assert 0 <= GAP_MILLISECONDS * index - found <= 64 * GAP_MILLISECONDS


@pytest.mark.parametrize(
    "data",
    [
        b"0 0\n5 5",
        b"0 0\nx\n",
        b"0 0\n-1 4\n",
        b"5 0\n4 9\n",
        b"4 9\n5 0\n",
        b"0 0\n" * (ENTRIES_MAX + 1),
        b"\xff\n",
        b"0" * (TIMES_BYTES_MAX + 1),
    ],
)
def test_what_is_no_such_file_says_nothing(data: bytes) -> None:
    assert read_times(data) == ()
