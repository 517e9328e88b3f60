"""node.web.log_routes: a log over HTTP, whole or from any byte, also while it grows."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from common.log_pieces import LogPiece, kept_sizes, read_log_file
from node.outputs.build_log import BuildLog
from node.web import log_routes
from tests.node.local_network import Client
from tests.waiting import wait_until

BUILD = bytes(range(32))
LOG_BYTES_MAX = 4096


class OneLog:
    """As a build runner that runs, or has run, one build."""

    def __init__(self, folder: Path) -> None:
        self.run_id = "run1"
        self.path = folder / "log"
        self.log: BuildLog | None = None
        # how often somebody looked into it
        self.looks = 0

    def log_path(self, build: bytes, opened: int) -> Path:
        """As BuildRunner.log_path."""
        return self.path if (build, opened) == (BUILD, 7) else self.path.with_name("none")

    def read_log(self, build: bytes, opened: int, offset: int, bytes_max: int) -> LogPiece | None:
        """As BuildRunner.read_log."""
        self.looks += 1
        if (build, opened) != (BUILD, 7):
            return None
        if self.log is not None:
            return self.log.read(offset, bytes_max)
        return read_log_file(self.path, offset, bytes_max=bytes_max)

    def begin(self) -> BuildLog:
        """The build starts."""
        self.log = BuildLog(self.path, LOG_BYTES_MAX)
        return self.log

    def end(self) -> None:
        """The build is over."""
        assert self.log is not None
        self.log.finish()
        self.log = None


@pytest.fixture
def logs(tmp_path: Path) -> OneLog:
    return OneLog(tmp_path)


@pytest.fixture
async def client(logs: OneLog) -> AsyncIterator[Client]:
    application = web.Application()
    application.router.add_get(log_routes.PATH, log_routes.LogRoutes(logs).handle)
    async with TestClient(TestServer(application)) as client:
        yield client


async def piece_of(client: Client, query: str) -> tuple[bytes, dict[str, str]]:
    answer = await client.get(f"/builds/{BUILD.hex()}/log?opened=7&{query}")
    assert answer.status == 200, await answer.text()
    headers = {
        name.removeprefix("Pbft-Log-").lower(): value
        for name, value in answer.headers.items()
        if name.startswith("Pbft-Log-")
    }
    return await answer.read(), headers


async def test_a_growing_log(client: Client, logs: OneLog) -> None:
    log = logs.begin()
    log.write(b"hello")
    data, headers = await piece_of(client, "from=1")
    assert data == b"ello"
    assert headers == {"offset": "1", "total": "5", "growing": "yes", "run": "run1"}
    logs.end()
    data, headers = await piece_of(client, "from=5")
    assert (data, headers["growing"]) == (b"", "no")


async def test_waiting_ends_with_the_next_bytes(client: Client, logs: OneLog) -> None:
    log = logs.begin()
    log.write(b"one")
    question = asyncio.create_task(piece_of(client, "from=3&wait=20"))
    # once as it came, and at least once more, in vain
    await wait_until(lambda: logs.looks >= 3, "it waits")
    assert not question.done()
    looks = logs.looks
    log.write(b"two")
    data, headers = await question
    assert (data, headers["offset"]) == (b"two", "3")
    assert logs.looks == looks + 1


async def test_waiting_ends_with_the_log(client: Client, logs: OneLog) -> None:
    logs.begin().write(b"one")
    question = asyncio.create_task(piece_of(client, "from=3&wait=20"))
    await wait_until(lambda: logs.looks >= 3, "it waits")
    assert not question.done()
    looks = logs.looks
    logs.end()
    data, headers = await question
    assert (data, headers["growing"]) == (b"", "no")
    assert logs.looks == looks + 1


async def test_a_wait_is_bounded(client: Client, logs: OneLog) -> None:
    logs.begin().write(b"one")
    data, headers = await piece_of(client, "from=3&wait=1")
    assert (data, headers["growing"]) == (b"", "yes")
    answer = await client.get(f"/builds/{BUILD.hex()}/log?opened=7&from=3&wait=3600")
    assert answer.status == 400
    assert "0 to 20" in (await answer.json())["error"]


async def test_a_log_that_was_begun_anew_is_no_reason_to_wait(client: Client, logs: OneLog) -> None:
    logs.begin().write(b"one")
    _, headers = await piece_of(client, "from=1000&wait=20")
    assert (headers["total"], headers["growing"]) == ("3", "yes")
    assert logs.looks == 1


async def test_only_so_many_may_wait(
    client: Client, logs: OneLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.web.log_routes.WAITING_MAX", 2)
    logs.begin()
    waiting = [asyncio.create_task(piece_of(client, "from=0&wait=20")) for _ in range(2)]
    path = f"/builds/{BUILD.hex()}/log?opened=7&from=0&wait=1"
    statuses: list[int] = []

    async def ask_until_refused() -> None:
        while 503 not in statuses:
            statuses.append((await client.get(path)).status)

    await asyncio.wait_for(ask_until_refused(), 20)
    logs.end()
    await asyncio.gather(*waiting)
    answer = await client.get(path)
    assert answer.status == 200, "their places are free again"


async def test_what_was_dropped_is_said_live_and_afterwards(client: Client, logs: OneLog) -> None:
    log = logs.begin()
    head, tail = kept_sizes(LOG_BYTES_MAX)
    log.write(b"x" * 20_000)
    tail_offset = 20_000 - tail
    for is_over in (False, True):
        data, headers = await piece_of(client, "from=0")
        assert len(data) == head
        data, headers = await piece_of(client, f"from={head}")
        assert headers["dropped"] == f"{head}-{tail_offset}"
        assert (headers["offset"], len(data)) == (str(tail_offset), tail)
        if not is_over:
            logs.end()


async def test_the_whole_file(client: Client, logs: OneLog) -> None:
    logs.begin().write(b"<b>\x1b")
    logs.end()
    answer = await client.get(f"/builds/{BUILD.hex()}/log?opened=7")
    assert await answer.read() == b"<b>\x1b"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("query", ["opened=8", "opened=8&from=0", "opened=7&from=0", "opened=7"])
async def test_no_log(client: Client, query: str) -> None:
    answer = await client.get(f"/builds/{BUILD.hex()}/log?{query}")
    assert answer.status == 404
    assert "no log" in (await answer.json())["error"]


async def test_who_hangs_up_does_not_keep_a_place(
    client: Client, logs: OneLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.web.log_routes.WAITING_MAX", 1)
    logs.begin()
    question = asyncio.create_task(piece_of(client, "from=0&wait=20"))
    await wait_until(lambda: logs.looks >= 2, "it waits")
    question.cancel()
    await asyncio.gather(question, return_exceptions=True)
    statuses: list[int] = []

    async def look() -> None:
        while 200 not in statuses:
            path = f"/builds/{BUILD.hex()}/log?opened=7&from=0&wait=1"
            statuses.append((await client.get(path)).status)

    await asyncio.wait_for(look(), 15)
