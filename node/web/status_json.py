"""The parts of a replica's status for GET /pbft/status, each a plain value for JSON."""

import asyncio
import contextlib
import shutil
from pathlib import Path

import msgspec

from node.diagnostics.disk_speed import DiskSpeed
from node.storage.scrub import Scrub
from pbft.core import Core, ReplicaStatus
from pbft.view_change import supporters


def status(core: Core, behind_by: int, *, is_mute: bool) -> str:
    """One word for it. is_mute: its disk refuses what it said last."""
    if is_mute:
        return "disk_refuses"
    if behind_by > 0 and core.status is ReplicaStatus.NORMAL:
        return "behind"
    return core.status


def view_change(core: Core) -> dict[str, int | list[str]] | None:
    """The view that is wanted and who asks for it, while no view is entered."""
    if core.has_entered:
        return None
    names = core.cluster.replica_names
    changes = supporters(core)
    return {
        "view": core.view,
        "supporters": [names[change.message.replica] for change in changes],
        "supported_by": len(changes),
        "needed": core.quorums.strong,
    }


def disk(disk: DiskSpeed, folder: Path) -> dict[str, float | bool | None]:
    """How long saves take, and how much room the disk of that folder has, if it tells."""
    now = asyncio.get_running_loop().time()
    room = None
    with contextlib.suppress(OSError):
        room = shutil.disk_usage(folder)
    return {
        "save_seconds": round(disk.last_seconds, 4),
        "slowest_save_seconds": round(disk.slowest_seconds(now), 4),
        "is_slow": disk.is_slow(now),
        "free_bytes": None if room is None else room.free,
        "total_bytes": None if room is None else room.total,
    }


def state_transfer(core: Core) -> dict[str, int | None] | None:
    """To which checkpoint, and how many of its parts are here; `parts` is None at the start."""
    transfer = core.transfers.current
    if transfer is None:
        return None
    return {
        "sequence": transfer.certificate.sequence,
        "parts_here": len(transfer.parts) if transfer.leaves is not None else 0,
        "parts": None if transfer.leaves is None else len(transfer.leaves),
    }


def recovery(core: Core) -> dict[str, int | None] | None:
    """While it votes on nothing: the checkpoint from which it does again, once that is known."""
    if not core.is_recovering:
        return None
    own = core.execution.recoveries.get(core.index)
    return {"voting_from": own.voting_from if own is not None else None}


def scrub(work: Scrub) -> dict[str, int | bool]:
    """How far the look through the store is, and what it found since the start."""
    return msgspec.structs.asdict(work.progress)
