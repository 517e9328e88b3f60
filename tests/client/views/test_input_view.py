"""The list of a build's inputs as people see it, and how two lists differ."""

import pytest

from client.views.input_view import (
    CHANGES_MAX,
    InputChange,
    InputRow,
    UnreadableList,
    compare,
    counts_by_tool,
    matching,
    read_list,
)
from common.dependencies.lock_file import Tool
from node.dependencies.bill_of_materials import bill_of_materials
from node.dependencies.fetch_messages import Stored

GO_HASH = "h1:" + "A" * 43 + "="


def stored(tool: Tool, name: str, version: str, file: str, digest: str = "") -> Stored:
    return Stored(tool, name, version, "zip", file, digest or f"sha256:{'0' * 64}", 1)


def rows(*inputs: Stored) -> tuple[InputRow, ...]:
    """What is read of the document that a node writes."""
    return read_list(bill_of_materials("https://example.org/r", "1" * 40, inputs))


def test_all_that_a_node_writes_of_an_input_is_read() -> None:
    found = rows(
        stored(Tool.PIP, "six", "1.17.0", "six-1.17.0.tar.gz"),
        stored(Tool.GO, "golang.org/x/mod", "v0.1.0", "golang.org/x/mod/@v/v0.1.0.zip", GO_HASH),
        stored(Tool.FILES, "data.bin", "", "data.bin"),
    )
    module, six, data = sorted(found, key=lambda row: ["go", "pip", "files"].index(row.tool))
    assert (six.name, six.version, six.file) == ("six", "1.17.0", "six-1.17.0.tar.gz")
    assert (six.digest, six.purl is None) == (f"sha256:{'0' * 64}", False)
    assert (module.digest, module.purl is None) == (GO_HASH, False)
    assert (data.version, data.purl) == ("", None)
    assert counts_by_tool(found) == (("files", 1), ("go", 1), ("pip", 1))


@pytest.mark.parametrize("document", [b"", b"[]", b'{"components": 1}', b"[" * 100_000])
def test_another_document_is_refused(document: bytes) -> None:
    with pytest.raises(UnreadableList):
        read_list(document)


def test_a_text_is_found_in_all_that_a_row_has() -> None:
    found = rows(stored(Tool.NPM, "@x/Left-pad", "1.3.0", "@x+Left-pad-1.3.0.tgz"))
    for text in ("", "left", "1.3", "@x+left", "0" * 64, "pkg:npm/"):
        assert len(matching(found, text)) == 1, text
    assert not matching(found, "right")


def test_packages_are_compared_by_tool_and_name() -> None:
    before = rows(
        stored(Tool.PIP, "gone", "1", "gone-1.tar.gz"),
        stored(Tool.PIP, "same", "1", "same-1.tar.gz"),
        stored(Tool.PIP, "newer", "1", "newer-1.tar.gz"),
        stored(Tool.PIP, "rebuilt", "1", "rebuilt-1.tar.gz"),
        # several versions beside each other, as npm has them
        stored(Tool.NPM, "twice", "1.0.0", "twice-1.0.0.tgz"),
    )
    after = rows(
        stored(Tool.PIP, "same", "1", "same-1.tar.gz"),
        stored(Tool.PIP, "newer", "2", "newer-2.tar.gz"),
        stored(Tool.PIP, "rebuilt", "1", "rebuilt-1.tar.gz", f"sha256:{'1' * 64}"),
        stored(Tool.NPM, "twice", "1.0.0", "twice-1.0.0.tgz"),
        stored(Tool.NPM, "twice", "2.0.0", "twice-2.0.0.tgz"),
        # another tool's package of that name is another package
        stored(Tool.NPM, "gone", "1", "gone-1.tgz"),
    )
    changes = compare(before, after, "ab")
    assert changes.changes == (
        InputChange("npm", "gone", "added", (), ("1",)),
        InputChange("npm", "twice", "changed", ("1.0.0",), ("1.0.0", "2.0.0")),
        InputChange("pip", "gone", "removed", ("1",), ()),
        InputChange("pip", "newer", "changed", ("1",), ("2",)),
        InputChange("pip", "rebuilt", "replaced", ("1",), ("1",)),
    )
    assert dict(changes.counts) == {
        "added": 1,
        "removed": 1,
        "changed": 2,
        "replaced": 1,
    }
    assert not compare(after, after, "ab").changes


def test_not_more_changes_are_shown_than_a_reader_looks_at() -> None:
    many = rows(*(stored(Tool.PIP, f"p{n}", "1", f"p{n}-1.tar.gz") for n in range(300)))
    changes = compare((), many, "ab")
    assert (len(changes.changes), changes.total) == (CHANGES_MAX, 300)
