"""What went into a build: the agreed list of its inputs, and how the lists of two builds differ.

Pure. The list is the CycloneDX document that nodes write (ECMA-424).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

CHANGES_MAX = 200
ADDED = "added"
REMOVED = "removed"
CHANGED = "changed"
REPLACED = "replaced"
_FILE = "pbft-ci:file"
_GO_HASH = "pbft-ci:go-h1"


class UnreadableList(ValueError):
    """The document is not one that a node writes."""


class InputRow(msgspec.Struct, frozen=True):
    """A file that went in."""

    key: Annotated[str, msgspec.Meta(description="unique in this list")]
    tool: Annotated[str, msgspec.Meta(description="of the lock file: pip, npm, go, cargo, files")]
    name: str
    version: Annotated[str, msgspec.Meta(description="empty for `files`")]
    file: str
    digest: Annotated[str, msgspec.Meta(description="by which the lock file pins it")]
    purl: Annotated[str | None, msgspec.Meta(description="the package's URL; null for `files`")]


class InputChange(msgspec.Struct, frozen=True):
    """A package of which two builds had something else; `before` and `after` are its versions."""

    tool: str
    name: str
    kind: Annotated[
        str,
        msgspec.Meta(
            description="added, removed, changed (its version), or replaced (other files of it)"
        ),
    ]
    before: tuple[str, ...]
    after: tuple[str, ...]


class InputChanges(msgspec.Struct, frozen=True):
    """All of them against an earlier build."""

    compared_with: Annotated[
        str | None,
        msgspec.Meta(description="the last build before it on its branch that passed; null: none"),
    ]
    problem: Annotated[
        str | None, msgspec.Meta(description="why that build's inputs are not known here")
    ] = None
    counts: Annotated[
        tuple[tuple[str, int], ...], msgspec.Meta(description="how many changes of each kind")
    ] = ()
    changes: Annotated[
        tuple[InputChange, ...], msgspec.Meta(description=f"the first {CHANGES_MAX}")
    ] = ()

    @property
    def total(self) -> int:
        """How many changes there are, shown or not."""
        return sum(count for _, count in self.counts)

    @property
    def is_known(self) -> bool:
        """Whether there is an earlier build, and its inputs are here."""
        return self.compared_with is not None and self.problem is None


class InputsView(msgspec.Struct, frozen=True):
    """GET /api/v1/builds/<id>/inputs: the agreed list of what lock files pinned."""

    build: str
    sha256: Annotated[str, msgspec.Meta(description="of the agreed artifact that has the list")]
    counts: Annotated[
        tuple[tuple[str, int], ...], msgspec.Meta(description="how many files by tool")
    ]
    since: InputChanges
    matches: Annotated[int, msgspec.Meta(description="how many inputs `find` left")]
    inputs: tuple[InputRow, ...]
    next: Annotated[int | None, msgspec.Meta(description="the `after` of the following page")]

    @property
    def total(self) -> int:
        """How many files went in."""
        return sum(count for _, count in self.counts)


class _Hash(msgspec.Struct, frozen=True):
    alg: str
    content: str


class _Property(msgspec.Struct, frozen=True):
    name: str
    value: str


class _Component(msgspec.Struct, frozen=True):
    key: str = msgspec.field(name="bom-ref")
    name: str
    version: str = ""
    purl: str | None = None
    hashes: tuple[_Hash, ...] = ()
    properties: tuple[_Property, ...] = ()


class _Document(msgspec.Struct, frozen=True):
    components: tuple[_Component, ...]


_decoder = msgspec.json.Decoder(_Document)


def read_list(document: bytes) -> tuple[InputRow, ...]:
    """The rows of a list, in its order. Raises UnreadableList."""
    try:
        found = _decoder.decode(document)
    except (ValueError, RecursionError) as error:
        raise UnreadableList(str(error)) from error
    return tuple(_row(component) for component in found.components)


def _row(component: _Component) -> InputRow:
    said = {each.name: each.value for each in component.properties}
    hashes = [f"{each.alg.replace('-', '').lower()}:{each.content}" for each in component.hashes]
    return InputRow(
        key=component.key,
        tool=component.key.partition(":")[0],
        name=component.name,
        version=component.version,
        file=said.get(_FILE, ""),
        digest=said.get(_GO_HASH) or next(iter(hashes), ""),
        purl=component.purl,
    )


def compare(
    before: Iterable[InputRow], after: Iterable[InputRow], compared_with: str
) -> InputChanges:
    """What is other in `after` than in `before`, by tool and name. compared_with: `before`'s id."""
    old, new = _by_package(before), _by_package(after)
    changes = [
        InputChange(tool, name, kind, _versions(had), _versions(has))
        for tool, name in sorted(old.keys() | new.keys())
        if (kind := _kind(had := old.get((tool, name), set()), has := new.get((tool, name), set())))
    ]
    counts = Counter(change.kind for change in changes)
    kinds = (ADDED, REMOVED, CHANGED, REPLACED)
    return InputChanges(
        compared_with,
        counts=tuple((kind, counts[kind]) for kind in kinds if counts[kind]),
        changes=tuple(changes[:CHANGES_MAX]),
    )


_Files = set[tuple[str, str, str]]


def _by_package(rows: Iterable[InputRow]) -> dict[tuple[str, str], _Files]:
    found: dict[tuple[str, str], _Files] = {}
    for row in rows:
        found.setdefault((row.tool, row.name), set()).add((row.version, row.file, row.digest))
    return found


def _kind(before: _Files, after: _Files) -> str | None:
    """What became of a package; None: nothing."""
    if before == after:
        return None
    if not before:
        return ADDED
    if not after:
        return REMOVED
    return REPLACED if _versions(before) == _versions(after) else CHANGED


def _versions(files: _Files) -> tuple[str, ...]:
    return tuple(sorted({version for version, _, _ in files}))


def counts_by_tool(rows: Iterable[InputRow]) -> tuple[tuple[str, int], ...]:
    """How many rows each tool has."""
    return tuple(sorted(Counter(row.tool for row in rows).items()))


def matching(rows: Sequence[InputRow], text: str) -> Sequence[InputRow]:
    """The rows with that text in name, version, file, digest or purl; case does not count."""
    if not text:
        return rows
    wanted = text.casefold()
    return [
        row
        for row in rows
        if wanted
        in "\n".join((row.name, row.version, row.file, row.digest, row.purl or "")).casefold()
    ]
