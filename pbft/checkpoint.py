"""Checkpoints, water marks and garbage collection (OSDI'99, 4.3)."""

from pbft.certificates import StableCertificate, state_digest
from pbft.core import Core, ReplicaStatus
from pbft.messages import Checkpoint, Signed
from pbft.ports import Base, Refusal, SavedMessage


def state_parts(core: Core) -> dict[str, bytes]:
    """The whole replicated state: epoch, client table, and the application's parts."""
    return {
        "epoch": core.cluster.epoch.to_bytes(8, "big"),
        **core.clients.parts(),
        **core.application.parts(),
    }


def take(core: Core, sequence: int) -> None:
    """After executing a multiple of K: keep the state, save and send our CHECKPOINT (4.3)."""
    assert sequence == core.executed
    assert sequence % core.interval == 0
    parts = state_parts(core)
    digest = state_digest(parts)
    core.snapshots[sequence] = (digest, parts)
    said = core.checkpoint_votes.vote_of(sequence, core.index)
    if said is not None:
        # Only after a restart: executing again must come to the same state.
        assert said.digest == digest, "execution is deterministic"
        return
    message = Checkpoint(sequence, digest, core.index)
    signed = core.sign(message)
    core.checkpoint_votes.add(message, signed)
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
    if message.sequence % core.interval != 0:
        return Refusal("not a multiple of the checkpoint interval")
    earlier = core.checkpoint_votes.vote_of(message.sequence, message.replica)
    if earlier == message:
        return None
    if refusal := core.authenticator.check(signed, message):
        return refusal
    if earlier is not None:
        core.tell("equivocation", replica=message.replica, sequence=message.sequence)
        if core.checkpoint_votes.certificate(message.sequence) is not None:
            return Refusal("the replica said another digest for this checkpoint before")
    core.checkpoint_votes.add(message, signed)
    return None


def stabilise(core: Core, sequence: int) -> bool:
    """Make the checkpoint at `sequence` stable if `strong` replicas proved it; whether it did.

    Moves the water marks only to a state that we have executed ourselves; a certificate above
    that says how far behind we are. A certificate for another digest than our own says that our
    state is wrong: the replica then votes on nothing more, loudly.
    """
    if sequence <= core.low:
        return False
    certificate = core.checkpoint_votes.certificate(sequence)
    if certificate is None:
        return False
    if sequence > core.certified:
        core.certified = sequence
    snapshot = core.snapshots.get(sequence)
    if snapshot is None:
        if sequence > core.executed:
            core.tell("behind", certified=sequence, executed=core.executed)
        return False
    digest, parts = snapshot
    if digest != certificate.digest:
        if core.status is not ReplicaStatus.DIVERGED:
            core.status = ReplicaStatus.DIVERGED
            core.tell(
                "diverged",
                sequence=sequence,
                own=digest.hex(),
                certified=certificate.digest.hex(),
            )
        return False
    _collect_garbage(core, certificate, parts)
    return True


def _collect_garbage(core: Core, certificate: StableCertificate, parts: dict[str, bytes]) -> None:
    sequence = certificate.sequence
    core.stable = certificate
    core.log.forget_up_to(core.kept_above)
    own_later = core.checkpoint_votes.own_above(core.index, sequence)
    core.checkpoint_votes.forget_up_to(sequence)
    core.snapshots = {n: kept for n, kept in core.snapshots.items() if n > sequence}
    core.output.records.append(
        Base(sequence, core.kept_above, core.view, certificate.checkpoints, parts)
    )
    core.output.records.extend(SavedMessage(signed) for signed in own_later)
    for slot in core.log.above(core.kept_above):
        core.output.records.extend(slot.records)
    core.tell("stable", sequence=sequence, digest=certificate.digest.hex())
