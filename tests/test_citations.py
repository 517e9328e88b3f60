"""What pages, docstrings and comments cite is there: files, headings, links and tests."""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A file by its path from the top, or a page of docs by its name alone.
_FILE = re.compile(
    r"(?<![\w/.:*-])(?P<path>(?:[\w.-]+/)+[\w-]+\.(?:md|py|sh|yml)|[A-Z]{3,}\.md)"
    r"(?:::(?P<name>\w+))?(?:, \"(?P<heading>[^\"]+)\")?"
)
# A decision by its number alone.
_DECISION = re.compile(r"decisions/(?P<number>\d{4})\b(?!-)")
_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
# Text of a link to Python source that names what stands there.
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_URL = re.compile(r"https?://\S+")
# A docstring that begins with a section of the protocol's page quotes it.
_QUOTING = re.compile(r"PROTOCOL\.md, (?P<section>[\w. ]+): (?P<rest>.*)", re.DOTALL)
# A module, or what it holds, as Python names it.
_MODULE = re.compile(r"(?<![\w./@-])(?P<module>[a-z_]+(?:\.\w+)+)(?![\w/(-]|\.\w)")
_SUFFIXES = frozenset({"py", "sh", "md", "yml", "log", "json", "sqlite3"})
# Folders that a citation begins with; any other path is an example, or somebody else's file.
_TOPS = frozenset(path.name for path in ROOT.iterdir() if path.is_dir()) - {"run", "log", ".git"}
# What is said there of older versions stays said.
_HISTORY = frozenset({"CHANGELOG.md"})


def _tracked(suffix: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", f"*{suffix}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = sorted(set(listed.stdout.splitlines()) - _HISTORY)
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """Docstrings and comments of Python source, each with its line."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)) is not None:
            yield node.body[0].lineno, docstring


def _headings(page: str) -> list[str]:
    return [line.lstrip("#").strip() for line in page.splitlines() if line.startswith("#")]


def _anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _wrong_citations(text: str, root: Path) -> Iterator[str]:
    """What this prose cites that is not there."""
    for found in _FILE.finditer(_URL.sub("", text)):
        path, name, heading = found["path"], found["name"], found["heading"]
        if "/" in path and path.split("/")[0] not in _TOPS:
            continue
        files = [file for file in (root / path, root / "docs" / path) if file.is_file()]
        if not files:
            yield f"{path} is not there"
            continue
        cited = files[0].read_text()
        if name and not re.search(rf"^\s*(async )?(def|class) {name}\b", cited, re.MULTILINE):
            yield f"{path} has no {name}"
        if heading and heading not in _headings(cited):
            yield f"{path} has no heading “{heading}”"
    for found in _DECISION.finditer(text):
        if not [*(root / "docs" / "decisions").glob(f"{found['number']}-*.md")]:
            yield f"there is no decision {found['number']}"


def _wrong_modules(text: str) -> Iterator[str]:
    """What this prose names as one of our modules, or as what is in one, and is not there."""
    for found in _MODULE.finditer(_URL.sub("", text)):
        parts = found["module"].split(".")
        if parts[0] in _TOPS and parts[-1] not in _SUFFIXES and not _has_module(parts):
            yield f"there is no module {found['module']}"


def _has_module(parts: list[str]) -> bool:
    """Whether that is a module, a package, something in a module, or any module (NAME)."""
    places = [ROOT.joinpath(*parts[:end]) for end in range(2, len(parts) + 1)]
    if parts[-1] == "NAME" or places[-1].is_dir():
        return True
    return any(place.with_suffix(".py").is_file() for place in places)


def _is_defined(name: str, source: str) -> bool:
    return bool(re.search(rf"^\s*(async )?(def|class) {name}\b", source, re.MULTILINE))


def _wrong_links(text: str, folder: Path) -> Iterator[str]:
    for found in _LINK.finditer(text):
        path, _, anchor = found["target"].partition("#")
        if ":" in path:
            continue
        file = folder / path if path else None
        if file is not None and not file.exists():
            yield f"link to {path}, which is not there"
        elif path.endswith(".py") and _NAME.fullmatch(found["text"]):
            source = (folder / path).read_text()
            if missing := [n for n in found["text"].split(".") if not _is_defined(n, source)]:
                yield f"link to {path}, which has no {'.'.join(missing)}"
        elif anchor and anchor not in map(_anchor, _headings(file.read_text() if file else text)):
            yield f"link to {found['target']}, a heading that is not there"


def test_pages_cite_what_is_there() -> None:
    wrong = []
    for page in _tracked(".md"):
        text = page.read_text()
        name = page.relative_to(ROOT)
        wrong += [f"{name}: {why}" for why in _wrong_citations(text, ROOT)]
        wrong += [f"{name}: {why}" for why in _wrong_links(text, page.parent)]
    assert not wrong, "\n".join(wrong)


def test_docstrings_and_comments_cite_what_is_there() -> None:
    wrong = []
    for source in _tracked(".py"):
        text = source.read_text()
        # few files cite anything, and to find comments takes long
        for line, prose in _prose(text) if _FILE.search(text) else ():
            for why in _wrong_citations(prose, ROOT):
                wrong.append(f"{source.relative_to(ROOT)}:{line}: {why}")
    assert not wrong, "\n".join(wrong)


def test_docstrings_and_comments_name_modules_that_are_there() -> None:
    wrong = []
    for source in _tracked(".py"):
        text = source.read_text()
        for line, prose in _prose(text) if _MODULE.search(text) else ():
            wrong += [f"{source.relative_to(ROOT)}:{line}: {why}" for why in _wrong_modules(prose)]
    assert not wrong, "\n".join(wrong)


def test_quotes_of_the_protocol_stand_in_the_section_that_is_named() -> None:
    page = (ROOT / "docs" / "PROTOCOL.md").read_text()
    sections = {part.partition("\n")[0]: part for part in page.split("\n## ")[1:]}
    wrong = []
    for source in _tracked(".py"):
        text = source.read_text()
        for line, prose in _prose(text) if "PROTOCOL.md, " in text else ():
            if (found := _QUOTING.match(prose)) is None:
                continue
            where = f"{source.relative_to(ROOT)}:{line}"
            named = [part for title, part in sections.items() if title.startswith(found["section"])]
            if not named:
                wrong.append(f"{where}: no section “{found['section']}”")
            said = " ".join(" ".join(named).split())
            for quote in re.findall(r'"([^"]+)"', found["rest"]):
                if " ".join(quote.split()) not in said:
                    wrong.append(f"{where}: nobody says “{quote}” there")
    assert not wrong, "\n".join(wrong)


def test_each_decision_has_its_four_headings_and_a_row_in_the_table() -> None:
    folder = ROOT / "docs" / "decisions"
    table = (folder / "README.md").read_text()
    records = sorted(set(folder.glob("*.md")) - {folder / "README.md"})
    headings = ["Status", "Context", "Decision", "Consequences"]
    assert [r.name for r in records if _headings(r.read_text())[1:] != headings] == []
    assert [r.name for r in records if f"({r.name})" not in table] == []


def test_each_trap_has_a_test_named_after_it() -> None:
    page = (ROOT / "docs" / "TRAPS.md").read_text()
    traps = {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    sources = "".join(file.read_text() for file in _tracked(".py") if "tests" in file.parts)
    tried = {int(number) for number in re.findall(r"def test_trap_(\d+)_", sources)}
    # nothing here is speculative
    assert traps - tried == {22}
    assert not tried - traps


def test_the_modules_that_the_simulators_page_names_are_there() -> None:
    page = (ROOT / "docs" / "SIMULATION.md").read_text()
    tables = page[page.index("## Faults") : page.index("## Commands")]
    modules = {path.stem for path in (ROOT / "simulator").rglob("*.py")}
    named = {
        name.split(".")[0]
        for line in tables.splitlines()
        if line.startswith("| ")
        for name in re.findall(r"`([a-z][\w.]*)`", line.rpartition(" | ")[2])
    }
    assert named
    assert not named - modules


@pytest.mark.parametrize(
    ("prose", "expected"),
    [
        ("see docs/MISSING.md", ["docs/MISSING.md is not there"]),
        ("docs/decisions/0001, docs/decisions/9999", ["there is no decision 9999"]),
        ("see MISSING.md and", ["MISSING.md is not there"]),
        ("tests/missing.py.", ["tests/missing.py is not there"]),
        ('docs/TESTING.md, "What the tests cost"', []),
        ('docs/TESTING.md, "Missing"', ["docs/TESTING.md has no heading “Missing”"]),
        ("tests/test_citations.py::test_missing", ["tests/test_citations.py has no test_missing"]),
        ("https://example.org/docs/MISSING.md, src/a.py, ./docs/TESTING.md", []),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(prose: str, expected: list[str]) -> None:
    assert list(_wrong_citations(prose, ROOT)) == expected


def test_a_module_that_is_not_there_is_found() -> None:
    text = "driver.turn, driver.turn.Turn, common.links, node.yml; driver.lost.Turn, other.lost"
    assert list(_wrong_modules(text)) == ["there is no module driver.lost.Turn"]


def test_a_link_to_source_names_what_stands_there() -> None:
    text = (
        "[X.begin](../driver/turn.py) [Turn.saved](../driver/turn.py) [the loop](../driver/turn.py)"
    )
    assert list(_wrong_links(text, ROOT / "docs")) == ["link to ../driver/turn.py, which has no X"]
