"""node/backup.py: what a node's backup holds, and what a restore refuses or marks first."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.backups.backup_file import Backup, new_backup
from common.backups.commands import CLUSTER_FILE, MEMBER_FILE, PRIVATE_KEY_FILE
from common.configuration.config import NodeConfig
from common.configuration.keys import load_signing_key
from common.configuration.process_file import ProcessFile
from common.epoch_folder import BEGIN_NAME, epoch_folder
from common.membership.confirmation import read_cluster
from node import main
from node.backup import is_node_data
from node.storage.recovery_files import DAMAGED_NAME, MARKER_NAME
from node.storage.store import DATABASE_NAME, REDO_NAME, Store
from scripts.configuration import DataFolders, Ports, make_missing_keys, write_configuration

BUILD = "ab" * 32
KEPT = f"builds/{BUILD}-7"
RUNNING = f"builds/{BUILD}-8"
LOG_TIME = 1_700_000_000


class Place:
    """A machine with one node's files; the node of another number is another member."""

    def __init__(self, folder: Path, replicas: int = 4) -> None:
        configuration = write_configuration(
            folder / "config",
            ["https://example.org/r.git"],
            DataFolders(folder / "log", folder / "keys", folder / "data"),
            ports=Ports.above(10000, replicas),
        )
        make_missing_keys(configuration)
        self.folder = folder
        self.nodes = configuration.nodes

    @property
    def node(self) -> NodeConfig:
        return self.nodes[0]

    def fill(self) -> None:
        """A store as a node makes it, a build that ended, and one that runs."""
        data = self.node.data_directory
        _, cluster = read_cluster(self.node.cluster_file)
        Store(data, cluster.id, self.node.name).close()
        (data / KEPT / "artifacts").mkdir(parents=True)
        (data / KEPT / "log").write_text("what it printed")
        (data / KEPT / "tests.json").write_text("{}")
        (data / KEPT / "artifacts" / "index.json").write_text("[]")
        (data / KEPT / "artifacts" / ("cd" * 32)).write_text("made")
        os.utime(data / KEPT / "log", (LOG_TIME, LOG_TIME))
        (data / RUNNING / "work").mkdir(parents=True)
        (data / RUNNING / "log").write_text("so far")

    def lose(self) -> None:
        """The disk dies: data, configuration and keys."""
        for name in ("data", "config", "keys"):
            shutil.rmtree(self.folder / name)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "machine")
    place.fill()
    return place


def backup_of(place: Place, *flags: str) -> Path:
    file = place.folder.parent / "backup.tar"
    command = ["--config", str(place.node.file), "backup", "--output", str(file), *flags]
    assert main.main(command) == 0
    return file


def restore(place: Place, file: Path, *flags: str) -> int:
    return main.main(["restore", str(file), "--config", str(place.node.file), *flags])


def refusal(place: Place, file: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line with which a restore ends."""
    capsys.readouterr()
    assert restore(place, file, *flags) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def files_below(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def names_in(file: Path) -> set[str]:
    with Backup(file, lambda name: True) as backup:
        return set(backup.files)


def test_it_holds_no_record_and_no_secret_that_was_not_asked_for(place: Place) -> None:
    key = place.node.private_key_file.read_bytes()
    file = backup_of(place, "--with-logs")
    public = {f"configuration/public-keys/{name}.pem" for name in PUBLIC}
    assert names_in(file) == {
        MEMBER_FILE,
        CLUSTER_FILE,
        f"data/{KEPT}/log",
        f"data/{KEPT}/tests.json",
        f"data/{KEPT}/artifacts/index.json",
        f"data/{KEPT}/artifacts/{'cd' * 32}",
        *public,
    }
    assert key.splitlines()[1] not in file.read_bytes()
    file.unlink()
    assert names_in(backup_of(place)) == {MEMBER_FILE, CLUSTER_FILE, *public}
    file.unlink()
    assert PRIVATE_KEY_FILE in names_in(backup_of(place, "--with-private-key"))
    assert file.stat().st_mode & 0o777 == 0o600


PUBLIC = ("node0", "node1", "node2", "node3", "client", "operator")


def test_a_folder_gets_a_name_with_member_and_time(place: Place, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    command = ["--config", str(place.node.file), "backup", "--output", str(tmp_path / "kept")]
    assert main.main(command) == 0
    (made,) = (tmp_path / "kept").iterdir()
    assert made.name.startswith("node0-20")
    assert made.name.endswith("Z.pbft-ci-backup.tar")


def test_a_lost_machine_is_restored_and_recovers(place: Place) -> None:
    file = backup_of(place, "--with-logs", "--with-private-key")
    before = files_below(place.folder)
    place.lose()
    assert restore(place, file) == 0
    after = files_below(place.folder)
    data = "data/node0"
    new = {name for name in after if name not in before}
    assert new == {f"{data}/{MARKER_NAME}"}, "the next start recovers"
    gone = {name for name in before if name not in after}
    assert {f"{data}/{DATABASE_NAME}", f"{data}/{REDO_NAME}"} <= gone
    assert {name: data for name, data in before.items() if name in after} == {
        name: data for name, data in after.items() if name in before
    }
    assert load_signing_key(place.node.private_key_file)
    kept = place.node.data_directory / KEPT
    for path in (kept, kept / "log"):
        assert path.stat().st_mode & 0o077 == 0
    assert (kept / "log").stat().st_mtime == LOG_TIME
    assert not (place.node.data_directory / RUNNING).exists()


def test_one_that_is_cut_off_can_only_recover(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = backup_of(place, "--with-logs", "--with-private-key")
    place.lose()

    def refuse(*_: object) -> bool:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr("node.backup.write_stored", refuse)
        assert "cannot be restored (no space left)" in refusal(place, file, capsys)
    assert (place.node.data_directory / MARKER_NAME).exists()
    assert not place.node.file.exists()
    assert restore(place, file) == 0
    assert (place.node.data_directory / KEPT / "log").exists()


def test_without_the_key_it_says_so(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    file = backup_of(place)
    place.lose()
    assert restore(place, file) == 0
    assert f"{place.node.private_key_file}: is missing" in capsys.readouterr().out


def test_a_store_that_is_there_is_only_replaced_if_the_operator_says_so(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    file = backup_of(place, "--with-logs")
    before = files_below(place.folder)
    assert "start the node, which needs no backup then" in refusal(place, file, capsys)
    assert files_below(place.folder) == before
    (place.node.data_directory / KEPT / "log").write_text("newer")
    before = files_below(place.folder)
    assert restore(place, file, "--replace") == 0
    after = files_below(place.folder)
    data = "data/node0"
    moved = {
        f"{data}/{name}": f"{data}/{DAMAGED_NAME}/{name}" for name in (DATABASE_NAME, REDO_NAME)
    }
    expected = {moved.get(name, name): content for name, content in before.items()}
    assert after == expected | {f"{data}/{MARKER_NAME}": b""}


def test_a_backup_with_records_is_refused(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody who helps a replica to its old records makes it contradict itself."""
    good = backup_of(place)
    with Backup(good, lambda name: True) as backup:
        header = backup.header
        contents = {stored.name: b"".join(parts) for stored, parts in backup.contents()}
    for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal", REDO_NAME, MARKER_NAME, "process.json"):
        forged = tmp_path / f"{name}.tar"
        with new_backup(forged, header) as writer:
            for path, data in contents.items():
                writer.add_bytes(path, data)
            writer.add_bytes(f"data/{name}", b"records")
        place.node.data_directory.rename(tmp_path / "away")
        told = refusal(place, forged, capsys)
        assert f"has data/{name}, which does not belong in a backup" in told
        assert not place.node.data_directory.exists()
        (tmp_path / "away").rename(place.node.data_directory)


def test_a_replica_that_has_begun_a_later_epoch_recovers_there(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    file = backup_of(place)
    later = epoch_folder(place.node.data_directory, 2)
    later.mkdir()
    (later / BEGIN_NAME).write_text("the state")
    _, cluster = read_cluster(place.node.cluster_file)
    Store(later, cluster.id, place.node.name).close()
    assert f"{later / DATABASE_NAME} is there" in refusal(place, file, capsys)
    assert restore(place, file, "--replace") == 0
    assert (later / MARKER_NAME).exists()
    assert (later / DAMAGED_NAME / DATABASE_NAME).exists()
    assert not (place.node.data_directory / MARKER_NAME).exists()


@pytest.mark.parametrize(
    "name",
    [
        f"{KEPT}/work/tree.tar",
        f"{KEPT}/artifacts/../../../{DATABASE_NAME}",
        f"{KEPT}/artifacts/x",
        f"{KEPT}/tests.json.new",
        f"builds/../{DATABASE_NAME}",
        "statuses.sqlite3",
        f"{KEPT}/log\n",
    ],
)
def test_only_what_a_build_left_is_data(name: str) -> None:
    assert not is_node_data(name)


def other_member(place: Place) -> NodeConfig:
    return place.nodes[1]


def other_cluster(place: Place) -> NodeConfig:
    other = Place(place.folder.parent / "other")
    shutil.rmtree(other.folder / "data", ignore_errors=True)
    return other.node


@pytest.mark.parametrize(
    ("whose", "reason"),
    [(other_member, "is the backup of node0, and "), (other_cluster, "is of the cluster ")],
)
def test_anothers_backup_is_refused_and_nothing_changes(
    place: Place,
    whose: Callable[[Place], NodeConfig],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = backup_of(place)
    config = whose(place)
    before = files_below(place.folder.parent)
    capsys.readouterr()
    assert main.main(["restore", str(file), "--config", str(config.file)]) == 2
    assert reason in capsys.readouterr().err
    assert files_below(place.folder.parent) == before


def test_while_the_node_runs_nothing_is_restored(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    file = backup_of(place)
    process = ProcessFile(place.node.data_directory)
    assert "serves from here; stop it first" in refusal(place, file, capsys, "--replace")
    process.close()


def test_one_of_f_0_cannot_be_restored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(tmp_path / "machine", replicas=1)
    place.fill()
    file = backup_of(place)
    place.lose()
    assert "start a new cluster" in refusal(place, file, capsys)
    assert not place.node.file.exists()


def test_a_disk_that_is_too_small_is_seen_before_anything_is_written(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = backup_of(place)
    place.lose()
    monkeypatch.setattr("common.backups.commands.FREE_BYTES_MIN", 2**62)
    assert "bytes are free" in refusal(place, file, capsys)
    assert not files_below(place.folder)


def test_a_cluster_file_that_is_not_the_headers_leaves_nothing_of_it(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = backup_of(place)
    with Backup(good, lambda name: True) as backup:
        header = backup.header
        contents = {stored.name: b"".join(parts) for stored, parts in backup.contents()}
    forged = tmp_path / "forged.tar"
    with new_backup(forged, header) as writer:
        for path, data in contents.items():
            writer.add_bytes(path, data + b"client_window: 64\n" * (path == CLUSTER_FILE))
    place.lose()
    assert "is of the cluster" in refusal(place, forged, capsys)
    assert set(files_below(place.folder)) == {f"data/node0/{MARKER_NAME}"}, "and it recovers"
