"""docs/TRUST.md names tests that exist."""

import re

import pytest

from scripts.folders import ROOT

TEXT = (ROOT / "docs" / "TRUST.md").read_text()
REFERENCES = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", TEXT)))


def test_the_page_shows_most_of_what_it_says() -> None:
    assert len(REFERENCES) > 20


@pytest.mark.parametrize("reference", REFERENCES)
def test_each_test_it_names_is_there(reference: str) -> None:
    file, _, name = reference.partition("::")
    assert (ROOT / file).is_file()
    assert not name or re.search(rf"def {name}\(", (ROOT / file).read_text())
