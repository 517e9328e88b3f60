"""A forge on this machine that takes commit statuses, and refuses what its documents refuse.

It checks what GitHub, GitLab, Gitea and both Bitbuckets demand of a request (docs/FACTS.md):
method, path, headers, fields, lengths and states; what is wrong it answers as the forge would, and
notes.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

TOKEN = "a-token-of-this-test"

STATES = {
    "github": {"error", "failure", "pending", "success"},
    "gitlab": {"pending", "running", "success", "failed", "canceled", "skipped"},
    "gitea": {"pending", "success", "error", "failure", "warning", "skipped"},
    "bitbucket": {"INPROGRESS", "SUCCESSFUL", "FAILED", "STOPPED"},
    "bitbucket_data_center": {"INPROGRESS", "SUCCESSFUL", "FAILED", "CANCELLED", "UNKNOWN"},
}
PREFIXES = {
    "github": "",
    "gitlab": "/api/v4",
    "gitea": "/api/v1",
    "bitbucket": "/2.0",
    "bitbucket_data_center": "/rest/api/latest",
}
# what a status is known by, and how long that may be
CONTEXT_FIELDS = {"gitlab": "name", "bitbucket": "key", "bitbucket_data_center": "key"}
CONTEXT_CHARACTERS_MAX = {"bitbucket": 40}
FIELDS = {
    "github": {"state", "target_url", "description", "context"},
    "gitlab": {"state", "ref", "name", "target_url", "description", "coverage", "pipeline_id"},
    "gitea": {"state", "target_url", "description", "context"},
    "bitbucket": {"key", "state", "name", "url", "description", "refname"},
    "bitbucket_data_center": {
        *("key", "state", "name", "url", "description", "ref", "parent", "duration"),
        *("buildNumber", "testResults"),
    },
}
DESCRIPTION_CHARACTERS_MAX = {
    "github": 140,
    "gitlab": 255,
    "gitea": 255,
    "bitbucket": 255,
    "bitbucket_data_center": 255,
}


@dataclass(frozen=True)
class Answer:
    """What the forge says instead of taking a status."""

    status: int
    body: object
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Status:
    """A status that the forge took."""

    project: str
    commit: str
    context: str
    state: str
    description: str
    target_url: str | None
    ref: str | None


class ForgeServer:
    """A context manager. `answer_with`: may answer a post in the forge's place (None: it does)."""

    def __init__(self, forge: str) -> None:
        self.forge = forge
        self.statuses: list[Status] = []
        self.wrong: list[str] = []
        self.requests = 0
        self.answer_with: Callable[[int], Answer | None] = lambda number: None
        self._lock = threading.Lock()
        forge_server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                forge_server._take(self)

            def do_GET(self) -> None:
                forge_server._take(self)

            def log_message(self, *values: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def api_url(self) -> str:
        """What `api_url` is set to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{PREFIXES[self.forge]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", "0")))
        with self._lock:
            self.requests += 1
            instead = self.answer_with(self.requests)
            answer = instead or self._judge(request, body)
        data = b"" if answer.status == 204 else json.dumps(answer.body).encode()
        request.send_response(answer.status)
        for name, value in answer.headers:
            request.send_header(name, value)
        request.send_header("Content-Type", "application/json; charset=utf-8")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _judge(self, request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        where = self._project_and_commit(request)
        if where is None:
            return self._refuse(404, f"{request.command} {request.path} is no way to a status")
        if refusal := self._wrong_headers(request):
            return refusal
        fields = json.loads(body)
        if unknown := set(fields) - FIELDS[self.forge]:
            return self._refuse(422, f"unknown fields {unknown}")
        if not all(isinstance(value, str) for value in fields.values()):
            return self._refuse(422, f"fields that are no text: {fields}")
        if fields.get("state") not in STATES[self.forge]:
            return self._refuse(422, f"state {fields.get('state')!r}")
        if len(fields.get("description", "")) > DESCRIPTION_CHARACTERS_MAX[self.forge]:
            return self._refuse(422, "description is too long")
        context = fields.get(CONTEXT_FIELDS.get(self.forge, "context"), "")
        if not 1 <= len(context) <= CONTEXT_CHARACTERS_MAX.get(self.forge, 255):
            return self._refuse(400, f"context {context!r}")
        if self.forge.startswith("bitbucket") and not fields.get("url", "").startswith("http"):
            return self._refuse(400, f"url {fields.get('url')!r}")
        project, commit = where
        same = [s for s in self.statuses if (s.commit, s.context) == (commit, context)]
        if self.forge == "gitlab" and same and same[-1].state == fields["state"] == "pending":
            reason = "Cannot transition status via :enqueue from :pending"
            return Answer(400, {"message": f"{reason} (Reason(s): Status cannot transition)"})
        status = Status(
            project,
            commit,
            context,
            fields["state"],
            fields.get("description", ""),
            fields.get("target_url", fields.get("url")),
            fields.get("ref", fields.get("refname")),
        )
        self.statuses.append(status)
        if self.forge == "bitbucket_data_center":
            return Answer(204, None)
        return Answer(201, {"id": len(self.statuses), **fields})

    def _project_and_commit(self, request: BaseHTTPRequestHandler) -> tuple[str, str] | None:
        parts = request.path.removeprefix(PREFIXES[self.forge]).strip("/").split("/")
        if request.command != "POST" or not request.path.startswith(PREFIXES[self.forge]):
            return None
        if self.forge == "gitlab":
            match parts:
                case ["projects", project, "statuses", commit] if "%2F" in project.upper():
                    return unquote(project), commit
            return None
        expected = {
            "bitbucket": ["repositories", "*", "*", "commit", "*", "statuses", "build"],
            "bitbucket_data_center": ["projects", "*", "repos", "*", "commits", "*", "builds"],
        }.get(self.forge, ["repos", "*", "*", "statuses", "*"])
        if len(parts) != len(expected):
            return None
        if any(word not in ("*", part) for word, part in zip(expected, parts, strict=True)):
            return None
        owner, name, commit = (
            part for word, part in zip(expected, parts, strict=True) if word == "*"
        )
        return (f"{owner}/{name}", commit) if len(commit) in (40, 64) else None

    def _wrong_headers(self, request: BaseHTTPRequestHandler) -> Answer | None:
        headers = request.headers
        given = headers.get("PRIVATE-TOKEN" if self.forge == "gitlab" else "Authorization")
        expected = {"gitlab": TOKEN, "gitea": f"token {TOKEN}"}
        if given != expected.get(self.forge, f"Bearer {TOKEN}"):
            return self._refuse(401, "Bad credentials")
        if headers.get("Content-Type") != "application/json":
            return self._refuse(415, f"Content-Type {headers.get('Content-Type')}")
        if self.forge == "github":
            if not headers.get("User-Agent"):
                return self._refuse(403, "Request forbidden by administrative rules: User-Agent")
            if headers.get("Accept") != "application/vnd.github+json":
                return self._refuse(415, f"Accept {headers.get('Accept')}")
            if headers.get("X-GitHub-Api-Version") != "2022-11-28":
                return self._refuse(400, "X-GitHub-Api-Version")
        return None

    def _refuse(self, status: int, what: str) -> Answer:
        self.wrong.append(what)
        message: dict[str, Any] = {"message": what}
        return Answer(status, message)
