"""Links prove who is at either end, carry messages, come back, and refuse everybody else."""

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp
import msgspec
import pytest
from aiohttp import web

from common.address import Address
from common.configuration.keys import SigningKey
from common.links.handshake import Handshakes, LinkVersions
from common.links.link import LINK_PATH, Inbox, Links
from common.web.peers import Peers
from pbft.authentication import Identity
from pbft.client import make_request
from pbft.codec import decode_frame
from pbft.genesis import PROTOCOL_MIN, Cluster, Genesis, Member
from pbft.messages import Envelope
from scripts.free_ports import free_ports
from tests.waiting import wait_until

KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in ("r0", "client", "stranger")}


def _cluster(window: int = 256) -> Cluster:
    return Cluster(
        Genesis(
            PROTOCOL_MIN,
            (Member("r0", KEYS["r0"].public_key, ("replica",)),),
            (Member("client", KEYS["client"].public_key, ("gateway",)),),
            128,
            window,
            256,
            b"",
        )
    )


class _End:
    """One member's links, and what came in."""

    def __init__(
        self,
        name: str,
        dial: dict[str, Address],
        *,
        key: str | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self.received: list[tuple[str, Envelope]] = []
        self.connections: list[str] = []
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.links = Links(
            Identity(cluster or _cluster(), name, KEYS[key or name].sign),
            dial=Peers(dial),
            inbox=Inbox(
                on_envelopes=lambda peer, envelopes: self.received.extend(
                    (peer, envelope) for envelope in envelopes
                ),
                on_connected=self.connections.append,
                has_room=self.has_room,
            ),
        )


class _Server:
    """The accepting end, which can be stopped and started on one port."""

    def __init__(self) -> None:
        self.end = _End("r0", {})
        self.address = Address("127.0.0.1", free_ports(1)[0])
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get(LINK_PATH, self.end.links.handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        host, port = self.address.host, self.address.port
        await web.TCPSite(self._runner, host, port, reuse_address=True).start()
        await self.end.links.start()

    async def stop(self) -> None:
        await self.end.links.close()
        if self._runner is not None:
            await self._runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[_Server]:
    """A listening replica r0."""
    server = _Server()
    await server.start()
    yield server
    await server.stop()


def _envelope(number: int) -> Envelope:
    return Envelope(
        make_request(Identity(_cluster(), "client", KEYS["client"].sign), number, b"op")
    )


async def test_messages_travel_both_ways(server: _Server) -> None:
    client = _End("client", {"r0": server.address})
    await client.links.start()
    await wait_until(lambda: client.links.connected() == {"r0"}, "the link")
    await wait_until(lambda: server.end.links.connected() == {"client"}, "the link")
    client.links.send("r0", [_envelope(n) for n in range(1, 100)])
    server.end.links.send("client", [_envelope(7)])
    await wait_until(lambda: len(server.end.received) == 99, "the messages")
    await wait_until(lambda: len(client.received) == 1, "the message back")
    assert server.end.received == [("client", _envelope(n)) for n in range(1, 100)]
    assert client.received == [("r0", _envelope(7))]
    there, here = server.end.links.traffic, client.links.traffic
    assert (here.messages_sent, here.messages_received) == (99, 1)
    assert (there.messages_received, there.messages_sent) == (99, 1)
    assert there.bytes_received == here.bytes_sent > 99 * len(_envelope(1).signed.payload)
    assert there.bytes_sent == here.bytes_received > 0
    await client.links.close()


async def test_a_link_comes_back_after_the_peer_was_gone(server: _Server) -> None:
    client = _End("client", {"r0": server.address})
    await client.links.start()
    await wait_until(lambda: client.links.connected() == {"r0"}, "the link")
    await server.stop()
    await wait_until(lambda: not client.links.connected(), "the end of the link")
    client.links.send("r0", [_envelope(1)])  # dropped: there is no link
    server.end = _End("r0", {})
    await server.start()
    await wait_until(lambda: client.connections == ["r0", "r0"], "the link again")
    client.links.send("r0", [_envelope(2)])
    await wait_until(lambda: bool(server.end.received), "a message")
    assert server.end.received == [("client", _envelope(2))]
    await client.links.close()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ({"name": "client", "key": "stranger"}, "did not prove"),
        ({"name": "stranger"}, "unknown signer"),
        ({"name": "client", "cluster": _cluster(window=512)}, "another cluster"),
        ({"name": "r0"}, "a proof of this one itself"),
    ],
)
async def test_who_proves_nothing_gets_no_link(
    server: _Server, end: dict[str, object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    impostor = _End(dial={"r0": server.address}, **end)  # type: ignore[arg-type]
    await impostor.links.start()
    await wait_until(lambda: reason in caplog.text, f"the reason {reason!r}")
    assert not server.end.links.connected()
    await impostor.links.close()


async def test_without_a_common_version_both_logs_have_a_line_and_nothing_else(
    server: _Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    client = _End("client", {"r0": server.address})
    identity = Identity(_cluster(), "client", KEYS["client"].sign)
    client.links._handshakes = Handshakes(identity, LinkVersions(3, 4))
    await client.links.start()
    await wait_until(lambda: len(caplog.records) >= 2, "a line of each end")
    assert [record.getMessage() for record in caplog.records[:2]] == [
        "a link from 127.0.0.1 was refused: the dialler speaks link version 3 to 4, this member 2;"
        " upgrade PBFT/CI of this member",
        f"no link to r0 at {server.address}: 'r0' speaks link version 2, this member 3 to 4;"
        " upgrade PBFT/CI of 'r0'",
    ]
    assert not any(record.exc_info for record in caplog.records)
    assert not server.end.links.connected()
    await client.links.close()


async def test_frames_of_a_newer_version_end_the_link_in_one_line(
    server: _Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the peer comes back with them."""
    caplog.set_level("WARNING")
    monkeypatch.setattr("common.links.link.TOLD_SECONDS", 3600.0)
    server.end.links._told_at = -3600.0
    client = _End("client", {"r0": server.address})
    await client.links.start()
    for count in range(1, 4):
        await wait_until(lambda n=count: len(client.connections) == n, "a link")  # type: ignore[misc]
        await client.links._links["r0"].websocket.send_bytes(b"\x81\xa5frame\x03")
        await wait_until(lambda: not client.links.connected(), "the end of the link")
    (record,) = caplog.records
    assert "client sent a malformed frame, or one of a newer version" in record.getMessage()
    assert record.exc_info is None
    await client.links.close()


async def test_a_peer_that_is_not_who_was_dialled_gets_no_link(
    server: _Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    client = _End("r0", {"client": server.address}, key="r0")
    await client.links.start()
    await wait_until(lambda: "no link to client" in caplog.text, "the refusal")
    assert not client.links.connected()
    await client.links.close()


async def test_why_there_is_no_link_is_logged_once_a_minute(
    server: _Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("WARNING")
    monkeypatch.setattr("common.links.link.RECONNECT_SECONDS_MAX", 0.05)
    client = _End("r0", {"client": server.address}, key="r0")
    dials, dial = 0, client.links._dialled

    async def counted(peer: str) -> object:
        nonlocal dials
        dials += 1
        return await dial(peer)

    def lines() -> int:
        return caplog.text.count("no link to client")

    monkeypatch.setattr(client.links, "_dialled", counted)
    await client.links.start()
    await wait_until(lambda: dials >= 4, "further tries")
    assert lines() == 1
    monkeypatch.setattr("common.links.link.TOLD_AGAIN_SECONDS", 0.0)
    await wait_until(lambda: lines() >= 3, "the reason again")
    await client.links.close()


@pytest.mark.parametrize(
    "proof",
    ["", "PBFT-CI-Link", "PBFT-CI-Link ", "PBFT-CI-Link ////", "Bearer x", "PBFT-CI-Link \xff",
     "PBFT-CI-Link " + "A" * 8000],
)  # fmt: skip
async def test_nonsense_for_a_proof_makes_no_link(server: _Server, proof: str) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(
                server.address.url + LINK_PATH, headers={"Authorization": proof}
            )
    assert refused.value.status == 401
    assert not server.end.links.connected()


class _FaultOnce:
    """A callback that has a fault of our own the first time; after that it does its work."""

    def __init__(self, work: Callable[..., None]) -> None:
        self._work = work
        self.calls = 0

    def __call__(self, *values: object) -> None:
        self.calls += 1
        if self.calls == 1:
            raise ZeroDivisionError
        self._work(*values)


async def test_a_fault_when_a_link_was_made_ends_that_link_alone(
    server: _Server, caplog: pytest.LogCaptureFixture
) -> None:
    client = _End("client", {"r0": server.address})
    inbox = client.links._inbox
    fault = _FaultOnce(client.connections.append)
    client.links._inbox = msgspec.structs.replace(inbox, on_connected=fault)
    await client.links.start()
    await wait_until(lambda: client.connections == ["r0"], "the link again")
    assert fault.calls == 2
    assert "ZeroDivisionError" in caplog.text
    assert "the link to r0" in caplog.text
    await client.links.close()


@pytest.mark.parametrize("is_dialling", [True, False])
async def test_a_fault_with_what_came_ends_that_link_alone(
    server: _Server, caplog: pytest.LogCaptureFixture, is_dialling: bool
) -> None:
    client = _End("client", {"r0": server.address})
    taking, sending, to = (
        (client, server.end, "client") if is_dialling else (server.end, client, "r0")
    )
    inbox = taking.links._inbox
    fault = _FaultOnce(inbox.on_envelopes)
    taking.links._inbox = msgspec.structs.replace(inbox, on_envelopes=fault)
    await client.links.start()
    await wait_until(lambda: to in sending.links.connected(), "the link")
    sending.links.send(to, [_envelope(1)])
    await wait_until(lambda: len(client.connections) == 2, "the link again")
    await wait_until(lambda: to in sending.links.connected(), "the link again")
    sending.links.send(to, [_envelope(2)])
    await wait_until(lambda: bool(taking.received), "the next message")
    assert taking.received[-1][1] == _envelope(2)
    assert "ended by a fault of our own" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    await client.links.close()


@pytest.mark.parametrize("is_dialling", [True, False])
async def test_a_fault_with_what_is_sent_ends_that_link_alone(
    server: _Server,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    is_dialling: bool,
) -> None:
    client = _End("client", {"r0": server.address})
    sending, taking, to = (
        (client, server.end, "r0") if is_dialling else (server.end, client, "client")
    )
    await client.links.start()
    await wait_until(lambda: to in sending.links.connected(), "the link")

    def fault(frame: object) -> bytes:
        monkeypatch.undo()
        raise ZeroDivisionError

    monkeypatch.setattr("common.links.link.encode_frame", fault)
    sending.links.send(to, [_envelope(1)])
    await wait_until(lambda: len(client.connections) == 2, "the link again")
    await wait_until(lambda: to in sending.links.connected(), "the link again")
    sending.links.send(to, [_envelope(2)])
    await wait_until(lambda: bool(taking.received), "the next message")
    assert taking.received[-1][1] == _envelope(2)
    assert "ZeroDivisionError" in caplog.text
    await client.links.close()


class _LostConnection:
    """Takes the place of the method that begins a link, and counts how often it was lost."""

    def __init__(self, error: OSError) -> None:
        self._error = error
        self.calls = 0

    async def __call__(self, *_: object) -> None:
        self.calls += 1
        raise self._error


@pytest.mark.parametrize("method", ["prepare", "_write_headers"])
@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("Cannot write to closing transport"),
        # the system says of a connection that it took too long, too
        TimeoutError(110, "Connection timed out"),
    ],
)
async def test_a_connection_that_is_lost_before_the_link_is_made_leaves_no_trace(
    server: _Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    error: OSError,
) -> None:
    """In a real server, which goes on with what the handler gave it."""
    lost = _LostConnection(error)
    monkeypatch.setattr(f"common.links.link.web.WebSocketResponse.{method}", lost)
    client = _End("client", {"r0": server.address})
    await client.links.start()
    await wait_until(lambda: lost.calls >= 2, "a second attempt")
    await client.links.close()
    assert not caplog.records
    assert not server.end.links.connected()


async def test_no_frame_is_taken_in_while_there_is_no_room(
    server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []

    def noted(data: bytes) -> tuple[Envelope, ...]:
        decoded.append(data)
        return decode_frame(data)

    monkeypatch.setattr("common.links.link.decode_frame", noted)
    client = _End("client", {"r0": server.address})
    await client.links.start()
    await wait_until(lambda: client.links.connected() == {"r0"}, "the link")
    await wait_until(lambda: server.end.links.connected() == {"client"}, "the link")
    server.end.has_room.clear()
    client.links.send("r0", [_envelope(1)])
    # in the turn of the loop in which it is read it is taken in, or waits for room
    await wait_until(lambda: bool(decoded), "the frame")
    assert not server.end.received
    server.end.has_room.set()
    await wait_until(lambda: bool(server.end.received), "the message")
    await client.links.close()


async def test_a_ping_of_a_peer_that_has_gone_is_no_fault_of_ours(
    server: _Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a minute of SIGSTOP: pings wait to be read, and the peer gave up long ago."""
    client = _End("client", {"r0": server.address})
    await client.links.start()
    await wait_until(lambda: client.links.connected() == {"r0"}, "the link")
    await wait_until(lambda: server.end.links.connected() == {"client"}, "the link")
    decoded: list[bytes] = []

    def noted(data: bytes) -> tuple[Envelope, ...]:
        decoded.append(data)
        return decode_frame(data)

    monkeypatch.setattr("common.links.link.decode_frame", noted)
    server.end.has_room.clear()
    client.links.send("r0", [_envelope(1)])
    # it waits for room now, and what comes behind it waits to be read
    await wait_until(lambda: bool(decoded), "the frame")
    websocket = client.links._links["r0"].websocket
    assert isinstance(websocket, aiohttp.ClientWebSocketResponse)
    await websocket.ping()
    await client.links.close()
    transport = server.end.links._links["client"].websocket._writer.transport  # type: ignore[union-attr]
    await wait_until(transport.is_closing, "the end of the connection")
    server.end.has_room.set()
    await wait_until(lambda: not server.end.links.connected(), "the end of the link")
    assert "fault of our own" not in caplog.text


async def test_no_link_is_made_while_there_is_no_room(server: _Server) -> None:
    """Each holds a frame that waits: a peer that dials again and again would fill the memory."""
    server.end.has_room.clear()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(server.address.url + LINK_PATH)
    assert refused.value.status == 503
    client = _End("client", {"r0": server.address})
    await client.links.start()
    server.end.has_room.set()
    await wait_until(lambda: client.links.connected() == {"r0"}, "the link")
    await client.links.close()


async def test_what_a_peer_does_not_read_is_bounded(
    server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.links.link.QUEUE_BYTES_MAX", 10_000)
    client = _End("client", {"r0": server.address})
    await client.links.start()
    await wait_until(lambda: client.links.connected() == {"r0"}, "the link")
    link = client.links._links["r0"]
    client.links.send("r0", [_envelope(n) for n in range(1, 1000)])
    assert link._queued_bytes <= 10_000
    await wait_until(lambda: bool(server.end.received), "the newest messages")
    assert server.end.received[-1][1] == _envelope(999)
    await client.links.close()
