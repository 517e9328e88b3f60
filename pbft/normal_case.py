"""Normal-case operation: REQUEST, PRE-PREPARE, PREPARE, COMMIT (OSDI'99, 4.1 and 4.2).

The rule: every guard comes before the first change, and what a replica says (and what proves
it) is among the records of the turn in which it is sent.
"""

import itertools

from pbft.client_table import StoredResult
from pbft.codec import (
    BATCH_REQUESTS_MAX,
    MalformedMessage,
    decode_batch,
    decode_ordered,
    digest_of,
    encode_batch,
)
from pbft.core import Core
from pbft.log import (
    NULL_BATCH,
    RECOVER_NUMBER,
    Batch,
    Decided,
    OrderedRequest,
    Prepared,
    Proposal,
    Slot,
)
from pbft.messages import (
    Commit,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    Recover,
    Reply,
    Request,
    Signed,
)
from pbft.ports import (
    SENT_BACK,
    CheckpointRecord,
    DeferredReply,
    Refusal,
    SavedBody,
    SavedEntry,
    SavedMessage,
    SavedPrepared,
)
from pbft.state import RetransmitBudget

# What may be looked up for one client in one turn. All that ask anew get their answers, a few
# hundred verdicts in each turn; who sends requests of others again holds up no vote for long.
AGAIN_BYTES_MAX = 1024 * 1024
# A look into the ledger and a signature count as so many bytes, whatever comes of it.
LOOK_UP_BYTES = 1024
# So many requests are worth a batch. They are looked at in each turn that the primary keeps them.
KEPT_REQUESTS_MAX = 32


def on_request(core: Core, message: Request, signed: Signed) -> Refusal | None:
    """A client's REQUEST (4.1).

    Accepted if: the signature is the client's; this epoch goes on; the number is not executed yet,
    else the kept answer is sent again; and the number is within the client's window.
    """
    if refusal := core.authenticator.check(signed, message):
        return refusal
    if core.has_ended:
        return Refusal("this epoch has ended: ask in the next one")
    if core.is_diverged:
        return Refusal("no answers while diverged")
    if core.execution.clients.was_executed(message.client, message.timestamp):
        return _answer_again(core, message, signed)
    if not core.execution.clients.is_executable(message.client, message.timestamp):
        low = core.execution.clients.low_timestamp(message.client)
        return Refusal(f"number {message.timestamp} is beyond the window above {low}")
    core.pending.add(message, signed)
    return None


def _answer_again(core: Core, message: Request, signed: Signed) -> Refusal | None:
    """Answer an executed number: once in a turn, for anybody may send a request without end.

    Within the client's window the kept answer is always given. What has to be looked up is bounded
    per client and turn: a client that asks for more asks for the rest again.
    """
    budget = core.retransmit_budgets.setdefault(message.client, RetransmitBudget())
    if message.timestamp in budget.timestamps:
        return None
    budget.timestamps.add(message.timestamp)
    digest = digest_of(signed.payload)
    kept = core.execution.clients.result(message.client, message.timestamp)
    if kept is not None:
        core.reply(
            Reply(
                message.client,
                message.timestamp,
                kept.request_digest,
                kept.kind,
                kept.subject,
                kept.result,
            )
        )
        if kept.request_digest != digest:
            return None
    if budget.cost_bytes >= AGAIN_BYTES_MAX:
        return Refusal("more was asked again than is looked up at once: ask again later")
    budget.cost_bytes += LOOK_UP_BYTES
    if _is_answer_unsaved(core, kept):
        return Refusal("the answer may be in what is not saved yet: ask again")
    deferred = core.application.find_deferred(message, digest)
    if isinstance(deferred, Refusal):
        return deferred if kept is None else None
    if deferred is not None:
        budget.cost_bytes += len(deferred.result)
    if deferred is not None and (kept is None or _follows(deferred, kept)):
        core.reply_deferred(deferred)
    elif kept is None:
        # Too old to remember. A client that lost its counter learns from f+1 equal answers where
        # to go on; the digest of nothing says that it was not this request that was executed.
        low = str(core.execution.clients.low_timestamp(message.client)).encode()
        core.reply(Reply(message.client, message.timestamp, bytes(32), "used", b"", low))
    return None


def _is_answer_unsaved(core: Core, kept: StoredResult | None) -> bool:
    """Whether the ledger, which knows what is saved, is not what this turn has come to.

    What the turn decided cannot be found there: called forgotten by us and by a liar, it would be.
    Of a state that it adopted the ledger has another past.
    """
    return any(
        isinstance(record, CheckpointRecord) or (kept is None and isinstance(record, SavedEntry))
        for record in core.output.records
    )


def _follows(reply: DeferredReply, kept: StoredResult) -> bool:
    """A later answer follows an earlier one about the same subject; a refusal has none."""
    return reply.subject == kept.subject and reply.kind != kept.kind


def may_propose(core: Core) -> bool:
    """Whether we are a primary whose pipeline and window have room for the next number."""
    if not core.is_primary or not core.is_voting:
        return False
    if core.proposer.next_sequence - 1 - core.executed >= core.settings.pipeline_depth:
        return False
    return core.within_water_marks(core.proposer.next_sequence)


def may_delay(core: Core) -> bool:
    """As primary: whether there are requests to propose, few, and nobody waits for any of them.

    The paper proposes at once (4.2). Each number costs all replicas its votes and saves, so what
    settles nothing by itself goes with what does (docs/decisions/0017).
    """
    if core.settings.batch_delay_seconds == 0 or core.recovery.requests:
        return False
    kept = list(
        itertools.islice(core.pending.unproposed(core.proposer.proposed), KEPT_REQUESTS_MAX + 1)
    )
    if not 0 < len(kept) <= KEPT_REQUESTS_MAX:
        return False
    return core.application.may_delay(kept)


def propose(core: Core, is_null_due: bool) -> Slot | None:
    """As primary, give the next sequence number to a batch of pending requests (4.2).

    is_null_due: where nothing is pending, a null request (a recovering replica waits for T).
    Only while fewer than pipeline_depth numbers are in flight and the next one is within the
    water marks. Clients are served in rotation, each one's lowest number first.
    """
    if not may_propose(core):
        return None
    requests = _collect(core)
    if requests:
        body = encode_batch([ordered.signed for ordered in requests])
        batch = Batch(digest_of(body), body, tuple(requests))
    elif is_null_due:
        batch = NULL_BATCH
    else:
        return None
    message = PrePrepare(core.view, core.proposer.next_sequence, batch.digest, core.index)
    slot = core.log.slot(message.sequence)
    assert slot.proposal is None, "a primary never gives a number twice"
    core.proposer.next_sequence += 1
    signed = core.sign(message)
    slot.proposal = Proposal(message, signed)
    accept(core, slot, batch)
    core.broadcast(signed, batch.body)
    return slot


def _collect(core: Core) -> list[OrderedRequest]:
    """Pending requests in rotation over the clients, up to the limits of one batch."""
    fresh = core.pending.fresh(core.proposer.proposed)
    later = [client for client in fresh if client > core.proposer.rotation]
    queues = {client: fresh[client] for client in (*later, *fresh)}
    collected: list[OrderedRequest] = []
    for signed in core.recovery.requests.values():
        if (signed.signer, RECOVER_NUMBER) not in core.proposer.proposed:
            collected.append(OrderedRequest(decode_ordered(signed), signed, b""))
            core.proposer.proposed.add((signed.signer, RECOVER_NUMBER))
    # A batch may go over this by one request and what encoding adds.
    bytes_max = min(core.settings.batch_bytes_max, core.cluster.body_bytes_max // 2)
    size = 0
    depth = 0
    while len(collected) < BATCH_REQUESTS_MAX:
        round_clients = [client for client, numbers in queues.items() if depth < len(numbers)]
        if not round_clients:
            break
        for client in round_clients:
            timestamp = queues[client][depth]
            ordered = core.pending.ordered(client, timestamp)
            size += len(ordered.signed.payload) + 200
            if collected and (size > bytes_max or len(collected) == BATCH_REQUESTS_MAX):
                return collected
            collected.append(ordered)
            core.proposer.proposed.add((client, timestamp))
            core.proposer.rotation = client
        depth += 1
    return collected


def on_pre_prepare(
    core: Core, message: PrePrepare, signed: Signed, *, body: bytes
) -> Refusal | Slot | None:
    """The primary's PRE-PREPARE (4.2).

    Accepted if: it is of the current view and signed by its primary; h < n <= H, and n is above
    the min-s that the view began with (4.4); no other digest was accepted for this view and
    number, nor ordered by its NEW-VIEW; the body has the digest; every request in it is signed by
    its client. Then PREPARE is saved together with the body, and sent.
    """
    if refusal := _guard(core, message):
        return refusal
    if message.replica != core.primary:
        return Refusal("a PRE-PREPARE from a replica that is not the primary")
    if message.sequence <= core.views.min_s:
        return Refusal("at or below the checkpoint that this view began with")
    slot = core.log.slot(message.sequence)
    proposal = slot.proposal or core.views.ordered.get(message.sequence)
    if proposal is not None:
        return _second_pre_prepare(core, slot, proposal, message=message, signed=signed, body=body)
    if core.is_primary:
        # Our own words come back only from before a restart, and those are in the records.
        return Refusal("a PRE-PREPARE of our own that we do not remember")
    if refusal := core.authenticator.check(signed, message):
        return refusal
    batch = slot.batches.get(message.digest) or read_batch(core, message.digest, body)
    if isinstance(batch, Refusal):
        return batch
    slot.proposal = Proposal(message, signed)
    accept(core, slot, batch)
    return slot


def _second_pre_prepare(
    core: Core,
    slot: Slot,
    proposal: Proposal,
    *,
    message: PrePrepare,
    signed: Signed,
    body: bytes,
) -> Refusal | Slot | None:
    """Another PRE-PREPARE for a slot that has one: the body that was missing, or a fault.

    proposal: that of the slot, or the one of the NEW-VIEW that was above our window until now.
    """
    if message.digest == proposal.message.digest:
        if slot.accepted is not None:
            return None
        batch = slot.batches.get(message.digest) or read_batch(core, message.digest, body)
        if isinstance(batch, Refusal):
            return batch
        slot.proposal = proposal
        accept(core, slot, batch)
        return slot
    if refusal := core.authenticator.check(signed, message):
        return refusal
    core.record_equivocation(message.replica, proposal.signed, signed)
    return Refusal("another digest was accepted for this view and number")


def accept(core: Core, slot: Slot, batch: Batch) -> None:
    """Take the batch of the slot's PRE-PREPARE; a backup says PREPARE (4.2).

    Body, PRE-PREPARE and PREPARE are in one commit, before anything is sent.
    """
    proposal = slot.proposal
    assert proposal is not None
    assert proposal.message.digest == batch.digest
    assert slot.accepted is None
    keep_batch(core, slot, batch)
    slot.accepted = batch.digest
    core.save(slot, SavedMessage(proposal.signed))
    core.emit(
        "pre_prepared",
        view=core.view,
        sequence=slot.sequence,
        digest=batch.digest.hex(),
        requests=len(batch.requests),
    )
    if core.is_primary:
        return
    prepare = Prepare(core.view, slot.sequence, batch.digest, core.index)
    signed = core.sign(prepare)
    slot.prepares[core.index] = (prepare, signed)
    core.save(slot, SavedMessage(signed))
    core.broadcast(signed)


def keep_batch(core: Core, slot: Slot, batch: Batch) -> None:
    """Keep and save a verified body; the null request needs no keeping."""
    if batch.digest not in slot.batches:
        slot.batches[batch.digest] = batch
        core.output.records.append(SavedBody(slot.sequence, batch.digest, batch.body))


def take_body(core: Core, slot: Slot, digest: bytes, *, body: bytes) -> Refusal | None:
    """A body that a slot waited for, from wherever: kept, and its PRE-PREPARE accepted (4.4)."""
    batch = read_batch(core, digest, body)
    if isinstance(batch, Refusal):
        return batch
    keep_batch(core, slot, batch)
    accept_proposal(core, slot)
    return None


def accept_proposal(core: Core, slot: Slot) -> None:
    """Accept the slot's PRE-PREPARE if its body is here by now; the primary notes what is in it."""
    if slot.proposal is None or slot.accepted is not None or not core.is_voting:
        return
    batch = slot.batches.get(slot.proposal.message.digest)
    if batch is None:
        return
    accept(core, slot, batch)
    if core.is_primary and slot.sequence > core.executed:
        core.proposer.proposed.update(ordered.key for ordered in batch.requests)


def on_prepare(core: Core, message: Prepare, signed: Signed) -> Refusal | Slot | None:
    """A backup's PREPARE (4.2).

    Accepted if: it is of the current view; h < n <= H; its sender is not the primary, whose
    PRE-PREPARE is its vote; and the sender has not voted for this slot before. It may come
    before the PRE-PREPARE; it counts only for the digest that it bears.
    """
    if refusal := _guard(core, message):
        return refusal
    if message.replica == core.primary:
        return Refusal("a PREPARE from the primary")
    slot = core.log.slot(message.sequence)
    earlier = slot.prepares.get(message.replica)
    if earlier is not None:
        return _second_vote(core, earlier, message, signed=signed)
    if slot.commit_of(core.index, core.view) is not None:
        return None  # beyond the quorum: not even verified
    if refusal := core.authenticator.check(signed, message):
        return refusal
    slot.prepares[message.replica] = (message, signed)
    return slot


def on_commit(core: Core, message: Commit, signed: Signed) -> Refusal | Slot | None:
    """A COMMIT (4.2), of whatever view, in whatever status.

    Accepted if: h < n <= H; and the sender has not sent the same one for this slot before. It
    may come before the PRE-PREPARE and the PREPAREs; `strong` of one view and digest decide.
    Until the slot is decided, another COMMIT of the same sender replaces its earlier one: still
    one voice, one vote. If the first one stood, a faulty replica that committed with the others
    could bar one that missed their PREPAREs from ever using the certificate they re-send.
    """
    if not core.within_water_marks(message.sequence):
        return Refusal("outside the water marks")
    slot = core.log.slot(message.sequence)
    if slot.decided is not None and slot.decided.digest == message.digest:
        return None  # beyond the quorum: not even verified
    earlier = slot.commits.get(message.replica, {}).get(message.view)
    if earlier is not None and earlier[0] == message:
        return None
    if refusal := core.authenticator.check(signed, message):
        return refusal
    if earlier is not None:
        core.record_equivocation(message.replica, earlier[1], signed)
    if slot.decided is not None:
        return Refusal("the replica sent COMMIT for another digest than the decided one")
    slot.add_commit(message, signed, core.quorums)
    return slot


def on_own_commit(core: Core, message: Commit, signed: Signed) -> Refusal | Slot:
    """A COMMIT of our own that a peer sends back (replica.Replica._on_own).

    Accepted if: h < n <= H; it is not among the votes that we keep; and with it `strong` replicas
    have sent COMMIT for one view and digest. It is told as forgotten if our records lack it, too.
    """
    slot = core.log.find(message.sequence)
    if slot is None or slot.decided is not None or not core.within_water_marks(message.sequence):
        return SENT_BACK
    if slot.commit_of(core.index, message.view) == message:
        return SENT_BACK
    others = slot.matching_commits(message.view, message.digest)
    if len(others) + 1 < core.quorums.strong:
        return SENT_BACK
    if refusal := core.authenticator.check(signed, message):
        return refusal
    slot.decided = Decided(message.digest, (*others, signed))
    # After many views the slot no longer keeps it as a vote; our records do.
    if SavedMessage(signed) not in slot.records:
        core.emit("forgot", kind="COMMIT", view=message.view, sequence=message.sequence)
    return slot


def send_commit(core: Core, slot: Slot) -> None:
    """Once prepared, save the prepared certificate with our COMMIT, and send it (4.2)."""
    if not core.is_voting or slot.commit_of(core.index, core.view) is not None:
        return
    if not slot.is_prepared(core.quorums):
        return
    assert slot.proposal is not None
    assert slot.accepted is not None
    prepares = tuple(slot.matching_prepares()[: core.quorums.prepares])
    certificate = PreparedCertificate(slot.proposal.signed, prepares)
    slot.prepared = Prepared(core.view, slot.accepted, certificate)
    core.save(slot, SavedPrepared(certificate))
    commit = Commit(core.view, slot.sequence, slot.accepted, core.index)
    signed = core.sign(commit)
    slot.add_commit(commit, signed, core.quorums)
    core.save(slot, SavedMessage(signed))
    core.broadcast(signed)
    core.emit("prepared", view=core.view, sequence=slot.sequence)


def _guard(core: Core, message: PrePrepare | Prepare) -> Refusal | None:
    if message.view != core.view:
        return Refusal(f"of view {message.view} while in view {core.view}")
    if not core.is_voting:
        return Refusal("no votes are taken in a view that has not begun, or while diverged")
    if not core.within_water_marks(message.sequence):
        return Refusal("outside the water marks")
    return None


def _second_vote(
    core: Core, earlier: tuple[Prepare, Signed], message: Prepare, *, signed: Signed
) -> Refusal | None:
    if earlier[0] == message:
        return None
    if refusal := core.authenticator.check(signed, message):
        return refusal
    core.record_equivocation(message.replica, earlier[1], signed)
    return Refusal("the replica voted for another digest before")


def read_batch(core: Core, digest: bytes, body: bytes) -> Batch | Refusal:
    """The batch in a body: it must have the digest, and every request its client's signature."""
    if len(body) > core.cluster.body_bytes_max:
        return Refusal(f"a body of {len(body)} bytes; at most {core.cluster.body_bytes_max}")
    if digest_of(body) != digest:
        return Refusal("the body does not have the digest")
    try:
        signed_requests = decode_batch(body)
    except MalformedMessage as error:
        return Refusal(f"malformed body: {error}")
    requests: list[OrderedRequest] = []
    for signed in signed_requests:
        if known := core.pending.find(signed):
            requests.append(known)
            continue
        request = core.authenticator.read(signed)
        if isinstance(request, Refusal):
            return request
        if not isinstance(request, Request | Recover):
            return Refusal("the body holds something other than requests")
        if refusal := core.authenticator.check(signed, request):
            return Refusal(f"a request in the body: {refusal.reason}")
        requests.append(OrderedRequest(request, signed, digest_of(signed.payload)))
    if len({ordered.key for ordered in requests}) < len(requests):
        return Refusal("the body holds one number of a client twice")
    return Batch(digest, body, tuple(requests))
