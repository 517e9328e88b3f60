"""Links over TLS: members only, a line at both ends for each refusal, and leaves that end them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from common.address import Address
from common.configuration.keys import SigningKey
from common.links.link import LINK_PATH, Inbox, Links
from common.tls import member_tls
from common.tls.certificates import LIFETIME, PinnedKeys
from common.tls.member_tls import MemberTls
from common.web.bounded_http import AnswerBounds, HttpRequest, NoAnswer, ask, bounded_session
from common.web.limited_listener import LimitedListener, channel_of
from common.web.peers import Peers
from pbft.authentication import Identity
from pbft.genesis import PROTOCOL_MIN, Cluster, Genesis, Member
from tests.waiting import wait_until

KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in ("r0", "r1", "client")}
BOUNDS = AnswerBounds(1000, 20.0)


def cluster_of(window: int = 256) -> Cluster:
    r0 = Member("r0", KEYS["r0"].public_key, ("replica",))
    others = tuple(Member(name, KEYS[name].public_key, ("gateway",)) for name in ("r1", "client"))
    return Cluster(Genesis(PROTOCOL_MIN, (r0,), others, 128, window, 256, b""))


def tls_of(name: str, *, cluster: Cluster | None = None, key: str | None = None) -> MemberTls:
    cluster = cluster or cluster_of()
    pinned = PinnedKeys(cluster.id, {each: KEYS[each].public_key for each in KEYS})
    return MemberTls(pinned, name, KEYS[key or name], clock=time.time, randomness=os.urandom)


def old_tls_of(name: str, seconds_left: float, monkeypatch: pytest.MonkeyPatch) -> MemberTls:
    """One whose leaf ends so soon and is not renewed before."""
    monkeypatch.setattr(member_tls, "RENEWAL_SECONDS", 2 * LIFETIME.total_seconds())
    times = iter([time.time() - LIFETIME.total_seconds() + seconds_left])
    pinned = PinnedKeys(cluster_of().id, {each: KEYS[each].public_key for each in KEYS})
    return MemberTls(
        pinned,
        name,
        KEYS[name],
        clock=lambda: next(times, time.time()),
        randomness=os.urandom,
    )


class End:
    """One member's links."""

    def __init__(self, name: str, dial: Peers, cluster: Cluster | None = None) -> None:
        self.connections: list[str] = []
        self.links = Links(
            Identity(cluster or cluster_of(), name, KEYS[name].sign),
            dial=dial,
            inbox=Inbox(lambda peer, envelopes: None, self.connections.append),
        )


class Server:
    """r0, listening over TLS."""

    def __init__(self, tls: MemberTls | None) -> None:
        self.end = End("r0", Peers({}))
        app = web.Application()
        app.router.add_get(LINK_PATH, self.end.links.handle)
        app.router.add_get("/whoami", self._whoami)
        self.listener = LimitedListener(app, tls=tls)

    async def _whoami(self, request: web.Request) -> web.Response:
        channel = channel_of(request)
        return web.Response(text="nobody" if channel is None else channel.peer.member)

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.listener.sockets[0].getsockname()[1])


@asynccontextmanager
async def serving(tls: MemberTls | None) -> AsyncIterator[Server]:
    server = Server(tls)
    await server.listener.open(Address("127.0.0.1", 0))
    yield server
    await server.end.links.close()
    await server.listener.end()


@asynccontextmanager
async def dialling(
    server: Server, name: str, tls: MemberTls | None, cluster: Cluster | None = None
) -> AsyncIterator[End]:
    end = End(name, Peers({"r0": server.address}, tls), cluster)
    await end.links.start()
    yield end
    await end.links.close()


async def test_a_link_over_tls() -> None:
    async with serving(tls_of("r0")) as server, dialling(server, "r1", tls_of("r1")) as end:
        await wait_until(lambda: end.links.connected() == {"r0"}, "the link")
        await wait_until(lambda: server.end.links.connected() == {"r1"}, "the link")


async def test_requests_over_tls() -> None:
    async with serving(tls_of("r0")) as server, bounded_session() as session:
        peers = Peers({"r0": server.address}, tls_of("client"))
        answer = await ask(session, peers.request("r0", HttpRequest(url="/whoami")), BOUNDS)
        assert answer.data == b"client"


@pytest.mark.parametrize(
    ("tls", "here", "there"),
    [
        (tls_of("r1", key="client"), "does not take our certificate", "no member of this cluster"),
        (
            tls_of("r1", cluster=cluster_of(512)),
            "no member of this cluster signed",
            "",
        ),
        (None, "", "it speaks HTTP without TLS"),
    ],
    ids=["another key", "another cluster", "without TLS"],
)
async def test_a_refusal_has_a_line_at_both_ends(
    tls: MemberTls | None, here: str, there: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    async with serving(tls_of("r0")) as server, dialling(server, "r1", tls):
        for line in (f"no link to r0 at {server.address}: " if here else "", here, there):
            await wait_until(lambda line=line: line in caplog.text, line)  # type: ignore[misc]
        assert not server.end.links.connected()


async def test_who_dials_a_server_without_tls_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    async with serving(None) as server, dialling(server, "r1", tls_of("r1")) as end:
        await wait_until(lambda: "it does not speak TLS" in caplog.text, "the line")
        assert not end.links.connected()


async def test_a_request_that_is_refused_says_why() -> None:
    async with serving(tls_of("r0")) as server, bounded_session() as session:
        peers = Peers({"r0": server.address}, tls_of("r1", key="client"))
        with pytest.raises(NoAnswer, match="does not take our certificate"):
            await ask(session, peers.request("r0", HttpRequest(url="/whoami")), BOUNDS)


async def test_one_members_proof_behind_anothers_certificate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("WARNING")
    async with serving(tls_of("r0")) as server, dialling(server, "r1", tls_of("client")) as end:
        await wait_until(
            lambda: "'r1' behind the certificate of 'client'" in caplog.text, "the line"
        )
        assert not end.links.connected()
        assert not server.end.links.connected()


async def test_a_link_ends_with_its_diallers_leaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an act of the dialler, and a new leaf makes it anew."""
    async with serving(tls_of("r0")) as server:
        async with dialling(server, "r1", old_tls_of("r1", 4.0, monkeypatch)) as end:
            await wait_until(lambda: end.links.connected() == {"r0"}, "the link")
            await wait_until(lambda: not server.end.links.connected(), "its end")
        async with dialling(server, "r1", tls_of("r1")) as end:
            await wait_until(lambda: end.links.connected() == {"r0"}, "the link again")


async def test_a_link_ends_with_its_acceptors_leaf(monkeypatch: pytest.MonkeyPatch) -> None:
    old = old_tls_of("r0", 4.0, monkeypatch)
    async with serving(old) as server, dialling(server, "r1", tls_of("r1")) as end:
        await wait_until(lambda: end.links.connected() == {"r0"}, "the link")
        await wait_until(lambda: not end.links.connected(), "its end")


async def test_silence_within_a_handshake_ends_with_the_listener() -> None:
    async with serving(tls_of("r0")) as server:
        reader, writer = await asyncio.open_connection(server.address.host, server.address.port)
        await wait_until(lambda: server.listener.handshakes == 1, "the handshake")
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
