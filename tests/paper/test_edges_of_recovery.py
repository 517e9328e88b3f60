"""What is left behind by a recovery: rules of docs/PROTOCOL.md that show only at its edges."""

from pbft.core import ReplicaStatus
from pbft.messages import Body, Checkpoint, NewView, Recover, Signed, Status, ViewChange
from tests.paper.test_recovery import (
    execute,
    lose_disk,
    recover,
    recovered_elsewhere,
    small,
    votes,
)
from tests.pbft.checks import check_safety
from tests.pbft.forge import drive_into_view_change, new_view, proof, view_change
from tests.pbft.world import Message, World


def test_it_votes_again_once_t_is_stable_and_not_once_t_is_executed() -> None:
    """PROTOCOL.md, Recovery: "so it votes again once T is stable"."""
    world = small()
    world.ask_each(1, 5)
    lose_disk(world)
    since = len(world.sent)

    def is_late(message: Message) -> bool:
        """T is 10: of the checkpoints from there on r3 hears nothing."""
        said = message.payload
        return message.receiver == "r3" and isinstance(said, Checkpoint) and said.sequence >= 10

    for step in range(12):
        world.tick()
        world.drop(is_late)
        world.deliver(lambda message: not is_late(message))
        if step == 8:
            asked = len(world.sent)
            world.ask(6, b"6")
    assert world.core("r3").execution.recoveries[3].voting_from == 10
    assert world.core("r3").executed == 11
    assert world.core("r3").status is ReplicaStatus.RECOVERING
    assert not any(isinstance(m.payload, Recover) for m in world.sent[asked:]), "it was executed"
    assert votes(world, "r3", since) == []
    world.run(4)
    assert world.core("r3").status is ReplicaStatus.NORMAL
    check_safety(world)


def test_a_recover_that_is_ordered_again_after_t_has_no_effect() -> None:
    """PROTOCOL.md, Recovery: "A RECOVER that counted cannot count again", though a liar
    orders it."""
    world = small()
    world.ask_each(1, 1)
    lose_disk(world)
    world.run(20)
    before = world.core("r1").execution.recoveries[3]
    assert world.core("r1").executed == before.voting_from
    execute(world, before.voting_from + 1, [recover(world)])
    for name in ("r1", "r2", "r3"):
        assert world.core(name).executed == before.voting_from + 1
        assert world.core(name).execution.recoveries[3] == before
    world.run(4)
    assert set(world.executed().values()) == {before.voting_from + 1}, "no null request is owed"


def says_entered(world: World, replica: int, view: int) -> None:
    """Its STATUS: it is in that view."""
    status = Status(view, True, 0, 1, replica)
    world.give("r2", world.sign(world.names[replica], status))


def test_a_view_with_a_void_view_change_has_begun_where_strong_replicas_say_so() -> None:
    """PROTOCOL.md, Recovery: a NEW-VIEW with a void VIEW-CHANGE is taken only where `strong`
    replicas say in their STATUS that they have entered that very view: f of them may lie.
    """
    world = small()
    recovered_elsewhere(world)
    changes = [view_change(world, replica, 5) for replica in (0, 2, 3)]
    begun = new_view(world, 5, changes)
    void = "before the replica's recovery"
    says_entered(world, 0, 5)
    says_entered(world, 1, 5)
    assert void in world.refuse("r2", begun), "two of three"
    says_entered(world, 3, 6)
    assert void in world.refuse("r2", begun), "one is in another view"
    left = Status(5, False, 0, 1, 3)
    world.give("r2", world.sign("r3", left))
    assert void in world.refuse("r2", begun), "one only left for it"
    says_entered(world, 3, 5)
    world.give("r2", begun)
    assert (world.core("r2").view, world.core("r2").has_entered) == (5, True)


# --- what it said before --------------------------------------------------------------------------


def leaves(
    world: World, view: int, *, recovered: int = 0, stable: int = 0, replica: int = 3
) -> Signed:
    """A VIEW-CHANGE of r3 that names a recovery."""
    words = proof(world, stable) if stable else ()
    message = ViewChange(view, stable, words, (), replica, recovered)
    return world.sign(world.names[replica], message)


def test_a_view_change_that_names_another_recovery_than_the_last_one_is_void() -> None:
    """PROTOCOL.md, Recovery: "Any other is void", one with another T too."""
    world = small()
    recovered_elsewhere(world)
    assert world.core("r1").execution.recoveries[3].voting_from == 6
    for recovered in (0, 2, 4):
        said = leaves(world, 5, recovered=recovered)
        assert "before the replica's recovery" in world.refuse("r1", said)
    world.give("r1", leaves(world, 5, recovered=6))
    assert 3 in world.core("r1").views.changes


def test_a_view_change_whose_checkpoint_is_at_t_counts() -> None:
    """PROTOCOL.md, Recovery: "or if its checkpoint is at T or above". Its sender recovered
    once more, and names a T that we do not know yet."""
    world = small()
    recovered_elsewhere(world)
    world.give("r1", leaves(world, 5, stable=6, recovered=12))
    assert 3 in world.core("r1").views.changes


def executes_recover(world: World, name: str, replica: int) -> None:
    """COMMITs of the others decide a RECOVER at 1; T is 6."""
    message, _, body = world.pre_prepare(1, [recover(world, replica)])
    others = [i for i in range(len(world.names)) if world.names[i] != name]
    for other in others[: world.cluster.quorums.strong]:
        world.give(name, world.commit(1, message.digest, other))
    world.give(name, world.sign("r2", Body(1, message.digest, 2)), body)
    assert world.core(name).execution.recoveries[replica].voting_from == 6


def test_a_void_view_change_beside_one_for_a_far_view_is_forgotten_too() -> None:
    """PROTOCOL.md, Recovery: "VIEW-CHANGEs from before count no more", wherever they are kept."""
    world = small(7)
    world.give("r1", leaves(world, 2**40, replica=5))
    for replica in (2, 3, 5):
        world.give("r1", leaves(world, 1, replica=replica))
    assert 5 in world.core("r1").views.overtaken_changes
    executes_recover(world, "r1", 5)
    for replica in (0, 4):
        assert world.said("r1", NewView) == []
        world.give("r1", leaves(world, 1, replica=replica))
    (begun,) = world.said("r1", NewView)
    assert "r5" not in {signed.signer for signed in begun.view_changes}


def test_ones_own_view_change_stays_though_a_late_recover_makes_it_void() -> None:
    """PROTOCOL.md, Recovery: a RECOVER that nobody ordered may be ordered for 16 L numbers more.
    Its replica, healthy by then, goes on sending what it said.
    """
    world = small()
    drive_into_view_change(world, "r3", 5)
    executes_recover(world, "r3", 3)
    since = len(world.sent)
    world.give("r3", world.sign("r2", Status(5, False, 0, 1, 2)))
    again = [m.payload for m in world.sent[since:] if isinstance(m.payload, ViewChange)]
    assert [said.view for said in again] == [5]
