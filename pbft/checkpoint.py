"""Checkpoints, water marks and garbage collection (OSDI'99, 4.3)."""

from collections.abc import Mapping

import msgspec

from pbft.certificates import StableCertificate, state_digest
from pbft.core import Core
from pbft.messages import Checkpoint, Signed
from pbft.ports import SENT_BACK, CheckpointRecord, Refusal, SavedMessage, SavedRecovery
from pbft.state import Ending, Recovery

EPOCH_PART = "epoch"
CONFIGURATION_PART = "configuration"
ENDING_PART = "ending"
RECOVERIES_PART = "recoveries"


def state_parts(core: Core) -> dict[str, bytes]:
    """The whole replicated state: epoch, client table, and the application's parts.

    At the end of an epoch it is that of the next one, in which nobody recovers from what was said
    in this one. A state of epoch 0 without an end names no configuration.
    """
    execution = core.execution
    recoveries = {} if core.has_ended else execution.recoveries
    parts = {
        EPOCH_PART: execution.epoch.to_bytes(8, "big"),
        RECOVERIES_PART: msgspec.msgpack.encode(sorted(recoveries.items())),
        **execution.clients.parts(),
        **core.application.parts(),
    }
    if execution.configuration:
        parts[CONFIGURATION_PART] = execution.configuration
    if execution.ending is not None and not core.has_ended:
        parts[ENDING_PART] = msgspec.msgpack.encode(execution.ending)
    return parts


def restore_state(core: Core, sequence: int, parts: Mapping[str, bytes]) -> None:
    """Replace the whole replicated state by these parts, whose digest is proved for that number."""
    execution = core.execution
    execution.clients.restore(parts)
    core.application.restore(parts)
    execution.recoveries = dict(
        msgspec.msgpack.decode(parts[RECOVERIES_PART], type=list[tuple[int, Recovery]])
    )
    execution.epoch = int.from_bytes(parts[EPOCH_PART], "big")
    execution.configuration = parts.get(CONFIGURATION_PART, b"")
    ending = parts.get(ENDING_PART)
    execution.ending = None if ending is None else msgspec.msgpack.decode(ending, type=Ending)
    if core.has_ended:
        execution.ending = Ending(sequence, execution.configuration)


def take(core: Core, sequence: int) -> None:
    """After executing a multiple of K: keep the state, save and send our CHECKPOINT (4.3)."""
    assert sequence == core.executed
    assert core.cluster.is_checkpoint(sequence)
    parts = state_parts(core)
    digest = state_digest(parts)
    core.checkpoints.snapshots[sequence] = (digest, parts)
    core.transfers.leaves.pop(sequence, None)
    if core.is_recovering:
        return  # we lost what we said: no word of ours counts until we vote again
    if core.checkpoints.votes.vote_of(sequence, core.index) is not None:
        # Said before a restart or a repair; a second word, if it were another, would be a lie.
        return
    message = Checkpoint(sequence, digest, core.index)
    signed = core.sign(message)
    core.checkpoints.votes.add(message, signed)
    core.output.records.append(SavedMessage(signed))
    core.broadcast(signed)


def on_checkpoint(core: Core, message: Checkpoint, signed: Signed) -> Refusal | None:
    """A replica's CHECKPOINT (4.3).

    Accepted if: its number is a multiple of K above the stable one; the signature holds; and the
    replica has not said the same before. Until there is a certificate for the number, another
    digest of the same replica replaces its earlier one, for the reason given in on_commit.
    """
    if message.sequence <= core.low:
        return Refusal("at or below the stable checkpoint")
    if not core.cluster.is_checkpoint(message.sequence):
        return Refusal("not a multiple of the checkpoint interval")
    earlier = core.checkpoints.votes.vote_of(message.sequence, message.replica)
    if earlier is not None and earlier[0] == message:
        return None
    if refusal := core.authenticator.check(signed, message):
        return refusal
    if earlier is not None:
        core.record_equivocation(message.replica, earlier[1], signed)
        if core.checkpoints.votes.certificate(message.sequence) is not None:
            return Refusal("the replica said another digest for this checkpoint before")
    core.checkpoints.votes.add(message, signed)
    return None


def on_own_checkpoint(core: Core, message: Checkpoint, signed: Signed) -> Refusal | None:
    """A CHECKPOINT of our own that a peer sends back (replica.Replica._on_own).

    Accepted if: its number is a multiple of K above what we know to be stable or certified; we
    have none for it; and with it `strong` replicas have sent CHECKPOINT for that state.
    """
    if message.sequence <= max(core.low, core.checkpoints.certified.sequence):
        return SENT_BACK
    if not core.cluster.is_checkpoint(message.sequence):
        return SENT_BACK
    if core.checkpoints.votes.certificate(message.sequence, (message, signed)) is None:
        return SENT_BACK
    if refusal := core.authenticator.check(signed, message):
        return refusal
    if not core.is_recovering:
        core.emit("forgot", kind="CHECKPOINT", sequence=message.sequence)
    return None


def stabilise(
    core: Core, sequence: int, sent_back: tuple[Checkpoint, Signed] | None = None
) -> bool:
    """Make the checkpoint at `sequence` stable if `strong` replicas proved it; whether it did.

    sent_back: a word of our own that counts, too, if we have none for that number.
    Moves the water marks only to a state that we have executed ourselves; a certificate above
    that says how far behind we are. A certificate for another digest than our own says that our
    state is wrong: the replica then votes on nothing more, loudly.
    """
    if sequence <= core.low:
        return False
    certificate = core.checkpoints.votes.certificate(sequence, sent_back)
    if certificate is None:
        return False
    snapshot = core.checkpoints.snapshots.get(sequence)
    if snapshot is None:
        if sequence > max(core.executed, core.checkpoints.certified.sequence):
            core.checkpoints.certified = certificate
            core.emit("behind", certified=sequence, executed=core.executed)
        return False
    digest, parts = snapshot
    if digest != certificate.digest:
        if sequence > core.checkpoints.certified.sequence:
            # The newest that is known: nobody keeps an older state once a later one is stable.
            core.checkpoints.certified = certificate
        if not core.is_diverged:
            core.checkpoints.is_diverged = True
            core.emit(
                "diverged",
                sequence=sequence,
                own=digest.hex(),
                certified=certificate.digest.hex(),
            )
        return False
    adopt_stable(core, certificate, parts)
    return True


def adopt_stable(core: Core, certificate: StableCertificate, parts: dict[str, bytes]) -> None:
    """Move the water marks to a proved state that is ours; what is older is forgotten (4.3)."""
    sequence = certificate.sequence
    if sequence >= core.checkpoints.certified.sequence:
        core.checkpoints.is_diverged = False  # it was wrong before, and is right by now
    core.checkpoints.stable = certificate
    core.checkpoints.stable_parts = parts
    core.transfers.leaves = {}
    core.log.forget_up_to(core.kept_above)
    core.checkpoints.votes.forget_up_to(sequence)
    core.checkpoints.snapshots = {
        n: kept for n, kept in core.checkpoints.snapshots.items() if n > sequence
    }
    replaced, compared = _own_words(core)
    core.output.records.append(
        CheckpointRecord(sequence, core.kept_above, certificate.checkpoints, parts)
    )
    if core.is_recovering:
        core.output.records.append(SavedRecovery(core.recovery.nonce))
    core.output.records.extend(core.views.records)
    core.output.records.extend(SavedMessage(signed) for signed in replaced)
    for slot in core.log.above(core.kept_above):
        core.output.records.extend(slot.records)
    core.output.records.extend(SavedMessage(signed) for signed in compared)
    core.emit("stable", sequence=sequence, digest=certificate.digest.hex())


def _own_words(core: Core) -> tuple[list[Signed], list[Signed]]:
    """Our CHECKPOINTs above the stable one: of a state that was replaced, and of the one we have.

    After a restart, what is executed again is compared with those behind it (restoring). A word of
    a wrong state stands before: it is kept, so that we do not say another, and proves no damage.
    """
    replaced: list[Signed] = []
    compared: list[Signed] = []
    for signed in core.checkpoints.votes.own_above(core.index, core.low):
        message = core.authenticator.read(signed)
        assert isinstance(message, Checkpoint)
        state = core.checkpoints.snapshots.get(message.sequence)
        # What is above a state that was just fetched is not executed anew yet.
        is_executed = message.sequence <= core.executed
        is_ours = is_executed and state is not None and state[0] == message.digest
        (compared if is_ours else replaced).append(signed)
    return replaced, compared
