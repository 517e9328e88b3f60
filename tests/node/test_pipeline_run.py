"""What a build may do to the builds of others on the same image, without an engine."""

import pytest

from ci.limits import Limits
from ci.operations import Outcome
from common.pipeline import Pipeline, parse_pipeline
from node import pipeline_run
from node.container_output import TreeNotTaken
from node.docker_engine import Image, Remains
from node.pipeline_run import Grounds, run_pipeline
from node.run_result import RunResult
from node.threads import Stop
from tests.node.conftest import pipeline


class Engine:
    def remove_container(self, *_: object, **__: object) -> None:
        """It is gone."""


class Log:
    def note(self, _: str) -> None:
        """Nobody reads it."""


class Order:
    log = Log()


@pytest.mark.parametrize("is_unpacked_by_the_engine", [True, False])
def test_a_tree_that_nobody_unpacks_does_not_count_against_the_image(
    monkeypatch: pytest.MonkeyPatch, is_unpacked_by_the_engine: bool
) -> None:
    def run_alone(*_: object) -> RunResult:
        raise TreeNotTaken("tar says no")

    def run_steps(*_: object) -> RunResult:
        if not is_unpacked_by_the_engine:
            raise OSError("the engine says no, too")
        return RunResult(Outcome.PASSED, 0)

    monkeypatch.setattr(pipeline_run, "_is_short", lambda *_: True)
    monkeypatch.setattr(pipeline_run, "_run_alone", run_alone)
    monkeypatch.setattr(pipeline_run, "_run_steps", run_steps)
    limits = Limits()
    asked = parse_pipeline(pipeline("image", "true").encode(), limits)
    assert isinstance(asked, Pipeline)
    without_tar: set[str] = set()
    grounds = Grounds("name", {}, limits, False, None, without_tar, Remains(containers=["first"]))
    image = Image("id", None, (), has_command=True, has_triggers=False, bytes=1)
    try:
        run_pipeline(Engine(), asked, asked.steps, image, Order(), grounds, Stop())  # type: ignore[arg-type]
    except OSError:
        assert not is_unpacked_by_the_engine
    assert bool(without_tar) is is_unpacked_by_the_engine
