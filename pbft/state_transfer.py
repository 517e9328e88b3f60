"""State transfer: for a replica whose gap its peers no longer keep, or whose state is wrong (4.3).

The rule: a state is adopted only if its digest has a certificate of `strong` CHECKPOINTs; the
leaves are checked against that digest, each part against its leaf. So anybody may serve, one peer
after the other is asked, and what does not fit is asked for again.
"""

from collections.abc import Callable

from pbft.certificates import leaves_digest, state_leaves
from pbft.codec import digest_of
from pbft.core import Core
from pbft.messages import FetchState, Signed, StateLeaves, StateParts
from pbft.ports import Refusal
from pbft.state import Transfer

# Names asked for at once, so that an answer is a few messages.
NAMES_PER_REQUEST = 256
PARTS_BYTES_PER_MESSAGE = 512 * 1024
# About what a leaf takes in a message: a name and a digest.
LEAF_BYTES = 100


def maybe_start(core: Core) -> None:
    """At every STATUS: begin a transfer if we are behind and stand still, or go on with one."""
    stands_still = core.executed == core.transfers.executed_at_tick
    core.transfers.executed_at_tick = core.executed
    target = core.checkpoints.certified
    is_needed = target.sequence > core.executed or core.is_diverged
    if not is_needed:
        core.transfers.current = None
        return
    transfer = core.transfers.current
    if transfer is None:
        # Below that no correct peer keeps slots: who still sends some may do so to keep us there.
        is_collected = core.executed < target.sequence - core.interval
        if not stands_still and not core.is_diverged and not is_collected:
            return
        transfer = core.transfers.current = Transfer(target)
        core.emit("state_transfer", sequence=target.sequence, executed=core.executed)
    elif target.sequence > transfer.certificate.sequence:
        # Nobody keeps the older state any more; parts that did not change stay good.
        transfer.certificate = target
        transfer.leaves = None
    _ask(core, transfer)


def _ask(core: Core, transfer: Transfer) -> None:
    """Ask the next peer for what is missing."""
    peers = [name for name in core.cluster.expected_names if name != core.name]
    if not peers:
        return
    sequence = transfer.certificate.sequence
    if transfer.leaves is None:
        core.broadcast(core.sign(FetchState(sequence, (), core.index)))
        return
    missing = [name for name in transfer.leaves if name not in transfer.parts]
    for first in range(0, len(missing), NAMES_PER_REQUEST):
        names = tuple(missing[first : first + NAMES_PER_REQUEST])
        peer = peers[transfer.attempts % len(peers)]
        core.send(peer, core.sign(FetchState(sequence, names, core.index)))
        transfer.attempts += 1


def on_fetch_state(
    core: Core, message: FetchState, signed: Signed, *, now: float
) -> Refusal | None:
    """A peer asks for a state. Answered if the signature holds and we keep the one of that number.

    We keep our last stable one, and those above it that lack a certificate here. The peer may be
    the only one to have that: who said the last CHECKPOINT of it may be gone, and as long as the
    peer is behind, nothing above makes it superfluous. A peer that asks for an older state learns
    of the newer by our STATUS. Bounded in bytes per peer and time: what is left out is asked for
    again, of the next peer.
    """
    if refusal := core.authenticator.check(signed, message):
        return refusal
    sequence = message.sequence
    parts = _kept_state(core, sequence)
    if not parts:
        return None
    if not core.may_send_more(message.replica, now):
        return Refusal("more was asked for than is sent again at once")
    if not message.names:
        leaves = core.transfers.leaves.get(sequence)
        if leaves is None:  # hashing the whole state costs far more than what is charged for
            leaves = core.transfers.leaves[sequence] = state_leaves(parts)
        core.send(signed.signer, core.sign(StateLeaves(sequence, leaves, core.index)))
        core.note_sent(message.replica, LEAF_BYTES * len(leaves), now)
        return None
    chunk: list[tuple[str, bytes]] = []
    size = 0
    for name in dict.fromkeys(message.names):
        if name not in parts:
            continue
        if chunk and size + len(parts[name]) > PARTS_BYTES_PER_MESSAGE:
            _send_parts(core, signed.signer, sequence, chunk=chunk)
            core.note_sent(message.replica, size, now)
            chunk, size = [], 0
            if not core.may_send_more(message.replica, now):
                return None
        chunk.append((name, parts[name]))
        size += len(parts[name])
    if chunk:
        _send_parts(core, signed.signer, sequence, chunk=chunk)
        core.note_sent(message.replica, size, now)
    return None


def _kept_state(core: Core, sequence: int) -> dict[str, bytes]:
    """The parts of the state of that number; empty where it is not kept."""
    if sequence == core.low:
        return core.checkpoints.stable_parts
    _, parts = core.checkpoints.snapshots.get(sequence, (b"", {}))
    return parts


def _send_parts(core: Core, to: str, sequence: int, *, chunk: list[tuple[str, bytes]]) -> None:
    core.send(to, core.sign(StateParts(sequence, tuple(chunk), core.index)))


def on_state_leaves(
    core: Core, message: StateLeaves, own: Callable[[], dict[str, bytes]]
) -> Refusal | None:
    """The leaves of the state that we fetch.

    own: gives the parts of our own present state; those that did not change need not travel.
    Accepted if they are for the checkpoint that we fetch, and their root is its digest; who sent
    them does not matter.
    """
    transfer = core.transfers.current
    if transfer is None or message.sequence != transfer.certificate.sequence:
        return Refusal("leaves of a state that is not being fetched")
    if transfer.leaves is not None:
        return None
    if leaves_digest(message.leaves) != transfer.certificate.digest:
        return Refusal("leaves whose root is not the certified digest")
    leaves = dict(message.leaves)
    known = {**own(), **transfer.parts}
    transfer.leaves = leaves
    transfer.parts = {
        name: data
        for name, data in known.items()
        if name in leaves and digest_of(data) == leaves[name]
    }
    _ask(core, transfer)
    return None


def on_state_parts(core: Core, message: StateParts) -> Refusal | None:
    """Parts of the state that we fetch; each is accepted if it has its leaf's digest."""
    transfer = core.transfers.current
    if transfer is None or message.sequence != transfer.certificate.sequence:
        return Refusal("parts of a state that is not being fetched")
    if transfer.leaves is None:
        return Refusal("parts before the leaves that would prove them")
    wrong = 0
    for name, data in message.parts:
        if transfer.leaves.get(name) == digest_of(data):
            transfer.parts[name] = data
        else:
            wrong += 1
    return (
        Refusal(f"{wrong} parts of the state without the digest of their leaves") if wrong else None
    )


def is_complete(core: Core) -> bool:
    """Whether everything is here."""
    transfer = core.transfers.current
    return (
        transfer is not None
        and transfer.leaves is not None
        and len(transfer.parts) == len(transfer.leaves)
    )


def adopt(core: Core) -> dict[str, bytes]:
    """Go on from the fetched state, which gives its parts; `checkpoint` restores and keeps it."""
    transfer = core.transfers.current
    assert transfer is not None
    assert is_complete(core)
    sequence = transfer.certificate.sequence
    core.emit("state_transferred", sequence=sequence, executed=core.executed)
    core.execution.executed = sequence
    core.proposer.next_sequence = max(core.proposer.next_sequence, sequence + 1)
    core.checkpoints.is_diverged = False
    core.transfers.current = None
    return transfer.parts


def forget_executed(core: Core) -> None:
    """Requests that the adopted state has executed are pending no more, nor in a batch under way.

    What is in no batch above it is free to be ordered: the next RECOVER of a replica too, whose
    earlier one was skipped.
    """
    for client in core.pending.clients():
        for timestamp in core.pending.numbers(client):
            if not core.execution.clients.is_executable(client, timestamp):
                core.pending.remove(client, timestamp)
    core.proposer.proposed &= {
        ordered.key
        for slot in core.log.above(core.executed)
        for batch in slot.batches.values()
        for ordered in batch.requests
    }
