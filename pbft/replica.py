"""One replica: takes what arrived, lets the parts of the protocol act, gives back one Output.

No clock, no IO: `now` is seconds of any monotonic clock, and the order of the Output's fields is
what the shell must keep (ports.Output). This is the only module that calls the parts.
"""

from collections.abc import Sequence

from pbft import catch_up, checkpoint, execution, normal_case
from pbft.certificates import state_digest
from pbft.codec import decode_batch, decode_request, digest_of
from pbft.core import Core, Settings
from pbft.genesis import Cluster
from pbft.log import Batch, OrderedRequest, Slot
from pbft.messages import (
    AnyMessage,
    Checkpoint,
    Commit,
    Envelope,
    Prepare,
    PrePrepare,
    Replies,
    Reply,
    Request,
    Signed,
    Status,
)
from pbft.ports import (
    Application,
    Base,
    Executed,
    Output,
    Record,
    Refusal,
    SavedMessage,
    Sign,
    Verify,
)

REPLIES_BYTES_MAX = 1024 * 1024


class DamagedRecords(Exception):
    """Records that cannot be what this replica saved; the text says which."""


class Replica:
    """A replica of the cluster, by name."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        sign: Sign,
        verify: Verify,
        application: Application,
        settings: Settings | None = None,
    ) -> None:
        self._arguments = (cluster, name, sign, verify, application, settings or Settings())
        self.core = Core(*self._arguments)

    # --- the surface ----------------------------------------------------------------------------

    def receive(self, envelopes: Sequence[Envelope], now: float) -> Output:
        """Take everything that arrived since the last turn, in order of arrival."""
        for envelope in envelopes:
            refusal = self._receive_one(envelope)
            if refusal is not None:
                self.core.tell("refused", signer=envelope.signed.signer, reason=refusal.reason)
        return self._finish(now)

    def expire(self, now: float) -> Output:
        """Do what is due at `now`; the shell calls this when `Output.deadline` is reached."""
        if now >= self.core.status_due:
            catch_up.send_status(self.core, now)
        return self._finish(now)

    def greet(self, peer: str, now: float) -> Output:
        """A link to that peer was made: say where we stand."""
        catch_up.greet(self.core, peer)
        return self._finish(now)

    def restore(self, records: Sequence[Record], bodies: dict[bytes, bytes]) -> Output:
        """Continue from what was saved: call once, before anything else.

        records: all records from the last Base on (or all there are), in order, without bodies
        and ledger entries; bodies: the saved bodies by digest.
        Gives back an Output with the deliveries of what was executed again, and nothing to send.
        Raises DamagedRecords.
        """
        assert self.core.executed == 0
        for record in records:
            if isinstance(record, Base):
                self._restore_base(record)
            elif isinstance(record, SavedMessage):
                self._restore_message(record, bodies)
            elif isinstance(record, Executed):
                self._restore_executed(record)
        self.core.log.forget_up_to(self.core.kept_above)
        last = max((slot.sequence for slot in self.core.log.above(0) if slot.accepted), default=0)
        self.core.next_sequence = max(self.core.executed, last) + 1
        if self.core.is_primary:
            self._remember_proposed()
        output = self._take_output()
        return Output(deliveries=output.deliveries, notices=output.notices)

    # --- one message ----------------------------------------------------------------------------

    def _receive_one(self, envelope: Envelope) -> Refusal | None:
        signed = envelope.signed
        message = self.core.authenticator.read(signed)
        if isinstance(message, Refusal):
            return message
        if isinstance(message, Request):
            return normal_case.on_request(self.core, message, signed)
        if signed.signer == self.core.name:
            return Refusal("a message of our own, sent back to us")
        if isinstance(message, Status):
            return catch_up.on_status(self.core, message, signed)
        if isinstance(message, Checkpoint):
            refusal = checkpoint.on_checkpoint(self.core, message, signed)
            if refusal is None:
                self._stabilise(message.sequence)
            return refusal
        touched = self._on_slot_message(message, envelope)
        if isinstance(touched, Slot):
            self._advance(touched)
            return None
        return touched

    def _on_slot_message(self, message: AnyMessage, envelope: Envelope) -> Refusal | Slot | None:
        if isinstance(message, PrePrepare):
            return normal_case.on_pre_prepare(self.core, message, envelope.signed, envelope.body)
        if isinstance(message, Prepare):
            return normal_case.on_prepare(self.core, message, envelope.signed)
        if isinstance(message, Commit):
            return normal_case.on_commit(self.core, message, envelope.signed)
        return Refusal(f"a replica takes no {type(message).__name__}")

    def _advance(self, slot: Slot) -> None:
        """Send what a slot is ready for; execute whatever that decides, in order."""
        normal_case.send_commit(self.core, slot)
        while (executed := execution.execute_next(self.core)) is not None:
            if executed % self.core.interval == 0:
                checkpoint.take(self.core, executed)
                self._stabilise(executed)

    def _stabilise(self, sequence: int) -> None:
        if checkpoint.stabilise(self.core, sequence):
            # A peer that saw this checkpoint before us may have sent what we had to refuse as
            # above the water marks: hearing from us, it sends it again.
            self.core.status_due = 0.0

    # --- the end of a turn ----------------------------------------------------------------------

    def _finish(self, now: float) -> Output:
        while (slot := normal_case.propose(self.core)) is not None:
            self._advance(slot)
        if self.core.status_due == 0.0:
            catch_up.send_status(self.core, now)
        return self._take_output()

    def _take_output(self) -> Output:
        for client, replies in self.core.replies.items():
            for chunk in _chunks(replies):
                self.core.send(client, self.core.sign(Replies(chunk, self.core.index)))
        self.core.replies = {}
        output = self.core.output
        output.deadline = self.core.status_due
        self.core.output = Output()
        return output

    # --- restoring ------------------------------------------------------------------------------

    def _restore_base(self, base: Base) -> None:
        core = self.core
        parts = base.parts
        core.view = base.view
        core.clients.restore(parts)
        core.application.restore(parts)
        core.executed = base.sequence
        for signed in base.certificate:
            message = core.authenticator.read(signed)
            if not isinstance(message, Checkpoint) or core.authenticator.check(signed, message):
                raise DamagedRecords("the saved checkpoint certificate does not hold")
            core.checkpoint_votes.add(message, signed)
        certificate = core.checkpoint_votes.certificate(base.sequence)
        if certificate is None or certificate.digest != state_digest(parts):
            raise DamagedRecords("the saved state does not have the certified digest")
        core.stable = certificate
        core.certified = base.sequence
        core.checkpoint_votes.forget_up_to(base.sequence)

    def _restore_message(self, record: SavedMessage, bodies: dict[bytes, bytes]) -> None:
        message = self.core.authenticator.read(record.signed)
        if isinstance(message, Checkpoint):
            self._restore_checkpoint(message, record.signed)
            return
        if not isinstance(message, PrePrepare | Prepare | Commit):
            raise DamagedRecords(f"a saved message that cannot be ours: {message}")
        slot = self.core.log.slot(message.sequence)
        slot.records.append(record)
        if isinstance(message, PrePrepare):
            self._restore_batch(slot, message, record.signed, bodies)
        elif isinstance(message, Prepare):
            slot.prepares[message.replica] = (message, record.signed)
        else:
            slot.commits[message.replica] = (message, record.signed)

    def _restore_checkpoint(self, message: Checkpoint, signed: Signed) -> None:
        votes = self.core.checkpoint_votes
        said = votes.vote_of(message.sequence, self.core.index)
        if said is None:
            votes.add(message, signed)
        elif said != message:
            raise DamagedRecords(f"executing again to {message.sequence} gave another state")

    def _restore_batch(
        self, slot: Slot, message: PrePrepare, signed: Signed, bodies: dict[bytes, bytes]
    ) -> None:
        body = bodies.get(message.digest)
        if body is None or digest_of(body) != message.digest:
            raise DamagedRecords(f"the body of sequence number {message.sequence} is missing")
        requests = tuple(
            OrderedRequest(decode_request(request), request, digest_of(request.payload))
            for request in decode_batch(body)
        )
        slot.batches[message.digest] = Batch(message, signed, body, requests)
        if slot.accepted is None:
            slot.accepted = message.digest

    def _restore_executed(self, record: Executed) -> None:
        slot = self.core.log.find(record.sequence)
        if record.sequence <= self.core.executed:
            if slot is not None:
                slot.records.append(record)
            return
        if slot is None or not slot.committed_local(self.core.quorums):
            raise DamagedRecords(f"sequence number {record.sequence} was executed without proof")
        slot.records.append(record)
        digest = slot.committed_digest(self.core.quorums)
        assert digest is not None
        execution.apply_batch(self.core, slot, slot.batches[digest])
        if record.sequence % self.core.interval == 0:
            checkpoint.take(self.core, record.sequence)

    def _remember_proposed(self) -> None:
        for slot in self.core.log.above(self.core.executed):
            for batch in slot.batches.values():
                self.core.proposed.update(
                    (ordered.request.client, ordered.request.timestamp)
                    for ordered in batch.requests
                )


def _chunks(replies: list[Reply]) -> list[tuple[Reply, ...]]:
    chunks: list[tuple[Reply, ...]] = []
    chunk: list[Reply] = []
    size = 0
    for reply in replies:
        size += len(reply.result) + 256
        if chunk and size > REPLIES_BYTES_MAX:
            chunks.append(tuple(chunk))
            chunk, size = [], len(reply.result) + 256
        chunk.append(reply)
    chunks.append(tuple(chunk))
    return chunks
