"""All that a core knows, as one comparable value: a message that is refused must not change it."""

from pbft.core import Core


def picture(core: Core) -> tuple[object, ...]:
    """Everything but what only remembers work done: checked signatures, and empty slots."""
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
        (core.view, core.has_entered, core.floor, core.new_view, core.is_diverged, core.nonce),
        slots,
        {client: core.pending.numbers(client) for client in core.pending.clients()},
        sorted(core.proposed),
        (core.next_sequence, core.rotation, core.executed),
        core.clients.parts(),
        core.application.parts(),
        (core.stable, core.certified),
        {index: core.checkpoint_votes.own_above(index, 0) for index in range(core.index + 8)},
        sorted(core.snapshots),
        dict(core.view_changes),
        dict(core.overtaken_view_changes),
        dict(core.recoveries),
        dict(core.recover_requests),
    )
