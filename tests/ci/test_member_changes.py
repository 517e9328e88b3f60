"""ci.member_changes: operators of strong distinct seats decide the next members, once an epoch."""

import json
from collections.abc import Sequence

import msgspec
import pytest

from ci.admission import room_refusal
from ci.ledger import (
    LateBallotEntry,
    MembersEntry,
    RecordedApproval,
    SupersededEntry,
    VerdictEntry,
    decode_entry,
)
from ci.limits import Limits, decode_limits
from ci.member_changes import (
    MembersPart,
    MembersProposal,
    ready_bytes,
    successor_refusal,
    who_keeps_ledger,
)
from ci.operations import (
    CONFIGURATION_BYTES_MAX,
    ApproveMembers,
    ProposeMembers,
    Ready,
    WithdrawMembers,
)
from ci.state_partitions import MEMBERS_PART, CorruptState
from ci.statement import (
    InvalidEnvelope,
    envelope,
    pae,
    parse_statement,
    submitted_build_id,
    verify_envelope,
)
from pbft.certificates import state_digest
from pbft.genesis import PROTOCOL_MAX, Cluster, Genesis, Member, vacant_key
from pbft.ports import Applied
from tests.ci.builders import (
    GATEWAY,
    PASSED,
    World,
    cluster_of,
    member,
    reason_of,
    signing_key,
    submit_build,
    verify,
)
from tests.ci.operated_world import UNTIL, OperatedWorld, operated_cluster

NAMES = ("replica-0", "replica-1", "replica-2", "replica-3")


@pytest.fixture
def world() -> OperatedWorld:
    """Four replicas, each with an operator."""
    return OperatedWorld()


def genesis_with(
    world: World, *replicas: Member, clients: Sequence[Member] | None = None
) -> Genesis:
    """The next configuration: these replicas, all else as it is."""
    genesis = world.cluster.genesis
    kept = genesis.clients if clients is None else tuple(clients)
    return msgspec.structs.replace(genesis, replicas=replicas or genesis.replicas, clients=kept)


def renewed(world: World) -> Genesis:
    """replica-3 has another key."""
    replicas = world.cluster.genesis.replicas
    return genesis_with(world, *replicas[:3], as_replica("replica-3", "new key"))


def as_replica(name: str, key: str) -> Member:
    return msgspec.structs.replace(member(key, "replica"), name=name)


def readies(
    world: World, genesis: Genesis, keys: dict[str, str], cluster_id: bytes | None = None
) -> tuple[Ready, ...]:
    """Signed by these keys, by the replica's name."""
    message = ready_bytes(cluster_id or world.cluster.id, Cluster(genesis).configuration)
    return tuple(
        Ready(name, signing_key(key).sign(message).signature) for name, key in keys.items()
    )


ALL_READY = {**dict(zip(NAMES, NAMES, strict=True)), "replica-3": "new key"}


def propose(
    world: World,
    genesis: Genesis,
    ready: Sequence[Ready],
    operator: str = "anna",
    until: int = UNTIL,
) -> Applied:
    encoded = Cluster(genesis).encoded
    return world.apply(operator, ProposeMembers(until, encoded, tuple(ready)))


def proposed(world: World, operator: str = "anna", until: int = UNTIL) -> bytes:
    """Propose another key for replica-3, which is accepted; the digest."""
    genesis = renewed(world)
    applied = propose(world, genesis, readies(world, genesis, ALL_READY), operator, until)
    assert applied.kind == "done", applied.result
    return applied.subject


def made(world: World) -> Applied:
    digest = proposed(world)
    world.apply("boris", ApproveMembers(digest))
    return world.apply("carla", ApproveMembers(digest))


# --- who decides ----------------------------------------------------------------------------------


def test_the_approval_of_the_third_of_four_seats_decides_the_next_members(
    world: OperatedWorld,
) -> None:
    digest = proposed(world)
    second = world.apply("boris", ApproveMembers(digest))
    assert json.loads(second.result) == {"approved": 2, "needed": 3, "changed": False}
    assert second.successor == b""
    third = world.apply("dora", ApproveMembers(digest))
    assert json.loads(third.result) == {"approved": 3, "needed": 3, "changed": True}
    following = Cluster(renewed(world))
    assert third.successor == following.configuration
    (entry,) = third.entries
    decoded = decode_entry(entry.body)
    assert isinstance(decoded, MembersEntry)
    assert (decoded.epoch, decoded.since) == (1, world.sequence)
    assert decoded.configuration == following.configuration.hex()
    assert decoded.approvals == tuple(
        RecordedApproval(name, (f"replica-{seat}",))
        for name, seat in (("anna", 0), ("boris", 1), ("dora", 3))
    )
    assert [m.name for m in decoded.replicas] == list(NAMES)
    assert decoded.replicas[3].public_key == member("new key").public_key.hex()


@pytest.mark.parametrize("operates", [{"anna": (0, 1), "boris": (1,), "carla": (2,), "dora": (3,)}])
def test_seats_are_counted_and_not_operators(operates: dict[str, tuple[int, ...]]) -> None:
    world = OperatedWorld(operates)
    digest = proposed(world)
    second = world.apply("boris", ApproveMembers(digest))
    assert json.loads(second.result)["approved"] == 2
    assert not second.successor
    assert world.apply("carla", ApproveMembers(digest)).successor


def test_f_operators_decide_nothing_however_often_they_approve(world: OperatedWorld) -> None:
    digest = proposed(world)
    again = world.apply("anna", ApproveMembers(digest))
    assert reason_of(again) == "this operator has approved it already"
    assert world.application.member_changes.made is None
    assert reason_of(world.apply(GATEWAY, ApproveMembers(digest))).startswith("this takes the role")


def test_an_approval_is_of_one_proposal_in_one_epoch(world: OperatedWorld) -> None:
    digest = proposed(world)
    other = proposed(world, "boris")
    assert digest != other
    later = world.cluster.succeeded_by(renewed(world), 8, bytes(32))
    proposal = MembersProposal("anna", UNTIL, Cluster(renewed(world)).encoded, ())
    assert proposal.digest(world.cluster.id) == digest
    assert proposal.digest(later.id) != digest
    assert reason_of(world.apply("carla", ApproveMembers(proposal.digest(later.id))))


def test_past_until_nothing_is_approved(world: OperatedWorld) -> None:
    digest = proposed(world, until=world.sequence + 2)
    world.apply("boris", ApproveMembers(digest))
    late = world.apply("carla", ApproveMembers(digest))
    assert reason_of(late) == "no such proposal is pending"
    genesis = renewed(world)
    ready = readies(world, genesis, ALL_READY)
    assert reason_of(propose(world, genesis, ready, until=1)) == "the sequence number is past until"


def test_what_is_withdrawn_counts_no_more(world: OperatedWorld) -> None:
    digest = proposed(world)
    world.apply("boris", ApproveMembers(digest))
    assert world.apply("boris", WithdrawMembers(digest)).kind == "done"
    assert not world.apply("carla", ApproveMembers(digest)).successor
    assert world.apply("anna", WithdrawMembers(digest)).kind == "done"
    assert reason_of(world.apply("dora", ApproveMembers(digest))) == "no such proposal is pending"


def test_an_epoch_has_one_change(world: OperatedWorld) -> None:
    other = proposed(world, "dora")
    assert made(world).successor
    genesis = renewed(world)
    again = propose(world, genesis, readies(world, genesis, ALL_READY), "boris")
    assert reason_of(again) == "this epoch has its change of members"
    assert reason_of(world.apply("anna", ApproveMembers(other))) == "no such proposal is pending"


# --- what can follow ------------------------------------------------------------------------------


def test_a_ready_counts_for_its_key_its_epoch_and_its_configuration(world: OperatedWorld) -> None:
    genesis = renewed(world)
    broken = "the signature of a replica that is said to be ready does not hold"
    old_key = readies(world, genesis, {**ALL_READY, "replica-3": "replica-3"})
    assert reason_of(propose(world, genesis, old_key)) == broken
    later = world.cluster.succeeded_by(genesis, 8, bytes(32))
    assert (
        reason_of(propose(world, genesis, readies(world, genesis, ALL_READY, later.id))) == broken
    )
    other = readies(world, genesis_with(world, *genesis.replicas[::-1]), ALL_READY)
    assert reason_of(propose(world, genesis, other)) == broken
    unready = readies(world, genesis, dict(zip(NAMES[:3], NAMES[:3], strict=True)))
    assert reason_of(propose(world, genesis, unready)) == "a replica with a new key is not ready"
    few = readies(world, genesis, {"replica-0": "replica-0", "replica-3": "new key"})
    assert reason_of(propose(world, genesis, few)) == "2 replicas are ready, and it takes 3"
    ready = readies(world, genesis, ALL_READY)
    assert reason_of(propose(world, genesis, (*ready, ready[0]))) == "a replica is ready twice"
    stranger = readies(world, genesis, {**ALL_READY, "replica-9": "replica-9"})
    assert (
        reason_of(propose(world, genesis, stranger))
        == "a replica is ready that is none of the next epoch"
    )


def test_a_seat_may_be_vacant_and_no_more_than_f(world: OperatedWorld) -> None:
    def vacant(name: str) -> Member:
        return Member(name, vacant_key(name), ("replica",))

    replicas = world.cluster.genesis.replicas
    one = genesis_with(world, *replicas[:3], vacant("replica-3"))
    ready = readies(world, one, dict(zip(NAMES[:3], NAMES[:3], strict=True)))
    assert propose(world, one, ready).kind == "done"
    two = genesis_with(world, *replicas[:2], vacant("replica-2"), vacant("replica-3"))
    assert reason_of(propose(world, two, ready)) == "2 seats are vacant, and f is 1"
    # the key of a vacant seat is of just that seat
    key = vacant_key("replica-2")
    borrowed = genesis_with(world, *replicas[:3], Member("replica-3", key, ("replica",)))
    ready = readies(world, borrowed, dict(zip(NAMES[:3], NAMES[:3], strict=True)))
    assert reason_of(propose(world, borrowed, ready)) == "a replica with a new key is not ready"


@pytest.mark.parametrize(("protocol", "is_allowed"), [(1, True), (2, True), (3, False)])
def test_a_change_raises_the_protocol_by_one_at_most(
    world: OperatedWorld, protocol: int, is_allowed: bool
) -> None:
    """Whatever this release itself speaks: replicas of two releases must not differ about it."""
    genesis = msgspec.structs.replace(renewed(world), protocol=protocol)
    applied = propose(world, genesis, readies(world, genesis, ALL_READY))
    if is_allowed:
        assert applied.kind == "done"
    else:
        assert reason_of(applied) == "its protocol is 3, and 1 or 2 can follow"


def test_a_change_lowers_no_protocol_and_goes_beyond_what_this_release_speaks() -> None:
    genesis = msgspec.structs.replace(cluster_of().genesis, protocol=PROTOCOL_MAX)
    limits = decode_limits(genesis.application)
    refused = successor_refusal(
        Cluster(genesis), limits, Cluster(msgspec.structs.replace(genesis, protocol=1))
    )
    assert refused == "its protocol is 1, and 2 or 3 can follow"
    later = Cluster(msgspec.structs.replace(genesis, protocol=PROTOCOL_MAX + 1))
    assert successor_refusal(Cluster(genesis), limits, later) is None


def test_what_cannot_follow(world: OperatedWorld) -> None:
    genesis = world.cluster.genesis
    assert (
        reason_of(propose(world, genesis, ())) == "this is the configuration of the present epoch"
    )
    limits = msgspec.structs.replace(renewed(world), application=b"other limits")
    assert reason_of(propose(world, limits, ())).startswith("the limits are others")
    five = (*genesis.replicas, member("replica-4", "replica"))
    encoded = msgspec.msgpack.encode(msgspec.structs.replace(genesis, replicas=five))
    applied = world.apply("anna", ProposeMembers(UNTIL, encoded, ()))
    assert reason_of(applied) == "this is no valid configuration"
    padded = Cluster(renewed(world)).encoded + b"\0"
    applied = world.apply("anna", ProposeMembers(UNTIL, padded, ()))
    assert reason_of(applied) == "this is no valid configuration"
    gateways = [member(f"gateway-{number}", "gateway") for number in range(9, 100)]
    many = genesis_with(world, clients=[*genesis.clients, *gateways])
    huge = Limits(waiting_builds_per_client_max=1000)
    assert successor_refusal(world.cluster, huge, Cluster(many)) == (
        "with these members the state could become too large"
    )


def test_operators_without_a_seat_and_clusters_without_operators_propose_nothing() -> None:
    world = OperatedWorld({"anna": (0,), "boris": (1,)})
    genesis = renewed(world)
    ready = readies(world, genesis, ALL_READY)
    assert reason_of(propose(world, genesis, ready)).startswith("fewer than 3 replicas have")
    assert (
        reason_of(propose(world, genesis, ready, "operator"))
        == "this operator stands for no replica"
    )


# --- the state ------------------------------------------------------------------------------------


def test_the_state_says_nothing_of_members_before_the_first_proposal(world: OperatedWorld) -> None:
    assert MEMBERS_PART not in world.application.parts()
    digest = proposed(world)
    world.restart()
    world.apply("boris", ApproveMembers(digest))
    world.restart()
    assert world.apply("carla", ApproveMembers(digest)).successor
    world.restart()
    assert world.application.member_changes.made == Cluster(renewed(world)).configuration


@pytest.mark.parametrize(
    "part",
    [
        MembersPart(None, ()),
        MembersPart(bytes(32), (MembersProposal("anna", 1, b"", ("anna",)),)),
        MembersPart(None, (MembersProposal("anna", 1, b"no genesis", ("anna",)),)),
    ],
)
def test_a_part_that_no_state_has(world: OperatedWorld, part: MembersPart) -> None:
    parts = {**world.application.parts(), MEMBERS_PART: msgspec.msgpack.encode(part)}
    with pytest.raises(CorruptState, match="members"):
        world.application.restore(parts)


def test_a_proposal_of_each_operator_fits_into_the_bound_of_the_state(world: OperatedWorld) -> None:
    proposal = MembersProposal("anna", UNTIL, bytes(CONFIGURATION_BYTES_MAX), ())
    bare = len(msgspec.msgpack.encode(proposal))
    assert bare < CONFIGURATION_BYTES_MAX + 1024
    assert room_refusal(operated_cluster({"anna": (0,)}), Limits()) is None


# --- the end of an epoch --------------------------------------------------------------------------


def end(world: World) -> list[object]:
    entries = world.application.end_epoch()
    world.ledger.extend(entries)
    assert world.application.ledger_index == len(world.ledger)
    return [decode_entry(entry.body) for entry in entries]


def test_undecided_builds_end_without_a_verdict_and_can_be_asked_for_again(
    world: OperatedWorld,
) -> None:
    decided = world.open(0)
    for index in range(4):
        world.cast(decided, index, PASSED)
    closing, first, second = world.open(1), world.open(2), world.open(3)
    for index in range(3):
        world.cast(closing, index, PASSED)
    world.cast(first, 0, PASSED)
    opened = [world.opened(first), world.opened(second)]
    limits = world.proposed("anna")
    made(world)
    assert end(world) == [
        SupersededEntry(first.hex(), opened[0]),
        SupersededEntry(second.hex(), opened[1]),
    ]
    assert not world.application.open_builds()
    assert reason_of(world.approve_limits("boris", limits)) == "no such proposal is pending"
    assert MEMBERS_PART not in world.application.parts()
    # the next epoch, with the state of this one
    parts = world.application.parts()
    world.cluster = world.cluster.succeeded_by(renewed(world), 8, state_digest(parts))
    world.application = world.new_application()
    world.application.restore(parts)
    again = world.submit(2)
    assert (again.kind, again.result) == ("opened", first)
    assert world.opened(first) == world.sequence
    # what was decided is remembered
    assert world.submit(1).result == closing
    assert closing not in world.application.open_builds()


def test_at_an_end_with_nothing_under_way_nothing_is_written(world: OperatedWorld) -> None:
    made(world)
    assert end(world) == []


def test_statements_name_their_epoch_and_are_believed_for_ever(world: OperatedWorld) -> None:
    before = _decided(world, 1)
    made(world)
    end(world)
    parts = world.application.parts()
    first = world.cluster
    world.cluster = first.succeeded_by(renewed(world), 8, state_digest(parts))
    world.application = world.new_application()
    world.application.restore(parts)
    after = _decided(world, 2)
    verdicts = [parse_statement(bytes(e.statement)).verdict for e in world.verdict_entries()]
    assert [v.epoch for v in verdicts] == [0, 1]
    assert {v.cluster_id for v in verdicts} == {first.id.hex()}
    assert [v.instance for v in verdicts] == [None, world.cluster.id.hex()]
    assert b"instance" not in before
    signed = {NAMES[0]: NAMES[0], NAMES[1]: NAMES[1]}
    assert _verified(before, signed, first) == NAMES[:2]
    # members of a later epoch attest what their ledger has
    assert _verified(before, signed, world.cluster) == NAMES[:2]
    assert _verified(before, {NAMES[0]: NAMES[0], NAMES[3]: "new key"}, world.cluster)
    assert _verified(after, signed, world.cluster) == NAMES[:2]
    with pytest.raises(InvalidEnvelope, match=r"of epoch 1, and the cluster file of epoch 0"):
        _verified(after, signed, first)
    with pytest.raises(InvalidEnvelope, match="too few replicas"):
        _verified(after, {NAMES[0]: NAMES[0], NAMES[3]: NAMES[3]}, world.cluster)
    other = first.succeeded_by(renewed(world), 8, bytes(32))
    with pytest.raises(InvalidEnvelope, match="continues the same one"):
        _verified(after, signed, other)
    submitted = submit_build(1)
    assert submitted_build_id(world.cluster.lineage, GATEWAY, submitted).hex() == verdicts[0].build


def _decided(world: World, identity: int) -> bytes:
    """The statement of a build that passed."""
    build = world.open(identity)
    for index in range(4):
        world.cast(build, index, PASSED)
    statement = world.find_statement(build)
    assert statement is not None
    return statement


def _verified(statement: bytes, keys: dict[str, str], cluster: Cluster) -> tuple[str, ...]:
    signatures = [("", signing_key(key).sign(pae(statement)).signature) for key in keys.values()]
    data = msgspec.json.encode(envelope(statement, signatures))
    return verify_envelope(data, cluster, verify).replicas


def test_entries_of_both_kinds_are_read_back(world: OperatedWorld) -> None:
    build = world.open(1)
    world.cast(build, 0, PASSED)
    made(world)
    end(world)
    kinds = {type(decode_entry(entry.body)) for entry in world.ledger}
    assert {MembersEntry, SupersededEntry} <= kinds
    assert not kinds & {VerdictEntry, LateBallotEntry}


def test_replicas_that_stay_keep_the_ledger_also_with_another_key() -> None:
    first = cluster_of()
    assert who_keeps_ledger(first, cluster_of(7)) == NAMES
    assert who_keeps_ledger(first, cluster_of(prefix="new")) == ()
    vacant, rekeyed, *_ = first.genesis.replicas
    vacant = msgspec.structs.replace(vacant, public_key=vacant_key(vacant.name))
    rekeyed = msgspec.structs.replace(rekeyed, public_key=member("new", "replica").public_key)
    others = cluster_of(prefix="new").genesis.replicas[:2]
    replicas = (vacant, rekeyed, *others)
    following = Cluster(msgspec.structs.replace(first.genesis, replicas=replicas))
    assert who_keeps_ledger(first, following) == (rekeyed.name,)
    # a seat that is filled now had nothing
    assert who_keeps_ledger(following, first) == (rekeyed.name,)
