"""client.dashboard.build_logs: the ends of the logs on a page, and one stream for all that grow."""

import asyncio
import re

import pytest

from client.api import log_routes
from client.dashboard.build_logs import TAIL_KEPT_SECONDS
from client.dashboard.log_ends import TAIL_BYTES, TAIL_LINES
from client.logs.live_logs import LiveLogs
from common.log_pieces import ServedPiece
from tests.client.api.test_change_routes import open_build
from tests.client.dashboard.pages import page
from tests.client.dashboard.test_build_page import finds
from tests.client.gateway.test_build_changes import nobody_finishes
from tests.client.gateway.test_gateway import record_of, until
from tests.client.logs.test_live_logs import Follower
from tests.client.running_network import Running, passed
from tests.client.site import Client, decided_build

NAMES = ("replica-0", "replica-1", "replica-2", "replica-3")


class Logs:
    """An open build whose replicas write what a test says."""

    def __init__(self, running: Running, client: Client, build: str) -> None:
        self.running = running
        self.client = client
        self.build = build
        self.nodes = running.network.nodes

    def write(self, replica: str, data: bytes) -> None:
        """That replica's build writes; its log grows."""
        node, build = self.nodes[replica], bytes.fromhex(self.build)
        node.growing.add(build)
        node.logs[build] = node.logs.get(build, b"") + data

    def end(self) -> None:
        """All replicas find it passed, with the logs as they are."""
        build = bytes.fromhex(self.build)
        for node in self.nodes.values():
            node.growing.discard(build)
            log = node.logs[build].decode()
            node.finds = finds(*passed(log))

    async def tail(self, replica: str) -> tuple[str, str | None, str]:
        """What the page shows of that log, where it goes on, and its state."""
        text = await (await self.client.get(f"/builds/{self.build}")).text()
        found = re.search(
            rf'<span class="tail-state soft">([^<]*)</span></p>\s*<pre [^>]*'
            rf'data-replica="{replica}"(?: data-at="([^"]*)")?>(.*?)</pre>',
            text,
            re.DOTALL,
        )
        assert found is not None
        return found[3], found[2], found[1]

    async def follow(self, at: str = "", last_id: str = "") -> "Merged":
        """The stream of the page's script."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        path = f"/builds/{self.build}/logs/events"
        response = await self.client.get(path, params={"at": at}, headers=headers)
        assert response.status == 200, await response.text()
        return Merged(Follower(response))


class Merged:
    """Reads the stream; what each log came to."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.texts: dict[str, str] = dict.fromkeys(NAMES, "")
        self.ended: dict[str, str] = {}

    async def next(self) -> None:
        """Take in one event."""
        kind, data = await self.follower.next()
        if kind == "output":
            self.texts[data["replica"]] += "".join(text for _, text in data["spans"])
        elif kind == "end":
            self.ended[data["replica"]] = data["text"]

    async def until_texts(self, texts: dict[str, str]) -> None:
        """Go on until that is all that was shown."""
        while (shown := {name: text for name, text in self.texts.items() if text}) != texts:
            for name, text in shown.items():
                assert texts.get(name, "").startswith(text), f"{name}: {text[:100]!r} ..."
            await self.next()

    async def until_ended(self) -> None:
        """Go on to the end of all logs."""
        while len(self.ended) < len(NAMES):
            await self.next()


@pytest.fixture
async def logs(running: Running, client: Client) -> Logs:
    return Logs(running, client, await open_build(running, client))


async def test_a_page_and_its_stream_miss_nothing_and_double_nothing(logs: Logs) -> None:
    logs.write("replica-1", b"one\n\x1b[31mtwo")
    shown, at, state = await logs.tail("replica-1")
    assert (shown, state) == ('one\n<span class="sgr-red">two</span>', "so far")
    text = await (await logs.client.get(f"/builds/{logs.build}")).text()
    positions = re.findall(r'data-at="([^"]*)"', text)
    assert positions[1] == at == "run1:12"
    merged = await logs.follow(",".join(positions))
    logs.write("replica-1", b"three\n")
    logs.write("replica-0", b"begins later\n")
    await merged.until_texts({"replica-1": "three\n", "replica-0": "begins later\n"})
    again = await logs.follow(last_id=merged.follower.last_id)
    for name in NAMES:
        logs.write(name, b"end\n")
    logs.end()
    await again.until_ended()
    assert again.texts == dict.fromkeys(NAMES, "end\n")
    assert set(again.ended.values()) == {"the log is complete"}
    answer = await logs.client.get(
        f"/builds/{logs.build}/logs/events", headers={"Last-Event-ID": again.follower.last_id}
    )
    assert answer.status == 204, "a browser that comes back is told that there is no more"


async def test_a_page_that_was_made_in_the_middle_of_a_character(logs: Logs) -> None:
    logs.write("replica-1", b"one \xe2\x82")
    shown, at, _ = await logs.tail("replica-1")
    assert (shown, at) == ("one ", "run1:4")
    merged = await logs.follow(f"-,{at},-,-")
    logs.write("replica-1", b"\xac two\n")
    await merged.until_texts({"replica-1": "\u20ac two\n"})


async def test_the_stream_ends_when_all_logs_have_ended(logs: Logs) -> None:
    for name in NAMES:
        logs.write(name, b"x")
    merged = await logs.follow("-,-,-,run1:0")
    logs.end()
    while not merged.ended:
        await merged.next()
    assert merged.ended == {"replica-3": "the log is complete"}
    with pytest.raises(AssertionError, match="the stream ended"):
        await merged.next()


async def test_who_names_no_position_begins_near_the_end(logs: Logs) -> None:
    logs.write("replica-2", b"x" * 50_000 + b"end")
    merged = await logs.follow()
    await merged.until_texts({"replica-2": "x" * (TAIL_BYTES - 3) + "end"})


async def test_of_a_long_log_the_last_lines_are_shown(running: Running, client: Client) -> None:
    log = "".join(f"line {number}\n" for number in range(500))
    one_line = "y" * 200_000
    for name, node in running.network.nodes.items():
        text = log if name == "replica-0" else one_line
        node.finds = finds(*passed(text))
    shown = Logs(running, client, await decided_build(running, client))
    tail, at, state = await shown.tail("replica-0")
    assert at is None, "it is complete: nothing is followed"
    assert state == f"{len(log)} bytes"
    lines = tail.splitlines()
    assert lines[0] == '<span class="log-note">[the end of it]'
    assert lines[1] == f"</span>line {500 - TAIL_LINES}"
    assert lines[-1] == "line 499"
    tail, _, _ = await shown.tail("replica-1")
    assert tail.endswith("</span>" + "y" * TAIL_BYTES)


async def test_a_replica_that_does_not_answer_keeps_no_page_waiting(logs: Logs) -> None:
    logs.write("replica-1", b"text\n")
    logs.nodes["replica-1"].is_down = True
    _, at, state = await logs.tail("replica-1")
    assert (at, state) == ("", "not here yet")
    _, at, state = await logs.tail("replica-2")
    assert (at, state) == ("archive:0", "nothing yet"), "one that has not begun is begun with"
    merged = await logs.follow(",".join(["-", "", "-", "-"]))
    logs.nodes["replica-1"].is_down = False
    await merged.until_texts({"replica-1": "text\n"})


async def test_many_who_look_at_once_ask_a_replica_once(logs: Logs) -> None:
    logs.write("replica-1", b"text\n")
    node = logs.nodes["replica-1"]

    def questions() -> int:
        return sum(path.endswith("/log") for path in node.served)

    await logs.tail("replica-1")
    at_first = questions()
    assert at_first > 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    shown = await asyncio.gather(*(logs.tail("replica-1") for _ in range(20)))
    passed_seconds = loop.time() - began
    assert {tail for tail, _, _ in shown} == {"text\n"}
    # each time anew for each second that has gone by, however slow this machine is
    assert questions() <= at_first * (2 + passed_seconds / TAIL_KEPT_SECONDS)


async def test_a_build_that_nobody_was_asked_for_has_no_logs(
    running: Running, client: Client
) -> None:
    nobody_finishes(running.network)
    build = (await running.gateway.submit("https://example.org/r.git", "b", None)).hex()
    await running.gateway.cancel(bytes.fromhex(build), "no")
    await until(lambda: record_of(running, bytes.fromhex(build)).collected)
    text = await page(client, f"/builds/{build}")
    assert text.count('<span class="tail-state soft">no log</span>') == 4
    assert "data-replica" not in text
    assert "Whole log" not in text


@pytest.mark.parametrize("at", ["run1:0", "run1:0,-,-", "-,-,-,-,-", "x" * 8001])
async def test_positions_that_are_none_are_refused(logs: Logs, at: str) -> None:
    answer = await logs.client.get(f"/builds/{logs.build}/logs/events", params={"at": at})
    assert answer.status == 400
    assert "`at`" in (await answer.json())["error"]


async def test_each_log_takes_a_place_among_the_followers(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_routes, "FOLLOWERS_MAX", 6)
    merged = await logs.follow()
    path = f"/builds/{logs.build}/logs/events"
    assert (await logs.client.get(path)).status == 503
    last = await logs.client.get(path, params={"at": "-,-,run1:0,run1:0"})
    assert last.status == 200
    last.close()
    merged.follower._response.close()

    async def is_free() -> bool:
        answer = await logs.client.get(path)
        answer.close()
        return answer.status == 200

    logs.write("replica-0", b"x")
    for _ in range(1800):
        if await is_free():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("who is gone holds a place")


async def test_a_fault_of_our_own_ends_one_log_and_says_so(
    logs: Logs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logs.write("replica-1", b"one\n")
    piece_of = LiveLogs.piece

    async def piece_or_fault(
        self: LiveLogs, build: bytes, replica: str, offset: int, *, wait_seconds: int
    ) -> ServedPiece:
        if replica == "replica-2":
            raise ZeroDivisionError
        return await piece_of(self, build, replica, offset, wait_seconds=wait_seconds)

    monkeypatch.setattr(LiveLogs, "piece", piece_or_fault)
    followed = await logs.follow()
    await followed.until_texts({"replica-1": "one\n"})
    while not followed.ended:
        await followed.next()
    assert followed.ended == {"replica-2": "the gateway cannot follow it: its log says why"}
    assert "ZeroDivisionError" in caplog.text
