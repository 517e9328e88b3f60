"""The HTTP server of a node: links, status, messages, evidence, builds, logs, the ledger."""

import asyncio
import base64
from collections.abc import Callable, Iterable

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from ci.builds import OpenBuild
from ci.executors import STAND_BY
from ci.ledger import decode_entry
from ci.references import full_ref
from ci.statement import dissenters
from common.configuration.keys import verify
from common.english import counted
from common.installation import CLIENT_COMMAND
from common.links.link import LINK_PATH, Links
from common.version import VERSION
from common.web.request_body import Bodies
from node.builds.build_runner import BuildRunner
from node.diagnostics.message_trace import LoggedMessage, kind_of
from node.diagnostics.metrics import CONTENT_TYPE as METRICS_TYPE
from node.replica.runtime import Runtime
from node.storage.evidence_table import KeptEvidence
from node.storage.scrub import Scrub
from node.web import limits_json, log_routes, members_json, status_json
from node.web.answers import http_error, number, read_body
from node.web.artifact_routes import ArtifactRoutes
from node.web.begin_state_routes import BeginStateRoutes
from node.web.build_states import state_of
from node.web.fault_switch import FaultSwitch
from node.web.kept_file_routes import KeptFileRoutes
from node.web.link_routes import LinkRoutes
from node.web.proof_routes import ProofRoutes
from pbft.authentication import Authenticator, is_relayed
from pbft.codec import (
    MalformedMessage,
    decode_signed,
    digest_of,
    encode_signed,
)
from pbft.core import ReplicaStatus
from pbft.evidence import check_evidence
from pbft.messages import (
    BODY_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    REQUEST_BYTES_MAX,
    Envelope,
    Replies,
    Request,
    Signed,
)
from pbft.ports import Refusal

# What a signed message takes beside its payload.
_SIGNED_OVERHEAD_BYTES = 1024
# What all who post something may have in memory together: none of them has proved anything yet.
BODIES_BYTES_MAX = 96 * 1024 * 1024
LEDGER_PAGE_MAX = 500
EVIDENCE_PAGE_MAX = 100
# A page of the ledger or of evidence is cut before it is larger, but never to nothing.
PAGE_BYTES_MAX = 8 * 1024 * 1024
# Ledger entries that the status looks back on for dissent.
RECENT_ENTRIES = 100

# Whoever asks over HTTP proved no name; no member has this one.
NO_PEER = ""

DISK_REFUSES = "its disk refuses what it said last, so it says nothing more"

_UNSIGNED = (
    'this takes {"signed": base64 of a signed message} by a member of the cluster;'
    f" unsigned operations go to the gateway, or: {CLIENT_COMMAND} sign TEXT | curl -d @- URL"
)


class _SignedBody(msgspec.Struct, forbid_unknown_fields=True):
    """POST /pbft/request and /pbft/message: a signed message, and a PRE-PREPARE's body."""

    signed: bytes
    body: bytes = b""


def _posted_bytes(*sizes: int) -> int:
    """How long a _SignedBody is in JSON whose parts have at most these sizes."""
    return sum((size + 2) // 3 * 4 for size in sizes) + _SIGNED_OVERHEAD_BYTES


# Of each route its own: a request is small, and of messages a NEW-VIEW is the largest.
POSTED_REQUEST_BYTES_MAX = _posted_bytes(REQUEST_BYTES_MAX + _SIGNED_OVERHEAD_BYTES)
POSTED_MESSAGE_BYTES_MAX = _posted_bytes(PAYLOAD_BYTES_MAX + _SIGNED_OVERHEAD_BYTES, BODY_BYTES_MAX)


class NodeServer:
    """The routes of one node."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        runner: BuildRunner,
        links: Links,
        faults: FaultSwitch,
        scrub: Scrub,
        going_over: Callable[[], str | None] = lambda: None,
    ) -> None:
        """going_over: why this node has not begun the next epoch; None where it is not to."""
        self._runtime = runtime
        self._cluster, self._name = runtime.identity.cluster, runtime.identity.name
        self._application = runtime.application
        self._store = runtime.store
        self._runner = runner
        self._links = links
        self._authenticator = Authenticator(self._cluster, verify)
        self._faults = faults
        self._scrub = scrub
        self._going_over = going_over
        self._bodies = Bodies(BODIES_BYTES_MAX)
        self._proofs = ProofRoutes(runtime, runner)
        self._link_routes = LinkRoutes(self._store.path.parent, self._cluster.epoch)
        self._begin_states = BeginStateRoutes(self._store.path.parent, self._cluster.epoch)

    def application(
        self, middlewares: Iterable[Middleware] = (), *, has_links: bool = True
    ) -> web.Application:
        """The aiohttp application.

        has_links: whether members may link here.
        """
        app = web.Application(middlewares=middlewares)
        if has_links:
            app.add_routes([web.get(LINK_PATH, self._links.handle), *self._begin_states.routes()])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/pbft/status", self._status),
                web.get("/pbft/limits", self._limits),
                web.get("/pbft/members", self._members),
                *self._link_routes.routes(),
                web.get("/pbft/log", self._log),
                web.get("/pbft/clients/{client}", self._client),
                web.get("/pbft/evidence", self._evidence),
                web.post("/pbft/request", self._post_request),
                web.post("/pbft/message", self._post_message),
                web.get("/builds/{build:[0-9a-f]{64}}", self._build),
                web.get(log_routes.PATH, log_routes.LogRoutes(self._runner).handle),
                *ArtifactRoutes(self._runner).routes(),
                *KeptFileRoutes(self._runner).routes(),
                web.get("/ledger", self._ledger),
                web.get("/builds/{build:[0-9a-f]{64}}/messages", self._build_messages),
                *self._proofs.routes(),
                *self._faults.routes(self._bodies),
            ]
        )
        return app

    def application_for_earlier(self, middlewares: Iterable[Middleware] = ()) -> web.Application:
        """The aiohttp application for members of earlier epochs.

        Its limits of what is under way are its own, so that they hold up no present member.
        """
        folder, epoch = self._store.path.parent, self._cluster.epoch
        states = BeginStateRoutes(folder, epoch)
        return LinkRoutes(folder, epoch).for_earlier(states.routes(), middlewares)

    # --- the state of the replica ---------------------------------------------------------------

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "replica": self._name})

    async def _readyz(self, request: web.Request) -> web.Response:
        """200 while this replica votes and has what the others have; else 503, and why not.

        One that reaches too few others does not know what they have.
        """
        linked = len(self._links.connected() & set(self._cluster.replica_names))
        needed = self._cluster.quorums.strong - 1
        core = self._runtime.replica.core
        behind_by, missing = self._behind_by(), self._store.ledger.missing()
        found = {
            f"it is in status {core.status}": core.status is not ReplicaStatus.NORMAL,
            "it does not vote": not core.is_voting,
            f"it is {counted(behind_by, 'number')} behind": behind_by > 0,
            f"it lacks {counted(missing, 'ledger entry', 'ledger entries')}": missing > 0,
            f"it has {counted(linked, 'link')}, and needs {needed}": linked < needed,
            DISK_REFUSES: self._runtime.is_unsaved,
        }
        reasons = [reason for reason, holds in found.items() if holds]
        return web.json_response(
            {"ready": not reasons, "replica": self._name, "reasons": reasons},
            status=503 if reasons else 200,
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        """The numbers for Prometheus."""
        metrics = self._runtime.metrics
        connected = self._links.connected()
        peers = {n: n in connected for n in self._cluster.replica_names if n != self._name}
        metrics.observe_state(self._runtime.replica.core, self._behind_by(), peers)
        metrics.observe_traffic(self._links.traffic)
        metrics.observe_builds(self._runner.states(), len(self._application.open_builds()))
        metrics.observe_evidence(self._evidence_counts())
        now = asyncio.get_running_loop().time()
        metrics.observe_disk(
            self._store.path.parent,
            is_slow=self._runtime.disk.is_slow(now),
            is_refusing=self._runtime.is_unsaved,
        )
        metrics.observe_scrub(self._scrub.progress, missing=self._store.ledger.missing())
        caches = self._runner.cache_counts
        metrics.observe_caches(caches.numbers, caches.evictions)
        return web.Response(body=metrics.text(), headers={"Content-Type": METRICS_TYPE})

    async def _status(self, request: web.Request) -> web.Response:
        core = self._runtime.replica.core
        names = self._cluster.replica_names
        behind_by = self._behind_by()
        missing = self._store.ledger.missing()
        is_mute = self._runtime.is_unsaved
        return web.json_response(
            {
                "node_id": self._name,
                "version": VERSION,
                "cluster": self._cluster.id.hex(),
                "lineage": self._cluster.lineage.hex(),
                "epoch": self._cluster.epoch,
                "next_epoch": self._going_over(),
                "status": status_json.status(core, behind_by, is_mute=is_mute),
                "view": core.view,
                "has_entered_view": core.has_entered,
                "view_change": status_json.view_change(core),
                "primary": names[core.primary],
                "is_primary": core.is_primary,
                "sequence": core.executed,
                "stable_checkpoint": core.low,
                "in_sync": not (behind_by or missing or core.is_diverged or is_mute),
                "behind_by": behind_by,
                "state_transfer": status_json.state_transfer(core),
                "recovery": status_json.recovery(core),
                "pending_requests": len(core.pending),
                "f": core.quorums.faults_max,
                "quorum_size": core.quorums.strong,
                "replicas": len(names),
                "byzantine_nodes": self._byzantine_nodes(),
                "dissenting_nodes": self._dissenting_nodes(),
                "evidence": self._evidence_counts(),
                "fault_injection": self._faults.kind,
                "fault_kinds": self._faults.kinds,
                "open_builds": len(self._application.open_builds()),
                "executors": self._application.limits.executors,
                "limits_serial": self._application.limit_changes.serial,
                "standing_by": self._standing_by(),
                "builds_removed": self._runner.kept.removed_count,
                "ledger_index": self._application.ledger_index,
                "ledger_head": self._application.ledger_head.hex(),
                "ledger_missing": missing,
                "scrub": status_json.scrub(self._scrub),
                "journal_length": self._application.journal_length,
                "journal_digest": self._application.journal_digest.hex(),
                "peers": self._peers(),
                "disk": status_json.disk(self._runtime.disk, self._store.path.parent),
                "counters": dict(self._runtime.counters),
            }
        )

    async def _members(self, request: web.Request) -> web.Response:
        """Where this epoch ends, and which members operators proposed for the next one."""
        changes = self._application.member_changes
        return web.json_response(members_json.members(changes, self._runtime.replica.core))

    async def _limits(self, request: web.Request) -> web.Response:
        """The limits of builds that hold now, and which changes operators proposed."""
        executed = self._runtime.replica.core.executed
        application = self._application
        changes, held = application.limit_changes, application.limits
        return web.json_response(
            limits_json.limits(changes, held, self._cluster, executed=executed)
        )

    def _standing_by(self) -> int:
        """How many open builds this replica need not build."""
        return sum(
            state_of(build, self._name, self._runner.state(build.id, build.opened)) == STAND_BY
            for build in self._application.open_builds().values()
        )

    def _behind_by(self) -> int:
        """How many numbers others executed that we did not, as far as one correct one says so.

        A certificate says it, or f+1 peers in their last STATUS.
        """
        core = self._runtime.replica.core
        said = sorted((status.executed for status in core.peers.status.values()), reverse=True)
        weak = core.quorums.weak
        proved = said[weak - 1] if len(said) >= weak else 0
        return max(0, core.checkpoints.certified.sequence - core.executed, proved - core.executed)

    def _peers(self) -> dict[str, dict[str, str | int | float | bool | None]]:
        """Each other replica: its link, and what it said last of where it stands."""
        connected = self._links.connected()
        peers: dict[str, dict[str, str | int | float | bool | None]] = {}
        for index, name in enumerate(self._cluster.replica_names):
            if name == self._name:
                continue
            heard = self._runtime.last_heard(index)
            status = None if heard is None else heard[0]
            peers[name] = {
                "connected": name in connected,
                "last_heard_seconds": None if heard is None else round(heard[1], 3),
                "view": None if status is None else status.view,
                "has_entered_view": None if status is None else status.has_entered,
                "executed": None if status is None else status.executed,
                "stable_checkpoint": None if status is None else status.stable,
            }
        return peers

    def _byzantine_nodes(self) -> list[str]:
        """Who is proved to misbehave, and who was told to, as far as this node knows."""
        return sorted(self._evidence_counts().keys() | self._faults.injected)

    def _evidence_counts(self) -> dict[str, int]:
        """How many pairs of messages this node keeps that convict a replica."""
        names = self._cluster.replica_names
        return {names[replica]: n for replica, n in self._store.evidence.counts().items()}

    def _dissenting_nodes(self) -> list[str]:
        """Who differed from a verdict, by the newest entries of the ledger."""
        dissenting: set[str] = set()
        for entry in self._store.ledger.newest(RECENT_ENTRIES):
            dissenting.update(dissenters(decode_entry(entry.body)))
        return sorted(dissenting)

    async def _evidence(self, request: web.Request) -> web.Response:
        """Pairs of messages that prove misbehaviour, after the number ?after=, oldest first."""
        after = number(request, "after", 0, low=0, high=2**62)
        limit = number(request, "limit", 20, low=1, high=EVIDENCE_PAGE_MAX)
        kept = self._store.evidence.page(after, limit, PAGE_BYTES_MAX)
        return web.json_response(
            {
                "node_id": self._name,
                "cluster": self._cluster.id.hex(),
                "total": sum(self._store.evidence.counts().values()),
                "evidence": [self._evidence_row(item) for item in kept],
                "next": kept[-1].number if kept else None,
            }
        )

    def _evidence_row(self, kept: KeptEvidence) -> dict[str, str | int]:
        first, second = kept.evidence.first, kept.evidence.second
        proved = check_evidence(first, second, self._cluster, verify=verify)
        return {
            "number": kept.number,
            "replica": self._cluster.replica_names[kept.evidence.replica],
            "proves": proved if isinstance(proved, str) else f"nothing: {proved.reason}",
            "first": base64.b64encode(encode_signed(first)).decode(),
            "second": base64.b64encode(encode_signed(second)).decode(),
        }

    async def _client(self, request: web.Request) -> web.Response:
        """Which numbers of a client are used: all up to `floor`, and some above it."""
        client = request.match_info["client"]
        if self._cluster.public_key(client) is None:
            raise http_error(web.HTTPNotFound, "no member of the cluster has that name")
        low = self._runtime.replica.core.execution.clients.low_timestamp(client)
        return web.json_response({"client": client, "floor": low})

    async def _log(self, request: web.Request) -> web.Response:
        """The last messages, newest first, at most ?limit= of them."""
        limit = number(request, "limit", 100, low=1, high=512)
        kind = request.query.get("type")
        rows = []
        for logged in self._runtime.trace.newest():
            row = _message_row(logged)
            if kind is None or row["type"] == kind:
                rows.append(row)
            if len(rows) == limit:
                break
        return web.json_response({"node_id": self._name, "messages": rows})

    # --- messages over HTTP ---------------------------------------------------------------------

    async def _post_request(self, request: web.Request) -> web.Response:
        envelope = await self._read_signed(request, POSTED_REQUEST_BYTES_MAX)
        message = self._authenticator.read(envelope.signed)
        if isinstance(message, Refusal) or not isinstance(message, Request):
            reason = message.reason if isinstance(message, Refusal) else "not a request"
            raise http_error(web.HTTPBadRequest, reason)
        if refusal := self._authenticator.check(envelope.signed, message):
            raise http_error(web.HTTPUnauthorized, f"{refusal.reason}; {_UNSIGNED}")
        self._hand_on(envelope)
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
        envelope = await self._read_signed(request, POSTED_MESSAGE_BYTES_MAX)
        message = self._authenticator.read(envelope.signed)
        if isinstance(message, Refusal):
            raise http_error(web.HTTPBadRequest, message.reason)
        if is_relayed(NO_PEER, envelope.signed):
            raise http_error(web.HTTPBadRequest, "this counts only over its signer's own link")
        if refusal := self._authenticator.check(envelope.signed, message):
            raise http_error(web.HTTPUnauthorized, refusal.reason)
        self._hand_on(envelope)
        return web.json_response({"status": "received"}, status=202)

    async def _read_signed(self, request: web.Request, bytes_max: int) -> Envelope:
        data = await read_body(self._bodies, request, bytes_max)
        try:
            body = msgspec.json.decode(data, type=_SignedBody)
            return Envelope(decode_signed(body.signed), body.body)
        except msgspec.MsgspecError as error:
            raise http_error(
                web.HTTPUnauthorized, f"no signed message ({error}); {_UNSIGNED}"
            ) from None
        except MalformedMessage as error:
            raise http_error(web.HTTPBadRequest, f"`signed` is malformed: {error}") from None

    def _hand_on(self, envelope: Envelope) -> None:
        """Give it to the next turn, where there is room, as on a link. Raises 503."""
        if self._runtime.is_unsaved:
            reason = DISK_REFUSES
        elif not self._runtime.has_room.is_set():
            reason = "more waits here than a turn takes in"
        else:
            self._runtime.on_envelopes("http", [envelope])
            return
        raise http_error(web.HTTPServiceUnavailable, f"{reason}: ask another one, or once more")

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
        ballots = self._store.ballots.of(build)
        is_open = self._application.open_builds().get(build)
        opened = is_open.opened if is_open else max((b[0] for b in ballots), default=None)
        if opened is None:
            raise http_error(web.HTTPNotFound, "this replica does not know that build")
        return web.json_response(
            {
                "build": build.hex(),
                "opened": opened,
                "state": state_of(is_open, self._name, self._runner.state(build, opened)),
                "decided": is_open.is_decided if is_open else True,
                "approved": is_open.is_approved if is_open else True,
                "asked": _asked(is_open) if is_open else None,
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

    async def _build_messages(self, request: web.Request) -> web.Response:
        """What is still known of the messages of a build, for its diagram."""
        trace = self._runtime.trace.of_build(bytes.fromhex(request.match_info["build"]))
        if trace is None:
            raise http_error(web.HTTPNotFound, "no message of that build is kept here any more")
        return web.Response(body=msgspec.json.encode(trace), content_type="application/json")

    async def _ledger(self, request: web.Request) -> web.Response:
        """GET /ledger?from=&limit=, or ?to=&limit= for those before; `before`: the head there."""
        limit = number(request, "limit", 100, low=1, high=LEDGER_PAGE_MAX)
        ledger = self._store.ledger
        # What a wrong state left beyond the present end is not shown.
        end, head = self._application.ledger_index, self._application.ledger_head
        saved_end, _ = ledger.end()
        if saved_end < end:
            # Nor what was executed and is not on disk yet.
            end, head = saved_end, ledger.head_at(saved_end) or b""
        if "to" in request.query:
            last = number(request, "to", 1, low=1, high=2**62)
            page = ledger.page_up_to(last, limit if last <= end else 0, PAGE_BYTES_MAX)
        else:
            first = number(request, "from", 1, low=1, high=2**62)
            page = ledger.page_from(first, max(0, min(limit, end - first + 1)), PAGE_BYTES_MAX)
        return web.json_response(
            {
                "before": page.before.hex(),
                "entries": [
                    {
                        "index": entry.index,
                        "body": base64.b64encode(entry.body).decode(),
                        "head": entry.head.hex(),
                    }
                    for entry in page.entries
                ],
                "index": end,
                "head": head.hex(),
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
        message = logged.message()
    except MalformedMessage:
        return {"type": "malformed", **row}
    row = {"type": kind_of(message), **row}
    for field in ("view", "sequence", "client", "timestamp", "stable", "executed"):
        if hasattr(message, field):
            row[field] = getattr(message, field)
    if hasattr(message, "digest"):
        row["digest"] = message.digest.hex()
    if isinstance(message, Replies):
        row["replies"] = len(message.replies)
    return row


def _asked(build: OpenBuild) -> dict[str, str | None]:
    """What an open build is of, for whoever is to approve it."""
    return {
        "repository": build.repository,
        "commit": build.commit,
        "event": build.event,
        "ref": full_ref(build.branch, build.ref),
        "branch": build.branch,
    }
