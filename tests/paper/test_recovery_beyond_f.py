"""More disks lost at once than f: nobody can vouch for what was said, so nothing is decided anew.

docs/PROTOCOL.md, "Recovery": up to f at a time recover (test_recovery.py); beyond that the
cluster stops, loudly, and stays safe.
"""

import pytest

from pbft.core import ReplicaStatus
from pbft.messages import Prepare, PrePrepare, ViewChange
from tests.paper.test_recovery import lose_disk, small, votes
from tests.pbft.checks import check_answers, check_safety
from tests.pbft.world import World

# f+1 backups, f+1 with the primary among them, and all n.
TOO_MANY = [("r2", "r3"), ("r0", "r1"), ("r0", "r1", "r2", "r3")]


def lose_disks(world: World, names: tuple[str, ...]) -> None:
    """All of these at once: none of them is up while another one begins to recover."""
    for name in names:
        world.crash(name)
    for nonce, name in enumerate(names, 1):
        lose_disk(world, name, nonce)


def check_standstill(world: World, lost: tuple[str, ...], since: int) -> None:
    """Those that lost their disks recover and vote on nothing; five requests are answered."""
    for name in lost:
        assert votes(world, name, since) == []
        assert world.core(name).status is ReplicaStatus.RECOVERING
        assert world.emitted(name, "recovered") == []
    assert len(world.client_output.accepted) == 5
    assert max(world.executed().values()) == (5 if len(lost) < 4 else 0)
    check_safety(world)
    check_answers(world)


@pytest.mark.parametrize("lost", TOO_MANY, ids=" ".join)
def test_beyond_f_at_once_the_cluster_stops_loudly_and_stays_safe(lost: tuple[str, ...]) -> None:
    world = small()
    world.ask_each(1, 5)
    entries = {name: list(world.disks[name].entries) for name in world.names}
    since = len(world.sent)
    lose_disks(world, lost)
    assert [len(world.emitted(name, "recovering")) for name in lost] == [1] * len(lost)
    world.ask_each(6, 8)
    world.run(60)
    check_standstill(world, lost, since)
    assert {name: world.disks[name].entries for name in world.names} == entries
    for name in set(world.names) - set(lost):
        # So that silence proves something: those that lost nothing do try.
        said = votes(world, name, since)
        assert any(isinstance(vote, PrePrepare | Prepare | ViewChange) for vote in said)


@pytest.mark.parametrize("lost", TOO_MANY, ids=" ".join)
def test_beyond_f_at_once_neither_a_restart_nor_time_gives_the_vote_back(
    lost: tuple[str, ...],
) -> None:
    """Killed all together, as an operator may try: their disks still say what is lost."""
    world = small()
    world.ask_each(1, 5)
    since = len(world.sent)
    lose_disks(world, lost)
    world.run(10)
    for name in world.names:
        world.crash(name)
    for name in world.names:
        world.start(name)
    for name in world.names:
        world.connect(name)
    world.ask_each(6, 8)
    world.run(60)
    check_standstill(world, lost, since)
