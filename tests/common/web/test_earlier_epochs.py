"""Members of an earlier epoch reach a member of the present one, and one application of it.

On both event loops, since they do TLS with code of their own.
"""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from aiohttp import web

from common.address import Address
from common.configuration.keys import SigningKey
from common.tls.certificates import PinnedKeys, host_of
from common.tls.dialling import DiallingTls
from common.tls.member_tls import MemberTls
from common.web.bounded_http import AnswerBounds, HttpRequest, NoAnswer, ask, bounded_session
from common.web.limited_listener import LimitedListener

BEFORE, NOW = b"b" * 32, b"n" * 32
NAMES = ("node0", "gateway", "removed", "new", "stranger")
KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in NAMES}
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
BOUNDS = AnswerBounds(bytes_max=1024, timeout_seconds=30.0)

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test on one of the loops."""

    def run_on(test: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(test)

    return run_on


def tls_of(name: str, epoch: bytes, *, key: SigningKey | None = None) -> MemberTls:
    """A member in an epoch. `removed` is in the one before alone, and `new` in this one."""
    last = "new" if epoch == NOW else "removed"
    pinned = PinnedKeys(epoch, {each: KEYS[each].public_key for each in ("node0", "gateway", last)})
    return MemberTls(pinned, name, key or KEYS[name], clock=time.time, randomness=os.urandom)


def said(text: str) -> web.Application:
    async def say(request: web.Request) -> web.Response:
        return web.Response(text=text)

    app = web.Application()
    app.router.add_get("/{path:.*}", say)
    return app


class Server:
    """node0 in the present epoch, which also knows the one before."""

    def __init__(self, listener: LimitedListener) -> None:
        self.listener = listener

    async def asked_by(self, dialling: DiallingTls) -> str:
        """What it answers whoever dials so; `none`: it takes no connection."""
        host, port = self.listener.sockets[0].getsockname()[:2]
        request = HttpRequest(url=f"https://{Address(host, port)}/status", tls=dialling)
        async with bounded_session() as session:
            try:
                return (await ask(session, request, BOUNDS)).data.decode()
            except NoAnswer:
                return "none"


@asynccontextmanager
async def serving(*, for_earlier: bool = True) -> AsyncIterator[Server]:
    tls = tls_of("node0", NOW)
    tls.serve_earlier(tls_of("node0", BEFORE), 0)
    earlier = said("links") if for_earlier else None
    listener = LimitedListener(said("all"), tls=tls, for_earlier=earlier)
    await listener.open(Address("127.0.0.1", 0))
    try:
        yield Server(listener)
    finally:
        await listener.end()


def test_each_epochs_members_are_served_what_is_theirs(run: Run) -> None:
    async def test() -> None:
        async with serving() as server:
            found = {
                (name, epoch): await server.asked_by(tls_of(name, epoch).dialling("node0"))
                for name, epoch in (
                    ("gateway", NOW),
                    ("gateway", BEFORE),
                    ("new", NOW),
                    ("removed", BEFORE),
                )
            }
            assert found == {
                ("gateway", NOW): "all",
                ("gateway", BEFORE): "links",
                ("new", NOW): "all",
                ("removed", BEFORE): "links",
            }

    run(test())


def test_the_name_that_is_asked_for_makes_nobody_a_member(run: Run) -> None:
    """A removed member asks for the present name, and a stranger for both."""

    async def test() -> None:
        async with serving() as server:
            for name, key, shown, asked in (
                ("removed", "removed", BEFORE, NOW),
                ("gateway", "gateway", NOW, BEFORE),
                ("gateway", "stranger", BEFORE, BEFORE),
                ("gateway", "stranger", NOW, NOW),
            ):
                own = tls_of(name, shown, key=KEYS[key]).dialling("node0")
                # whatever the server shows: only what it takes counts here
                own.context.check_hostname = False
                own.context.verify_mode = ssl.CERT_NONE
                own = DiallingTls(own.context, host_of(asked, "node0"), own.digest)
                assert await server.asked_by(own) == "none", (name, key)

    run(test())


def test_a_server_without_an_application_for_them_takes_none(run: Run) -> None:
    async def test() -> None:
        async with serving(for_earlier=False) as server:
            assert await server.asked_by(tls_of("gateway", BEFORE).dialling("node0")) == "none"
            assert await server.asked_by(tls_of("gateway", NOW).dialling("node0")) == "all"

    run(test())
