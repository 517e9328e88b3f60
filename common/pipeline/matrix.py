"""`matrix`: which cells a build has, and what one cell's pipeline file is. Pure.

A cell has a text for each axis. The texts are variables of the cell's steps and services, and
`${AXIS}` stands for them in names of images. They are put in after the file was read as YAML, so
no text can add a key.
"""

import itertools
import re
from collections.abc import Mapping, Sequence

import msgspec

from common.pipeline.pipeline_values import OWN_VARIABLES, Place, WrongValue

AXES_MAX = 4
TEXTS_MAX = 8
# The most that a network may allow (`ci.limits.Limits.cells_max`).
CELLS_MAX = 64
# of a cell's name, which begins the ids of its test cases
NAME_CHARACTERS_MAX = 128
INCLUDE = "include"
EXCLUDE = "exclude"

_NO_MATRIX = "is there without a matrix"
_AXIS = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
# What names of images consist of; no blank, '=' or ',' that would make two names of cells equal.
_TEXT = re.compile(r"[A-Za-z0-9._+@/:-]{1,64}")


class Cell(msgspec.Struct, frozen=True):
    """The axes in the file's order, each with the text that it has in this cell."""

    texts: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """`PY=3.12,DB=postgres:16`."""
        return ",".join(f"{axis}={text}" for axis, text in self.texts)

    @property
    def folder(self) -> str:
        """Where its artifacts are among those of the build: its name in one part of a path."""
        return self.name.replace("/", "_")

    def matches(self, wanted: Mapping[str, Sequence[str]]) -> bool:
        """Whether its text of each of these axes is one of those given."""
        return all(text in wanted[axis] for axis, text in self.texts if axis in wanted)

    def file_of(self, file: Mapping[str, object]) -> dict[str, object]:
        """This file with the cell's texts in the names of its images."""
        made = {key: value for key, value in file.items() if key != "matrix"}
        for key in ("steps", "services"):
            entries = made.get(key)
            if isinstance(entries, list):
                made[key] = [self._with_image(entry) for entry in entries]
        made = self._with_image(made)
        return made

    def _with_image(self, entry: object) -> dict[str, object]:
        if not isinstance(entry, dict) or not isinstance(image := entry.get("image"), str):
            return entry  # type: ignore[return-value]  # whatever it is, the parser refuses it
        for axis, text in self.texts:
            image = image.replace(f"${{{axis}}}", text)
        return {**entry, "image": image}


class Matrix(msgspec.Struct, frozen=True):
    """Where a pipeline file is read: in one cell of all, or without a matrix.

    cells: None: the matrix cannot be read.
    """

    cells: tuple[Cell, ...] | None = ()
    cell: Cell | None = None


def read_matrix(place: Place, cells_max: int) -> tuple[Cell, ...]:
    """The cells in the file's order. Raises WrongValue, TooManyProblems.

    cells_max: how many the network allows.
    """
    if not isinstance(place.value, dict) or not place.value:
        raise place.wrong("must be a mapping of axes to lists of texts")
    cells = _included(place) if INCLUDE in place else _product(place)
    if not 1 <= len(cells) <= cells_max:
        raise place.wrong(
            f"makes {len(cells)} cells; this network allows 1 to {cells_max} (cells_max)"
        )
    for cell in cells:
        if len(cell.name) > NAME_CHARACTERS_MAX:
            raise place.wrong(
                f"makes a cell with a name of {len(cell.name)} characters; at most"
                f" {NAME_CHARACTERS_MAX}"
            )
    if len(set(cells)) < len(cells):
        raise place.wrong("makes a cell twice")
    return cells


def read_cell_choice(place: Place, matrix: Matrix) -> bool:
    """`when: matrix`: whether the cell is one of those. Raises WrongValue, TooManyProblems."""
    if not isinstance(place.value, dict) or not place.value:
        raise place.wrong("must be a mapping of axes to a text or a list of texts")
    if matrix.cells is None:
        return True
    known: dict[str, set[str]] = {}
    for cell in matrix.cells:
        for axis, text in cell.texts:
            known.setdefault(axis, set()).add(text)
    wanted: dict[str, tuple[str, ...]] = {}
    for axis, entry in place.entries():
        if not isinstance(axis, str) or axis not in known:
            axes = ", ".join(known)
            raise place.wrong(f"must have axes of the matrix ({axes})" if axes else _NO_MATRIX)
        wanted[axis] = tuple(_text(text) for text in entry.one_or_more(TEXTS_MAX, "texts"))
        if unknown := [text for text in wanted[axis] if text not in known[axis]]:
            raise entry.wrong(f"has {unknown[0]}, which {axis} is in no cell")
    if not any(cell.matches(wanted) for cell in matrix.cells):
        raise place.wrong("is for no cell")
    return matrix.cell is None or matrix.cell.matches(wanted)


def _included(place: Place) -> tuple[Cell, ...]:
    if set(place.value) != {INCLUDE}:  # type: ignore[call-overload]  # a mapping: checked
        raise place.at(INCLUDE).wrong("is there beside axes or exclude; write one of them")
    entries = place.at(INCLUDE).items(CELLS_MAX, "mappings of axes to texts")
    cells = tuple(_cell(entry) for entry in entries)
    axes = [axis for axis, _ in cells[0].texts]
    for entry, cell in zip(entries, cells, strict=True):
        if sorted(axis for axis, _ in cell.texts) != sorted(axes):
            raise entry.wrong("must have the axes of the first one")
    return tuple(Cell(tuple((axis, dict(cell.texts)[axis]) for axis in axes)) for cell in cells)


def _product(place: Place) -> tuple[Cell, ...]:
    axes: dict[str, list[str]] = {}
    for axis, entry in place.entries():
        if axis == EXCLUDE:
            continue
        _check_axis(entry, axis)
        texts = [_text(text) for text in entry.items(TEXTS_MAX, "texts, each in quotes")]
        if len(set(texts)) < len(texts):
            raise entry.wrong("has a text twice")
        axes[axis] = texts
    if not 1 <= len(axes) <= AXES_MAX:
        raise place.wrong(f"must have 1 to {AXES_MAX} axes")
    cells = [
        Cell(tuple(zip(axes, texts, strict=True))) for texts in itertools.product(*axes.values())
    ]
    if EXCLUDE in place:
        for entry in place.at(EXCLUDE).items(CELLS_MAX, "mappings of axes to texts"):
            excluded = set(_cell(entry).texts)
            kept = [cell for cell in cells if not excluded <= set(cell.texts)]
            if len(kept) == len(cells):
                raise entry.wrong("excludes no cell")
            cells = kept
    return tuple(cells)


def _cell(entry: Place) -> Cell:
    if not isinstance(entry.value, dict) or not 1 <= len(entry.value) <= AXES_MAX:
        raise entry.wrong(f"must be a mapping of 1 to {AXES_MAX} axes to texts")
    for axis, text in entry.entries():
        _check_axis(text, axis)
    return Cell(tuple((axis, _text(text)) for axis, text in entry.entries()))


def _check_axis(entry: Place, axis: object) -> None:
    if (
        not isinstance(axis, str)
        or _AXIS.fullmatch(axis) is None
        or axis.startswith(OWN_VARIABLES)
        or axis in ("PATH", "HOME")
    ):
        raise WrongValue(
            "is no axis: write up to 32 capital letters, digits and '_', a letter first, and"
            f" neither PATH, HOME nor {OWN_VARIABLES}...",
            entry.path,
            str(axis).encode("unicode_escape").decode("ascii")[:40],
        )


def _text(entry: Place) -> str:
    if not isinstance(entry.value, str) or _TEXT.fullmatch(entry.value) is None:
        raise entry.wrong(
            'must be text in quotes, as "3.10": up to 64 of letters, digits and ._+@/:-'
        )
    return entry.value
