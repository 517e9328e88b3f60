"""When a replica stops waiting for its primary (OSDI'99, 4.4 and 4.5.2).

The rule: a timer is a deadline as a number. Only each client's lowest pending number is timed,
from when it became that or the view was entered: executing others' requests does not move it,
so nobody is censored by serving others, and no primary is deposed by a backlog. A primary judges
itself too, but gives itself twice the time: its backups may be in other views, unable to say so.
"""

from pbft.core import Core
from pbft.log import RECOVER_NUMBER
from pbft.messages import Envelope
from pbft.ports import Send

# No member's name begins like this.
RECOVERY = "\0recovery "
# All null requests that are owed up to the next T, as one request.
NULLS = "\0nulls"
# For those a primary has the time of so many requests, and twice what their pace takes.
NULLS_TIMEOUTS = 8


def update(core: Core, now: float, are_nulls_owed: bool) -> None:
    """At the end of a turn: see which numbers wait, and since when.

    A RECOVER is timed as if it were the only request of a client; the null requests that are owed
    up to some T, as one whose number is the next sequence number. Together they are timed too: else
    a slow primary could take almost the whole timeout for each of them.
    """
    timers = core.timers
    timed = core.pending.lowest
    if core.recovery.requests or are_nulls_owed:
        timed = _with_recoveries(core, are_nulls_owed)
    if timed == timers.timed:
        return
    timed = dict(timed)
    waiting: dict[str, tuple[int, float]] = {}
    for client in sorted(timed):
        earlier = timers.waiting.get(client)
        is_same = earlier is not None and earlier[0] == timed[client]
        waiting[client] = earlier if is_same and earlier is not None else (timed[client], now)
    timers.timed = timed
    timers.waiting = waiting
    # A number that was handed on stays so while a lower one of its client goes before it.
    timers.forwarded = {
        (client, number)
        for client, number in timers.forwarded
        if core.pending.has(client, number)
        or (client.startswith(RECOVERY) and timed.get(client) == number)
    }


def _with_recoveries(core: Core, are_nulls_owed: bool) -> dict[str, int]:
    timed = dict(core.pending.lowest)
    for signed in core.recovery.requests.values():
        timed[RECOVERY + signed.signer] = RECOVER_NUMBER
    if are_nulls_owed:
        timed[RECOVERY] = core.executed + 1
        timed[NULLS] = min(
            number for number in core.awaited_checkpoints() if number > core.executed
        )
    return timed


def on_view_entered(core: Core, now: float) -> None:
    """A new primary gets its full time."""
    timers = core.timers
    timers.view_change_due = None
    timers.forwarded = set()
    timers.waiting = {client: (lowest, now) for client, (lowest, _) in timers.waiting.items()}


def on_state_adopted(core: Core, now: float) -> None:
    """A state was fetched: what waited may be executed above it, so nobody is judged by old waits.

    Only then: a replica that is behind for a moment, at a checkpoint, goes on waiting as before,
    or a primary could censor by serving others.
    """
    timers = core.timers
    timers.waiting = {client: (lowest, now) for client, (lowest, _) in timers.waiting.items()}


def on_progress(core: Core) -> None:
    """A batch was executed: the next failure is waited for half as long, down to the first wait.

    Not at once all the way: on a network whose delays are close to the first wait, each batch
    would cost two or three failed views again.
    """
    core.timers.has_progressed = True
    core.timers.timeout = max(core.settings.view_change_seconds, core.timers.timeout / 2)


def on_view_wanted(core: Core, now: float) -> None:
    """`strong` replicas ask for the view we are changing to: from now on it may fail (4.4)."""
    if core.timers.view_change_due is None:
        core.timers.view_change_due = now + core.timers.timeout


def failed_view(core: Core, now: float) -> bool:
    """Whether the primary of our view has had its time. Hands requests on to it at half of that.

    A replica that is behind times no primary: what it waits for may be executed already.
    """
    timers = core.timers
    if not core.has_entered:
        return timers.view_change_due is not None and now >= timers.view_change_due
    if not _monitors_primary(core):
        return False
    share = 2 if core.is_primary else 1
    for client, (lowest, since) in () if core.is_primary else timers.waiting.items():
        is_new = client != NULLS and (client, lowest) not in timers.forwarded
        if is_new and now >= since + timers.timeout / 2:
            timers.forwarded.add((client, lowest))
            _forward(core, client, lowest)
    return any(
        now >= since + share * _patience(core, client)
        for client, (_, since) in timers.waiting.items()
    )


def _patience(core: Core, client: str) -> float:
    """How long what is waited for of that client may take, before the primary has had its time."""
    timeout = core.timers.timeout
    if client != NULLS:
        return timeout
    owed_most = core.window + core.interval
    return NULLS_TIMEOUTS * timeout + 2 * owed_most * core.settings.null_seconds


def back_off(core: Core) -> None:
    """Wait twice as long as before where nothing was executed since the last failure."""
    if not core.timers.has_progressed:
        core.timers.timeout = min(2 * core.timers.timeout, core.settings.view_change_seconds_max)


def is_null_due(core: Core, now: float) -> bool:
    """Whether the primary may give a null request that is owed: one per null_seconds.

    So a faulty replica that recovers again and again costs the others a bounded rate of them.
    """
    return now >= core.timers.null_due


def on_null_proposed(core: Core, now: float) -> None:
    """One was given."""
    core.timers.null_due = now + core.settings.null_seconds


def may_delay_longer(core: Core, now: float) -> bool:
    """Whether the primary may go on keeping what nobody waits for; its time begins with this."""
    timers = core.timers
    if timers.batch_due is None:
        timers.batch_due = now + core.settings.batch_delay_seconds
    return now < timers.batch_due


def deadline(core: Core) -> float:
    """When there is something to do at the latest."""
    due = core.peers.status_due
    timers = core.timers
    if timers.batch_due is not None:
        due = min(due, timers.batch_due)
    if timers.is_null_waiting:
        due = min(due, timers.null_due)
    if not core.has_entered:
        if timers.view_change_due is not None:
            due = min(due, timers.view_change_due)
    elif timers.waiting and _monitors_primary(core):
        forwarded = timers.forwarded
        has_nulls = NULLS in timers.waiting
        if not has_nulls and (core.is_primary or not forwarded):
            # who waits longest is due first
            share = 2 if core.is_primary else 0.5
            return min(
                due, min(since for _, since in timers.waiting.values()) + timers.timeout * share
            )
        for client, (lowest, since) in timers.waiting.items():
            is_handed_on = client == NULLS or (client, lowest) in forwarded
            share = 2 if core.is_primary else 1 if is_handed_on else 0.5
            due = min(due, since + _patience(core, client) * share)
    return due


def _monitors_primary(core: Core) -> bool:
    is_behind = core.checkpoints.certified.sequence > core.executed
    is_needed = core.is_voting and not core.has_ended
    return is_needed and core.transfers.current is None and not is_behind


def _forward(core: Core, client: str, timestamp: int) -> None:
    """Once per request and view, and a primary forwards nothing: no ping-pong."""
    to = core.cluster.replica_names[core.primary]
    if client.startswith(RECOVERY):
        # Null requests that are owed are nobody's words: there is nothing to hand on.
        recovering = core.cluster.replica_index(client.removeprefix(RECOVERY))
        signed = None if recovering is None else core.recovery.requests[recovering]
    else:
        signed = core.pending.get(client, timestamp)
    if signed is not None:
        core.output.messages.append(Send(to, Envelope(signed)))
