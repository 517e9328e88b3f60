"""Sends a file over HTTP in pieces, to somebody who may be slow, gone, or never read at all."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import BinaryIO

from aiohttp import web

CHUNK_BYTES = 256 * 1024
# A reader who takes nothing for so long is let go: few downloads have a place at once.
WRITE_TIMEOUT_SECONDS = 30.0


async def send_file(
    request: web.Request, file: BinaryIO, headers: Mapping[str, str]
) -> web.StreamResponse:
    """The answer with these headers and the file from where it stands. Raises OSError of the file.

    headers: Content-Length among them, so that a file that is cut off is seen to be.
    """
    response = web.StreamResponse(headers=headers)
    # Whoever asked may be gone by now; then there is nobody to tell.
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        try:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                    await response.write(chunk)
            async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                await response.write_eof()
        except TimeoutError:
            # What is buffered would keep the connection: it is cut, so the file is seen to lack.
            if request.transport is not None:
                request.transport.abort()
    return response
