"""What a build may do to the builds of others on the same image, without an engine."""

import pytest

from ci.limits import Limits
from ci.operations import Outcome
from common.pipeline.pipeline_file import Pipeline, parse_pipeline
from node.egress.operator_rules import OperatorRules
from node.sandboxes.containers import pipeline_run
from node.sandboxes.containers.container_output import TreeNotTaken
from node.sandboxes.containers.docker_engine import EngineResources, Image
from node.sandboxes.containers.pipeline_run import RunContext, run_pipeline
from node.sandboxes.sandbox import RunResult
from node.work.threads import Stop
from tests.node.conftest import pipeline


class Engine:
    def remove_container(self, *_: object, **__: object) -> None:
        """It is gone."""


class Log:
    def note(self, _: str) -> None:
        """Nobody reads it."""


class Order:
    log = Log()
    caches = None


@pytest.mark.parametrize("is_unpacked_by_the_engine", [True, False])
def test_a_tree_that_nobody_unpacks_does_not_count_against_the_image(
    monkeypatch: pytest.MonkeyPatch, is_unpacked_by_the_engine: bool
) -> None:
    def run_alone(*_: object, **_named: object) -> RunResult:
        raise TreeNotTaken("tar says no")

    def run_steps(*_: object, **_named: object) -> RunResult:
        if not is_unpacked_by_the_engine:
            raise OSError("the engine says no, too")
        return RunResult(Outcome.PASSED, 0)

    monkeypatch.setattr(pipeline_run, "_is_short", lambda *_, **__: True)
    monkeypatch.setattr(pipeline_run, "_run_alone", run_alone)
    monkeypatch.setattr(pipeline_run, "_run_steps", run_steps)
    limits = Limits()
    asked = parse_pipeline(pipeline("image", "true").encode(), limits)
    assert isinstance(asked, Pipeline)
    without_tar: set[str] = set()
    context = RunContext(
        pipeline=asked,
        images={"image": Image("id", None, (), has_command=True, has_triggers=False, bytes=1)},
        work=Order(),  # type: ignore[arg-type]
        name="name",
        labels={},
        limits=limits,
        network=OperatorRules(is_allowed=False),
        ca_bundle=None,
        package_proxies={},
        without_tar=without_tar,
        resources=EngineResources(containers=["first"]),
    )
    try:
        run_pipeline(Engine(), context, asked.steps, stop=Stop())  # type: ignore[arg-type]
    except OSError:
        assert not is_unpacked_by_the_engine
    assert bool(without_tar) is is_unpacked_by_the_engine
