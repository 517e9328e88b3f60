"""Builds without caches, and ballots that name some: nothing else has other bytes for that."""

import msgspec
import pytest

from ci.application import _asked
from ci.builds import decode_build, encode_build
from ci.case_reports import with_cases
from ci.case_results import CaseOutcome
from ci.ledger import (
    LateBallotEntry,
    RecordedCache,
    VerdictEntry,
    caches_text,
    decode_entry,
    encode_entry,
    recorded_ballot,
)
from ci.operations import (
    CACHES_MAX,
    Abstain,
    Ballot,
    CastBallot,
    Delivery,
    Event,
    MalformedOperation,
    UsedCache,
    decode_operation,
    encode_operation,
)
from ci.statement import parse_statement, submitted_build_id
from tests.ci.builders import COMMIT, FAILED, GATEWAY, PASSED, World, submit_build, with_caches

DELIVERY = Delivery("github", b"d" * 32)
USED = UsedCache("venv", b"w" * 32)


@pytest.mark.parametrize("schedule", [None, "nightly"])
def test_a_request_that_is_not_cold_has_the_bytes_that_it_had_before(schedule: str | None) -> None:
    asked = submit_build(schedule=schedule, event=Event.CRON if schedule else Event.PUSH)
    cold = msgspec.structs.replace(asked, is_cold=True)
    assert decode_operation(encode_operation(cold)) == cold
    fields = msgspec.msgpack.decode(encode_operation(cold))
    before = fields[:-1] if schedule else fields[:-2]
    assert encode_operation(asked) == msgspec.msgpack.encode(before)


@pytest.mark.parametrize(("schedule", "left_out"), [(None, 3), ("nightly", 1)])
def test_a_state_without_a_cold_build_has_the_bytes_that_it_had_before(
    schedule: str | None, left_out: int
) -> None:
    world = World()
    opened = world.open()
    build = world.application.open_builds()[opened]
    build = msgspec.structs.replace(build, schedule=schedule)
    cold = msgspec.structs.replace(build, is_cold=True)
    assert decode_build(encode_build(cold)) == cold
    fields = msgspec.msgpack.decode(encode_build(cold))
    assert encode_build(build) == msgspec.msgpack.encode(fields[:-left_out])


@pytest.mark.parametrize(
    "ballot",
    [
        PASSED,
        Abstain("no engine"),
        with_cases(FAILED, {"a": CaseOutcome.FAILED, "b": CaseOutcome.PASSED}),
    ],
)
def test_a_ballot_without_caches_has_the_bytes_that_it_had_before(ballot: Ballot) -> None:
    before = msgspec.msgpack.decode(msgspec.msgpack.encode(ballot))
    if not isinstance(ballot, Abstain):
        assert before[2].pop() == []
    cast = CastBallot(b"b" * 32, 7, ballot)
    fields = ["cast_ballot", b"b" * 32, 7, before]
    assert encode_operation(cast) == msgspec.msgpack.encode(fields)
    assert decode_operation(encode_operation(cast)) == cast
    world = World()
    opened = world.open()
    build = world.application.open_builds()[opened].with_ballot("node0", ballot)
    assert msgspec.msgpack.decode(encode_build(build))[7] == {"node0": before}
    assert decode_build(encode_build(build)) == build


def test_a_ballot_names_the_entries_that_it_was_made_with() -> None:
    ballot = with_caches(FAILED, USED)
    cast = CastBallot(b"b" * 32, 7, ballot)
    assert decode_operation(encode_operation(cast)) == cast
    world = World()
    build = world.open()
    world.cast(build, 0, ballot)
    world.restart()
    for replica in range(1, 4):
        world.cast(build, replica, PASSED)
    entries = [decode_entry(entry.body) for entry in world.ledger]
    (verdict,) = (entry for entry in entries if isinstance(entry, VerdictEntry))
    assert [found.caches for found in verdict.ballots] == [
        (RecordedCache("venv", (b"w" * 32).hex()),),
        (),
        (),
        (),
    ]
    assert b"caches" not in encode_entry(LateBallotEntry("", 1, recorded_ballot("n", PASSED), None))


@pytest.mark.parametrize("caches", [[], [["venv", b"w" * 32]] * (CACHES_MAX + 1), [["", b"w"]]])
def test_a_list_of_caches_that_no_replica_sends_is_malformed(caches: list[object]) -> None:
    fields = msgspec.msgpack.decode(encode_operation(CastBallot(b"b" * 32, 7, PASSED)))
    fields[3][2].append(caches)
    with pytest.raises(MalformedOperation):
        decode_operation(msgspec.msgpack.encode(fields))


def test_what_was_found_with_other_caches_counts_together() -> None:
    world = World()
    build = world.open()
    for replica in range(3):
        world.cast(build, replica, with_caches(PASSED, UsedCache("venv", bytes([replica]) * 32)))
    assert world.find_statement(build) is not None


def test_the_statement_says_that_a_build_was_cold() -> None:
    world = World()
    build = world.open(is_cold=True)
    world.restart()
    assert world.application.open_builds()[build].is_cold
    for replica in range(3):
        world.cast(build, replica, PASSED)
    statement = world.find_statement(build) or b""
    assert b'"isCold":true' in statement
    assert parse_statement(statement).verdict.is_cold
    warm = world.open(1)
    for replica in range(3):
        world.cast(warm, replica, PASSED)
    assert b"isCold" not in (world.find_statement(warm) or b"")


def test_a_cold_build_is_another_build() -> None:
    warm = submit_build(delivery=DELIVERY, commit=COMMIT)
    cold = msgspec.structs.replace(warm, is_cold=True)
    ids = {submitted_build_id(b"c" * 32, GATEWAY, asked) for asked in (warm, cold)}
    assert len(ids) == 2
    assert _asked(warm) != _asked(cold)


def test_what_is_said_of_caches() -> None:
    one, other = (RecordedCache(name, name[0] * 64) for name in ("a1", "b2"))
    same = RecordedCache("c3", "a" * 64)
    assert caches_text(()) == ""
    assert caches_text([one]) == "with a cache from build aaaaaaaaaaaa"
    assert caches_text([one, same]) == "with caches from build aaaaaaaaaaaa"
    assert caches_text([one, other]) == "with caches from builds aaaaaaaaaaaa, bbbbbbbbbbbb"
