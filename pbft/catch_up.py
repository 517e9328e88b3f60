"""STATUS and the re-sending of saved messages, so that what the network lost is made good.

Nothing new is said here: only messages that were said before, whoever signed them. A peer that
reports no more than in its last STATUS made no progress since, so it lacks something.
"""

from itertools import islice

from pbft.core import Core
from pbft.log import Slot
from pbft.messages import Signed, Status
from pbft.ports import Refusal


def send_status(core: Core, now: float) -> None:
    """Say to all where we stand, and when to say it next."""
    core.broadcast(_own_status(core))
    core.status_due = now + core.settings.status_seconds


def greet(core: Core, peer: str) -> None:
    """Say to one peer where we stand, on connect; what it says first is answered at once."""
    index = core.cluster.replica_index(peer)
    if index is not None:
        core.peer_executed.pop(index, None)
        core.send(peer, _own_status(core))


def _own_status(core: Core) -> Signed:
    return core.sign(Status(core.view, core.low, core.executed, core.index))


def on_status(core: Core, message: Status, signed: Signed) -> Refusal | None:
    """A peer's STATUS.

    Accepted if the signature holds. Answered with the checkpoint certificate if the peer's is
    below ours; and, unless it executed more than it ever said before on this link, with decided
    slots that we executed and it did not, and with our own words about open slots. What it said
    once can be sent again by anybody, so only something higher counts as progress.
    """
    if refusal := core.authenticator.check(signed, message):
        return refusal
    to = signed.signer
    if message.stable < core.low:
        for checkpoint in core.stable.checkpoints:
            core.send(to, checkpoint)
    earlier = core.peer_executed.get(message.replica)
    core.peer_executed[message.replica] = max(message.executed, earlier or 0)
    if earlier is not None and message.executed > earlier:
        return None
    for checkpoint in core.checkpoint_votes.own_above(core.index, max(core.low, message.stable)):
        core.send(to, checkpoint)
    if message.executed < core.kept_above:
        return None  # what it lacks is collected: it needs the state, not messages
    for slot in islice(core.log.above(message.executed), core.settings.resend_slots_max):
        if slot.sequence <= core.executed:
            _send_decided(core, to, slot)
        else:
            _send_own_words(core, to, slot)
    return None


def _send_decided(core: Core, to: str, slot: Slot) -> None:
    """The COMMITs first, then the PRE-PREPARE with its body: what suffices to execute it."""
    digest = slot.committed_digest(core.quorums)
    assert digest is not None, "an executed slot has its certificate"
    for commit in slot.matching_commits(digest):
        core.send(to, commit)
    batch = slot.batches[digest]
    core.send(to, batch.signed, batch.body)


def _send_own_words(core: Core, to: str, slot: Slot) -> None:
    if slot.accepted is not None and core.is_primary:
        batch = slot.batches[slot.accepted]
        core.send(to, batch.signed, batch.body)
    for votes in (slot.prepares, slot.commits):
        own = votes.get(core.index)
        if own is not None:
            core.send(to, own[1])
