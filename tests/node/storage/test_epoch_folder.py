"""node.storage.epoch_folder: what goes over from one epoch's store to the next."""

from pathlib import Path

import msgspec
import pytest

from ci.ledger import AppendEntry, encode_entry, genesis_head, next_head
from ci.state_partitions import LEDGER_PART, ChainPart
from common.epoch_folder import BEGIN_NAME, LINK_NAME, UNFINISHED
from node.storage import epoch_folder
from node.storage.damage import StoreDamaged, StoreNotOurs
from node.storage.epoch_folder import read_begin, read_state, take_over
from node.storage.store import DATABASE_NAME, Store
from pbft.certificates import StableCertificate, state_digest
from pbft.epoch_link import EpochLink, decode_link
from pbft.genesis import Cluster
from pbft.ports import Entry
from tests.ci.builders import cluster_of

FIRST = cluster_of()
COUNT = 7


def chain(count: int = COUNT) -> list[Entry]:
    """A ledger of the first epoch."""
    head, entries = genesis_head(FIRST.lineage), []
    for index in range(1, count + 1):
        body = encode_entry(AppendEntry("gateway", f"{index}", index, "00" * 32))
        head = next_head(head, index, body)
        entries.append(Entry(index, body, head))
    return entries


def state(entries: list[Entry]) -> dict[str, bytes]:
    """The part of a state that a store reads."""
    end = entries[-1]
    return {LEDGER_PART: msgspec.msgpack.encode(ChainPart(end.index, end.head)), "epoch": bytes(8)}


def later(parts: dict[str, bytes]) -> Cluster:
    return FIRST.succeeded_by(cluster_of(7).genesis, 128, state_digest(parts))


def test_a_store_of_a_later_epoch_has_the_ledger_and_nothing_that_was_said(tmp_path: Path) -> None:
    entries = chain()
    parts = state(entries)
    cluster = later(parts)
    folder = take_over(tmp_path, cluster, "replica-0", parts=parts, entries=iter(entries))
    assert folder == tmp_path / "epoch-1"
    assert read_begin(tmp_path, cluster) == parts
    store = Store(folder, cluster.id, "replica-0", lineage=cluster.lineage)
    assert store.ledger.entries(1, 100) == entries
    assert store.ledger.missing() == 0
    assert store.records() == []
    store.close()
    with pytest.raises(StoreNotOurs, match="belongs to another cluster"):
        Store(folder, FIRST.id, "replica-0")
    # again, after a crash behind it: nothing changes
    assert take_over(tmp_path, cluster, "replica-0", parts=parts, entries=iter(())) == folder


def test_what_is_not_given_of_the_ledger_is_a_gap(tmp_path: Path) -> None:
    entries = chain()
    parts = state(entries)
    cluster = later(parts)
    folder = take_over(tmp_path, cluster, "new", parts=parts, entries=iter(entries[:3]))
    store = Store(folder, cluster.id, "new", lineage=cluster.lineage)
    assert store.ledger.end() == (COUNT, entries[-1].head)
    gap = store.next_gap()
    assert gap is not None
    assert (gap.first, gap.last, gap.head_after) == (4, COUNT, entries[-1].head)
    store.agree_ledger(COUNT, entries[-1].head)
    store.close()


def test_a_crash_leaves_a_folder_that_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = chain()
    parts = state(entries)
    cluster = later(parts)

    def fail(folder: Path, parts: object, **rest: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(epoch_folder, "_write_begin", fail)
        with pytest.raises(OSError, match="full"):
            take_over(tmp_path, cluster, "replica-0", parts=parts, entries=iter(entries))
    assert [file.name for file in tmp_path.iterdir()] == [f"epoch-1{UNFINISHED}"]
    with pytest.raises(StoreNotOurs, match="run `succeed`"):
        read_begin(tmp_path, cluster)
    folder = take_over(tmp_path, cluster, "replica-0", parts=parts, entries=iter(entries))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch-1"]
    assert (folder / DATABASE_NAME).exists()


def test_only_the_state_that_the_ancestry_names_is_taken(tmp_path: Path) -> None:
    parts = state(chain())
    cluster = later(parts)
    file = tmp_path / "state"
    file.write_bytes(msgspec.msgpack.encode({**parts, "epoch": bytes(7) + b"\1"}))
    with pytest.raises(StoreDamaged, match="not the state that epoch 1 begins with"):
        read_state(file, cluster)
    file.write_bytes(b"\xc1")
    with pytest.raises(StoreDamaged, match="holds no state"):
        read_state(file, cluster)
    file.write_bytes(msgspec.msgpack.encode(parts))
    assert read_state(file, cluster) == parts


def test_a_recovery_that_began_keeps_its_marker_and_gets_the_state(tmp_path: Path) -> None:
    entries = chain()
    parts = state(entries)
    cluster = later(parts)
    folder = tmp_path / "epoch-1"
    folder.mkdir()
    (folder / "recovery-begun").touch()
    take_over(tmp_path, cluster, "replica-0", parts=parts, entries=iter(entries))
    assert sorted(file.name for file in folder.iterdir()) == [BEGIN_NAME, "recovery-begun"]
    assert read_begin(tmp_path, cluster) == parts


def test_the_first_epoch_begins_with_no_file(tmp_path: Path) -> None:
    assert read_begin(tmp_path, FIRST) is None


def test_a_begin_state_that_rotted_is_no_reason_to_recover(tmp_path: Path) -> None:
    """The store beside it is whole: it must not be moved away as damaged."""
    entries = chain()
    parts = state(entries)
    cluster = later(parts)
    folder = take_over(tmp_path, cluster, "replica-0", parts=parts, entries=iter(entries))
    (folder / BEGIN_NAME).write_bytes(b"rotten")
    with pytest.raises(StoreNotOurs, match="move it away and run `succeed --from`"):
        read_begin(tmp_path, cluster)
    (folder / BEGIN_NAME).unlink()
    take_over(tmp_path, cluster, "replica-0", parts=parts, entries=iter(()))
    assert read_begin(tmp_path, cluster) == parts
    store = Store(folder, cluster.id, "replica-0", lineage=cluster.lineage)
    assert store.ledger.entries(1, 100) == entries
    store.close()


def test_a_member_of_the_epoch_before_keeps_what_leads_to_this_one(tmp_path: Path) -> None:
    """Also where the folder is there already, because a recovery began in it."""
    parts = state(chain())
    cluster = later(parts)
    link = EpochLink.of(cluster, StableCertificate(128, state_digest(parts), ()), parts)

    def take(data: Path, link: EpochLink | None) -> Path:
        data.mkdir()
        return take_over(data, cluster, "replica-0", parts=parts, entries=iter(()), link=link)

    without = take(tmp_path / "new member", None)
    assert not (without / LINK_NAME).exists()
    folder = take(tmp_path / "member", link)
    assert decode_link((folder / LINK_NAME).read_bytes()) == link
    assert (folder / BEGIN_NAME).read_bytes() == (without / BEGIN_NAME).read_bytes()
    for name in (BEGIN_NAME, LINK_NAME):
        (folder / name).unlink()
    take_over(tmp_path / "member", cluster, "replica-0", parts=parts, entries=iter(()), link=link)
    assert decode_link((folder / LINK_NAME).read_bytes()) == link
