"""Badges are whole SVG of known words, in the sizes and colours that people know."""

import xml.etree.ElementTree as ElementTree

import pytest

from ci.operations import Outcome
from client.api.badge_routes import names_of
from client.views.badge import BUILDING, STATES, badge, etag

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(("word", "colour"), [*STATES.values(), BUILDING])
def test_each_state_has_a_whole_picture(word: str, colour: str) -> None:
    root = ElementTree.fromstring(badge(word, colour))
    assert (root.get("height"), root.get("aria-label")) == ("20", f"build: {word}")
    rectangles = root.findall(f"{SVG}g/{SVG}rect")
    widths = [int(rectangle.get("width") or 0) for rectangle in rectangles]
    assert widths[0] + widths[1] == widths[2] == int(root.get("width") or 0)
    assert [r.get("fill") for r in rectangles[:2]] == ["#555", colour]
    assert [t.text for t in root.iter(f"{SVG}text")] == ["build", "build", word, word]


def test_every_outcome_has_a_word_and_only_passed_is_green() -> None:
    assert STATES.keys() == {None, *Outcome}
    green = STATES[Outcome.PASSED][1]
    assert [outcome for outcome, state in STATES.items() if state[1] == green] == [Outcome.PASSED]


def test_text_is_escaped() -> None:
    picture = badge('<script>"&', "#fff")
    assert b"<script>" not in picture
    assert ElementTree.fromstring(picture).get("aria-label") == 'build: <script>"&'


def test_another_picture_has_another_tag() -> None:
    assert etag(badge("passing", "#fff")) != etag(badge("failing", "#fff"))


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("https://forge.example/team/tool.git", ("tool", "team/tool", "forge.example/team/tool")),
        ("git@forge.example:team/tool.git", ("tool", "team/tool", "git@forge.example/team/tool")),
        ("file:///srv/tool.git", ("tool", "srv/tool")),
    ],
)
def test_a_repository_is_called_by_its_last_parts(url: str, names: tuple[str, ...]) -> None:
    assert names_of(url) == names
