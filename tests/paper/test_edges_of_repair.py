"""What a fetched state leaves behind: rules of docs/PROTOCOL.md that show only at its edges."""

from pbft.core import ReplicaStatus, Settings
from pbft.messages import (
    Checkpoint,
    Commit,
    FetchState,
    Request,
    Signed,
    StateLeaves,
    StateParts,
    Status,
    ViewChange,
)
from pbft.ports import Applied
from tests.paper.test_recovery import recover, small
from tests.paper.test_state_transfer import behind, fetching, hears_certificate
from tests.pbft.forge import view_change
from tests.pbft.world import Journal, Message, World, WrongForAWhile, WrongOnce

WAIT = 4.0


def said_of_checkpoint(world: World, sequence: int) -> list[Signed]:
    """All CHECKPOINTs for that number, as they were sent."""
    words = {
        message.envelope.signed.signer: message.envelope.signed
        for message in world.sent
        if isinstance(said := message.payload, Checkpoint) and said.sequence == sequence
    }
    return list(words.values())


# --- certificates -------------------------------------------------------------------------------


def test_an_older_certificate_does_not_replace_a_newer_one() -> None:
    """PROTOCOL.md, State transfer: "the newest that has a certificate". No one keeps an old one."""
    world = behind()
    for sequence in (8, 4, 6):
        for signed in said_of_checkpoint(world, sequence):
            world.give("r3", signed)
    assert world.emitted("r3", "behind") == [{"certified": 8, "executed": 0}]
    for _ in range(2):
        world.handle_timer("r3", 1.0)
    assert world.said("r3", FetchState) == [FetchState(8, (), 3)]


def wrong_r3(
    requests: int, application: type[Journal] = WrongOnce, without: int | None = None
) -> World:
    """r3's state is wrong, and it has heard of no checkpoint, and nobody of the one `without`."""

    def is_heard(message: Message) -> bool:
        said = message.payload
        is_known = message.receiver != "r3" and getattr(said, "sequence", None) != without
        return not isinstance(said, Checkpoint) or is_known

    world = World(
        checkpoint_interval=2,
        window=8,
        client_window=64,
        settings=Settings(view_change_seconds=WAIT),
        application=lambda name: application() if name == "r3" else Journal(),
    )
    for timestamp in range(1, requests + 1):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(is_heard)
    return world


def test_a_wrong_state_is_replaced_by_the_newest_whatever_order_certificates_come_in() -> None:
    """PROTOCOL.md, State transfer: "replaced by the newest that has a certificate"."""
    world = wrong_r3(5)
    words = {n: said_of_checkpoint(world, n) for n in (2, 4)}
    world.under_way.clear()
    for sequence in (4, 2):
        for signed in words[sequence]:
            if signed.signer != "r3":
                world.give("r3", signed)
    assert world.core("r3").is_diverged
    world.handle_timer("r3", 1.0)
    assert world.said("r3", FetchState) == [FetchState(4, (), 3)]


class Pages(Journal):
    """Each operation is a part of its own."""

    def parts(self) -> dict[str, bytes]:
        pages = {f"page/{n}": text for n, text in enumerate(self.operations)}
        return {**super().parts(), **pages}


def test_parts_that_are_here_stay_good_when_a_newer_state_is_fetched() -> None:
    """PROTOCOL.md, State transfer: "then the parts that it has not got". Else a replica could chase
    the others' checkpoints for ever."""
    world = behind(8, Pages)
    fetching(world)
    world.deliver(lambda m: isinstance(m.payload, FetchState | StateLeaves))
    parts = next(m.payload.parts for m in world.under_way if isinstance(m.payload, StateParts))
    given = {name: data for name, data in parts if name in ("page/0", "page/1")}
    assert len(given) == 2
    world.give("r3", world.sign("r0", StateParts(8, tuple(given.items()), 0)))
    world.under_way.clear()
    for timestamp in (9, 10):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: m.receiver != "r3")
    world.under_way.clear()
    hears_certificate(world)
    asked = len(world.said("r3", FetchState))
    world.handle_timer("r3", 1.0)
    world.deliver(lambda m: isinstance(m.payload, FetchState | StateLeaves))
    names = {name for m in world.said("r3", FetchState)[asked:] for name in m.names}
    assert "page/9" in names
    assert not names & given.keys()


# --- what a fetched state makes superfluous -------------------------------------------------------


def recovered_while_r3_was_away() -> tuple[World, int]:
    """r2's RECOVER was executed, and its T is stable; r3 starts, far behind. T."""
    world = small()
    world.ask_each(1, 3)
    world.crash("r3")
    for name in ("r0", "r1"):
        world.give(name, recover(world, 2))
    world.run(8)
    voting_from = world.core("r0").execution.recoveries[2].voting_from
    assert world.core("r0").low == world.core("r0").executed == voting_from
    world.start("r3")
    return world, voting_from


def test_view_changes_that_a_fetched_state_makes_void_are_forgotten() -> None:
    """PROTOCOL.md, Recovery: "Its VIEW-CHANGEs from before count no more", wherever learned."""
    world, voting_from = recovered_while_r3_was_away()
    world.give("r3", view_change(world, 2, 5))
    assert 2 in world.core("r3").views.changes
    world.connect("r3")
    world.run(3)
    assert world.emitted("r3", "state_transferred")
    assert world.core("r3").executed == voting_from
    assert 2 not in world.core("r3").views.changes
    world.give("r3", view_change(world, 0, 5))
    assert world.said("r3", ViewChange) == [], "one that counts is no f+1"


def test_who_fetched_a_state_gives_the_primary_its_full_time() -> None:
    """PROTOCOL.md, 4.5: "A replica that knows itself to be behind times no primary", nor by the
    time that it was behind."""
    world = behind()
    world.give("r3", world.request(10, b"10"))
    hears_certificate(world)
    for _ in range(6):
        world.tick()
        world.deliver(lambda m: "r3" not in (m.sender, m.receiver))
        world.drop(lambda m: "r3" in (m.sender, m.receiver))
    world.tick()
    world.deliver(lambda m: not isinstance(m.payload, Commit))
    assert world.emitted("r3", "state_transferred")
    assert world.core("r3").status is ReplicaStatus.NORMAL
    assert world.now > WAIT
    for _ in range(3):
        world.handle_timer("r3", 1.0)
        assert world.said("r3", ViewChange) == []
    world.handle_timer("r3", 1.0)
    assert [message.view for message in world.said("r3", ViewChange)] == [1]


def test_of_a_wrong_past_no_state_stays() -> None:
    """PROTOCOL.md, State transfer: what was executed above the fetched state is executed anew."""
    world = wrong_r3(7, without=6)
    assert {world.core(name).low for name in world.names} == {0, 4}
    for signed in said_of_checkpoint(world, 4):
        world.give("r3", signed)
    assert world.core("r3").is_diverged
    assert world.core("r3").checkpoints.snapshots[6] != world.core("r0").checkpoints.snapshots[6]
    for _ in range(3):
        world.tick()
        world.deliver(lambda m: not isinstance(m.payload, Checkpoint))
    assert [told["sequence"] for told in world.emitted("r3", "state_transferred")] == [4]
    assert world.core("r3").executed == 7
    assert world.core("r3").checkpoints.snapshots[6] == world.core("r0").checkpoints.snapshots[6]
    world.run(2)
    assert world.core("r3").low == 6
    assert len(world.emitted("r3", "diverged")) == 1
    said = {message for message in world.said("r3", Checkpoint) if message.sequence == 6}
    assert len(said) == 1, "what it said it cannot take back"


def test_what_was_said_of_a_wrong_past_is_said_after_a_restart_too() -> None:
    """PROTOCOL.md, 4.3: "It sends no second CHECKPOINT for a sequence number, even if the first was
    wrong"."""
    world = wrong_r3(7, without=6)
    for signed in said_of_checkpoint(world, 4):
        world.give("r3", signed)
    for _ in range(3):
        world.tick()
        world.deliver(lambda m: not isinstance(m.payload, Checkpoint))
    world.under_way.clear()
    assert (world.core("r3").low, world.core("r3").executed) == (4, 7)
    world.crash("r3")
    world.make_application = lambda name: Journal()
    world.start("r3")
    world.connect("r3")
    world.run(2)
    assert world.core("r3").low == 6
    assert len({m for m in world.said("r3", Checkpoint) if m.sequence == 6}) == 1


class WrongFromThree(Journal):
    """The third operation went wrong in memory."""

    def apply(self, request: Request, request_digest: bytes, sequence: int) -> Applied:
        applied = super().apply(request, request_digest, sequence)
        if sequence == 3:
            self.head = bytes(32)
        return applied


def test_a_state_that_was_right_once_is_diverged_all_the_same() -> None:
    """PROTOCOL.md, 4.3: only "a later certificate" for its own digest ends that, no older one."""
    world = wrong_r3(5, application=WrongFromThree)
    words = {sequence: said_of_checkpoint(world, sequence) for sequence in (2, 4)}
    world.under_way.clear()
    for sequence in (4, 2):
        for signed in words[sequence]:
            world.give("r3", signed)
    assert world.core("r3").low == 2
    assert world.core("r3").is_diverged
    assert not world.core("r3").is_voting


def test_who_is_diverged_leaves_no_view() -> None:
    """PROTOCOL.md, 4.3: "neither votes nor executes", and judges nobody."""
    world = wrong_r3(5)
    world.give("r3", world.request(9, b"9"))
    words = said_of_checkpoint(world, 4)
    world.under_way.clear()
    for signed in words:
        world.give("r3", signed)
    core = world.core("r3")
    assert (core.is_diverged, core.transfers.current) == (True, None)
    core.peers.status_due = world.now + 10 * WAIT
    assert world.handle_timer("r3", 3 * WAIT).deadline == core.peers.status_due
    assert world.said("r3", ViewChange) == []


# --- going on -------------------------------------------------------------------------------------


def test_a_replica_whose_state_is_right_again_goes_on_by_itself() -> None:
    """PROTOCOL.md, 4.3: what was decided while it was `diverged` it executes by itself."""
    world = wrong_r3(5, application=WrongForAWhile)
    world.under_way.clear()
    for signed in said_of_checkpoint(world, 2):
        world.give("r3", signed)
    assert world.core("r3").is_diverged
    for timestamp in (6, 7):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: not isinstance(m.payload, Checkpoint))
    world.tick()
    world.deliver(lambda m: not isinstance(m.payload, Checkpoint))
    assert (world.core("r3").executed, world.core("r0").executed) == (5, 7)
    assert all(slot.committed_local() for slot in world.core("r3").log.above(5))
    world.under_way.clear()
    for signed in said_of_checkpoint(world, 4):
        world.give("r3", signed)
    assert not world.core("r3").is_diverged
    assert world.core("r3").executed == 7


def test_a_replica_that_fetched_a_state_goes_on_by_itself() -> None:
    """PROTOCOL.md, State transfer: what is decided above it, it executes without another word."""
    world = behind(2)
    world.ask(3, b"3")
    world.deliver(lambda m: not isinstance(m.payload, Status))
    assert (world.core("r3").executed, world.core("r0").executed) == (0, 3)
    assert world.core("r3").log.slot(3).committed_local()
    fetching(world)
    world.deliver(lambda m: isinstance(m.payload, FetchState | StateLeaves | StateParts))
    assert [told["sequence"] for told in world.emitted("r3", "state_transferred")] == [2]
    assert world.core("r3").executed == 3
