"""A node's copies of the files that builds made, over HTTP. Whoever asks checks them himself."""

import asyncio
import contextlib
from pathlib import Path
from typing import Protocol

import msgspec
from aiohttp import web

from node.artifacts import CHUNK_BYTES, kept_artifacts, kept_file
from node.http_answers import http_error, number

LIST_PATH = "/builds/{build:[0-9a-f]{64}}/artifacts"
FILE_PATH = LIST_PATH + "/{path:.+}"
# What is sent at once; each holds a file open and a chunk in memory.
SENDING_MAX = 16
# Who does not take a chunk within this time has no place any longer.
CHUNK_SECONDS_MAX = 30.0


class Kept(Protocol):
    """Where the artifacts are (node.executor.Executor)."""

    def artifacts_path(self, build: bytes, opened: int) -> Path:
        """The folder of what a build made; see node.artifacts."""


class ArtifactRoutes:
    """GET /builds/<hex>/artifacts?opened=N: the list. With /<path>: the file, its SHA-256 as ETag.

    A path is looked up in the list and never in the file system.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._sending = 0

    def routes(self) -> list[web.RouteDef]:
        """Both routes."""
        return [web.get(LIST_PATH, self._list), web.get(FILE_PATH, self._send)]

    async def _list(self, request: web.Request) -> web.Response:
        artifacts = kept_artifacts(self._folder(request))
        if artifacts is None:
            raise http_error(web.HTTPNotFound, "this replica has no artifacts of that build")
        listed = [{"path": a.path, "sha256": a.sha256, "length": a.length} for a in artifacts]
        return web.Response(
            body=msgspec.json.encode({"artifacts": listed}), content_type="application/json"
        )

    async def _send(self, request: web.Request) -> web.StreamResponse:
        found = kept_file(self._folder(request), request.match_info["path"])
        if found is None or not found[0].is_file():
            raise http_error(web.HTTPNotFound, "this replica has no such artifact of that build")
        if self._sending >= SENDING_MAX:
            raise http_error(web.HTTPServiceUnavailable, f"{SENDING_MAX} are being sent already")
        path, artifact = found
        response = web.StreamResponse(
            headers={
                "Content-Type": "application/octet-stream",
                "X-Content-Type-Options": "nosniff",
                "Content-Length": str(path.stat().st_size),
                "ETag": f'"{artifact.sha256}"',
            }
        )
        self._sending += 1
        try:
            # Whoever asked may be gone by now.
            with contextlib.suppress(ConnectionResetError):
                await response.prepare(request)
                with path.open("rb") as file:
                    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                        async with asyncio.timeout(CHUNK_SECONDS_MAX):
                            await response.write(chunk)
                async with asyncio.timeout(CHUNK_SECONDS_MAX):
                    await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._sending -= 1
        return response

    def _folder(self, request: web.Request) -> Path:
        build = bytes.fromhex(request.match_info["build"])
        return self._kept.artifacts_path(build, number(request, "opened", 0, 0, 2**62))
