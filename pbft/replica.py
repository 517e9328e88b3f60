"""One replica: takes what arrived, lets the parts of the protocol act, gives back one Output.

No clock, no IO: `now` is seconds of any monotonic clock, and the order of the Output's fields is
what the shell must keep (ports.Output). This is the only module that calls the parts.
"""

from collections.abc import Mapping, Sequence

from pbft import (
    catch_up,
    checkpoint,
    execution,
    normal_case,
    recovery,
    restoring,
    state_transfer,
    timers,
    view_change,
)
from pbft.authentication import Identity
from pbft.core import Core, Settings
from pbft.log import NULL_REQUEST, Slot
from pbft.messages import (
    AnyMessage,
    Body,
    Checkpoint,
    Commit,
    Envelope,
    FetchBody,
    FetchState,
    NewView,
    Prepare,
    PrePrepare,
    Recover,
    Replies,
    Reply,
    Request,
    Signed,
    StateLeaves,
    StateParts,
    Status,
    ViewChange,
)
from pbft.ports import SENT_BACK, Application, Output, Record, Refusal, Verify
from pbft.restoring import DamagedRecords as DamagedRecords
from pbft.restoring import OlderRecords as OlderRecords

REPLIES_BYTES_MAX = 1024 * 1024
# What the votes of a slot are about.
SLOT_MESSAGES = (PrePrepare, Prepare, Commit)


class Replica:
    """A replica of the cluster, by name."""

    def __init__(
        self,
        identity: Identity,
        verify: Verify,
        application: Application,
        *,
        settings: Settings | None = None,
        begin: Mapping[str, bytes] | None = None,
    ) -> None:
        """begin: the parts of the state that the epoch begins with; None in epoch 0, whose state is
        the application's own. Whoever read them has held them against `Ancestry.state`."""
        self.core = Core(identity, verify, application, settings=settings or Settings())
        if begin is not None:
            restoring.begin_epoch(self.core, begin)
        assert (begin is None) == (identity.cluster.ancestry is None)

    # --- the surface ----------------------------------------------------------------------------

    def receive(self, envelopes: Sequence[Envelope], now: float) -> Output:
        """Take everything that arrived since the last turn, in order of arrival."""
        for envelope in envelopes:
            refusal = self._receive_one(envelope, now)
            if refusal is not None:
                self.core.emit("refused", signer=envelope.signed.signer, reason=refusal.reason)
        return self._finish(now)

    def handle_timer(self, now: float) -> Output:
        """Do what is due at `now`; the shell calls this when `Output.deadline` is reached."""
        if timers.failed_view(self.core, now):
            timers.back_off(self.core)
            self._leave_for(self.core.view + 1, "the primary had its time", now)
        if now >= self.core.peers.status_due:
            self._send_status(now)
            state_transfer.maybe_start(self.core)
            # A disk that was set back may have forgotten that it is done.
            recovery.finish(self.core)
        return self._finish(now)

    def on_peer_connected(self, peer: str, now: float) -> Output:
        """A link to that peer was made: say where we stand."""
        catch_up.on_peer_connected(self.core, peer, now)
        return self._finish(now)

    def restore(
        self, records: Sequence[Record], bodies: dict[bytes, bytes], nonce: bytes
    ) -> Output:
        """Continue from what was saved: call once, before anything else.

        records: all records from the last CheckpointRecord on (or all there are), in order, without
        bodies and ledger entries; bodies: the saved bodies by digest. nonce: 32 random bytes; the
        replica recovers by them if the others show that the records forgot something that it said.
        Returns an Output with what was executed again and the events, and nothing to send. Raises
        DamagedRecords, OlderRecords.
        """
        assert len(nonce) == 32
        restoring.restore(self.core, records, bodies)
        self.core.recovery.spare_nonce = nonce
        output = self._take_output()
        return Output(executed=output.executed, events=output.events)

    def begin_recovery(self, nonce: bytes, now: float) -> Output:
        """Start from nothing because what was said is lost, instead of `restore`.

        nonce: 32 random bytes. The replica votes on nothing until that is safe again.
        """
        recovery.begin(self.core, nonce)
        return self._finish(now)

    # --- one message ----------------------------------------------------------------------------

    def _receive_one(self, envelope: Envelope, now: float) -> Refusal | None:
        core = self.core
        signed = envelope.signed
        message = core.authenticator.read(signed)
        if isinstance(message, Refusal):
            return message
        if isinstance(message, Request):
            return normal_case.on_request(core, message, signed)
        if signed.signer == core.name:
            return self._on_own(message, signed)
        if isinstance(message, SLOT_MESSAGES):
            touched = self._on_slot_message(message, envelope)
            if isinstance(touched, Slot):
                self._advance(touched)
                return None
            return touched
        if isinstance(message, Status):
            return catch_up.on_status(core, message, signed, now=now)
        if isinstance(message, Checkpoint):
            return self._on_checkpoint(message, signed)
        if isinstance(message, ViewChange):
            return self._on_view_change(message, signed, now)
        if isinstance(message, NewView):
            return self._on_new_view(message, signed, now)
        return self._on_catch_up(message, envelope, now)

    def _on_own(self, message: AnyMessage, signed: Signed) -> Refusal | None:
        """What we said, sent back to us. It is no news but where this disk forgot it.

        A disk that was set back may not show that it forgets. What the peers decided then may be
        proved by 2f of them and our own forgotten word: without it we could never follow.
        It counts in such a certificate and nowhere else. While we recover, only a CHECKPOINT does:
        our RECOVER needs the state of a stable checkpoint, and the others order the rest.
        """
        if isinstance(message, Checkpoint):
            refusal = checkpoint.on_own_checkpoint(self.core, message, signed)
            if refusal is None:
                self._stabilise(message.sequence, (message, signed))
            return refusal
        if self.core.is_recovering:
            return SENT_BACK
        if isinstance(message, Commit):
            slot = normal_case.on_own_commit(self.core, message, signed)
            if isinstance(slot, Refusal):
                return slot
            self._advance(slot)
            return None
        if isinstance(message, Recover):
            # The backups time it, whoever kept it: as the primary we would be deposed for it.
            return recovery.on_recover(self.core, message, signed)
        if isinstance(message, NewView):
            return self._on_own_new_view(message, signed)
        return SENT_BACK

    def _on_own_new_view(self, message: NewView, signed: Signed) -> Refusal | None:
        """A NEW-VIEW that we forgot: what else we said in that view is lost with it. We recover.

        Not if it is from before a recovery of ours: nothing of that matters any more, and whoever
        kept it could make us mute for ever. Nor with f = 0, for nobody could vouch for us.
        """
        core = self.core
        if len(signed.payload) > core.cluster.new_view_bytes_max or not core.recovery.spare_nonce:
            return SENT_BACK
        if core.quorums.faults_max == 0 or self._void_in(message, core.index) is not None:
            return SENT_BACK
        if refusal := view_change.check_forgotten(core, message, signed):
            return refusal
        core.emit("forgot", kind="NEW-VIEW", view=message.view)
        recovery.begin(core, core.recovery.spare_nonce)
        core.recovery.spare_nonce = b""
        # Hearing from us, the others need not send it again.
        core.peers.status_due = 0.0
        return None

    def _void_in(self, message: NewView, sender: int | None = None) -> Refusal | None:
        """Why a VIEW-CHANGE in it, or that of `sender`, counts no more; None if all count."""
        for signed in message.view_changes:
            change = self.core.authenticator.read(signed)
            if not isinstance(change, ViewChange) or sender not in (None, change.replica):
                continue
            if refusal := recovery.check_void(self.core, change):
                return refusal
        return None

    def _on_slot_message(
        self, message: PrePrepare | Prepare | Commit, envelope: Envelope
    ) -> Refusal | Slot | None:
        if isinstance(message, PrePrepare):
            return normal_case.on_pre_prepare(
                self.core, message, envelope.signed, body=envelope.body
            )
        if isinstance(message, Prepare):
            return normal_case.on_prepare(self.core, message, envelope.signed)
        return normal_case.on_commit(self.core, message, envelope.signed)

    def _on_catch_up(self, message: AnyMessage, envelope: Envelope, now: float) -> Refusal | None:
        core = self.core
        if isinstance(message, FetchBody):
            return catch_up.on_fetch_body(core, message, envelope.signed, now=now)
        if isinstance(message, Body):
            return self._on_body(message, envelope.body)
        if isinstance(message, Recover):
            return recovery.on_recover(core, message, envelope.signed)
        if isinstance(message, FetchState):
            return state_transfer.on_fetch_state(core, message, envelope.signed, now=now)
        if isinstance(message, StateLeaves):
            refusal = state_transfer.on_state_leaves(
                core, message, lambda: checkpoint.state_parts(core)
            )
            self._adopt_state(now)
            return refusal
        if isinstance(message, StateParts):
            refusal = state_transfer.on_state_parts(core, message)
            self._adopt_state(now)
            return refusal
        return Refusal(f"a replica takes no {type(message).__name__}")

    def _on_checkpoint(self, message: Checkpoint, signed: Signed) -> Refusal | None:
        refusal = checkpoint.on_checkpoint(self.core, message, signed)
        if refusal is None:
            self._stabilise(message.sequence)
        return refusal

    def _on_body(self, message: Body, body: bytes) -> Refusal | None:
        slot = catch_up.wanted_body(self.core, message)
        if isinstance(slot, Refusal):
            return slot
        refusal = normal_case.take_body(self.core, slot, message.digest, body=body)
        if refusal is None:
            self._advance(slot)
        return refusal

    def _advance(self, slot: Slot) -> None:
        """Send what a slot is ready for; execute whatever that decides, in order."""
        normal_case.send_commit(self.core, slot)
        while (executed := execution.execute_next(self.core)) is not None:
            timers.on_progress(self.core)
            recovery.drop_void(self.core)
            recovery.drop_unwanted(self.core)
            if self.core.cluster.is_checkpoint(executed):
                checkpoint.take(self.core, executed)
                self._stabilise(executed)

    def _stabilise(self, sequence: int, sent_back: tuple[Checkpoint, Signed] | None = None) -> None:
        was_diverged = self.core.is_diverged
        if checkpoint.stabilise(self.core, sequence, sent_back):
            # A peer that saw this checkpoint before us may have sent what we had to refuse as
            # above the water marks: hearing from us, it sends it again.
            self.core.peers.status_due = 0.0
            recovery.finish(self.core)
            for sequence in view_change.take_proposals(self.core):
                slot = self.core.log.find(sequence)
                if slot is not None:  # what comes before it may have made a later one stable
                    normal_case.accept_proposal(self.core, slot)
                    self._advance(slot)
            if was_diverged:
                for slot in list(self.core.log.above(self.core.low)):
                    self._advance(slot)

    def _adopt_state(self, now: float) -> None:
        """Go on from a fetched state, once it is complete."""
        core = self.core
        if not state_transfer.is_complete(core):
            return
        assert core.transfers.current is not None
        certificate = core.transfers.current.certificate
        # What we executed is wrong while we are diverged; what is stable never is.
        right_up_to = core.low if core.is_diverged else core.executed
        if certificate.sequence <= right_up_to:
            core.transfers.current = None  # meanwhile we came further by ourselves
            return
        parts = state_transfer.adopt(core)
        checkpoint.restore_state(core, certificate.sequence, parts)
        checkpoint.adopt_stable(core, certificate, parts)
        state_transfer.forget_executed(core)
        recovery.drop_unwanted(core)
        timers.on_state_adopted(core, now)
        recovery.drop_void(core)
        recovery.finish(core)
        core.peers.status_due = 0.0
        view_change.take_proposals(core)
        for slot in list(core.log.above(core.low)):
            normal_case.accept_proposal(core, slot)
            self._advance(slot)

    # --- view changes ---------------------------------------------------------------------------

    def _leave_for(self, view: int, reason: str, now: float) -> None:
        view_change.start(self.core, view, reason)
        self._on_support(now)

    def _on_view_change(self, message: ViewChange, signed: Signed, now: float) -> Refusal | None:
        if refusal := recovery.check_void(self.core, message):
            return refusal
        if refusal := view_change.on_view_change(self.core, message, signed):
            return refusal
        self._learn_stable(message)
        view = view_change.view_to_join(self.core)
        if view is not None:
            self._leave_for(view, "f+1 replicas left", now)
        self._on_support(now)
        return None

    def _on_support(self, now: float) -> None:
        """See whether enough replicas ask for the view that we are changing to."""
        if view_change.has_everybody_left(self.core):
            timers.on_view_wanted(self.core, now)
        if view_change.send_new_view(self.core):
            self._on_entered(now)

    def _on_new_view(self, message: NewView, signed: Signed, now: float) -> Refusal | None:
        if len(signed.payload) > self.core.cluster.new_view_bytes_max:
            # Also as a second one: whoever reads the proof of it has to take in both.
            return Refusal("a NEW-VIEW larger than a right one can be")
        # A view that `strong` replicas are in has begun, whatever it was made of.
        has_begun = catch_up.has_begun_elsewhere(self.core, message.view)
        if not has_begun and (refusal := self._void_in(message)):
            return refusal
        if refusal := view_change.on_new_view(self.core, message, signed):
            return refusal
        for change_signed in message.view_changes:
            change = self.core.authenticator.read(change_signed)
            assert isinstance(change, ViewChange)
            self._learn_stable(change)
        self._on_entered(now)
        return None

    def _learn_stable(self, message: ViewChange) -> None:
        """A VIEW-CHANGE proves a stable checkpoint that we may not know of."""
        name = self.core.name
        # Ours last: it counts where it completes a certificate.
        for signed in sorted(message.certificate, key=lambda signed: signed.signer == name):
            vote = self.core.authenticator.read(signed)
            if isinstance(vote, Checkpoint) and signed.signer == name:
                self._on_own(vote, signed)
            elif isinstance(vote, Checkpoint):
                self._on_checkpoint(vote, signed)

    def _on_entered(self, now: float) -> None:
        core = self.core
        timers.on_view_entered(core, now)
        # Votes of others may have come before we entered: hearing from us, they send them again.
        core.peers.status_due = 0.0
        for slot in list(core.log.above(core.low)):
            normal_case.accept_proposal(core, slot)
            self._advance(slot)

    # --- the end of a turn ----------------------------------------------------------------------

    def _finish(self, now: float) -> Output:
        core = self.core
        self._propose(now)
        if core.peers.status_due == 0.0:
            self._send_status(now)
        timers.update(core, now, recovery.are_nulls_owed(core))
        return self._take_output()

    def _send_status(self, now: float) -> None:
        """Say where we stand; while we recover, ask with that to take part again."""
        catch_up.send_status(self.core, now)
        recovery.ask(self.core)

    def _propose(self, now: float) -> None:
        core = self.core
        core.timers.is_null_waiting = False
        is_delaying = False
        is_null_wanted = False
        while normal_case.may_propose(core):
            is_null_wanted = recovery.is_null_wanted(core)
            # Null requests are waited for, and go behind what is pending.
            may_delay = not is_null_wanted and normal_case.may_delay(core)
            is_delaying = may_delay and timers.may_delay_longer(core, now)
            if is_delaying:
                break
            slot = normal_case.propose(core, is_null_wanted and timers.is_null_due(core, now))
            if slot is None:
                break
            if slot.accepted == NULL_REQUEST:
                timers.on_null_proposed(core, now)
            self._advance(slot)
            is_null_wanted = False
        core.timers.is_null_waiting = is_null_wanted
        if not is_delaying:
            core.timers.batch_due = None

    def _take_output(self) -> Output:
        core = self.core
        if core.replies:
            for client, replies in core.replies.items():
                for chunk in _chunks(replies):
                    core.send(client, core.sign(Replies(chunk, core.index)))
            core.replies = {}
        core.retransmit_budgets = {}
        output = core.output
        output.deadline = timers.deadline(core)
        core.output = Output()
        return output


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
