"""The tables of a replica's store, and the cluster and replica that own it."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from node.storage.ballot_table import BALLOT_SCHEMA
from node.storage.damage import StoreNotOurs
from node.storage.evidence_table import EVIDENCE_SCHEMA
from node.storage.ledger_table import LEDGER_SCHEMA
from node.storage.own_request_table import OWN_REQUEST_SCHEMA
from node.storage.transaction import transaction

# Of the tables, of what is encoded in them, and of the redo log beside them. Every format keeps its
# number in `meta`: an older version refuses by it, and would else take the store for damaged.
# 5: late ballots are found by their build.
FORMAT_VERSION = 5

SCHEMA = f"""
{LEDGER_SCHEMA}
{EVIDENCE_SCHEMA}
{OWN_REQUEST_SCHEMA}
{BALLOT_SCHEMA}
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE records (position INTEGER PRIMARY KEY, body BLOB NOT NULL, chain BLOB NOT NULL);
CREATE TABLE bodies (digest BLOB PRIMARY KEY, sequence INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX bodies_by_sequence ON bodies (sequence);
"""


def is_empty(database: sqlite3.Connection) -> bool:
    """Whether no tables were made yet. Raises sqlite3.DatabaseError."""
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(tables == 0)


def make_tables(database: sqlite3.Connection, owner: Mapping[str, bytes]) -> None:
    """Make them, in one transaction: a crash must not leave a store that belongs to nobody.

    owner: `cluster` (its id) and `replica` (its name).
    """
    with transaction(database):
        for statement in SCHEMA.split(";"):
            database.execute(statement)
        database.execute("INSERT INTO meta VALUES ('format', ?)", (str(FORMAT_VERSION).encode(),))
        database.executemany("INSERT INTO meta VALUES (?, ?)", owner.items())


def check_owner(database: sqlite3.Connection, path: Path, owner: Mapping[str, bytes]) -> None:
    """Raises StoreNotOurs where they are of another format, cluster or replica."""
    meta = dict(database.execute("SELECT name, value FROM meta"))
    version = int(meta.get("format", b"0"))
    if version > FORMAT_VERSION:
        raise another_format(path, f"format {version}")
    if version != FORMAT_VERSION:
        raise StoreNotOurs(
            f"{path}: format {version}, this version reads {FORMAT_VERSION} and carries"
            " nothing over; use the version that wrote it, or begin a new cluster, all"
            " replicas with a data_directory of their own"
        )
    for name, value in owner.items():
        if meta.get(name) != value:
            raise StoreNotOurs(
                f"{path}: it belongs to another {name}; a changed cluster.yml or key is"
                " a new cluster: give it a data_directory of its own"
            )


def another_format(path: Path, what: str, reason: str = "") -> StoreNotOurs:
    """The error for a file that a newer version wrote. Nothing of it is changed."""
    return StoreNotOurs(
        f"{path}: it has {what}{reason and f' ({reason})'}, this version reads {FORMAT_VERSION};"
        " use the version of PBFT/CI that wrote it, or a newer one"
    )
