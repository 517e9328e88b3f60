"""What a start leaves out is looked through while the replica works; no flipped bit does harm."""

import asyncio
import hashlib
import random
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ci.ballots import ReplicaRequest
from ci.ledger import VerdictEntry, encode_entry, genesis_head, next_head
from driver.ports import SaveFailed
from node.storage.damage import MARKER_NAME, StoreDamaged, StoreUnusable
from node.storage.ledger_walk import LedgerWalk, WalkStep
from node.storage.scrub import Scrub
from node.storage.sqlite_integrity import CannotTell, StoreFile, check_all, check_at_start
from node.storage.store import DATABASE_NAME, Store
from pbft.codec import digest_of
from pbft.messages import Signed
from pbft.ports import CheckpointRecord, Entry, Record, SavedBody, SavedEntry, SavedMessage
from tests.node.chains import chain_of, ledger_parts, page_of
from tests.node.storage.test_store import damage
from tests.thoroughness import times
from tests.waiting import wait_until

# A start reads all of that file, here thousands of times.
pytestmark = pytest.mark.usefixtures("small_redo_log")

CLUSTER = bytes(range(32))
# Each flip asks for all of it. With fewer some tables would have a single page.
COUNT = 260
BASE_AT = 240
MORE = 10
SEED = 20261123
SCRUBBED_ENTRIES = 50
FLIPS = 100
# what may come of one, all of which the flips show
OUTCOMES = {"refused", "repaired", "found at work", "harmless"}


def _signed(index: int) -> Signed:
    """What its receiver can tell from anything else, as from a signature."""
    payload = b"payload %d " % index * 20
    return Signed("node0", payload, _signature("node0", payload))


def _signature(signer: str, payload: bytes) -> bytes:
    """Another signer's would be another one, as it has another key."""
    return hashlib.sha512(signer.encode() + payload).digest()


def _build(index: int) -> bytes:
    return digest_of(b"build %d" % index)


def _statement(index: int) -> bytes:
    return b'{"verdict":"%d"}' % index


def _history() -> list[Entry]:
    """Every other entry is a verdict."""
    head = genesis_head(CLUSTER)
    entries = []
    for entry in chain_of(CLUSTER, COUNT + MORE):
        body = entry.body
        if entry.index % 2:
            statement = msgspec.Raw(_statement(entry.index))
            body = encode_entry(VerdictEntry(_build(entry.index).hex(), 1, (), (), (), statement))
        head = next_head(head, entry.index, body)
        entries.append(Entry(entry.index, body, head))
    return entries


HISTORY = _history()
KNOWN = frozenset(HISTORY)


def _turn(store: Store, index: int) -> Record:
    """What a replica saves with an entry; the record of it."""
    record = SavedMessage(_signed(index))
    body = b"%d" % index * 3000
    ballots = [(_build(index), index, "node1", _signed(index))]
    records: list[Record] = [
        record,
        SavedBody(index, digest_of(body), body),
        SavedEntry(HISTORY[index - 1]),
    ]
    store.save(records, ballots)
    if index % 4 == 0:
        store.add_own_request(ReplicaRequest(index, "ballot", _build(index), index, _signed(index)))
        store.mark()
        store.forget_own_requests([index])
    return record


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, small_redo_log: None) -> Path:
    """The folder of a store with a history, closed; never changed."""
    folder = tmp_path_factory.mktemp("written") / "store"
    store = Store(folder, CLUSTER, "node0")
    for index in range(1, COUNT + 1):
        _turn(store, index)
        if index in (BASE_AT // 2, BASE_AT):
            parts = ledger_parts(index, HISTORY[index - 1].head)
            store.save([CheckpointRecord(index, index - 8, (), parts)], [])
    assert store._database.execute("PRAGMA freelist_count").fetchone()[0] > 20
    store.close()
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of that."""
    return shutil.copytree(written, tmp_path / "copy")


def _walk(store: Store) -> int:
    """What the scrub does with the ledger; how many entries it found damaged."""
    walk = LedgerWalk.from_genesis(store.ledger)
    found, is_at_end = 0, False
    while not is_at_end:
        step = walk.step(SCRUBBED_ENTRIES, 1 << 20)
        found += store.repair_ledger(step)
        is_at_end = step.is_at_end
    return found


def _fetch(store: Store) -> None:
    while (gap := store.ledger.gap()) is not None:
        page = page_of(CLUSTER, HISTORY, max(gap.first, gap.last - 50), gap.last)
        store.fill_gap(gap, page)


# --- a bit anywhere -----------------------------------------------------------------------------


def _check_what_is_served(store: Store, told: str) -> None:
    """Nothing but what was saved, whatever is asked for."""
    for first in range(1, COUNT + 1, 7):
        assert {*store.ledger.entries(first, 9)} <= KNOWN, told
        assert {*store.ledger.page_up_to(first, 9, 1 << 20).entries} <= KNOWN, told
    for index in range(1, COUNT + 1):
        assert store.ledger.find_statement(_build(index)) in (None, _statement(index)), told
        # Who counts a ballot reads build and opening in what is signed, not in the row.
        for _, _, signed in store.ballots.of(_build(index)):
            is_signed = _signature(signed.signer, signed.payload) == signed.signature
            assert signed == _signed(index) or not is_signed, told


def _after_a_flip(folder: Path, told: str) -> str:
    """Start, serve, go on, look through, start again; how the flip showed."""
    try:
        store = Store(folder, CLUSTER, "node0")
        try:
            store.agree_ledger(COUNT, HISTORY[COUNT - 1].head)
        except StoreDamaged:
            store.close()
            raise
    except (StoreDamaged, StoreUnusable) as error:
        return "refused" if str(folder) in str(error) else "refused without the file's name"
    records = store.records()
    seen = "harmless"
    try:
        _check_what_is_served(store, told)
        for index in range(COUNT + 1, COUNT + MORE + 1):
            records.append(_turn(store, index))
        problem = check_all(store._database)
        if problem is not None:
            raise store.full_check.note(problem)
        if _walk(store):
            seen = "repaired"
        _fetch(store)
        assert store.ledger.entries(1, COUNT + MORE) == HISTORY, told
    except StoreDamaged:
        assert store.full_check.is_noted, told
        seen = "found at work"
    store.close()
    try:
        store = Store(folder, CLUSTER, "node0")
    except StoreDamaged:
        assert seen == "found at work", told
        return seen
    # Whatever was broken, and mended by being written over: what was said is all there.
    assert store.records()[: len(records)] == records, told
    store.close()
    return seen


def _places(data: bytes, chance: random.Random) -> Iterator[int]:
    """Bytes of the file: anywhere, often where SQLite keeps its own, and in old entries."""
    while True:
        place = chance.randrange(len(data))
        yield place
        yield place // 4096 * 4096 + chance.randrange(16)
        yield place // 4096 * 4096 + chance.randrange(200)
        yield chance.randrange(3 * 4096)
        entry = HISTORY[chance.randrange(BASE_AT)]
        yield data.index(entry.body) + chance.randrange(len(entry.body) + len(entry.head))


def _check_flips(written: Path, tmp_path: Path, seed: int, count: int) -> Counter[str]:
    chance = random.Random(seed)
    data = (written / DATABASE_NAME).read_bytes()
    seen: Counter[str] = Counter()
    for number, place in zip(range(count), _places(data, chance), strict=False):
        folder = shutil.copytree(written, tmp_path / f"{number}")
        bit = chance.randrange(8)
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        (folder / DATABASE_NAME).write_bytes(bytes(flipped))
        seen[_after_a_flip(folder, f"seed {seed}, bit {bit} of byte {place}")] += 1
        shutil.rmtree(folder)
    return seen


@pytest.mark.short
@pytest.mark.timeout(400)
def test_a_flipped_bit_of_a_long_history_does_no_harm(written: Path, tmp_path: Path) -> None:
    seen = _check_flips(written, tmp_path, SEED, FLIPS)
    assert seen.keys() == OUTCOMES


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_of_many_flipped_bits_none_does_harm(written: Path, tmp_path: Path) -> None:
    count = times(400)
    seen = _check_flips(written, tmp_path, SEED + 1, count)
    assert seen.total() == count
    assert seen.keys() == OUTCOMES


# --- the scrub at work --------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.storage.scrub.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("node.storage.scrub.PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("node.storage.scrub.REST_SECONDS_MIN", 0.0)
    monkeypatch.setattr("node.storage.scrub.REST_TIMES", 0)


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    store = Store(folder, CLUSTER, "node0")
    yield store
    store.close()


async def test_a_whole_store_is_looked_through_and_left_as_it_is(store: Store) -> None:
    scrub = Scrub(store)
    scrub.start()
    await wait_until(lambda: scrub.progress.passes == 1, "a pass")
    await scrub.close()
    assert msgspec.structs.asdict(scrub.progress) == {
        "entries_checked": COUNT,
        "damaged_entries": 0,
        "passes": 1,
        "is_structure_checked": True,
    }
    assert store.ledger.gap() is None


async def test_rot_of_old_entries_does_not_keep_a_replica_from_starting(folder: Path) -> None:
    damage(folder, "UPDATE ledger SET body = zeroblob(8) WHERE position IN (70, 71, 150)")
    store = Store(folder, CLUSTER, "node0")
    store.agree_ledger(COUNT, HISTORY[-MORE - 1].head)
    assert store.ledger.gap() is None
    scrub = Scrub(store)
    task = scrub.start()
    await wait_until(lambda: scrub.progress.passes == 1, "a pass")
    assert scrub.progress.damaged_entries == 3
    assert store.ledger.missing() == 3
    _fetch(store)
    assert store.ledger.entries(1, 1000) == HISTORY[:COUNT]
    assert not task.done()
    await scrub.close()
    store.close()


async def test_what_rots_later_and_is_met_is_looked_into(store: Store) -> None:
    scrub = Scrub(store)
    scrub.start()
    await wait_until(lambda: scrub.progress.passes == 1, "a pass")
    store._database.execute("UPDATE ledger SET body = zeroblob(8) WHERE position = 31")
    assert store.ledger.find_statement(_build(31)) is None
    await wait_until(lambda: store.ledger.missing() == 1, "the gap")
    await scrub.close()
    _fetch(store)
    assert store.ledger.find_statement(_build(31)) == _statement(31)


def _break_ballots(folder: Path) -> None:
    """A page that a start does not look at says that it is something else."""
    database = sqlite3.connect(folder / DATABASE_NAME)
    (root,) = database.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'ballots'"
    ).fetchone()
    (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    with (folder / DATABASE_NAME).open("r+b") as file:
        file.seek((root - 1) * page_bytes)
        file.write(b"\xff")


async def test_a_broken_structure_ends_the_node_and_the_next_start_tells(folder: Path) -> None:
    _break_ballots(folder)
    store = Store(folder, CLUSTER, "node0")
    with pytest.raises(StoreDamaged, match=f"{DATABASE_NAME}: its structure is broken"):
        await Scrub(store).start()
    store.close()
    assert (folder / MARKER_NAME).exists()
    with pytest.raises(StoreDamaged, match="structure"):
        Store(folder, CLUSTER, "node0")
    assert (folder / MARKER_NAME).exists()


async def test_whoever_meets_a_broken_page_ends_the_node(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.storage.scrub.check_all", lambda connection: None)
    _break_ballots(folder)
    store = Store(folder, CLUSTER, "node0")
    task = Scrub(store).start()
    with pytest.raises(StoreDamaged):
        store.ballots.of(_build(4))
    with pytest.raises(StoreDamaged, match="cannot be read"):
        await task
    store.close()
    with pytest.raises(StoreDamaged):
        Store(folder, CLUSTER, "node0")


def test_a_doubt_that_proves_wrong_is_settled(folder: Path) -> None:
    (folder / MARKER_NAME).touch()
    damage(folder, "UPDATE ledger SET body = zeroblob(8) WHERE position = 31")
    store = Store(folder, CLUSTER, "node0")
    assert store.ledger.missing() == 1
    assert not (folder / MARKER_NAME).exists()
    store.close()


async def test_a_disk_that_refuses_is_asked_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["unable to get the page. error code=10"])
    monkeypatch.setattr("node.storage.scrub.check_all", lambda connection: next(answers, None))
    real = store.repair_ledger
    refusals = iter([SaveFailed("the disk is full")])

    def repair(step: WalkStep) -> int:
        for refusal in refusals:
            raise refusal
        return real(step)

    monkeypatch.setattr(store, "repair_ledger", repair)
    scrub = Scrub(store)
    task = scrub.start()
    await wait_until(lambda: scrub.progress.passes == 1, "a pass")
    assert not task.done()
    await scrub.close()


async def test_it_is_broken_off_at_once(store: Store) -> None:
    for _ in range(5):
        scrub = Scrub(store)
        task = scrub.start()
        await asyncio.sleep(0)
        await scrub.close()
        assert task.cancelled()
        assert scrub.progress.passes == 0


async def test_a_fault_of_our_own_in_the_thread_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(connection: sqlite3.Connection) -> str | None:
        raise MemoryError

    monkeypatch.setattr("node.storage.scrub.check_all", check)
    async with asyncio.timeout(10):
        with pytest.raises(MemoryError):
            await Scrub(store).start()


async def test_what_begins_late_is_broken_off_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine, where a thread of the lowest priority has to wait for its turn."""

    was_interrupted = threading.Event()
    join = threading.Thread.join

    def check(connection: sqlite3.Connection) -> str | None:
        assert was_interrupted.wait(60)
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT max(i) FROM n"
        return str(connection.execute(endless).fetchone())

    def join_and_tell(thread: threading.Thread, timeout: float | None = None) -> None:
        # what waits for the thread has interrupted nothing: the query is not there yet
        join(thread, timeout)
        if thread.name == "structure check":
            was_interrupted.set()

    monkeypatch.setattr("node.storage.scrub.check_all", check)
    monkeypatch.setattr(threading.Thread, "join", join_and_tell)
    scrub = Scrub(store)
    task = scrub.start()
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await scrub.close()
    assert task.cancelled()


# --- definitions --------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [("INTEGER", "INTEGDR"), ("position", "pisition")])
@pytest.mark.parametrize("table", ["ledger", "records", "own_requests", "ballots"])
def test_a_definition_that_rotted_is_damage(folder: Path, table: str, old: str, new: str) -> None:
    database = sqlite3.connect(folder / DATABASE_NAME)
    database.execute("PRAGMA writable_schema = ON")
    with database:
        changed = database.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = ?", (old, new, table)
        )
        assert changed.rowcount == 1
        (text,) = database.execute(
            "SELECT sql FROM sqlite_schema WHERE name = ?", (table,)
        ).fetchone()
    database.close()
    if new not in text:
        Store(folder, CLUSTER, "node0").close()
        return
    with pytest.raises(StoreDamaged, match=DATABASE_NAME):
        Store(folder, CLUSTER, "node0")


def test_a_store_without_the_later_index_gets_it(folder: Path) -> None:
    damage(folder, "DROP INDEX own_requests_pending")
    Store(folder, CLUSTER, "node0").close()
    database = sqlite3.connect(folder / DATABASE_NAME)
    found = database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'own_requests_pending'")
    assert found.fetchone()
    database.close()


# --- free pages ---------------------------------------------------------------------------------


def _free_list(data: bytes | bytearray) -> tuple[int, int]:
    """Where the first trunk is in the file, and how many leaves it has."""
    trunk = int.from_bytes(data[32:36], "big")
    place = (trunk - 1) * 4096
    return place, int.from_bytes(data[place + 4 : place + 8], "big")


@pytest.mark.parametrize("page", [1, 2, 3, 5, 2**31])
def test_a_page_in_use_is_not_taken_for_a_free_one(folder: Path, page: int) -> None:
    """Whatever is written next would go over it."""
    data = bytearray((folder / DATABASE_NAME).read_bytes())
    place, leaves = _free_list(data)
    assert leaves > 2
    data[place + 12 : place + 16] = page.to_bytes(4, "big")
    (folder / DATABASE_NAME).write_bytes(bytes(data))
    with pytest.raises(StoreDamaged, match="free"):
        Store(folder, CLUSTER, "node0")


def test_a_page_that_is_free_twice_or_lost_is_noticed(folder: Path) -> None:
    whole = (folder / DATABASE_NAME).read_bytes()
    place, leaves = _free_list(whole)
    twice, lost = bytearray(whole), bytearray(whole)
    twice[place + 12 : place + 16] = whole[place + 8 : place + 12]
    lost[place + 4 : place + 8] = (leaves - 1).to_bytes(4, "big")
    for data in (twice, lost):
        (folder / DATABASE_NAME).write_bytes(bytes(data))
        with pytest.raises(StoreDamaged, match="free"):
            Store(folder, CLUSTER, "node0")


def test_an_older_file_without_a_pointer_map_is_looked_at_as_a_whole(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / DATABASE_NAME)
    database.execute("PRAGMA auto_vacuum = NONE")
    database.execute("VACUUM")
    database.execute("CREATE TABLE other (value INTEGER)")
    file = StoreFile(tmp_path / DATABASE_NAME)
    with pytest.raises(CannotTell):
        file.check_free_pages()
    assert check_at_start(database, file) is None
    database.close()
    file.close()
