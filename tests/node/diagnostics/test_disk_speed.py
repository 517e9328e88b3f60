"""A disk that is too slow for the timer is noticed, told once a minute, and forgotten after one."""

from node.diagnostics.disk_speed import DiskSpeed


def test_a_save_of_more_than_a_tenth_of_the_timer_is_slow() -> None:
    disk = DiskSpeed(4.0)
    assert (disk.slowest_seconds(0.0), disk.is_slow(0.0)) == (0.0, False)
    assert not disk.note(0.4, 1.0)
    assert not disk.is_slow(1.0)
    assert disk.note(0.5, 2.0)
    assert disk.is_slow(2.0)


def test_it_is_told_once_a_minute() -> None:
    disk = DiskSpeed(4.0)
    assert [disk.note(1.0, now) for now in (0.0, 1.0, 59.0, 60.0, 61.0)] == [
        *(True, False, False),
        *(True, False),
    ]


def test_the_slowest_of_the_last_minute_is_remembered() -> None:
    disk = DiskSpeed(4.0)
    for now, seconds in ((0.0, 0.1), (10.0, 0.9), (20.0, 0.3), (30.0, 0.2), (40.0, 0.2)):
        disk.note(seconds, now)
    assert disk.last_seconds == 0.2
    assert [disk.slowest_seconds(now) for now in (40.0, 70.0, 70.5, 85.0, 101.0)] == [
        *(0.9, 0.9),
        *(0.3, 0.2, 0.0),
    ]
    assert not disk.is_slow(101.0)
