"""The simulated disk keeps, loses and notices what the node's store keeps, loses and notices."""

import pytest

from driver.ports import SaveFailed
from pbft.codec import digest_of
from pbft.messages import Signed
from pbft.ports import Record, SavedBody, SavedMessage
from simulator.machine.disk import ROTTEN_MARK, Disk, DiskDamaged
from simulator.world.seeded_random import stream


def message(text: str) -> SavedMessage:
    """A record that can be told from others."""
    return SavedMessage(Signed("r0", text.encode(), bytes(64)))


def save(disk: Disk, *records: Record) -> None:
    """One whole transaction."""
    disk.write(list(records))
    disk.sync()
    disk.set_mark()


def test_what_is_saved_is_there_again() -> None:
    disk = Disk(bytes(32))
    save(disk, SavedBody(1, digest_of(b"body"), b"body"), message("a"))
    save(disk, message("b"))
    assert disk.records() == [message("a"), message("b")]
    assert disk.bodies() == {digest_of(b"body"): b"body"}


def test_a_body_of_several_numbers_counts_for_the_last_one() -> None:
    disk = Disk(bytes(32))
    for sequence in (5, 9, 7):
        save(disk, SavedBody(sequence, digest_of(b"body"), b"body"))
    assert disk.saved_bodies[digest_of(b"body")][0] == 9


def test_a_crash_keeps_all_of_a_transaction_or_nothing() -> None:
    became: dict[str, int] = {}
    for seed in range(60):
        disk = Disk(bytes(32))
        save(disk, message("a"))
        disk.write([message("b"), message("c")])
        kind = disk.crash(stream(seed, "crash"))
        became[kind] = became.get(kind, 0) + 1
        records = [message("a"), message("b"), message("c")] if kind == "kept" else [message("a")]
        assert disk.records() == records
    assert sorted(became) == ["kept", "lost", "torn"]


def test_every_damage_below_the_mark_is_noticed() -> None:
    kinds: dict[str, None] = {}
    for seed in range(80):
        disk = Disk(bytes(32))
        for text in "abcdef":
            save(disk, message(text))
        told = disk.rot(stream(seed, "rot"))
        assert told is not None
        kinds["row" if "row" in told else told.split()[-1]] = None
        if told == ROTTEN_MARK:
            # Nothing is lost, and from the next start on all of it is guarded again.
            assert not disk.is_guarded
            assert len(disk.records()) == 6
            assert disk.is_guarded
            del disk.rows[-1:]
        with pytest.raises(DiskDamaged):
            disk.records()
    assert sorted(kinds) == ["read", "row"]


def test_a_mark_is_written_over_the_older_one() -> None:
    disk = Disk(bytes(32))
    for text in "abc":
        save(disk, message(text))
    before = disk.mark
    disk._marks[1 - disk._mark_turn] = None
    assert disk.mark is not None
    assert before is not None
    assert disk.mark[0] == before[0] - 1
    disk.records()
    save(disk, message("d"))
    assert disk.mark[0] == before[0] + 1


def test_damage_above_the_mark_is_cut() -> None:
    disk = Disk(bytes(32))
    save(disk, message("a"))
    disk.write([message("b")])
    disk.sync()
    disk.rows[-1].body = b"x" + disk.rows[-1].body[1:]
    assert disk.records() == [message("a")]


def test_a_disk_that_refuses_keeps_nothing() -> None:
    disk = Disk(bytes(32))
    disk.refuses = True
    with pytest.raises(SaveFailed):
        disk.write([message("a")])
    disk.refuses = False
    assert disk.records() == []
