"""STATUS and re-sending: what the network lost is made good, whatever f faulty replicas add."""

import pytest

from pbft.codec import digest_of
from pbft.core import Settings
from pbft.messages import Body, Checkpoint, Commit, Prepare, PrePrepare, Request, Status
from tests.pbft.checks import check_safety
from tests.pbft.forge import drive_into_view
from tests.pbft.world import Message, World

FALSE = bytes(31) + b"\x01"


def without(world: World, *names: str) -> None:
    """Deliver everything but what goes to these replicas, and lose that."""
    world.deliver(lambda message: message.receiver not in names)
    world.drop(lambda message: message.receiver in names)


def sent_to(world: World, sender: str, receiver: str, since: int) -> list[Message]:
    return [m for m in world.sent[since:] if (m.sender, m.receiver) == (sender, receiver)]


def status(world: World, replica: int, executed: int, stable: int = 0) -> Status:
    assert replica < len(world.names)
    return Status(0, True, stable, executed, replica)


def test_a_status_is_sent_at_the_first_turn_and_every_status_seconds() -> None:
    world = World(settings=Settings(status_seconds=2.0))
    output = world.replicas["r0"].handle_timer(10.0)
    assert [m.to for m in output.messages] == [None]
    assert output.deadline == 12.0
    assert world.replicas["r0"].handle_timer(11.9).messages == []
    assert len(world.replicas["r0"].handle_timer(12.0).messages) == 1


def test_a_status_says_view_stable_checkpoint_and_last_executed() -> None:
    world = World(checkpoint_interval=2, window=4)
    world.ask_each(1, 3)
    world.run(2)
    assert world.said("r1", Status)[-1] == Status(0, True, 2, 3, 1)


def test_a_forged_status_is_refused_and_changes_nothing() -> None:
    world = World()
    world.ask_each(1, 1)
    forged = world.sign("r2", status(world, 1, 0))
    assert "the signer is not the replica" in world.refuse("r0", forged)
    broken = world.sign("r1", status(world, 1, 0))
    broken = type(broken)(broken.signer, broken.payload, bytes(64))
    assert world.refuse("r0", broken) == "bad signature"


def test_a_new_link_is_told_where_we_stand_to_that_peer_only() -> None:
    world = World()
    world.ask_each(1, 1)
    world.run(1)
    output = world.replicas["r0"].on_peer_connected("r1", world.now)
    assert [m.to for m in output.messages] == ["r1"]
    assert world.replicas["r0"].on_peer_connected("client", world.now).messages == []


def test_a_replica_that_missed_everything_gets_the_commits_and_then_the_body() -> None:
    world = World()
    world.ask(1, b"x")
    without(world, "r3")
    assert world.executed() == {"r0": 1, "r1": 1, "r2": 1, "r3": 0}
    since = len(world.sent)
    world.give("r1", world.sign("r3", status(world, 3, 0)))
    resent = [m.payload for m in sent_to(world, "r1", "r3", since)]
    kinds = [type(payload) for payload in resent if not isinstance(payload, Status)]
    assert kinds == [Commit, Commit, Commit, Body]
    world.run(1)
    assert world.executed()["r3"] == 1
    check_safety(world)


def test_strong_commits_and_the_body_suffice_without_a_vote_of_ones_own() -> None:
    world = World()
    message, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    for replica in (0, 1, 2):
        world.give("r3", world.commit(1, message.digest, replica))
    assert world.executed()["r3"] == 0
    world.give("r3", signed, body)
    assert world.executed()["r3"] == 1
    assert world.said("r3", Commit) == []


def test_an_answer_to_a_peer_that_makes_progress_waits() -> None:
    world = World()
    world.ask(1, b"x")
    without(world, "r3")
    world.give("r0", world.sign("r3", status(world, 3, 0)))
    world.under_way.clear()
    world.ask_each(2, 2)
    since = len(world.sent)
    world.now += 1.0
    world.give("r0", world.sign("r3", status(world, 3, 1)))
    assert sent_to(world, "r0", "r3", since) == []
    world.give("r0", world.sign("r3", status(world, 3, 1)))
    assert sent_to(world, "r0", "r3", since) != []


def test_a_peer_that_is_far_behind_is_helped_although_it_makes_progress() -> None:
    world = World(checkpoint_interval=64, window=128, client_window=128)
    world.ask_each(1, 40)
    for executed in (1, 2, 3):
        world.now += 1.0
        since = len(world.sent)
        world.give("r0", world.sign("r3", status(world, 3, executed)))
        assert sent_to(world, "r0", "r3", since) != [], executed


def test_slots_are_resent_at_most_twice_per_status_interval() -> None:
    """However often a peer says where it stands, or anybody says it again."""
    world = World(settings=Settings(status_seconds=1.0))
    world.ask_each(1, 3)
    answered = []
    for step in range(41):
        world.now = 10.0 + step / 20
        since = len(world.sent)
        world.give("r0", world.sign("r3", status(world, 3, 0)))
        if any(isinstance(m.payload, Commit) for m in sent_to(world, "r0", "r3", since)):
            answered.append(world.now)
    assert answered == pytest.approx([10.0, 10.5, 11.0, 11.5, 12.0])


def test_checkpoints_are_resent_at_most_twice_per_status_interval() -> None:
    """Whatever a peer says of its own, as often as it likes."""
    world = World(checkpoint_interval=2, window=8, settings=Settings(status_seconds=1.0))
    world.ask_each(1, 4)
    assert world.core("r0").low == 4
    answered = []
    for step in range(41):
        world.now = 10.0 + step / 20
        since = len(world.sent)
        world.give("r0", world.sign("r3", status(world, 3, 0, step % 4)))
        if any(isinstance(m.payload, Checkpoint) for m in sent_to(world, "r0", "r3", since)):
            answered.append(world.now)
    assert answered == pytest.approx([10.0, 10.5, 11.0, 11.5, 12.0])


def test_a_new_checkpoint_of_ones_own_is_sent_at_once() -> None:
    world = World(checkpoint_interval=2, window=8)
    without(world, "r3")
    for timestamp in (1, 2, 3, 4):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: m.receiver != "r3" and not isinstance(m.payload, Checkpoint))
        since = len(world.sent)
        world.give("r0", world.sign("r3", status(world, 3, 0)))
        again = [m for m in sent_to(world, "r0", "r3", since) if isinstance(m.payload, Checkpoint)]
        assert len(again) == {2: 1, 4: 2}.get(timestamp, 0)


def test_a_peer_that_counts_views_up_gets_no_more_than_others() -> None:
    """T2: 'has just come to a view' is said by a stranger; it may not open the tap."""
    world = World()
    world.ask_each(1, 3)
    answered = 0
    world.now += 1.0
    for view in range(100):
        since = len(world.sent)
        world.give("r0", world.sign("r3", Status(view, True, 0, 0, 3)))
        answered += any(isinstance(m.payload, Commit) for m in sent_to(world, "r0", "r3", since))
    assert 1 <= answered <= 4


def test_a_peer_that_comes_and_goes_gets_no_more_than_others() -> None:
    """PROTOCOL.md, Catch-up: only something higher than ever counts as progress."""
    world = World()
    world.ask_each(1, 3)
    drive_into_view(world, "r0", 2)
    answered = 0
    world.now += 1.0
    for step in range(100):
        since = len(world.sent)
        said = Status(1 + step % 2, step % 3 == 0, 0, step % 2, 3)
        world.give("r0", world.sign("r3", said))
        answered += any(isinstance(m.payload, Commit) for m in sent_to(world, "r0", "r3", since))
    assert 1 <= answered <= 4


def test_the_first_status_on_a_new_link_is_answered_at_once() -> None:
    """What was under way on the old link is lost, whatever progress the peer made."""
    world = World()
    world.ask_each(1, 3)
    world.give("r0", world.sign("r3", status(world, 3, 0)))
    since = len(world.sent)
    world.give("r0", world.sign("r3", status(world, 3, 1)))
    assert sent_to(world, "r0", "r3", since) == []
    world.connect("r3")
    since = len(world.sent)
    world.give("r0", world.sign("r3", status(world, 3, 2)))
    assert sent_to(world, "r0", "r3", since) != []


def test_an_old_status_that_somebody_sends_again_keeps_no_help_from_its_sender() -> None:
    """A replayed STATUS between two true ones must not look like progress."""
    world = World()
    world.ask_each(1, 3)
    old = world.sign("r3", status(world, 3, 1))
    true = world.sign("r3", status(world, 3, 2))
    world.give("r0", old)
    helped = 0
    for _ in range(4):
        world.now += 1.0
        since = len(world.sent)
        world.give("r0", old)
        world.give("r0", true)
        helped += Commit in {type(m.payload) for m in sent_to(world, "r0", "r3", since)}
    assert helped == 4


def test_an_answer_is_bounded_by_bytes() -> None:
    settings = Settings(resend_bytes_max=2500)
    world = World(window=64, checkpoint_interval=32, settings=settings)
    for timestamp in range(1, 9):
        world.ask(timestamp, bytes(1000))
        world.deliver()
    world.now += 1.0
    since = len(world.sent)
    world.give("r0", world.sign("r3", status(world, 3, 0)))
    resent = [m.payload for m in sent_to(world, "r0", "r3", since)]
    assert [m.sequence for m in resent if isinstance(m, Body)] == [1, 2, 3]


def test_an_answer_is_bounded_by_slots() -> None:
    world = World(window=64, checkpoint_interval=32, settings=Settings(resend_slots_max=5))
    world.ask_each(1, 20)
    world.now += 1.0
    since = len(world.sent)
    world.give("r0", world.sign("r3", status(world, 3, 0)))
    resent = [m.payload for m in sent_to(world, "r0", "r3", since)]
    assert [m.sequence for m in resent if isinstance(m, Body)] == [1, 2, 3, 4, 5]


def test_open_slots_are_answered_with_ones_own_words_only() -> None:
    world = World()
    world.ask(1, b"x")
    world.deliver(lambda m: not isinstance(m.payload, Commit))
    world.drop(lambda m: True)
    world.now += 1.0
    since = len(world.sent)
    world.give("r1", world.sign("r3", status(world, 3, 0)))
    resent = sent_to(world, "r1", "r3", since)
    assert {m.envelope.signed.signer for m in resent} == {"r1"}
    kinds = [type(m.payload) for m in resent if not isinstance(m.payload, Status)]
    assert kinds == [Prepare, Commit]
    since = len(world.sent)
    world.give("r0", world.sign("r3", status(world, 3, 0)))
    resent = sent_to(world, "r0", "r3", since)
    kinds = [type(m.payload) for m in resent if not isinstance(m.payload, Status)]
    assert kinds == [PrePrepare, Commit]
    assert next(m for m in resent if isinstance(m.payload, PrePrepare)).envelope.body


@pytest.mark.parametrize("lost", [PrePrepare, Prepare, Commit, Checkpoint, Request])
def test_everything_of_one_type_is_lost_once_and_made_good(lost: type) -> None:
    world = World(checkpoint_interval=4, window=8)
    for timestamp in range(1, 7):
        world.ask(timestamp, b"%d" % timestamp)
    for _ in range(300):
        world.drop(lambda m: isinstance(m.payload, lost))
        if not world.under_way:
            break
        world.deliver_one(world.under_way.pop(0))
    world.run(12)
    assert set(world.executed().values()) == {max(world.executed().values())}
    assert len(world.client_output.accepted) == 6
    assert {replica.core.low for replica in world.replicas.values()} == {
        max(world.executed().values()) // 4 * 4
    }
    check_safety(world)


def test_the_checkpoint_certificate_is_sent_to_whoever_is_below_it_even_if_it_executes() -> None:
    world = World(checkpoint_interval=2, window=4)
    for timestamp in (1, 2):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: m.receiver != "r3" or not isinstance(m.payload, Checkpoint))
    world.drop(lambda m: True)
    assert [replica.core.low for replica in world.replicas.values()] == [2, 2, 2, 0]
    world.give("r0", world.sign("r3", status(world, 3, 1)))
    world.under_way.clear()
    since = len(world.sent)
    world.now += world.settings.status_seconds
    world.give("r0", world.sign("r3", status(world, 3, 2)))
    assert len(sent_to(world, "r0", "r3", since)) == 3
    world.deliver()
    assert world.replicas["r3"].core.low == 2


def test_messages_below_the_kept_slots_are_not_sent() -> None:
    world = World(checkpoint_interval=2, window=4)
    world.crash("r3")
    world.ask_each(1, 6)
    assert world.replicas["r0"].core.kept_above == 4
    since = len(world.sent)
    world.give("r0", world.sign("r3", status(world, 3, 3)))
    kinds = {type(m.payload) for m in sent_to(world, "r0", "r3", since)}
    assert kinds == {Checkpoint}
    world.start("r3")
    world.connect("r3")
    world.run(4)
    assert world.emitted("r3", "behind")
    assert [details["sequence"] for details in world.emitted("r3", "state_transferred")] == [6]
    assert world.executed()["r3"] == 6


def test_a_replica_killed_shortly_before_a_checkpoint_catches_up_by_messages() -> None:
    world = World(checkpoint_interval=4, window=8)
    world.ask_each(1, 6)
    world.crash("r3")
    world.ask_each(7, 9)
    assert world.replicas["r0"].core.low == 8
    world.start("r3")
    world.connect("r3")
    world.run(6)
    assert set(world.executed().values()) == {9}
    assert world.replicas["r3"].core.low == 8


# --- what a faulty replica can do against it ----------------------------------------------------


def test_a_false_commit_sent_ahead_does_not_keep_a_replica_from_catching_up() -> None:
    """r3 lies to r1 before, and commits with the others: their certificate has r3's COMMIT."""
    world = World()
    world.crash("r3")
    world.give("r1", world.commit(1, FALSE, 3))
    world.ask(1, b"x")
    message = world.pre_prepare(1, [world.request(1, b"x")])[0]
    without(world, "r1")
    for receiver in ("r0", "r2"):
        world.give(receiver, world.prepare(1, message.digest, 3))
        world.give(receiver, world.commit(1, message.digest, 3))
    without(world, "r1")
    for receiver in ("r0", "r2"):
        world.give(receiver, world.commit(1, message.digest, 3))
    without(world, "r1")
    assert world.executed() == {"r0": 1, "r1": 0, "r2": 1}
    world.run(4)
    assert world.executed() == {"r0": 1, "r1": 1, "r2": 1}
    assert world.emitted("r1", "equivocation")
    check_safety(world, ("r0", "r1", "r2"))


@pytest.mark.parametrize("ahead", ["another digest", "far numbers"])
def test_false_checkpoints_sent_ahead_do_not_keep_a_certificate_from_a_replica(
    ahead: str,
) -> None:
    """r3 spoils its own place at r1, and makes the checkpoint stable with r0 and r2."""
    world = World(checkpoint_interval=2, window=4)
    false = [(2, FALSE)] if ahead == "another digest" else [(n, FALSE) for n in range(90, 110, 2)]
    for sequence, digest in false:
        world.give("r1", world.checkpoint(sequence, digest, 3))
    for timestamp in (1, 2):
        world.ask(timestamp, b"%d" % timestamp)
        without(world, "r1")
    assert world.replicas["r0"].core.low == 2
    assert world.executed()["r1"] == 0
    certificate = world.replicas["r0"].core.checkpoints.stable.checkpoints
    by_r0_r2_r3 = [signed for signed in certificate if signed.signer != "r1"]
    assert len(by_r0_r2_r3) == 3
    for signed in by_r0_r2_r3:
        world.give("r1", signed)
    assert world.replicas["r1"].core.checkpoints.certified.sequence == 2
    assert world.emitted("r1", "behind") == [{"certified": 2, "executed": 0}]


def test_a_batch_with_another_body_beside_it_is_refused_and_then_taken_with_the_true_one() -> None:
    """The body is not signed: whoever relays a PRE-PREPARE may put another beside it."""
    world = World()
    _, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    assert world.refuse("r1", signed, body + b"\0") == "the body does not have the digest"
    world.give("r1", signed, body)
    assert len(world.said("r1", Prepare)) == 1


def test_how_fast_a_replica_catches_up_without_other_traffic() -> None:
    """A hundred slots of one request each within some ten STATUS intervals."""
    world = World(checkpoint_interval=128, window=256, client_window=256)
    world.crash("r3")
    world.ask_each(1, 100)
    world.start("r3")
    world.connect("r3")
    ticks = 0
    while world.executed()["r3"] < 100 and ticks < 20:
        world.run(1)
        ticks += 1
    assert ticks <= 10
    assert digest_of(b"".join(world.applications["r3"].operations)) == digest_of(
        b"".join(b"%d" % t for t in range(1, 101))
    )
