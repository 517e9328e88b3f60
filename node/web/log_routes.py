"""Serves a node's logs of builds over HTTP, whole or from any byte on, also while a build runs."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from aiohttp import web

from common.log_pieces import LogPiece, ServedPiece, piece_headers
from node.web.answers import http_error, number

CHUNK_BYTES = 256 * 1024
PIECE_BYTES_MAX = 256 * 1024
# How long a question may wait for more of a log, and how many may at once.
WAIT_SECONDS_MAX = 20
WAITING_MAX = 128
# A build writes from a thread, often many times in a moment: looking is cheaper than being told.
LOOK_SECONDS = 0.1

PATH = "/builds/{build:[0-9a-f]{64}}/log"


class Logs(Protocol):
    """Where the logs are (node.builds.build_runner.BuildRunner)."""

    run_id: str

    def log_path(self, build: bytes, opened: int) -> Path:
        """Where the log is when it is finished."""

    def read_log(
        self, build: bytes, opened: int, offset: int, *, bytes_max: int
    ) -> LogPiece | None:
        """A piece of a log; None: there is none."""


class LogRoutes:
    """GET /builds/<hex>/log?opened=N: the file. With &from=<byte>: a piece; with &wait=<seconds>
    as well, the answer comes when there is something from that byte on, or the log has ended.

    A piece comes with the headers of common.log_pieces.
    """

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._waiting = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a question."""
        build = bytes.fromhex(request.match_info["build"])
        opened = number(request, "opened", 0, low=0, high=2**62)
        if "from" not in request.query:
            return await _send_file(request, self._logs.log_path(build, opened))
        offset = number(request, "from", 0, low=0, high=2**62)
        seconds = number(request, "wait", 0, low=0, high=WAIT_SECONDS_MAX)
        piece = self._piece(build, opened, offset)
        if seconds and _is_nothing_new(piece, offset):
            piece = await self._wait(request, build, opened, offset=offset, seconds=seconds)
        served = ServedPiece(piece, self._logs.run_id)
        return web.Response(body=piece.data, headers=piece_headers(served))

    async def _wait(
        self, request: web.Request, build: bytes, opened: int, *, offset: int, seconds: int
    ) -> LogPiece:
        if self._waiting >= WAITING_MAX:
            raise http_error(
                web.HTTPServiceUnavailable, f"{WAITING_MAX} questions are waiting already"
            )
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            until = loop.time() + seconds
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                piece = self._piece(build, opened, offset)
                is_gone = request.transport is None or request.transport.is_closing()
                if not _is_nothing_new(piece, offset) or loop.time() >= until or is_gone:
                    return piece
        finally:
            self._waiting -= 1

    def _piece(self, build: bytes, opened: int, offset: int) -> LogPiece:
        try:
            piece = self._logs.read_log(build, opened, offset, bytes_max=PIECE_BYTES_MAX)
        except FileNotFoundError:
            piece = None
        if piece is None:
            raise http_error(web.HTTPNotFound, "this replica has no log of that build")
        return piece


def _is_nothing_new(piece: LogPiece, offset: int) -> bool:
    """Is there a reason to wait? Not where the log ended, or was begun anew below that byte."""
    return piece.is_growing and not piece.data and piece.total >= offset


async def _send_file(request: web.Request, path: Path) -> web.StreamResponse:
    length = _length(path)
    if length is None:
        raise http_error(web.HTTPNotFound, "this replica has no log of that build")
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/plain; charset=utf-8",
            "X-Content-Type-Options": "nosniff",
            "Content-Length": str(length),
        }
    )
    # Whoever asked may be gone by now.
    with contextlib.suppress(ConnectionResetError):
        await response.prepare(request)
        for chunk in _chunks(path):
            await response.write(chunk)
        await response.write_eof()
    return response


def _length(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
