"""The examples of a document, as files: what people read is what is tested."""

import re
from pathlib import Path

from scripts.folders import ROOT

DOCUMENT = ROOT / "docs" / "PIPELINES.md"
# `name`: on a line of its own, then a block
_BLOCK = re.compile(r"^```([a-z]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"^`([^`\n]+)`:\n\n```[a-z]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples(document: Path = DOCUMENT) -> dict[str, dict[str, str]]:
    """The projects by the headings above them: path to text."""
    found: dict[str, dict[str, str]] = {}
    for section in document.read_text().split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        files = dict(_FILE.findall(text))
        if files:
            found[heading] = files
    return found


def blocks(document: Path = DOCUMENT) -> int:
    """How many blocks the document has, inside of examples and outside, but for `snippets`."""
    return document.read_text().count("\n```") // 2 - len(snippets(document))


def snippets(document: Path = DOCUMENT) -> list[tuple[str, str]]:
    """What the blocks of the section about lock files are in, and hold: parts of a repository."""
    _, _, section = document.read_text().partition("\n### From no lock file to an offline green\n")
    text, _, _ = section.partition("\n## ")
    return _BLOCK.findall(text)
