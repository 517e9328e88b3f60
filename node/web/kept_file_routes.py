"""Serves what a node keeps beside a build's log over HTTP: test cases, commits, the log's times.

The client verifies what can be verified.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from aiohttp import web

from common.web.sent_file import send_file
from node.web.answers import http_error, number

BUILD_PATH = "/builds/{build:[0-9a-f]{64}}"
# What is sent at once; each holds a file open and a chunk in memory.
SENDING_MAX = 16


class Kept(Protocol):
    """Where the files are (node.builds.build_runner.BuildRunner)."""

    def cases_path(self, build: bytes, opened: int) -> Path:
        """The file of a build's test cases; see node.outputs.case_details."""

    def commits_path(self, build: bytes, opened: int) -> Path:
        """The file of its commit and of those before it; see node.sources.commits."""

    def times_path(self, build: bytes, opened: int) -> Path:
        """The file that says when each part of its log came; see common.log_times."""


_FileOf = Callable[[bytes, int], Path]


class KeptFileRoutes:
    """GET /builds/<hex>/tests?opened=N: `{report_sha256, problem, cases: [[id, outcome, seconds,
    message, file], ...], quarantine: [...]}`, as `node.outputs.case_details.CaseDetails` says.
    GET .../commits: as `git cat-file --batch` writes them. GET .../log/times: common.log_times.

    404 while there is none: the build runs, its pipeline names no test reports, or all is removed.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._sending = 0

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        binary = "application/octet-stream"
        kept = (
            ("/tests", self._kept.cases_path, "test cases", "application/json"),
            ("/commits", self._kept.commits_path, "commits", binary),
            ("/log/times", self._kept.times_path, "times of the log", "text/plain"),
        )
        return [
            web.get(
                BUILD_PATH + path,
                partial(self._send, file_of=file_of, what=what, content_type=content_type),
            )
            for path, file_of, what, content_type in kept
        ]

    async def _send(
        self, request: web.Request, *, file_of: _FileOf, content_type: str, what: str
    ) -> web.StreamResponse:
        build = bytes.fromhex(request.match_info["build"])
        path = file_of(build, number(request, "opened", 0, low=0, high=2**62))
        if self._sending >= SENDING_MAX:
            raise http_error(web.HTTPServiceUnavailable, f"{SENDING_MAX} are being sent already")
        self._sending += 1
        try:
            with path.open("rb") as file:
                headers = {
                    "Content-Type": content_type,
                    "X-Content-Type-Options": "nosniff",
                    "Content-Length": str(os.fstat(file.fileno()).st_size),
                }
                return await send_file(request, file, headers)
        except FileNotFoundError:
            reason = f"this replica has no {what} of that build"
            raise http_error(web.HTTPNotFound, reason) from None
        finally:
            self._sending -= 1
