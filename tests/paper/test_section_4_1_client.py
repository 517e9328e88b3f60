"""OSDI'99, section 4.1, "The Client", with numbers that count 1, 2, 3 ... as timestamps."""

import msgspec
import pytest

from pbft.codec import digest_of
from pbft.genesis import Cluster
from pbft.messages import Prepare, Replies, Reply, Request, Signed
from pbft.ports import Applied
from tests.pbft.checks import check_safety
from tests.pbft.world import Journal, World, public_key, signer


def pending(world: World, name: str = "r1", client: str = "client") -> list[int]:
    return world.replicas[name].core.pending.numbers(client)


def answers(world: World, name: str, client: str = "client") -> list[Reply]:
    return [
        reply
        for message in world.said(name, Replies)
        for reply in message.replies
        if reply.client == client
    ]


def execute(world: World, *timestamps: int) -> None:
    for timestamp in timestamps:
        for name in world.names:
            world.give(name, world.request(timestamp, b"%d" % timestamp))
        world.deliver()


def test_a_request_is_signed_and_names_client_timestamp_and_operation() -> None:
    """4.1: a client c asks for operation o with <REQUEST, o, t, c>, signed."""
    world = World()
    signed = world.request(1, b"operation")
    world.give("r1", signed)
    assert pending(world) == [1]
    assert world.replicas["r1"].core.pending.get("client", 1) == signed


def test_a_request_with_a_bad_signature_is_refused() -> None:
    """4.1, 2: all messages are signed; what is not signed by its sender does not exist."""
    world = World()
    good = world.request(1, b"x")
    assert world.refuse("r1", Signed("client", good.payload, bytes(64))) == "bad signature"
    signed_by_another = Signed("client", good.payload, world.request(1, b"x", "other").signature)
    assert world.refuse("r1", signed_by_another) == "bad signature"


def test_a_request_in_the_name_of_another_client_is_refused() -> None:
    """4.1: the client in the request is the one that signed it."""
    world = World()
    signed = world.sign("other", Request("client", 1, b"x"))
    assert "not the client" in world.refuse("r1", signed)


def test_a_request_of_a_stranger_is_refused() -> None:
    """2: every replica knows the others' public keys; the genesis pins the clients' as well."""
    world = World()
    signed = world.sign("stranger", Request("stranger", 1, b"x"))
    assert world.refuse("r1", signed) == "unknown signer"


def test_a_request_signed_for_another_cluster_is_refused() -> None:
    """2: a signature counts for one message only, here also for one cluster only."""
    world, elsewhere = World(), World(7)
    assert world.cluster.id != elsewhere.cluster.id
    assert world.refuse("r1", elsewhere.request(1, b"x")) == "bad signature"


def test_the_window_of_numbers_starts_at_the_floor_and_ends_w_above_it() -> None:
    """4.1: timestamps order a client's requests; here a window of W above the lowest open one."""
    world = World(client_window=3)
    for timestamp in (3, 1, 2):
        world.give("r1", world.request(timestamp, b"x"))
    assert pending(world) == [1, 2, 3]
    assert "beyond the window above 0" in world.refuse("r1", world.request(4, b"x"))
    execute(world, 1)
    world.give("r1", world.request(4, b"x"))
    assert 4 in pending(world)
    assert "beyond the window above 1" in world.refuse("r1", world.request(5, b"x"))


def test_numbers_within_the_window_may_be_executed_in_another_order() -> None:
    """4.1: one client may have several requests under way; each is executed once."""
    world = World(client_window=4)
    execute(world, 3, 1)
    core = world.replicas["r1"].core
    assert core.execution.clients.low_timestamp("client") == 1
    assert core.execution.clients.was_executed("client", 3)
    assert not core.execution.clients.was_executed("client", 2)
    execute(world, 2)
    assert core.execution.clients.low_timestamp("client") == 3
    assert world.applications["r1"].operations == [b"3", b"1", b"2"]


def test_every_replica_replies_to_the_client_itself() -> None:
    """4.1: a replica sends <REPLY, v, t, c, i, r> directly to the client."""
    world = World()
    execute(world, 1)
    for index, name in enumerate(world.names):
        (message,) = world.said(name, Replies)
        assert message.replica == index
        (reply,) = message.replies
        assert (reply.client, reply.timestamp) == ("client", 1)
        assert reply.request_digest == digest_of(world.request(1, b"1").payload)
        assert reply.result == world.applications[name].head


def test_the_kept_reply_is_sent_again_for_an_executed_request() -> None:
    """4.1: if the request was processed already, the replica just sends its reply again."""
    world = World()
    execute(world, 1, 2)
    first = answers(world, "r1")[0]
    operations = list(world.applications["r1"].operations)
    output = world.give("r1", world.request(1, b"1"))
    (send,) = output.messages
    assert send.to == "client"
    assert output.records == []
    assert answers(world, "r1").count(first) == 1, "byte for byte the reply that was sent before"
    world.run(2)
    assert world.applications["r1"].operations == operations
    assert pending(world) == []


def test_of_two_requests_with_one_number_one_is_executed_and_its_digest_is_named() -> None:
    """4.1: a timestamp is used once; the answer says for which request it was."""
    world = World()
    execute(world, 1)
    since = len(world.sent)
    world.give("r1", world.request(1, b"something else"))
    (message,) = [m for m in world.sent[since:] if m.receiver == "client"]
    assert isinstance(message.payload, Replies)
    (reply,) = message.payload.replies
    assert reply.request_digest == digest_of(world.request(1, b"1").payload)
    world.run(2)
    assert world.applications["r1"].operations == [b"1"]


def test_two_requests_with_one_number_at_different_replicas_do_not_split_them() -> None:
    """4.1: exactly-once holds whatever a faulty client sends to whom."""
    world = World()
    for index, name in enumerate(world.names):
        world.give(name, world.request(1, b"%d" % (index % 2)))
    world.run(2)
    assert {tuple(a.operations) for a in world.applications.values()} == {(b"0",)}
    assert all(len(replica.core.pending) == 0 for replica in world.replicas.values())


def test_results_older_than_the_window_are_forgotten_and_never_executed_again() -> None:
    """4.1: replicas discard requests with a lower timestamp than the last reply's."""
    world = World(client_window=2)
    execute(world, 1, 2, 3)
    assert world.replicas["r1"].core.execution.clients.result("client", 1) is None
    operations = list(world.applications["r1"].operations)
    before = answers(world, "r1")
    world.give("r1", world.request(1, b"1"))
    (used,) = [reply for reply in answers(world, "r1") if reply not in before]
    assert used == Reply("client", 1, bytes(32), "used", b"", b"3"), "names no request, but 3"
    assert pending(world) == []
    assert world.applications["r1"].operations == operations
    assert world.give("r1", world.request(2, b"2")).messages != []


def test_cached_replies_survive_a_restart() -> None:
    """4.1, 4.3: the last replies are part of the state."""
    world = World(checkpoint_interval=2, window=4)
    execute(world, 1, 2, 3)
    expected = answers(world, "r1")
    world.crash("r1")
    world.start("r1")
    since = len(world.sent)
    for timestamp in (1, 2, 3):
        world.give("r1", world.request(timestamp, b"%d" % timestamp))
    again = [
        reply
        for message in world.sent[since:]
        if message.receiver == "client" and isinstance(message.payload, Replies)
        for reply in message.payload.replies
    ]
    assert again == expected
    assert world.replicas["r1"].core.executed == 3


def test_a_replica_whose_state_is_wrong_gives_no_answers() -> None:
    """4.1: f+1 equal replies are right because correct replicas give right ones."""
    world = World()
    execute(world, 1)
    world.replicas["r1"].core.checkpoints.is_diverged = True
    assert world.refuse("r1", world.request(1, b"1")) == "no answers while diverged"
    assert world.refuse("r1", world.request(2, b"2")) == "no answers while diverged"


def test_a_replica_may_be_a_client_and_reads_its_own_state_instead_of_replies() -> None:
    """2: the clients are any processes with a key; a node of a CI cluster is one."""
    world = World()
    for name in world.names:
        world.give(name, world.request(1, b"ballot", "r2"))
    world.deliver()
    assert set(world.executed().values()) == {1}
    assert world.replicas["r0"].core.execution.clients.low_timestamp("r2") == 1
    assert all(world.said(name, Replies) == [] for name in world.names)


def test_the_replies_of_one_turn_to_one_client_are_under_one_signature() -> None:
    """4.1, with an optimisation that docs/FACTS.md measured."""
    world = World()
    for timestamp in (1, 2, 3):
        world.give("r1", world.request(timestamp, b"%d" % timestamp))
    world.give("r1", world.request(1, b"o", "other"))
    requests = [world.request(t, b"%d" % t) for t in (1, 2, 3)] + [world.request(1, b"o", "other")]
    message, signed, body = world.pre_prepare(1, requests)
    for replica in (0, 2, 3):
        world.give("r1", world.commit(1, message.digest, replica))
    output = world.give("r1", signed, body)
    to = [send.to for send in output.messages if send.to is not None]
    assert sorted(to) == ["client", "other"]
    assert [len(message.replies) for message in world.said("r1", Replies)] == [3, 1]


def test_a_client_believes_f_plus_1_and_not_the_first() -> None:
    """4.1: the client waits for f+1 replies with valid signatures and the same t and r."""
    world = World()
    world.ask(1, b"x")
    world.deliver(lambda m: m.receiver != "client")
    first, second = (
        next(m for m in world.under_way if (m.sender, m.receiver) == (name, "client"))
        for name in ("r0", "r1")
    )
    world.deliver_one(first)
    assert world.client_output.accepted == []
    world.deliver_one(second)
    (accepted,) = world.client_output.accepted
    assert [name for name, _, _ in accepted.replies] == ["r0", "r1"]
    assert accepted.result == world.applications["r2"].head


def test_one_lying_replica_does_not_deceive_a_client() -> None:
    """4.1: f faulty replicas are fewer than f+1."""

    class Liar(Journal):
        def apply(self, request: Request, request_digest: bytes, sequence: int) -> Applied:
            right = super().apply(request, request_digest, sequence)
            return Applied("done", b"", b"lie", right.entries)

    world = World(application=lambda name: Liar() if name == "r0" else Journal())
    world.ask(1, b"x")
    world.deliver()
    (accepted,) = world.client_output.accepted
    assert accepted.result == world.applications["r1"].head
    assert [name for name, _, _ in accepted.replies] == ["r1", "r2"]
    late = [(late.replica, late.agrees) for late in world.client_output.late]
    assert late == [("r0", False)], "and r3, which only says the same again, is not told"


def test_a_client_that_hears_nothing_asks_all_replicas_again() -> None:
    """4.1: if no f+1 replies come in time, the client sends the request to all replicas."""
    world = World()
    world.ask(1, b"x")
    world.drop(lambda m: True)
    world.tick(0.5)
    world.deliver()
    assert world.client_output.accepted == []
    world.tick(0.5)
    world.deliver()
    assert len(world.client_output.accepted) == 1


@pytest.mark.parametrize("replicas", [4, 7])
def test_answers_come_with_f_replicas_silent(replicas: int) -> None:
    """4.4 as far as it goes without a view change: f silent backups stop nobody."""
    world = World(replicas)
    for name in world.names[-world.cluster.quorums.faults_max :]:
        world.crash(name)
    world.ask(1, b"x")
    world.run(1)
    assert len(world.client_output.accepted) == 1
    check_safety(world)


def test_the_result_is_equal_on_all_replicas_and_bears_no_view() -> None:
    """4.1: what is compared is t and r; the state must not hold what differs between replicas."""
    world = World()
    execute(world, 1, 2)
    assert len({tuple(answers(world, name)) for name in world.names}) == 1
    parts = [replica.core.execution.clients.parts() for replica in world.replicas.values()]
    assert all(part == parts[0] for part in parts)


def test_a_prepare_of_the_client_is_not_a_thing() -> None:
    """2: only replicas take part in the protocol; a client's key signs requests."""
    world = World()
    signed = world.sign("client", Prepare(0, 1, bytes(32), 1))
    assert "not the replica" in world.refuse("r1", signed)


def test_the_cluster_id_is_in_every_signature() -> None:
    """2, docs/TRAPS.md 4: two clusters with the same keys refuse each other's messages."""
    world = World()
    other = Cluster(msgspec.structs.replace(world.cluster.genesis, application=b"other rules"))
    assert public_key("client") == other.public_key("client") == world.cluster.public_key("client")
    signed = world.sign("client", Request("client", 1, b"x"), other)
    assert world.refuse("r1", signed) == "bad signature"
    assert signer("client")(b"") != signer("other")(b"")
