"""A replica's state from its own records: the last checkpoint record, then what followed it.

The rule: nothing is decided anew. What was executed is executed again, from the certificates that
were saved with it, and must come to the same; what was said stands in its slot again.
"""

from collections.abc import Mapping, Sequence

from pbft.certificates import (
    CheckedViewChange,
    check_decided,
    check_prepared,
    check_view_change,
    state_digest,
)
from pbft.checkpoint import restore_state, take
from pbft.codec import (
    MalformedMessage,
    OlderForm,
    decode_batch,
    decode_ordered,
    digest_of,
)
from pbft.core import Core
from pbft.execution import apply_batch
from pbft.log import NULL_REQUEST, Batch, Decided, OrderedRequest, Prepared, Proposal, Slot
from pbft.messages import Checkpoint, Commit, NewView, Prepare, PrePrepare, Signed, ViewChange
from pbft.ports import (
    CheckpointRecord,
    Executed,
    Record,
    Refusal,
    SavedMessage,
    SavedPrepared,
    SavedRecovery,
)
from pbft.recovery import leave_all_views
from pbft.view_change import check_new_view, set_proposals


class DamagedRecords(Exception):
    """Records that cannot be what this replica saved; the text says which."""


class OlderRecords(Exception):
    """Whole records of an older version, which this one cannot go on from; the text says why."""


def restore(core: Core, records: Sequence[Record], bodies: dict[bytes, bytes]) -> None:
    """Bring a new core to where the records end. Raises DamagedRecords, OlderRecords.

    records: in order, without bodies and ledger entries; bodies: by digest.
    """
    assert core.executed == core.cluster.begins_after
    for record in records:
        if isinstance(record, CheckpointRecord):
            _restore_stable(core, record)
        elif isinstance(record, SavedMessage):
            _restore_message(core, record, bodies)
        elif isinstance(record, SavedRecovery):
            if record.nonce:
                leave_all_views(core, record.nonce)
            core.recovery.nonce = record.nonce
        elif isinstance(record, SavedPrepared):
            _restore_prepared(core, record)
        elif isinstance(record, Executed):
            _restore_executed(core, record, bodies)
    core.log.forget_up_to(core.kept_above)
    last = max((slot.sequence for slot in core.log.above(0) if slot.accepted), default=0)
    core.proposer.next_sequence = max(core.proposer.next_sequence, core.executed + 1, last + 1)
    if core.is_primary and core.has_entered:
        for slot in core.log.above(core.executed):
            if slot.accepted is not None:
                batch = slot.batches[slot.accepted]
                core.proposer.proposed.update(ordered.key for ordered in batch.requests)


def begin_epoch(core: Core, parts: Mapping[str, bytes]) -> None:
    """Bring a new core to the beginning of an epoch that continues another one.

    parts: of the state that the one before ended with, as the ancestry names it.
    """
    assert core.cluster.ancestry is not None
    assert state_digest(parts) == core.cluster.ancestry.state
    restore_state(core, core.cluster.begins_after, parts)
    assert not core.has_ended, "the state is of another epoch"
    assert core.execution.configuration == core.cluster.configuration
    core.checkpoints.stable_parts = dict(parts)


def _restore_stable(core: Core, record: CheckpointRecord) -> None:
    restore_state(core, record.sequence, record.parts)
    core.execution.executed = record.sequence
    for signed in record.certificate:
        message = core.authenticator.read(signed)
        if not isinstance(message, Checkpoint) or core.authenticator.check(signed, message):
            raise DamagedRecords("the saved checkpoint certificate does not hold")
        core.checkpoints.votes.add(message, signed)
    certificate = core.checkpoints.votes.certificate(record.sequence)
    if certificate is None or certificate.digest != state_digest(record.parts):
        raise DamagedRecords("the saved state does not have the certified digest")
    core.checkpoints.stable = certificate
    core.checkpoints.stable_parts = record.parts
    core.checkpoints.votes.forget_up_to(record.sequence)


def _restore_message(core: Core, record: SavedMessage, bodies: dict[bytes, bytes]) -> None:
    signed = record.signed
    message = core.authenticator.read(signed)
    if isinstance(message, Checkpoint):
        _restore_checkpoint(core, message, signed)
    elif isinstance(message, ViewChange):
        _restore_view_change(core, message, record)
    elif isinstance(message, NewView):
        _restore_new_view(core, message, record)
    elif isinstance(message, PrePrepare | Prepare | Commit):
        slot = core.log.slot(message.sequence)
        slot.records.append(record)
        _restore_vote(core, slot, message, signed=signed, bodies=bodies)
    else:
        raise DamagedRecords(f"a saved message that cannot be ours: {message}")


def _restore_checkpoint(core: Core, message: Checkpoint, signed: Signed) -> None:
    said = core.checkpoints.votes.vote_of(message.sequence, core.index)
    if said is None:
        core.checkpoints.votes.add(message, signed)
    elif said[0] != message:
        raise DamagedRecords(f"executing again to {message.sequence} gave another state")


def _restore_view_change(core: Core, message: ViewChange, record: SavedMessage) -> None:
    checked = check_view_change(
        message, record.signed, core.cluster, authenticator=core.authenticator
    )
    if not isinstance(checked, CheckedViewChange):
        raise DamagedRecords(f"our own VIEW-CHANGE: {checked.reason}")
    core.views.current = message.view
    core.views.has_entered = False
    core.views.new_view = None
    core.views.changes[core.index] = checked
    core.views.records = [record]
    core.timers.has_progressed = False
    for slot in core.log.above(0):
        slot.leave_view()


def _restore_new_view(core: Core, message: NewView, record: SavedMessage) -> None:
    order = check_new_view(message, record.signed, core.cluster, authenticator=core.authenticator)
    if isinstance(order, Refusal):
        raise DamagedRecords(f"the NEW-VIEW that was entered: {order.reason}")
    core.views.current = message.view
    core.views.has_entered = True
    core.views.new_view = record.signed
    core.views.min_s = order.sequence_min
    core.views.changes = {}
    core.views.records = [record]
    core.proposer.next_sequence = max(order.sequence_max, core.executed) + 1
    set_proposals(core, message, order)


def _restore_vote(
    core: Core,
    slot: Slot,
    message: PrePrepare | Prepare | Commit,
    *,
    signed: Signed,
    bodies: dict[bytes, bytes],
) -> None:
    if isinstance(message, Commit):
        slot.add_commit(message, signed, core.quorums)
    elif isinstance(message, PrePrepare):
        _restore_batch(slot, message.digest, bodies)
        if message.view == core.view and core.has_entered:
            slot.proposal = Proposal(message, signed)
            slot.accepted = message.digest
    elif message.view == core.view and core.has_entered:
        slot.prepares[message.replica] = (message, signed)


def _restore_prepared(core: Core, record: SavedPrepared) -> None:
    pre_prepare = check_prepared(record.certificate, core.cluster, core.authenticator)
    if isinstance(pre_prepare, Refusal):
        raise DamagedRecords(f"a saved certificate: {pre_prepare.reason}")
    slot = core.log.slot(pre_prepare.sequence)
    slot.records.append(record)
    slot.prepared = Prepared(pre_prepare.view, pre_prepare.digest, record.certificate)
    if pre_prepare.view == core.view and core.has_entered:
        for signed in record.certificate.prepares:
            prepare = core.authenticator.read(signed)
            assert isinstance(prepare, Prepare)
            slot.prepares[prepare.replica] = (prepare, signed)


def _restore_executed(core: Core, record: Executed, bodies: dict[bytes, bytes]) -> None:
    if refusal := check_decided(record, core.cluster, core.authenticator):
        raise DamagedRecords(f"{record.sequence} was executed without proof: {refusal.reason}")
    slot = core.log.slot(record.sequence)
    slot.records.append(record)
    slot.decided = Decided(record.digest, record.commits)
    if record.sequence <= core.executed:
        return
    if record.sequence != core.executed + 1:
        raise DamagedRecords(f"sequence number {record.sequence} was executed out of order")
    _restore_batch(slot, record.digest, bodies)
    apply_batch(core, slot, slot.batches[record.digest])
    if core.cluster.is_checkpoint(record.sequence):
        take(core, record.sequence)


def _restore_batch(slot: Slot, digest: bytes, bodies: dict[bytes, bytes]) -> None:
    if digest == NULL_REQUEST or digest in slot.batches:
        return
    body = bodies.get(digest)
    if body is None or digest_of(body) != digest:
        raise DamagedRecords(f"the body of sequence number {slot.sequence} is missing")
    try:
        requests = tuple(
            OrderedRequest(decode_ordered(request), request, digest_of(request.payload))
            for request in decode_batch(body)
        )
    except OlderForm as error:
        raise OlderRecords(f"sequence number {slot.sequence} has {error}") from error
    except MalformedMessage as error:
        raise DamagedRecords(f"the body of {slot.sequence}: {error}") from error
    slot.batches[digest] = Batch(digest, body, requests)
