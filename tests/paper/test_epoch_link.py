"""pbft.epoch_link: an epoch is followed only by what its own replicas signed."""

from collections.abc import Callable

import msgspec
import pytest

from pbft.certificates import leaves_digest, state_digest
from pbft.epoch_link import LINK_BYTES_MAX, EpochLink, decode_link, follow
from pbft.genesis import PROTOCOL_MAX, Cluster
from pbft.messages import Checkpoint
from pbft.ports import Refusal
from tests.paper.test_epochs import K, change, ended, next_genesis, run_to_end, small
from tests.pbft.world import World, verify

CONFIGURATION = next_genesis(7)


def link_of(world: World, later: World) -> EpochLink:
    """What r0 of the epoch that ended would give out."""
    checkpoints = world.core("r0").checkpoints
    return EpochLink.of(later.cluster, checkpoints.stable, checkpoints.stable_parts)


def test_a_link_leads_from_an_epoch_to_the_next_and_on() -> None:
    world, later = ended()
    link = link_of(world, later)
    sent = decode_link(msgspec.msgpack.encode(link))
    assert isinstance(sent, EpochLink)
    followed = follow(world.cluster, sent, verify=verify)
    assert isinstance(followed, Cluster)
    assert (followed.id, followed.epoch) == (later.cluster.id, 1)
    change(later, 1, next_genesis(7))
    run_to_end(later)
    core = later.core("r0")
    third = followed.succeeded_by(
        next_genesis(7), core.low, state_digest(core.checkpoints.stable_parts)
    )
    link = EpochLink.of(third, core.checkpoints.stable, core.checkpoints.stable_parts)
    again = follow(followed, link, verify=verify)
    assert isinstance(again, Cluster)
    assert again.id == third.id
    # it leads nowhere from another epoch, even of the same members
    assert isinstance(follow(world.cluster, link, verify=verify), Refusal)


def _too_few_votes(world: World, link: EpochLink) -> EpochLink:
    return msgspec.structs.replace(link, checkpoints=link.checkpoints[:2])


def _one_vote_thrice(world: World, link: EpochLink) -> EpochLink:
    return msgspec.structs.replace(link, checkpoints=link.checkpoints[:1] * 3)


def _a_forged_vote(world: World, link: EpochLink) -> EpochLink:
    *others, last = link.checkpoints
    forged = msgspec.structs.replace(last, signature=bytes(64))
    return msgspec.structs.replace(link, checkpoints=(*others, forged))


def _votes_of_another_epoch(world: World, link: EpochLink) -> EpochLink:
    cluster = Cluster(CONFIGURATION)
    signed = tuple(
        world.sign(f"r{n}", Checkpoint(link.sequence, leaves_digest(link.leaves), n), cluster)
        for n in range(4)
    )
    return msgspec.structs.replace(link, checkpoints=signed)


def _another_configuration(world: World, link: EpochLink) -> EpochLink:
    return msgspec.structs.replace(link, configuration=Cluster(CONFIGURATION).encoded)


def _no_configuration(world: World, link: EpochLink) -> EpochLink:
    return msgspec.structs.replace(link, configuration=b"\xc0")


def _another_state(world: World, link: EpochLink) -> EpochLink:
    name, _ = link.leaves[0]
    return msgspec.structs.replace(link, leaves=((name, bytes(32)), *link.leaves[1:]))


def _no_checkpoint(world: World, link: EpochLink) -> EpochLink:
    return msgspec.structs.replace(link, sequence=link.sequence - 1)


def _an_earlier_checkpoint(world: World, link: EpochLink) -> EpochLink:
    return msgspec.structs.replace(link, sequence=link.sequence - K)


def _the_beginning(world: World, link: EpochLink) -> EpochLink:
    return msgspec.structs.replace(link, sequence=0, checkpoints=())


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (_too_few_votes, "too few replicas"),
        (_one_vote_thrice, "holds a replica twice"),
        (_a_forged_vote, "does not hold"),
        (_votes_of_another_epoch, "does not hold"),
        (_another_configuration, "agreed on another configuration"),
        (_no_configuration, "no valid configuration"),
        (_another_state, "others than those that were signed"),
        (_no_checkpoint, "no checkpoint of this epoch"),
        (_an_earlier_checkpoint, "holds something else"),
        (_the_beginning, "no checkpoint of this epoch"),
    ],
)
def test_a_forged_link_leads_nowhere(
    forge: Callable[[World, EpochLink], EpochLink], reason: str
) -> None:
    world, later = ended()
    refusal = follow(world.cluster, forge(world, link_of(world, later)), verify=verify)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


def test_a_link_to_a_protocol_of_a_later_release_is_refused_in_words() -> None:
    """The replicas agreed on it: whoever cannot follow them needs a newer release."""
    world, later = ended()
    genesis = msgspec.structs.replace(CONFIGURATION, protocol=PROTOCOL_MAX + 1)
    link = msgspec.structs.replace(
        link_of(world, later), configuration=msgspec.msgpack.encode(genesis)
    )
    refusal = follow(world.cluster, link, verify=verify)
    assert isinstance(refusal, Refusal)
    assert "install a newer one" in refusal.reason


def test_what_a_stranger_wrote_is_refused() -> None:
    world, later = ended()
    encoded = msgspec.msgpack.encode(link_of(world, later))
    for data in (b"", encoded[:-1], encoded + b"x", b"\x91" * 5000):
        assert decode_link(data) == Refusal("no link between epochs")
    padding = ("x" * LINK_BYTES_MAX, bytes(32))
    large = msgspec.structs.replace(link_of(world, later), leaves=(padding,))
    assert decode_link(msgspec.msgpack.encode(large)) == Refusal("larger than a link can be")


def test_a_checkpoint_within_an_epoch_is_no_end_of_it() -> None:
    """In epoch 1 each state names a configuration: its own."""
    _, later = ended()
    later.ask_each(1, 2 * K)
    later.run()
    core = later.core("r0")
    assert core.low > later.cluster.begins_after
    checkpoints = core.checkpoints
    link = EpochLink.of(later.cluster, checkpoints.stable, checkpoints.stable_parts)
    refusal = follow(later.cluster, link, verify=verify)
    assert isinstance(refusal, Refusal)
    assert "not the one that the epoch ended with" in refusal.reason


def test_without_a_change_nothing_follows() -> None:
    world = small()
    world.ask_each(1, 2 * K)
    world.run()
    checkpoints = world.core("r0").checkpoints
    link = EpochLink.of(world.cluster, checkpoints.stable, checkpoints.stable_parts)
    assert isinstance(follow(world.cluster, link, verify=verify), Refusal)
