"""The cells of a matrix, and what the file of one cell is."""

import pytest

from ci.limits import Limits
from common.pipeline.pipeline_file import Pipeline, PipelineInvalid, parse_pipeline

LIMITS = Limits(build_seconds_max=600)
REST = """
services:
  - {name: database, image: "${DB}"}
steps:
  - name: test
    image: python:${PY}-slim
    commands: ["echo ${PY}"]
    environment: {MODE: fast}
  - {name: lint, image: lint, commands: [x]}
"""


def parsed(matrix: str, rest: str = REST) -> Pipeline:
    found = parse_pipeline(f"matrix: {matrix}\n{rest}".encode(), LIMITS)
    assert isinstance(found, Pipeline), found.texts
    return found


def refused(matrix: str, rest: str = "image: a\ncommands: [x]\n") -> PipelineInvalid:
    found = parse_pipeline(f"matrix: {matrix}\n{rest}".encode(), LIMITS)
    assert isinstance(found, PipelineInvalid)
    return found


def names(matrix: str) -> list[str]:
    return [cell.name for cell in parsed(matrix, "image: a\ncommands: [x]\n").cells]


def test_a_cell_has_its_texts_in_names_of_images_and_as_variables() -> None:
    found = parsed('{PY: ["3.9", "3.10"], DB: ["postgres:16"]}')
    assert [cell.name for cell in found.cells] == [
        "PY=3.9,DB=postgres:16",
        "PY=3.10,DB=postgres:16",
    ]
    second = found.cells[1].pipeline
    test, lint = second.steps
    assert (test.image, lint.image) == ("python:3.10-slim", "lint")
    assert test.commands == ("echo ${PY}",)
    assert dict(test.environment) == {"MODE": "fast", "PY": "3.10", "DB": "postgres:16"}
    assert dict(lint.environment) == {"PY": "3.10", "DB": "postgres:16"}
    (database,) = second.services
    assert (database.image, dict(database.environment)["PY"]) == ("postgres:16", "3.10")
    assert found.steps == found.cells[0].pipeline.steps


def test_cells_are_in_the_files_order() -> None:
    assert names('{B: ["2", "1"], A: [x, y]}') == ["B=2,A=x", "B=2,A=y", "B=1,A=x", "B=1,A=y"]
    exclude = '{B: ["2", "1"], A: [x, y], exclude: [{A: y, B: "2"}, {B: "1", A: x}]}'
    assert names(exclude) == ["B=2,A=x", "B=1,A=y"]
    assert names("{A: [x, y, z], exclude: [{A: y}]}") == ["A=x", "A=z"]
    assert names("{include: [{B: b, A: a}, {A: c, B: d}]}") == ["B=b,A=a", "B=d,A=c"]


def test_all_cells_together_have_the_time_of_a_build() -> None:
    found = parsed("{A: [x, y, z]}", "image: a\ncommands: [x]\n")
    assert {cell.pipeline.timeout_seconds for cell in found.cells} == {200}
    assert refused("{A: [x, y]}", "image: a\ncommands: [x]\ntimeout_seconds: 301\n").line == 4


@pytest.mark.parametrize(
    ("matrix", "told"),
    [
        ("[a]", "must be a mapping"),
        ("{}", "must be a mapping"),
        ("{A: []}", "list of 1 to 8"),
        ("{A: x}", "list of 1 to 8"),
        ("{A: [3.10]}", "text in quotes"),
        ("{A: ['a b']}", "text in quotes"),
        ("{A: ['a=b']}", "text in quotes"),
        ("{A: ['a,b']}", "text in quotes"),
        ("{A: ['$(x)']}", "text in quotes"),
        ("{A: [x, x]}", "a text twice"),
        ("{a: [x]}", "is no axis"),
        ("{PBFTCI_COMMIT: [x]}", "is no axis"),
        ("{PATH: [x]}", "is no axis"),
        ("{1: [x]}", "is no axis"),
        ("{A: [x], B: [x], C: [x], D: [x], E: [x]}", "1 to 4 axes"),
        ("{exclude: [{A: x}]}", "1 to 4 axes"),
        ("{A: [x], exclude: [{A: y}]}", "excludes no cell"),
        ("{A: [x], exclude: [{A: x}]}", "makes 0 cells"),
        ("{A: ['1', '2', '3'], B: ['1', '2', '3'], C: [x, y]}", "1 to 16 (cells_max)"),
        ("{A: [x], include: [{A: y}]}", "beside axes"),
        ("{include: [{A: x}, {B: x}]}", "the axes of the first"),
        ("{include: [{A: x}, {A: x}]}", "a cell twice"),
        ("{include: [x]}", "a mapping of 1 to 4"),
        (
            "{A: [" + "a" * 64 + "], B: [" + "b" * 64 + "]}",
            "a name of 133 characters",
        ),
    ],
)
def test_what_is_no_matrix(matrix: str, told: str) -> None:
    found = refused(matrix)
    assert told in found.text
    assert found.line == 1


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        (
            "image: a\ncommands: [x]\ncache: [{name: c, paths: [p], files: [f]}]\n",
            "is not there beside matrix",
        ),
        ("image: '${B}'\ncommands: [x]\n", "must be the name of an image"),
        ("image: a:${A}\ncommands: [x]\nenvironment: {A: y}\n", "is an axis"),
        (
            "image: a\ncommands: [x]\nservices: [{name: s, image: b, environment: {A: y}}]\n",
            "is an axis",
        ),
        ("image: ${A}/A\ncommands: [x]\n", "must be the name of an image"),
        ("commands: [x]\n", "is missing"),
        ("- x\n", ""),
    ],
)
def test_what_fits_no_matrix(rest: str, told: str) -> None:
    assert told in refused('{A: ["1", "2"]}', rest).text


STEP = "image: a\nsteps: [{name: s, commands: [x], when: {matrix: %s}}]\n"


@pytest.mark.parametrize(
    ("wanted", "cells"),
    [
        ("{A: x}", ["A=x,B=1", "A=x,B=2"]),
        ("{A: x, B: '2'}", ["A=x,B=2"]),
        ("{B: ['2', '3']}", ["A=x,B=2", "A=y,B=2", "A=y,B=3"]),
    ],
)
def test_a_step_may_be_for_some_cells(wanted: str, cells: list[str]) -> None:
    matrix = "{A: [x, y], B: ['1', '2', '3'], exclude: [{A: x, B: '3'}]}"
    found = parsed(matrix, STEP % wanted)
    assert [c.name for c in found.cells if c.pipeline.steps[0].is_wanted("b", "push")] == cells
    # of the build it is a step that runs, whichever cell is the first
    assert found.steps[0].is_wanted("b", "push")


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("x", "must be a mapping of axes"),
        ("{}", "must be a mapping of axes"),
        ("{C: x}", "must have axes of the matrix (A, B)"),
        ("{A: z}", "has z, which A is in no cell"),
        ("{A: x, B: '2'}", "is for no cell"),
        ("{A: 3.10}", "list of 1 to 8 texts"),
        ("{A: [3.10]}", "text in quotes"),
    ],
)
def test_cells_that_are_not_there(wanted: str, told: str) -> None:
    matrix = "{A: [x, y], B: ['1', '2'], exclude: [{A: x, B: '2'}]}"
    assert told in refused(matrix, STEP % wanted).text


def test_a_choice_of_cells_needs_a_matrix() -> None:
    found = parse_pipeline((STEP % "{A: x}").encode(), LIMITS)
    assert isinstance(found, PipelineInvalid)
    assert found.text == '.pbft-ci.yml:2: key "matrix": is there without a matrix'
    # a matrix that is wrong is told alone
    assert [told.count("key") for told in refused("[A]", STEP % "{A: x}").texts] == [1]


def test_the_network_says_how_many_cells() -> None:
    file = b"matrix: {A: [x, y]}\nimage: a\ncommands: [x]\n"
    assert isinstance(parse_pipeline(file, Limits(cells_max=2)), Pipeline)
    found = parse_pipeline(file, Limits(cells_max=1))
    assert isinstance(found, PipelineInvalid)
    assert "makes 2 cells; this network allows 1 to 1 (cells_max)" in found.text


def test_artifacts_of_two_cells_do_not_share_a_folder() -> None:
    rest = "image: a\ncommands: [x]\nartifacts: [a]\n"
    assert [cell.folder for cell in parsed("{A: [x/y, z]}", rest).cells] == ["A=x_y", "A=z"]
    assert "two cells into one folder" in refused("{A: [x/y, x_y]}", rest).text


def test_a_text_of_a_later_cell_that_makes_no_image_is_found() -> None:
    assert refused('{A: ["1", "/"]}', "image: a:${A}\ncommands: [x]\n").key == "image"


def test_at_most_eight_images_in_all_cells() -> None:
    texts = ", ".join(f'"{number}"' for number in range(5))
    steps = "steps: [{name: x, image: 'a:${A}', commands: [y]}"
    assert len(parsed(f"{{A: [{texts}]}}", f"{steps}]\n").cells) == 5
    found = refused(f"{{A: [{texts}]}}", f"{steps}, {{name: z, image: 'b:${{A}}', commands: [y]}}]")
    assert "there are 10 different ones" in found.text


def test_changed_files_leave_steps_out_of_every_cell() -> None:
    rest = "image: a\nsteps: [{name: s, commands: [x], when: {path: docs/**}}]\n"
    found = parsed("{A: [x, y]}", rest).for_changes(["main.c"])
    for pipeline in (found, *(cell.pipeline for cell in found.cells)):
        assert not pipeline.steps[0].is_wanted("main", "pull_request")
