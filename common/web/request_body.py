"""The bodies of HTTP requests: read as they came, never unpacked, each within its route's limit.

The rule: what can be known before the body is read is checked before it is read. A packed body is
refused, because a small one may be large inside; one that announces more than its route takes is
refused without a byte of it. What strangers send at the same time shares one bound.
"""

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler

BODY_TIMEOUT_SECONDS = 30.0
RETRY_AFTER_SECONDS = 10

# The methods whose routes read a body, each with a limit of its own.
_METHODS_WITH_BODY = frozenset({"POST"})


class BodyRefused(Exception):
    """A body that is not read, or not to its end: the HTTP status, and what to do about it."""

    def __init__(self, status: int, text: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.retry_after_seconds = retry_after_seconds


class Bodies:
    """Reads the bodies of all requests to one server."""

    def __init__(self, bytes_max: int) -> None:
        """bytes_max: what all bodies that are being read may have in memory together."""
        self._bytes_max = bytes_max
        self._bytes = 0

    async def read(self, request: web.Request, bytes_max: int) -> bytes:
        """The whole body, as its bytes came.

        Raises BodyRefused: too long (413), too slow (408), cut off (400), or too much is sent by
        all (503).
        """
        if (request.content_length or 0) > bytes_max:
            raise _too_large(bytes_max)
        if request.content.is_eof():
            # A short one came with its header: it is in memory already, and nothing is waited for.
            body = request.content.read_nowait()
            if len(body) > bytes_max:
                raise _too_large(bytes_max)
            if self._bytes + len(body) > self._bytes_max:
                raise _too_much()
            return body
        parts: list[bytes] = []
        length = 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                async for part in request.content.iter_any():
                    parts.append(part)
                    length += len(part)
                    self._bytes += len(part)
                    if length > bytes_max:
                        raise _too_large(bytes_max)
                    if self._bytes > self._bytes_max:
                        raise _too_much()
        except TimeoutError as error:
            text = f"the body did not arrive in {BODY_TIMEOUT_SECONDS:g} s"
            raise BodyRefused(408, text) from error
        except (ConnectionError, web.RequestPayloadError) as error:
            # Nobody may be there to hear it; but it is no fault of ours that belongs in the log.
            raise BodyRefused(400, "the body ended early, or is malformed") from error
        finally:
            self._bytes -= length
        return b"".join(parts)


@web.middleware
async def refuse_unwanted_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """415 for a body that is packed, 413 for one that comes with a method that takes none."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        text = f"Content-Encoding: {encoding[:40]}: send the body as it is, nothing is unpacked"
        return web.json_response({"error": text}, status=415)
    has_body = bool(request.content_length) or "Transfer-Encoding" in request.headers
    if has_body and request.method not in _METHODS_WITH_BODY:
        text = f"{request.method} takes no body here"
        return web.json_response({"error": text}, status=413)
    return await handler(request)


def _too_large(bytes_max: int) -> BodyRefused:
    return BodyRefused(413, f"the body is larger than the {bytes_max} bytes that are taken here")


def _too_much() -> BodyRefused:
    return BodyRefused(503, "too much is being sent at once", RETRY_AFTER_SECONDS)
