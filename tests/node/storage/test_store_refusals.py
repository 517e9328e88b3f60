"""A disk that is full or fails, at each single write and sync of the real store (invariant 27).

Nothing of a save that failed is half there, the same save may be tried again, and what is
acknowledged after that survives a crash like everything else.
"""

import errno
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ci.ballots import ReplicaRequest
from ci.operations import Append
from driver.ports import SaveFailed
from node.storage.damage import StoreUnusable
from node.storage.store import DATABASE_NAME, Store
from pbft.codec import decode_message, digest_of
from pbft.core import Settings
from pbft.messages import Commit, Envelope, Prepare, PrePrepare, Signed
from pbft.ports import CheckpointRecord, Evidence, SavedBody, SavedEntry, SavedMessage
from tests.node.chains import chain_of, ledger_parts
from tests.node.crash_states import crash_states, final_state
from tests.node.local_network import NAMES, FunctionLinks, Network
from tests.node.recording_disk import Synced, recording
from tests.node.store_workload import Contents, Watch, Workload, contents_of
from tests.thoroughness import first_of, times
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("small_redo_log")

CLUSTER = bytes(range(32))
ENTRIES = chain_of(CLUSTER, 6)
REFUSALS = [(errno.ENOSPC, 1), (errno.ENOSPC, 7), (errno.EIO, 1), (errno.EIO, 7)]
TRIES_MAX = 20
STEPS_MAX = 1000

Step = Callable[[Store], object]


def _signed(number: int) -> Signed:
    return Signed("node0", b"payload %d" % number * 200, bytes(64))


def _own(number: int) -> Step:
    request = ReplicaRequest(number, "ballot", bytes([number]) * 32, number, _signed(number))
    return lambda store: store.add_own_request(request)


def _save(*records: object, evidence: Sequence[Evidence] = ()) -> Step:
    ballots = [(bytes(32), len(records), "node1", _signed(90))]
    return lambda store: store.save(records, ballots, evidence)  # type: ignore[arg-type]


STEPS: list[Step] = [
    _save(SavedMessage(_signed(1)), SavedBody(1, digest_of(b"1"), b"1" * 9000)),
    _own(1),
    Store.mark,
    _save(*[SavedEntry(entry) for entry in ENTRIES[:3]], SavedMessage(_signed(2))),
    _save(evidence=[Evidence(2, _signed(3), _signed(4))]),
    _save(CheckpointRecord(8, 0, (), ledger_parts(3, ENTRIES[2].head)), SavedMessage(_signed(5))),
    _own(2),
    Store.mark,
    _save(*[SavedEntry(entry) for entry in ENTRIES[3:]], SavedMessage(_signed(6))),
    _save(CheckpointRecord(16, 8, (), ledger_parts(6, ENTRIES[5].head))),
    _save(SavedMessage(_signed(7)), SavedBody(17, digest_of(b"2"), b"2" * 9000)),
]


def _take(store: Store, step: Step) -> int:
    """Do it, again and again while the disk refuses; how often it did."""
    for refused in range(TRIES_MAX):
        before = contents_of(store)
        try:
            step(store)
        except SaveFailed:
            # All of it or nothing; where it is the mark that failed, all is there and not said.
            assert contents_of(store) == before or refused == 0 or step is Store.mark
        else:
            return refused
    raise AssertionError("the disk takes writes again, and the store does not")


def _run(store: Store) -> int:
    store._database.execute("PRAGMA wal_autocheckpoint = 6")
    return sum(_take(store, step) for step in STEPS)


def _contents_without_refusals(folder: Path) -> tuple[Contents, int]:
    with recording(folder) as recorder:
        store = Store(folder, CLUSTER, "node0")
        created = recorder.changes
        assert _run(store) == 0
        contents = contents_of(store)
        store.close()
        return contents, recorder.changes - created


@pytest.mark.short
@pytest.mark.parametrize(("error_number", "count"), REFUSALS)
def test_whichever_write_is_refused_nothing_is_lost_or_done_twice(
    tmp_path: Path, error_number: int, count: int
) -> None:
    """Each fifth of them; the long test tries others."""
    _check_refusals(tmp_path, error_number, count, every=5)


@pytest.mark.long
@pytest.mark.parametrize(("error_number", "count"), REFUSALS)
def test_whichever_single_write_is_refused(tmp_path: Path, error_number: int, count: int) -> None:
    """One in six of them; which, the commit decides."""
    every = max(1, 6 // times(1))
    _check_refusals(tmp_path, error_number, count, every=every, begin=first_of(every))


def _check_refusals(
    tmp_path: Path, error_number: int, count: int, every: int, begin: int = 0
) -> None:
    whole, changes = _contents_without_refusals(tmp_path / "whole")
    chance = random.Random(changes)
    states = 0
    for first in range(begin, changes, every):
        workload = Workload(tmp_path / f"{first}")
        with recording(workload.folder) as recorder, pytest.MonkeyPatch.context() as patch:
            Watch(recorder, workload, patch)
            store = Store(workload.folder, CLUSTER, "node0")
            recorder.fail(first, count, error_number)
            _run(store)
            assert contents_of(store) == whole, f"refused after {first}"
            store.close()
            # A full disk does not refuse a sync, so not after the last write.
            assert recorder.failed > 0 or (error_number == errno.ENOSPC and first > changes - 5)
            workload.operations = recorder.operations
        for state in crash_states(workload.operations, chance, 0.02):
            folder = tmp_path / f"{first}-{state.operations}-{states}"
            state.write(folder)
            store = Store(folder, CLUSTER, "node0")
            assert contents_of(store) in workload.allowed(state.promise), folder.name
            store.close()
            states += 1
    assert states > 20


def test_what_was_refused_does_not_come_back_before_what_was_saved_then(tmp_path: Path) -> None:
    """A refused commit may be on disk, and what came in its place in memory only."""
    wal = f"{DATABASE_NAME}-wal"
    own, later = _own(1), _save(SavedMessage(_signed(3)))
    refused = 0
    for first in range(20):
        folder = tmp_path / f"{first}"
        with recording(folder) as recorder:
            store = Store(folder, CLUSTER, "node0")
            _save(SavedMessage(_signed(1)))(store)
            _save(SavedMessage(_signed(2)))(store)
            recorder.fail(first, 1, errno.EIO)
            try:
                own(store)
            except SaveFailed:
                refused += 1
            recorder.fail(0, 0, errno.EIO)
            cut = len(recorder.operations)
            later(store)
            records = store.records()
            operations = list(recorder.operations)
            store.close()
        synced = max(n for n, o in enumerate(operations) if o == Synced(wal))
        kept = [
            operation
            for number, operation in enumerate(operations)
            if number < max(cut, synced) or getattr(operation, "file", None) != wal
        ]
        left = tmp_path / f"{first}-left"
        final_state(kept).write(left)
        store = Store(left, CLUSTER, "node0")
        assert store.records() == records
        store.close()
    assert refused > 2


@pytest.mark.parametrize("error_number", [errno.ENOSPC, errno.EIO])
def test_a_store_that_cannot_be_made_is_made_when_the_disk_takes_it(
    tmp_path: Path, error_number: int
) -> None:
    refused = 0
    for first in range(STEPS_MAX):
        said = ""
        folder = tmp_path / f"{first}"
        with recording(folder) as recorder:
            recorder.fail(first, 1, error_number)
            try:
                store = Store(folder, CLUSTER, "node0")
            except (StoreUnusable, OSError) as error:
                refused += 1
                said = str(error)
                store = Store(folder, CLUSTER, "node0")
            _take(store, STEPS[0])
            store.close()
            if recorder.failed == 0:
                break
            assert not said or str(folder) in said
    assert refused > 10


def test_a_disk_that_fails_at_the_start_is_no_damage(tmp_path: Path) -> None:
    """What is on it stays, and is all there once the disk works again."""
    folder = tmp_path / "store"
    store = Store(folder, CLUSTER, "node0")
    _run(store)
    whole = contents_of(store)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    store.close()
    for first in range(STEPS_MAX):
        place = tmp_path / f"{first}"
        place.mkdir()
        for name, data in files.items():
            (place / name).write_bytes(data)
        with recording(place) as recorder:
            recorder.fail_reads(first, 1)
            said = str(place)
            try:
                store = Store(place, CLUSTER, "node0")
            except StoreUnusable as error:
                said = str(error)
                store = Store(place, CLUSTER, "node0")
            assert str(place) in said
            is_opened_without = recorder.failed == 0
            if not is_opened_without:
                assert contents_of(store) == whole
            store.close()
            if is_opened_without:
                break
    assert first > 5


async def test_a_replica_says_nothing_that_its_disk_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole loop on a disk that is full three times: it waits, and goes on."""
    monkeypatch.setattr("node.replica.runtime.SAVE_RETRY_SECONDS", 0.02)
    network = Network(tmp_path, settings=Settings(view_change_seconds=60.0, status_seconds=0.1))
    with recording(tmp_path / NAMES[1]) as recorder:
        for name in NAMES:
            network.start(name)
        watch = _WriteAheadWatch(network, monkeypatch)
        for number in range(12):
            if number % 4 == 0:
                recorder.fail(0, 9, errno.ENOSPC if number else errno.EIO)
            network.ask(Append(f"{number}"))
            await wait_until(
                lambda: all(a.journal_length > watch.asked for a in network.applications.values()),
                "an append on all",
            )
            watch.asked += 1
        assert recorder.failed == 27
        assert network.runtimes[NAMES[1]].counters["saves_failed"] >= 3
        assert watch.votes > 20
        refused = caplog.text.count("nothing is sent until this can be saved")
        saved = re.findall(r"saved, after \d+ (?:try|tries) that the disk refused", caplog.text)
        assert 0 < refused == len(saved), "each failure is told once, and its end"
        await network.close()


class _WriteAheadWatch:
    """Looks into node1's store at each message that leaves it."""

    def __init__(self, network: Network, patch: pytest.MonkeyPatch) -> None:
        self.votes = 0
        self.asked = 0
        real = FunctionLinks.send

        def send(links: FunctionLinks, to: str, envelopes: Sequence[Envelope]) -> None:
            if links._name == NAMES[1]:
                store = network.stores[NAMES[1]]
                saved = {r.signed for r in store.records() if isinstance(r, SavedMessage)}
                for envelope in envelopes:
                    message = decode_message(envelope.signed.payload)
                    is_own = envelope.signed.signer == NAMES[1]
                    if is_own and isinstance(message, PrePrepare | Prepare | Commit):
                        assert envelope.signed in saved, "a vote left before it was on disk"
                        self.votes += 1
            real(links, to, envelopes)

        patch.setattr(FunctionLinks, "send", send)
