"""The life of a build: places, retries, abstentions, what is left behind, and the evidence."""

import asyncio
import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import msgspec
import pytest

import node.builds.build_runner
import node.sources.checkout
from ci.artifact_rules import BILL_OF_MATERIALS
from ci.operations import (
    Abstain,
    BuildResult,
    CastBallot,
    Outcome,
    decode_operation,
    encode_operation,
)
from common.git_commits import read_commits
from common.log_times import read_times
from driver.ports import BuildOrder
from node.caches.cache_store import CacheStore
from node.outputs.build_log import BuildLog
from node.outputs.kept_builds import KeptBuilds
from node.sandboxes.containers.docker_engine import BUILD_LABEL
from node.sandboxes.process_sandbox import ProcessSandbox
from node.sources.checkout import Checkout
from scripts.free_ports import free_ports
from tests.node.conftest import (
    PATIENCE_SECONDS,
    Builder,
    BuilderMaker,
    ConfigMaker,
    GitRepository,
    end_processes_in,
    pipeline,
    processes_in,
    until,
)


@pytest.fixture
async def builder(
    repository: GitRepository, make_config: ConfigMaker, make_builder: BuilderMaker
) -> Builder:
    """Without an engine: these tests are about what comes around a run."""
    return await make_builder(make_config(repository.url, executor="process"))


@pytest.fixture
def serve(repository: GitRepository) -> Iterator[Callable[[int], None]]:
    """Serve the repository with git's own daemon on a port of loopback."""
    started: list[subprocess.Popen[bytes]] = []

    def start(port: int) -> None:
        started.append(
            subprocess.Popen(
                [
                    *("git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"),
                    *(f"--port={port}", f"--base-path={repository.folder.parent}"),
                    str(repository.folder.parent),
                ],
                stderr=subprocess.DEVNULL,
            )
        )

    yield start
    for process in started:
        process.terminate()
        process.wait(10)


async def test_the_finding_is_complete(repository: GitRepository, builder: Builder) -> None:
    text = pipeline("any", "exit 3")
    commit = repository.commit({".pbft-ci.yml": text})
    order = builder.order(repository.url, commit)
    finding = await builder.find(order)
    compared, evidence = finding.compared, finding.evidence
    assert (compared.outcome, compared.exit_code) == (Outcome.FAILED, 3)
    assert compared.commit == commit
    assert compared.pipeline_sha256 == hashlib.sha256(text.encode()).hexdigest()
    log = builder.runner.log_path(order.build, order.opened).read_bytes()
    assert evidence.log_sha256 == hashlib.sha256(log).hexdigest()
    assert evidence.log_bytes == len(log)
    assert evidence.version == "test"
    assert evidence.checkout_milliseconds > 0
    commits = builder.runner.commits_path(order.build, order.opened).read_bytes()
    assert [facts.id for facts in read_commits(commits, commit)] == [commit]
    times = read_times(builder.runner.times_path(order.build, order.opened).read_bytes())
    assert times[0][0] == 0
    assert times[-1][0] < len(log)
    cast = CastBallot(order.build, order.opened, finding)
    assert decode_operation(encode_operation(cast)) == cast


async def test_what_may_take_long_is_not_done_on_the_loop(
    repository: GitRepository, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile file, a hostile tree and a long log hold up this build and nothing else."""
    found: dict[str, bool] = {}

    def watch(where: Any, name: str) -> None:
        really = getattr(where, name)

        def watched(*arguments: Any) -> Any:
            found[name] = threading.current_thread() is threading.main_thread()
            return really(*arguments)

        monkeypatch.setattr(where, name, watched)

    watch(node.builds.build_runner, "parse_pipeline")
    watch(node.sources.checkout, "check_tree")
    watch(BuildLog, "finish")
    commit = repository.commit({".pbft-ci.yml": pipeline("any", "exit 0")})
    await builder.find(builder.order(repository.url, commit))
    assert found == {"parse_pipeline": False, "check_tree": False, "finish": False}
    found.clear()
    abstained = await builder.build(builder.order("https://example.org/unlisted", commit))
    assert isinstance(abstained, Abstain)
    assert found == {"finish": False}


async def test_the_path_of_the_log(builder: Builder, tmp_path: Path) -> None:
    path = builder.runner.log_path(b"\x01" * 32, 7)
    assert path == tmp_path / "data" / "builds" / f"{'01' * 32}-7" / "log"


@pytest.mark.parametrize(
    ("files", "links", "said"),
    [
        ({"a": "1"}, {}, "neither this file nor a Dockerfile"),
        ({".pbft-ci.yml": "imag: a\n"}, {}, 'did you mean "image"?'),
        ({"a": "1"}, {".pbft-ci.yml": "/etc/passwd"}, "not a plain file"),
        ({"a": "1"}, {"Dockerfile": "a"}, "not a plain file"),
        ({".pbft-ci.yml": "#" * 70_000}, {}, "at most 65536"),
        ({".pbft-ci.yml": pipeline("a", "true"), "b": b"x" * 2**21}, {}, "needs 2101248 bytes"),
    ],
)
async def test_what_cannot_be_run_is_the_repositorys_affair(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    files: dict[str, str | bytes],
    links: dict[str, str],
    said: str,
) -> None:
    builder = await make_builder(
        make_config(repository.url, executor="process"), workspace_bytes=2**21
    )
    commit = repository.commit(files, links)
    order = builder.order(repository.url, commit)
    finding = await builder.find(order)
    assert finding.compared.outcome is Outcome.PIPELINE_INVALID
    assert finding.compared.exit_code is None
    assert finding.compared.commit == commit
    assert said in builder.log(order)


class HurriedClock:
    """Stands for the module `time` in checkout: each try there takes half a second longer."""

    def __init__(self) -> None:
        self.tries = 0

    def monotonic(self) -> float:
        """The machine's time, and what the tries took longer."""
        return time.monotonic() + self.tries / 2


async def test_no_such_branch_is_found_at_once_and_a_lost_commit_after_10_seconds(
    repository: GitRepository, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HurriedClock()
    seen_at: list[float] = []
    check_out = Checkout._try

    async def noted(self: Checkout, *arguments: Any) -> object:
        found = await check_out(self, *arguments)
        clock.tries += 1
        seen_at.append(clock.monotonic())
        return found

    monkeypatch.setattr("node.sources.checkout.time", clock)
    monkeypatch.setattr("node.sources.checkout.ASKED_AGAIN_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(Checkout, "_try", noted)
    repository.commit({"a": "1"})
    absent = await builder.find(builder.order(repository.url, None, "nothing"))
    assert absent.compared.outcome is Outcome.CHECKOUT_FAILED
    assert (absent.compared.exit_code, absent.compared.commit) == (128, None)
    assert not seen_at
    lost = await builder.build(builder.order(repository.url, "f" * 40))
    assert isinstance(lost, Abstain)
    assert "or was moved since" in lost.reason
    assert seen_at[-1] - seen_at[0] >= 10
    assert seen_at[-2] - seen_at[0] < 10


async def test_an_option_for_a_branch(repository: GitRepository, builder: Builder) -> None:
    commit = repository.commit({"a": "1"})
    order = builder.order(repository.url, commit, "--upload-pack=touch owned")
    finding = await builder.find(order)
    assert finding.compared.outcome is Outcome.CHECKOUT_FAILED
    assert "starts with '-'" in builder.log(order)


async def test_a_repository_that_is_not_listed(builder: Builder, tmp_path: Path) -> None:
    other = GitRepository(tmp_path / "other")
    ballot = await builder.build(builder.order(other.url, other.commit({"a": "1"})))
    assert isinstance(ballot, Abstain)
    assert "list" in ballot.reason


async def test_a_server_that_stays_down_is_an_abstention_after_the_configured_time(
    make_config: ConfigMaker, make_builder: BuilderMaker
) -> None:
    url = f"git://127.0.0.1:{free_ports(1)[0]}/repository"
    builder = await make_builder(make_config(url, executor="process", abstain_after_seconds=3))
    order = builder.order(url, "a" * 40)
    began_at = time.monotonic()
    task = asyncio.create_task(builder.build(order))
    await until(lambda: builder.state(order).startswith("retrying: "))
    ballot = await task
    assert isinstance(ballot, Abstain)
    assert time.monotonic() - began_at >= 3
    assert "Connection refused" in ballot.reason
    assert builder.log(order).count("Connection refused") >= 2
    assert builder.state(order) == "none"


async def test_a_server_that_comes_back_in_time_is_a_finding(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    serve: Callable[[int], None],
) -> None:
    commit = repository.commit({".pbft-ci.yml": pipeline("any", "exit 0")})
    (port,) = free_ports(1)
    url = f"git://127.0.0.1:{port}/repository"
    builder = await make_builder(make_config(url, executor="process", abstain_after_seconds=60))
    order = builder.order(url, commit)
    task = asyncio.create_task(builder.build(order))
    await until(lambda: builder.state(order).startswith("retrying: "))
    serve(port)
    ballot = await asyncio.wait_for(task, PATIENCE_SECONDS)
    assert not isinstance(ballot, Abstain)
    assert ballot.compared.outcome is Outcome.PASSED


async def test_an_order_to_spare_is_left_where_the_pipeline_asks_for_weak_agreement(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    tmp_path: Path,
) -> None:
    config = make_config(repository.url, executor="process")
    builder = await make_builder(config, weak_agreement_allowed=True, executors="minimal")
    sign = tmp_path / "sign"
    weak = repository.commit({".pbft-ci.yml": pipeline("any", f"touch {sign}", agreement="weak")})
    spare = msgspec.structs.replace(builder.order(repository.url, weak), is_spare=True)
    assert await builder.runner.build(spare) is None
    assert not sign.exists()
    assert "this replica stands by" in builder.log(spare)
    assert builder.state(spare) == "none"
    await builder.runner.settle()
    needed = msgspec.structs.replace(spare, is_spare=False)
    found = await builder.find(needed)
    assert (found.compared.outcome, found.compared.agreement) == (Outcome.PASSED, "weak")
    assert sign.exists()
    assert "stands by" not in builder.log(needed), "its log begins anew"
    strong = repository.commit({".pbft-ci.yml": pipeline("any", "exit 0")})
    for commit, branch in ((strong, "main"), (None, "nowhere")):
        order = builder.order(repository.url, commit, branch)
        spare = msgspec.structs.replace(order, is_spare=True)
        assert isinstance(await builder.build(spare), BuildResult)


async def test_the_name_of_the_list_of_what_went_in_is_taken(
    repository: GitRepository, builder: Builder
) -> None:
    """People would take a file of the build's own for the node's."""
    make = f"mkdir pbft-ci && echo '{{}}' >{BILL_OF_MATERIALS}"
    text = pipeline("any", make, artifacts=[BILL_OF_MATERIALS])
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    found = (await builder.find(order)).compared
    assert (found.outcome, found.exit_code, found.artifacts) == (Outcome.FAILED, 1, ())
    assert "the name is for the list of what went in" in builder.log(order)


async def test_steps_for_other_files_than_those_of_a_request_are_left_out(
    repository: GitRepository, builder: Builder
) -> None:
    steps: list[dict[str, Any]] = [
        {"name": "docs", "commands": ["exit 1"], "when": {"path": "docs/**"}},
        {"name": "code", "commands": ["true"], "when": {"path": {"exclude": ["docs/**"]}}},
    ]
    text = json.dumps({"image": "any", "steps": steps})
    files: dict[str, str | bytes] = {".pbft-ci.yml": text, "docs/a": "1"}
    base = repository.commit(files)
    repository.git("checkout", "--quiet", "-b", "work")
    commit = repository.commit(files | {"code": "1"})
    repository.git("update-ref", "refs/pull/1/head", commit)
    push = builder.order(repository.url, commit, "work")
    assert (await builder.find(push)).compared.outcome is Outcome.FAILED
    request = msgspec.structs.replace(
        builder.order(repository.url, commit), event="pull_request", ref="refs/pull/1/head"
    )
    found = (await builder.find(request)).compared
    assert found.outcome is Outcome.PASSED, builder.log(request)
    assert [(step.name, step.is_wanted) for step in found.steps] == [
        ("docs", False),
        ("code", True),
    ]
    log = builder.log(request)
    assert f"path: 1 file changed since {base}, where main was left" in log
    assert "step docs: no file of its path was changed" in log
    repository.git("update-ref", "refs/heads/main", commit)
    late = msgspec.structs.replace(request, opened=request.opened + 1000)
    ballot = await builder.build(late)
    assert isinstance(ballot, Abstain), ballot
    assert "has the commit already" in ballot.reason


async def test_two_at_once_and_the_others_wait(
    repository: GitRepository, builder: Builder, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    text = pipeline("any", f"while ! test -e {gate}; do sleep 0.05; done")
    commit = repository.commit({".pbft-ci.yml": text})
    orders = [builder.order(repository.url, commit) for _ in range(5)]
    tasks = [asyncio.create_task(builder.build(order)) for order in orders]

    def states() -> list[str]:
        return sorted(builder.state(order) for order in orders)

    await until(lambda: states() == ["building"] * 2 + ["waiting"] * 3)
    gate.touch()
    ballots = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_SECONDS)
    assert all(not isinstance(ballot, Abstain) for ballot in ballots)
    assert states() == ["none"] * 5


async def test_a_build_in_trouble_holds_no_place(
    repository: GitRepository, make_config: ConfigMaker, make_builder: BuilderMaker
) -> None:
    down = f"git://127.0.0.1:{free_ports(1)[0]}/repository"
    config = make_config(
        repository.url, down, executor="process", builds_at_once=1, abstain_after_seconds=600
    )
    builder = await make_builder(config)
    stuck = builder.order(down, "a" * 40)
    task = asyncio.create_task(builder.build(stuck))
    await until(lambda: builder.state(stuck).startswith("retrying: "))
    commit = repository.commit({".pbft-ci.yml": pipeline("any", "exit 0")})
    finding = await asyncio.wait_for(
        builder.find(builder.order(repository.url, commit)), PATIENCE_SECONDS
    )
    assert finding.compared.exit_code == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE_SECONDS)


# In the shell's group, and out of it.
SLEEPS = ("setsid sleep 600 &", "sleep 600")


def sleepers_in(folder: Path) -> int:
    """How many of them there are."""
    return list(processes_in(folder).values()).count("sleep 600")


@pytest.mark.parametrize("have_begun", [False, True])
async def test_close_ends_all_builds(
    repository: GitRepository, builder: Builder, tmp_path: Path, have_begun: bool
) -> None:
    commit = repository.commit({".pbft-ci.yml": pipeline("any", *SLEEPS)})
    orders = [builder.order(repository.url, commit) for _ in range(3)]
    tasks = [asyncio.create_task(builder.build(order)) for order in orders]
    await until(lambda: [builder.state(order) for order in orders].count("building") == 2)
    if have_begun:
        await until(lambda: sleepers_in(tmp_path) == 2 * len(SLEEPS))
    await asyncio.wait_for(builder.runner.close(), PATIENCE_SECONDS)
    assert all(task.cancelled() for task in tasks)
    assert end_processes_in(tmp_path) == {}


async def test_a_fault_in_tidying_up_takes_no_cancels_place(
    repository: GitRepository,
    builder: Builder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else a shutdown would be an abstention, where the build is owed again after it."""

    async def fail(self: ProcessSandbox, label: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ProcessSandbox, "remove", fail)
    commit = repository.commit({".pbft-ci.yml": pipeline("any", *SLEEPS)})
    order = builder.order(repository.url, commit)
    task = asyncio.create_task(builder.build(order))
    await until(lambda: sleepers_in(tmp_path) == len(SLEEPS))
    await asyncio.wait_for(builder.runner.close(), PATIENCE_SECONDS)
    assert task.cancelled()
    assert "ZeroDivisionError" in caplog.text
    assert end_processes_in(tmp_path) == {}


async def test_a_fault_in_tidying_up_leaves_the_nodes_own_trouble_as_it_is(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(self: ProcessSandbox, *_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(ProcessSandbox, "run", fail)
    monkeypatch.setattr(ProcessSandbox, "remove", lambda self, label: 1 / 0)
    config = make_config(repository.url, executor="process", abstain_after_seconds=1)
    builder = await make_builder(config)
    commit = repository.commit({".pbft-ci.yml": pipeline("any", "true")})
    ballot = await builder.build(builder.order(repository.url, commit))
    assert ballot == Abstain("this machine: no space left on device")


async def test_the_sweep_goes_on_after_a_fault_of_our_own(
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("node.builds.build_runner.SWEEP_AGAIN_SECONDS", 0.01)
    swept = []

    def sweep(self: KeptBuilds, is_in_use: object) -> None:
        swept.append(self)
        raise ZeroDivisionError

    monkeypatch.setattr(KeptBuilds, "sweep", sweep)
    await make_builder(make_config(executor="process"))
    await until(lambda: len(swept) >= 3)
    assert "ZeroDivisionError" in caplog.text


async def test_old_caches_go_also_where_nothing_is_built(
    make_config: ConfigMaker, make_builder: BuilderMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.builds.build_runner.SWEEP_AGAIN_SECONDS", 0.01)
    swept: list[CacheStore] = []

    def sweep(store: CacheStore) -> None:
        swept.append(store)

    monkeypatch.setattr(CacheStore, "sweep", sweep)
    await make_builder(make_config(executor="process"))
    # once at its start, and then again and again
    await until(lambda: len(swept) >= 3)


async def test_start_removes_work_folders_and_keeps_logs(
    repository: GitRepository, make_config: ConfigMaker, make_builder: BuilderMaker, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "builds" / ("00" * 32 + "-1")
    (folder / "work" / "checkout").mkdir(parents=True)
    (folder / "work" / "checkout" / "file").write_text("x")
    (folder / "work" / "checkout").chmod(0o500)
    (folder / "log").write_text("kept")
    await make_builder(make_config(repository.url, executor="process"))
    assert not (folder / "work").exists()
    assert (folder / "log").read_text() == "kept"


async def test_the_oldest_logs_make_room(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.outputs.kept_builds.SWEEP_SECONDS", 0.0)
    builder = await make_builder(make_config(repository.url, executor="process", builds_kept_max=2))
    commit = repository.commit({".pbft-ci.yml": pipeline("any", "true")})
    orders = [builder.order(repository.url, commit) for _ in range(4)]
    for order in orders:
        await builder.find(order)
    kept = [builder.runner.log_path(order.build, order.opened).exists() for order in orders]
    assert kept == [False, False, True, True]
    assert builder.runner.kept.removed_count == 2


async def test_a_disk_that_takes_nothing_is_an_infrastructure_error(
    repository: GitRepository, builder: Builder, tmp_path: Path
) -> None:
    commit = repository.commit({".pbft-ci.yml": pipeline("any", "true")})
    (tmp_path / "data" / "builds").rmdir()
    (tmp_path / "data" / "builds").write_text("in the way")
    ballot = await builder.build(builder.order(repository.url, commit))
    assert isinstance(ballot, Abstain)
    assert "this machine" in ballot.reason


async def test_a_fault_in_our_own_code_is_an_abstention(
    repository: GitRepository, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("node.builds.build_runner.parse_pipeline", fail)
    commit = repository.commit({".pbft-ci.yml": "x"})
    order = builder.order(repository.url, commit)
    ballot = await builder.build(order)
    assert isinstance(ballot, Abstain)
    assert "fault" in ballot.reason
    assert builder.state(order) == "none"


@pytest.mark.docker
async def test_two_at_once_in_containers(
    docker_engine: docker.DockerClient,
    base_image: str,
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
) -> None:
    """Counted on the engine itself, not in our own bookkeeping."""
    builder = await make_builder(make_config(repository.url))
    commit = repository.commit({".pbft-ci.yml": pipeline(base_image, "sleep 1")})
    label = {"label": f"pbft-ci.cluster={builder.cluster_id.hex()}"}
    orders: list[BuildOrder] = [builder.order(repository.url, commit) for _ in range(5)]
    tasks = [asyncio.create_task(builder.build(order)) for order in orders]
    counts: list[int] = []
    while not all(task.done() for task in tasks):
        there = await asyncio.to_thread(docker_engine.api.containers, all=True, filters=label)
        # a build has one container for what it shares and one for the step that runs
        counts.append(len({container["Labels"][BUILD_LABEL] for container in there}))
        await asyncio.sleep(0.05)
    assert max(counts) == 2
    assert all(not isinstance(task.result(), Abstain) for task in tasks)


async def test_a_build_keeps_its_place_until_nothing_is_left_of_it(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its ballot is there before; the next build waits, and so does the same one."""
    may_end, removed = asyncio.Event(), []

    async def remove(self: ProcessSandbox, label: str) -> None:
        await may_end.wait()
        removed.append(label)

    monkeypatch.setattr(ProcessSandbox, "remove", remove)
    config = make_config(repository.url, executor="process", builds_at_once=1)
    builder = await make_builder(config)
    commit = repository.commit({".pbft-ci.yml": pipeline("any", "true")})
    first, second = (builder.order(repository.url, commit) for _ in range(2))
    assert isinstance(await builder.runner.build(first), BuildResult)
    work = builder.runner.log_path(first.build, first.opened).parent / "work"
    running = [builder.runner.build(order) for order in (second, first)]
    tasks = [asyncio.create_task(each) for each in running]
    await asyncio.sleep(0)
    await until(lambda: builder.runner.states() == ["waiting", "waiting", "removing"])
    assert not removed
    assert work.exists()
    may_end.set()
    assert all(isinstance(found, BuildResult) for found in await asyncio.gather(*tasks))
    await builder.runner.settle()
    assert len(removed) == 3
    assert not work.exists()
    assert not builder.runner.states()
