"""Sends messages: HTTP and mail. What a receiver cannot take now is tried again for a day.

The rule: a message goes to the internet alone, unless `private_allowed` says otherwise: the
addresses that are connected to are checked, not the name.
"""

import asyncio
import email.utils
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp
import aiosmtplib
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from client.notifications.message import Message, bearing, http_message, mail_of, signed
from client.notifications.message_queue import MessageQueue, WaitingMessage
from client.storage.database import Database, StorageFailed
from common.address import Address
from common.config_error import ConfigError
from common.configuration.notify_config import NotifyTarget, check_url, is_private
from common.configuration.secret_file import read_secrets
from common.forges.shared.status import (
    Later,
    Meaning,
    Posted,
    Rejected,
    WrongToken,
    retry_after_seconds,
)
from common.safe_text import log_text
from common.statuses.reporter import ANSWER_BYTES_MAX, POST_TIMEOUT_SECONDS, Sender
from common.web.bounded_http import AnswerBounds, HttpRequest, ask, bounded_session

MAIL_TIMEOUT_SECONDS = 30.0
# Chat services answer 404 or 410 for a webhook that was removed.
_REFUSED_STATUSES = (401, 403, 404, 410)
_LATER_STATUSES = (408, 409, 425, 429)
# SMTP: 4xx is for now, 5xx for ever; 530 and 535 ask for another login.
_LOGIN_CODES = (530, 534, 535)
_PERMANENT_CODE = 500

_log = logging.getLogger(__name__)


class Messenger(Sender[NotifyTarget, WaitingMessage]):
    """Sends the messages of one gateway."""

    what = "notifications"

    def __init__(
        self,
        targets: Sequence[NotifyTarget],
        database: Database,
        *,
        file: Path,
        clock: Callable[[], float],
    ) -> None:
        """file: the configuration, for errors. clock: seconds since 1970 (time.time)."""
        self.queue = MessageQueue(database)
        self._file = file
        self._public_session: aiohttp.ClientSession | None = None
        super().__init__(
            targets={target.name: target for target in targets},
            queue=self.queue,
            database=database,
            clock=clock,
            storage_failed=StorageFailed,
        )

    def secret_file(self, target: NotifyTarget) -> Path | None:
        """The file that is likelier to change."""
        return target.secret_file or target.url_file

    def shown(self, item: WaitingMessage) -> str:
        """The build and the target."""
        return f"message on build {item.message.build[:12]} to {item.target}"

    async def close(self) -> None:
        """Stop. What was not sent stays in the queue."""
        await super().close()
        if self._public_session is not None:
            await self._public_session.close()

    async def _post(
        self, session: aiohttp.ClientSession, target: NotifyTarget, item: WaitingMessage
    ) -> Meaning:
        if target.kind != "mail" and not target.private_allowed:
            if self._public_session is None:
                self._public_session = public_session()
            session = self._public_session
        return await send(
            session,
            target,
            item.message,
            identity=item.identity,
            now=self.now,
            file=self._file,
        )


def check_secrets(targets: Sequence[NotifyTarget], file: Path) -> None:
    """Read what the targets' files hold. file: the configuration. Raises ConfigError."""
    for target in targets:
        _secret_of(target)
        if target.kind != "mail":
            _url_of(target, file)


def public_session() -> aiohttp.ClientSession:
    """A session that connects to no private address."""
    return bounded_session(resolver=_PublicResolver())


async def send(
    session: aiohttp.ClientSession,
    target: NotifyTarget,
    message: Message,
    *,
    identity: str,
    now: float,
    file: Path,
) -> Meaning:
    """Send a message once; what the answer means. Raises ConfigError, NoAnswer.

    session: `public_session`, unless the target may be private. identity: the same at each try.
    file: the configuration.
    """
    secret = _secret_of(target)
    if target.kind == "mail":
        return await _send_mail(target, message, identity, password=secret, now=now)
    outgoing = http_message(
        target.kind, message, identity, url=_url_of(target, file), room=target.room
    )
    if target.kind == "webhook" and secret is not None:
        try:
            outgoing = signed(outgoing, secret, int(now))
        except ValueError as error:
            raise ConfigError.at(
                target.secret_file or file, "", str(error), "whsec_ and base64 is needed"
            ) from error
    elif secret is not None:
        outgoing = bearing(outgoing, secret)
    answer = await ask(
        session,
        HttpRequest(
            method=outgoing.method, url=outgoing.url, headers=outgoing.headers, body=outgoing.body
        ),
        AnswerBounds(ANSWER_BYTES_MAX, POST_TIMEOUT_SECONDS),
    )
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return _http_meaning(answer.status, headers, answer.data, now=now)


def _http_meaning(status: int, headers: Mapping[str, str], data: bytes, *, now: float) -> Meaning:
    """What a receiver's answer means. headers: in lower case."""
    said = f"{status}: {log_text(data.decode('utf-8', 'replace'))}"
    if 200 <= status < 300:
        return Posted()
    if status in _REFUSED_STATUSES:
        return WrongToken(f"{said}; is its URL right, and its secret?")
    if status in _LATER_STATUSES or status >= 500:
        return Later(said, retry_after_seconds(headers, now))
    return Rejected(said)


def _secret_of(target: NotifyTarget) -> bytes | None:
    """A target's secret; None: it has none. Raises ConfigError."""
    if target.secret_file is None:
        return None
    return read_secrets(target.secret_file, f"secret of {target.name}", secrets_max=1)[0]


def _url_of(target: NotifyTarget, file: Path) -> str:
    """Where a target is. Raises ConfigError."""
    if target.url is not None:
        return target.url
    assert target.url_file is not None, "checked when it was read"
    (line,) = read_secrets(target.url_file, f"URL of {target.name}", secrets_max=1)
    url = line.decode("ascii")
    check_url(url, target, target.url_file)
    return url


async def _send_mail(
    target: NotifyTarget, message: Message, identity: str, *, password: bytes | None, now: float
) -> Meaning:
    assert target.server is not None, "checked when it was read"
    assert target.sender is not None, "checked when it was read"
    mail = mail_of(
        message,
        identity,
        sender=target.sender,
        recipients=target.recipients,
        date=email.utils.formatdate(now),
    )
    try:
        async with asyncio.timeout(MAIL_TIMEOUT_SECONDS):
            connected = await _connect(target.server, is_private_allowed=target.private_allowed)
            client = aiosmtplib.SMTP(
                hostname=target.server.host,
                sock=connected,
                use_tls=target.tls == "implicit",
                start_tls=target.tls == "starttls",
                username=target.user,
                password=password,
                local_hostname=target.sender.rpartition("@")[2],
                timeout=MAIL_TIMEOUT_SECONDS,
            )
            async with client:
                errors, _ = await client.send_message(mail, sender=target.sender)
                for mailbox in errors:
                    _log.warning("notifications of %s: no mail to %s", target.name, mailbox)
    except aiosmtplib.SMTPResponseException as error:
        return _mail_meaning(error.code, error.message)
    except aiosmtplib.SMTPRecipientsRefused as error:
        refused = error.recipients[0]
        return _mail_meaning(refused.code, f"{refused.recipient}: {refused.message}")
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        return Later(f"mail: {log_text(str(error) or type(error).__name__)}")
    return Posted()


def _mail_meaning(code: int, said: str | bytes) -> Meaning:
    text = said if isinstance(said, str) else said.decode("utf-8", "replace")
    reason = f"mail: {code} {log_text(text)}"
    if code in _LOGIN_CODES:
        return WrongToken(reason)
    return Rejected(reason) if code >= _PERMANENT_CODE else Later(reason)


async def _connect(server: Address, *, is_private_allowed: bool) -> socket.socket:
    """A connection to the first address of a server that takes one. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    problem = OSError(f"{server.host} has no address")
    for family, kind, protocol, _, address in found:
        if not is_private_allowed and is_private(str(address[0])):
            problem = OSError(f"{server.host} is {address[0]}, a private address: private_allowed")
            continue
        connected = socket.socket(family, kind, protocol)
        connected.setblocking(False)
        try:
            await loop.sock_connect(connected, address)
        except OSError as error:
            connected.close()
            problem = error
        except BaseException:
            connected.close()
            raise
        else:
            return connected
    raise problem


class _PublicResolver(AbstractResolver):
    """Finds no private addresses."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name that are public. Raises OSError if there is none."""
        found = await self._resolver.resolve(host, port, family)
        public = [one for one in found if not is_private(one["host"])]
        if not public:
            raise OSError(None, f"{host} has private addresses alone: private_allowed")
        return public

    async def close(self) -> None:
        """There is nothing to close."""
        await self._resolver.close()
