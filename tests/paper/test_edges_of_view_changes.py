"""What a view change leaves behind: rules of docs/PROTOCOL.md that show only at its edges."""

import pytest

from pbft.core import Settings
from pbft.log import NULL_REQUEST
from pbft.messages import (
    Body,
    Commit,
    FetchState,
    NewView,
    Prepare,
    PrePrepare,
    Recover,
    StateLeaves,
    StateParts,
    ViewChange,
)
from tests.paper.test_recovery import recover, small
from tests.paper.test_state_transfer import behind, fetching
from tests.pbft.forge import (
    certificate,
    drive_into_view,
    new_view,
    view_change,
    with_bad_signature,
)
from tests.pbft.world import World

A = bytes(31) + b"\xaa"


@pytest.mark.parametrize("lie", ["nobody signed it", "its certificate proves nothing"])
def test_a_view_change_beside_one_for_a_far_view_is_checked_like_any_other(lie: str) -> None:
    """PROTOCOL.md, Messages: of VIEW-CHANGE "every prepared certificate holds", whatever came
    before of its sender.
    """
    world = World()
    world.give("r1", view_change(world, 3, 2**40))
    world.give("r1", view_change(world, 2, 2))
    assert [message.view for message in world.said("r1", ViewChange)] == [2]
    if lie == "nobody signed it":
        assert "signature" in world.refuse("r1", with_bad_signature(view_change(world, 3, 2)))
    else:
        weak = certificate(world, 1, A, backups=[1])
        assert "too few" in world.refuse("r1", view_change(world, 3, 2, prepared=[weak]))
    assert world.core("r1").views.overtaken_changes == {}


def test_who_left_for_a_later_view_counts_in_the_view_that_was_entered() -> None:
    """PROTOCOL.md, 4.4: "It joins others once f+1 are in views above its own", said before it or in
    it."""
    world = World()
    world.give("r1", view_change(world, 3, 4))
    drive_into_view(world, "r1", 2)
    world.give("r1", view_change(world, 2, 3))
    assert [message.view for message in world.said("r1", ViewChange)] == [3]


def test_what_an_earlier_view_ordered_binds_nobody_in_the_next() -> None:
    """PROTOCOL.md, 4.4: a view begins with its own O; its primary is not accused by another's."""
    world = World(checkpoint_interval=2, window=4)
    changes = [view_change(world, i, 2, prepared=[certificate(world, 3, A)]) for i in (0, 2, 3)]
    world.give("r1", new_view(world, 2, changes))
    assert world.core("r1").view == 2
    drive_into_view(world, "r1", 3)
    message, signed, body = world.pre_prepare(3, [world.request(1, b"x")], view=3, replica=3)
    world.give("r1", signed, body)
    assert world.said("r1", Prepare)[-1] == Prepare(3, 3, message.digest, 1)
    assert world.emitted("r1", "equivocation") == []


def test_the_wait_comes_down_by_half_with_each_batch() -> None:
    """PROTOCOL.md, 4.4: it "comes down by half with each batch that is executed", not at once."""
    settings = Settings(view_change_seconds=4.0, view_change_seconds_max=64.0)
    world = World(settings=settings)
    world.core("r1").timers.timeout = 32.0
    waits = []
    for sequence in range(1, 5):
        for replica in (0, 2, 3):
            world.give("r1", world.commit(sequence, NULL_REQUEST, replica))
        waits.append(world.core("r1").timers.timeout)
    assert waits == [16.0, 8.0, 4.0, 4.0]


def test_a_recover_is_handed_on_to_the_primary_once_per_view() -> None:
    """PROTOCOL.md, 4.5: "A backup hands a request on to the primary once per view"; a RECOVER."""
    world = small()
    world.give("r1", recover(world))
    for step in range(12):
        world.handle_timer("r1", 0.25)
        if step == 8:
            world.give("r1", world.request(1, b"x"))
    handed_on = [m for m in world.sent if isinstance(m.payload, Recover)]
    assert [(message.sender, message.receiver) for message in handed_on] == [("r1", "r0")]


# --- a view that was entered far behind -----------------------------------------------------------


def test_a_primary_that_fetched_a_state_goes_on_above_it() -> None:
    """PROTOCOL.md, State transfer: what is below the state is not its own to propose any more."""
    world = behind(8)
    for replica in (0, 1):
        world.give("r3", view_change(world, replica, 3))
    assert [message.view for message in world.said("r3", NewView)] == [3]
    fetching(world)
    world.run(1)
    assert world.executed()["r3"] == 8
    world.give("r3", world.request(9, b"9"))
    assert [(m.view, m.sequence) for m in world.said("r3", PrePrepare)] == [(3, 9)]


def test_who_fetched_a_state_votes_on_what_its_view_began_with() -> None:
    """PROTOCOL.md, State transfer: with the water marks comes what O orders between them, the null
    requests too, for which no body comes."""
    world = behind(8)
    stable = world.core("r0").checkpoints.stable
    changes = [
        view_change(
            world,
            replica,
            1,
            stable=8,
            stable_proof=stable.checkpoints,
            prepared=[certificate(world, 10, A)],
        )
        for replica in range(3)
    ]
    world.give("r3", new_view(world, 1, changes))
    assert world.said("r3", Prepare) == []
    fetching(world)
    world.deliver(lambda m: isinstance(m.payload, FetchState | StateLeaves | StateParts))
    assert world.executed()["r3"] == 8
    assert world.said("r3", Prepare) == [Prepare(1, 9, NULL_REQUEST, 3)]


def test_who_comes_so_far_by_itself_votes_on_what_its_view_began_with() -> None:
    """PROTOCOL.md, State transfer: the same, where a checkpoint moves the water marks."""
    world = World(checkpoint_interval=2, window=4)
    for timestamp in (1, 2):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda message: message.receiver != "r3")
    missed = [m for m in world.under_way if isinstance(m.payload, Commit | PrePrepare)]
    stable = world.core("r0").checkpoints.stable
    assert stable.sequence == 2
    changes = [
        view_change(
            world,
            replica,
            1,
            stable=2,
            stable_proof=stable.checkpoints,
            prepared=[certificate(world, 6, A)],
        )
        for replica in range(3)
    ]
    world.give("r3", new_view(world, 1, changes))
    assert [message.sequence for message in world.said("r3", Prepare)] == [3, 4]
    for message in missed:
        if isinstance(message.payload, Commit):
            world.give("r3", message.envelope.signed)
    for message in missed:
        if isinstance(said := message.payload, PrePrepare):
            body = world.sign("r2", Body(said.sequence, said.digest, 2))
            world.give("r3", body, message.envelope.body)
    assert world.core("r3").low == 2
    assert [message.sequence for message in world.said("r3", Prepare)] == [3, 4, 5]
