"""Execution: committed batches are applied strictly in order (OSDI'99, 4.2, last paragraphs).

Whatever is decided here is the same on every correct replica: it reads the ordered requests, the
client table and the application's state, and nothing else.
"""

from pbft.client_table import StoredResult
from pbft.core import Core, ReplicaStatus
from pbft.log import Batch, OrderedRequest, Slot
from pbft.messages import Reply
from pbft.ports import Applied, Executed, ExecutedRequest, SavedEntry


def execute_next(core: Core) -> int | None:
    """Execute the next sequence number if its batch is committed; the number, or None.

    The COMMITs that prove it are saved with it, for peers that missed them (catch-up).
    """
    if core.status is ReplicaStatus.DIVERGED:
        return None
    slot = core.log.find(core.executed + 1)
    if slot is None or not slot.committed_local(core.quorums):
        return None
    digest = slot.committed_digest(core.quorums)
    assert digest is not None
    for commit in slot.matching_commits(digest):
        if commit.signer != core.name:  # ours was saved before it was sent
            core.save(slot, commit)
    record = Executed(slot.sequence)
    slot.records.append(record)
    core.output.records.append(record)
    apply_batch(core, slot, slot.batches[digest])
    return slot.sequence


def apply_batch(core: Core, slot: Slot, batch: Batch) -> None:
    """Apply every executable request of a batch in order, and answer its client."""
    assert slot.sequence == core.executed + 1, "execution is strictly in order"
    skipped = 0
    for ordered in batch.requests:
        request = ordered.request
        if core.clients.is_executable(request.client, request.timestamp):
            _apply(core, slot.sequence, ordered)
        else:
            skipped += 1
        core.pending.remove(request.client, request.timestamp)
        core.proposed.discard((request.client, request.timestamp))
    core.executed = slot.sequence
    core.next_sequence = max(core.next_sequence, core.executed + 1)
    core.tell(
        "executed",
        view=core.view,
        sequence=slot.sequence,
        requests=len(batch.requests),
        skipped=skipped,
    )


def _apply(core: Core, sequence: int, ordered: OrderedRequest) -> None:
    request = ordered.request
    applied: Applied = core.application.apply(request, ordered.digest, sequence)
    core.clients.record(
        request.client,
        request.timestamp,
        StoredResult(ordered.digest, applied.kind, applied.subject, applied.result),
    )
    core.output.records.extend(SavedEntry(entry) for entry in applied.entries)
    core.output.deliveries.append(ExecutedRequest(sequence, ordered.signed, request, applied))
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
    for announcement in applied.announcements:
        core.announce(announcement)
