"""Execution: committed batches are applied strictly in order (OSDI'99, 4.2, last paragraphs).

Whatever is decided here is the same on every correct replica: it reads the ordered requests, the
client table and the application's state, and nothing else.
"""

from pbft.client_table import StoredResult
from pbft.core import Core
from pbft.log import Batch, OrderedRequest, Slot
from pbft.messages import Recover, Reply, Request
from pbft.ports import Applied, Executed, ExecutedRequest, SavedEntry
from pbft.state import Ending, Recovery


def execute_next(core: Core) -> int | None:
    """Execute the next sequence number if its batch is committed; the number, or None.

    The COMMITs that prove it are saved with it, for peers that missed them (catch-up).
    """
    if core.is_diverged:
        return None
    slot = core.log.find(core.executed + 1)
    if slot is None or not slot.committed_local():
        return None
    decided = slot.decided
    assert decided is not None
    core.save(slot, Executed(slot.sequence, decided.digest, decided.commits))
    apply_batch(core, slot, slot.batches[decided.digest])
    return slot.sequence


def apply_batch(core: Core, slot: Slot, batch: Batch) -> None:
    """Apply every executable request of a batch in order, and answer its client."""
    assert slot.sequence == core.executed + 1, "execution is strictly in order"
    skipped = 0
    for ordered in batch.requests:
        request = ordered.request
        if core.proposer.proposed:
            core.proposer.proposed.discard(ordered.key)
        if isinstance(request, Recover):
            _apply_recover(core, slot.sequence, request)
            continue
        if core.execution.clients.is_executable(request.client, request.timestamp):
            _apply(core, slot.sequence, ordered, request=request)
        else:
            skipped += 1
        core.pending.remove(request.client, request.timestamp)
    core.execution.executed = slot.sequence
    ending = core.execution.ending
    if ending is not None and ending.sequence == slot.sequence:
        _end_epoch(core, ending)
    core.proposer.next_sequence = max(core.proposer.next_sequence, core.executed + 1)
    core.emit(
        "executed",
        view=core.view,
        sequence=slot.sequence,
        requests=len(batch.requests),
        skipped=skipped,
    )


def _apply_recover(core: Core, sequence: int, message: Recover) -> None:
    """Fix T for a replica that lost what it said: the first checkpoint at least L above (4.3).

    An old one changes nothing, nor another of the same replica before that has T stable.
    """
    core.recovery.requests.pop(message.replica, None)
    if core.recover_refusal(message, sequence) is not None:
        return
    voting_from = core.cluster.checkpoint_from(sequence + core.window)
    core.execution.recoveries[message.replica] = Recovery((message.nonce,), voting_from)
    core.emit("recover", replica=message.replica, sequence=sequence, voting_from=voting_from)


def _decide_end(core: Core, sequence: int, configuration: bytes) -> None:
    """Fix T, the last number of this epoch: the first checkpoint at least L above the change.

    Nobody who lacks the change votes above it (`Core.high`), and it is final.
    """
    assert core.execution.ending is None, "an epoch ends once"
    ending = Ending(core.cluster.checkpoint_from(sequence + core.window), configuration)
    core.execution.ending = ending
    core.emit("epoch_ends", epoch=core.cluster.epoch, sequence=sequence, last=ending.sequence)


def _end_epoch(core: Core, ending: Ending) -> None:
    """The begin step of the next epoch: the state that CHECKPOINT(T) signs is what it begins with.

    Clients count anew from 1.
    """
    for entry in core.application.end_epoch():
        core.output.records.append(SavedEntry(entry))
    core.execution.clients.forget_all()
    core.execution.epoch = core.cluster.epoch + 1
    core.execution.configuration = ending.configuration
    core.emit("epoch_ended", epoch=core.cluster.epoch, sequence=ending.sequence)


def _apply(core: Core, sequence: int, ordered: OrderedRequest, *, request: Request) -> None:
    applied: Applied = core.application.apply(request, ordered.digest, sequence)
    core.execution.clients.record(
        request.client,
        request.timestamp,
        StoredResult(ordered.digest, applied.kind, applied.subject, applied.result),
    )
    for entry in applied.entries:
        core.output.records.append(SavedEntry(entry))
    if applied.successor:
        _decide_end(core, sequence, applied.successor)
    core.output.executed.append(ExecutedRequest(sequence, ordered.signed, request, applied))
    core.reply(
        Reply(
            request.client,
            request.timestamp,
            ordered.digest,
            applied.kind,
            applied.subject,
            applied.result,
        )
    )
    for reply in applied.deferred:
        core.reply_deferred(reply)
