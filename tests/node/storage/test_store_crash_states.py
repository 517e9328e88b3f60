"""The real store after every kind of crash, rot and refusal: docs/SIMULATION.md, 25 to 27.

Four replicas run, one of them on a recorded disk. From the recording come the states in which the
power may leave that disk, and from those, flipped bits. The ordinary tests look at some hundreds,
the long ones at many thousands (figures in docs/TESTING.md).
"""

import functools
import random
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ci.application import BuildApplication
from common.configuration.keys import verify
from node.diagnostics.metrics import NodeMetrics
from node.replica.runtime import Runtime
from node.storage.damage import StoreDamaged
from node.storage.ledger_walk import LedgerWalk
from node.storage.sqlite_integrity import check_all
from node.storage.store import DATABASE_NAME, REDO_NAME, Store
from pbft.authentication import Authenticator, Identity
from pbft.codec import decode_signed
from pbft.ports import Entry, Refusal
from pbft.replica import DamagedRecords
from tests.node.crash_states import CrashState, crash_states, final_state
from tests.node.local_network import KEYS, NAMES, Network
from tests.node.recording_disk import Acknowledged
from tests.node.store_workload import Contents, Workload, contents_of, record_replica
from tests.thoroughness import times

SEED = 20261121

pytestmark = pytest.mark.usefixtures("small_redo_log", "verified_once")

# All states hold the same few hundred signed messages, and each start verifies them all.
_verify = functools.cache(verify)
# Nobody reads them, and to make them is a sixth of a start.
_metrics = functools.cache(NodeMetrics)


@pytest.fixture
def verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each signature is verified once for all states; a changed one is verified by itself.

    The metrics of all starts are one object.
    """
    monkeypatch.setattr("node.replica.runtime.verify", _verify)
    monkeypatch.setattr("node.replica.runtime.NodeMetrics", _metrics)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_redo_log: None) -> tuple[Workload, Network]:
    """One recorded run for all tests."""
    return record_replica(tmp_path_factory.mktemp("recorded"))


def _restore(folder: Path, network: Network) -> Contents:
    """Open the files as a node does at its start; what is in them then.

    Raises StoreDamaged, DamagedRecords.
    """
    store = Store(folder, network.cluster.id, NAMES[0])
    try:
        contents = contents_of(store)
        _restore_runtime(store, network)
        return contents
    finally:
        store.close()


def _contents_if_readable(store: Store) -> Contents | None:
    """All that is in them; None where SQLite comes upon a broken page.

    A start looks at what the replica speaks from: it may go well all the same.
    """
    try:
        return contents_of(store)
    except sqlite3.DatabaseError:
        return None


def _restore_and_scrub(folder: Path, network: Network) -> tuple[Contents, list[Entry]]:
    """The same, and what is in them once all was looked through; before that, what was served."""
    store = Store(folder, network.cluster.id, NAMES[0])
    try:
        contents = _contents_if_readable(store)
        _restore_runtime(store, network)
        end = store.ledger.end()[0]
        served = [entry for first in range(1, end + 1) for entry in store.ledger.entries(first, 3)]
        for last in range(1, end + 1):
            served += store.ledger.page_up_to(last, 3, 1 << 20).entries
        problem = check_all(store._database)
        if problem is not None:
            raise StoreDamaged(problem)
        assert contents is not None, "some of it cannot be read, and no check says so"
        walk = LedgerWalk.from_genesis(store.ledger)
        is_at_end = False
        while not is_at_end:
            step = walk.step(7, 1 << 20)
            store.repair_ledger(step)
            is_at_end = step.is_at_end
        scrubbed = contents_of(store)
        return {**contents, **{table: scrubbed[table] for table in ("ledger", "gaps")}}, served
    finally:
        store.close()


def _restore_runtime(store: Store, network: Network) -> None:
    application = BuildApplication(network.cluster, network.limits, store.ledger.find_statement)
    identity = Identity(network.cluster, NAMES[0], KEYS[NAMES[0]].sign)
    Runtime(identity, store, application).restore()


# --- the power goes ---------------------------------------------------------------------------


def _check_crash_states(
    run: tuple[Workload, Network], folder: Path, seed: int, states_per_operation: float
) -> int:
    workload, network = run
    count = 0
    chance = random.Random(seed)
    for state in crash_states(workload.operations, chance, states_per_operation):
        where = folder / str(count)
        state.write(where)
        contents = _restore(where, network)
        told = f"seed {seed}, after {state.operations} operations, promise {state.promise}"
        assert contents in workload.allowed(state.promise), told
        count += 1
        for file in where.iterdir():
            file.unlink()
    return count


@pytest.mark.short
@pytest.mark.timeout(400)
def test_no_crash_loses_what_was_acknowledged_or_applies_half_a_turn(
    run: tuple[Workload, Network], tmp_path: Path
) -> None:
    """A replica whose machine lost power starts again, with all that it said, and by itself."""
    assert _check_crash_states(run, tmp_path, SEED, 0.3) > 300


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_crash_of_thousands_loses_anything(
    run: tuple[Workload, Network], tmp_path: Path
) -> None:
    assert _check_crash_states(run, tmp_path, SEED + 1, 1.4 * times(1)) > times(2_000)


def test_the_recorded_run_does_all_that_a_store_is_for(run: tuple[Workload, Network]) -> None:
    """So that the tests above and below prove something."""
    workload, _ = run
    last = workload.promised[-1]
    for table in ("bodies", "ballots", "own_requests", "verdicts", "evidence"):
        assert last[table], table
    assert len(last["ledger"]) >= 62
    assert any(contents["gaps"] for contents in workload.promised)
    files = {getattr(operation, "file", None) for operation in workload.operations}
    assert {DATABASE_NAME, f"{DATABASE_NAME}-wal", REDO_NAME} <= files


# --- bits rot ---------------------------------------------------------------------------------


def _check_flipped_bits(
    run: tuple[Workload, Network], folder: Path, seed: int, count: int
) -> Counter[str]:
    """Flip a bit in one file of a state in which a turn was just acknowledged; what came of it."""
    workload, network = run
    chance = random.Random(seed)
    ends = _ends_of_turns(workload)
    state_at = functools.cache(lambda end: final_state(workload.operations[:end]))
    seen: Counter[str] = Counter()
    for number in range(count):
        state: CrashState = state_at(chance.choice(ends))
        name = chance.choice([file for file in sorted(state.files) if state.files[file]])
        data = bytearray(state.files[name])
        place, bit = chance.randrange(len(data)), chance.randrange(8)
        data[place] ^= 1 << bit
        where = folder / str(number)
        replace(state, files={**state.files, name: bytes(data)}).write(where)
        told = f"seed {seed}, promise {state.promise}, bit {bit} of byte {place} of {name}"
        try:
            contents, served = _restore_and_scrub(where, network)
        except (StoreDamaged, DamagedRecords):
            seen[f"{name}: noticed"] += 1
        else:
            seen[f"{name}: harmless"] += 1
            promised = workload.promised[state.promise]
            assert {(e.index, e.body, e.head) for e in served} <= set(promised["ledger"]), told
            _check_that_nothing_is_wrong(contents, promised, network, told)
        for file in where.iterdir():
            file.unlink()
    return seen


def _ends_of_turns(workload: Workload) -> list[int]:
    """Where the mark was on disk: what is beside the records is not promised before."""
    return [
        number
        for number, operation in enumerate(workload.operations, 1)
        if isinstance(operation, Acknowledged) and operation.promise in workload.turns
    ]


def _check_that_nothing_is_wrong(
    contents: Contents, promised: Contents, network: Network, told: str
) -> None:
    """What is not noticed is whole, or is seen to be wrong by whoever uses it."""
    assert contents["records"] == promised["records"], told
    # Bodies need no look: each is found by its digest and must have it, and restoring the records
    # needed none that is not here. Old ones may be back, until the next base.
    # Of the ledger what is wrong became a gap, to be fetched.
    entries = {row[0]: row for row in promised["ledger"]}
    gaps = [(first, last) for first, last, *_ in contents["gaps"]]
    for row in contents["ledger"]:
        assert row == entries[row[0]] or any(first <= row[0] <= last for first, last in gaps), told
    missing = entries.keys() - {row[0] for row in contents["ledger"]}
    assert all(any(first <= index <= last for first, last in gaps) for index in missing), told
    # The rest was signed.
    own = [(row[0], row[4]) for row in promised["own_requests"] if not row[5]]
    assert set(own) <= {(row[0], row[4]) for row in contents["own_requests"]}, told
    for table, column in (("ballots", 3), ("evidence", 3), ("evidence", 4)):
        right = {row[column] for row in promised[table]}
        for row in contents[table]:
            assert row[column] in right or not _is_signed(row[column], network), told


def _is_signed(data: bytes, network: Network) -> bool:
    try:
        signed = decode_signed(data)
        authenticator = Authenticator(network.cluster, _verify)
        message = authenticator.read(signed)
        return not isinstance(message, Refusal) and authenticator.check(signed, message) is None
    except ValueError:
        return False


@pytest.mark.short
@pytest.mark.timeout(400)
def test_a_flipped_bit_is_harmless_or_noticed(
    run: tuple[Workload, Network], tmp_path: Path
) -> None:
    _check_that_some_are_noticed(_check_flipped_bits(run, tmp_path, SEED, 300))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_of_a_thousand_flipped_bits_none_is_taken_for_what_was_saved(
    run: tuple[Workload, Network], tmp_path: Path
) -> None:
    count = times(1_000)
    seen = _check_flipped_bits(run, tmp_path, SEED + 1, count)
    assert seen.total() == count
    _check_that_some_are_noticed(seen)


def _check_that_some_are_noticed(seen: Counter[str]) -> None:
    assert seen[f"{DATABASE_NAME}: noticed"] > 0
    assert seen[f"{DATABASE_NAME}-wal: noticed"] > 0
