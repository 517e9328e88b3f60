"""Serves a node's copies of the artifacts of builds over HTTP. The client verifies them."""

import os
from pathlib import Path
from typing import Protocol

import msgspec
from aiohttp import web

from common.web.sent_file import send_file
from node.outputs.artifact_store import kept_artifacts, kept_file
from node.web.answers import http_error, number

LIST_PATH = "/builds/{build:[0-9a-f]{64}}/artifacts"
FILE_PATH = LIST_PATH + "/{path:.+}"
# What is sent at once; each holds a file open and a chunk in memory.
SENDING_MAX = 16


class Kept(Protocol):
    """Where the artifacts are (node.builds.build_runner.BuildRunner)."""

    def artifacts_path(self, build: bytes, opened: int) -> Path:
        """The folder of what a build made; see node.outputs.artifact_store."""


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
        self._sending += 1
        try:
            with path.open("rb") as file:
                headers = {
                    "Content-Type": "application/octet-stream",
                    "X-Content-Type-Options": "nosniff",
                    "Content-Length": str(os.fstat(file.fileno()).st_size),
                    "ETag": f'"{artifact.sha256}"',
                }
                return await send_file(request, file, headers)
        finally:
            self._sending -= 1

    def _folder(self, request: web.Request) -> Path:
        build = bytes.fromhex(request.match_info["build"])
        return self._kept.artifacts_path(build, number(request, "opened", 0, low=0, high=2**62))
