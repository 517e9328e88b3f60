"""OSDI'99, section 4.4, "View Changes": NEW-VIEW, how it is made, checked and entered."""

from collections.abc import Callable, Sequence

import msgspec
import pytest

from pbft.codec import decode_message, digest_of, encode_batch
from pbft.log import NULL_REQUEST
from pbft.messages import (
    Body,
    Commit,
    FetchBody,
    NewView,
    Prepare,
    PrePrepare,
    Request,
    Signed,
    ViewChange,
)
from pbft.ports import SavedMessage
from tests.pbft.checks import check_safety
from tests.pbft.forge import (
    FALSE,
    certificate,
    drive_into_view,
    new_view,
    prepare_at,
    proof,
    view_change,
    with_bad_signature,
)
from tests.pbft.world import Message, World

A, B = bytes([1]) * 32, bytes([2]) * 32


def support(world: World, name: str, replicas: Sequence[int], view: int = 1) -> None:
    """That replica hears the empty VIEW-CHANGEs of these."""
    for replica in replicas:
        world.give(name, view_change(world, replica, view))


def order_of(message: NewView) -> list[tuple[int, int, bytes]]:
    """(view, number, digest) of each PRE-PREPARE in O."""
    order = []
    for signed in message.pre_prepares:
        pre_prepare = decode_message(signed.payload)
        assert isinstance(pre_prepare, PrePrepare)
        order.append((pre_prepare.view, pre_prepare.sequence, pre_prepare.digest))
    return order


# --- the new primary ----------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [4, 7])
def test_the_new_primary_begins_with_2f_view_changes_of_others_and_not_with_fewer(
    replicas: int,
) -> None:
    """When it receives 2f valid VIEW-CHANGEs for v+1 from others, it multicasts NEW-VIEW."""
    world = World(replicas)
    others = [index for index in range(replicas) if index != 1]
    needed = world.cluster.quorums.strong - 1
    support(world, "r1", others[: needed - 1])
    for other in others[: needed - 1]:
        world.give("r1", view_change(world, other, 1))
    assert world.said("r1", NewView) == []
    output = world.give("r1", view_change(world, others[needed - 1], 1))
    (message,) = world.said("r1", NewView)
    assert len(message.view_changes) == world.cluster.quorums.strong
    assert {signed.signer for signed in message.view_changes} == {
        world.names[i] for i in [1, *others[:needed]]
    }
    (send,) = [s for s in output.messages if s.envelope.signed == world.sign("r1", message)]
    assert send.to is None
    assert SavedMessage(send.envelope.signed) in output.records
    assert (world.core("r1").view, world.core("r1").has_entered) == (1, True)


def test_view_changes_for_different_views_begin_none() -> None:
    """V holds VIEW-CHANGEs for v+1, all of them."""
    world = World()
    world.give("r1", view_change(world, 0, 5))
    world.give("r1", view_change(world, 2, 1))
    assert world.core("r1").view == 1
    assert world.said("r1", NewView) == []


def test_a_backup_of_the_new_view_begins_nothing() -> None:
    """Only p = v mod |R| of the new view does."""
    world = World()
    support(world, "r2", (0, 1, 3))
    assert (world.core("r2").view, world.core("r2").has_entered) == (1, False)
    assert world.said("r2", NewView) == []


def test_a_primary_sends_one_new_view_for_a_view() -> None:
    """A later VIEW-CHANGE changes nothing: the view has begun."""
    world = World()
    support(world, "r1", (0, 2))
    assert "left or entered" in world.refuse("r1", view_change(world, 3, 1))
    world.run(2)
    assert len(world.said("r1", NewView)) == 1


def test_o_gives_prepared_numbers_their_digests_and_gaps_the_null_request() -> None:
    """O: for each n between min-s and max-s <PRE-PREPARE, v+1, n, d>, d prepared or null."""
    world = World()
    world.give("r1", view_change(world, 0, 1, prepared=[certificate(world, 2, A)]))
    world.give("r1", view_change(world, 2, 1, prepared=[certificate(world, 5, B)]))
    (message,) = world.said("r1", NewView)
    assert order_of(message) == [
        (1, 1, NULL_REQUEST),
        (1, 2, A),
        (1, 3, NULL_REQUEST),
        (1, 4, NULL_REQUEST),
        (1, 5, B),
    ]
    assert world.core("r1").proposer.next_sequence == 6


def test_o_begins_above_the_latest_stable_checkpoint_in_v() -> None:
    """min-s is the number of the latest stable checkpoint in V; what is below is not repeated."""
    world = World()
    low = [certificate(world, n, A) for n in (1, 8, 9)]
    world.give("r1", view_change(world, 0, 1, prepared=low))
    behind = view_change(world, 2, 1, stable=8, stable_proof=proof(world, 8))
    world.give("r1", behind)
    (message,) = world.said("r1", NewView)
    assert order_of(message) == [(1, 9, A)]
    assert world.core("r1").views.min_s == 8


def test_o_is_empty_where_nothing_was_prepared_above_min_s() -> None:
    """Then the view begins at min-s + 1."""
    world = World()
    stable = view_change(world, 0, 1, stable=8, stable_proof=proof(world, 8))
    world.give("r1", stable)
    support(world, "r1", (2,))
    (message,) = world.said("r1", NewView)
    assert message.pre_prepares == ()
    assert (world.core("r1").views.min_s, world.core("r1").proposer.next_sequence) == (8, 9)


@pytest.mark.parametrize("highest_first", [True, False])
def test_the_digest_of_the_highest_view_is_taken(highest_first: bool) -> None:
    """Of several certificates for one number the one of the highest view counts."""
    world = World()
    old = view_change(world, 0, 5, prepared=[certificate(world, 1, A, view=0)])
    new = view_change(world, 2, 5, prepared=[certificate(world, 1, B, view=3)])
    for signed in (new, old) if highest_first else (old, new):
        world.give("r1", signed)
    (message,) = world.said("r1", NewView)
    assert order_of(message) == [(5, 1, B)]


# --- entering as a backup -----------------------------------------------------------------------


def test_a_backup_enters_and_prepares_what_o_orders() -> None:
    """It adds O to its log, multicasts a PREPARE for each message in O, and enters v+1."""
    world = World()
    digests = {n: prepare_at(world, "r2", n, b"%d" % n) for n in (1, 3)}
    prepared = [certificate(world, n, digest) for n, digest in digests.items()]
    changes = [view_change(world, i, 1, prepared=prepared) for i in (0, 1, 3)]
    before = len(world.said("r2", Prepare))
    output = world.give("r2", new_view(world, 1, changes))
    said = world.said("r2", Prepare)[before:]
    assert said == [
        Prepare(1, 1, digests[1], 2),
        Prepare(1, 2, NULL_REQUEST, 2),
        Prepare(1, 3, digests[3], 2),
    ]
    saved = [r.signed for r in output.records if isinstance(r, SavedMessage)]
    assert saved[0] == new_view(world, 1, changes)
    assert {world.sign("r2", prepare) for prepare in said} <= set(saved)
    assert (world.core("r2").view, world.core("r2").has_entered) == (1, True)


def test_a_new_view_is_accepted_without_having_left_before() -> None:
    """It proves itself; a replica that slept through three views enters the fourth."""
    world = World()
    drive_into_view(world, "r2", 7)
    assert world.said("r2", ViewChange) == []
    world.crash("r2")
    world.start("r2")
    assert (world.core("r2").view, world.core("r2").has_entered) == (7, True)


def test_a_prepared_request_whose_body_is_missing_is_fetched_by_its_digest() -> None:
    """4.4: a replica obtains missing requests from others; anybody's copy has the digest."""
    world = World()
    body = encode_batch((world.request(1, b"x"),))
    digest = digest_of(body)
    change = view_change(world, 0, 1, prepared=[certificate(world, 1, digest)])
    changes = [change, view_change(world, 1, 1), view_change(world, 3, 1)]
    world.give("r2", new_view(world, 1, changes))
    assert world.said("r2", Prepare) == []
    world.tick()
    assert FetchBody(1, digest, 2) in world.said("r2", FetchBody)
    wrong = encode_batch((world.request(1, b"y"),))
    given = world.sign("r3", Body(1, digest, 3))
    assert "does not have the digest" in world.refuse("r2", given, wrong)
    assert "nothing here waits" in world.refuse("r2", world.sign("r3", Body(2, digest, 3)), body)
    world.give("r2", given, body)
    assert world.said("r2", Prepare) == [Prepare(1, 1, digest, 2)]
    assert "nothing here waits" in world.refuse("r2", given, body)


def test_whoever_has_the_body_gives_it_and_the_new_primary_may_be_the_one_who_lacks_it() -> None:
    """r1 begins view 1 with a digest whose body only r2 has."""
    world = World()
    world.crash("r0")
    digest = prepare_at(world, "r2", 1, b"x")
    world.under_way.clear()
    for _ in range(3):
        world.tick()
    world.give("r2", view_change(world, 0, 1))
    world.give("r1", world.request(1, b"other", "other"))
    world.give("r3", world.request(1, b"other", "other"))
    world.run(10)
    assert world.core("r1").view >= 1
    assert {tuple(world.applications[n].operations) for n in world.replicas} == {(b"x", b"other")}
    assert (1, 1, digest) in order_of(world.said("r1", NewView)[0])
    assert world.said("r1", FetchBody) == [FetchBody(1, digest, 1)]
    check_safety(world)


def test_numbers_up_to_max_s_are_not_given_again_by_the_new_primary() -> None:
    """Nor by a faulty one: the PRE-PREPAREs of O stand."""
    world = World()
    changes = [
        view_change(world, i, 1, prepared=[certificate(world, 2, NULL_REQUEST)]) for i in (0, 1, 3)
    ]
    world.give("r2", new_view(world, 1, changes))
    _, signed, body = world.pre_prepare(1, [world.request(1, b"x")], view=1, replica=1)
    output = world.give("r2", signed, body)
    assert "another digest was accepted" in world.refusals("r2")[-1]
    assert [e.replica for e in output.evidence] == [1]
    _, signed, body = world.pre_prepare(3, [world.request(1, b"x")], view=1, replica=1)
    world.give("r2", signed, body)
    assert world.said("r2", Prepare)[-1].sequence == 3


def test_min_s_is_a_floor_below_which_nothing_is_accepted_in_the_view() -> None:
    """What V says is stable is decided, also where our own water mark is below it.

    docs/SIMULATION.md, invariant 14.
    """
    world = World(checkpoint_interval=2, window=8)
    stable = view_change(world, 0, 1, stable=4, stable_proof=proof(world, 4))
    world.give("r2", new_view(world, 1, [stable, *(view_change(world, i, 1) for i in (1, 3))]))
    core = world.core("r2")
    assert (core.low, core.executed, core.views.min_s) == (0, 0, 4)
    for sequence in (1, 3, 4):
        _, signed, body = world.pre_prepare(sequence, [world.request(1, b"x")], view=1, replica=1)
        assert "the checkpoint that this view began with" in world.refuse("r2", signed, body)
    for _ in range(2):
        _, signed, body = world.pre_prepare(5, [world.request(1, b"x")], view=1, replica=1)
        world.give("r2", signed, body)
        assert [m.sequence for m in world.said("r2", Prepare)] == [5]
        world.crash("r2")
        world.start("r2")
        assert world.core("r2").views.min_s == 4, "min-s is on disk with the NEW-VIEW"


def test_what_o_orders_above_the_window_binds_a_replica_that_comes_so_far_later() -> None:
    """r3 enters view 1 far behind; O orders 5 and 6, which it may not yet vote on. A primary that
    says another digest for 6 later, when r3 may, equivocates (found by the simulator).
    """
    world = World(checkpoint_interval=2, window=4)
    for timestamp in (1, 2):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda message: "r3" not in (message.receiver, message.sender))
    stable = world.core("r0").checkpoints.stable
    assert stable.sequence == 2
    ordered = [certificate(world, 5, A), certificate(world, 6, B)]
    changes = [
        view_change(world, i, 1, stable=2, stable_proof=stable.checkpoints, prepared=ordered)
        for i in range(3)
    ]
    world.give("r3", new_view(world, 1, changes))
    core = world.core("r3")
    assert (core.view, core.low, core.high) == (1, 0, 4)
    for sequence in (1, 2):
        decided = world.core("r0").log.find(sequence)
        assert decided is not None
        assert decided.decided is not None
        for commit in decided.decided.commits:
            world.give("r3", commit)
        digest = decided.decided.digest
        body = decided.batches[digest].body
        world.give("r3", world.sign("r0", Body(sequence, digest, 0)), body)
    assert (core.executed, core.low, core.high) == (2, 2, 6)
    _, other, body = world.pre_prepare(6, [world.request(9, b"other")], view=1, replica=1)
    assert "another digest was accepted" in world.refuse("r3", other, body)
    assert [told["replica"] for told in world.emitted("r3", "equivocation")] == [1]
    assert 6 not in [m.sequence for m in world.said("r3", Prepare)]


# --- NEW-VIEW at a backup: each clause alone ----------------------------------------------------


def good_changes(world: World) -> list[Signed]:
    """r0 prepared A at 9 in view 0, r2 prepared B at 9 in view 2; r3 has 8 stable."""
    return [
        view_change(world, 0, 5, prepared=[certificate(world, 9, A), certificate(world, 11, A)]),
        view_change(world, 2, 5, prepared=[certificate(world, 9, B, view=2)]),
        view_change(world, 3, 5, stable=8, stable_proof=proof(world, 8)),
    ]


GOOD_ORDER = [(9, B), (10, NULL_REQUEST), (11, A)]

Made = Callable[[World], Signed]


def with_order(*digests: tuple[int, bytes]) -> Made:
    return lambda world: new_view(world, 5, good_changes(world), digests)


def with_changes(change: Callable[[World, list[Signed]], list[Signed]]) -> Made:
    """The same O over other VIEW-CHANGEs."""
    return lambda world: new_view(world, 5, change(world, good_changes(world)), GOOD_ORDER)


def altered(**changes: object) -> Made:
    def made(world: World) -> Signed:
        message = world.core("r0").authenticator.read(new_view(world, 5, good_changes(world)))
        assert isinstance(message, NewView)
        return world.sign("r1", msgspec.structs.replace(message, **changes))

    return made


def with_last_pre_prepare(forge: Callable[[World], Signed]) -> Made:
    def made(world: World) -> Signed:
        message = world.core("r0").authenticator.read(new_view(world, 5, good_changes(world)))
        assert isinstance(message, NewView)
        pre_prepares = (*message.pre_prepares[:-1], forge(world))
        return world.sign("r1", msgspec.structs.replace(message, pre_prepares=pre_prepares))

    return made


ORDER = "does not order what its VIEW-CHANGEs ask for"
DISTINCT = "too few distinct replicas"
CASES: dict[str, tuple[Made, str]] = {
    "a prepared number is left out": (with_order((9, B), (10, NULL_REQUEST)), ORDER),
    "all is left out": (with_order(), ORDER),
    "a gap is left out": (with_order((9, B), (11, A)), ORDER),
    "a prepared number is null": (with_order((9, B), (10, NULL_REQUEST), (11, FALSE)), ORDER),
    "a prepared number is nulled": (
        with_order((9, NULL_REQUEST), (10, NULL_REQUEST), (11, A)),
        ORDER,
    ),
    "two digests are swapped": (with_order((9, A), (10, NULL_REQUEST), (11, B)), ORDER),
    "besu: the digest of an older view": (
        with_order((9, A), (10, NULL_REQUEST), (11, A)),
        ORDER,
    ),
    "a gap is filled with a request": (with_order((9, B), (10, A), (11, A)), ORDER),
    "it goes on above max-s": (with_order(*GOOD_ORDER, (12, NULL_REQUEST)), ORDER),
    "min-s is too low": (with_order((8, NULL_REQUEST), *GOOD_ORDER), ORDER),
    "min-s is too high": (with_order((10, NULL_REQUEST), (11, A)), ORDER),
    "the numbers are out of order": (
        with_order((10, NULL_REQUEST), (9, B), (11, A)),
        ORDER,
    ),
    "a number comes twice": (with_order((9, B), (9, B), (11, A)), ORDER),
    "a PRE-PREPARE of another view": (
        with_last_pre_prepare(lambda w: w.sign("r1", PrePrepare(1, 11, A, 1))),
        ORDER,
    ),
    "a PRE-PREPARE of another replica": (
        with_last_pre_prepare(lambda w: w.sign("r2", PrePrepare(5, 11, A, 2))),
        ORDER,
    ),
    "a PRE-PREPARE that another signed": (
        with_last_pre_prepare(lambda w: w.sign("r2", PrePrepare(5, 11, A, 1))),
        ORDER,
    ),
    "a PREPARE in O": (
        with_last_pre_prepare(lambda w: w.prepare(11, A, 1, 5)),
        ORDER,
    ),
    "a forged PRE-PREPARE": (
        with_last_pre_prepare(lambda w: with_bad_signature(w.sign("r1", PrePrepare(5, 11, A, 1)))),
        "signature of a PRE-PREPARE in the NEW-VIEW",
    ),
    "V has 2f": (with_changes(lambda w, c: c[:2]), DISTINCT),
    "V is empty": (altered(view_changes=()), DISTINCT),
    "V has one replica twice": (with_changes(lambda w, c: [*c, c[0]]), DISTINCT),
    "V has 2f and one of them twice": (with_changes(lambda w, c: [c[0], c[1], c[1]]), DISTINCT),
    "V has a VIEW-CHANGE for another view": (
        with_changes(lambda w, c: [*c[:2], view_change(w, 3, 4)]),
        "something other than VIEW-CHANGEs for its view",
    ),
    "V has something else": (
        with_changes(lambda w, c: [*c[:2], w.commit(9, A, 3)]),
        "something other than VIEW-CHANGEs for its view",
    ),
    "V has a VIEW-CHANGE in another's name": (
        with_changes(lambda w, c: [*c[:2], w.sign("r0", ViewChange(5, 0, (), (), 3))]),
        "something other than VIEW-CHANGEs for its view",
    ),
    "V has a forged VIEW-CHANGE": (
        with_changes(lambda w, c: [*c[:2], with_bad_signature(c[2])]),
        "a VIEW-CHANGE in the NEW-VIEW: bad signature",
    ),
    "V has a VIEW-CHANGE whose checkpoint is not proved": (
        with_changes(
            lambda w, c: [
                *c[:2],
                view_change(w, 3, 5, stable=8, stable_proof=proof(w, 8, replicas=(1, 2))),
            ]
        ),
        "a VIEW-CHANGE in the NEW-VIEW: too few replicas",
    ),
    "V has a VIEW-CHANGE whose prepared number is not proved": (
        with_changes(
            lambda w, c: [view_change(w, 0, 5, prepared=[certificate(w, 11, A, backups=(1,))]), *c]
        ),
        "a VIEW-CHANGE in the NEW-VIEW: too few backups",
    ),
    "of a replica that is not its primary": (
        lambda w: new_view(w, 5, good_changes(w), replica=2),
        "not its primary",
    ),
    "that names another replica": (altered(replica=2), "not the replica"),
    "with a bad signature": (
        lambda w: with_bad_signature(new_view(w, 5, good_changes(w))),
        "bad signature",
    ),
}


def test_the_new_view_that_the_clauses_are_tried_on_is_accepted() -> None:
    """So what each case below changes is what it is refused for."""
    world = World()
    signed = new_view(world, 5, good_changes(world))
    assert signed == with_order(*GOOD_ORDER)(world)
    world.give("r0", signed)
    assert world.refusals("r0") == []
    core = world.core("r0")
    assert (core.view, core.has_entered, core.views.min_s) == (5, True, 8)
    proposals = {s.sequence: s.proposal for s in core.log.above(0) if s.proposal}
    assert {n: p.message for n, p in proposals.items()} == {
        n: PrePrepare(5, n, digest, 1) for n, digest in GOOD_ORDER
    }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("has_left", [False, True])
def test_new_view_refused(case: str, has_left: bool) -> None:
    """4.4: a backup accepts it if signed properly, V is valid for v+1, and O is correct.

    It verifies O by the same computation as the primary's (docs/TRAPS.md 2).
    """
    world = World()
    if has_left:
        for replica in (2, 3):
            world.give("r0", view_change(world, replica, 5))
        assert (world.core("r0").view, world.core("r0").has_entered) == (5, False)
    made, reason = CASES[case]
    assert reason in world.refuse("r0", made(world))
    world.give("r0", new_view(world, 5, good_changes(world)))
    assert world.core("r0").has_entered, "and the right one is still accepted"


@pytest.mark.parametrize("view", [1, 5])
def test_new_view_refused_for_a_view_that_is_left_or_entered(view: int) -> None:
    """docs/TRAPS.md 5: a recorded NEW-VIEW brings nobody back."""
    world = World()
    old = new_view(world, view, [view_change(world, i, view) for i in (0, 1, 3)])
    drive_into_view(world, "r2", 5)
    prepare_at(world, "r2", 1, b"x", view=5)
    assert "left or entered" in world.refuse("r2", old)
    assert world.said("r2", Commit)[-1].view == 5


def test_o_above_the_window_of_a_late_primary_stands_once_it_has_caught_up() -> None:
    """The new primary was away: O begins where its own water marks end. It fetches the state, and
    then its own NEW-VIEW still holds what it has to vote for; the view need not fail."""
    world = World()

    def is_away(message: Message) -> bool:
        return "r1" in (message.sender, message.receiver)

    for timestamp in range(1, 17):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda message: not is_away(message))
        world.drop(is_away)
    assert (world.core("r2").low, world.core("r1").executed) == (16, 0)
    world.ask(17, b"17")
    world.deliver(
        lambda m: not is_away(m) and isinstance(m.payload, Request | PrePrepare | Prepare)
    )
    world.drop(lambda message: True)
    assert all(world.core(name).log.slot(17).prepared for name in ("r2", "r3"))
    world.crash("r0")
    while not world.said("r1", NewView):
        world.tick()
        world.deliver(lambda m: not is_away(m) or isinstance(m.payload, ViewChange))
        world.drop(is_away)
    assert world.core("r1").low == 0
    world.connect("r1")
    world.run(8)
    assert world.emitted("r1", "state_transferred") == [{"sequence": 16, "executed": 0}]
    assert {world.executed()[name] for name in ("r1", "r2", "r3")} == {18}
    assert {world.core(name).view for name in ("r1", "r2", "r3")} == {1}
    check_safety(world)
