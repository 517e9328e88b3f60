"""client.views.queue_view: what a build waits for, and since when."""

import pytest

from client.storage.archive import StateRecord
from client.storage.outbox import State
from client.views.queue_view import SECTIONS, queued_build, section_of
from tests.client.views.test_build_view import record

TIMES = {"received_at": 1.0, "resolved_at": 2.0, "signed_at": 3.0, "opened_at": 4.0}


@pytest.mark.parametrize(("state", "second"), list(zip(State, "1234", strict=True)))
def test_it_waits_since_it_came_to_this_state(state: State, second: str) -> None:
    found = queued_build(record(**TIMES), state, states=(), cast=frozenset())
    assert found.since == f"1970-01-01T00:00:0{second}.000Z"
    assert section_of(state, is_held=False).name == state
    assert section_of(state, is_held=True).name == "approval"


def test_every_section_is_of_a_state_or_of_what_is_held() -> None:
    assert {section.name for section in SECTIONS} == {*State, "approval"}


def test_the_ballots_that_are_not_here_are_named_with_what_their_replicas_say() -> None:
    states = [
        StateRecord("a", "building", 1.0, None),
        StateRecord("b", "queued", 1.0, None),
        StateRecord("c", None, None, None),
        StateRecord("d", "none", 1.0, None),
    ]
    found = queued_build(record(**TIMES), State.OPENED, states=states, cast=frozenset({"a"}))
    assert [(one.replica, one.state) for one in found.ballots] == [
        ("b", "queued"), ("c", None), ("d", None),
    ]  # fmt: skip
    assert (
        queued_build(record(**TIMES), State.SIGNED, states=states, cast=frozenset()).ballots == ()
    )
