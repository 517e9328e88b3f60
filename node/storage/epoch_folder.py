"""Where the records of an epoch are, and the state that it begins with (docs/decisions/0058).

The rule: each epoch has a store of its own, and the stores of those before are only read. A later
epoch has a folder that holds, beside its store, the parts of the state at the end of the one
before. They count only if they have the digest that the cluster's ancestry names.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from ci.state_partitions import ledger_position
from common.epoch_folder import (
    BEGIN_NAME,
    CLUSTER_NAME,
    LINK_NAME,
    UNFINISHED,
    epoch_folder,
    forget_if_passed,
)
from node.storage import folders, recovery_files
from node.storage.damage import StoreDamaged, StoreNotOurs
from node.storage.store import Store
from pbft.certificates import state_digest
from pbft.epoch_link import EpochLink
from pbft.genesis import Cluster
from pbft.ports import Entry, SavedEntry

# More than any state has (`ci.admission.room_refusal`).
BEGIN_BYTES_MAX = 2 * 1024 * 1024 * 1024
# What is copied of a ledger in one transaction.
COPIED_ENTRIES = 500


def read_begin(data_directory: Path, cluster: Cluster) -> Mapping[str, bytes] | None:
    """The state that this epoch begins with; None for epoch 0, which begins with none.

    Raises StoreNotOurs where it was not taken over yet, or is another one: the store beside it may
    be whole, so that is no reason to recover. Raises OSError.
    """
    if cluster.ancestry is None:
        return None
    file = epoch_folder(data_directory, cluster.epoch) / BEGIN_NAME
    if not file.exists():
        raise StoreNotOurs(
            f"{file} is missing: this node has not taken over epoch {cluster.epoch}; run `succeed`"
        )
    try:
        return read_state(file, cluster)
    except StoreDamaged as error:
        raise StoreNotOurs(f"{error}: move it away and run `succeed --from`") from error


def read_state(file: Path, cluster: Cluster) -> Mapping[str, bytes]:
    """The state in a file, if it is what the cluster's ancestry names.

    Raises StoreDamaged where it is not, and OSError.
    """
    assert cluster.ancestry is not None
    if file.stat().st_size > BEGIN_BYTES_MAX:
        raise StoreDamaged(f"{file} is larger than a state can be")
    try:
        parts = msgspec.msgpack.decode(file.read_bytes(), type=dict[str, bytes])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreDamaged(f"{file} holds no state ({error})") from error
    if state_digest(parts) != cluster.ancestry.state:
        raise StoreDamaged(
            f"{file} is not the state that epoch {cluster.epoch} begins with; take begin-state of"
            " another member"
        )
    return parts


def take_over(  # noqa: PLR0913 - all that the folder holds
    data_directory: Path,
    cluster: Cluster,
    name: str,
    *,
    parts: Mapping[str, bytes],
    entries: Iterator[Entry],
    link: EpochLink | None = None,
    cluster_file: str | None = None,
    has_forgotten: bool = False,
) -> Path:
    """Make the store of a later epoch; the folder, which is there complete or not at all.

    parts: the state that it begins with. entries: the ledger up to there, from the first entry on,
    as far as it is here: the rest is fetched from other replicas. link: what leads here from the
    epoch before; None: this member was not in that one. cluster_file: the text of the cluster file;
    None: the configuration names it. has_forgotten: this replica may have voted in that epoch and
    forgotten it, so it recovers there. If the folder is there, only the link, that file and the
    state are put into it, where the state is missing: a recovery may have begun there. Raises
    OSError, StoreUnusable, SaveFailed.
    """
    folder = epoch_folder(data_directory, cluster.epoch)
    forget_if_passed(folder)
    if folder.exists():
        if not (folder / BEGIN_NAME).exists():
            if has_forgotten:
                recovery_files.note_begun(folder)
            _write_begin(folder, parts, link=link, cluster_file=cluster_file)
        return folder
    unfinished = folder.with_name(folder.name + UNFINISHED)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    store = Store(unfinished, cluster.id, name, lineage=cluster.lineage)
    try:
        chunk: list[SavedEntry] = []
        for entry in entries:
            chunk.append(SavedEntry(entry))
            if len(chunk) == COPIED_ENTRIES:
                store.save(chunk, [])
                chunk = []
        if chunk:
            store.save(chunk, [])
        store.note_ledger_position(*ledger_position(parts))
    finally:
        store.close()
    if has_forgotten:
        recovery_files.note_begun(unfinished)
    _write_begin(unfinished, parts, link=link, cluster_file=cluster_file)
    unfinished.rename(folder)
    folders.sync(data_directory)
    return folder


def _write_begin(
    folder: Path,
    parts: Mapping[str, bytes],
    *,
    link: EpochLink | None,
    cluster_file: str | None,
) -> None:
    # The state last: a folder that has it is complete.
    if link is not None:
        _write(folder / LINK_NAME, msgspec.msgpack.encode(link))
    if cluster_file is not None:
        _write(folder / CLUSTER_NAME, cluster_file.encode())
    _write(folder / BEGIN_NAME, msgspec.msgpack.encode(dict(sorted(parts.items()))))


def _write(file: Path, data: bytes) -> None:
    """Write a file that is there complete or not at all."""
    unfinished = file.with_name(file.name + UNFINISHED)
    with open(unfinished, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.rename(file)
    folders.sync(file.parent)
