"""GET /api/v1/openapi.json: what the gateway's API takes and gives (OpenAPI 3.1).

The schemas come from the structs that the handlers encode; a test holds the list of routes
against the running application.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from ci.flaky import CaseState
from ci.operations import NOTE_CHARACTERS_MAX
from client.api.audit_routes import PAGE_EVENTS_MAX, AuditPage
from client.api.case_routes import CASES_SHOWN_MAX
from client.api.change_routes import NotesView
from client.api.input_routes import AFTER_MAX, FIND_CHARACTERS_MAX, INPUTS_SHOWN_MAX
from client.api.routes import OPEN_ROUTES, Accepted, BuildPage, json_response
from client.gateway.collector import SLOWEST_MAX
from client.network.network_view import NetworkView
from client.storage.build_filter import (
    AUTHOR_CHARACTERS_MAX,
    BRANCH_CHARACTERS_MAX,
    EVENTS,
    OUTCOMES,
    REPOSITORY_CHARACTERS_MAX,
)
from client.views.build_view import BuildView
from client.views.case_view import BuildCasesView, CaseHistory, CasePage
from client.views.input_view import InputsView

PATH = "/api/v1/openapi.json"
JSON = "application/json"
TEXT = "text/plain"
SVG = "image/svg+xml"


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One route.

    All but `OPEN_ROUTES` take a token if some are configured, for changes or for reading.
    """

    method: str
    path: str
    summary: str
    # status -> (content type, schema, what it means)
    gives: dict[int, tuple[str, dict[str, Any], str]]
    # other statuses
    errors: tuple[int, ...] = ()
    # name -> schema
    query: dict[str, dict[str, Any]] = {}
    # the schema of what is sent
    body: dict[str, Any] | None = None


_ERRORS = {
    400: "The request is wrong; the text says what, where, and what to do.",
    401: "A signature or a token is missing or wrong.",
    403: "Not from there, or not without a token.",
    404: "There is no such thing (yet).",
    408: "The request did not come whole in time.",
    409: "Not in the state that this is in.",
    413: "Too large.",
    429: "Too much waits already; Retry-After says when to come back.",
    502: "No replica gave what is right; the text names each.",
    503: "Not now; try again later.",
}

_ID = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "a build's id"}
_SHORT_ID = {
    "type": "string",
    "pattern": "^[0-9a-f]{6,64}$",
    "description": "a build's id, or how it begins, if only one begins so",
}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "of a case's id"}
# A URL. Of other characters an address may become longer than the server takes.
_REPOSITORY = {
    "type": "string",
    "pattern": "^[!-~]*$",
    "maxLength": REPOSITORY_CHARACTERS_MAX,
}
_TEXT: dict[str, Any] = {"type": "string"}
_ANY: dict[str, Any] = {"type": "object"}
_DETAIL = {"type": "object", "required": ["detail"], "properties": {"detail": _TEXT}}
_BUILD = {"$ref": "#/components/schemas/BuildView"}
_NETWORK = {"$ref": "#/components/schemas/NetworkView"}
_ACCEPTED = {"$ref": "#/components/schemas/Accepted"}

_PARAMETERS: dict[str, dict[str, Any]] = {
    "build": _SHORT_ID,
    "case": _SHA256,
    "replica": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"},
    "path": {"type": "string", "minLength": 1},
    "repository": {"type": "string", "minLength": 1},
}

ROUTES: tuple[Route, ...] = (
    Route(
        method="post",
        path="/webHook",
        summary="Ask for a build: a forge's webhook, or the plain form",
        body={
            "type": "object",
            "required": ["branch"],
            "properties": {
                "branch": {"type": "string", "minLength": 1, "maxLength": 255},
                "repoCloneUrl": {"type": "string", "maxLength": 1024},
                "commit": {"type": "string", "pattern": "^([0-9a-f]{40}|[0-9a-f]{64})$"},
            },
        },
        gives={
            202: (JSON, _ACCEPTED, "Accepted, and on disk: it is built, whatever happens here."),
            200: (JSON, {"anyOf": [_ACCEPTED, _DETAIL]}, "Nothing new is built; `detail`: why."),
        },
        errors=(400, 401, 403, 404, 408, 413, 429, 503),
    ),
    Route(
        method="get",
        path="/api/v1/builds",
        summary="The newest builds; of one repository, branch, commit, author, event, outcome",
        query={
            "repository": {"type": "string", "maxLength": REPOSITORY_CHARACTERS_MAX},
            "branch": {"type": "string", "maxLength": BRANCH_CHARACTERS_MAX},
            "commit": {"type": "string", "pattern": "^[0-9A-Fa-f]{4,64}$"},
            "author": {"type": "string", "maxLength": AUTHOR_CHARACTERS_MAX},
            "event": {"type": "string", "enum": list(EVENTS)},
            "outcome": {"type": "string", "enum": list(OUTCOMES)},
            "after": _ID,
            "limit": {"type": "integer", "minimum": 1, "maximum": 100},
        },
        gives={200: (JSON, {"$ref": "#/components/schemas/BuildPage"}, "A page, newest first.")},
        errors=(400, 404),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}",
        summary="One build",
        gives={200: (JSON, _BUILD, "All that is known of it.")},
        errors=(404,),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/attestation",
        summary="The DSSE envelope that f+1 replicas signed",
        gives={200: (JSON, _ANY, "The envelope (in-toto Statement v1 in DSSE).")},
        errors=(404,),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/proof",
        summary="All that is signed about a build: request, ballots, statement, signatures",
        gives={200: (JSON, _ANY, "Each in base64, as it was signed; `proof` checks it.")},
        errors=(404,),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/history",
        summary="The last green build before one, the first red one since, the commits between",
        gives={200: (JSON, _ANY, "Of the same branch, request or schedule; null: none is known.")},
        errors=(404,),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/log/{replica}",
        summary="A replica's archived log",
        gives={200: (TEXT, _TEXT, "The log that the replica's ballot names.")},
        errors=(404,),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/replicas/{replica}/log",
        summary="A replica's log from any byte, also while it grows",
        query={
            "from": {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
            "wait": {"type": "integer", "minimum": 0, "maximum": 20},
        },
        gives={200: ("application/octet-stream", _TEXT, "A piece; the headers say where it lies.")},
        errors=(400, 404, 429, 502, 503),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/replicas/{replica}/log/times",
        summary="When each part of an archived log came, by the replica's own account",
        gives={
            200: (
                TEXT,
                _TEXT,
                "A line for each part: its first byte, and the milliseconds since the log began.",
            )
        },
        errors=(404,),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/replicas/{replica}/log/events",
        summary="The same as server-sent events",
        query={
            "from": {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
            "last": {"type": "string"},
        },
        gives={
            200: ("text/event-stream", _TEXT, "Lines as they come; Last-Event-ID or last resumes.")
        },
        errors=(400, 404, 429, 502, 503),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/artifacts",
        summary="The agreed files, and where replicas differ",
        gives={200: (JSON, _ANY, "Paths, lengths and SHA-256.")},
        errors=(404,),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/artifacts/{path}",
        summary="One agreed file, checked against its SHA-256 before a byte is sent",
        gives={200: ("application/octet-stream", _TEXT, "The file.")},
        errors=(404, 429, 502, 503),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/inputs",
        summary="What lock files pinned for a build, and what changed since the last green build",
        query={
            "find": {"type": "string", "maxLength": FIND_CHARACTERS_MAX},
            "after": {"type": "integer", "minimum": 1, "maximum": AFTER_MAX},
            "limit": {"type": "integer", "minimum": 1, "maximum": INPUTS_SHOWN_MAX},
        },
        gives={200: (JSON, {"$ref": "#/components/schemas/InputsView"}, "A page of them.")},
        errors=(400, 404, 503),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/messages.svg",
        summary="The messages of a build, as a picture",
        gives={200: (SVG, _TEXT, "The diagram.")},
        errors=(404,),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/tests",
        summary="The test cases of a build: by replica, agreed on, new, fixed, slowest",
        query={
            "slowest": {"type": "integer", "minimum": 1, "maximum": SLOWEST_MAX},
            "after": _SHA256,
            "limit": {"type": "integer", "minimum": 1, "maximum": CASES_SHOWN_MAX},
        },
        gives={
            200: (JSON, {"$ref": "#/components/schemas/BuildCasesView"}, "Without passed ones.")
        },
        errors=(400, 404),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/tests/report",
        summary="The canonical report that n - f replicas agree on, or one replica's",
        query={"replica": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"}},
        gives={200: (TEXT, _TEXT, "Its lines; they have the digest that is in the ballot.")},
        errors=(400, 404, 502, 503),
    ),
    Route(
        method="get",
        path="/api/v1/tests",
        summary="The test cases of a repository that are not healthy, the highest score first",
        query={
            "repository": _REPOSITORY,
            "state": {"type": "string", "enum": list(CaseState)},
            "after": _SHA256,
            "limit": {"type": "integer", "minimum": 1, "maximum": CASES_SHOWN_MAX},
        },
        gives={200: (JSON, {"$ref": "#/components/schemas/CasePage"}, "A page.")},
        errors=(400, 404),
    ),
    Route(
        method="get",
        path="/api/v1/tests/{case}",
        summary="One test case, and what each build saw of it",
        query={"repository": _REPOSITORY},
        gives={
            200: (JSON, {"$ref": "#/components/schemas/CaseHistory"}, "The newest build first.")
        },
        errors=(400, 404),
    ),
    Route(
        method="post",
        path="/api/v1/builds/{build}/cancel",
        summary="Withdraw the request for a build",
        body={"type": "object", "properties": {"reason": {"type": "string", "minLength": 1}}},
        gives={200: (JSON, _BUILD, "The build; it may take the network a moment.")},
        errors=(400, 401, 403, 404, 408, 409, 413, 429, 503),
    ),
    Route(
        method="post",
        path="/api/v1/builds/{build}/rebuild",
        summary="Build the same commit again; cold: without caches",
        body={"type": "object", "properties": {"cold": {"type": "boolean"}}},
        gives={202: (JSON, _ACCEPTED, "The new build.")},
        errors=(400, 401, 403, 404, 408, 409, 413, 429, 503),
    ),
    Route(
        method="post",
        path="/api/v1/builds/{build}/approve",
        summary="Let a build begin that waits for approval",
        gives={200: (JSON, _BUILD, "The build.")},
        errors=(401, 403, 404, 409, 429, 503),
    ),
    Route(
        method="get",
        path="/api/v1/builds/{build}/notes",
        summary="Notes on a build, and who approved, cancelled or rebuilt it, by the ledger",
        gives={200: (JSON, {"$ref": "#/components/schemas/NotesView"}, "In the ledger's order.")},
        errors=(404,),
    ),
    Route(
        method="post",
        path="/api/v1/builds/{build}/notes",
        summary="Write a note on a build, which the replicas order",
        body={
            "type": "object",
            "required": ["text"],
            "properties": {
                "text": {"type": "string", "minLength": 1, "maxLength": NOTE_CHARACTERS_MAX}
            },
        },
        gives={202: (JSON, _DETAIL, "On disk; it is shown once it is ordered.")},
        errors=(400, 401, 403, 404, 408, 409, 413, 429, 503),
    ),
    Route(
        method="get",
        path="/api/v1/audit",
        summary="Who changed what through this gateway, the newest first",
        query={
            "before": {"type": "integer", "minimum": 1, "maximum": 2**53},
            "limit": {"type": "integer", "minimum": 1, "maximum": PAGE_EVENTS_MAX},
        },
        gives={200: (JSON, {"$ref": "#/components/schemas/AuditPage"}, "A page.")},
        errors=(400,),
    ),
    Route(
        method="post",
        path="/api/v1/append",
        summary="Append a string to the replicated journal",
        body={
            "type": "object",
            "required": ["text"],
            "properties": {"text": {"type": "string", "maxLength": 16384}},
        },
        gives={
            200: (JSON, _ANY, "Digest and length of the journal."),
            202: (JSON, _DETAIL, "On disk, not ordered yet; do not send it again."),
        },
        errors=(400, 401, 403, 408, 409, 413, 429, 503),
    ),
    Route(
        method="get",
        path="/api/v1/network",
        summary="Who is up, down or disagrees; how far the ledger is checked",
        gives={200: (JSON, _NETWORK, "One entry per replica.")},
    ),
    Route(
        method="get",
        path="/badge/{repository}.svg",
        summary="The state of a branch as a badge",
        query={"branch": {"type": "string"}},
        gives={200: (SVG, _TEXT, "The picture."), 304: ("", {}, "As before (If-None-Match).")},
    ),
    Route(
        method="get",
        path="/healthz",
        summary="Whether the process answers",
        gives={200: (JSON, _ANY, "It does.")},
    ),
    Route(
        method="get",
        path="/readyz",
        summary="Whether an order can be had",
        gives={200: (JSON, _ANY, "Links to 2f+1 replicas."), 503: (JSON, _ANY, "Fewer.")},
    ),
    Route(
        method="get",
        path="/metrics",
        summary="Numbers for Prometheus",
        gives={200: (TEXT, _TEXT, "In its text format.")},
    ),
    Route(
        method="get",
        path=PATH,
        summary="This",
        gives={200: (JSON, _ANY, "OpenAPI 3.1.")},
    ),
)


def document(version: str, server_url: str, routes: Sequence[Route] = ROUTES) -> dict[str, Any]:
    """The OpenAPI document. version: of this software; server_url: where the gateway is reached."""
    _, components = msgspec.json.schema_components(
        (
            BuildView,
            BuildPage,
            Accepted,
            NetworkView,
            BuildCasesView,
            CasePage,
            CaseHistory,
            InputsView,
            NotesView,
            AuditPage,
        ),
        ref_template="#/components/schemas/{name}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PBFT/CI gateway",
            "version": version,
            "description": "Builds that no single machine can lie about. Every refusal is "
            '{"error": text}; the text says what was wrong, where, and what to do.',
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server_url}],
        "paths": paths,
        "components": {
            "schemas": {
                **components,
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": _TEXT},
                },
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def add_openapi(application: web.Application, version: str, server_url: str) -> None:
    """Add the route."""
    made = document(version, server_url)

    async def show(request: web.Request) -> web.Response:
        return json_response(made)

    application.router.add_get(PATH, show)


def _operation(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(status): {"description": what, **_content(content_type, schema)}
        for status, (content_type, schema, what) in route.gives.items()
    }
    error = {"$ref": "#/components/schemas/Error"}
    takes_token = route.path not in OPEN_ROUTES
    for status in sorted({*route.errors, *((401,) if takes_token else ())}):
        responses[str(status)] = {"description": _ERRORS[status], **_content(JSON, error)}
    operation: dict[str, Any] = {"summary": route.summary, "responses": responses}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in _PARAMETERS.items()
        if f"{{{name}}}" in route.path
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in route.query.items()
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        is_needed = bool(route.body.get("required"))
        operation["requestBody"] = {"required": is_needed, **_content(JSON, route.body)}
    if takes_token:
        operation["security"] = [{}, {"token": []}]
    return operation


def _content(content_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {content_type: {"schema": schema}}} if content_type else {}
