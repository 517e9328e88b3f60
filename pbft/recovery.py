"""A replica that lost what it had said (docs/PROTOCOL.md, "Recovery").

The idea is proactive recovery (OSDI'00).

The rule: it votes on nothing until nothing that it may have said before can matter. It has a
RECOVER ordered; executed at s, that fixes T, the first checkpoint at least L above s. Whatever the
replica said before concerns numbers up to its old high mark, which is at most s + L, so once T is
stable it votes again. Its older VIEW-CHANGEs are void for whoever executed s. Null requests up to
T are work that the primary owes, so that T comes also on an idle cluster.
"""

from pbft.core import Core
from pbft.messages import Recover, Signed, ViewChange
from pbft.ports import Refusal, SavedRecovery


def begin(core: Core, nonce: bytes) -> None:
    """Lose the right to vote, and ask for it. `nonce`: 32 random bytes."""
    assert core.quorums.faults_max > 0, "with f = 0 nobody can vouch for what was lost"
    assert len(nonce) == 32
    leave_all_views(core, nonce)
    core.output.records.append(SavedRecovery(nonce))
    core.emit("recovering", nonce=nonce.hex())


def leave_all_views(core: Core, nonce: bytes) -> None:
    """Recover by that nonce, in no view that we said anything about: as a new replica in view 0.

    What was executed, and what we know that we said in slots, stays.
    """
    core.recovery.nonce = nonce
    core.views.current = 0
    core.views.has_entered = True
    core.views.min_s = 0
    core.views.ordered = {}
    core.views.changes = {}
    core.views.overtaken_changes = {}
    core.views.new_view = None
    core.views.records = []
    core.timers.view_change_due = None
    for slot in core.log.above(0):
        slot.leave_view()


def ask(core: Core) -> None:
    """At every STATUS: send our RECOVER until it is executed.

    It names our last stable checkpoint. Where that is too old for it to count, the others prove a
    newer one to us in answer to the STATUS, and it is sent again once we have that state.
    """
    if core.is_recovering and not _is_executed(core) and not core.has_ended:
        core.broadcast(core.sign(Recover(core.recovery.nonce, core.index, core.low)))


def finish(core: Core) -> bool:
    """Vote again once T is stable; whether that is now."""
    if not core.is_recovering or not _is_executed(core):
        return False
    if core.low < core.execution.recoveries[core.index].voting_from:
        return False
    core.recovery.nonce = b""
    core.output.records.append(SavedRecovery(b""))
    core.emit("recovered", stable=core.low)
    return True


def _is_executed(core: Core) -> bool:
    done = core.execution.recoveries.get(core.index)
    return done is not None and core.recovery.nonce in done.nonces


def on_recover(core: Core, message: Recover, signed: Signed) -> Refusal | None:
    """A replica's RECOVER.

    Accepted if the signature holds, this epoch goes on, and it would count as the next request that
    is executed (`Core.recover_refusal`). One per replica is kept, to be ordered.
    """
    if refusal := core.authenticator.check(signed, message):
        return refusal
    if core.has_ended:
        return Refusal("this epoch has ended: nothing of it is voted on any more")
    if refusal := core.recover_refusal(message, core.executed + 1):
        return refusal
    core.recovery.requests[message.replica] = signed
    return None


def drop_unwanted(core: Core) -> None:
    """Forget the RECOVERs that count no more, after anything was executed or a state was fetched.

    The others refuse those: whoever went on waiting for their order would leave a good primary.
    """
    for replica, signed in list(core.recovery.requests.items()):
        message = core.authenticator.read(signed)
        assert isinstance(message, Recover)
        if core.recover_refusal(message, core.executed + 1):
            del core.recovery.requests[replica]


def is_null_wanted(core: Core) -> bool:
    """Whether the primary owes null requests: some T lies above what is ordered."""
    return any(number >= core.proposer.next_sequence for number in core.awaited_checkpoints())


def are_nulls_owed(core: Core) -> bool:
    """Whether some T is not executed yet, so that the primary's null requests are waited for."""
    return any(number > core.executed for number in core.awaited_checkpoints())


def drop_void(core: Core) -> None:
    """Forget the VIEW-CHANGEs that a recovery has made void, after anything was executed."""
    core.views.changes = {
        replica: checked
        for replica, checked in core.views.changes.items()
        if replica == core.index or check_void(core, checked.message) is None
    }
    core.views.overtaken_changes = {
        replica: checked
        for replica, checked in core.views.overtaken_changes.items()
        if check_void(core, checked.message) is None
    }


def check_void(core: Core, message: ViewChange) -> Refusal | None:
    """A VIEW-CHANGE that a replica sent before it lost what it had said counts no more.

    One with this recovery's own T in it was sent after it was ordered. That is not always by a
    replica that recovers: an old RECOVER that nobody had ordered may be, by whoever kept it.
    """
    done = core.execution.recoveries.get(message.replica)
    if (
        done is not None
        and message.stable < done.voting_from
        and message.recovered != done.voting_from
    ):
        return Refusal("a VIEW-CHANGE from before the replica's recovery")
    return None
