"""Repositories put into and taken out of a configuration's text."""

import difflib

import pytest
import yaml

from common.configuration.repository_edit import CannotEdit, with_repository, without_repository
from common.installation import EXAMPLE_CONFIG

NEW = {"url": "https://example.org/new.git", "forge": "github", "branches": ["main", "a: b"]}

TEXTS = {
    "the list in the middle": """\
# ours
name: node0
repositories:   # what we build
  - url: a   # the first
    # about a
    forge: github   # hosts it

    # more about a
  - url: "b"
    # about b
# about what follows
listen: 127.0.0.1:1
""",
    "the list at the end": "repositories:\n- {url: a, branches: [x]}\n- url: b\n  branches:\n  - x",
    "a text of its own": "repositories:\n    - url: |-\n        a\n    # of the file\nname: x\n",
    "dashes that stand alone": "repositories:\n  -\n    url: a\n  -\n    url: b # b's\nname: x\n",
    "lines that end as on Windows": "repositories:\r\n  - url: a\r\n    # about a\r\nname: x\r\n",
}


def changed_lines(before: str, after: str) -> tuple[list[str], list[str]]:
    """The lines that are only in `after`, and those that are only in `before`."""
    lines = [
        line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"
    ]
    return [x[2:] for x in lines if x[0] == "+"], [x[2:] for x in lines if x[0] == "-"]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_new_entry_comes_last_and_nothing_else_changes(text: str) -> None:
    after = with_repository(text, NEW)
    before_values, values = yaml.safe_load(text), yaml.safe_load(after)
    assert values["repositories"] == [*before_values["repositories"], NEW]
    added, removed = changed_lines(text, after)
    assert removed == []
    assert [line.strip() for line in added] == [
        "- url: https://example.org/new.git", "forge: github", "branches:", "- main",
        "- 'a: b'",
    ]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_was_added_can_be_removed_again(text: str) -> None:
    last = len(yaml.safe_load(text)["repositories"])
    whole = text if text.endswith("\n") else text + "\n"
    assert without_repository(with_repository(text, NEW), last) == whole


def test_an_entry_goes_with_the_comments_among_its_lines() -> None:
    text = TEXTS["the list in the middle"]
    added, removed = changed_lines(text, without_repository(text, 0))
    assert added == []
    assert removed == [
        "  - url: a   # the first", "    # about a", "    forge: github   # hosts it",
    ]  # fmt: skip
    added, removed = changed_lines(text, without_repository(text, 1))
    assert (added, removed) == ([], ['  - url: "b"', "    # about b"])


@pytest.mark.parametrize("name", ["node0.yml", "client.yml"])
def test_the_examples_comments_stay_where_they_are(name: str) -> None:
    text = (EXAMPLE_CONFIG / name).read_text()
    added, removed = changed_lines(text, with_repository(text, {"url": "x"}))
    assert (added, removed) == (["  - url: x"], [])


@pytest.mark.parametrize(
    "text",
    ["repositories: []\nname: x\n", "name: x\nrepositories: [ ]   # none yet", "repositories: []"],
)
def test_an_empty_list_takes_its_first_entry(text: str) -> None:
    after = with_repository(text, NEW)
    assert yaml.safe_load(after) == {**yaml.safe_load(text), "repositories": [NEW]}
    assert ("# none yet" in after) == ("# none yet" in text)


def test_the_last_entry_leaves_an_empty_list() -> None:
    text = "name: x\nrepositories:  # few\n  - url: a\nlisten: y\n"
    assert without_repository(text, 0) == "name: x\nrepositories: []  # few\nlisten: y\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("repositories: [{url: a}]\n", "in brackets"),
        ("name: x\n", "is missing"),
        ("{repositories: [], name: x}\n", "not changed here"),
    ],
)
def test_what_cannot_be_changed_without_harm_is_refused(text: str, problem: str) -> None:
    with pytest.raises(CannotEdit, match=problem):
        with_repository(text, NEW)
