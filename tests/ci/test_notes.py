"""Notes on builds, and the person whom a gateway says that it acts for, as they are ordered."""

import msgspec
import pytest

from ci.application import CLOSED_BUILDS_MAX
from ci.builds import decode_build, encode_build
from ci.ledger import ApproveEntry, CancelEntry, NoteEntry, decode_entry, encode_entry
from ci.notes import NOTES_PER_CLIENT_MAX, decode_notes_part
from ci.operations import (
    NOTE_CHARACTERS_MAX,
    AddNote,
    ApproveBuild,
    CancelBuild,
    MalformedOperation,
    decode_operation,
    encode_operation,
)
from ci.state_partitions import NOTES_PART, CorruptState
from tests.ci.builders import (
    FAILED,
    GATEWAY,
    OPERATOR,
    OTHER_GATEWAY,
    World,
    decided_build,
    reason_of,
    submit_build,
)

UNKNOWN = b"?" * 32


def test_a_note_is_in_the_ledger_with_its_client_and_its_person(world: World) -> None:
    build = decided_build(world)
    (entry,) = world.apply(GATEWAY, AddNote(build, "flaky:\nsee #7", "ana")).entries
    assert decode_entry(entry.body) == NoteEntry(build.hex(), GATEWAY, "flaky:\nsee #7", "ana")
    (entry,) = world.apply(OPERATOR, AddNote(build, "é")).entries
    assert decode_entry(entry.body) == NoteEntry(build.hex(), OPERATOR, "é")
    assert b"person" not in entry.body


@pytest.mark.parametrize("client", ["replica-0", "stranger"])
def test_gateways_and_operators_alone_write_notes(world: World, client: str) -> None:
    build = world.open()
    assert "takes the role" in reason_of(world.apply(client, AddNote(build, "text")))


def test_each_client_has_so_many_places_on_a_build_and_uses_up_no_others(world: World) -> None:
    build, other = world.open(1), world.open(2)
    for _ in range(NOTES_PER_CLIENT_MAX):
        assert world.apply(GATEWAY, AddNote(build, "text")).kind == "done"
    world.restart()
    assert "the most allowed" in reason_of(world.apply(GATEWAY, AddNote(build, "text")))
    assert world.apply(GATEWAY, AddNote(other, "text")).kind == "done"
    assert world.apply(OTHER_GATEWAY, AddNote(build, "text")).kind == "done"


def test_only_a_build_that_the_state_remembers_takes_notes(world: World) -> None:
    assert "newest builds" in reason_of(world.apply(GATEWAY, AddNote(UNKNOWN, "text")))
    build = world.open()
    world.apply(GATEWAY, AddNote(build, "text"))
    world.cancel(build, OPERATOR)
    assert world.apply(GATEWAY, AddNote(build, "text")).kind == "done"
    for identity in range(1, CLOSED_BUILDS_MAX + 1):
        world.cancel(world.open(identity), OPERATOR)
    assert "newest builds" in reason_of(world.apply(GATEWAY, AddNote(build, "text")))
    assert NOTES_PART not in world.application.parts()


def test_a_note_changes_no_verdict_and_nothing_else(world: World) -> None:
    build = world.open()
    world.cast(build, 0, FAILED)
    before = world.application.open_builds()
    world.apply(GATEWAY, AddNote(build, "passed"))
    assert world.application.open_builds() == before
    world.cast(build, 1, FAILED)
    (verdict,) = world.verdict_entries()
    assert b'"outcome":"failed"' in bytes(verdict.statement)


@pytest.mark.parametrize(
    "text",
    ["", "x" * (NOTE_CHARACTERS_MAX + 1), "a\x07", "a\r\nb", "a\x1b[31m", "a\u202eb", "\x85"],
)
def test_text_that_is_no_note_is_malformed(text: str) -> None:
    with pytest.raises(MalformedOperation):
        decode_operation(encode_operation(AddNote(UNKNOWN, text)))


@pytest.mark.parametrize("name", ["", "x" * 129, "ana\n", "a\tb", "ana\u202e", "a\u2028b"])
def test_a_name_that_is_none_is_malformed(name: str) -> None:
    for operation in (
        AddNote(UNKNOWN, "text", name),
        ApproveBuild(UNKNOWN, name),
        CancelBuild(UNKNOWN, name),
        submit_build(person=name),
    ):
        encoded = msgspec.msgpack.encode(operation)
        with pytest.raises(MalformedOperation):
            decode_operation(encoded)


def test_whoever_approves_or_cancels_is_in_the_ledger_beside_the_client(world: World) -> None:
    build = world.open(needs_approval=True)
    (entry,) = world.apply(OPERATOR, ApproveBuild(build, "ana")).entries
    assert decode_entry(entry.body) == ApproveEntry(build.hex(), 1, OPERATOR, "ana")
    entry = world.apply(GATEWAY, CancelBuild(build, "bo")).entries[0]
    assert decode_entry(entry.body) == CancelEntry(build.hex(), 1, GATEWAY, "bo")


def test_whoever_had_it_built_again_is_beside_that_client_alone(world: World) -> None:
    build = world.open(person="ana")
    assert decode_build(encode_build(world.application.open_builds()[build])).person == "ana"
    world.open(client=GATEWAY)
    world.cast(build, 0, FAILED)
    world.cast(build, 1, FAILED)
    (verdict,) = world.verdict_entries()
    assert [asker.person for asker in verdict.askers] == ["ana", None]


def test_without_a_person_all_bytes_are_what_they_were_before(world: World) -> None:
    encode = msgspec.msgpack.encode
    assert encode_operation(CancelBuild(UNKNOWN)) == encode(("cancel_build", UNKNOWN))
    assert encode_operation(ApproveBuild(UNKNOWN)) == encode(("approve_build", UNKNOWN))
    assert encode_entry(CancelEntry("b", 1, "g")) == (
        b'{"type":"cancel","build":"b","opened":1,"client":"g"}'
    )
    assert encode_entry(ApproveEntry("b", 1, "g")) == (
        b'{"type":"approve","build":"b","opened":1,"client":"g"}'
    )
    decided_build(world)
    (verdict,) = world.verdict_entries()
    assert b"person" not in encode_entry(verdict)
    assert NOTES_PART not in world.application.parts()


@pytest.mark.parametrize(
    "part",
    [
        (),
        ((UNKNOWN, (("g", 1),)),),
        ((b"b" * 32, ()),),
        ((b"b" * 32, (("h", 1), ("g", 1))),),
        ((b"c" * 32, (("g", 1),)), (b"b" * 32, (("g", 1),))),
        ((b"b" * 32, (("g", NOTES_PER_CLIENT_MAX + 1),)),),
    ],
)
def test_counts_that_no_state_has_are_corrupt(part: object) -> None:
    data = msgspec.msgpack.encode(part)
    with pytest.raises(CorruptState, match=NOTES_PART):
        decode_notes_part({NOTES_PART: data}, {b"b" * 32, b"c" * 32})
