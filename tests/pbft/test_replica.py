"""A replica as a whole: what it gives back, and how it continues from its disk."""

import pytest

from pbft.codec import decode_message
from pbft.messages import Checkpoint, Commit, Prepare, PrePrepare
from pbft.ports import SavedBody, SavedMessage
from tests.pbft.world import World


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 7, 10])
def test_a_request_is_executed_by_all_and_answered(replicas: int) -> None:
    world = World(replicas)
    world.ask(1, b"hello")
    world.deliver()
    assert set(world.executed().values()) == {1}
    (accepted,) = world.client_output.accepted
    assert (accepted.timestamp, accepted.kind) == (1, "done")
    assert len({name for name, _, _ in accepted.replies}) >= world.cluster.quorums.weak


def test_ten_windows_of_requests_complete_and_the_log_stays_bounded() -> None:
    world = World(checkpoint_interval=4, window=8, client_window=16)
    for timestamp in range(1, 10 * world.cluster.genesis.window + 1):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
        for replica in world.replicas.values():
            assert len(replica.core.log) <= 8 + 4  # the window, and one interval to re-send
    world.run()
    assert len(world.client_output.accepted) == 80
    assert {tuple(a.operations) for a in world.applications.values()} == {
        tuple(b"%d" % t for t in range(1, 81))
    }
    assert all(replica.core.low == 80 for replica in world.replicas.values())
    assert all(len(disk.records) < 60 for disk in world.disks.values())


@pytest.mark.parametrize("steps", range(0, 60, 3))
def test_a_replica_killed_at_any_step_continues_from_its_disk(steps: int) -> None:
    world = World(checkpoint_interval=4, window=8)
    for timestamp in range(1, 6):
        world.ask(timestamp, b"%d" % timestamp)
    for _ in range(steps):
        if world.under_way:
            world.deliver_one(world.under_way.pop(0))
    world.crash("r0")
    world.run(2)
    world.start("r0")
    world.connect("r0")
    world.run(20)
    assert len(world.client_output.accepted) == 5
    assert len({replica.core.executed for replica in world.replicas.values()}) == 1
    heads = {application.head for application in world.applications.values()}
    assert len(heads) == 1
    assert len({tuple(e.body for e in disk.entries) for disk in world.disks.values()}) == 1


def test_what_is_said_is_saved_in_the_same_turn_or_before() -> None:
    world = World(checkpoint_interval=2, window=4)
    for timestamp in range(1, 6):
        world.ask(timestamp, b"%d" % timestamp)
        world.deliver()
    for name in world.names:
        saved: set[bytes] = set()
        said = 0
        for output in world.outputs[name]:
            saved.update(r.signed.payload for r in output.records if isinstance(r, SavedMessage))
            for send in output.messages:
                payload = send.envelope.signed.payload
                if isinstance(decode_message(payload), PrePrepare | Prepare | Commit | Checkpoint):
                    assert payload in saved
                    said += 1
        assert said >= 10


def test_the_body_is_saved_in_the_turn_of_the_prepare() -> None:
    world = World()
    world.ask(1, b"x")
    world.deliver()
    for name in world.names:
        first = next(o for o in world.outputs[name] if o.records)
        assert isinstance(first.records[0], SavedBody)
