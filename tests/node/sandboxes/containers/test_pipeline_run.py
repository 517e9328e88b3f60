"""What a build may do to the builds of others on the same image, without an engine."""

import io
from concurrent.futures import Future
from typing import BinaryIO

import msgspec
import pytest

from ci.limits import Limits
from ci.operations import Outcome
from common.pipeline.pipeline_file import Cache, CachedPath, Pipeline, parse_pipeline
from node.caches.cache_store import Entry
from node.caches.entry_archive import Part
from node.egress.operator_rules import OperatorRules
from node.sandboxes.containers import pipeline_run
from node.sandboxes.containers.build_cache import OpeningEntry
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


CACHE = Cache("tree", (CachedPath("home", ".tree"),), ("lock",))
FOUND = ((CACHE, Entry("", "key", "", "", "", 1, "", 0, ())),)


@pytest.mark.parametrize(
    ("problem", "is_unpacked_by_the_engine", "is_remembered"),
    [
        (TreeNotTaken("tar says no"), True, True),
        (TreeNotTaken("tar says no"), False, False),
        # one commit may have a link where a cache has a folder; a disk may rot
        (pipeline_run._NotOverCaches("tar says no"), True, False),
        (pipeline_run._EntryUnreadable("the disk says no"), True, False),
    ],
)
def test_what_is_the_matter_with_one_build_does_not_count_against_the_image(
    monkeypatch: pytest.MonkeyPatch,
    problem: Exception,
    is_unpacked_by_the_engine: bool,
    is_remembered: bool,
) -> None:
    tried: list[object] = []

    def run_alone(*_: object, **_named: object) -> RunResult:
        raise problem

    def run_steps(*_: object, found: object, **_named: object) -> RunResult:
        tried.append(found)
        if not is_unpacked_by_the_engine:
            raise OSError("the engine says no, too")
        return RunResult(Outcome.PASSED, 0)

    monkeypatch.setattr(pipeline_run, "find_caches", lambda *_: FOUND)
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
    assert bool(without_tar) is is_remembered
    assert tried == [() if isinstance(problem, pipeline_run._EntryUnreadable) else FOUND]


def test_an_entry_that_ends_early_ends_the_handing_in() -> None:
    file = io.BytesIO(b"x" * 1000)
    entry = msgspec.structs.replace(FOUND[0][1], parts=(Part("home", 1024, 0, 0),))
    opened: Future[BinaryIO | None] = Future()
    opened.set_result(file)
    (archive,) = pipeline_run._early_archives(OpeningEntry(entry, opened), Stop())
    with pytest.raises(pipeline_run._EntryUnreadable, match="shorter"):
        list(archive.pieces)
