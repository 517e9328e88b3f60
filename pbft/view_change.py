"""The view change: another primary when the present one does not order (OSDI'99, 4.4).

The rule: whoever sent VIEW-CHANGE for a view votes in no earlier one any more, and a view begins
only with what `new_view_order` computes from `strong` VIEW-CHANGEs, for primary and backups alike.
"""

from pbft.authentication import Authenticator
from pbft.certificates import (
    CheckedViewChange,
    NewViewOrder,
    check_view_change,
    new_view_order,
)
from pbft.core import Core
from pbft.genesis import Cluster
from pbft.log import NULL_REQUEST, Proposal
from pbft.messages import NewView, PrePrepare, Signed, ViewChange
from pbft.ports import SENT_BACK, Refusal, SavedMessage


def start(core: Core, view: int, reason: str) -> None:
    """Leave for `view`: vote no more, and say VIEW-CHANGE with all that we prepared (4.4).

    Called when our timer expired, or f+1 others left for views above ours.
    """
    assert view > core.view
    core.views.current = view
    core.views.has_entered = False
    core.views.overtaken_changes = {}
    core.views.new_view = None
    core.views.ordered = {}
    core.timers.view_change_due = None
    core.timers.has_progressed = False
    prepared = []
    for slot in core.log.above(core.low):
        slot.leave_view()
        if slot.prepared is not None:
            prepared.append(slot.prepared.certificate)
    done = core.execution.recoveries.get(core.index)
    message = ViewChange(
        view,
        core.low,
        core.checkpoints.stable.checkpoints,
        tuple(prepared),
        core.index,
        done.voting_from if done else 0,
    )
    signed = core.sign(message)
    checked = check_view_change(message, signed, core.cluster, authenticator=core.authenticator)
    assert not isinstance(checked, Refusal), f"our own VIEW-CHANGE: {checked.reason}"
    core.views.changes[core.index] = checked
    _save(core, signed)
    core.broadcast(signed)
    core.emit("view_change", view=view, reason=reason, prepared=len(prepared))


def on_view_change(core: Core, message: ViewChange, signed: Signed) -> Refusal | None:
    """A replica's VIEW-CHANGE (4.4).

    Accepted if: it is for a view that we have not entered; its sender sent none for a later
    view, or it is for the very view that we are changing to; the signature holds; and every
    certificate in it proves what it says. A bad one is refused by itself and spoils no other.
    """
    if message.view < core.view or (message.view == core.view and core.has_entered):
        return Refusal("a VIEW-CHANGE for a view that is left or entered already")
    earlier = core.views.changes.get(message.replica)
    if earlier is not None and earlier.message.view > message.view:
        return _take_overtaken(core, message, signed)
    if earlier is not None and earlier.message == message:
        return None
    checked = check_view_change(message, signed, core.cluster, authenticator=core.authenticator)
    if isinstance(checked, Refusal):
        return checked
    if earlier is not None and earlier.message.view == message.view:
        core.record_equivocation(message.replica, earlier.signed, signed)
        return Refusal("another VIEW-CHANGE of this replica for this view came before")
    core.views.changes[message.replica] = checked
    return None


def _take_overtaken(core: Core, message: ViewChange, signed: Signed) -> Refusal | None:
    """One for the view that we change to counts, whatever its sender asked for beside it.

    Who was faulty may have asked for a view that is far away. Repaired, it is needed where another
    one fails, and its word would not be heard until that view.
    """
    if message.view != core.view or message.replica in core.views.overtaken_changes:
        return None
    checked = check_view_change(message, signed, core.cluster, authenticator=core.authenticator)
    if isinstance(checked, Refusal):
        return checked
    core.views.overtaken_changes[message.replica] = checked
    return None


def view_to_join(core: Core) -> int | None:
    """The smallest view above ours that a VIEW-CHANGE names, once f+1 replicas are above (4.5.2).

    So at least one correct replica is, and a single one that names a huge view drags nobody.
    A replica that lost what it said asks for no view: it votes on nothing.
    """
    if core.is_recovering:
        return None
    views = sorted(
        checked.message.view
        for replica, checked in core.views.changes.items()
        if replica != core.index and checked.message.view > core.view
    )
    return views[0] if len(views) >= core.quorums.weak else None


def supporters(core: Core) -> list[CheckedViewChange]:
    """The VIEW-CHANGEs for the view that we are changing to, by replica."""
    if core.has_entered:
        return []
    asking = {r: c for r, c in core.views.changes.items() if c.message.view == core.view}
    asking.update(core.views.overtaken_changes)
    return [asking[replica] for replica in sorted(asking)]


def has_everybody_left(core: Core) -> bool:
    """Whether `strong` replicas left for our view or a later one, so that waiting makes sense.

    Those that went further count too: otherwise two groups that left for different views would
    wait for each other for ever.
    """
    if core.has_entered:
        return False
    left = [c for c in core.views.changes.values() if c.message.view >= core.view]
    return len(left) >= core.quorums.strong


def send_new_view(core: Core) -> bool:
    """As primary of the view that is changed to, begin it once `strong` ask for it (4.4)."""
    changes = supporters(core)
    if core.has_entered or not core.is_primary or len(changes) < core.quorums.strong:
        return False
    own = [change for change in changes if change.message.replica == core.index]
    others = [change for change in changes if change.message.replica != core.index]
    chosen = (own + others)[: core.quorums.strong]
    order = new_view_order(chosen, NULL_REQUEST)
    pre_prepares = tuple(
        core.sign(PrePrepare(core.view, sequence, digest, core.index))
        for sequence, digest in order.digests
    )
    message = NewView(
        core.view, tuple(change.signed for change in chosen), pre_prepares, core.index
    )
    signed = core.sign(message)
    core.broadcast(signed)
    _enter(core, message, signed, order=order)
    return True


def on_new_view(core: Core, message: NewView, signed: Signed) -> Refusal | None:
    """The new primary's NEW-VIEW (4.4).

    Accepted if: it is of its view's primary, for a view that we have not entered or left; V
    holds good VIEW-CHANGEs for it of `strong` distinct replicas; and O is exactly what we
    compute from V ourselves, each signed by the primary.
    """
    if message.view == core.view and core.has_entered:
        return _second_new_view(core, message, signed)
    if message.view < core.view:
        return Refusal("a NEW-VIEW for a view that is left or entered already")
    order = check_new_view(message, signed, core.cluster, authenticator=core.authenticator)
    if isinstance(order, Refusal):
        return order
    core.views.current = message.view
    core.views.has_entered = False
    _enter(core, message, signed, order=order)
    return None


def _second_new_view(core: Core, message: NewView, signed: Signed) -> Refusal:
    """A primary signs one for its view; another one, of whatever content, proves that it lies."""
    first = core.views.new_view
    is_its_own = message.replica == core.primary
    if first is not None and is_its_own and first.payload != signed.payload:
        if refusal := core.authenticator.check(signed, message):
            return refusal
        core.record_equivocation(message.replica, first, signed)
    return Refusal("a NEW-VIEW for a view that is left or entered already")


def check_forgotten(core: Core, message: NewView, signed: Signed) -> Refusal | None:
    """Whether a NEW-VIEW of our own proves that we forgot that we said it; None if it does.

    It does if it is for a view above ours, or for ours and not the one that we entered by; and if
    it is right in every part.
    """
    if message.view < core.view:
        return SENT_BACK
    known = core.views.new_view
    if message.view == core.view and known is not None and known.payload == signed.payload:
        return SENT_BACK
    order = check_new_view(message, signed, core.cluster, authenticator=core.authenticator)
    return order if isinstance(order, Refusal) else None


def check_new_view(
    message: NewView, signed: Signed, cluster: Cluster, *, authenticator: Authenticator
) -> Refusal | NewViewOrder:
    """What a NEW-VIEW begins with, where it is right in every part."""
    if message.replica != cluster.primary(message.view):
        return Refusal("a NEW-VIEW from a replica that is not its primary")
    if refusal := authenticator.check(signed, message):
        return refusal
    changes: dict[int, CheckedViewChange] = {}
    for change_signed in message.view_changes:
        change = authenticator.read(change_signed)
        if not isinstance(change, ViewChange) or change.view != message.view:
            return Refusal("the NEW-VIEW holds something other than VIEW-CHANGEs for its view")
        checked = check_view_change(change, change_signed, cluster, authenticator=authenticator)
        if isinstance(checked, Refusal):
            return Refusal(f"a VIEW-CHANGE in the NEW-VIEW: {checked.reason}")
        changes[change.replica] = checked
    if len(changes) < cluster.quorums.strong or len(changes) != len(message.view_changes):
        return Refusal("too few distinct replicas in the NEW-VIEW")
    order = new_view_order(changes.values(), NULL_REQUEST)
    return _check_pre_prepares(message, order, authenticator) or order


def _check_pre_prepares(
    message: NewView, order: NewViewOrder, authenticator: Authenticator
) -> Refusal | None:
    if len(message.pre_prepares) != len(order.digests):
        return Refusal("the NEW-VIEW does not order what its VIEW-CHANGEs ask for")
    for (sequence, digest), signed in zip(order.digests, message.pre_prepares, strict=True):
        wanted = PrePrepare(message.view, sequence, digest, message.replica)
        if authenticator.read(signed) != wanted:
            return Refusal("the NEW-VIEW does not order what its VIEW-CHANGEs ask for")
        if authenticator.check(signed, wanted):
            return Refusal("a signature of a PRE-PREPARE in the NEW-VIEW does not hold")
    return None


def _save(core: Core, signed: Signed) -> None:
    """Record a VIEW-CHANGE of ours, or the NEW-VIEW that we enter: the last of them counts."""
    core.views.records = [SavedMessage(signed)]
    core.output.records.append(SavedMessage(signed))


def _enter(core: Core, message: NewView, signed: Signed, *, order: NewViewOrder) -> None:
    """Begin the view: its first PRE-PREPAREs stand, nothing up to min-s will be accepted in it."""
    core.views.has_entered = True
    core.views.new_view = signed
    core.views.min_s = order.sequence_min
    _save(core, signed)
    core.views.changes = {
        replica: checked
        for replica, checked in core.views.changes.items()
        if checked.message.view > core.view
    }
    core.views.overtaken_changes = {}
    core.proposer.proposed = set()
    core.pending.renew()
    core.proposer.next_sequence = max(order.sequence_max, core.executed) + 1
    set_proposals(core, message, order)
    core.emit(
        "new_view",
        view=core.view,
        primary=core.primary,
        sequence_min=order.sequence_min,
        sequence_max=order.sequence_max,
    )


def set_proposals(core: Core, message: NewView, order: NewViewOrder) -> None:
    """Put the PRE-PREPAREs of O into their slots; whoever has the bodies accepts them.

    Those above the window of a replica that is behind are remembered: the primary may not say
    anything else about them, and `take_proposals` puts them there when it comes so far.
    """
    for slot in core.log.above(0):
        slot.leave_view()
    core.views.ordered = {}
    for (sequence, digest), signed in zip(order.digests, message.pre_prepares, strict=True):
        pre_prepare = PrePrepare(message.view, sequence, digest, message.replica)
        core.views.ordered[sequence] = Proposal(pre_prepare, signed)
    take_proposals(core)


def take_proposals(core: Core) -> list[int]:
    """Put what O orders within the water marks into slots that have nothing yet; which those are.

    Called again when the marks have moved: nobody says it again to a primary that was behind when
    it began the view, and it would be deposed for not voting on what it ordered itself.
    """
    taken = []
    for sequence, proposal in core.views.ordered.items():
        if core.within_water_marks(sequence):
            slot = core.log.slot(sequence)
            if slot.proposal is None:
                slot.proposal = proposal
                taken.append(sequence)
    return taken
