"""When a build runs without caches: if that was asked for, and if others contradict it. No engine.

What the runs find is the test's; branches, scope, store and log are real.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from ci.assignments import Key
from ci.limits import Limits
from ci.operations import Outcome, ResultKey, UsedCache
from common.pipeline.pipeline_file import Pipeline, parse_pipeline
from driver.ports import BuildOrder
from node.builds.cached_runs import CachedRuns
from node.caches.cache_store import Entry
from node.outputs.build_log import BuildLog
from node.sandboxes.process_sandbox import ProcessSandbox
from node.sandboxes.sandbox import Origin, RunResult, Work, result_of_exit
from node.sources.checkout import Checkout
from tests.node.conftest import ConfigMaker, GitRepository, pipeline

WRITER = b"w" * 32
CACHE = {"name": "venv", "paths": ["$HOME/venv"], "files": ["lock"]}
FAILED, PASSED = result_of_exit(1, None, None), result_of_exit(0, None, None)


class Runs:
    """One build; a run with caches finds `warm`, with an entry, and one without finds `cold`."""

    def __init__(
        self,
        folder: Path,
        config: ConfigMaker,
        repository: GitRepository,
        threads: ThreadPoolExecutor,
    ) -> None:
        text = pipeline("image", "true", cache=[CACHE])
        self.commit = repository.commit({".pbft-ci.yml": text, "lock": "1"})
        self.asked: list[tuple[Key, ResultKey]] = []
        self.had_caches: list[bool] = []
        self.is_contradicted = False
        checkout = Checkout(config(repository.url), threads)
        checkout.start()
        self.runs = CachedRuns(
            config(repository.url),
            threads,
            checkout=checkout,
            sandbox=ProcessSandbox(threads),
            is_contradicted=self._ask,
        )
        job = parse_pipeline(text.encode(), Limits())
        assert isinstance(job, Pipeline)
        self.order = BuildOrder(bytes(32), 1, repository.url, "main", self.commit, Limits())
        self.log = BuildLog(folder / "log", 2**20)
        (folder / "work").mkdir()
        self.work = Work(
            label="label",
            tree=folder / "work" / "tree",
            folder=folder / "work",
            job=job,
            origin=Origin("", repository.url, "main", "refs/heads/main", "push", self.commit, 0),
            limits=Limits(),
            log=self.log,
            show_state=lambda _: None,
            local_images=(),
        )

    def _ask(self, key: Key, own: ResultKey) -> bool:
        self.asked.append((key, own))
        return self.is_contradicted

    async def run(self, warm: RunResult, cold: RunResult, *, is_cold: bool = False) -> RunResult:
        async def attempt(work: Work) -> RunResult:
            self.had_caches.append(work.caches is not None)
            if work.caches is None:
                return cold
            entry = Entry("", "key", "url", "venv", WRITER.hex(), 1, "", 0, ())
            # each cell of a matrix may find the same
            work.caches.used += [entry, entry]
            return warm

        await self.runs.start()
        self.order = msgspec.structs.replace(self.order, is_cold=is_cold)
        return await self.runs.run(
            self.order,
            self.work,
            {"lock": "1" * 64},
            heads=None,
            attempt=attempt,
            key_of=self.key_of,
        )

    def key_of(self, result: RunResult) -> ResultKey:
        return ResultKey(result.outcome, result.exit_code, self.commit, "a" * 64, None)

    @property
    def said(self) -> str:
        return self.log.read(0, 2**20).data.decode()


@pytest.fixture
def runs(tmp_path: Path, make_config: ConfigMaker, repository: GitRepository) -> Iterator[Runs]:
    with ThreadPoolExecutor(2) as threads:
        yield Runs(tmp_path, make_config, repository, threads)


async def test_a_build_that_was_asked_for_without_caches_has_none(runs: Runs) -> None:
    assert await runs.run(FAILED, PASSED, is_cold=True) == PASSED
    assert runs.had_caches == [False]
    assert runs.runs.used(runs.order) == ()
    assert "a build without caches was asked for" in runs.said
    # and nothing waits for its verdict, so it stores and removes nothing
    await runs.runs.stage(runs.order)
    assert not runs.runs.caches.is_waiting


async def test_what_others_contradict_is_run_again_without_caches(runs: Runs) -> None:
    runs.is_contradicted = True
    assert await runs.run(FAILED, PASSED) == PASSED
    assert runs.had_caches == [True, False]
    assert runs.asked == [(runs.order.key, runs.key_of(FAILED))]
    assert runs.runs.used(runs.order) == ()
    assert runs.runs.caches.counts.cold_rebuilds == 1


async def test_what_nobody_contradicts_is_voted(runs: Runs) -> None:
    assert await runs.run(FAILED, PASSED) == FAILED
    assert runs.had_caches == [True]
    assert runs.runs.used(runs.order) == (UsedCache("venv", WRITER),)


async def test_what_passed_with_caches_is_voted(runs: Runs) -> None:
    runs.is_contradicted = True
    assert await runs.run(PASSED, FAILED) == PASSED
    assert runs.had_caches == [True]
    assert runs.asked == []


async def test_without_time_for_a_second_run_the_first_is_voted(runs: Runs) -> None:
    runs.is_contradicted = True
    limits = msgspec.structs.replace(Limits(), deadline_seconds=0)
    runs.order = msgspec.structs.replace(runs.order, limits=limits)
    assert (await runs.run(FAILED, PASSED)).outcome is Outcome.FAILED
    assert runs.had_caches == [True]
