"""What a faulty member can make a replica do, by sending things without end, is bounded."""

from collections.abc import Callable, Sequence

import pytest

from pbft import certificates, normal_case, state_transfer
from pbft.certificates import state_leaves
from pbft.codec import decode_message, digest_of
from pbft.core import Settings
from pbft.messages import (
    Checkpoint,
    Commit,
    Envelope,
    FetchBody,
    FetchState,
    NewView,
    PrePrepare,
    Replies,
    Request,
    Signed,
    StateLeaves,
    StateParts,
    Status,
    ViewChange,
)
from pbft.ports import DeferredReply, Output
from tests.pbft.forge import drive_into_view, drive_into_view_change
from tests.pbft.world import Journal, World

STATEMENT = bytes(5000)


class Recalling(Journal):
    """Has a long second answer to every request, and counts how often it is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.looked_up = 0

    def find_deferred(self, request: Request, request_digest: bytes) -> DeferredReply:
        self.looked_up += 1
        return DeferredReply(
            request.client, request.timestamp, request_digest, "decided", b"", STATEMENT
        )


def having_executed(last: int, client_window: int) -> tuple[World, list[Recalling]]:
    """A world in which numbers up to `last` are executed, and its applications."""
    made: list[Recalling] = []

    def application(name: str) -> Journal:
        made.append(Recalling())
        return made[-1]

    world = World(client_window=client_window, application=application)
    for timestamp in range(1, last + 1):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    return world, made


def receive(world: World, name: str, requests: Sequence[Signed]) -> Output:
    """One turn with all of these."""
    return world.replicas[name].receive([Envelope(signed) for signed in requests], world.now)


def answers(output: Output) -> list[tuple[int, str]]:
    found = [decode_message(send.envelope.signed.payload) for send in output.messages]
    return [(r.timestamp, r.kind) for m in found if isinstance(m, Replies) for r in m.replies]


# --- requests that were executed ----------------------------------------------------------------


def test_a_request_that_comes_many_times_in_one_turn_is_answered_once() -> None:
    world, made = having_executed(3, client_window=2)
    looked_up = made[1].looked_up
    output = receive(world, "r1", [world.request(1, b"1"), world.request(3, b"3")] * 1000)
    assert answers(output) == [(1, "decided"), (3, "done"), (3, "decided")]
    assert made[1].looked_up == looked_up + 2
    assert output.events == []
    output = receive(world, "r1", [world.request(1, b"1")])
    assert answers(output) == [(1, "decided")]


def test_a_forged_copy_keeps_no_answer_from_its_client() -> None:
    world, _ = having_executed(1, client_window=2)
    true = world.request(1, b"1")
    forged = Signed(true.signer, true.payload, bytes(64))
    assert answers(receive(world, "r1", [forged, true])) == [(1, "done"), (1, "decided")]


def test_what_is_looked_up_for_one_client_in_one_turn_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kept answers are always given, others' turns are their own, and the rest comes in turn."""
    monkeypatch.setattr(normal_case, "AGAIN_BYTES_MAX", 30_000)
    world, made = having_executed(40, client_window=4)
    world.ask(1, b"", "other")
    world.deliver()
    looked_up = made[1].looked_up
    unanswered = list(range(1, 41))
    requests = {timestamp: world.request(timestamp, b"%d" % timestamp) for timestamp in unanswered}
    other = world.request(1, b"", "other")
    output = receive(world, "r1", [*requests.values(), other])
    decided = [timestamp for timestamp, kind in answers(output) if kind == "decided"]
    done = [timestamp for timestamp, kind in answers(output) if kind == "done"]
    assert decided == [1, 2, 3, 4, 5, 1]
    assert done == [37, 38, 39, 40, 1]
    assert made[1].looked_up == looked_up + 6
    reasons = [str(event.details["reason"]) for event in output.events]
    assert len(reasons) == 35
    assert set(reasons) == {
        "more was asked again than is looked up at once: ask again later",
    }
    turns = 0
    while unanswered:
        output = receive(world, "r1", [requests[timestamp] for timestamp in unanswered])
        for timestamp, kind in answers(output):
            if kind == "decided":
                unanswered.remove(timestamp)
        turns += 1
    assert turns == 8


# --- the leaves of a state ----------------------------------------------------------------------


def test_a_state_is_hashed_once_however_often_its_leaves_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the next one has taken its place."""
    hashed: list[bytes] = []

    def counted(data: bytes) -> bytes:
        hashed.append(data)
        return digest_of(data)

    world = World(checkpoint_interval=2, window=4)
    for stable in (2, 4):
        for timestamp in (stable - 1, stable):
            world.ask(timestamp, b"%d" % timestamp)
            world.deliver()
        core = world.core("r0")
        assert core.low == stable
        leaves = StateLeaves(stable, state_leaves(core.checkpoints.stable_parts), 0)
        asked = world.sign("r3", FetchState(stable, (), 3))
        with monkeypatch.context() as patch:
            for module in (certificates, state_transfer):
                patch.setattr(module, "digest_of", counted)
            outputs = [world.give("r0", asked) for _ in range(20)]
        for output in outputs:
            assert decode_message(output.messages[0].envelope.signed.payload) == leaves
        assert len(hashed) == len(core.checkpoints.stable_parts)
        assert set(core.transfers.leaves) == {stable}
        hashed.clear()


# --- what is fetched and sent again ---------------------------------------------------------------


class Big(Journal):
    """Five large parts that change with each operation."""

    def parts(self) -> dict[str, bytes]:
        large = {f"large/{n}": bytes([self.count]) * 300_000 for n in range(5)}
        return {**super().parts(), **large}


ONE_BODY = 1000


def fetch_body(world: World) -> Signed:
    return world.sign("r3", FetchBody(1, world.said("r0", PrePrepare)[0].digest, 3))


def fetch_state(*names: str) -> Callable[[World], Signed]:
    return lambda world: world.sign("r3", FetchState(2, names, 3))


@pytest.mark.parametrize(
    ("question", "bytes_max", "answers"),
    [
        (fetch_body, 2 * ONE_BODY, 2),
        (fetch_state(), 2 * 9 * state_transfer.LEAF_BYTES, 2),
        (fetch_state("journal"), 60, 2),
        (fetch_state(*(f"large/{n}" for n in range(5))), 1, 1),
    ],
    ids=["a body", "leaves", "a small part", "large parts"],
)
def test_what_a_peer_fetches_again_and_again_is_bounded(
    question: Callable[[World], Signed], bytes_max: int, answers: int
) -> None:
    """PROTOCOL.md, Bounds: so many bytes and one answer over it, per half `status_seconds`."""
    settings = Settings(status_seconds=1.0, resend_bytes_max=bytes_max)
    world = World(
        checkpoint_interval=2, window=4, settings=settings, application=lambda name: Big()
    )
    for timestamp in (1, 2):
        world.ask(timestamp, b"%d" % timestamp + bytes(ONE_BODY))
        world.deliver()
    asked = question(world)
    for half in range(3):
        world.now = 10.0 + half / 2
        outputs = [world.give("r0", asked) for _ in range(10)]
        assert sum(len(output.messages) for output in outputs) == answers
        assert "more was asked for" in world.refusals("r0")[-1]


def test_large_parts_are_cut_into_messages() -> None:
    """A state may be much bigger than a frame."""
    world = World(checkpoint_interval=2, window=4, application=lambda name: Big())
    for timestamp in (1, 2):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    world.give("r0", fetch_state(*(f"large/{n}" for n in range(5)))(world))
    said = world.said("r0", StateParts)
    assert [len(message.parts) for message in said] == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("kind", [NewView, ViewChange])
def test_the_proof_of_a_view_is_sent_again_at_most_twice_per_status_interval(
    kind: type[NewView | ViewChange],
) -> None:
    """PROTOCOL.md, Bounds: "and the NEW-VIEW", which may be as large as all else together."""
    world = World(settings=Settings(status_seconds=1.0))
    if kind is NewView:
        drive_into_view(world, "r0", 2)
    else:
        drive_into_view_change(world, "r0", 2)
    answered = []
    for step in range(41):
        world.now = 10.0 + step / 20
        said = world.sign("r3", Status(step % 2, step % 3 == 0, 0, 0, 3))
        sent = [decode_message(s.envelope.signed.payload) for s in world.give("r0", said).messages]
        if any(isinstance(message, kind) for message in sent):
            answered.append(world.now)
    assert answered == pytest.approx([10.0, 10.5, 11.0, 11.5, 12.0])


# --- links that are made again ------------------------------------------------------------------


def test_a_peer_that_dials_again_and_again_is_sent_no_more_for_it() -> None:
    """Slots and checkpoints, twice per `status_seconds`."""
    world = World(checkpoint_interval=2, window=8, settings=Settings(status_seconds=1.0))
    for timestamp in (1, 2, 3, 4):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    assert world.core("r0").low == 4
    said = world.sign("r3", Status(0, True, 0, 2, 3))
    sent: list[tuple[float, type]] = []
    for step in range(100):
        world.now = 10.0 + step / 100
        world.replicas["r0"].on_peer_connected("r3", world.now)
        for send in world.give("r0", said).messages:
            if send.to == "r3":
                message = decode_message(send.envelope.signed.payload)
                if isinstance(message, Checkpoint | Commit):
                    sent.append((world.now, type(message)))
    times = sorted({now for now, _ in sent})
    assert times == pytest.approx([10.0, 10.5])
    assert {kind for _, kind in sent} == {Checkpoint, Commit}


# --- contradictions -----------------------------------------------------------------------------


def test_who_contradicts_itself_in_each_message_makes_few_lines() -> None:
    """The pairs are kept, as far as the shell has room; of the others one hears at once."""
    world = World(checkpoint_interval=2, window=8)
    words = [world.checkpoint(2, bytes([digest]) * 32, 2) for digest in (1, 2)]
    for number in range(1, 101):
        output = world.give("r1", words[number % 2])
        assert len(output.evidence) == (number > 1)
    for digest in (1, 2):
        world.give("r1", world.commit(1, bytes([digest]) * 32, 3))
    assert world.emitted("r1", "equivocation") == [
        {"replica": 2},
        *({"replica": 2, "times": 2**power} for power in range(1, 7)),
        {"replica": 3},
    ]


def test_a_new_view_larger_than_a_right_one_can_be_is_no_evidence() -> None:
    """Both messages of a proof travel: what a primary puts into its second one has a bound."""
    world = World()
    drive_into_view(world, "r2")
    largest = world.cluster.new_view_bytes_max

    def second(junk_bytes: int) -> Signed:
        junk = Signed("r3", bytes(junk_bytes), bytes(64))
        return world.sign("r1", NewView(1, (junk,), (), 1))

    fits = largest - (len(second(largest).payload) - largest)
    assert world.give("r2", second(fits + 1)).evidence == []
    assert "larger than a right one can be" in world.refusals("r2")[-1]
    (proof,) = world.give("r2", second(fits)).evidence
    assert len(proof.second.payload) == largest


def test_a_first_new_view_that_is_too_large_is_refused_before_it_is_looked_into() -> None:
    world = World()
    drive_into_view_change(world, "r2")
    junk = Signed("r3", bytes(world.cluster.new_view_bytes_max), bytes(64))
    refusal = world.refuse("r2", world.sign("r1", NewView(1, (junk,), (), 1)))
    assert "larger than a right one can be" in refusal
