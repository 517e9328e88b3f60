"""A replica's turns on a recorded disk: what it was doing, and what its store had promised when.

Four real replicas in one process order requests, decide a build, take checkpoints, change the
view, lose a disk and get the state back; one of them is recorded, down to each write.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ci.operations import Append
from node.storage.store import Store
from pbft.authentication import Identity, sign_message
from pbft.codec import encode_message
from pbft.core import Settings
from pbft.messages import Checkpoint, Envelope
from tests.node.local_network import KEYS, NAMES, Network
from tests.node.recording_disk import Acknowledged, Operation, Recorder, recording
from tests.waiting import wait_until

TABLES = {
    "meta": "name",
    "records": "position",
    "bodies": "digest",
    "ballots": "build, opened, replica",
    "own_requests": "timestamp",
    "ledger": "position",
    "verdicts": "build, position",
    "late_ballots": "build, position",
    "gaps": "first",
    "evidence": "number",
}
# The calls after which what they were given must survive.
PROMISING = ("save", "add_own_request", "fill_gap", "forget_own_requests", "agree_ledger")
# So that pages go from the log into the database many times in a short run.
CHECKPOINT_PAGES = 24

Contents = dict[str, list[tuple[Any, ...]]]


def contents_of(store: Store) -> Contents:
    """All rows of all tables, as bytes and numbers.

    A flipped bit may call a row's bytes text, which need not be UTF-8: whether that is seen is
    asked of the store's own reads.
    """
    cursor = store._database.cursor()
    factory, store._database.text_factory = store._database.text_factory, bytes
    try:
        return {
            table: cursor.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()
            for table, order in TABLES.items()
        }
    finally:
        store._database.text_factory = factory


@dataclass
class Workload:
    """A recorded run: what was done to the disk, and what the store held at each promise."""

    folder: Path
    operations: list[Operation] = field(default_factory=list)
    promised: list[Contents] = field(default_factory=list)
    # Which of the promises a turn ended with, so that the mark is at the last record.
    turns: set[int] = field(default_factory=set)

    def allowed(self, promise: int) -> list[Contents]:
        """What may be found after a crash: all that was promised, and at most one turn more."""
        return self.promised[max(0, promise) : promise + 2]


class Watch:
    """Notes in a recording what the store promises."""

    def __init__(self, recorder: Recorder, workload: Workload, patch: pytest.MonkeyPatch) -> None:
        self._recorder = recorder
        self._workload = workload
        for name in (*PROMISING, "__init__"):
            patch.setattr(Store, name, self._watched(getattr(Store, name)))

    def _watched(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(store: Store, *arguments: Any, **more: Any) -> Any:
            result = real(store, *arguments, **more)
            if store.path.parent == self._workload.folder:
                self.note(contents_of(store), is_turn=real.__name__ == "save")
            return result

        return call

    def note(self, contents: Contents, *, is_turn: bool) -> None:
        """The store is back from a call, with this in it."""
        promised = self._workload.promised
        if not promised or contents != promised[-1]:
            promised.append(contents)
            self._recorder.note(Acknowledged(len(promised) - 1))
            if is_turn:
                self._workload.turns.add(len(promised) - 1)


def record_replica(folder: Path) -> tuple[Workload, Network]:
    """The run of one replica among four; the network is closed, and kept for its keys."""
    workload = Workload(folder / NAMES[0])
    network = Network(folder, settings=Settings(view_change_seconds=1.0, status_seconds=0.1))
    with recording(workload.folder) as recorder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("node.storage.store.SPARE_PAGES", 0)
        Watch(recorder, workload, patch)
        asyncio.run(_replica_run(network))
        workload.operations = recorder.operations
    return workload, network


async def _replica_run(network: Network) -> None:
    for name in NAMES:
        network.start(name)
    _take_checkpoints(network)
    await _append(network, 20)
    network.submit()
    await wait_until(lambda: network.verdicts(NAMES[0]) == 1, "a verdict")
    for number in (1, 2):
        sequence = network.runtimes[NAMES[0]].replica.core.low + 16
        message = Checkpoint(sequence, bytes([number]) * 32, 3)
        encoded = encode_message(message)
        signed = sign_message(
            message, encoded, Identity(network.cluster, NAMES[3], KEYS[NAMES[3]].sign)
        )
        network.runtimes[NAMES[0]].on_envelopes(NAMES[3], [Envelope(signed)])
    await wait_until(lambda: bool(network.stores[NAMES[0]].evidence.counts()), "evidence")
    # A restart: the log is taken into the database and removed.
    await network.stop(NAMES[0])
    network.start(NAMES[0])
    _take_checkpoints(network)
    await _append(network, 10)
    # It misses more than the others remember, and takes over the state.
    network.cut.add(NAMES[0])
    await _append(network, 30, [name for name in NAMES if name != NAMES[0]])
    network.cut.clear()
    await wait_until(lambda: _journal(network, NAMES[0]) == 60, "the state")
    store, other = network.stores[NAMES[0]], network.stores[NAMES[1]]
    gap = store.ledger.gap()
    assert gap is not None
    half = gap.missing // 2
    assert not store.fill_gap(gap, other.ledger.page_up_to(gap.last, half, 1 << 20))
    gap = store.ledger.gap()
    assert gap is not None
    assert store.fill_gap(gap, other.ledger.page_up_to(gap.last, gap.missing, 1 << 20))
    network.submit(2)
    await wait_until(lambda: network.verdicts(NAMES[0]) == 2, "a second verdict")
    await network.close()


def _take_checkpoints(network: Network) -> None:
    network.stores[NAMES[0]]._database.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")


async def _append(network: Network, count: int, names: Sequence[str] = NAMES) -> None:
    for _ in range(count):
        before = _journal(network, names[-1])
        network.ask(Append("text" * 20))
        for name in names:
            await _longer(network, name, before)


def _journal(network: Network, name: str) -> int:
    return network.applications[name].journal_length


async def _longer(network: Network, name: str, length: int) -> None:
    await wait_until(lambda: _journal(network, name) > length, f"an append at {name}")
