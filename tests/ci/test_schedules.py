"""A schedule's build: its name is ordered with it, and nothing else has other bytes for that."""

from typing import Any

import msgspec
import pytest

from ci.application import _asked
from ci.builds import decode_build, encode_build
from ci.operations import (
    Delivery,
    Event,
    MalformedOperation,
    SubmitBuild,
    decode_operation,
    encode_operation,
)
from ci.statement import parse_statement, submitted_build_id
from tests.ci.builders import COMMIT, GATEWAY, PASSED, World, reason_of, submit_build

DELIVERY = Delivery("cron", b"d" * 32)
NIGHTLY: dict[str, Any] = {"event": Event.CRON, "schedule": "nightly", "delivery": DELIVERY}


def test_without_a_schedule_a_request_has_the_bytes_that_it_had_before() -> None:
    asked = SubmitBuild(b"i" * 32, "r", "b", COMMIT, delivery=DELIVERY, public_url="https://h")
    before: list[object] = ["submit_build", b"i" * 32, "r", "b", COMMIT, "push", None]
    before += [["cron", b"d" * 32], False, "https://h"]
    assert encode_operation(asked) == msgspec.msgpack.encode(before)
    scheduled = msgspec.structs.replace(asked, event=Event.CRON, schedule="nightly")
    assert decode_operation(encode_operation(scheduled)) == scheduled


def test_without_a_schedule_a_state_has_the_bytes_that_it_had_before() -> None:
    world = World()
    opened = world.open()
    build = world.application.open_builds()[opened]
    fields = msgspec.structs.astuple(build)
    assert encode_build(build) == msgspec.msgpack.encode(fields[:-4])
    limited = msgspec.structs.replace(build, limits=b"x")
    assert encode_build(limited) == msgspec.msgpack.encode((*fields[:-4], b"x"))
    scheduled = msgspec.structs.replace(build, event=Event.CRON, schedule="nightly")
    assert decode_build(encode_build(scheduled)) == scheduled


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "a\n", "x" * 65, "é"])
def test_a_name_that_is_none_is_malformed(name: str) -> None:
    asked = submit_build(event=Event.CRON, schedule=name)
    with pytest.raises(MalformedOperation):
        decode_operation(encode_operation(asked))


@pytest.mark.parametrize(
    "changed",
    [
        {"event": Event.CRON},
        {"schedule": "nightly"},
        {"event": Event.TAG, "ref": "refs/tags/master", "schedule": "nightly"},
        {"event": Event.CRON, "schedule": "nightly", "ref": "refs/heads/other"},
    ],
)
def test_a_schedule_is_of_the_event_cron_and_of_the_branch(changed: dict[str, Any]) -> None:
    world = World()
    assert "event is cron" in reason_of(world.submit(**changed))
    assert world.application.open_builds() == {}


def test_the_statement_names_the_schedule() -> None:
    world = World()
    build = world.open(**NIGHTLY)
    world.restart()
    for replica in range(3):
        world.cast(build, replica, PASSED)
    verdict = parse_statement(world.find_statement(build) or b"").verdict
    assert (verdict.event, verdict.schedule, verdict.ref) == (
        Event.CRON,
        "nightly",
        "refs/heads/master",
    )
    pushed = world.open(1)
    for replica in range(3):
        world.cast(pushed, replica, PASSED)
    assert b'"schedule"' not in (world.find_statement(pushed) or b"")


def test_another_schedule_is_another_build() -> None:
    nightly, weekly = submit_build(**NIGHTLY), submit_build(**(NIGHTLY | {"schedule": "weekly"}))
    ids = {submitted_build_id(b"c" * 32, GATEWAY, asked) for asked in (nightly, weekly)}
    assert len(ids) == 2
    assert _asked(nightly) != _asked(weekly)
