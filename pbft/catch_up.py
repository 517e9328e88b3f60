"""STATUS and the re-sending of saved messages, so that what the network lost is made good.

Nothing new is said here: only messages that were said before, whoever signed them, and bodies,
which prove themselves by their digests. A peer that reports no more than in its last STATUS made
no progress since, so it lacks something.
"""

from pbft.core import Core
from pbft.log import NULL_REQUEST, Slot
from pbft.messages import Body, FetchBody, Signed, Status
from pbft.ports import Refusal

# A peer that lacks more slots than this is helped although it makes progress.
FAR_BEHIND = 16


def send_status(core: Core, now: float) -> None:
    """Say to all where we stand, and when to say it next; ask for the bodies that we lack."""
    core.broadcast(_own_status(core))
    core.peers.status_due = now + core.settings.status_seconds
    for slot in core.log.above(core.low):
        for digest in slot.missing_bodies():
            core.broadcast(core.sign(FetchBody(slot.sequence, digest, core.index)))


def on_peer_connected(core: Core, peer: str, now: float) -> None:
    """Say to one peer where we stand, on connect; what it says first is answered at once.

    That at most twice per status_seconds: who dials again and again gets no more than others.
    """
    index = core.cluster.replica_index(peer)
    if index is None:
        return
    connected_at = core.peers.connected_at.get(index)
    if connected_at is None or now - connected_at >= core.settings.status_seconds / 2:
        core.peers.connected_at[index] = now
        core.peers.progress.pop(index, None)
        core.peers.answered_at.pop(index, None)
        core.peers.view_sent.pop(index, None)
        core.peers.checkpoints_sent.pop(index, None)
    core.send(peer, _own_status(core))


def _own_status(core: Core) -> Signed:
    return core.sign(Status(core.view, core.has_entered, core.low, core.executed, core.index))


def on_status(core: Core, message: Status, signed: Signed, *, now: float) -> Refusal | None:
    """A peer's STATUS.

    Accepted if the signature holds. Answered with the NEW-VIEW of our view, or our VIEW-CHANGE,
    if the peer has not come as far; with the checkpoint certificate if the peer's is below ours;
    and with slots, if it makes no progress or is far behind: decided ones that it did not
    execute, and our own words about open ones.
    It comes over the peer's own link, or the shell drops it (`authentication.is_relayed`). What the
    peer said once may come again all the same, so only something higher than ever counts as
    progress, and all of it is re-sent to a peer at most twice per status_seconds and once more on a
    new link (`on_peer_connected`), slots bounded in bytes.
    """
    if refusal := core.authenticator.check(signed, message):
        return refusal
    core.peers.status[message.replica] = message
    to = signed.signer
    _send_view(core, to, message, now=now)
    _send_checkpoints(core, to, message, now=now)
    if message.executed < core.kept_above:
        return None  # what it lacks is collected: it needs the state, not messages
    if _deserves_slots(core, message, now) and _send_slots(core, to, message.executed):
        core.peers.answered_at[message.replica] = now
    return None


def _deserves_slots(core: Core, message: Status, now: float) -> bool:
    """Whether to re-send slots to a peer that says this.

    At once if it has just come to a view (votes that came before it were lost on it); else at
    most twice per status_seconds, and only if it makes no progress by itself or is far behind.
    """
    # A view that we are not in counts for no more than ours: counting up earns nothing.
    place = min((message.view, message.has_entered), (core.view, core.has_entered))
    best = core.peers.progress.get(message.replica)
    core.peers.progress[message.replica] = max(best or (place, 0), (place, message.executed))
    if best is not None and place > best[0]:
        return True
    answered_at = core.peers.answered_at.get(message.replica)
    if answered_at is not None and now - answered_at < core.settings.status_seconds / 2:
        return False
    makes_progress = best is not None and message.executed > best[1]
    is_far = core.executed - message.executed > FAR_BEHIND
    return is_far or not makes_progress


def _send_slots(core: Core, to: str, executed: int) -> int:
    """Send what we know about the slots above a number, within bounds; how many slots."""
    count = 0
    size = 0
    for slot in core.log.above(executed):
        if count == core.settings.resend_slots_max or size > core.settings.resend_bytes_max:
            break
        count += 1
        if slot.committed_local():
            size += _send_decided(core, to, slot)
        else:
            size += _send_own_words(core, to, slot)
    return count


def has_begun_elsewhere(core: Core, view: int) -> bool:
    """Whether `strong` replicas say that they have entered that view (at most f of them lie)."""
    entered = [
        status
        for status in core.peers.status.values()
        if status.view == view and status.has_entered
    ]
    return len(entered) >= core.quorums.strong


def _send_view(core: Core, to: str, message: Status, *, now: float) -> None:
    """View changes are sent again until they are answered: each at once, then now and then."""
    place = (core.view, core.has_entered)
    sent = core.peers.view_sent.get(message.replica)
    pause = core.settings.status_seconds / 2
    if sent is not None and sent[0] == place and now - sent[1] < pause:
        return
    has_come_as_far = message.view > core.view or (
        message.view == core.view and (message.has_entered or not core.has_entered)
    )
    if core.has_entered:
        is_needless = has_come_as_far or _forgot_our_view(core, message.replica)
        if not is_needless and core.views.new_view is not None:
            core.send(to, core.views.new_view)
            core.peers.view_sent[message.replica] = (place, now)
    elif message.view < core.view or (message.view == core.view and not message.has_entered):
        core.send(to, core.views.changes[core.index].signed)
        core.peers.view_sent[message.replica] = (place, now)


def _forgot_our_view(core: Core, replica: int) -> bool:
    """Whether that replica began the view that we are in, and recovers: it takes no part in it."""
    if core.primary != replica:
        return False
    done = core.execution.recoveries.get(replica)
    return replica in core.recovery.requests or (done is not None and done.voting_from > core.low)


def _send_checkpoints(core: Core, to: str, message: Status, *, now: float) -> None:
    """The certificate, if the peer's is below ours, and our own words above: at once, then now
    and then, whatever it says.
    """
    own = core.checkpoints.votes.own_above(core.index, core.low)
    place = (core.low, len(own))
    sent = core.peers.checkpoints_sent.get(message.replica)
    pause = core.settings.status_seconds / 2
    if sent is not None and sent[0] == place and now - sent[1] < pause:
        return
    if message.stable < core.low:
        words = [*core.checkpoints.stable.checkpoints, *own]
        if core.is_recovering:
            # One from before our loss may be among them. We say nothing again until we may vote.
            words = [signed for signed in words if signed.signer != core.name]
    else:
        words = core.checkpoints.votes.own_above(core.index, message.stable)
    # The peer's own last: it counts there only where it completes a certificate, and a liar may
    # take back its own of the certificate before.
    for checkpoint in sorted(words, key=lambda signed: signed.signer == to):
        core.send(to, checkpoint)
    if words:
        core.peers.checkpoints_sent[message.replica] = (place, now)


def _send_decided(core: Core, to: str, slot: Slot) -> int:
    """The COMMITs and the body: what suffices to execute it, in any view or status. Its bytes."""
    assert slot.decided is not None
    for commit in slot.decided.commits:
        core.send(to, commit)
    _send_body(core, to, slot, digest=slot.decided.digest)
    return len(slot.batches[slot.decided.digest].body)


def _send_own_words(core: Core, to: str, slot: Slot) -> int:
    """What we said about an open slot, and the body where we are its primary. Its bytes."""
    size = 0
    if slot.accepted is not None and slot.proposal is not None and core.is_primary:
        body = slot.batches[slot.accepted].body
        core.send(to, slot.proposal.signed, body)
        size = len(body)
    own = slot.prepares.get(core.index)
    if own is not None:
        core.send(to, own[1])
    for _, commit in slot.commits.get(core.index, {}).values():
        core.send(to, commit)
    return size


def on_fetch_body(core: Core, message: FetchBody, signed: Signed, *, now: float) -> Refusal | None:
    """A peer lacks a body. Answered if the signature holds and the body is kept here.

    Bounded in bytes per peer and time, as everything that is sent again.
    """
    if refusal := core.authenticator.check(signed, message):
        return refusal
    if not core.may_send_more(message.replica, now):
        return Refusal("more was asked for than is sent again at once")
    slot = core.log.find(message.sequence)
    if slot is not None and message.digest in slot.batches:
        _send_body(core, signed.signer, slot, digest=message.digest)
        core.note_sent(message.replica, len(slot.batches[message.digest].body), now)
    return None


def _send_body(core: Core, to: str, slot: Slot, *, digest: bytes) -> None:
    if digest != NULL_REQUEST:
        signed = core.sign(Body(slot.sequence, digest, core.index))
        core.send(to, signed, slot.batches[digest].body)


def wanted_body(core: Core, message: Body) -> Slot | Refusal:
    """The slot that waits for this body; whoever sends it, the digest says that it is the one."""
    slot = core.log.find(message.sequence)
    if slot is None or message.digest not in slot.missing_bodies():
        return Refusal("a body that nothing here waits for")
    return slot
