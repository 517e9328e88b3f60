"""Receivers of messages that the tests start: an HTTP server and an SMTP server."""

import ssl
from collections.abc import Callable, Mapping
from email.message import Message as Mail
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MailHandler
from aiosmtpd.smtp import AuthResult

from scripts.free_ports import free_ports


class HttpReceiver:
    """Keeps what it is sent, and answers as it is told to. An async context manager."""

    def __init__(self, answer: Callable[[int], int] = lambda count: 204) -> None:
        """answer: the status for the request that has this place, from 1."""
        self.got: list[tuple[Mapping[str, str], bytes]] = []
        self._answer = answer
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._on_request)
        self._server = TestServer(application)

    async def __aenter__(self) -> "HttpReceiver":
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self._server.make_url("/hook"))

    async def _on_request(self, request: web.Request) -> web.Response:
        self.got.append((request.headers, await request.read()))
        return web.Response(status=self._answer(len(self.got)))


class _Keeper(MailHandler):
    def __init__(self, refusal: str | None) -> None:
        super().__init__()
        self.got: list[Mail] = []
        self._refusal = refusal

    def handle_message(self, message: Mail) -> None:
        self.got.append(message)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name and signature
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if self._refusal is not None:
            return self._refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"


class MailServer:
    """A real SMTP server in a thread of its own. A context manager."""

    def __init__(
        self,
        *,
        refusal: str | None = None,
        context: ssl.SSLContext | None = None,
        password: bytes | None = None,
    ) -> None:
        """refusal: what it answers to each recipient. context: of STARTTLS, which it then demands.

        password: of a login as "ci", which it then demands.
        """
        (self.port,) = free_ports(1)
        self._keeper = _Keeper(refusal)

        def login(
            server: Any, session: Any, envelope: Any, mechanism: str, data: Any
        ) -> AuthResult:
            return AuthResult(
                success=(data.login, data.password) == (b"ci", password), handled=False
            )

        self._controller = Controller(
            self._keeper,
            hostname="127.0.0.1",
            port=self.port,
            tls_context=context,
            require_starttls=context is not None,
            authenticator=None if password is None else login,
            auth_required=password is not None,
            auth_require_tls=context is not None,
        )

    @property
    def got(self) -> list[Mail]:
        """The mails that it took."""
        return self._keeper.got

    def __enter__(self) -> "MailServer":
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()
