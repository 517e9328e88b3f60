"""client.notifications.notifications: a gateway tells when a branch turns, once, and in time."""

import json
from pathlib import Path

import msgspec
import pytest

from ci.statement import parse_statement
from client.notifications.notifications import Notifications
from client.storage.archive import BuildRecord
from common.configuration.notify_config import NotifyTarget
from common.statuses import reporter as reporter_module
from tests.ci.builders import COMMIT, FAILED, finding
from tests.client.gateway.test_gateway import record_of, until
from tests.client.notifications.receivers import HttpReceiver
from tests.client.running_network import REPOSITORY, Network, Running, run_gateway
from tests.secret_files import secret_file

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def hook(receiver: HttpReceiver, folder: Path) -> NotifyTarget:
    return NotifyTarget(
        "team",
        "webhook",
        url=receiver.url,
        secret_file=secret_file(folder / "secret", SECRET),
        branches=("main", "release/*"),
        private_allowed=True,
    )


async def build(running: Running, branch: str, *, is_green: bool) -> BuildRecord:
    found = (finding(), b"log") if is_green else (FAILED, b"log")
    for node in running.network.nodes.values():
        node.finds = lambda build: found
    identity = await running.gateway.submit(REPOSITORY, branch, COMMIT)
    await until(lambda: record_of(running, identity).collected)
    return record_of(running, identity)


def told(receiver: HttpReceiver) -> list[tuple[str, str]]:
    bodies = [json.loads(body) for _, body in receiver.got]
    return [(body["type"], body["data"]["build"]) for body in bodies]


async def test_the_first_red_and_green_again(network: Network, tmp_path: Path) -> None:
    async with HttpReceiver() as receiver:
        running = await run_gateway(network, tmp_path, notify=(hook(receiver, tmp_path),))
        await build(running, "main", is_green=True)
        first_red = await build(running, "main", is_green=False)
        await build(running, "main", is_green=False)
        await build(running, "other", is_green=False)
        other_red = await build(running, "release/1", is_green=False)
        green_again = await build(running, "main", is_green=True)
        await build(running, "main", is_green=True)
        await until(lambda: len(receiver.got) == 3 and running.messenger.queue.count() == 0)
        await running.close()
    assert told(receiver) == [
        ("build.broken", first_red.build.hex()),
        ("build.broken", other_red.build.hex()),
        ("build.fixed", green_again.build.hex()),
    ]
    data = json.loads(receiver.got[0][1])["data"]
    assert data["url"] == f"https://ci.example.org/builds/{first_red.build.hex()}"
    assert (data["outcome"], data["commit"], data["branch"]) == ("failed", COMMIT, "main")


async def test_a_verdict_that_comes_late_turns_nothing(network: Network, tmp_path: Path) -> None:
    """The second build is decided when the first one's red verdict comes."""
    async with HttpReceiver() as receiver:
        target = hook(receiver, tmp_path)
        running = await run_gateway(network, tmp_path)
        first = await build(running, "main", is_green=True)
        second = await build(running, "main", is_green=True)
        told_of = Notifications((target,), running.archive, running.messenger, public_url="")
        assert first.statement is not None
        red = msgspec.structs.replace(parse_statement(first.statement).verdict, outcome="failed")
        with running.database.transaction():
            told_of.decided(first, red)
        assert running.messenger.queue.count() == 0
        with running.database.transaction():
            told_of.decided(second, red)
        assert running.messenger.queue.count() == 1
        await running.close()


async def test_what_a_receiver_does_not_take_is_sent_again_with_one_identity(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter_module, "RETRY_SECONDS", 0.01)
    async with HttpReceiver(lambda count: 503 if count < 3 else 200) as receiver:
        running = await run_gateway(network, tmp_path, notify=(hook(receiver, tmp_path),))
        await build(running, "main", is_green=False)
        await until(lambda: running.messenger.queue.count() == 0)
        await running.close()
    assert len(receiver.got) == 3
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1


async def test_what_waits_is_given_up_after_a_day(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter_module, "GIVE_UP_SECONDS", 0.0)
    async with HttpReceiver(lambda count: 503) as receiver:
        running = await run_gateway(network, tmp_path, notify=(hook(receiver, tmp_path),))
        await build(running, "main", is_green=False)
        await until(lambda: running.messenger.queue.count() == 0)
        row = running.database.row("SELECT given_up FROM messages")
        assert row is not None
        assert "503" in row[0]
        await running.close()
