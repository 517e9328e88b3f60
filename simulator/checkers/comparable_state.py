"""The state of a core as one comparable value: a refused message must not change it."""

from pbft.core import Core


def comparable_state(core: Core) -> tuple[object, ...]:
    """All of the state but caches: checked signatures, and empty slots."""
    slots = tuple(
        (
            slot.sequence,
            slot.proposal,
            slot.accepted,
            dict(slot.prepares),
            {replica: dict(views) for replica, views in slot.commits.items()},
            slot.prepared,
            slot.decided,
            tuple(slot.batches),
            len(slot.records),
        )
        for slot in core.log.above(0)
        if slot.proposal or slot.prepares or slot.commits or slot.decided or slot.records
    )
    return (
        (
            core.view,
            core.has_entered,
            core.views.min_s,
            core.views.new_view,
            core.is_diverged,
            core.recovery.nonce,
        ),
        slots,
        {client: core.pending.numbers(client) for client in core.pending.clients()},
        sorted(core.proposer.proposed),
        (core.proposer.next_sequence, core.proposer.rotation, core.executed),
        core.execution.clients.parts(),
        core.application.parts(),
        (core.checkpoints.stable, core.checkpoints.certified),
        {index: core.checkpoints.votes.own_above(index, 0) for index in range(core.index + 8)},
        sorted(core.checkpoints.snapshots),
        dict(core.views.changes),
        dict(core.views.overtaken_changes),
        dict(core.execution.recoveries),
        dict(core.recovery.requests),
    )
