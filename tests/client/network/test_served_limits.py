"""client.network.served_limits: what f + 1 replicas say alike, and nothing that fewer say."""

import msgspec

from ci.limits import Limits
from client.network.served_limits import ServedLimits, agree
from node.web.limits_json import limits as limits_json
from tests.ci.operated_world import NEW, OLD, UNTIL, OperatedWorld


def served(world: OperatedWorld) -> ServedLimits:
    """A node's answer, with the state of this world."""
    application = world.application
    answer = limits_json(
        application.limit_changes, application.limits, world.cluster, executed=world.sequence
    )
    return msgspec.json.decode(msgspec.json.encode(answer), type=ServedLimits)


def test_what_two_of_four_say_alike_is_shown() -> None:
    world = OperatedWorld()
    before = served(world)
    world.change(NEW)
    after = served(world)
    assert agree(world.cluster, {"replica-0": before, "replica-1": after}) is None
    agreed = agree(
        world.cluster, dict(zip(world.cluster.replica_names, (before, after) * 2, strict=True))
    )
    assert agreed is not None
    assert (agreed.serial, agreed.limits) == (1, NEW)
    assert agreed.replicas == ("replica-1", "replica-3")


def test_a_liar_adds_neither_proposals_nor_approvals() -> None:
    world = OperatedWorld()
    digest = world.proposed("anna")
    honest = served(world)
    world.approve_limits("boris", digest)
    world.proposed("dora", Limits(pids_max=99))
    liar = served(world)
    names = world.cluster.replica_names
    agreed = agree(world.cluster, {names[0]: liar, names[1]: honest, names[2]: honest})
    assert agreed is not None
    (proposal,) = agreed.pending
    assert (proposal.digest, proposal.approvals) == (digest.hex(), ("anna",))


def test_a_proposal_under_another_digest_is_not_shown() -> None:
    """Who approves what is shown must not sign for something else, whoever says so."""
    world = OperatedWorld()
    world.proposed("anna")
    honest = served(world)
    (proposal,) = honest.pending
    forged = [
        msgspec.structs.replace(honest, pending=(msgspec.structs.replace(proposal, **changed),))
        for changed in ({"limits": OLD}, {"until": UNTIL + 1}, {"proposer": "dora"}, {"serial": 2})
    ]
    names = world.cluster.replica_names
    for answer in forged:
        agreed = agree(world.cluster, dict.fromkeys(names, answer))
        assert agreed is not None
        assert agreed.pending == ()


def test_a_node_of_another_cluster_says_nothing() -> None:
    world = OperatedWorld()
    foreign = msgspec.structs.replace(served(world), cluster="00" * 32)
    assert agree(world.cluster, dict.fromkeys(world.cluster.replica_names, foreign)) is None


def test_what_is_past_until_is_not_pending() -> None:
    world = OperatedWorld()
    world.proposed("anna", until=2)
    assert served(world).pending
    world.sequence = 2
    assert not served(world).pending
