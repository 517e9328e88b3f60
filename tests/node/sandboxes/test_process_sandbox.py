"""Builds as plain processes: the same results without an engine, and what is refused there."""

import asyncio
import logging
import re
from pathlib import Path

import pytest

from ci.operations import Abstain, Outcome
from tests.node.conftest import (
    PATIENCE_SECONDS,
    Builder,
    BuilderMaker,
    ConfigMaker,
    GitRepository,
    pipeline,
    until,
)
from tests.node.sandboxes.containers.test_steps import steps


@pytest.fixture
async def builder(
    repository: GitRepository, make_config: ConfigMaker, make_builder: BuilderMaker
) -> Builder:
    config = make_config(repository.url, executor="process", abstain_after_seconds=60)
    return await make_builder(config, log_bytes_max=64 * 1024)


def is_running(pid: int) -> bool:
    """Whether a process is there and not only waits to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("code", [0, 7])
async def test_exit_codes(repository: GitRepository, builder: Builder, code: int) -> None:
    text = pipeline("any", "cat folder/file", "cd folder", "test -e file", f"exit {code}")
    commit = repository.commit({".pbft-ci.yml": text, "folder/file": "content\n"})
    order = builder.order(repository.url, commit)
    finding = await builder.find(order)
    assert finding.compared.exit_code == code
    assert finding.compared.image_digest is None
    log = builder.log(order)
    assert "+ cat folder/file\ncontent\n" in log
    assert "WITHOUT ISOLATION" in log
    assert not (builder.runner.log_path(order.build, order.opened).parent / "work").exists()


async def test_where_no_step_is_for_the_branch_nothing_passes(
    repository: GitRepository, builder: Builder
) -> None:
    """The audit's attack: what fails on main was green on any branch that its steps are not for."""
    text = steps("any", {"commands": ["exit 1"], "when": {"branch": "other", "event": "push"}})
    commit = repository.commit({".pbft-ci.yml": text})
    found = (await builder.find(builder.order(repository.url, commit))).compared
    assert (found.outcome, found.exit_code) == (Outcome.SKIPPED, None)


async def test_the_history_that_a_pipeline_asks_for_is_there(
    repository: GitRepository, builder: Builder
) -> None:
    """From the order to the step; and a build that asks for none has none."""
    repository.commit({"old": "x"})
    repository.git("tag", "v7")
    for clone, code in (
        ({"depth": 2, "tags": True}, 0),
        ({"depth": 1, "tags": True}, 128),
        (None, 128),
    ):
        more = {} if clone is None else {"clone": clone}
        text = pipeline("any", "git describe --tags --match v7 || exit 128", **more)
        commit = repository.commit({".pbft-ci.yml": text})
        repository.git("reset", "--quiet", "--hard", commit)
        order = builder.order(repository.url, commit)
        found = (await builder.find(order)).compared
        assert found.exit_code == code, builder.log(order)
        assert ("clone: depth" in builder.log(order)) is (clone is not None)
        repository.git("reset", "--quiet", "--hard", "HEAD~1")


async def test_too_long_a_history_is_a_finding_about_the_pipeline(
    repository: GitRepository, builder: Builder
) -> None:
    limit = builder.limits.workspace_bytes
    for number in range(3):
        repository.commit({"large": bytes([number]) * (limit // 2)})
    text = pipeline("any", "true", clone={"depth": "full"})
    commit = repository.commit({".pbft-ci.yml": text})
    order = builder.order(repository.url, commit)
    found = (await builder.find(order)).compared
    assert found.outcome is Outcome.PIPELINE_INVALID
    assert "ask for less `depth`" in builder.log(order)


@pytest.mark.parametrize(
    ("first", "outcome", "code", "ran", "kinds"),
    [
        # nothing fails: what is for failures alone does not run
        ("true", Outcome.PASSED, 0, "first ignored always last", [True, None, True, True, False]),
        # only what asks for it runs after a failure, and its end does not count
        ("exit 3", Outcome.FAILED, 3, "first always after", [True, None, True, True, True]),
    ],
)
async def test_what_runs_after_a_failure(
    repository: GitRepository,
    builder: Builder,
    *,
    first: str,
    outcome: Outcome,
    code: int,
    ran: str,
    kinds: list[bool | None],
) -> None:
    def said(name: str, command: str, **more: object) -> dict[str, object]:
        return {"name": name, "commands": [f"echo {name} >>ran", "cat ran", command], **more}

    text = steps(
        "any",
        said("first", first),
        said("ignored", "exit 4", failure="ignore"),
        said("always", "true" if code == 0 else "exit 5", when={"status": ["success", "failure"]}),
        said("last", "true"),
        said("after", "exit 6", when={"status": "failure", "branch": "main"}),
    )
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    compared = (await builder.find(order)).compared
    log = builder.log(order)
    assert (compared.outcome, compared.exit_code) == (outcome, code), log
    assert [step.choice for step in compared.steps] == kinds
    assert ran.replace(" ", "\n") + "\n" in log
    names = ("first", "ignored", "always", "last", "after")
    begun = [name for name in names if f"{name} (" in log]
    assert begun == ran.split()
    if code == 0:
        assert "step ignored did not pass: exit code 4 after " in log
        assert "ignored (failure: ignore)" in log
    else:
        assert "step first did not pass: exit code 3 after " in log
        for name, its in (("always", 5), ("after", 6)):
            assert f"step {name} did not pass: exit code {its} after " in log
        assert log.count("the build had failed before") == 2


async def test_where_steps_are_for_failures_alone_nothing_passes(
    repository: GitRepository, builder: Builder
) -> None:
    text = steps("any", {"commands": ["true"], "when": {"status": "failure"}})
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    compared = (await builder.find(order)).compared
    assert compared.outcome is Outcome.SKIPPED
    assert [step.choice for step in compared.steps] == [False]


async def test_a_step_that_always_runs_counts_while_nothing_has_failed(
    repository: GitRepository, builder: Builder
) -> None:
    """So suites with that key are all run, and the build fails with any of them."""
    always: dict[str, object] = {"when": {"status": ["success", "failure"]}}
    text = steps("any", *({"commands": [f"exit {code}"]} | always for code in (0, 7, 0, 9)))
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    compared = (await builder.find(order)).compared
    assert (compared.outcome, compared.exit_code) == (Outcome.FAILED, 7)
    log = builder.log(order)
    assert "step s4 did not pass: exit code 9" in log
    assert "step s3 (3 of 4)" in log


async def test_a_build_says_which_step_took_the_time(
    repository: GitRepository, builder: Builder
) -> None:
    """One of its own time is stopped and ignored, one of the build's time ends it."""
    text = steps(
        "any",
        {"commands": ["sleep 600"], "timeout_seconds": 1, "failure": "ignore"},
        {"commands": ["sleep 600"]},
        {"commands": ["true"], "when": {"status": "failure"}},
        timeout_seconds=4,
    )
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    compared = (await builder.find(order)).compared
    assert (compared.outcome, compared.exit_code) == (Outcome.TIMED_OUT, None)
    log = builder.log(order)
    assert re.search(r"step s1 did not pass: ended after .* s; it may take 1 s; ignored", log)
    assert re.search(
        r"step s2 did not pass: ended after .* s; all steps together may take 4 s;"
        r" the longest before it: s1 ",
        log,
    )
    assert "step s3: no time is left for it" in log


async def test_services_are_not_there_which_this_replica_says(
    repository: GitRepository, builder: Builder
) -> None:
    text = pipeline("any", "true", services=[{"name": "database", "image": "any"}])
    commit = repository.commit({".pbft-ci.yml": text})
    ballot = await builder.build(builder.order(repository.url, commit))
    assert isinstance(ballot, Abstain)
    assert "executor: process" in ballot.reason
    assert "database" in ballot.reason


async def test_the_environment_is_not_the_nodes_own(
    repository: GitRepository, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_NODE", "x")
    text = pipeline("any", 'test -z "$A_SECRET_OF_THE_NODE"', 'test "$CI" = true', "touch $HOME/x")
    commit = repository.commit({".pbft-ci.yml": text})
    finding = await builder.find(builder.order(repository.url, commit))
    assert finding.compared.exit_code == 0


async def test_a_shell_that_is_killed_has_the_code_that_shells_give(
    repository: GitRepository, builder: Builder
) -> None:
    commit = repository.commit({".pbft-ci.yml": pipeline("any", "kill -9 $$")})
    finding = await builder.find(builder.order(repository.url, commit))
    assert finding.compared.exit_code == 137


@pytest.mark.parametrize("how", ["time", "cancel", "end"])
async def test_the_whole_group_is_killed(
    repository: GitRepository, builder: Builder, how: str
) -> None:
    """Children in the background go too, when the time is over, on a cancel, and at the end."""
    last = "exit 3" if how == "end" else "wait"
    text = pipeline(
        *("any", "sleep 600 & echo child $!", last), timeout_seconds=5 if how == "time" else 60
    )
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    path = builder.runner.log_path(order.build, order.opened)
    task = asyncio.create_task(builder.build(order))
    await until(lambda: path.exists() and "\nchild " in path.read_text())
    child = int(path.read_text().partition("\nchild ")[2].split()[0])
    if how == "cancel":
        assert is_running(child)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE_SECONDS)
    else:
        ballot = await asyncio.wait_for(task, PATIENCE_SECONDS)
        assert not isinstance(ballot, Abstain)
        expected = Outcome.TIMED_OUT if how == "time" else Outcome.FAILED
        assert ballot.compared.outcome is expected
    await until(lambda: not is_running(child))


async def test_a_long_log_is_cut(repository: GitRepository, builder: Builder) -> None:
    text = pipeline("any", "echo first; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo last")
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    finding = await builder.find(order)
    assert finding.compared.exit_code == 0
    log = builder.log(order)
    assert len(log) == finding.evidence.log_bytes <= 64 * 1024
    assert "\nfirst\n" in log
    assert "\nlast\n" in log
    assert "bytes were cut here" in log


async def test_a_link_that_leaves_the_tree_is_not_unpacked(
    repository: GitRepository, builder: Builder
) -> None:
    commit = repository.commit(
        {".pbft-ci.yml": pipeline("any", "true")}, links={"link": "../../../../etc/passwd"}
    )
    ballot = await builder.build(builder.order(repository.url, commit))
    assert isinstance(ballot, Abstain)
    assert "link" in ballot.reason


async def test_a_dockerfile_cannot_be_built(repository: GitRepository, builder: Builder) -> None:
    commit = repository.commit({"Dockerfile": "FROM busybox\n"})
    ballot = await builder.build(builder.order(repository.url, commit))
    assert isinstance(ballot, Abstain)
    assert "Dockerfile" in ballot.reason
    assert "executor: process" in ballot.reason


async def test_the_node_warns_at_its_start(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_builder: BuilderMaker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        await make_builder(make_config(repository.url, executor="process"))
    assert any("WITHOUT ISOLATION" in record.getMessage() for record in caplog.records)
