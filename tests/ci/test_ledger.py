"""The ledger: entries that people can read, and a chain in which every change shows."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.ledger import (
    AppendEntry,
    CancelEntry,
    ChainBreak,
    LateBallotEntry,
    MalformedEntry,
    RecordedCase,
    VerdictEntry,
    decode_entry,
    encode_entry,
    genesis_head,
    next_head,
    recorded_ballot,
    recorded_ballots,
    verify_chain,
    whole_cases,
)
from pbft.ports import Entry
from tests.ci.builders import ABSTAIN, COMMIT, FAILED, PASSED, PIPELINE_SHA256, reported

GENESIS = genesis_head(b"c" * 32)


def chain_of(bodies: list[bytes]) -> list[Entry]:
    entries: list[Entry] = []
    head = GENESIS
    for index, body in enumerate(bodies, start=1):
        head = next_head(head, index, body)
        entries.append(Entry(index, body, head))
    return entries


def broken_at(entries: list[Entry]) -> int | None:
    found = verify_chain(entries, GENESIS)
    return found.index if found else None


def test_a_chain_holds_as_a_whole_and_from_any_entry_on() -> None:
    entries = chain_of([b"one", b"two", b"three"])
    assert verify_chain(entries, GENESIS) is None
    assert verify_chain([], GENESIS) is None
    assert verify_chain(entries[1:], entries[0].head, 1) is None


@given(
    st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6),
    st.integers(0, 2**16),
    st.integers(0, 7),
    st.booleans(),
)
def test_a_flipped_bit_is_named_by_its_entry(
    bodies: list[bytes], place: int, bit: int, is_in_head: bool
) -> None:
    entries = chain_of(bodies)
    which = place % len(entries)
    entry = entries[which]
    changed = bytearray(entry.head if is_in_head else entry.body)
    changed[place % len(changed)] ^= 1 << bit
    field = {"head" if is_in_head else "body": bytes(changed)}
    entries[which] = msgspec.structs.replace(entry, **field)
    assert broken_at(entries) == which + 1


def test_missing_repeated_and_swapped_entries_are_found() -> None:
    one, two, three = chain_of([b"one", b"two", b"three"])
    assert broken_at([one, three]) == 2
    assert broken_at([two, three]) == 1
    assert broken_at([one, one, two]) == 2
    assert broken_at([one, three, two]) == 2
    assert verify_chain([one, three], GENESIS) == ChainBreak(2, "entry 3 stands where 2 should")


def test_the_head_holds_the_index() -> None:
    one, two = chain_of([b"one", b"two"])
    moved = Entry(3, two.body, two.head)
    assert verify_chain([moved], one.head, 2) is not None


def test_a_chain_of_another_cluster_breaks_at_once() -> None:
    found = verify_chain(chain_of([b"one"]), genesis_head(b"d" * 32))
    assert found is not None
    assert found.index == 1


def test_entries_are_json_that_comes_back() -> None:
    verdict = VerdictEntry("b" * 64, 7, (), (), ("r1",), msgspec.Raw(b'{"a":1}'))
    late = LateBallotEntry("b" * 64, 7, recorded_ballot("r0", ABSTAIN), None)
    for entry in (verdict, late, CancelEntry("b" * 64, 7, "gateway"), AppendEntry("g", "é", 1, "")):
        body = encode_entry(entry)
        assert decode_entry(body) == entry
        assert encode_entry(decode_entry(body)) == body
        assert isinstance(json.loads(body)["type"], str)


def test_the_statement_is_in_the_entry_byte_for_byte() -> None:
    statement = b'{"b":1,"a":"\\u00e9"}'
    body = encode_entry(VerdictEntry("b" * 64, 7, (), (), (), msgspec.Raw(statement)))
    assert statement in body
    entry = decode_entry(body)
    assert isinstance(entry, VerdictEntry)
    assert bytes(entry.statement) == statement


def test_a_recorded_finding_names_everything_found() -> None:
    recorded = json.loads(msgspec.json.encode(recorded_ballot("replica-0", PASSED)))
    assert recorded == {
        "replica": "replica-0",
        "outcome": "passed",
        "exit_code": 0,
        "commit": COMMIT,
        "pipeline_sha256": PIPELINE_SHA256,
        "log_sha256": PASSED.evidence.log_sha256,
        "log_bytes": 3,
        "checkout_milliseconds": 12,
        "build_milliseconds": 345,
        "version": "test",
    }


def test_a_recorded_abstention_gives_the_reason() -> None:
    recorded = json.loads(msgspec.json.encode(recorded_ballot("replica-0", ABSTAIN)))
    assert recorded == {"replica": "replica-0", "outcome": "abstained", "reason": "no engine"}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"type":"other"}', b"\xff", b'{"type":"cancel"}', b"[" * 5000]
)
def test_strange_bytes_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEntry):
        decode_entry(body)


def test_the_test_cases_of_a_ballot_can_be_read() -> None:
    cases = {'a"b': "failed", "c": "passed"}
    late = recorded_ballot("replica-1", reported(FAILED, cases), is_late=True)
    report = reported(FAILED, cases).tests
    assert json.loads(encode_entry(LateBallotEntry("b" * 64, 3, late, None)))["ballot"][
        "tests"
    ] == {
        "report_sha256": report.report_sha256,
        "set_sha256": report.set_sha256,
        "passed": 1,
        "failed": 1,
        "skipped": 0,
        "warned": 0,
        "lines": 'a"b\tfailed\nc\tpassed\n',
    }
    many = {f"{number:04}": "failed" for number in range(2000)}
    named = recorded_ballot("replica-1", reported(FAILED, many)).tests
    assert named is not None
    assert (named.not_passed[0], named.is_cut, named.lines) == (
        RecordedCase("0000", "failed"),
        True,
        "",
    )
    assert b"tests" not in msgspec.json.encode(recorded_ballot("replica-1", FAILED))


def test_equal_reports_are_in_an_entry_once() -> None:
    same, other = reported(PASSED, {"a": "passed"}), reported(PASSED, {"a": "warned"})
    long = reported(PASSED, {f"{number:04}": "failed" for number in range(2000)})
    ballots = {"r0": same, "r1": PASSED, "r2": other, "r3": same, "r4": long, "r5": long}
    recorded = recorded_ballots(ballots)
    assert [ballot.replica for ballot in recorded] == list(ballots)
    by_name = {ballot.replica: ballot.tests for ballot in recorded if ballot.tests is not None}
    assert {name: tests.same_as for name, tests in by_name.items()} == {
        **dict.fromkeys(("r0", "r2", "r4")),
        "r3": "r0",
        "r5": "r4",
    }
    assert (by_name["r3"].lines, by_name["r5"].not_passed) == ("", ())
    whole = whole_cases(recorded)
    alone = {name: recorded_ballot(name, ballot).tests for name, ballot in ballots.items()}
    assert whole == {name: tests for name, tests in alone.items() if tests is not None}
