"""The store gives back what it saved, cuts a torn tail, and refuses damage by name."""

import hashlib
import sqlite3
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from ci.ballots import ReplicaRequest
from ci.ledger import genesis_head
from driver.ports import SaveFailed
from node.storage.damage import StoreDamaged, StoreNotOurs
from node.storage.redo_log import AREA_BYTES, AREAS, CONTENT_BYTES_MAX, COPIES, PAGE_BYTES, RedoLog
from node.storage.schema import FORMAT_VERSION
from node.storage.store import DATABASE_NAME, REDO_NAME, Store
from pbft.codec import digest_of
from pbft.messages import PreparedCertificate, Signed
from pbft.ports import (
    CheckpointRecord,
    Evidence,
    Executed,
    SavedBody,
    SavedEntry,
    SavedMessage,
    SavedPrepared,
    SavedRecovery,
)
from tests.node.chains import chain_of, ledger_parts, page_of

CLUSTER = bytes(range(32))


def _open(folder: Path, cluster: bytes = CLUSTER, replica: str = "node0") -> Store:
    return Store(folder, cluster, replica)


def _signed(number: int) -> Signed:
    return Signed("node0", b"payload %d" % number, bytes(64))


def _message(number: int) -> SavedMessage:
    return SavedMessage(_signed(number))


def damage(folder: Path, statement: str) -> None:
    database = sqlite3.connect(folder / DATABASE_NAME)
    with database:
        database.execute(statement)
    database.close()


def test_records_come_back_in_order(tmp_path: Path) -> None:
    store = _open(tmp_path)
    prepared = SavedPrepared(PreparedCertificate(_signed(7), (_signed(8), _signed(9))))
    executed = Executed(1, digest_of(b"body"), (_signed(4), _signed(5)))
    store.save([_message(1), prepared, executed], [])
    store.save([SavedRecovery(bytes(32)), _message(2)], [])
    store.close()
    assert _open(tmp_path).records() == [
        _message(1),
        prepared,
        executed,
        SavedRecovery(bytes(32)),
        _message(2),
    ]


def test_bodies_and_ballots_come_back(tmp_path: Path) -> None:
    store = _open(tmp_path)
    body = b"body"
    store.save([SavedBody(7, digest_of(body), body)], [(bytes(32), 7, "node1", _signed(1))])
    store.close()
    store = _open(tmp_path)
    assert store.bodies() == {digest_of(body): body}
    assert store.ballots.of(bytes(32)) == [(7, "node1", _signed(1))]


def test_a_base_forgets_what_is_older_but_not_the_ledger(tmp_path: Path) -> None:
    store = _open(tmp_path)
    (entry,) = chain_of(CLUSTER, 1)
    base = CheckpointRecord(8, 4, (), {"part": b"x", **ledger_parts(1, entry.head)})
    bodies = [SavedBody(n, digest_of(b"%d" % n), b"%d" % n) for n in (4, 5)]
    store.save([_message(1), SavedEntry(entry), *bodies], [])
    store.save([base, _message(2)], [])
    store.close()
    store = _open(tmp_path)
    assert store.records() == [base, _message(2)]
    assert list(store.bodies().values()) == [b"5"]
    assert store.ledger.entries(1, 10) == [entry]
    store.agree_ledger(1, entry.head)
    with pytest.raises(StoreDamaged, match="ledger"):
        store.agree_ledger(2, entry.head)


@pytest.mark.parametrize("column", ["digest", "body"])
def test_a_body_that_became_text_is_none(tmp_path: Path, column: str) -> None:
    """One bit of a row's header says so, and SQLite's own check finds nothing wrong with it."""
    wrong, right = b"\xff\xfe no text", b"body"
    store = _open(tmp_path)
    store.save([SavedBody(1, digest_of(body), body) for body in (wrong, right)], [])
    store.close()
    rotten = digest_of(wrong).hex()
    damage(
        tmp_path, f"UPDATE bodies SET {column} = CAST({column} AS TEXT) WHERE digest = x'{rotten}'"
    )
    assert _open(tmp_path).bodies() == {digest_of(right): right}


def test_a_body_under_several_numbers_is_kept_for_the_highest(tmp_path: Path) -> None:
    store = _open(tmp_path)
    digest = digest_of(b"body")
    store.save([SavedBody(9, digest, b"body"), SavedBody(4, digest, b"body")], [])
    empty = ledger_parts(0, genesis_head(CLUSTER))
    store.save([CheckpointRecord(8, 8, (), empty)], [])
    assert store.bodies() == {digest: b"body"}
    store.save([CheckpointRecord(16, 16, (), empty)], [])
    assert store.bodies() == {}


def test_a_tail_above_the_mark_that_breaks_the_chain_is_cut(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.save([_message(1)], [])
    store.close()
    damage(tmp_path, "INSERT INTO records VALUES (2, x'00', x'00')")
    store = _open(tmp_path)
    assert store.records() == [_message(1)]
    store.save([_message(3)], [])
    assert store.records() == [_message(1), _message(3)]


def test_a_base_above_the_mark_is_not_cut_into(tmp_path: Path) -> None:
    """What was said before it is in its own transaction alone: without a part of that, damage."""
    store = _open(tmp_path)
    store.save([_message(1), _message(2)], [])
    mark = (tmp_path / REDO_NAME).read_bytes()
    base = CheckpointRecord(8, 4, (), ledger_parts(0, genesis_head(CLUSTER)))
    store.save([base, _message(3), _message(4)], [])
    store.close()
    (tmp_path / REDO_NAME).write_bytes(mark)  # killed between commit and mark
    damage(tmp_path, "UPDATE records SET body = zeroblob(8) WHERE position = 5")
    with pytest.raises(StoreDamaged, match="record 5 is not what was saved"):
        _open(tmp_path)


def test_half_of_a_torn_transaction_is_not_kept(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.save([_message(1)], [])
    mark = (tmp_path / REDO_NAME).read_bytes()
    store.save([_message(2), _message(3), _message(4)], [])
    store.close()
    (tmp_path / REDO_NAME).write_bytes(mark)
    damage(tmp_path, "UPDATE records SET body = zeroblob(8) WHERE position = 3")
    store = _open(tmp_path)
    assert store.records() == [_message(1)]
    store.save([_message(5)], [])
    store.close()
    assert _open(tmp_path).records() == [_message(1), _message(5)]


def test_without_a_mark_nothing_is_cut(tmp_path: Path) -> None:
    """Which records were acknowledged is not known then."""
    store = _open(tmp_path)
    store.save([_message(1)], [])
    store.save([_message(2)], [])
    store.close()
    (tmp_path / REDO_NAME).unlink()
    damage(tmp_path, "UPDATE records SET body = zeroblob(8) WHERE position = 2")
    with pytest.raises(StoreDamaged, match="record 2"):
        _open(tmp_path)


def test_what_was_committed_but_not_marked_is_kept(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.save([_message(1)], [])
    mark = (tmp_path / REDO_NAME).read_bytes()
    store.save([_message(2)], [])
    store.close()
    (tmp_path / REDO_NAME).write_bytes(mark)  # killed between commit and mark
    assert _open(tmp_path).records() == [_message(1), _message(2)]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM records WHERE position = 2",
        "DELETE FROM records",
        "UPDATE records SET body = zeroblob(8) WHERE position = 2",
        "UPDATE records SET chain = zeroblob(32) WHERE position = 3",
    ],
)
def test_damage_below_the_mark_is_an_error_that_names_the_file(
    tmp_path: Path, statement: str
) -> None:
    store = _open(tmp_path)
    store.save([_message(1)], [])
    store.save([_message(2)], [])
    store.save([_message(3)], [])
    store.close()
    damage(tmp_path, statement)
    with pytest.raises(StoreDamaged, match=DATABASE_NAME):
        _open(tmp_path)


@pytest.mark.parametrize("first", [2, 3, 7])
def test_saves_that_sqlite_lost_are_done_again(tmp_path: Path, first: int) -> None:
    """Of the records below, all since the start are in the redo log but for the first save."""
    body = b"body"
    store = _open(tmp_path)
    store.save([_message(1)], [])
    for number in range(2, 8):
        store.save([SavedBody(number, digest_of(body), body), _message(number)], [])
    store.close()
    damage(tmp_path, f"DELETE FROM records WHERE position >= {first}")
    damage(tmp_path, "DELETE FROM bodies")
    store = _open(tmp_path)
    assert store.records() == [_message(number) for number in range(1, 8)]
    assert store.bodies() == {digest_of(body): body}
    store.save([_message(8)], [])
    store.close()
    assert _open(tmp_path).records() == [_message(number) for number in range(1, 9)]


def test_a_database_of_another_history_is_damage_though_a_base_follows(tmp_path: Path) -> None:
    """The chain begins anew with a base: what was before it is compared, too."""
    base = CheckpointRecord(8, 4, (), ledger_parts(0, genesis_head(CLUSTER)))
    for folder, text in (("one", b"a"), ("other", b"b")):
        store = _open(tmp_path / folder)
        store.save([_message(1)], [])
        store.save([SavedMessage(Signed("node0", text, bytes(64)))], [])
        if folder == "other":
            store.save([base], [])
        store.close()
    (tmp_path / "one" / REDO_NAME).write_bytes((tmp_path / "other" / REDO_NAME).read_bytes())
    with pytest.raises(StoreDamaged, match="record 2 is not what the redo log says"):
        _open(tmp_path / "one")


def test_a_last_record_under_another_number_is_damage(tmp_path: Path) -> None:
    """It is missing where it was, whatever stands behind."""
    store = _open(tmp_path)
    store.save([_message(1)], [])
    store.save([_message(2)], [])
    store.close()
    damage(tmp_path, "UPDATE records SET position = 66 WHERE position = 2")
    with pytest.raises(StoreDamaged, match="record 2 is not what was saved"):
        _open(tmp_path)


def test_what_is_larger_than_the_redo_log_takes_is_flushed_in_sqlite(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.save([_message(1)], [])
    body = bytes(CONTENT_BYTES_MAX)
    store.save([SavedBody(1, digest_of(body), body), _message(2)], [])
    store.save([_message(3)], [])
    store.close()
    damage(tmp_path, "DELETE FROM records WHERE position = 3")
    _open(tmp_path).close()
    damage(tmp_path, "DELETE FROM records WHERE position >= 2")
    with pytest.raises(StoreDamaged, match="records end at 1, but 3 were saved"):
        _open(tmp_path)


def test_a_redo_log_that_gives_other_records_is_damage(tmp_path: Path) -> None:
    """Of this replica, but of another database."""
    for folder, text in (("one", b"a"), ("other", b"b")):
        store = _open(tmp_path / folder)
        store.save([SavedMessage(Signed("node0", text, bytes(64)))], [])
        store.save([_message(2)], [])
        store.close()
    (tmp_path / "one" / REDO_NAME).write_bytes((tmp_path / "other" / REDO_NAME).read_bytes())
    damage(tmp_path / "one", "DELETE FROM records WHERE position = 2")
    with pytest.raises(StoreDamaged, match="record 1 is not what the redo log says"):
        _open(tmp_path / "one")


def test_what_is_done_again_must_come_to_the_same_chain(tmp_path: Path) -> None:
    """PROTOCOL.md, What is on disk: else the records are not those that were acknowledged."""
    store = _open(tmp_path)
    store.save([_message(1)], [])
    store.save([_message(2)], [])
    store.close()
    log = RedoLog.open(tmp_path / REDO_NAME)
    mark, save = log.entries
    log.append(mark)
    log.append(msgspec.structs.replace(save, chain=bytes(32)))
    log.close()
    damage(tmp_path, "DELETE FROM records WHERE position = 2")
    with pytest.raises(StoreDamaged, match="record 2 is not what the redo log says"):
        _open(tmp_path)


def test_an_acknowledged_save_that_neither_file_has_is_damage(tmp_path: Path) -> None:
    """PROTOCOL.md, What is on disk: what was acknowledged and cannot be read is not left out."""
    store = _open(tmp_path)
    for number in range(1, 5):
        store.save([_message(number)], [])
    store.close()
    data = bytearray((tmp_path / REDO_NAME).read_bytes())
    for copy in range(COPIES):
        # both copies of the third save; of the fourth none is broken
        data[AREAS * copy * AREA_BYTES + 2 * PAGE_BYTES + 40] ^= 1
    (tmp_path / REDO_NAME).write_bytes(data)
    damage(tmp_path, "DELETE FROM records WHERE position > 2")
    with pytest.raises(StoreDamaged, match="an entry of redo-log is not what was saved"):
        _open(tmp_path)


def test_what_is_saved_beside_the_records_is_done_again_too(tmp_path: Path) -> None:
    """PROTOCOL.md, What is on disk: the chain "also counts what is saved beside them"."""
    body = b"body"
    store = _open(tmp_path)
    store.save([_message(1)], [])
    store.save([SavedBody(2, digest_of(body), body)], [(bytes(32), 7, "node1", _signed(1))])
    store.close()
    for table in ("bodies", "ballots"):
        damage(tmp_path, f"DELETE FROM {table}")
    damage(tmp_path, "DELETE FROM records WHERE position > 1")
    store = _open(tmp_path)
    assert store.bodies() == {digest_of(body): body}
    assert store.ballots.of(bytes(32)) == [(7, "node1", _signed(1))]


def test_a_lost_database_beside_its_mark_is_damage(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.save([_message(1)], [])
    store.close()
    for path in tmp_path.glob(DATABASE_NAME + "*"):
        path.unlink()
    with pytest.raises(StoreDamaged, match=DATABASE_NAME):
        _open(tmp_path)


@pytest.mark.parametrize("offset", [0, 20, 100, 4096, 8200])
def test_a_file_of_nonsense_is_damage_or_harmless(tmp_path: Path, offset: int) -> None:
    store = _open(tmp_path)
    store.save([_message(n) for n in range(50)], [])
    store.close()
    path = tmp_path / DATABASE_NAME
    data = bytearray(path.read_bytes())
    data[offset : offset + 16] = b"\xff" * 16
    path.write_bytes(bytes(data))
    try:
        records = _open(tmp_path).records()
    except StoreDamaged as error:
        told = str(error)
    else:
        told = DATABASE_NAME
        assert records == [_message(n) for n in range(50)]
    assert DATABASE_NAME in told


def test_a_truncated_write_ahead_log_is_never_taken_for_everything(tmp_path: Path) -> None:
    """What was saved and then lost is done again or noticed, at whatever byte the log was cut."""
    store = _open(tmp_path)
    for number in range(1, 6):
        store.save([_message(number)], [])
    names = [DATABASE_NAME, DATABASE_NAME + "-wal", REDO_NAME]
    copies = {name: (tmp_path / name).read_bytes() for name in names}
    store.close()
    whole = copies[DATABASE_NAME + "-wal"]
    outcomes: Counter[str] = Counter()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        folder = tmp_path / f"cut-{length}"
        folder.mkdir()
        for name, data in copies.items():
            (folder / name).write_bytes(data[:length] if name.endswith("-wal") else data)
        try:
            records = _open(folder).records()
        except StoreDamaged:
            outcomes["noticed"] += 1
        else:
            outcomes["done again"] += 1
            assert records == [_message(number) for number in range(1, 6)]
    assert set(outcomes) == {"noticed", "done again"}


def test_another_cluster_or_replica_is_refused(tmp_path: Path) -> None:
    _open(tmp_path).close()
    with pytest.raises(StoreDamaged, match="another cluster"):
        _open(tmp_path, cluster=bytes(32))
    with pytest.raises(StoreDamaged, match="another replica"):
        _open(tmp_path, replica="node1")


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (FORMAT_VERSION - 1, "carries nothing over; use the version that wrote it, or begin a new"),
        (FORMAT_VERSION + 1, "use the version of PBFT/CI that wrote it, or a newer one"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, version: int, remedy: str) -> None:
    """Not as damage: then the node would move the files away, and recover."""
    store = _open(tmp_path)
    store.save([_message(1)], [])
    store.close()
    damage(tmp_path, f"UPDATE meta SET value = '{version}' WHERE name = 'format'")
    before = _contents(tmp_path)
    with pytest.raises(StoreNotOurs) as refused:
        _open(tmp_path)
    line = str(refused.value)
    assert line.startswith(f"{tmp_path / DATABASE_NAME}: ")
    assert f"format {version}, this version reads {FORMAT_VERSION}" in line
    assert remedy in line
    assert "\n" not in line
    assert _contents(tmp_path) == before


def _contents(folder: Path) -> tuple[list[str], bytes]:
    """What the database holds, and the redo log."""
    database = sqlite3.connect(folder / DATABASE_NAME)
    rows = list(database.iterdump())
    database.close()
    return rows, (folder / REDO_NAME).read_bytes()


def test_a_redo_log_with_entries_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """Its number is the store's; but it is opened first, and such entries are no damage either."""
    store = _open(tmp_path)
    store.save([_message(1)], [])
    store.close()
    redo = tmp_path / REDO_NAME
    redo.write_bytes(_with_newer_entry(redo.read_bytes()))
    with pytest.raises(StoreNotOurs) as refused:
        _open(tmp_path)
    line = str(refused.value)
    assert line.startswith(f"{redo}: it has another format (")
    assert f"this version reads {FORMAT_VERSION}; use the version of PBFT/CI that wrote it" in line
    assert "\n" not in line
    with pytest.raises(StoreNotOurs):  # and the first attempt did not keep the lock
        _open(tmp_path)


def _with_newer_entry(data: bytes) -> bytes:
    """A redo log whose first entry is whole, in a form that this version does not know."""
    body = msgspec.msgpack.encode({"kind": "save", "of": "a newer version"})
    head = data[:28] + len(body).to_bytes(4, "big")
    frame = head + body + hashlib.sha256(head + body).digest()
    return frame.ljust(PAGE_BYTES, b"\0") + data[PAGE_BYTES:]


def test_evidence_is_saved_with_the_turn_that_found_it(tmp_path: Path) -> None:
    store = _open(tmp_path)
    evidence = Evidence(2, _signed(1), _signed(2))
    store.save([_message(1)], [], [evidence])
    store.save([], [], [evidence, Evidence(2, _signed(2), _signed(1))])
    store.close()
    store = _open(tmp_path)
    assert [kept.evidence for kept in store.evidence.page(0, 10, 10**6)] == [evidence]
    assert store.records() == [_message(1)]


def test_evidence_of_a_save_that_fails_is_saved_when_it_is_repeated(tmp_path: Path) -> None:
    store = _open(tmp_path)
    evidence = [Evidence(2, _signed(1), _signed(2))]
    other = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None, timeout=0)
    store._database.execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SaveFailed):
        store.save([], [], evidence)
    other.execute("ROLLBACK")
    other.close()
    assert store.evidence.counts() == {}
    store.save([], [], evidence)
    assert store.evidence.counts() == {2: 1}


def test_a_state_that_was_taken_over_leaves_a_gap_that_survives(tmp_path: Path) -> None:
    store = _open(tmp_path)
    entries = chain_of(CLUSTER, 12)
    store.save([SavedEntry(entry) for entry in entries[:3]], [])
    base = CheckpointRecord(64, 56, (), ledger_parts(10, entries[9].head))
    store.save([base, *[SavedEntry(entry) for entry in entries[10:]]], [])
    store.close()
    store = _open(tmp_path)
    store.agree_ledger(12, entries[11].head)
    gap = store.ledger.gap()
    assert gap is not None
    assert (gap.first, gap.last, gap.missing) == (4, 10, 7)
    assert (gap.head_before, gap.head_after) == (entries[2].head, entries[9].head)
    assert store.fill_gap(gap, page_of(CLUSTER, entries, 4, 10))
    assert store.ledger.entries(1, 100) == entries
    store.close()
    assert _open(tmp_path).ledger.gap() is None


def test_entries_beyond_what_was_executed_are_dropped_at_the_start(tmp_path: Path) -> None:
    """They stood in one transaction with records that were cut as a torn tail."""
    store = _open(tmp_path)
    entries = chain_of(CLUSTER, 5)
    store.save([SavedEntry(entry) for entry in entries], [])
    store.agree_ledger(3, entries[2].head)
    assert store.ledger.entries(1, 10) == entries[:3]


def test_a_wrong_ledger_is_cut_back_to_what_was_proved(tmp_path: Path) -> None:
    """A replica that executed something wrong fetches the state, and the ledger since the proof."""
    store = _open(tmp_path)
    right, wrong = chain_of(CLUSTER, 9), chain_of(CLUSTER, 9, wrong_from=5)
    store.save([SavedEntry(entry) for entry in right[:4]], [])
    store.save([CheckpointRecord(8, 0, (), ledger_parts(4, right[3].head))], [])
    store.save([SavedEntry(entry) for entry in wrong[4:]], [])
    fetched = CheckpointRecord(16, 8, (), ledger_parts(7, right[6].head))
    store.save([fetched, SavedEntry(right[7])], [])
    gap = store.ledger.gap()
    assert gap is not None
    assert (gap.first, gap.last, gap.head_before) == (5, 7, right[3].head)
    store.agree_ledger(8, right[7].head)
    assert store.fill_gap(gap, page_of(CLUSTER, right, 5, 7))
    assert store.ledger.entries(1, 100) == right[:8]


def test_entries_of_a_wrong_state_after_the_proof_are_replaced(tmp_path: Path) -> None:
    store = _open(tmp_path)
    right, wrong = chain_of(CLUSTER, 9), chain_of(CLUSTER, 9, wrong_from=7)
    store.save([SavedEntry(entry) for entry in wrong], [])
    store.save(
        [CheckpointRecord(16, 8, (), ledger_parts(6, right[5].head)), SavedEntry(right[6])],
        [],
    )
    store.agree_ledger(7, right[6].head)
    assert store.ledger.entries(1, 100) == right[:7]
    assert store.ledger.gap() is None


def test_a_save_that_fails_can_be_repeated(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.save([_message(1)], [])
    other = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None, timeout=0)
    store._database.execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SaveFailed):
        store.save([_message(2)], [])
    other.execute("ROLLBACK")
    other.close()
    store.save([_message(2)], [])
    store.close()
    assert _open(tmp_path).records() == [_message(1), _message(2)]


def test_a_mark_that_fails_is_repeated_without_saving_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _open(tmp_path)
    with monkeypatch.context() as patch:

        def no_space(*_: object) -> int:
            raise OSError(28, "No space left on device")

        patch.setattr("node.storage.redo_log.os.pwrite", no_space)
        with pytest.raises(SaveFailed):
            store.save([_message(1)], [])
    store.save([_message(1)], [])
    store.close()
    assert _open(tmp_path).records() == [_message(1)]


@pytest.mark.parametrize(
    "how",
    [
        "DELETE FROM own_requests WHERE timestamp = 2",
        "UPDATE own_requests SET signed = signed || x'00' WHERE timestamp = 2",
        "UPDATE own_requests SET timestamp = 3 WHERE timestamp = 2",
    ],
)
def test_a_lost_own_request_is_damage(tmp_path: Path, how: str) -> None:
    """Its number and its ballot would be given a second time, and otherwise."""
    store = _open(tmp_path)
    for number in (1, 2):
        store.add_own_request(ReplicaRequest(number, "ballot", bytes([number]) * 32, 5, _signed(1)))
        store.mark()
    store.forget_own_requests([1])
    store.save([CheckpointRecord(8, 4, (), ledger_parts(0, genesis_head(CLUSTER)))], [])
    store.close()
    _open(tmp_path).close()
    damage(tmp_path, how)
    with pytest.raises(StoreDamaged, match="own"):
        _open(tmp_path)


def test_damaged_ledger_entries_are_a_gap(tmp_path: Path) -> None:
    store = _open(tmp_path)
    entries = chain_of(CLUSTER, 9)
    store.save([SavedEntry(entry) for entry in entries], [])
    store.close()
    damage(tmp_path, "UPDATE ledger SET body = zeroblob(8) WHERE position = 4")
    damage(tmp_path, "DELETE FROM ledger WHERE position = 5")
    damage(tmp_path, "UPDATE ledger SET head = zeroblob(32) WHERE position = 7")
    store = _open(tmp_path)
    assert store.ledger.missing() > 0
    assert store.ledger.entries(1, 100) == entries[:3]
    store.agree_ledger(9, entries[8].head)
    while gap := store.ledger.gap():
        assert store.fill_gap(gap, page_of(CLUSTER, entries, gap.first, gap.last))
    assert store.ledger.entries(1, 100) == entries


def test_the_disk_comes_back_after_a_window_of_large_bodies(tmp_path: Path) -> None:
    store = _open(tmp_path)
    sequence = 0

    def window(body_bytes: int) -> None:
        nonlocal sequence
        for _ in range(16):
            sequence += 1
            body = sequence.to_bytes(8, "big") * (body_bytes // 8)
            store.save([SavedBody(sequence, digest_of(body), body), _message(sequence)], [])
        parts = ledger_parts(0, genesis_head(CLUSTER))
        store.save([CheckpointRecord(sequence, sequence - 8, (), parts)], [])

    def size() -> int:
        return sum(path.stat().st_size for path in tmp_path.iterdir())

    for _ in range(4):
        window(2_000_000)
    largest = size()
    for _ in range(4):
        window(2_000_000)
    assert size() < 1.2 * largest, "a window's pages are not used again by the next"
    # SQLite's own log is taken into the database after every 4 MiB.
    for _ in range(20):
        window(200_000)
    assert size() < largest / 2
    assert len(store.bodies()) == 8
    store.close()
    assert _open(tmp_path).records()


def test_own_requests_keep_their_numbers(tmp_path: Path) -> None:
    store = _open(tmp_path)
    requests = [ReplicaRequest(n, "ballot", bytes([n]) * 32, n, _signed(n)) for n in (1, 2)]
    for request in requests:
        store.add_own_request(request)
    store.forget_own_requests([1])
    store.close()
    store = _open(tmp_path)
    assert store.own_requests.pending() == requests[1:]
    assert store.own_requests.find("ballot", bytes([1]) * 32, 1) == requests[0]
    assert store.own_requests.find("ballot", bytes([1]) * 32, 2) is None
    assert store.own_requests.last_timestamp() == 2


def test_an_own_request_takes_another_number(tmp_path: Path) -> None:
    store = _open(tmp_path)
    store.add_own_request(ReplicaRequest(1, "ballot", bytes(32), 5, _signed(1)))
    again = ReplicaRequest(4, "ballot", bytes(32), 5, _signed(2))
    store.add_own_request(again, instead_of=1)
    store.close()
    store = _open(tmp_path)
    assert store.own_requests.pending() == [again]
    assert store.own_requests.last_timestamp() == 4


def test_a_number_that_cannot_be_read_is_looked_into(tmp_path: Path) -> None:
    """Else the ballot would be tried, and its build run, again and again."""
    store = _open(tmp_path)
    store._database.execute("DROP TABLE own_requests")
    with pytest.raises(StoreDamaged):
        store.own_requests.last_timestamp()
    assert store.full_check.reason is not None
    store.close()
