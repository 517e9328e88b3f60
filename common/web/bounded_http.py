"""Answers over HTTP from machines that nobody trusts: bounded in time and size, one kind of error.

The rule: no redirect is followed, and no answer is read beyond its limit, whatever it announces.
"""

import asyncio
import email.utils
import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import BinaryIO, TypedDict, TypeVar

import aiohttp
import msgspec

from common.safe_text import log_text
from common.tls.acceptor import HANDSHAKE_SECONDS
from common.tls.dialling import DiallingTls
from common.tls.refusals import ENDED_AT_ONCE, why_refused

CONNECT_TIMEOUT_SECONDS = 3.0
# of what is written to a file at once
CHUNK_BYTES = 256 * 1024

_Value = TypeVar("_Value")


class NoAnswer(Exception):
    """No answer, or none that can be used; the text says why in one line."""


class NotReached(NoAnswer):
    """There is nobody at that address, or the way to it is cut."""


class NotInTime(NoAnswer):
    """The answer was not complete within its time."""


class CannotWrite(Exception):
    """This machine does not take what came; the text says why."""


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked."""

    url: str
    method: str = "GET"
    # added to the URL
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    # bytes as they are, anything else as JSON; None: no body
    body: object = None
    # of a member of the cluster; None: as the URL and the machine's own authorities have it
    tls: DiallingTls | None = None


class AnswerBounds(msgspec.Struct, frozen=True):
    """How long an answer may be, and when all of it must be there."""

    bytes_max: int
    timeout_seconds: float


class TlsArguments(TypedDict):
    """What aiohttp's requests take of TLS."""

    ssl: ssl.SSLContext | bool
    server_hostname: str | None


class Answer(msgspec.Struct, frozen=True):
    """An answer, whole. Header names are looked up without regard to case."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    # How far the clock of whoever answered is ahead of this machine's; None: it does not say.
    ahead_seconds: float | None


def bounded_session(
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    resolver: aiohttp.abc.AbstractResolver | None = None,
) -> aiohttp.ClientSession:
    """A session for `ask`; whoever opens it closes it. Nothing is unpacked: a small answer may
    be large inside. resolver: finds the addresses of names; None: the machine's own."""
    return aiohttp.ClientSession(
        connector=None if resolver is None else aiohttp.TCPConnector(resolver=resolver),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_seconds),
        auto_decompress=False,
    )


async def ask(session: aiohttp.ClientSession, request: HttpRequest, bounds: AnswerBounds) -> Answer:
    """The whole answer, of any status.

    Raises NotReached, NotInTime, and NoAnswer for one that is too long or broken.
    """
    body = request.body
    began = time.time()
    async with (
        _bounded(bounds.timeout_seconds, request.tls),
        session.request(
            request.method,
            request.url,
            params=request.query,
            data=body if isinstance(body, bytes) else None,
            json=None if isinstance(body, bytes) else body,
            headers=request.headers,
            allow_redirects=False,
            **tls_arguments(request.tls),
        ) as response,
    ):
        middle = (began + time.time()) / 2
        data = await _read(response, bounds.bytes_max)
        ahead_seconds = _ahead_seconds(response.headers.get("Date", ""), middle)
        return Answer(response.status, response.headers, data, ahead_seconds)


async def save(
    session: aiohttp.ClientSession,
    request: HttpRequest,
    file: BinaryIO,
    *,
    length: int,
    timeout_seconds: float,
    is_exact: bool = True,
) -> tuple[int, str]:
    """Write the answer to a file: its status and, if that is 200, the SHA-256 (hex) of it.

    request: its body is not sent. length: of the answer in bytes; nothing beyond it is read.
    is_exact: whether a shorter answer is none. Raises NotReached, NotInTime, NoAnswer, also if the
    length is another, and CannotWrite.
    """
    async with (
        _bounded(timeout_seconds, request.tls),
        session.request(
            request.method,
            request.url,
            params=request.query,
            headers=request.headers,
            allow_redirects=False,
            **tls_arguments(request.tls),
        ) as response,
    ):
        if response.status != 200:
            return response.status, ""
        digest = hashlib.sha256()
        received = 0
        async for part in response.content.iter_chunked(CHUNK_BYTES):
            received += len(part)
            if received > length:
                most = "that it should have" if is_exact else "that it may have"
                raise NoAnswer(f"more than the {length} bytes {most}")
            digest.update(part)
            await _write(file, part)
        if is_exact and received < length:
            raise NoAnswer(f"{received} of the {length} bytes that it should have")
        return 200, digest.hexdigest()


async def _write(file: BinaryIO, part: bytes) -> None:
    try:
        await asyncio.to_thread(file.write, part)
    except OSError as error:
        raise CannotWrite(str(error)) from error


def decode_json(data: bytes, kind: type[_Value]) -> _Value:
    """A JSON answer as that type. Raises NoAnswer."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as error:
        raise NoAnswer(f"an answer that cannot be read: {log_text(str(error))}") from error


def tls_arguments(tls: DiallingTls | None) -> TlsArguments:
    """How aiohttp's requests are told of TLS."""
    if tls is None:
        return {"ssl": True, "server_hostname": None}
    return {"ssl": tls.context, "server_hostname": tls.host}


def tls_failure(error: aiohttp.ClientError | OSError) -> str | None:
    """Why TLS with a member failed, in one line; None: it did not."""
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.__cause__
        return why_refused(cause, HANDSHAKE_SECONDS) if isinstance(cause, ssl.SSLError) else None
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return ENDED_AT_ONCE
    return None


@asynccontextmanager
async def _bounded(timeout_seconds: float, tls: DiallingTls | None) -> AsyncIterator[None]:
    """What goes wrong while asking, as a NoAnswer."""
    try:
        async with asyncio.timeout(timeout_seconds):
            yield
    except TimeoutError as error:
        raise NotInTime(f"no whole answer in {timeout_seconds:g} s") from error
    except aiohttp.ClientConnectorError as error:
        reason = None if tls is None else tls_failure(error)
        raise NotReached(reason or log_text(error.strerror or "connection failed")) from error
    except aiohttp.InvalidURL as error:
        raise NotReached("not a URL") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        reason = None
        if tls is not None and isinstance(error, aiohttp.ClientError | OSError):
            reason = tls_failure(error)
        raise NoAnswer(reason or log_text(str(error) or type(error).__name__)) from error


def _ahead_seconds(date: str, now: float) -> float | None:
    """How far the clock of who wrote that header (RFC 9110, 6.6.1) is ahead; None: it says none."""
    try:
        # whole seconds, cut off
        return email.utils.parsedate_to_datetime(date).timestamp() + 0.5 - now
    except (ValueError, OverflowError):
        return None


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    length = 0
    async for part in response.content.iter_any():
        length += len(part)
        if length > bytes_max:
            raise NoAnswer(f"an answer longer than {bytes_max} bytes")
        parts.append(part)
    return b"".join(parts)
