"""OPERATING.md names the format numbers that this version writes, for whoever wants to go back."""

import pytest

from client.commands.trust_file import TRUST_FORMAT
from client.storage import database
from common.membership.entry import ENTRY_FORMAT
from node.caches import cache_store
from node.statuses import status_file
from node.storage import schema
from scripts.folders import ROOT

GATEWAY = f"{database.FORMAT_VERSION} (reads {database.FIRST_FORMAT_VERSION} to"


@pytest.mark.parametrize(
    ("file", "number"),
    [
        ("`replica.sqlite3`", f"{schema.FORMAT_VERSION} |"),
        ("`statuses.sqlite3`", f"{status_file.FORMAT_VERSION} |"),
        ("`caches/index.sqlite3`", f"{cache_store.FORMAT_VERSION} |"),
        ("`gateway.sqlite`", f"{GATEWAY} {database.FORMAT_VERSION}) |"),
        ("`trust.json`", f"{TRUST_FORMAT} |"),
        ("a member's entry", f"{ENTRY_FORMAT} |"),
    ],
)
def test_operators_read_the_number_of_each_format(file: str, number: str) -> None:
    page = (ROOT / "docs/OPERATING.md").read_text()
    table = page.partition("| file | number | a newer number")[2].partition("\n\n")[0]
    (row,) = [row for row in table.splitlines() if row.split(" | ")[0].find(file) >= 0]
    assert row.partition(" | ")[2].startswith(number)
