"""What a node answers over HTTP: links, status, the last messages, builds, logs, the ledger."""

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from aiohttp import web

from ci.application import BuildApplication
from ci.ledger import decode_entry
from ci.statement import dissenters
from common.link import LINK_PATH, Links
from node.executor import Executor
from node.runtime import LoggedMessage, Runtime
from node.store import Store
from pbft.authentication import Authenticator
from pbft.codec import (
    MalformedMessage,
    decode_message,
    decode_signed,
    digest_of,
    encode_signed,
)
from pbft.genesis import Cluster
from pbft.messages import Envelope, Replies, Request, Signed
from pbft.ports import Refusal, Verify

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
LEDGER_PAGE_MAX = 500
LOG_CHUNK_BYTES = 256 * 1024
# Ledger entries that the status looks back on for dissent.
RECENT_ENTRIES = 100

_UNSIGNED = (
    'this takes {"signed": base64 of a signed message} by a member of the cluster;'
    " unsigned operations go to the gateway"
)


class _SignedBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /pbft/request and /pbft/message: a signed message, and a PRE-PREPARE's body."""

    signed: Annotated[bytes, msgspec.Meta(max_length=MESSAGE_BYTES_MAX)]
    body: Annotated[bytes, msgspec.Meta(max_length=MESSAGE_BYTES_MAX)] = b""


class NodeServer:
    """The routes of one node."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        name: str,
        version: str,
        runtime: Runtime,
        application: BuildApplication,
        store: Store,
        executor: Executor,
        links: Links,
        verify: Verify,
        fault: str | None,
    ) -> None:
        self._cluster = cluster
        self._name = name
        self._version = version
        self._runtime = runtime
        self._application = application
        self._store = store
        self._executor = executor
        self._links = links
        self._authenticator = Authenticator(cluster, verify)
        self._fault = fault

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=2 * MESSAGE_BYTES_MAX)
        app.add_routes(
            [
                web.get(LINK_PATH, self._links.handle),
                web.get("/healthz", self._healthz),
                web.get("/pbft/status", self._status),
                web.get("/pbft/log", self._log),
                web.post("/pbft/request", self._post_request),
                web.post("/pbft/message", self._post_message),
                web.get("/builds/{build:[0-9a-f]{64}}", self._build),
                web.get("/builds/{build:[0-9a-f]{64}}/log", self._build_log),
                web.get("/ledger", self._ledger),
            ]
        )
        return app

    # --- the state of the replica ---------------------------------------------------------------

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "replica": self._name})

    async def _status(self, request: web.Request) -> web.Response:
        core = self._runtime.replica.core
        names = self._cluster.replica_names
        connected = self._links.connected()
        behind = core.certified > core.executed
        return web.json_response(
            {
                "node_id": self._name,
                "version": self._version,
                "cluster": self._cluster.id.hex(),
                "epoch": self._cluster.epoch,
                "status": "behind" if behind and core.status == "normal" else core.status,
                "view": core.view,
                "primary": names[core.primary],
                "is_primary": core.is_primary,
                "sequence": core.executed,
                "stable_checkpoint": core.low,
                "behind_by": max(0, core.certified - core.executed),
                "pending_requests": len(core.pending),
                "f": core.quorums.faults_max,
                "quorum_size": core.quorums.strong,
                "replicas": len(names),
                "byzantine_nodes": [self._name] if self._fault else [],
                "dissenting_nodes": self._dissenting_nodes(),
                "fault_injection": self._fault,
                "open_builds": len(self._application.open_builds()),
                "ledger_index": self._application.ledger_index,
                "ledger_head": self._application.ledger_head.hex(),
                "journal_length": self._application.journal_length,
                "journal_digest": self._application.journal_digest.hex(),
                "peers": {
                    name: {"connected": name in connected} for name in names if name != self._name
                },
                "counters": dict(self._runtime.counters),
            }
        )

    def _dissenting_nodes(self) -> list[str]:
        """Who differed from a verdict, by the newest entries of the ledger."""
        first = max(1, self._application.ledger_index - RECENT_ENTRIES + 1)
        dissenting: set[str] = set()
        for entry in self._store.ledger_entries(first, RECENT_ENTRIES):
            dissenting.update(dissenters(decode_entry(entry.body)))
        return sorted(dissenting)

    async def _log(self, request: web.Request) -> web.Response:
        """The last messages, newest first, at most ?limit= of them."""
        limit = _number(request, "limit", 100, 1, 512)
        kind = request.query.get("type")
        rows = []
        for logged in reversed(self._runtime.last_messages):
            row = _message_row(logged)
            if kind is None or row["type"] == kind:
                rows.append(row)
            if len(rows) == limit:
                break
        return web.json_response({"node_id": self._name, "messages": rows})

    # --- messages over HTTP ---------------------------------------------------------------------

    async def _post_request(self, request: web.Request) -> web.Response:
        envelope = await self._read_signed(request)
        message = self._authenticator.read(envelope.signed)
        if isinstance(message, Refusal) or not isinstance(message, Request):
            reason = message.reason if isinstance(message, Refusal) else "not a request"
            raise _error(web.HTTPBadRequest, reason)
        if refusal := self._authenticator.check(envelope.signed, message):
            raise _error(web.HTTPUnauthorized, f"{refusal.reason}; {_UNSIGNED}")
        self._runtime.on_envelopes("http", [envelope])
        await self._runtime.turn()
        digest = digest_of(envelope.signed.payload)
        return web.json_response(
            {
                "status": "consensus_started",
                "sequence": self._sequence_of(digest),
                "digest": digest.hex(),
            }
        )

    async def _post_message(self, request: web.Request) -> web.Response:
        envelope = await self._read_signed(request)
        message = self._authenticator.read(envelope.signed)
        if isinstance(message, Refusal):
            raise _error(web.HTTPBadRequest, message.reason)
        if refusal := self._authenticator.check(envelope.signed, message):
            raise _error(web.HTTPUnauthorized, refusal.reason)
        self._runtime.on_envelopes("http", [envelope])
        return web.json_response({"status": "received"}, status=202)

    async def _read_signed(self, request: web.Request) -> Envelope:
        data = await request.read()
        try:
            body = msgspec.json.decode(data, type=_SignedBody)
            return Envelope(decode_signed(body.signed), body.body)
        except msgspec.MsgspecError as error:
            raise _error(
                web.HTTPUnauthorized, f"no signed message ({error}); {_UNSIGNED}"
            ) from None
        except MalformedMessage as error:
            raise _error(web.HTTPBadRequest, f"`signed` is malformed: {error}") from None

    def _sequence_of(self, digest: bytes) -> int | None:
        """The number that this replica knows for a request; a backup often knows none yet."""
        for slot in self._runtime.replica.core.log.above(0):
            for batch in slot.batches.values():
                if any(ordered.digest == digest for ordered in batch.requests):
                    return slot.sequence
        return None

    # --- builds and ledger ----------------------------------------------------------------------

    async def _build(self, request: web.Request) -> web.Response:
        """The newest opening of a build: this replica's state of it, everybody's signed ballots."""
        build = bytes.fromhex(request.match_info["build"])
        ballots = self._store.ballots(build)
        is_open = self._application.open_builds().get(build)
        opened = is_open.opened if is_open else max((b[0] for b in ballots), default=None)
        if opened is None:
            raise _error(web.HTTPNotFound, "this replica does not know that build")
        return web.json_response(
            {
                "build": build.hex(),
                "opened": opened,
                "state": self._executor.state(build, opened),
                "decided": is_open.is_decided if is_open else True,
                "ballots": [
                    {
                        "replica": replica,
                        "signed": base64.b64encode(encode_signed(signed)).decode(),
                    }
                    for ballot_opened, replica, signed in ballots
                    if ballot_opened == opened
                ],
            }
        )

    async def _build_log(self, request: web.Request) -> web.StreamResponse:
        """The bytes of this replica's own log of a build."""
        build = bytes.fromhex(request.match_info["build"])
        opened = _number(request, "opened", 0, 0, 2**62)
        path = self._executor.log_path(build, opened)
        if not path.is_file():
            raise _error(web.HTTPNotFound, "this replica has no log of that build")
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/plain; charset=utf-8",
                "X-Content-Type-Options": "nosniff",
                "Content-Length": str(path.stat().st_size),
            }
        )
        # Whoever asked may be gone by now.
        with contextlib.suppress(ConnectionResetError):
            await response.prepare(request)
            for chunk in _chunks(path):
                await response.write(chunk)
            await response.write_eof()
        return response

    async def _ledger(self, request: web.Request) -> web.Response:
        first = _number(request, "from", 1, 1, 2**62)
        limit = _number(request, "limit", 100, 1, LEDGER_PAGE_MAX)
        entries = self._store.ledger_entries(first, limit)
        return web.json_response(
            {
                "entries": [
                    {
                        "index": entry.index,
                        "body": base64.b64encode(entry.body).decode(),
                        "head": entry.head.hex(),
                    }
                    for entry in entries
                ],
                "index": self._application.ledger_index,
                "head": self._application.ledger_head.hex(),
            }
        )


def _message_row(logged: LoggedMessage) -> dict[str, str | int | None]:
    signed: Signed = logged.signed
    row: dict[str, str | int | None] = {
        "direction": logged.direction,
        "peer": logged.peer,
        "node_id": signed.signer,
        "signature": signed.signature.hex(),
    }
    try:
        message = decode_message(signed.payload)
    except MalformedMessage:
        return {"type": "malformed", **row}
    row = {"type": type(message).__name__, **row}
    for field in ("view", "sequence", "client", "timestamp", "stable", "executed"):
        if hasattr(message, field):
            row[field] = getattr(message, field)
    if hasattr(message, "digest"):
        row["digest"] = message.digest.hex()
    if isinstance(message, Replies):
        row["replies"] = len(message.replies)
    return row


def _number(request: web.Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not low <= int(text) <= high:
        raise _error(web.HTTPBadRequest, f"?{name}= takes a number from {low} to {high}")
    return int(text)


def _error(kind: type[web.HTTPException], reason: str) -> web.HTTPException:
    return kind(
        text=msgspec.json.encode({"error": reason}).decode(), content_type="application/json"
    )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(LOG_CHUNK_BYTES):
            yield chunk
