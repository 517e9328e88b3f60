"""live_logs and its routes: a log is followed from any byte to its end, whatever happens."""

import asyncio
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ci.operations import Ballot
from client.logs.build_output import BuildOutput, Span
from client.logs.live_logs import LiveLogs, Position
from client.logs.log_steps import PART_BYTES
from common.log_pieces import ServedPiece, read_piece
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import Node, Running, passed
from tests.client.site import Client, client_of, post

REPLICA = "replica-1"
STEP_BYTES = 8 * 1024


class Build:
    """A build that no replica has finished, and what one of them writes."""

    def __init__(self, running: Running, client: Client) -> None:
        self.running = running
        self.client = client
        self.id = b""
        self.ended = False
        for node in running.network.nodes.values():
            node.finds = lambda build: self._found()

    def _found(self) -> tuple[Ballot, bytes] | None:
        return passed(self.node.logs[self.id].decode()) if self.ended else None

    @property
    def node(self) -> Node:
        """The replica whose log is followed."""
        return self.running.network.nodes[REPLICA]

    async def begin(self) -> None:
        """Ask for it and wait until the network has it."""
        _, accepted = await post(self.client, {"branch": "master"})
        self.id = bytes.fromhex(accepted["build"])
        await until(lambda: record_of(self.running, self.id).opened_at is not None)

    def write(self, data: bytes) -> None:
        """The build writes; its log grows."""
        self.node.growing.add(self.id)
        self.node.logs[self.id] = self.node.logs.get(self.id, b"") + data

    def end(self) -> None:
        """The build is over: all replicas find it passed, with this log."""
        self.node.growing.discard(self.id)
        self.ended = True

    @property
    def path(self) -> str:
        """Of the log at the gateway."""
        return f"/api/v1/builds/{self.id.hex()}/replicas/{REPLICA}/log"


@pytest.fixture
async def build(running: Running, client: Client) -> Build:
    build = Build(running, client)
    await build.begin()
    return build


class Follower:
    """Reads a stream of server-sent events, as a browser does."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.last_id = ""
        self.text = ""
        self.kinds: list[str] = []

    async def next(self) -> tuple[str, dict[str, Any]]:
        """The next event: its kind and its data."""
        fields: dict[str, str] = {}
        while True:
            line = (await asyncio.wait_for(self._response.content.readline(), 60)).decode()
            assert line, "the stream ended"
            name, _, value = line.rstrip("\r\n").partition(": ")
            if name:
                fields[name] = value
            elif "event" in fields:
                self.last_id = fields.get("id", self.last_id)
                self.kinds.append(fields["event"])
                data = json.loads(fields["data"])
                if fields["event"] == "output":
                    self.text += "".join(text for _, text in data["spans"])
                return fields["event"], data
            else:
                fields = {}

    async def until(self, kind: str) -> dict[str, Any]:
        """Go on to an event of that kind."""
        while True:
            found, data = await self.next()
            if found == kind:
                return data

    async def until_text(self, text: str) -> None:
        """Go on until that was shown."""
        while text not in self.text:
            await self.next()


async def follow(build: Build, last_id: str = "", query: str = "") -> Follower:
    headers = {"Last-Event-ID": last_id} if last_id else {}
    response = await build.client.get(f"{build.path}/events{query}", headers=headers)
    assert response.status == 200, await response.text()
    assert response.content_type == "text/event-stream"
    return Follower(response)


async def test_a_log_is_followed_from_before_it_begins_to_its_end(build: Build) -> None:
    follower = await follow(build)
    build.write(b"first \x1b[31mred\x1b[0m\n")
    await follower.until_text("red")
    build.write(b"second\n")
    await follower.until_text("second")
    build.end()
    assert await follower.until("end") == {"text": "the log is complete"}
    assert follower.text == "first red\nsecond\n"


class Renderer:
    """What is rendered, counted: how many bytes, in parts of which sizes, by which threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.threads: set[str] = set()
        take = BuildOutput.take

        def noted(output: BuildOutput, data: bytes, *, is_last: bool = False) -> list[Span]:
            self.sizes.append(len(data))
            self.threads.add(threading.current_thread().name)
            return take(output, data, is_last=is_last)

        monkeypatch.setattr(BuildOutput, "take", noted)


def escape_sequences(count: int) -> bytes:
    """Output that is much work for its length, and what a page shows of it changes all the time."""
    return b"".join(b"\x1b[1;3%dm\xe2\x82\xac%d\r" % (i % 8, i) for i in range(count))


async def test_a_log_that_is_much_work_is_rendered_beside_the_loop_and_once(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many follow it, and wherever they begin: what is shown to each is the same."""
    monkeypatch.setattr("client.logs.log_steps.PIECE_BYTES_MAX", STEP_BYTES)
    data = escape_sequences(1_500)
    assert 2 * STEP_BYTES < len(data) < 3 * STEP_BYTES
    expected = "".join(span.text for span in BuildOutput().take(data, is_last=True))
    renderer = Renderer(monkeypatch)
    build.write(data)
    build.end()
    beginnings = [0] * 10 + [STEP_BYTES - 1000 - n for n in range(10)]
    followers = [await follow(build, query=f"?from={n}") for n in beginnings]
    await asyncio.gather(*(follower.until("end") for follower in followers))
    assert {follower.text for follower in followers[:10]} == {expected}
    for follower in followers[10:]:
        assert follower.text.endswith(expected[-STEP_BYTES // 2 :])
    # Those from the beginning once; those from elsewhere their first bytes each, the rest once;
    # and both once more where the log was archived meanwhile.
    assert sum(renderer.sizes) <= 4 * len(data) + 10 * 1010
    assert {name.rpartition("_")[0] for name in renderer.threads} == {"logs"}
    assert max(renderer.sizes) <= PART_BYTES


async def test_followers_of_a_growing_log_share_one_question(build: Build) -> None:
    build.write(b"one\n")
    followers = [await follow(build) for _ in range(20)]
    await asyncio.gather(*(follower.until_text("one\n") for follower in followers))
    served = len(build.node.served)
    build.write(b"two\n")
    await asyncio.gather(*(follower.until_text("two\n") for follower in followers))
    build.end()
    await asyncio.gather(*(follower.until("end") for follower in followers))
    assert {follower.text for follower in followers} == {"one\ntwo\n"}
    # the collector asks, too
    assert len(build.node.served) - served < 20


async def test_who_comes_back_misses_nothing_and_gets_nothing_twice(build: Build) -> None:
    build.write(b"one \xe2\x82")
    first = await follow(build)
    await first.until_text("one ")
    # the connection is lost in the middle of a character
    first._response.close()
    build.write(b"\xac two\n")
    second = await follow(build, first.last_id)
    await second.until_text("two")
    second._response.close()
    build.write(b"three\n")
    build.end()
    third = await follow(build, second.last_id)
    await third.until("end")
    assert first.text + second.text + third.text == "one \u20ac two\nthree\n"


async def test_who_comes_back_after_the_log_was_archived(build: Build) -> None:
    build.write(b"0123456789")
    first = await follow(build, query="?from=3")
    await first.until_text("9")
    first._response.close()
    build.write(b"ABC")
    build.end()
    await until(lambda: record_of(build.running, build.id).collected)
    build.node.is_down = True
    second = await follow(build, first.last_id)
    await second.until("end")
    assert (first.text, second.text) == ("3456789", "ABC")


async def test_a_replica_that_begins_anew_is_followed_from_its_beginning(build: Build) -> None:
    build.write(b"of the first run")
    follower = await follow(build)
    await follower.until_text("run")
    build.node.run_id = "run2"
    build.node.logs[build.id] = b"of the second run, which is longer by now"
    await follower.until("restart")
    follower.text = ""
    await follower.until_text("by now")
    assert follower.text == "of the second run, which is longer by now"


async def test_a_replica_that_gives_no_answer_is_asked_again(build: Build) -> None:
    build.write(b"before")
    follower = await follow(build)
    await follower.until_text("before")
    build.node.is_down = True
    state = await follower.until("state")
    assert "503" in state["text"]
    assert "asking again" in state["text"]
    build.node.is_down = False
    build.write(b" after")
    await follower.until_text("after")
    assert follower.text == "before after"


async def test_a_build_that_ends_without_a_log_ends_its_followers(build: Build) -> None:
    follower = await follow(build)
    for name, node in build.running.network.nodes.items():
        node.finds = (lambda build: None) if name == REPLICA else (lambda build: passed())
    assert await follower.until("end") == {"text": f"{REPLICA} has no log of this build"}


async def test_a_replica_that_begins_anew_again_and_again_is_followed_no_longer(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.logs.live_logs.RESTARTS_MAX", 3)
    monkeypatch.setattr("client.logs.live_logs.AGAIN_SECONDS", 0.01)
    monkeypatch.setattr("node.web.log_routes._is_nothing_new", lambda piece, offset: False)
    build.write(b"the same")
    runs = itertools.count()
    another = property(lambda node: f"run{next(runs)}", lambda node, value: None)
    monkeypatch.setattr(Node, "run_id", another, raising=False)
    follower = await follow(build)
    assert await follower.until("end") == {"text": f"more of {REPLICA} is not followed"}
    assert follower.kinds.count("restart") == 3


async def test_a_replica_that_does_not_wait_cannot_keep_the_gateway_busy(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    again_seconds = 0.2
    monkeypatch.setattr("client.logs.live_logs.AGAIN_SECONDS", again_seconds)
    monkeypatch.setattr("node.web.log_routes._is_nothing_new", lambda piece, offset: False)
    loop = asyncio.get_running_loop()
    asked: list[float] = []
    ask = LiveLogs.piece

    async def noted(
        self: LiveLogs, build: bytes, replica: str, offset: int, *, wait_seconds: int
    ) -> ServedPiece:
        asked.append(loop.time())
        return await ask(self, build, replica, offset, wait_seconds=wait_seconds)

    monkeypatch.setattr(LiveLogs, "piece", noted)
    build.write(b"text")
    follower = await follow(build)
    await follower.until_text("text")
    # the questions from here on find nothing
    asked.clear()
    await until(lambda: len(asked) >= 4)
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    # however slow this machine is; a timer of the loop may be a moment early
    assert min(gaps) > 0.9 * again_seconds
    build.write(b" more")
    await follower.until_text("more")


async def test_a_log_that_retention_removed_is_absent(build: Build) -> None:
    build.write(b"text")
    build.end()
    await until(lambda: record_of(build.running, build.id).collected)
    build.running.archive.remove_logs([build.id])
    answer = await build.client.get(f"{build.path}?from=0")
    assert answer.status == 404
    assert "no longer kept" in (await answer.json())["error"]


async def test_a_piece_says_where_it_is(build: Build) -> None:
    build.write(b"0123456789")
    answer = await build.client.get(f"{build.path}?from=4")
    served = read_piece(answer.headers, await answer.read())
    assert (served.piece.offset, served.piece.data, served.piece.total) == (4, b"456789", 10)
    assert served.piece.is_growing
    assert answer.content_type == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_piece_can_be_waited_for(build: Build) -> None:
    build.write(b"0")
    question = asyncio.create_task(build.client.get(f"{build.path}?from=1&wait=20"))
    # once as it came, and at least once more, in vain
    await until(lambda: build.node.looks >= 3)
    assert not question.done()
    looks = build.node.looks
    build.write(b"1")
    answer = await question
    assert await answer.read() == b"1"
    assert build.node.looks == looks + 1


@pytest.mark.parametrize("query", ["from=-1", "from=x", "from=1e3", "wait=21", "from=" + "9" * 30])
async def test_a_wrong_question(build: Build, query: str) -> None:
    for path in (build.path, f"{build.path}/events"):
        if path.endswith("events") and "wait" in query:
            continue
        answer = await build.client.get(f"{path}?{query}")
        assert answer.status == 400
        assert "is a number from 0" in (await answer.json())["error"]


async def test_no_such_replica_and_no_such_build(build: Build) -> None:
    answer = await build.client.get(build.path.replace(REPLICA, "nobody"))
    assert answer.status == 404
    assert "there are replica-0" in (await answer.json())["error"]
    answer = await build.client.get(build.path.replace(build.id.hex(), "0" * 64))
    assert answer.status == 404


async def test_one_foreign_address_has_few_followers(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.api.log_routes.FOLLOWERS_PER_PEER_MAX", 2)
    monkeypatch.setattr("client.api.log_routes.is_this_machine", lambda peer: False)
    build.write(b"text")
    followers = [await follow(build) for _ in range(2)]
    answer = await build.client.get(f"{build.path}/events")
    assert answer.status == 503
    assert "followed already from 127.0.0.1" in (await answer.json())["error"]
    for follower in followers:
        follower._response.close()


async def test_followers_are_bounded_and_give_their_places_back(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.api.log_routes.FOLLOWERS_MAX", 2)
    monkeypatch.setattr("client.api.log_routes.HEARTBEAT_SECONDS", 0.1)
    build.write(b"text")
    followers = [await follow(build) for _ in range(2)]
    answer = await build.client.get(f"{build.path}/events")
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "2"
    for follower in followers:
        await follower.until_text("text")
        follower._response.close()
    build.write(b" more")

    statuses: list[int] = []

    async def ask_until_let_in() -> None:
        while 200 not in statuses:
            statuses.append((await build.client.get(f"{build.path}?from=0")).status)

    await asyncio.wait_for(ask_until_let_in(), 60)


async def test_a_gateway_that_stops_lets_its_followers_go(running: Running, tmp_path: Path) -> None:
    client = await client_of(running, tmp_path)
    build = Build(running, client)
    await build.begin()
    build.write(b"text")
    follower = await follow(build)
    await follower.until_text("text")
    await asyncio.wait_for(client.close(), 60)


@pytest.mark.parametrize("text", ["", ":", "a:", ":1", "a:b", "a b:1", "a:1:2", "x" * 40 + ":1"])
def test_a_position_that_is_none(text: str) -> None:
    assert Position.parse(text) is None


def test_a_position() -> None:
    assert Position.parse(str(Position(17, "run1"))) == Position(17, "run1")
