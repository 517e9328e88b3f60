"""Four runtimes in one process: real stores, real signatures, links that are function calls.

The build runner is scripted, because these tests are about the loop and the ballots; containers
have tests of their own, and tests/processes runs everything for real.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient

from ci.application import BuildApplication
from ci.executors import StandbyTimeout
from ci.limits import Limits, encode_limits
from ci.operations import (
    Agreement,
    Ballot,
    BuildMetadata,
    BuildResult,
    Operation,
    Outcome,
    ResultKey,
    SubmitBuild,
    encode_operation,
)
from common.configuration.config import FaultKind
from common.configuration.keys import SigningKey
from common.links.link import Traffic
from common.retention import KeepRules
from common.web.peers import Peers
from driver.build_scheduler import BuildScheduler, SchedulerPorts
from driver.ports import BuildOrder
from node.builds.build_tasks import BuildTasks, StoreRequests
from node.caches.cache_store import CacheCounts
from node.faults.faulty_node import FaultyNode
from node.outputs.kept_builds import KeptBuilds
from node.replica.runtime import Runtime
from node.storage.scrub import Scrub
from node.storage.store import Store
from node.web.server import NodeServer
from pbft.authentication import Identity
from pbft.client import make_request
from pbft.core import Settings
from pbft.genesis import PROTOCOL_MIN, Cluster, Genesis, Member
from pbft.messages import Envelope, Signed

Client = TestClient[Any, Any]
NAMES = ("node0", "node1", "node2", "node3")
KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in (*NAMES, "client")}
COMMIT = "ab" * 20

_log = logging.getLogger(__name__)


def make_cluster(limits: Limits) -> Cluster:
    """A cluster of four with one gateway."""
    return Cluster(
        Genesis(
            PROTOCOL_MIN,
            tuple(Member(name, KEYS[name].public_key, ("replica",)) for name in NAMES),
            (Member("client", KEYS["client"].public_key, ("gateway",)),),
            8,
            16,
            64,
            encode_limits(limits),
        )
    )


def finding(
    outcome: Outcome = Outcome.PASSED,
    exit_code: int | None = 0,
    agreement: Agreement = Agreement.DEFAULT,
) -> BuildResult:
    """A finding about COMMIT."""
    return BuildResult(
        ResultKey(outcome, exit_code, COMMIT, "cd" * 32, None, agreement),
        BuildMetadata("ef" * 32, 10, None, 1, 2, "test"),
    )


class ScriptedRunner:
    """Gives the ballot it was told to give, once `allowed` is set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ballot: Ballot = finding()
        self.allowed = asyncio.Event()
        self.allowed.set()
        self.asked: list[BuildOrder] = []
        self.cancelled: list[BuildOrder] = []
        # as one that reads `agreement: weak`: it leaves what it need not build
        self.stands_by = False
        self.left = 0
        self.cache_counts = CacheCounts(hits=3)
        self.kept = KeptBuilds(folder, KeepRules(), time.time)
        self.run_id = "run1"

    async def build(self, order: BuildOrder) -> Ballot | None:
        """As BuildRunner.build."""
        self.asked.append(order)
        try:
            await self.allowed.wait()
        except asyncio.CancelledError:
            self.cancelled.append(order)
            raise
        if self.stands_by and order.is_spare:
            self.left += 1
            return None
        return self.ballot

    def state(self, build: bytes, opened: int) -> str:
        """As BuildRunner.state."""
        return "building"

    def states(self) -> list[str]:
        """As BuildRunner.states."""
        return ["building"] * (len(self.asked) - len(self.cancelled))

    def log_path(self, build: bytes, opened: int) -> Path:
        """As BuildRunner.log_path."""
        return self.folder / f"{build.hex()}-{opened}.log"

    def cases_path(self, build: bytes, opened: int) -> Path:
        """As BuildRunner.cases_path; there is no such file."""
        return self.folder / "nothing"

    # nor any of these
    commits_path = times_path = cases_path


class FunctionLinks:
    """As common.links.link.Links, as far as a runtime uses it."""

    def __init__(self, network: "Network", name: str) -> None:
        self._network = network
        self._name = name
        self.traffic = Traffic()

    def send(self, to: str, envelopes: Sequence[Envelope]) -> None:
        """Hand over, if the peer is there."""
        self._network.sent.extend((self._name, to, envelope) for envelope in envelopes)
        if to in self._network.runtimes and not self._network.is_cut(self._name, to):
            self._network.runtimes[to].on_envelopes(self._name, list(envelopes))

    def connected(self) -> frozenset[str]:
        """Everybody."""
        return frozenset(self._network.runtimes) - {self._name}

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Links over HTTP have tests of their own (tests/common/links/test_link.py)."""
        raise web.HTTPNotImplemented


class Network:
    """The four, and the client's signed requests."""

    def __init__(
        self,
        folder: Path,
        limits: Limits | None = None,
        settings: Settings | None = None,
        stand_by_seconds: float = 600.0,
    ) -> None:
        self.folder = folder
        self.stand_by_seconds = stand_by_seconds
        self.settings = settings
        self.limits = limits or Limits()
        self.cluster = make_cluster(self.limits)
        self.runtimes: dict[str, Runtime] = {}
        self.stores: dict[str, Store] = {}
        self.applications: dict[str, BuildApplication] = {}
        self.tasks: dict[str, BuildTasks] = {}
        self.schedulers: dict[str, BuildScheduler] = {}
        self.faulty: dict[str, FaultyNode] = {}
        self.runners = {name: ScriptedRunner(folder / name) for name in NAMES}
        self.sent: list[tuple[str, str, Envelope]] = []
        self.cut: set[str] = set()
        self._timestamp = 0

    def is_cut(self, sender: str, receiver: str) -> bool:
        """Whether the network loses what one sends to the other."""
        return sender in self.cut or receiver in self.cut

    def start(self, name: str, fault: FaultKind = "allowed") -> None:
        """Start or restart a replica from its folder."""
        identity = Identity(self.cluster, name, KEYS[name].sign)
        faulty = self.faulty[name] = FaultyNode(fault, identity, Peers({}))
        store = self.stores[name] = Store(self.folder / name, self.cluster.id, name)
        ledger = store.ledger
        application = BuildApplication(
            self.cluster, self.limits, ledger.find_statement, missing_entries=ledger.not_given_out
        )
        self.applications[name] = application
        runtime = Runtime(identity, store, application, settings=self.settings)
        runtime.restore()
        tasks = self.tasks[name] = BuildTasks(self.runners[name], faulty.bend)  # type: ignore[arg-type]
        scheduler = self.schedulers[name] = tasks.scheduler = BuildScheduler(
            identity,
            application,
            SchedulerPorts(StoreRequests(store), tasks, runtime, _log),
            clients=runtime.replica.core.execution.clients,
            standby_timeout=lambda limits: StandbyTimeout(
                self.stand_by_seconds, limits.build_seconds_max
            ),
        )
        self.runtimes[name] = runtime
        runtime.start(faulty.links(FunctionLinks(self, name)), scheduler)
        for other in self.runtimes:
            if other != name:
                self.runtimes[other].on_connected(name)
                runtime.on_connected(other)

    async def stop(self, name: str) -> None:
        """End a replica without a goodbye."""
        runtime = self.runtimes.pop(name)
        await self.tasks[name].close()
        await runtime.close()
        self.stores[name].close()

    def wipe(self, name: str) -> None:
        """A stopped replica loses all that it has on disk."""
        shutil.rmtree(self.folder / name)

    async def close(self) -> None:
        """End all."""
        for name in list(self.runtimes):
            await self.stop(name)

    def request(self, operation: Operation) -> Signed:
        """The client's next signed request."""
        self._timestamp += 1
        return make_request(
            Identity(self.cluster, "client", KEYS["client"].sign),
            self._timestamp,
            encode_operation(operation),
        )

    def ask(self, operation: Operation) -> Signed:
        """Send the client's next request to all."""
        signed = self.request(operation)
        for runtime in self.runtimes.values():
            runtime.on_envelopes("client", [Envelope(signed)])
        return signed

    def own_request(self, name: str, timestamp: int, operation: Operation) -> Signed:
        """What a replica asked under this number, in a life whose disk is lost."""
        operation_bytes = encode_operation(operation)
        return make_request(
            Identity(self.cluster, name, KEYS[name].sign), timestamp, operation_bytes
        )

    def tell_all(self, sender: str, signed: Signed) -> None:
        """Hand a signed request to all that run."""
        for runtime in self.runtimes.values():
            runtime.on_envelopes(sender, [Envelope(signed)])

    def submit(self, number: int = 1) -> None:
        """Ask for a build."""
        self.ask(SubmitBuild(bytes([number]) * 32, "https://example.org/r.git", "main", COMMIT))

    def verdicts(self, name: str) -> int:
        """How many ledger entries of verdicts a replica has."""
        entries = self.stores[name].ledger.entries(1, 10_000)
        return sum(entry.body.startswith(b'{"type":"verdict"') for entry in entries)


def server_of(network: Network, name: str) -> NodeServer:
    """The routes of one of its nodes."""
    return NodeServer(
        network.runtimes[name],
        runner=network.runners[name],  # type: ignore[arg-type]
        links=FunctionLinks(network, name),  # type: ignore[arg-type]
        faults=network.faulty[name].routes,
        scrub=Scrub(network.stores[name]),
    )
