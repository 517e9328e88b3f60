"""OSDI'99, section 4.2, "Normal-Case Operation": PREPARE, COMMIT, execution."""

import itertools
import random

import pytest

from pbft.codec import encode_signed
from pbft.messages import (
    Commit,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    Signed,
)
from pbft.ports import Executed, SavedMessage, SavedPrepared
from tests.pbft.checks import check_safety
from tests.pbft.forge import FALSE, backup_with_pre_prepare, with_bad_signature
from tests.pbft.world import World

# --- PREPARE ------------------------------------------------------------------------------------


def test_prepare_refused_with_a_bad_signature() -> None:
    """Replicas accept PREPAREs if their signatures are correct (first condition)."""
    world = World()
    digest = backup_with_pre_prepare(world)
    vote = with_bad_signature(world.prepare(1, digest, 2))
    assert world.refuse("r1", vote) == "bad signature"


@pytest.mark.parametrize("view", [1, 4])
def test_prepare_refused_of_another_view(view: int) -> None:
    """Their view number equals the replica's current view (second condition)."""
    world = World()
    digest = backup_with_pre_prepare(world)
    assert "while in view 0" in world.refuse("r1", world.prepare(1, digest, 2, view))


@pytest.mark.parametrize("sequence", [0, 17, 2**62])
def test_prepare_refused_outside_the_water_marks(sequence: int) -> None:
    """Their sequence number is between h and H (third condition)."""
    world = World(checkpoint_interval=8, window=16)
    vote = world.prepare(sequence, FALSE, 2)
    assert world.refuse("r1", vote) == "outside the water marks"


def test_prepare_refused_from_the_primary() -> None:
    """The PREPAREs are from backups: the primary's vote is its PRE-PREPARE, not counted twice."""
    world = World()
    digest = backup_with_pre_prepare(world)
    assert "from the primary" in world.refuse("r1", world.prepare(1, digest, 0))


def test_prepare_refused_that_names_another_replica() -> None:
    """i is the replica that signed it."""
    world = World()
    digest = backup_with_pre_prepare(world)
    vote = world.sign("r2", Prepare(0, 1, digest, 3))
    assert "not the replica" in world.refuse("r1", vote)
    claimed = Signed("r3", vote.payload, vote.signature)
    assert world.refuse("r1", claimed) == "bad signature"


def test_prepare_refused_of_a_replica_that_does_not_exist() -> None:
    """i is in R."""
    world = World()
    vote = Prepare(0, 1, FALSE, 4)
    assert "not the replica" in world.refuse("r1", world.sign("r4", vote))


def test_a_second_prepare_for_another_digest_is_refused_and_told() -> None:
    """One voice, one vote: the first one stands."""
    world = World()
    digest = backup_with_pre_prepare(world)
    world.give("r1", world.prepare(1, FALSE, 2))
    assert "voted for another digest" in world.refuse("r1", world.prepare(1, digest, 2))
    assert world.emitted("r1", "equivocation") == [{"replica": 2}]


def test_prepared_needs_the_pre_prepare_and_2f_prepares_of_distinct_backups() -> None:
    """prepared(m, v, n, i): the request, a PRE-PREPARE for it, and 2f matching PREPAREs."""
    world = World(7)
    digest = backup_with_pre_prepare(world)
    for replica in (2, 3, 4):
        assert world.said("r1", Commit) == []
        world.give("r1", world.prepare(1, digest, replica))
    assert world.said("r1", Commit) == [Commit(0, 1, digest, 1)]


def test_prepares_without_the_pre_prepare_prepare_nothing() -> None:
    """The certificate has a PRE-PREPARE: without it even all PREPAREs are not enough."""
    world = World()
    message, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    for replica in (2, 3):
        world.give("r1", world.prepare(1, message.digest, replica))
    assert world.said("r1", Commit) == []
    world.give("r1", signed, body)
    assert world.said("r1", Commit) == [Commit(0, 1, message.digest, 1)]


def test_prepares_for_another_digest_never_count() -> None:
    """They match the PRE-PREPARE: same view, number and digest."""
    world = World()
    backup_with_pre_prepare(world)
    for replica in (2, 3):
        world.give("r1", world.prepare(1, FALSE, replica))
    assert world.said("r1", Commit) == []
    assert not world.replicas["r1"].core.log.slot(1).is_prepared(world.cluster.quorums)


def test_prepares_for_another_number_never_count() -> None:
    """They match the PRE-PREPARE: n as well."""
    world = World()
    digest = backup_with_pre_prepare(world)
    for replica in (2, 3):
        world.give("r1", world.prepare(2, digest, replica))
    assert world.said("r1", Commit) == []


def test_a_prepare_that_comes_ten_times_counts_once() -> None:
    """2f different backups."""
    world = World(7)
    digest = backup_with_pre_prepare(world)
    for _ in range(10):
        world.give("r1", world.prepare(1, digest, 2))
    assert world.said("r1", Commit) == []


def test_the_primary_is_prepared_by_2f_prepares_of_backups() -> None:
    """prepared holds at the primary too: its own PRE-PREPARE and 2f PREPAREs."""
    world = World()
    world.give("r0", world.request(1, b"x"))
    digest = world.said("r0", PrePrepare)[0].digest
    world.give("r0", world.prepare(1, digest, 2))
    assert world.said("r0", Commit) == []
    world.give("r0", world.prepare(1, digest, 3))
    assert world.said("r0", Commit) == [Commit(0, 1, digest, 0)]


def test_the_prepared_certificate_is_saved_with_the_commit() -> None:
    """The view change will have to show it (4.4), so it must survive a crash."""
    world = World()
    digest = backup_with_pre_prepare(world)
    world.give("r1", world.prepare(1, digest, 2))
    records = world.disks["r1"].records
    _, pre_prepare, _ = world.pre_prepare(1, [world.request(1, b"x")])
    prepares = (world.prepare(1, digest, 1), world.prepare(1, digest, 2))
    certificate = SavedPrepared(PreparedCertificate(pre_prepare, prepares))
    commit = SavedMessage(world.commit(1, digest, 1))
    assert records[-2:] == [certificate, commit]


# --- COMMIT -------------------------------------------------------------------------------------


def test_commit_refused_with_a_bad_signature() -> None:
    """Replicas accept COMMITs that are properly signed (first condition)."""
    world = World()
    digest = backup_with_pre_prepare(world)
    vote = with_bad_signature(world.commit(1, digest, 2))
    assert world.refuse("r1", vote) == "bad signature"


@pytest.mark.parametrize("view", [1, 4])
def test_a_commit_of_another_view_counts_in_that_view_only(view: int) -> None:
    """The view number equals the others' (second condition); any one view may decide."""
    world = World()
    digest = backup_with_pre_prepare(world)
    for replica in (0, 2):
        world.give("r1", world.commit(1, digest, replica))
    world.give("r1", world.commit(1, digest, 3, view))
    assert world.executed()["r1"] == 0
    for replica in (0, 2):
        world.give("r1", world.commit(1, digest, replica, view))
    assert world.executed()["r1"] == 1
    assert world.said("r1", Commit) == [], "it was not prepared here"
    assert (world.replicas["r1"].core.view, world.refusals("r1")) == (0, [])


@pytest.mark.parametrize("sequence", [0, 17, 2**62])
def test_commit_refused_outside_the_water_marks(sequence: int) -> None:
    """The sequence number is between h and H (third condition)."""
    world = World(checkpoint_interval=8, window=16)
    assert world.refuse("r1", world.commit(sequence, FALSE, 2)) == "outside the water marks"


def test_commit_refused_that_names_another_replica() -> None:
    """i is the replica that signed it."""
    world = World()
    vote = world.sign("r2", Commit(0, 1, FALSE, 3))
    assert "not the replica" in world.refuse("r1", vote)
    assert world.refuse("r1", Signed("r3", vote.payload, vote.signature)) == "bad signature"


def test_a_replica_commits_only_when_it_is_prepared() -> None:
    """COMMIT says that prepared is true at its sender; others' COMMITs do not make it so."""
    world = World()
    digest = backup_with_pre_prepare(world)
    for replica in (0, 2):
        world.give("r1", world.commit(1, digest, replica))
    assert world.said("r1", Commit) == []
    assert world.executed()["r1"] == 0


def test_a_commit_is_sent_once() -> None:
    """Further PREPAREs add nothing."""
    world = World(7)
    digest = backup_with_pre_prepare(world)
    commits = 0
    for replica in (2, 3, 4, 5, 6):
        output = world.give("r1", world.prepare(1, digest, replica))
        commits += sum(m.envelope.signed == world.commit(1, digest, 1) for m in output.messages)
    assert commits == 1


def test_committed_local_needs_2f_plus_1_commits_of_distinct_replicas() -> None:
    """committed-local(m, v, n, i): 2f+1 COMMITs, possibly its own, that match the PRE-PREPARE."""
    world = World(7)
    digest = backup_with_pre_prepare(world)
    for replica in (2, 3, 4):
        world.give("r1", world.prepare(1, digest, replica))
    for replica in (0, 2, 3):
        for _ in range(3):
            world.give("r1", world.commit(1, digest, replica))
        assert world.executed()["r1"] == 0
    world.give("r1", world.commit(1, digest, 4))
    assert world.executed()["r1"] == 1


def test_commits_for_another_digest_never_count() -> None:
    """2f+1 COMMITs that match the PRE-PREPARE for m."""
    world = World()
    digest = backup_with_pre_prepare(world)
    world.give("r1", world.prepare(1, digest, 2))
    for replica in (0, 2):
        world.give("r1", world.commit(1, FALSE, replica))
    assert world.executed()["r1"] == 0
    assert not world.replicas["r1"].core.log.slot(1).committed_local()


def test_a_replica_that_commits_to_two_digests_counts_for_one_at_a_time() -> None:
    """One voice, one vote, also where the later COMMIT replaces the earlier one."""
    world = World()
    digest = backup_with_pre_prepare(world)
    world.give("r1", world.commit(1, digest, 0))
    world.give("r1", world.commit(1, FALSE, 2))
    world.give("r1", world.commit(1, digest, 2))
    assert world.emitted("r1", "equivocation") == [{"replica": 2}]
    assert world.executed()["r1"] == 0
    world.give("r1", world.commit(1, FALSE, 2))
    world.give("r1", world.commit(1, digest, 3))
    assert world.executed()["r1"] == 0, "0 and 3 for it, 2 against"
    world.give("r1", world.commit(1, digest, 2))
    assert world.executed()["r1"] == 1
    assert "another digest than the decided" in world.refuse("r1", world.commit(1, FALSE, 2))


def test_the_commits_that_decided_are_saved_before_the_execution_is() -> None:
    """What was executed can be proved to others, and to ourselves after a crash."""
    world = World()
    world.ask(1, b"x")
    world.deliver()
    for name in world.names:
        (executed,) = [r for r in world.disks[name].records if isinstance(r, Executed)]
        digest = world.said("r0", PrePrepare)[0].digest
        assert (executed.sequence, executed.digest) == (1, digest)
        proof = {s for i in range(4) if (s := world.commit(1, digest, i)) in executed.commits}
        assert len(proof) == 3 == len(executed.commits)


# --- order of execution -------------------------------------------------------------------------


def test_a_replica_executes_after_all_lower_numbers_only() -> None:
    """Each replica executes m after committed-local is true and all lower numbers are executed."""
    world = World()
    pre_prepares = [world.pre_prepare(n, [world.request(n, b"%d" % n)]) for n in (1, 2, 3)]
    for message, signed, body in reversed(pre_prepares):
        world.give("r1", signed, body)
        for replica in (0, 2, 3):
            assert world.executed()["r1"] == 0
            world.give("r1", world.commit(message.sequence, message.digest, replica))
    assert world.executed()["r1"] == 3
    assert world.applications["r1"].operations == [b"1", b"2", b"3"]


def test_a_number_without_its_body_stops_execution_until_the_body_comes() -> None:
    """The request must be in the log; a digest cannot be executed."""
    world = World()
    first, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    for replica in (0, 2, 3):
        world.give("r1", world.commit(1, first.digest, replica))
    assert world.executed()["r1"] == 0
    world.give("r1", signed, body)
    assert world.executed()["r1"] == 1


def test_every_request_of_a_batch_is_executed_in_the_order_of_the_batch() -> None:
    """5: a batch is agreed as one, and executed one by one."""
    world = World()
    requests = [world.request(t, b"%d" % t) for t in (2, 1, 3)]
    message, signed, body = world.pre_prepare(1, requests)
    for replica in (0, 2, 3):
        world.give("r1", world.commit(1, message.digest, replica))
    world.give("r1", signed, body)
    assert world.applications["r1"].operations == [b"2", b"1", b"3"]


def test_what_is_not_executable_in_a_batch_is_skipped_by_all_alike() -> None:
    """4.1: a faulty primary may order a request again, or one far ahead; none is executed."""
    world = World(client_window=3)
    world.crash("r0")
    for sequence, timestamps in ((1, (1, 9, 2)), (2, (2, 1, 8, 3))):
        requests = [world.request(t, b"%d" % t) for t in timestamps]
        message, signed, body = world.pre_prepare(sequence, requests)
        for name in world.replicas:
            world.give(name, signed, body)
            world.give(name, world.commit(sequence, message.digest, 0))
        world.deliver()
    for name in world.replicas:
        assert world.applications[name].operations == [b"1", b"2", b"3"]
        assert [details["skipped"] for details in world.emitted(name, "executed")] == [1, 3]
        assert not world.replicas[name].core.execution.clients.was_executed("client", 9)
    assert (
        len({r.core.execution.clients.parts()["client/client"] for r in world.replicas.values()})
        == 1
    )


@pytest.mark.parametrize("seed", range(25))
def test_any_order_of_delivery_gives_the_same_result(seed: int) -> None:
    """4.2: messages may be delayed, duplicated or delivered out of order."""
    random_source = random.Random(seed)
    world = World(random_source.choice([4, 7]))
    for timestamp in range(1, 9):
        world.ask(timestamp, b"%d" % timestamp)
    while world.under_way:
        index = random_source.randrange(len(world.under_way))
        message = world.under_way.pop(index)
        world.deliver_one(message)
        if random_source.random() < 0.2:
            world.deliver_one(message)
    assert set(world.executed().values()) == {max(world.executed().values())}, seed
    assert len(world.client_output.accepted) == 8, seed
    check_safety(world)


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))))
def test_every_order_of_the_messages_of_one_number(order: tuple[int, ...]) -> None:
    """4.2: PRE-PREPARE, two PREPAREs and two COMMITs in every order end in execution."""
    world = World()
    message, signed, body = world.pre_prepare(1, [world.request(1, b"x")])
    digest = message.digest
    arrivals = [
        (signed, body),
        (world.prepare(1, digest, 2), b""),
        (world.prepare(1, digest, 3), b""),
        (world.commit(1, digest, 0), b""),
        (world.commit(1, digest, 2), b""),
    ]
    for index in order:
        world.give("r1", *arrivals[index])
    assert world.executed()["r1"] == 1
    assert world.said("r1", Commit) == [Commit(0, 1, digest, 1)]


# --- a faulty primary ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_an_equivocating_primary_does_not_split_correct_replicas(seed: int) -> None:
    """prepared(m, v, n, i) and prepared(m', v, n, j) exclude each other if D(m) != D(m')."""
    random_source = random.Random(seed)
    world = World()
    world.crash("r0")
    for sequence in range(1, 5):
        candidates = [
            world.pre_prepare(sequence, [world.request(sequence, b"%d" % variant)])
            for variant in range(2)
        ]
        for name in ("r1", "r2", "r3"):
            chosen = random_source.choice(candidates)
            world.give(name, chosen[1], chosen[2])
            for message, signed, body in candidates:
                if random_source.random() < 0.7:
                    world.give(name, world.commit(sequence, message.digest, 0))
                if random_source.random() < 0.5:
                    world.give(name, signed, body)
    random_source.shuffle(world.under_way)
    world.run(6)
    check_safety(world, ("r1", "r2", "r3"))


def test_a_backup_that_was_told_another_request_executes_the_decided_one() -> None:
    """4.2: two backups and the primary decide; the third gets proof and body from its peers."""
    world = World()
    world.crash("r0")
    first = world.pre_prepare(1, [world.request(1, b"first")])
    second = world.pre_prepare(1, [world.request(1, b"second")])
    world.give("r1", first[1], first[2])
    for name in ("r2", "r3"):
        world.give(name, second[1], second[2])
        world.give(name, world.commit(1, second[0].digest, 0))
    world.run(4)
    assert set(world.executed().values()) == {1}
    assert {tuple(a.operations) for n, a in world.applications.items() if n != "r0"} == {
        (b"second",)
    }
    assert [m.digest for m in world.said("r1", Prepare)] == [first[0].digest]
    world.crash("r1")
    world.start("r1")
    assert world.applications["r1"].operations == [b"second"]
    assert world.replicas["r1"].core.log.slot(1).accepted == first[0].digest, "what it voted for"
    check_safety(world, ("r1", "r2", "r3"))


def test_an_equivocating_primary_that_convinces_nobody_decides_nothing() -> None:
    """Three digests for three backups: no two PREPAREs match, nobody commits."""
    world = World()
    world.crash("r0")
    for index, name in enumerate(("r1", "r2", "r3")):
        _, signed, body = world.pre_prepare(1, [world.request(1, b"%d" % index)])
        world.give(name, signed, body)
    world.run(4)
    assert set(world.executed().values()) == {0}
    assert all(world.said(name, Commit) == [] for name in world.names)


def test_messages_are_read_by_what_is_signed_only() -> None:
    """2, docs/TRAPS.md 19: nothing outside the signature but the hint at the key."""
    world = World()
    signed = world.prepare(1, FALSE, 2)
    assert set(signed.__struct_fields__) == {"signer", "payload", "signature"}
    assert encode_signed(signed).count(b"r2") == 1, "the payload names a number, not a name"
