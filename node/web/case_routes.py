"""Serves what a node found of the test cases of builds over HTTP. The client verifies it."""

import os
from pathlib import Path
from typing import Protocol

from aiohttp import web

from common.web.sent_file import send_file
from node.web.answers import http_error, number

PATH = "/builds/{build:[0-9a-f]{64}}/tests"
# What is sent at once; each holds a file open and a chunk in memory.
SENDING_MAX = 16


class Kept(Protocol):
    """Where the files are (node.builds.build_runner.BuildRunner)."""

    def cases_path(self, build: bytes, opened: int) -> Path:
        """The file of a build's test cases; see node.outputs.case_details."""


class CaseRoutes:
    """GET /builds/<hex>/tests?opened=N: `{report_sha256, problem, cases: [[id, outcome, seconds,
    message, file], ...], quarantine: [...]}`, as `node.outputs.case_details.CaseDetails` says.

    404 while the build runs, if its pipeline names no test reports, and if they are not kept.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._sending = 0

    def routes(self) -> list[web.RouteDef]:
        """The route."""
        return [web.get(PATH, self._send)]

    async def _send(self, request: web.Request) -> web.StreamResponse:
        build = bytes.fromhex(request.match_info["build"])
        path = self._kept.cases_path(build, number(request, "opened", 0, low=0, high=2**62))
        if self._sending >= SENDING_MAX:
            raise http_error(web.HTTPServiceUnavailable, f"{SENDING_MAX} are being sent already")
        self._sending += 1
        try:
            with path.open("rb") as file:
                headers = {
                    "Content-Type": "application/json",
                    "X-Content-Type-Options": "nosniff",
                    "Content-Length": str(os.fstat(file.fileno()).st_size),
                }
                return await send_file(request, file, headers)
        except FileNotFoundError:
            reason = "this replica has no test cases of that build"
            raise http_error(web.HTTPNotFound, reason) from None
        finally:
            self._sending -= 1
