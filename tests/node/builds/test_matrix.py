"""Builds with a matrix: what they come to, cell by cell."""

import json
import secrets
from typing import Any

import docker
import pytest

from ci.case_reports import cases_named
from ci.case_results import CaseOutcome
from ci.operations import ImageDigest, Outcome, ResultWithTests
from common.pipeline.pipeline_file import Pipeline, PipelineCell, Resources, Step
from node.builds.matrix import result_of_cells
from node.sandboxes.sandbox import RunResult
from node.work.infrastructure_error import InfrastructureError
from tests.node.conftest import Builder, BuilderMaker, ConfigMaker, GitRepository

ONE, OTHER = (f"sha256:{digit * 64}" for digit in "12")
REPORT = '<testsuite name="s"><testcase name="t$A">%s</testcase></testsuite>'


@pytest.fixture
async def builder(
    repository: GitRepository, make_config: ConfigMaker, make_builder: BuilderMaker
) -> Builder:
    return await make_builder(make_config(repository.url, executor="process"))


async def found(
    repository: GitRepository, builder: Builder, texts: list[str], **keys: Any
) -> tuple[ResultWithTests, str]:
    """The result of these commands in a cell for each text of the axis A, and the log."""
    file = json.dumps({"image": "any", "matrix": {"A": texts}, **keys})
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": file}))
    result = await builder.find(order)
    assert isinstance(result, ResultWithTests)
    return result, builder.log(order)


async def test_all_cells_are_run_and_the_first_that_did_not_pass_is_the_result(
    repository: GitRepository, builder: Builder
) -> None:
    commands = ["test ! -e left && echo > left", 'exit "$A"']
    result, log = await found(repository, builder, ["0", "5", "3", "00"], commands=commands)
    assert (result.compared.outcome, result.compared.exit_code) == (Outcome.FAILED, 5)
    assert cases_named(result.tests) == {
        "A=0": CaseOutcome.PASSED,
        "A=5": CaseOutcome.FAILED,
        "A=3": CaseOutcome.FAILED,
        "A=00": CaseOutcome.PASSED,
    }
    for line in ("cell A=0 (1 of 4)", "cell A=0: passed, exit code 0", "cell A=3: failed, exit"):
        assert line in log
    assert "cell A=5: step build did not pass" in log
    result, _ = await found(repository, builder, ["0", "00"], commands=commands)
    assert (result.compared.outcome, result.compared.exit_code) == (Outcome.PASSED, 0)


async def test_test_cases_have_their_cells_name(
    repository: GitRepository, builder: Builder
) -> None:
    result, log = await found(
        repository,
        builder,
        ["x", "y"],
        commands=[f"test $A = y || echo '{REPORT}' | sed s/[$]A/$A/ > a.xml" % ""],
        tests={"junit": ["a.xml"], "required": True},
    )
    assert (result.compared.outcome, result.compared.exit_code) == (Outcome.FAILED, 1)
    assert cases_named(result.tests) == {
        "A=x": CaseOutcome.PASSED,
        "A=x::s::tx": CaseOutcome.PASSED,
        "A=y": CaseOutcome.FAILED,
    }
    assert "cell A=y: tests: there is no test report" in log


async def test_a_matrix_of_which_no_step_is_wanted_is_skipped(
    repository: GitRepository, builder: Builder
) -> None:
    steps = [{"name": "s", "commands": ["true"], "when": {"event": "tag"}}]
    file = json.dumps({"image": "any", "matrix": {"A": ["x"]}, "steps": steps})
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": file}))
    result = await builder.find(order)
    assert result.compared.outcome is Outcome.SKIPPED
    assert not isinstance(result, ResultWithTests)


async def test_a_step_for_some_cells_runs_in_those_and_a_cell_without_steps_is_skipped(
    repository: GitRepository, builder: Builder
) -> None:
    steps: list[dict[str, Any]] = [
        {"name": "one", "commands": ["test $A = x"], "when": {"matrix": {"A": "x"}}},
        {"name": "both", "commands": ["test $A != z"], "when": {"matrix": {"A": ["x", "y"]}}},
    ]
    result, log = await found(repository, builder, ["z", "y", "x"], steps=steps)
    assert (result.compared.outcome, result.compared.exit_code) == (Outcome.PASSED, 0)
    assert [(step.name, step.choice) for step in result.compared.steps] == [
        ("one", True),
        ("both", True),
    ]
    assert cases_named(result.tests) == {
        "A=z": CaseOutcome.SKIPPED,
        "A=y": CaseOutcome.PASSED,
        "A=x": CaseOutcome.PASSED,
    }
    assert "step one: for other cells (when:)" in log
    # nothing has passed where what is not for other cells is not for this event
    steps[1]["when"]["event"] = "tag"
    steps[0]["when"]["event"] = "tag"
    file = json.dumps({"image": "any", "matrix": {"A": ["x", "y"]}, "steps": steps})
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": file}))
    assert (await builder.find(order)).compared.outcome is Outcome.SKIPPED


async def test_artifacts_of_a_cell_are_below_its_name(
    repository: GitRepository, builder: Builder
) -> None:
    made = {"commands": ["mkdir out", "echo $A >out/a", "echo same >out/b"], "artifacts": ["out"]}
    result, log = await found(repository, builder, ["x/y", "z"], **made)
    assert result.compared.outcome is Outcome.PASSED, log
    paths = [artifact.path for artifact in result.compared.artifacts]
    assert paths == ["A=x_y/out/a", "A=x_y/out/b", "A=z/out/a", "A=z/out/b"]
    contents = {artifact.path: artifact.sha256 for artifact in result.compared.artifacts}
    assert contents["A=z/out/b"] == contents["A=x_y/out/b"] != contents["A=z/out/a"]
    # those of all cells together have the limits of one build
    made["commands"] = ["mkdir out", "for i in $(seq 40); do echo >out/$i; done"]
    result, log = await found(repository, builder, ["x", "z"], **made)
    assert (result.compared.outcome, result.compared.exit_code) == (Outcome.FAILED, 1)
    assert not result.compared.artifacts
    assert "artifacts: those of all cells are more than 64 files" in log


@pytest.mark.docker
async def test_each_cell_has_its_image_and_containers_of_its_own(
    docker_engine: docker.DockerClient,
    base_image: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
) -> None:
    """Nothing of a cell is left for the next one, neither in its files nor on the engine."""
    tag = f"matrix-{secrets.token_hex(8)}"
    other = f"pbft-ci-example/busybox:{tag}"
    docker_engine.images.get(base_image).tag("pbft-ci-example/busybox", tag)
    try:
        builder = await make_builder(make_config(repository.url, local_images=(other,)))
        result, log = await found(
            repository,
            builder,
            [base_image, other],
            image="${A}",
            steps=[
                {"name": "one", "commands": ["test ! -e left", "echo > left", "nc -w 1 box 80"]},
                {"name": "two", "commands": ["test -e left"]},
            ],
            services=[
                {
                    "name": "box",
                    "image": "${A}",
                    "command": ["sh", "-c", "while :; do echo $A | nc -l -p 80; done"],
                    "ready": {"command": ["true"]},
                }
            ],
        )
    finally:
        docker_engine.images.remove(other)
    assert result.compared.outcome is Outcome.PASSED, log
    assert [image.name for image in result.compared.images] == sorted([base_image, other])
    assert f"cell A={other}: passed, exit code 0" in log
    assert dict.fromkeys(cases_named(result.tests).values()) == {CaseOutcome.PASSED: None}


def cell(name: str, image: str) -> PipelineCell:
    step = Step("s", image, ("x",), (), 1)
    return PipelineCell(name, name, Pipeline((step,), 1, Resources(1, 1, 1)))


def passed(digest: Any, image_id: str | None = "id") -> RunResult:
    return RunResult(Outcome.PASSED, 0, digest, image_id)


def test_the_images_of_a_green_build_are_those_of_all_cells() -> None:
    cells = (cell("A=1", "a"), cell("A=2", "b"))
    both = (ImageDigest("a", ONE), ImageDigest("b", OTHER))
    assert result_of_cells(cells, [passed(ONE), passed(OTHER)]).image_digest == both
    assert result_of_cells(cells, [passed(both, None), passed(OTHER)]).image_digest == both
    same = (cell("A=1", "a"), cell("A=2", "a"))
    assert result_of_cells(same, [passed(ONE), passed(ONE)]).image_digest == ONE
    assert result_of_cells(same, [passed(None), passed(None)]).image_digest is None
    assert result_of_cells(cells, [passed(None, None), passed(None, None)]).image_digest is None
    local = (ImageDigest("a", None), ImageDigest("b", ONE))
    assert result_of_cells(cells, [passed(None), passed(ONE)]).image_digest == local


def test_a_tag_that_moved_between_cells_is_no_finding() -> None:
    same = (cell("A=1", "a"), cell("A=2", "a"))
    with pytest.raises(InfrastructureError, match="another digest"):
        result_of_cells(same, [passed(ONE), passed(OTHER)])
    red = RunResult(Outcome.FAILED, 7, OTHER, "id")
    result = result_of_cells(same, [passed(ONE), red])
    assert (result.exit_code, result.image_digest, result.problem) == (7, OTHER, "cell A=2: failed")
