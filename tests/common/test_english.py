"""common.english: numbers and their nouns agree."""

import pytest

from common.english import counted, plural


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 entries"), (1, "1 entry"), (2, "2 entries")]
)
def test_a_number_and_its_noun(count: int, expected: str) -> None:
    assert counted(count, "entry", "entries") == expected


def test_the_ordinary_plural_needs_not_be_named() -> None:
    assert [counted(count, "replica") for count in (1, 4)] == ["1 replica", "4 replicas"]


def test_verbs() -> None:
    assert [plural(count, "is", "are") for count in (0, 1, 2)] == ["are", "is", "are"]
