"""Normal-case operation: REQUEST, PRE-PREPARE, PREPARE, COMMIT (OSDI'99, 4.1 and 4.2).

The rule: every guard comes before the first change, and what a replica says (and what proves
it) is among the records of the turn in which it is sent.
"""

from pbft.codec import (
    BATCH_REQUESTS_MAX,
    MalformedMessage,
    decode_batch,
    digest_of,
    encode_batch,
)
from pbft.core import Core, ReplicaStatus
from pbft.log import Batch, OrderedRequest, Slot
from pbft.messages import Commit, Prepare, PrePrepare, Reply, Request, Signed
from pbft.ports import Refusal, SavedBody


def on_request(core: Core, message: Request, signed: Signed) -> Refusal | None:
    """A client's REQUEST (4.1).

    Accepted if: the signature is the client's; the number is not executed yet, else the kept
    answer is sent again; and the number is within the client's window.
    """
    if refusal := core.authenticator.check(signed, message):
        return refusal
    if core.status is ReplicaStatus.DIVERGED:
        return Refusal("no answers while diverged")
    if core.clients.was_executed(message.client, message.timestamp):
        _answer_again(core, message, signed)
        return None
    if not core.clients.is_executable(message.client, message.timestamp):
        floor = core.clients.floor(message.client)
        return Refusal(f"number {message.timestamp} is beyond the window above {floor}")
    core.pending.add(message.client, message.timestamp, signed)
    return None


def _answer_again(core: Core, message: Request, signed: Signed) -> None:
    digest = digest_of(signed.payload)
    kept = core.clients.result(message.client, message.timestamp)
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
            return
    if announcement := core.application.recall(message, digest):
        core.announce(announcement)


def propose(core: Core) -> Slot | None:
    """As primary, give the next sequence number to a batch of pending requests (4.2).

    Only while fewer than pipeline_depth numbers are in flight and the next one is within the
    water marks. Clients are served in rotation, each one's lowest number first.
    """
    if not core.is_primary or core.status is not ReplicaStatus.NORMAL:
        return None
    if core.next_sequence - 1 - core.executed >= core.settings.pipeline_depth:
        return None
    if not core.within_water_marks(core.next_sequence):
        return None
    requests = _collect(core)
    if not requests:
        return None
    body = encode_batch([ordered.signed for ordered in requests])
    message = PrePrepare(core.view, core.next_sequence, digest_of(body), core.index)
    signed = core.sign(message)
    slot = core.log.slot(message.sequence)
    assert slot.accepted is None, "a primary never gives a number twice"
    core.next_sequence += 1
    _accept(core, slot, Batch(message, signed, body, tuple(requests)))
    core.broadcast(signed, body)
    return slot


def _collect(core: Core) -> list[OrderedRequest]:
    """Pending requests in rotation over the clients, up to the limits of one batch."""
    clients = core.pending.clients()
    later = [client for client in clients if client > core.rotation]
    queues = {
        client: [n for n in core.pending.numbers(client) if (client, n) not in core.proposed]
        for client in later + clients[: len(clients) - len(later)]
    }
    collected: list[OrderedRequest] = []
    size = 0
    depth = 0
    while len(collected) < BATCH_REQUESTS_MAX:
        round_clients = [client for client, numbers in queues.items() if depth < len(numbers)]
        if not round_clients:
            break
        for client in round_clients:
            timestamp = queues[client][depth]
            signed = core.pending.get(client, timestamp)
            size += len(signed.payload) + 200
            if collected and (
                size > core.settings.batch_bytes_max or len(collected) == BATCH_REQUESTS_MAX
            ):
                return collected
            request = core.authenticator.read(signed)
            assert isinstance(request, Request)
            collected.append(OrderedRequest(request, signed, digest_of(signed.payload)))
            core.proposed.add((client, timestamp))
            core.rotation = client
        depth += 1
    return collected


def on_pre_prepare(
    core: Core, message: PrePrepare, signed: Signed, body: bytes
) -> Refusal | Slot | None:
    """The primary's PRE-PREPARE (4.2).

    Accepted if: it is of the current view and signed by its primary; h < n <= H; no other digest
    was accepted for this view and number; the body has the digest; every request in it is
    signed by its client. Then PREPARE is saved together with the body, and sent.
    A batch that `strong` COMMITs already decided is kept for execution without a vote.
    """
    if refusal := _guard(core, message):
        return refusal
    if message.replica != core.primary:
        return Refusal("a PRE-PREPARE from a replica that is not the primary")
    slot = core.log.slot(message.sequence)
    if message.digest in slot.batches:
        return None
    is_decided = slot.committed_digest(core.quorums) == message.digest
    if slot.accepted is not None and not is_decided:
        if refusal := core.authenticator.check(signed, message):
            return refusal
        core.tell("equivocation", replica=message.replica, sequence=message.sequence)
        return Refusal("another digest was accepted for this view and number")
    if refusal := core.authenticator.check(signed, message):
        return refusal
    requests = _read_body(core, message, body)
    if isinstance(requests, Refusal):
        return requests
    batch = Batch(message, signed, body, requests)
    if slot.accepted is not None or core.status is not ReplicaStatus.NORMAL:
        if not is_decided:
            return Refusal(f"no votes while {core.status}")
        _keep(core, slot, batch)
        return slot
    if core.is_primary:
        # Our own words come back only from before a restart, and those are in the records.
        return Refusal("a PRE-PREPARE of our own that we do not remember")
    _accept(core, slot, batch)
    prepare = Prepare(core.view, message.sequence, message.digest, core.index)
    signed_prepare = core.sign(prepare)
    slot.prepares[core.index] = (prepare, signed_prepare)
    core.save(slot, signed_prepare)
    core.broadcast(signed_prepare)
    return slot


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
        return _second_vote(core, earlier[0], message, signed)
    if slot.committed_digest(core.quorums) is not None:
        return None  # beyond the quorum: not even verified
    if refusal := core.authenticator.check(signed, message):
        return refusal
    slot.prepares[message.replica] = (message, signed)
    return slot


def on_commit(core: Core, message: Commit, signed: Signed) -> Refusal | Slot | None:
    """A COMMIT (4.2).

    Accepted if: it is of the current view; h < n <= H; and the sender has not sent the same one
    for this slot before. It may come before the PRE-PREPARE and the PREPAREs.
    Until the slot is decided, another COMMIT of the same sender replaces its earlier one: still
    one voice, one vote. If the first one stood, a faulty replica that committed with the others
    could bar one that missed their PREPAREs from ever using the certificate they re-send.
    """
    if refusal := _guard(core, message):
        return refusal
    slot = core.log.slot(message.sequence)
    earlier = slot.commits.get(message.replica)
    if slot.committed_digest(core.quorums) is not None:
        if earlier is not None:
            return _second_vote(core, earlier[0], message, signed)
        return None  # beyond the quorum: not even verified
    if earlier is not None and earlier[0] == message:
        return None
    if refusal := core.authenticator.check(signed, message):
        return refusal
    if earlier is not None:
        core.tell("equivocation", replica=message.replica, sequence=message.sequence)
    slot.commits[message.replica] = (message, signed)
    return slot


def send_commit(core: Core, slot: Slot) -> None:
    """Once prepared, save the prepared certificate with our COMMIT, and send it (4.2)."""
    if core.index in slot.commits or not slot.prepared(core.quorums):
        return
    if core.status is not ReplicaStatus.NORMAL:
        return
    assert slot.accepted is not None
    for prepare in slot.matching_prepares():
        if prepare.signer != core.name:  # ours was saved before it was sent
            core.save(slot, prepare)
    commit = Commit(core.view, slot.sequence, slot.accepted, core.index)
    signed = core.sign(commit)
    slot.commits[core.index] = (commit, signed)
    core.save(slot, signed)
    core.broadcast(signed)
    core.tell("prepared", view=core.view, sequence=slot.sequence)


def _guard(core: Core, message: PrePrepare | Prepare | Commit) -> Refusal | None:
    if message.view != core.view:
        return Refusal(f"of view {message.view} while in view {core.view}")
    if not core.within_water_marks(message.sequence):
        return Refusal("outside the water marks")
    return None


def _second_vote(
    core: Core, earlier: Prepare | Commit, message: Prepare | Commit, signed: Signed
) -> Refusal | None:
    if earlier == message:
        return None
    if refusal := core.authenticator.check(signed, message):
        return refusal
    core.tell("equivocation", replica=message.replica, sequence=message.sequence)
    return Refusal("the replica voted for another digest before")


def _read_body(
    core: Core, message: PrePrepare, body: bytes
) -> tuple[OrderedRequest, ...] | Refusal:
    if digest_of(body) != message.digest:
        return Refusal("the body does not have the digest")
    try:
        signed_requests = decode_batch(body)
    except MalformedMessage as error:
        return Refusal(f"malformed body: {error}")
    requests = []
    for signed in signed_requests:
        request = core.authenticator.read(signed)
        if isinstance(request, Refusal):
            return request
        if not isinstance(request, Request):
            return Refusal("the body holds something other than requests")
        if refusal := core.authenticator.check(signed, request):
            return Refusal(f"a request in the body: {refusal.reason}")
        requests.append(OrderedRequest(request, signed, digest_of(signed.payload)))
    return tuple(requests)


def _accept(core: Core, slot: Slot, batch: Batch) -> None:
    _keep(core, slot, batch)
    slot.accepted = batch.pre_prepare.digest
    core.tell(
        "pre_prepared",
        view=core.view,
        sequence=slot.sequence,
        digest=batch.pre_prepare.digest.hex(),
        requests=len(batch.requests),
    )


def _keep(core: Core, slot: Slot, batch: Batch) -> None:
    digest = batch.pre_prepare.digest
    slot.batches[digest] = batch
    core.output.records.append(SavedBody(slot.sequence, digest, batch.body))
    core.save(slot, batch.signed)
