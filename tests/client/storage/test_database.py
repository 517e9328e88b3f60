"""client.storage.database: one owner, one format, all or nothing."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from client.storage import database as database_module
from client.storage.database import APPLICATION_ID, FILE_NAME, SCHEMA, Database, StorageFailed
from common.configuration.config import ConfigError
from common.statuses.status_queue import SCHEMA as STATUSES_SCHEMA

CLUSTER = bytes(32)


def insert(database: Database, name: bytes) -> None:
    database.write(
        "INSERT INTO builds (build, repository, branch, received_at) VALUES (?, 'r', 'b', 0)",
        (name,),
    )


def insert_and(database: Database, then: Callable[[], object]) -> None:
    with database.transaction():
        insert(database, b"1")
        then()


def builds(database: Database) -> int:
    return len(database.rows("SELECT * FROM builds"))


def test_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path, CLUSTER, "client")
    with pytest.raises(ZeroDivisionError):
        insert_and(database, lambda: 1 / 0)
    with pytest.raises(StorageFailed):
        insert_and(database, lambda: insert(database, b"1"))
    assert builds(database) == 0
    insert_and(database, lambda: None)
    assert builds(database) == 1
    database.close()


def test_listeners_are_told_of_commits_and_of_nothing_else(tmp_path: Path) -> None:
    database = Database(tmp_path, CLUSTER, "client")
    told: list[frozenset[bytes]] = []
    database.listen(told.append)
    with database.transaction():
        database.write("UPDATE builds SET detail = ''", (), build=b"1")
        database.write("UPDATE builds SET detail = ''", (), build=b"2")
        assert not told
    assert told == [frozenset({b"1", b"2"})]

    def change_and_fail() -> None:
        database.write("UPDATE builds SET detail = ''", (), build=b"3")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        insert_and(database, change_and_fail)
    insert_and(database, lambda: None)
    assert told == [frozenset({b"1", b"2"})]
    database.close()


def test_every_commit_is_synchronised(tmp_path: Path) -> None:
    database = Database(tmp_path, CLUSTER, "client")
    assert database.row("PRAGMA synchronous") == (2,)
    assert database.row("PRAGMA journal_mode") == ("wal",)
    database.close()


def test_a_write_outside_a_transaction_is_a_fault_of_ours(tmp_path: Path) -> None:
    database = Database(tmp_path, CLUSTER, "client")
    with pytest.raises(AssertionError):
        insert(database, b"1")
    database.close()


def test_a_full_disk_is_an_error_and_nothing_is_half_done(tmp_path: Path) -> None:
    database = Database(tmp_path, CLUSTER, "client")
    pages = database.row("PRAGMA page_count")
    assert pages is not None
    database.rows(f"PRAGMA max_page_count={pages[0] + 2}")

    def insert_many() -> None:
        for index in range(1000):
            insert(database, b"%d" % index + bytes(1000))

    with pytest.raises(StorageFailed, match="full"):
        insert_and(database, insert_many)
    assert builds(database) == 0
    database.rows("PRAGMA max_page_count=1000000")
    insert_and(database, lambda: None)
    database.close()


def test_a_second_gateway_is_kept_away_until_the_first_is_gone(tmp_path: Path) -> None:
    database = Database(tmp_path, CLUSTER, "client")
    program = (
        "import sys; from pathlib import Path; from client.storage.database import Database\n"
        "try:\n    Database(Path(sys.argv[1]), bytes(32), 'client')\n"
        "except ValueError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = Path(__file__).resolve().parents[3]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert "another gateway is using" in answer.stdout
    database.close()
    answer = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert answer.stdout == ""


@pytest.mark.parametrize(("cluster", "name"), [(bytes(31) + b"1", "client"), (CLUSTER, "other")])
def test_data_of_another_cluster_or_client_is_refused(
    tmp_path: Path, cluster: bytes, name: str
) -> None:
    Database(tmp_path, CLUSTER, "client").close()
    with pytest.raises(ConfigError, match="belongs to client"):
        Database(tmp_path, cluster, name)
    Database(tmp_path, CLUSTER, "client").close()


def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    Database(tmp_path, CLUSTER, "client").close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version=999")
    connection.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ConfigError) as refused:
        Database(tmp_path, CLUSTER, "client")
    assert str(refused.value) == (
        f"{tmp_path / FILE_NAME}: has format 999, this version reads 4 to 7; use the version of"
        " PBFT/CI that wrote it, or a newer one"
    )
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_the_format_before_is_taken_over(tmp_path: Path) -> None:
    """The rows stay, and what is made of the old file is what a new one is."""
    fresh = Database(tmp_path / "fresh", CLUSTER, "client")
    (tmp_path / "old").mkdir()
    connection = sqlite3.connect(tmp_path / "old" / FILE_NAME)
    connection.executescript(SCHEMA + STATUSES_SCHEMA)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute("PRAGMA user_version=4")
    connection.execute(
        "INSERT INTO builds (build, repository, branch, received_at, refused) "
        "VALUES (x'01', 'r', 'b', 1.0, 'no'), (x'02', 'r', 'b', 2.0, NULL)"
    )
    connection.commit()
    connection.close()
    for _ in range(2):
        database = Database(tmp_path / "old", CLUSTER, "client")
        rows = database.rows("SELECT build, state FROM builds ORDER BY number")
        assert rows == [(b"\x01", "refused"), (b"\x02", "queued")]
        for question in ("SELECT * FROM sqlite_master ORDER BY name", "PRAGMA user_version"):
            made = [row for row in database.rows(question) if row[0] != "table"]
            assert made
            assert [row[:3] for row in made] == [
                row[:3] for row in fresh.rows(question) if row[0] != "table"
            ]
        assert database.rows("PRAGMA table_xinfo(builds)") == fresh.rows(
            "PRAGMA table_xinfo(builds)"
        )
        database.close()
    fresh.close()


def test_a_failed_migration_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Database(tmp_path, CLUSTER, "client").close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version=4")
    connection.close()
    broken = "ALTER TABLE builds ADD COLUMN another TEXT; SELECT nonsense;"
    monkeypatch.setattr(database_module, "MIGRATIONS", {4: broken, 5: "", 6: ""})
    with pytest.raises(ConfigError, match="cannot be used"):
        Database(tmp_path, CLUSTER, "client")
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    assert connection.execute("PRAGMA user_version").fetchone() == (4,)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(builds)")]
    assert "another" not in columns
    connection.close()


@pytest.mark.parametrize("version", [1, 3])
def test_a_format_that_is_too_old_is_refused_by_name(tmp_path: Path, version: int) -> None:
    Database(tmp_path, CLUSTER, "client").close()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    with pytest.raises(ConfigError, match=f"has format {version}, this version reads 4 to 7"):
        Database(tmp_path, CLUSTER, "client")


def test_a_foreign_or_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match=FILE_NAME):
        Database(tmp_path, CLUSTER, "client")
    (tmp_path / FILE_NAME).unlink()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("CREATE TABLE foreign_table (x)")
    connection.close()
    with pytest.raises(ConfigError, match="not a gateway's database"):
        Database(tmp_path, CLUSTER, "client")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="data_directory"):
        Database(tmp_path / "file" / "data", CLUSTER, "client")
