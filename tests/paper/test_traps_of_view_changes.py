"""Traps of docs/TRAPS.md: replicas that lose what was prepared, or stop, when the view changes."""

import itertools
import random

import pytest

from pbft.core import Settings
from pbft.evidence import check_evidence
from pbft.log import NULL_REQUEST
from pbft.messages import (
    Checkpoint,
    Commit,
    Envelope,
    NewView,
    Prepare,
    PrePrepare,
    Replies,
    Request,
    Signed,
    ViewChange,
)
from pbft.ports import Refusal
from tests.pbft.checks import check_answers, check_safety
from tests.pbft.forge import (
    FALSE,
    certificate,
    checked,
    drive_into_view,
    new_view,
    prepare_at,
    view_change,
)
from tests.pbft.world import Message, World, verify

SETTINGS = Settings(view_change_seconds=4.0, view_change_seconds_max=16.0)


def small(replicas: int = 4) -> World:
    return World(replicas, checkpoint_interval=2, window=4, client_window=16, settings=SETTINGS)


def operations(world: World, *names: str) -> set[tuple[bytes, ...]]:
    return {tuple(world.applications[name].operations) for name in names}


# --- 1: what was prepared -----------------------------------------------------------------------


@pytest.mark.parametrize("committer", ["r1", "r2", "r3"])
def test_trap_01_what_one_replica_alone_committed_is_decided_in_the_next_view(
    committer: str,
) -> None:
    """One replica executes in view 0, every other COMMIT is lost, the primary dies."""
    world = small()
    world.ask(1, b"m")
    world.deliver(lambda m: not isinstance(m.payload, Commit) or m.receiver == committer)
    world.drop(lambda m: True)
    assert [n for n, executed in world.executed().items() if executed] == [committer]
    world.crash("r0")
    world.ask(1, b"another", "other")

    def is_commit_of_view_0(message: Message) -> bool:
        return isinstance(message.payload, Commit) and message.payload.view == 0

    # Not by its COMMIT, only by what the VIEW-CHANGEs report the others come to know of it.
    for _ in range(20):
        world.tick()
        world.drop(is_commit_of_view_0)
        world.deliver(lambda m: not is_commit_of_view_0(m))
    assert set(world.executed().values()) == {2}
    assert operations(world, "r1", "r2", "r3") == {(b"m", b"another")}
    check_safety(world)


@pytest.mark.parametrize("excluded", [0, 2, 3])
def test_trap_01_whichever_2f_plus_1_view_changes_are_taken(excluded: int) -> None:
    """m was decided in view 0: every V holds one that prepared it, so O holds it."""
    world = small()
    world.ask(1, b"m")
    world.deliver()
    assert set(world.executed().values()) == {1}
    digest = world.said("r0", PrePrepare)[0].digest
    for name in world.names:
        world.give(name, world.request(1, b"wait", "other"))
    world.under_way.clear()
    for name in ("r2", "r3", "r1"):
        world.handle_timer(name, 4.0)
    world.give("r0", changes_of(world, "r2"))
    world.give("r0", changes_of(world, "r3"))
    changes = [changes_of(world, name) for name in world.names if name != world.names[excluded]]
    order = [checked(world, change).prepared for change in changes]
    assert any((1, 0, digest) in prepared for prepared in order)
    message = world.core("r2").authenticator.read(new_view(world, 1, changes))
    assert isinstance(message, NewView)
    assert world.sign("r1", PrePrepare(1, 1, digest, 1)) in message.pre_prepares


def changes_of(world: World, name: str) -> Signed:
    (message,) = world.said(name, ViewChange)
    return world.sign(name, message)


def test_besu_an_older_rounds_prepared_block_is_not_taken() -> None:
    """A prepared in view 0 at r0, B in view 1 at r2: B, also where A came first and oftener."""
    world = World(7)
    older = [view_change(world, i, 3, prepared=[certificate(world, 1, FALSE)]) for i in (0, 1, 4)]
    newer = view_change(world, 2, 3, prepared=[certificate(world, 1, bytes(32), view=1)])
    changes = [*older, newer, view_change(world, 5, 3)]
    wrong = new_view(world, 3, changes, [(1, FALSE)])
    assert "does not order" in world.refuse("r6", wrong)
    world.give("r6", new_view(world, 3, changes, [(1, bytes(32))]))
    assert world.core("r6").has_entered


def test_celo_f_locked_on_a_and_2f_on_b_go_on_with_b() -> None:
    """r0 prepared A in view 0, r1 and r2 B in view 1; r3 is silent, so V is of these three. View 2
    begins with B, the newer one; r0 votes for it and A comes after it. There is no lock to fight.
    """
    world = small()
    world.crash("r3")
    world.give("r0", world.request(1, b"A"))
    a = world.said("r0", PrePrepare)[0].digest
    for replica in (1, 2):
        world.give("r0", world.prepare(1, a, replica))
    b = prepare_at_view_1(world, "r1")
    assert b == prepare_at_view_1(world, "r2")
    prepared = [world.core(name).log.slot(1).prepared for name in ("r0", "r1", "r2")]
    assert [(p.view, p.digest) for p in prepared if p] == [(0, a), (1, b), (1, b)]
    # Nobody was answered, so A is asked for everywhere, and both who are in view 1 leave it.
    for name in world.replicas:
        world.give(name, world.request(1, b"A"))
    world.under_way.clear()
    world.handle_timer("r2", 2 * SETTINGS.view_change_seconds)
    world.handle_timer("r1")
    world.deliver(lambda m: isinstance(m.payload, ViewChange | NewView))
    (begun,) = world.said("r2", NewView)
    assert [signed.signer for signed in begun.view_changes] == ["r2", "r0", "r1"]
    assert [checked(world, signed).prepared for signed in begun.view_changes] == [
        ((1, 1, b),),
        ((1, 0, a),),
        ((1, 1, b),),
    ]
    assert begun.pre_prepares == (world.sign("r2", PrePrepare(2, 1, b, 2)),)
    assert {(r.core.view, r.core.has_entered) for r in world.replicas.values()} == {(2, True)}
    world.run(10)
    assert {replica.core.view for replica in world.replicas.values()} == {2}
    assert operations(world, "r0", "r1", "r2") == {(b"B", b"A")}
    check_safety(world, ("r0", "r1", "r2"))


def prepare_at_view_1(world: World, name: str) -> bytes:
    """r1 leads view 1, begun without r0's VIEW-CHANGE, and orders B at 1."""
    changes = [view_change(world, i, 1) for i in (1, 2, 3)]
    if name == "r1":
        for replica in (2, 3):
            world.give("r1", view_change(world, replica, 1))
        world.give("r1", world.request(1, b"B", "other"))
        digest = world.said("r1", PrePrepare)[-1].digest
        for replica in (2, 3):
            world.give("r1", world.prepare(1, digest, replica, 1))
        return digest
    world.give(name, new_view(world, 1, changes))
    request = world.request(1, b"B", "other")
    message, signed, body = world.pre_prepare(1, [request], view=1, replica=1)
    world.give(name, signed, body)
    world.give(name, world.prepare(1, message.digest, 3, 1))
    slot = world.core(name).log.slot(1)
    assert slot.prepared is not None
    return slot.prepared.digest


# --- 2, 3: NEW-VIEW and VIEW-CHANGE -------------------------------------------------------------


@pytest.mark.parametrize("lie", ["omit", "null", "swap", "lower min-s"])
def test_trap_02_after_a_false_new_view_the_backups_go_on_to_the_next_view(lie: str) -> None:
    """All backups refuse it, vote for v+2, and m is decided there."""
    world = small()
    world.ask(1, b"m")
    world.deliver(lambda m: not isinstance(m.payload, Commit))
    world.drop(lambda m: True)
    digest = world.said("r0", PrePrepare)[0].digest
    world.crash("r1")
    for name in world.replicas:
        world.give(name, world.request(1, b"n", "other"))
    for name in ("r2", "r3"):
        world.handle_timer(name, 4.0)
    world.deliver(lambda m: isinstance(m.payload, ViewChange))
    changes = [changes_of(world, name) for name in ("r0", "r2", "r3")]
    digests = {
        "omit": [],
        "null": [(1, NULL_REQUEST)],
        "swap": [(1, FALSE)],
        "lower min-s": [(0, NULL_REQUEST), (1, digest)],
    }[lie]
    false = new_view(world, 1, changes, digests)
    for name in ("r0", "r2", "r3"):
        assert "does not order" in world.refuse(name, false)
    world.run(20)
    assert {replica.core.view for replica in world.replicas.values()} == {2}
    assert operations(world, "r0", "r2", "r3") == {(b"m", b"n")}
    check_safety(world, ("r0", "r2", "r3"))


def test_trap_03_one_bad_view_change_spoils_no_good_one() -> None:
    """r0's is invalid: r1 leaves it out, and takes r2's certificate with the others."""
    world = small()
    bad = view_change(world, 0, 1, prepared=[certificate(world, 2, FALSE, backups=(2,))])
    assert "too few backups" in world.refuse("r1", bad)
    world.give("r1", view_change(world, 2, 1, prepared=[certificate(world, 1, bytes([7]) * 32)]))
    world.give("r1", bad)
    assert world.said("r1", NewView) == []
    world.give("r1", view_change(world, 3, 1))
    (message,) = world.said("r1", NewView)
    assert [s.signer for s in message.view_changes] == ["r1", "r2", "r3"]
    assert len(message.pre_prepares) == 1


# --- 5: replayed and stale ----------------------------------------------------------------------


def test_trap_05_a_recorded_view_change_brings_nobody_back() -> None:
    """The quorum of view 2 is sent again in view 5: the view stays, nothing is cleared."""
    world = small()
    recorded = [view_change(world, i, 2) for i in range(4)]
    recorded_new_view = new_view(world, 2, recorded[:3])
    drive_into_view(world, "r0", 2)
    drive_into_view(world, "r0", 5)
    prepare_at(world, "r0", 1, b"x", view=5)
    for signed in (*recorded[1:], recorded_new_view):
        assert "left or entered" in world.refuse("r0", signed)
    assert (world.core("r0").view, world.core("r0").has_entered) == (5, True)
    assert world.core("r0").log.slot(1).prepared is not None


def test_trap_05_twin_a_huge_view_of_one_replica_drags_nobody() -> None:
    """And it stands in nobody's way afterwards: r3 counts as gone, the others go on without."""
    world = small()
    world.crash("r3")
    for name in ("r0", "r1", "r2"):
        world.give(name, view_change(world, 3, 2**62))
    world.ask(1, b"x")
    world.run(10)
    assert {replica.core.view for replica in world.replicas.values()} == {0}
    assert len(world.client_output.accepted) == 1


# --- 6: equivocation ----------------------------------------------------------------------------


def test_trap_06_an_equivocating_primary_is_caught_with_both_its_words() -> None:
    """{r1} and {r2, r3} are told different requests; a view change follows; one is executed."""
    world = small()
    world.crash("r0")
    first = world.pre_prepare(1, [world.request(1, b"first")])
    second = world.pre_prepare(1, [world.request(1, b"second")])
    world.give("r1", first[1], first[2])
    for name in ("r2", "r3"):
        world.give(name, second[1], second[2])
    for name in world.replicas:
        world.give(name, world.request(1, b"second"))
    world.give("r2", first[1], first[2])
    (evidence,) = [e for output in world.outputs["r2"] for e in output.evidence]
    assert (evidence.replica, evidence.first, evidence.second) == (0, second[1], first[1])
    proved = check_evidence(evidence.first, evidence.second, world.cluster, verify=verify)
    assert not isinstance(proved, Refusal)
    assert "r0 signed two different PrePrepare" in proved
    world.run(14)
    assert {replica.core.view for replica in world.replicas.values()} == {1}
    assert len(operations(world, "r1", "r2", "r3")) == 1
    assert all(len(world.applications[n].operations) == 1 for n in world.replicas)
    check_safety(world, ("r1", "r2", "r3"))


# --- 13: reads ----------------------------------------------------------------------------------


def test_trap_13_there_are_no_unordered_reads_and_every_operation_needs_f_plus_1_alike() -> None:
    """How reads are served: there are none. What only looks is ordered like what writes, so the
    leader that keeps one replica in the dark gains nothing: f+1 equal replies come from the rest,
    and the one in the dark gets what was decided from its peers."""
    world = small()
    for timestamp in range(1, 7):
        world.ask(timestamp, b"look" if timestamp % 2 else b"write %d" % timestamp)
        world.deliver(lambda m: not (m.sender == "r0" and m.receiver == "r3"))
        world.drop(lambda m: m.sender == "r0" and m.receiver == "r3")
    assert len(world.client_output.accepted) == 6
    assert all(len(a.replies) >= 2 for a in world.client_output.accepted)
    for _ in range(4):
        world.tick()
        world.drop(lambda m: m.sender == "r0" and m.receiver == "r3")
        world.deliver(lambda m: not (m.sender == "r0" and m.receiver == "r3"))
    assert world.executed()["r3"] == world.executed()["r1"]
    assert {replica.core.view for replica in world.replicas.values()} == {0}


def test_trap_13_a_reply_is_given_for_what_was_executed_only() -> None:
    """No message makes a replica answer from its state before its request was ordered."""
    world = small()
    world.give("r1", world.request(1, b"look"))
    assert world.said("r1", Replies) == []


# --- 14: timers ---------------------------------------------------------------------------------


def test_trap_14_nobody_drives_the_wait_up_and_then_leads_slowly() -> None:
    """(a, d) two views fail, the third serves: from then on a dead primary is left after T."""
    world = World(7, checkpoint_interval=2, window=4, client_window=64, settings=SETTINGS)
    for name in ("r0", "r1"):
        world.crash(name)
    for timestamp in range(1, 5):
        world.ask(timestamp, b"%d" % timestamp)
        world.run(12)
    assert {replica.core.view for replica in world.replicas.values()} == {2}
    for name in ("r0", "r1"):
        world.start(name)
        world.connect(name)
    world.run(4)
    world.crash("r2")
    asked_at = world.now
    world.ask(5, b"5")
    while len(world.client_output.accepted) < 5:
        world.run(1)
        assert world.now - asked_at <= SETTINGS.view_change_seconds + 3
    check_safety(world)


def test_trap_14_an_executed_request_arms_no_timer() -> None:
    """(b) however often it comes again."""
    world = small()
    world.ask(1, b"x")
    world.deliver()
    for _ in range(12):
        for name in world.names:
            world.give(name, world.request(1, b"x"))
        world.run(1)
    assert {replica.core.view for replica in world.replicas.values()} == {0}
    assert all(replica.core.timers.waiting == {} for replica in world.replicas.values())


def test_trap_14_a_primary_that_serves_everybody_but_one_is_deposed() -> None:
    """(c) with the cluster as it is: r0 never hears the client `other`, and backups tell it."""
    world = small()
    for timestamp in range(1, 14):
        world.ask(timestamp, b"%d" % timestamp)
        if timestamp == 1:
            world.ask(1, b"censored", "other")
        world.drop(is_censored)
        world.deliver(lambda m: not is_censored(m))
        world.drop(is_censored)
        world.tick(0.5)
    world.run(6)
    assert {replica.core.view for replica in world.replicas.values()} == {1}
    assert len(world.client_outputs["other"].accepted) == 1
    assert len(world.client_output.accepted) == 13


def is_censored(message: Message) -> bool:
    payload = message.payload
    return message.receiver == "r0" and isinstance(payload, Request) and payload.client == "other"


# --- 16: after transient loss -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_trap_16_a_torn_view_change_heals_without_traffic(seed: int) -> None:
    """Every link loses two of three messages for half a minute; then nobody asks anything more."""
    random_source = random.Random(seed)
    world = small(7 if seed % 4 == 0 else 4)
    world.ask(1, b"x")
    world.drop(lambda m: m.receiver == "r0")
    world.crash("r0")
    for _ in range(30):
        world.tick()
        world.drop(lambda m: random_source.random() < 0.66)
        world.deliver()
    world.run(30)
    assert len(world.client_output.accepted) == 1
    entered = {r.core.view for r in world.replicas.values() if r.core.has_entered}
    assert len(entered) == 1
    assert len(set(world.executed().values())) == 1
    check_safety(world)


LINKS = list(itertools.permutations(("r1", "r2", "r3"), 2))


@pytest.mark.parametrize("lost", range(1, len(LINKS) + 1))
def test_trap_16_view_changes_that_some_links_lost_come_again_without_traffic(lost: int) -> None:
    """r0 is dead, so the VIEW-CHANGEs of all others are needed. Whichever one-way links lose
    everything until the timers have expired: once they heal, all come to one view.
    """
    for links in itertools.combinations(LINKS, lost):
        check_healing(links)


def check_healing(links: tuple[tuple[str, str], ...]) -> None:
    """The links lose everything for three times T, and nobody asks again for what waits."""
    world = small()
    world.ask(1, b"x")
    world.crash("r0")
    world.deliver()
    for _ in range(12):
        world.tick()
        world.deliver(lambda m: m.sender != "client" and (m.sender, m.receiver) not in links)
        world.under_way.clear()
    assert any(world.said(name, ViewChange) for name in world.replicas), links
    for _ in range(12):
        world.tick()
        world.deliver(lambda m: m.sender != "client")
    places = {(replica.core.view, replica.core.has_entered) for replica in world.replicas.values()}
    assert len(places) == 1, (links, places)
    assert places.pop()[1], links
    assert operations(world, "r1", "r2", "r3") == {(b"x",)}, links
    check_safety(world)


# --- 23: small-scope faults ---------------------------------------------------------------------


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_trap_23_small_scope_mutations_of_one_replicas_words(first: int) -> None:
    """ByzzFuzz: for some rounds one replica's messages are off by one, old, or missing; other
    links lose some; then it is silent. Agreement, validity, integrity, bounded termination."""
    for seed in range(first, first + 20):
        random_source = random.Random(23_000 + seed)
        world = small()
        bad = random_source.choice(world.names)
        correct = tuple(name for name in world.names if name != bad)
        old: list[bytes] = [FALSE, NULL_REQUEST]
        for timestamp in range(1, 6):
            world.ask(timestamp, b"%d" % timestamp)
            for _ in range(3):
                world.under_way = [
                    mutated
                    for message in world.under_way
                    for mutated in mutate(world, message, bad, random_source, old)
                ]
                for _ in range(40):
                    if world.under_way:
                        index = random_source.randrange(len(world.under_way))
                        world.deliver_one(world.under_way.pop(index))
            world.tick()
        world.crash(bad)
        world.run(40)
        try:
            check_safety(world, correct)
            check_answers(world)
            assert len(world.client_output.accepted) == 5
            assert len({world.core(name).executed for name in correct}) == 1
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, bad {bad}: {error}") from error


def mutate(
    world: World, message: Message, bad: str, source: random.Random, old: list[bytes]
) -> list[Message]:
    """What becomes of a message: nothing, itself, or something close to it."""
    if message.sender != bad:
        return [] if source.random() < 0.02 else [message]
    payload = message.payload
    chance = source.random()
    if chance < 0.15:
        return []
    if not isinstance(payload, PrePrepare | Prepare | Commit | Checkpoint) or chance < 0.5:
        return [message]
    if payload.replica != world.names.index(bad):
        return [message]
    fields = {f: getattr(payload, f) for f in payload.__struct_fields__}
    field = source.choice([f for f in ("view", "sequence", "digest") if f in fields])
    if field == "digest":
        old.append(fields["digest"])
        fields["digest"] = source.choice(old)
    else:
        fields[field] = max(0, fields[field] + source.choice([-1, 1]))
    forged = world.sign(bad, type(payload)(**fields))
    changed = Message(bad, message.receiver, Envelope(forged, message.envelope.body))
    return [changed] if source.random() < 0.5 else [message, changed]


def test_trap_23_every_pair_of_lies_of_a_backup_about_one_number() -> None:
    """Exhaustive and small: two words out of all those close to the truth, at every backup."""
    world = small()
    message, _, _ = world.pre_prepare(1, [world.request(1, b"x")])
    words = [
        kind(view, sequence, digest, 3)
        for kind in (Prepare, Commit)
        for view in (0, 1)
        for sequence in (1, 2)
        for digest in (message.digest, FALSE)
    ]
    for pair in itertools.combinations(words, 2):
        world = small()
        world.crash("r3")
        for name in ("r0", "r1", "r2"):
            for word in pair:
                world.give(name, world.sign("r3", word))
        world.ask(1, b"x")
        world.run(2)
        assert len(world.client_output.accepted) == 1, pair
        assert set(world.executed().values()) == {1}, pair
        check_safety(world, ("r0", "r1", "r2"))


@pytest.mark.parametrize("view", [0, 1])
def test_a_certificate_that_is_sent_again_lets_a_replica_move_that_lost_the_checkpoints(
    view: int,
) -> None:
    """Whoever has the stable certificate re-sends it, also after a view change.

    r3 then hears r1 only, so all of it comes from r1. No view changes after the loss, for a
    VIEW-CHANGE proves the stable checkpoint as well.
    """
    world = small()
    if view == 1:
        for name, replica in itertools.product(("r0", "r1"), (2, 3)):
            world.give(name, view_change(world, replica, 1))
        world.deliver()
    for timestamp in (1, 2):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver(lambda m: not (isinstance(m.payload, Checkpoint) and m.receiver == "r3"))
    world.drop(lambda m: True)
    assert set(world.executed().values()) == {2}
    assert [world.core(name).low for name in world.names] == [2, 2, 2, 0]
    since = len(world.sent)
    for _ in range(4):
        world.tick()
        world.deliver(lambda m: m.receiver != "r3" or m.sender == "r1")
    assert world.core("r3").low == 2
    assert world.core("r3").checkpoints.stable.digest == world.core("r1").checkpoints.stable.digest
    assert {replica.core.view for replica in world.replicas.values()} == {view}
    assert not [m for m in world.sent[since:] if isinstance(m.payload, ViewChange | NewView)]
