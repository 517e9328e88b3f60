"""A network for the gateway's tests: real replicas and applications in memory, no links.

Each node orders for real and casts the ballot that a test tells it to; its HTTP answers are
served on loopback. What a node's shell does on disk is left out: it has tests of its own.
"""

import asyncio
import base64
import contextlib
import hashlib
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer

from ci.application import BuildApplication
from ci.builds import OpenBuild
from ci.ledger import LateBallotEntry, VerdictEntry, decode_entry
from ci.ledger_proof import LedgerProof
from ci.limits import Limits
from ci.operations import Ballot, BuildResult, CastBallot, decode_operation, encode_operation
from ci.provenance import provenance_bytes
from ci.statement import envelope, keyid_for, pae, parse_statement
from ci.supplement import supplement_bytes
from client.gateway.collector import Collector
from client.gateway.gateway import Gateway
from client.gateway.gateway_setup import (
    GatewayIdentity,
    GatewayServices,
    GatewaySettings,
    GatewayStorage,
)
from client.gateway.reporting import Reports, make_reporter
from client.gateway.resolve import FoundCommit, Resolution, Resolver
from client.gateway.results_file import ResultsFile
from client.network.limits_history import LimitsHistory
from client.network.nodes import Nodes
from client.notifications.messenger import Messenger
from client.notifications.notifications import Notifications
from client.storage.archive import Archive
from client.storage.database import Database
from common.address import Address
from common.configuration.config import GatewayRepository
from common.configuration.keys import SigningKey, verify
from common.configuration.notify_config import NotifyTarget
from common.log_pieces import LogPiece
from common.statuses.reporter import Reporter
from common.web.peers import Peers
from node.faults.misbehaviours import DESCRIPTIONS
from node.web.artifact_routes import ArtifactRoutes
from node.web.log_routes import LogRoutes
from node.web.proof_routes import proof_fields
from pbft.authentication import Identity
from pbft.client import make_request
from pbft.codec import decode_request, encode_signed
from pbft.genesis import PROTOCOL_WITHOUT_VACANT, Cluster
from pbft.messages import Envelope, Signed
from pbft.ports import Entry, Output
from pbft.replica import Replica
from tests.ci.builders import COMMIT, GATEWAY, cluster_of, finding

REPOSITORY = "https://example.org/r.git"
TICK_SECONDS = 0.02


def key_of(name: str) -> SigningKey:
    """The private key that tests.ci.builders gives to that member."""
    return SigningKey(hashlib.sha256(name.encode()).digest())


class Node:
    """One replica, its application, and what its shell would keep."""

    def __init__(self, cluster: Cluster, name: str, limits: Limits) -> None:
        self.cluster = cluster
        self.name = name
        self.application = BuildApplication(cluster, limits, self.find_statement)
        self.replica = Replica(Identity(cluster, name, key_of(name).sign), verify, self.application)
        self.ledger: list[Entry] = []
        self.ballots: dict[bytes, list[tuple[int, str, Signed]]] = {}
        self.logs: dict[bytes, bytes] = {}
        # what it serves as the details of test cases
        self.cases: dict[bytes, bytes] = {}
        # the same of commits; and of when its logs came, of each build alike
        self.commits: dict[bytes, bytes] = {}
        self.times: bytes | None = None
        # the builds whose log is still being written
        self.growing: set[bytes] = set()
        self.run_id = "run1"
        # what its builds made; see node.outputs.artifact_store
        self.artifacts: dict[bytes, Path] = {}
        self.inbox: deque[Envelope] = deque()
        self.is_down = False
        self.finds: Callable[[OpenBuild], tuple[Ballot, bytes] | None] = lambda build: passed()
        self.served: list[str] = []
        # how often somebody looked into a log of its builds
        self.looks = 0
        self.evidence: list[tuple[Signed, Signed]] = []
        self.ledger_proof: LedgerProof | None = None
        self.signs_provenance_as = name
        # whether it hides late ballots where it is asked who contradicted a verdict
        self.hides_late_ballots = False
        # what its status says otherwise
        self.told: dict[str, object] = {}
        # What it says is the time, if that is not this machine's.
        self.date: str | None = None
        self.is_fault_allowed = False
        self.fault: str | None = None
        self._timestamp = 0
        self._cast: set[bytes] = set()

    def find_statement(self, build: bytes) -> bytes | None:
        """The newest verdict of that build in the ledger."""
        for entry in reversed(self.ledger):
            body = decode_entry(entry.body)
            if isinstance(body, VerdictEntry) and body.build == build.hex():
                return bytes(body.statement)
        return None

    def owed(self) -> list[Signed]:
        """The ballots that this node casts now."""
        signed = []
        for build in self.application.open_builds().values():
            if not build.is_approved or build.id in self._cast or self.name in build.ballots:
                continue
            found = self.finds(build)
            if found is None:
                continue
            ballot, log = found
            self._cast.add(build.id)
            self.logs[build.id] = log
            self._timestamp += 1
            operation = encode_operation(CastBallot(build.id, build.opened, ballot))
            signed.append(
                make_request(
                    Identity(self.cluster, self.name, key_of(self.name).sign),
                    self._timestamp,
                    operation,
                )
            )
        return signed

    def keep(self, output: Output) -> None:
        """Take in what was executed."""
        for executed in output.executed:
            self.ledger.extend(executed.applied.entries)
            operation = decode_operation(executed.request.operation)
            if isinstance(operation, CastBallot) and executed.applied.kind == "done":
                self.ballots.setdefault(operation.build, []).append(
                    (operation.opened, executed.request.client, executed.signed)
                )

    # --- HTTP -----------------------------------------------------------------------------------

    def web_application(self) -> web.Application:
        """The routes of a node that the gateway uses."""
        application = web.Application()
        application.router.add_get("/builds/{build}", self._show_build)
        application.router.add_get("/builds/{build}/log", self._show_log)
        application.router.add_get("/builds/{build}/tests", self._show_cases)
        application.router.add_get("/builds/{build}/commits", self._show_commits)
        application.router.add_get("/builds/{build}/log/times", self._show_times)
        application.router.add_get("/builds/{build}/provenance", self._show_provenance)
        application.router.add_get("/builds/{build}/supplement", self._show_supplement)
        application.add_routes(ArtifactRoutes(self).routes())
        application.router.add_get("/ledger", self._show_ledger)
        application.router.add_get("/ledger/proof", self._show_ledger_proof)
        application.router.add_get("/pbft/status", self._show_status)
        application.router.add_get("/pbft/clients/{client}", self._show_client)
        application.router.add_get("/pbft/evidence", self._show_evidence)
        application.router.add_post("/pbft/simulate-byzantine", self._misbehave)
        return application

    async def _show_build(self, request: web.Request) -> web.Response:
        self._check_up(request)
        build = bytes.fromhex(request.match_info["build"])
        ballots = self.ballots.get(build, [])
        is_open = self.application.open_builds().get(build)
        if is_open is None and not ballots:
            raise web.HTTPNotFound
        return web.json_response(
            {
                "build": build.hex(),
                "opened": is_open.opened if is_open else ballots[0][0],
                "state": "building" if build in self.growing else "none",
                "decided": is_open is None or is_open.is_decided,
                "approved": is_open is None or is_open.is_approved,
                "ballots": [
                    {
                        "replica": replica,
                        "signed": base64.b64encode(encode_signed(signed)).decode(),
                    }
                    for _, replica, signed in ballots
                ],
            }
        )

    async def _show_log(self, request: web.Request) -> web.StreamResponse:
        self._check_up(request)
        if "from" in request.query:
            return await LogRoutes(self).handle(request)
        log = self.logs.get(bytes.fromhex(request.match_info["build"]))
        if log is None:
            raise web.HTTPNotFound
        return web.Response(body=log)

    async def _show_cases(self, request: web.Request) -> web.Response:
        return self._kept(request, self.cases)

    async def _show_commits(self, request: web.Request) -> web.Response:
        return self._kept(request, self.commits)

    async def _show_times(self, request: web.Request) -> web.Response:
        self._check_up(request)
        if self.times is None:
            raise web.HTTPNotFound
        return web.Response(body=self.times)

    def _kept(self, request: web.Request, kept: Mapping[bytes, bytes]) -> web.Response:
        self._check_up(request)
        data = kept.get(bytes.fromhex(request.match_info["build"]))
        if data is None:
            raise web.HTTPNotFound
        return web.Response(body=data)

    def log_path(self, build: bytes, opened: int) -> Path:
        """As node.builds.build_runner.BuildRunner; here no log is a file."""
        raise AssertionError

    def artifacts_path(self, build: bytes, opened: int) -> Path:
        """As node.builds.build_runner.BuildRunner."""
        if self.is_down:
            raise web.HTTPServiceUnavailable
        self.served.append(f"artifacts of {build.hex()}")
        return self.artifacts.get(build, Path("/nowhere"))

    def read_log(self, build: bytes, opened: int, offset: int, bytes_max: int) -> LogPiece | None:
        """As node.builds.build_runner.BuildRunner."""
        self.looks += 1
        log = self.logs.get(build)
        if log is None:
            return None
        offset = min(offset, len(log))
        data = log[offset : offset + bytes_max]
        return LogPiece(offset, data, len(log), None, build in self.growing)

    async def _show_ledger(self, request: web.Request) -> web.Response:
        self._check_up(request)
        first, limit = int(request.query["from"]), int(request.query["limit"])
        return web.json_response(
            {
                "entries": [
                    {
                        "index": entry.index,
                        "body": base64.b64encode(entry.body).decode(),
                        "head": entry.head.hex(),
                    }
                    for entry in self.ledger[first - 1 : first - 1 + limit]
                ],
                "index": self.application.ledger_index,
                "head": self.application.ledger_head.hex(),
            }
        )

    async def _show_provenance(self, request: web.Request) -> web.Response:
        self._check_up(request)
        build = bytes.fromhex(request.match_info["build"])
        data = self.find_statement(build)
        if data is None:
            raise web.HTTPNotFound
        signed = next(s for _, replica, s in self.ballots[build] if replica == self.name)
        operation = decode_operation(decode_request(signed).operation)
        assert isinstance(operation, CastBallot)
        statement = parse_statement(data)
        payload = provenance_bytes(self.cluster, statement, self.name, ballot=operation.ballot)
        assert payload is not None
        key = key_of(self.signs_provenance_as)
        return web.json_response(
            envelope(payload, [(keyid_for(key.public_key), key.sign(pae(payload)))])
        )

    async def _show_supplement(self, request: web.Request) -> web.Response:
        self._check_up(request)
        build, at = request.match_info["build"], int(request.query["at"])
        assert 0 < at <= len(self.ledger)
        entries = [(entry.index, decode_entry(entry.body)) for entry in self.ledger[:at]]
        (verdict,) = (e for _, e in entries if isinstance(e, VerdictEntry) and e.build == build)
        late = [(i, e) for i, e in entries if isinstance(e, LateBallotEntry) and e.build == build]
        payload = supplement_bytes(
            self.cluster,
            verdict,
            [] if self.hides_late_ballots else late,
            ledger_index=at,
            ledger_head=self.ledger[at - 1].head,
            is_final=not self.application.is_open(bytes.fromhex(build), verdict.opened),
        )
        key = key_of(self.name)
        return web.json_response(
            envelope(payload, [(keyid_for(key.public_key), key.sign(pae(payload)))])
        )

    async def _show_ledger_proof(self, request: web.Request) -> web.Response:
        self._check_up(request)
        proof = self.ledger_proof
        if proof is None:
            raise web.HTTPNotFound
        return web.json_response(proof_fields(proof))

    async def _show_status(self, request: web.Request) -> web.Response:
        self._check_up(request)
        core = self.replica.core
        names = self.cluster.replica_names
        told: dict[str, object] = {
            "node_id": self.name,
            "version": "1.2.3",
            "cluster": self.cluster.id.hex(),
            "status": core.status,
            "view": core.view,
            "has_entered_view": core.has_entered,
            "primary": names[core.primary],
            "is_primary": core.is_primary,
            "sequence": core.executed,
            "stable_checkpoint": 0 if self.ledger_proof is None else self.ledger_proof.sequence,
            "in_sync": True,
            "behind_by": 0,
            "evidence": dict(Counter(first.signer for first, _ in self.evidence)),
            "fault_injection": self.fault,
            "fault_kinds": DESCRIPTIONS if self.is_fault_allowed else None,
            "ledger_index": self.application.ledger_index,
            "ledger_head": self.application.ledger_head.hex(),
            "ledger_missing": 0,
        }
        headers = None if self.date is None else {"Date": self.date}
        return web.json_response({**told, **self.told}, headers=headers)

    async def _show_client(self, request: web.Request) -> web.Response:
        self._check_up(request)
        client = request.match_info["client"]
        low = self.replica.core.execution.clients.low_timestamp(client)
        return web.json_response({"client": client, "floor": low})

    async def _show_evidence(self, request: web.Request) -> web.Response:
        self._check_up(request)
        after = int(request.query["after"])
        rows = [
            {
                "number": number,
                "replica": first.signer,
                "proves": "whatever this node says",
                "first": base64.b64encode(encode_signed(first)).decode(),
                "second": base64.b64encode(encode_signed(second)).decode(),
            }
            for number, (first, second) in enumerate(self.evidence, 1)
            if number > after
        ][:2]
        return web.json_response(
            {
                "cluster": self.cluster.id.hex(),
                "evidence": rows,
                "next": rows[-1]["number"] if rows else None,
            }
        )

    async def _misbehave(self, request: web.Request) -> web.Response:
        self._check_up(request)
        if not self.is_fault_allowed:
            return web.json_response({"error": "fault injection is off here"}, status=403)
        wanted = await request.json()
        assert wanted["node_id"] == self.name
        self.fault = wanted["fault"]
        return web.json_response({})

    def _check_up(self, request: web.Request) -> None:
        if self.is_down:
            raise web.HTTPServiceUnavailable
        self.served.append(request.path)


class Network:
    """The nodes and everything between them and one gateway; it is that gateway's transport.

    alter: may change or drop what a node sends to the gateway. vacant: seats without a node.
    """

    def __init__(
        self,
        replicas: int = 4,
        limits: Limits | None = None,
        gateway_roles: tuple[str, ...] = ("gateway",),
        vacant: tuple[str, ...] = (),
    ) -> None:
        self.limits = limits or Limits()
        self.cluster = cluster_of(
            replicas,
            self.limits,
            gateway_roles=gateway_roles,
            protocol=PROTOCOL_WITHOUT_VACANT if vacant else 1,
            vacant=vacant,
        )
        self.nodes = {
            name: Node(self.cluster, name, self.limits) for name in self.cluster.expected_names
        }
        self.alter: Callable[[str, Envelope], Envelope | None] = lambda name, envelope: envelope
        self.gateway: Gateway | None = None
        self.asked: list[Signed] = []
        self._servers: dict[str, TestServer] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve HTTP and begin to deliver."""
        for name, node in self.nodes.items():
            server = TestServer(node.web_application())
            await server.start_server()
            self._servers[name] = server
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop. A fault of a replica shows here."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            assert self._task.cancelled() or self._task.exception() is None
        for server in self._servers.values():
            await server.close()

    @property
    def addresses(self) -> Mapping[str, Address]:
        """Where the nodes' HTTP is."""
        return {
            name: Address("127.0.0.1", int(server.port or 0))
            for name, server in self._servers.items()
        }

    def send(self, to: str, envelopes: Sequence[Envelope]) -> None:
        """From the gateway to a node."""
        self.asked.extend(envelope.signed for envelope in envelopes)
        node = self.nodes.get(to)
        if node is not None and not node.is_down:
            node.inbox.extend(envelopes)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = asyncio.get_running_loop().time()
            for node in self._up():
                self._take(node, node.replica.handle_timer(now))
            while any(node.inbox for node in self._up()):
                for node in self._up():
                    envelopes = list(node.inbox)
                    node.inbox.clear()
                    self._take(node, node.replica.receive(envelopes, now))
            for node in self._up():
                for signed in node.owed():
                    for other in self._up():
                        other.inbox.append(Envelope(signed))

    def _up(self) -> list[Node]:
        return [node for node in self.nodes.values() if not node.is_down]

    def _take(self, node: Node, output: Output) -> None:
        node.keep(output)
        for send in output.messages:
            if send.to is None or send.to in self.nodes:
                for other in self._up():
                    if other is not node and send.to in (None, other.name):
                        other.inbox.append(send.envelope)
            elif send.to == GATEWAY and self.gateway is not None:
                altered = self.alter(node.name, send.envelope)
                if altered is not None:
                    self.gateway.receive(node.name, [altered])


class FixedResolver(Resolver):
    """A resolver whose answers a test gives: the last one is repeated."""

    def __init__(self, *answers: Resolution) -> None:
        self.answers = list(answers or [FoundCommit(COMMIT)])
        self.questions = 0

    async def resolve(self, repository: str, branch: str, ref: str | None = None) -> Resolution:
        """The next answer."""
        self.questions += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def close(self) -> None:
        """Nothing to close."""


class Running(msgspec.Struct):
    """A gateway with its parts, on a folder that outlives it."""

    network: Network
    gateway: Gateway
    database: Database
    archive: Archive
    collector: Collector
    nodes: Nodes
    results_file: Path
    reporter: Reporter
    messenger: Messenger

    async def close(self) -> None:
        """Stop this life of the gateway."""
        self.network.gateway = None
        await self.reporter.close()
        await self.messenger.close()
        await self.gateway.close()
        await self.collector.close()
        await self.nodes.__aexit__(None, None, None)
        self.database.close()


async def run_gateway(
    network: Network,
    folder: Path,
    resolver: Resolver | None = None,
    queue_max: int = 1000,
    reported: tuple[GatewayRepository, ...] = (),
    configured: Sequence[GatewayRepository] = (),
    notify: tuple[NotifyTarget, ...] = (),
) -> Running:
    """Start a gateway in this network, with its data in that folder.

    reported: the repositories whose commit statuses it posts. configured: what is set for some.
    notify: whom it tells.
    """
    database = Database(folder / "data", network.cluster.id, GATEWAY)
    archive = Archive(database, folder / "data")
    nodes = Nodes(Peers(network.addresses))
    await nodes.__aenter__()
    history = LimitsHistory(network.limits)
    collector = Collector(network.cluster, history, nodes, database=database, archive=archive)
    results_file = folder / "log" / "results.jsonl"
    draws = iter(range(10**9))
    start = database.file.stat().st_mtime_ns

    def draw(size: int) -> bytes:
        assert size == 32
        return hashlib.sha256(b"%d %d" % (start, next(draws))).digest()

    reporter = make_reporter(reported, database)
    messenger = Messenger(notify, database, file=folder / "client.yml", clock=time.time)
    public_url = "https://ci.example.org"
    gateway = Gateway(
        GatewayIdentity(GATEWAY, network.cluster, network.limits, key_of(GATEWAY)),
        GatewayStorage(database, archive, ResultsFile(database, results_file)),
        GatewayServices(
            Reports(
                reporter,
                public_url,
                network.cluster.quorums.replicas,
                notifications=Notifications(notify, archive, messenger, public_url=public_url),
            ),
            resolver or FixedResolver(),
            collector,
        ),
        settings=GatewaySettings(queue_max, configured),
        draw=draw,
    )
    network.gateway = gateway
    gateway.start(network)
    reporter.start()
    messenger.start()
    return Running(
        network, gateway, database, archive, collector, nodes, results_file, reporter, messenger
    )


@contextlib.asynccontextmanager
async def gateway_on(network: Network, folder: Path) -> AsyncIterator[Running]:
    """Start these nodes and a gateway, and close both when the block ends."""
    await network.start()
    running = await run_gateway(network, folder)
    try:
        yield running
    finally:
        await running.close()
        await network.close()


def repositories() -> tuple[GatewayRepository, ...]:
    """What anybody may have the gateway of these tests build."""
    return tuple(
        GatewayRepository(url, unsigned_allowed=True)
        for url in (REPOSITORY, "https://example.org/other.git")
    )


def passed(log: str = "log") -> tuple[BuildResult, bytes]:
    """A green finding and the log that it names."""
    return finding(log=log), log.encode()
