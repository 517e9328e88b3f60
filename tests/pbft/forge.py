"""Messages as the holders of the keys could make them, true and false ones."""

from collections.abc import Iterable, Sequence

import msgspec

from pbft.certificates import CheckedViewChange, check_view_change, new_view_order
from pbft.log import NULL_REQUEST
from pbft.messages import (
    AnyMessage,
    Body,
    Checkpoint,
    Commit,
    FetchBody,
    FetchState,
    NewView,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    Recover,
    Replies,
    Request,
    Signed,
    StateLeaves,
    StateParts,
    Status,
    ViewChange,
)
from tests.pbft.world import World

FALSE = bytes(31) + b"\x01"

# One of each type, and more, that r2 could say.
SAID: list[AnyMessage] = [
    Request("r2", 1, FALSE),
    PrePrepare(0, 1, FALSE, 2),
    Prepare(0, 1, FALSE, 2),
    Prepare(1, 1, FALSE, 2),
    Prepare(0, 2, FALSE, 2),
    Prepare(0, 1, bytes(32), 2),
    Commit(0, 1, FALSE, 2),
    Commit(0, 2, FALSE, 2),
    Checkpoint(2, FALSE, 2),
    ViewChange(1, 0, (), (), 2),
    NewView(2, (), (), 2),
    Status(0, True, 0, 1, 2),
    FetchBody(1, FALSE, 2),
    Body(1, FALSE, 2),
    FetchState(1, (), 2),
    StateLeaves(1, (), 2),
    StateParts(1, (), 2),
    Recover(FALSE, 2, 0),
    Replies((), 2),
]


def with_bad_signature(signed: Signed) -> Signed:
    """The same words, which nobody signed."""
    return msgspec.structs.replace(signed, signature=bytes(64))


def backup_with_pre_prepare(world: World, name: str = "r1", sequence: int = 1) -> bytes:
    """Give a backup a PRE-PREPARE of the primary; the digest."""
    message, signed, body = world.pre_prepare(sequence, [world.request(sequence, b"x")])
    world.give(name, signed, body)
    return message.digest


def certificate(
    world: World,
    sequence: int,
    digest: bytes = FALSE,
    view: int = 0,
    backups: Sequence[int] | None = None,
) -> PreparedCertificate:
    """A prepared certificate; by default with just as many backups as it needs."""
    primary = world.cluster.primary(view)
    if backups is None:
        others = [i for i in range(len(world.names)) if i != primary]
        backups = others[: world.cluster.quorums.prepares]
    message = PrePrepare(view, sequence, digest, primary)
    pre_prepare = world.sign(world.cluster.replica_names[primary], message)
    return PreparedCertificate(
        pre_prepare, tuple(world.prepare(sequence, digest, i, view) for i in backups)
    )


def proof(
    world: World, sequence: int, digest: bytes = FALSE, replicas: Sequence[int] = (0, 1, 2)
) -> tuple[Signed, ...]:
    """The certificate of a stable checkpoint."""
    return tuple(world.checkpoint(sequence, digest, replica) for replica in replicas)


def view_change(
    world: World,
    replica: int,
    view: int = 1,
    *,
    stable: int = 0,
    stable_proof: tuple[Signed, ...] = (),
    prepared: Iterable[PreparedCertificate] = (),
) -> Signed:
    """A VIEW-CHANGE signed by that replica."""
    message = ViewChange(view, stable, stable_proof, tuple(prepared), replica)
    return world.sign(world.cluster.replica_names[replica], message)


def checked(world: World, signed: Signed) -> CheckedViewChange:
    """A VIEW-CHANGE that must be right, and what it proves."""
    authenticator = world.replicas[next(iter(world.replicas))].core.authenticator
    message = authenticator.read(signed)
    assert isinstance(message, ViewChange)
    result = check_view_change(message, signed, world.cluster, authenticator=authenticator)
    assert isinstance(result, CheckedViewChange), result
    return result


def new_view(
    world: World,
    view: int,
    changes: Sequence[Signed],
    digests: Iterable[tuple[int, bytes]] | None = None,
    *,
    replica: int | None = None,
) -> Signed:
    """A NEW-VIEW of that view's primary; `digests`: what O says, by default what follows from V."""
    primary = world.cluster.primary(view) if replica is None else replica
    name = world.cluster.replica_names[primary]
    if digests is None:
        order = new_view_order([checked(world, change) for change in changes], NULL_REQUEST)
        digests = order.digests
    pre_prepares = tuple(world.sign(name, PrePrepare(view, n, d, primary)) for n, d in digests)
    return world.sign(name, NewView(view, tuple(changes), pre_prepares, primary))


def drive_into_view_change(world: World, name: str, view: int = 1) -> None:
    """f+1 others say that they left for that view, so this one does as well."""
    index = world.cluster.replica_index(name)
    others = [i for i in range(len(world.names)) if i != index]
    for other in others[-world.cluster.quorums.weak :]:
        world.give(name, view_change(world, other, view))
    assert (world.core(name).view, world.core(name).has_entered) == (view, False)


def drive_into_view(world: World, name: str, view: int = 1) -> None:
    """The others began an empty view; that replica enters it."""
    index = world.cluster.replica_index(name)
    others = [i for i in range(len(world.names)) if i != index]
    changes = [view_change(world, i, view) for i in others[: world.cluster.quorums.strong]]
    world.give(name, new_view(world, view, changes))
    assert (world.core(name).view, world.core(name).has_entered) == (view, True)


def prepare_at(world: World, name: str, sequence: int, operation: bytes, view: int = 0) -> bytes:
    """One replica accepts a PRE-PREPARE and is prepared by others' PREPAREs; the digest."""
    primary = world.cluster.primary(view)
    request = world.request(sequence, operation)
    message, signed, body = world.pre_prepare(sequence, [request], view=view, replica=primary)
    index = world.cluster.replica_index(name)
    if index != primary:
        world.give(name, signed, body)
    voters = [i for i in range(len(world.names)) if i not in (primary, index)]
    for voter in voters[: world.cluster.quorums.prepares]:
        world.give(name, world.prepare(sequence, message.digest, voter, view))
    slot = world.core(name).log.slot(sequence)
    assert slot.prepared is not None
    assert slot.prepared.digest == message.digest
    return message.digest


def votes_of(world: World, name: str) -> list[PrePrepare | Prepare]:
    """Its PRE-PREPAREs and PREPAREs, in order."""
    return [*world.said(name, PrePrepare), *world.said(name, Prepare)]
