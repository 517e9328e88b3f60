"""reporting: what a forge hears of a build, against a server that checks every request."""

import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import asdict

from ci.operations import Delivery, Event, Outcome
from client.storage.build_request import BuildRequest
from common.configuration.config import GatewayRepository
from common.forges.gitea import statuses as gitea_module
from common.forges.shared.status import CommitStatus, StatusRequest
from common.statuses import reporter as reporter_module
from common.statuses.status_queue import StatusQueue, WaitingStatus
from tests.ci.builders import COMMIT, FAILED, finding
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import Network, Running, run_gateway
from tests.client.tested_builds import CASE, reports
from tests.forge_server import TOKEN, Answer, ForgeServer
from tests.secret_files import secret_file

URL = "https://forge.example.org/owner/name.git"
OTHER_COMMIT = "d" * 40


@pytest.fixture(params=["github", "gitlab", "gitea"])
def forge(request: pytest.FixtureRequest) -> Iterator[ForgeServer]:
    with ForgeServer(request.param) as server:
        yield server


@pytest.fixture
def gitea() -> Iterator[ForgeServer]:
    with ForgeServer("gitea") as server:
        yield server


def token_file(folder: Path, token: str = TOKEN) -> Path:
    return secret_file(folder / "status-token", token + "\n")


def reported(forge: ForgeServer, folder: Path) -> tuple[GatewayRepository, ...]:
    return (
        GatewayRepository(
            URL,
            forge=forge.forge,  # type: ignore[arg-type]
            api_url=forge.api_url,
            status_token_file=token_file(folder),
            report="gateway",
            unsigned_allowed=True,
        ),
    )


async def start(network: Network, folder: Path, forge: ForgeServer) -> Running:
    return await run_gateway(network, folder, reported=reported(forge, folder))


def is_collected(running: Running, build: bytes) -> bool:
    return record_of(running, build).collected


async def settled(running: Running) -> None:
    await until(lambda: running.gateway.unfinished == 0 and running.reporter.queue.count() == 0)


async def test_pending_when_it_is_ordered_and_final_on_the_verdict(
    network: Network, tmp_path: Path, forge: ForgeServer
) -> None:
    for node in network.nodes.values():
        node.finds = lambda build: None
    running = await start(network, tmp_path, forge)
    build = await running.gateway.submit(URL, "main", COMMIT)
    await until(lambda: len(forge.statuses) == 1)
    for node in network.nodes.values():
        node.finds = lambda build: (finding(), b"log")
    await until(lambda: len(forge.statuses) == 2)
    await settled(running)
    await running.close()
    pending, final = forge.statuses
    assert forge.wrong == []
    assert (pending.state, final.state) == ("pending", "success")
    assert final.description in ("3 of 4 replicas: exit 0", "4 of 4 replicas: exit 0")
    for status in (pending, final):
        assert (status.project, status.commit, status.context) == ("owner/name", COMMIT, "pbft-ci")
        assert status.target_url == f"https://ci.example.org/builds/{build.hex()}"
        assert status.ref == ("main" if forge.forge == "gitlab" else None)


async def test_red_is_red(network: Network, tmp_path: Path, forge: ForgeServer) -> None:
    for node in network.nodes.values():
        node.finds = lambda build: (FAILED, b"log")
    running = await start(network, tmp_path, forge)
    await running.gateway.submit(URL, "main", COMMIT)
    await until(lambda: bool(forge.statuses) and forge.statuses[-1].state != "pending")
    await running.close()
    assert forge.statuses[-1].state == ("failed" if forge.forge == "gitlab" else "failure")
    assert "replicas: exit 1" in forge.statuses[-1].description


async def test_a_status_names_the_new_failures(
    network: Network, tmp_path: Path, gitea: ForgeServer
) -> None:
    running = await start(network, tmp_path, gitea)
    for failed, code in (({}, 0), ({CASE: "failed"}, 1)):
        reports(running, otherwise=dict.fromkeys(network.nodes, failed), code=code)
        build = await running.gateway.submit(URL, "main", COMMIT)
        await until(functools.partial(is_collected, running, build))
    await settled(running)
    await running.close()
    texts = [s.description for s in gitea.statuses if s.state != "pending"]
    assert re.fullmatch(r"[34] of 4 replicas: exit 0; 13 tests", texts[0])
    assert re.fullmatch(
        r"[234] of 4 replicas: exit 1; 1 failed \(1 new\): tests\.test_net::test_reconnect",
        texts[1],
    )


async def test_a_skipped_commit_is_told_and_is_not_green(
    network: Network, tmp_path: Path, forge: ForgeServer
) -> None:
    running = await start(network, tmp_path, forge)
    delivery = Delivery(forge.forge, bytes(32))
    wanted = BuildRequest(URL, "main", COMMIT, delivery=delivery)
    await running.gateway.order(wanted, "the commit's message says [skip ci]")
    await until(lambda: len(forge.statuses) == 1)
    await running.close()
    assert forge.statuses[0].state == ("pending" if forge.forge == "github" else "skipped")
    assert forge.statuses[0].description == "skipped: the commit's message says [skip ci]"


async def test_what_waits_for_approval_is_pending(
    network: Network, tmp_path: Path, gitea: ForgeServer
) -> None:
    running = await start(network, tmp_path, gitea)
    wanted = BuildRequest(
        URL,
        "main",
        COMMIT,
        event=Event.PULL_REQUEST,
        ref="refs/pull/1/head",
        delivery=Delivery("gitea", bytes(32)),
        needs_approval=True,
    )
    await running.gateway.order(wanted)
    await until(lambda: len(gitea.statuses) == 1)
    await running.close()
    assert gitea.statuses[0].state == "pending"
    assert "approval" in gitea.statuses[0].description


async def test_a_request_says_nothing_under_the_name_of_pushes(
    network: Network, tmp_path: Path, gitea: ForgeServer
) -> None:
    """Anybody can open one with a commit that was pushed: that stays as red as it is."""
    for node in network.nodes.values():
        node.finds = lambda build: (
            (FAILED if build.event is Event.PUSH else finding()),
            b"log",
        )
    running = await start(network, tmp_path, gitea)
    await running.gateway.order(BuildRequest(URL, "main", COMMIT))
    await until(lambda: bool(gitea.statuses) and gitea.statuses[-1].state == "failure")
    request = BuildRequest(
        URL, "main", COMMIT, event=Event.PULL_REQUEST, ref="refs/pull/1/head", needs_approval=True
    )
    build = (await running.gateway.order(request)).build
    await until(lambda: gitea.statuses[-1].context == "pbft-ci/pr")
    assert gitea.statuses[-1].state == "pending"
    await running.gateway.cancel(build, "spam")
    await running.gateway.order(BuildRequest(**{**asdict(request), "needs_approval": False}))
    await until(lambda: gitea.statuses[-1].state == "success")
    await running.close()
    said = {status.context: status.state for status in gitea.statuses}
    assert said == {"pbft-ci": "failure", "pbft-ci/pr": "success"}


async def test_a_branch_that_does_not_exist_has_no_commit_to_report_on(
    network: Network, tmp_path: Path, gitea: ForgeServer
) -> None:
    for node in network.nodes.values():
        node.finds = lambda build: (finding(Outcome.CHECKOUT_FAILED, 128, commit=None), b"log")
    running = await start(network, tmp_path, gitea)
    await running.gateway.submit(URL, "main", OTHER_COMMIT)
    await running.gateway.submit("https://example.org/another.git", "main", COMMIT)
    await until(lambda: len(gitea.statuses) >= 1)
    await running.close()
    assert {status.commit for status in gitea.statuses} == {OTHER_COMMIT}


async def test_trouble_of_the_forge_is_waited_out(
    network: Network, tmp_path: Path, forge: ForgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter_module, "RETRY_SECONDS", 0.02)
    answers = {
        1: Answer(503, "down"),
        2: Answer(409, "busy"),
        3: Answer(429, "slow"),
        4: Answer(500, ""),
    }
    forge.answer_with = answers.get
    running = await start(network, tmp_path, forge)
    await running.gateway.submit(URL, "main", COMMIT)
    await until(lambda: bool(forge.statuses) and forge.statuses[-1].state == "success")
    await settled(running)
    await running.close()
    assert forge.wrong == []
    states = [status.state for status in forge.statuses]
    assert states in (["success"], ["pending", "success"])


async def test_a_fault_of_our_own_with_one_status_does_not_hold_up_the_others(
    network: Network,
    tmp_path: Path,
    gitea: ForgeServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporter_module, "RETRY_SECONDS", 0.02)
    request_of = gitea_module.request

    def request(api_url: str, project: str, token: str, *, status: CommitStatus) -> StatusRequest:
        if status.commit == COMMIT:
            raise ZeroDivisionError
        return request_of(api_url, project, token, status=status)

    monkeypatch.setattr(gitea_module, "request", request)
    running = await start(network, tmp_path, gitea)
    await running.gateway.submit(URL, "main", COMMIT)
    await until(lambda: "a fault of this program" in caplog.text)
    await running.gateway.submit(URL, "main", OTHER_COMMIT)
    await until(lambda: any(status.commit == OTHER_COMMIT for status in gitea.statuses))
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.setattr(gitea_module, "request", request_of)
    await until(lambda: any(status.commit == COMMIT for status in gitea.statuses))
    await running.close()


async def test_statuses_are_posted_after_any_fault_of_their_worker(
    network: Network,
    tmp_path: Path,
    gitea: ForgeServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporter_module, "STORAGE_AGAIN_SECONDS", 0.02)
    next_of = StatusQueue.next
    faults = [ZeroDivisionError(), ZeroDivisionError()]

    def next_or_fault(queue: StatusQueue, repository: str) -> WaitingStatus | None:
        if faults:
            raise faults.pop()
        return next_of(queue, repository)

    monkeypatch.setattr(StatusQueue, "next", next_or_fault)
    running = await start(network, tmp_path, gitea)
    await running.gateway.submit(URL, "main", COMMIT)
    await until(lambda: bool(gitea.statuses) and gitea.statuses[-1].state == "success")
    await running.close()
    assert caplog.text.count("Traceback") == 2


async def test_retry_after_is_kept_to(network: Network, tmp_path: Path, gitea: ForgeServer) -> None:
    gitea.answer_with = lambda number: Answer(429, "slow", (("Retry-After", "3000"),))
    running = await start(network, tmp_path, gitea)
    await running.gateway.submit(URL, "main", COMMIT)
    await until(lambda: running.gateway.unfinished == 0 and gitea.requests == 1)
    waiting = running.reporter.queue.next(URL)
    await running.close()
    assert waiting is not None
    assert gitea.requests == 1, "the verdict came, and the forge was left alone"


async def test_a_wrong_token_is_told_once_and_a_new_one_is_taken(
    network: Network,
    tmp_path: Path,
    forge: ForgeServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporter_module, "TOKEN_LOOK_SECONDS", 0.02)
    running = await start(network, tmp_path, forge)
    token_file(tmp_path, "another-token")
    with caplog.at_level(logging.WARNING, "common.statuses"):
        await running.gateway.submit(URL, "main", COMMIT)
        await running.gateway.submit(URL, "main", COMMIT)
        await until(lambda: running.gateway.unfinished == 0 and "token" in caplog.text)
    told = [record.getMessage() for record in caplog.records if "token" in record.getMessage()]
    assert len(told) == 1
    scopes = {"github": "repo:status", "gitlab": "`api`", "gitea": "write:repository"}
    assert scopes[forge.forge] in told[0]
    assert "another-token" not in caplog.text
    assert forge.requests == 1, "not hammered"
    token_file(tmp_path, TOKEN)
    await until(lambda: bool(forge.statuses) and forge.statuses[-1].state == "success")
    await running.close()


async def test_a_wrong_token_is_tried_again_rarely_and_told_no_second_time(
    network: Network,
    tmp_path: Path,
    gitea: ForgeServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody may give the same token the scope that it lacked."""
    monkeypatch.setattr(reporter_module, "TOKEN_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(reporter_module, "WRONG_TOKEN_SECONDS", 0.05)
    monkeypatch.setattr(reporter_module, "RETRY_SECONDS", 0.01)
    gitea.answer_with = lambda number: Answer(403, "scope") if number < 5 else None
    running = await start(network, tmp_path, gitea)
    with caplog.at_level(logging.WARNING, "common.statuses"):
        await running.gateway.submit(URL, "main", COMMIT)
        await until(lambda: bool(gitea.statuses) and gitea.statuses[-1].state == "success")
    await running.close()
    told = [record for record in caplog.records if "write:repository" in record.getMessage()]
    assert len(told) == 1


@pytest.mark.parametrize("mode", [0o644, 0o600])
async def test_a_token_that_cannot_be_used_is_never_sent(
    network: Network,
    tmp_path: Path,
    gitea: ForgeServer,
    caplog: pytest.LogCaptureFixture,
    mode: int,
) -> None:
    running = await start(network, tmp_path, gitea)
    file = tmp_path / "status-token"
    file.chmod(mode)
    if mode == 0o600:
        file.write_text("two\nlines\n")
    await running.gateway.submit(URL, "main", COMMIT)
    await until(lambda: running.gateway.unfinished == 0 and "status-token" in caplog.text)
    await running.close()
    assert gitea.requests == 0


async def test_what_the_forge_will_never_take_is_given_up(
    network: Network, tmp_path: Path, gitea: ForgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    gitea.answer_with = lambda number: Answer(422, "No commit found") if number == 1 else None
    running = await start(network, tmp_path, gitea)
    await running.gateway.submit(URL, "main", COMMIT)
    await settled(running)
    await running.gateway.submit(URL, "main", OTHER_COMMIT)
    await until(lambda: any(status.commit == OTHER_COMMIT for status in gitea.statuses))
    await running.close()
    assert "given up" in caplog.text


async def test_what_the_token_does_not_see_holds_up_nothing(
    network: Network, tmp_path: Path, gitea: ForgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A commit that is gone is 404 as well."""
    gitea.answer_with = lambda number: Answer(404, "Not Found") if number == 1 else None
    running = await start(network, tmp_path, gitea)
    await running.gateway.submit(URL, "main", COMMIT)
    await until(lambda: gitea.requests >= 1)
    await running.gateway.submit(URL, "main", OTHER_COMMIT)
    await until(lambda: any(status.commit == OTHER_COMMIT for status in gitea.statuses))
    await running.close()
    assert "given up" not in caplog.text
    told = [r for r in caplog.records if "does the token have" in r.getMessage()]
    assert len(told) == 1


async def test_what_the_token_does_not_see_is_tried_again(
    network: Network, tmp_path: Path, gitea: ForgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitHub answers 404 for a private repository that the token may not see (yet)."""
    monkeypatch.setattr(reporter_module, "WRONG_TOKEN_SECONDS", 0.05)
    gitea.answer_with = lambda number: Answer(404, "Not Found") if number < 5 else None
    running = await start(network, tmp_path, gitea)
    await running.gateway.submit(URL, "main", COMMIT)
    await until(lambda: bool(gitea.statuses) and gitea.statuses[-1].state == "success")
    await running.close()
    assert gitea.requests >= 5, "four were answered 404"


async def test_a_redirect_is_not_followed_with_the_token(
    network: Network, tmp_path: Path, gitea: ForgeServer
) -> None:
    with ForgeServer("gitea") as other:
        gitea.answer_with = lambda number: Answer(
            307, "", (("Location", f"{other.api_url}/repos/owner/name/statuses/{COMMIT}"),)
        )
        running = await start(network, tmp_path, gitea)
        await running.gateway.submit(URL, "main", COMMIT)
        await settled(running)
        await running.close()
        assert other.requests == 0


async def test_what_was_not_posted_is_posted_after_a_restart(
    network: Network, tmp_path: Path, forge: ForgeServer
) -> None:
    forge.answer_with = lambda number: Answer(503, "down")
    running = await start(network, tmp_path, forge)
    await running.gateway.submit(URL, "main", COMMIT)
    await until(lambda: running.gateway.unfinished == 0 and forge.requests >= 1)
    await running.close()
    assert forge.statuses == []
    forge.answer_with = lambda number: None
    running = await start(network, tmp_path, forge)
    await until(lambda: len(forge.statuses) >= 1)
    await settled(running)
    await running.close()
    assert [status.state for status in forge.statuses] == ["success"], "the newest word alone"


async def test_an_answer_that_is_lost_makes_the_same_post_again(
    network: Network, tmp_path: Path, forge: ForgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forge took it and the note of it was lost: it hears the same again, nothing else."""
    for node in network.nodes.values():
        node.finds = lambda build: None
    running = await start(network, tmp_path, forge)
    await running.gateway.submit(URL, "main", COMMIT)
    await until(lambda: len(forge.statuses) == 1)
    await until(lambda: running.reporter.queue.count() == 0)
    with running.database.transaction():
        running.database.write("UPDATE statuses SET is_settled = 0")
    await running.close()
    running = await start(network, tmp_path, forge)
    await until(lambda: forge.requests == 2)
    await until(lambda: running.reporter.queue.count() == 0)
    await running.close()
    assert {status.state for status in forge.statuses} == {"pending"}
    assert len({(status.description, status.target_url) for status in forge.statuses}) == 1
