"""The pictures of the documents: pages, documents and what makes them know the same ones."""

import re

import pytest

from bench.scale import LINKS_PLOT, MEMBERS_PLOT
from scripts.folders import ROOT
from tests.browser.screenshots import IMAGES, NoPicture, draw_scenario, names

ALL_BYTES_MAX = 1_500_000
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


def shown() -> dict[str, str]:
    """The pictures that the documents show, by name: what is said to those who do not see them."""
    found = {}
    for document in DOCUMENTS:
        for text, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", document.read_text()):
            if "://" not in target:
                file = (document.parent / target).resolve()
                assert file.is_file(), f"{document.name} shows {target}, which is not there"
                assert file.parent == IMAGES, f"{document.name} shows {target}, from another folder"
                found[file.name] = text
    return found


def test_documents_folder_and_script_know_the_same_pictures() -> None:
    there = {file.name for file in IMAGES.iterdir()}
    plots = {file.name for file in (MEMBERS_PLOT, LINKS_PLOT)}
    assert set(shown()) == there == {*names(), *plots}


def test_every_picture_is_described() -> None:
    for name, text in shown().items():
        assert len(text.split()) >= 4, f"{name} is described as {text!r}"


def test_the_pictures_are_small() -> None:
    assert sum(file.stat().st_size for file in IMAGES.iterdir()) < ALL_BYTES_MAX


def test_a_scenario_is_drawn() -> None:
    drawn = draw_scenario("normal-case")
    assert drawn.startswith("<svg")
    assert drawn.rstrip().endswith("</svg>")
    assert "script" not in drawn


def test_a_scenario_that_there_is_not_says_so() -> None:
    with pytest.raises(NoPicture, match="no-such-scenario"):
        draw_scenario("no-such-scenario")
