"""Four runtimes in one process: real stores, real signatures, links that are function calls.

The executor is scripted, because these tests are about the loop and the ballots; containers have
tests of their own, and tests/processes runs everything for real.
"""

import asyncio
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from ci.application import BuildApplication
from ci.limits import Limits, encode_limits
from ci.operations import (
    Agreement,
    Ballot,
    Compared,
    Evidence,
    Finding,
    Operation,
    Outcome,
    SubmitBuild,
    encode_operation,
)
from common.keys import SigningKey, verify
from common.retention import KeepRules
from node.ballots import BallotBox
from node.executor import BuildOrder
from node.fault_injection import Faults, FaultyLinks
from node.fault_routes import FaultRoutes
from node.kept_builds import KeptBuilds
from node.runtime import Runtime
from node.scrub import Scrub
from node.server import NodeServer
from node.store import Store
from pbft.client import make_request
from pbft.core import Settings
from pbft.genesis import FORMAT_VERSION, Cluster, Genesis, Member
from pbft.messages import Envelope, Signed

NAMES = ("node0", "node1", "node2", "node3")
KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in (*NAMES, "client")}
COMMIT = "ab" * 20


def make_cluster(limits: Limits) -> Cluster:
    """A cluster of four with one gateway."""
    return Cluster(
        Genesis(
            FORMAT_VERSION,
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
) -> Finding:
    """A finding about COMMIT."""
    return Finding(
        Compared(outcome, exit_code, COMMIT, "cd" * 32, None, agreement),
        Evidence("ef" * 32, 10, None, 1, 2, "test"),
    )


class ScriptedExecutor:
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
        self.kept = KeptBuilds(folder, KeepRules(), time.time)
        self.run_id = "run1"

    async def build(self, order: BuildOrder) -> Ballot | None:
        """As Executor.build."""
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
        """As Executor.state."""
        return "building"

    def states(self) -> list[str]:
        """As Executor.states."""
        return ["building"] * (len(self.asked) - len(self.cancelled))

    def log_path(self, build: bytes, opened: int) -> Path:
        """As Executor.log_path."""
        return self.folder / f"{build.hex()}-{opened}.log"


class FunctionLinks:
    """As common.link.Links, as far as a runtime uses it."""

    def __init__(self, house: "House", name: str) -> None:
        self._house = house
        self._name = name

    def send(self, to: str, envelopes: Sequence[Envelope]) -> None:
        """Hand over, if the peer is there."""
        self._house.sent.extend((self._name, to, envelope) for envelope in envelopes)
        if to in self._house.runtimes and not self._house.is_cut(self._name, to):
            self._house.runtimes[to].on_envelopes(self._name, list(envelopes))

    def connected(self) -> frozenset[str]:
        """Everybody."""
        return frozenset(self._house.runtimes) - {self._name}

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Links over HTTP have tests of their own (tests/common/test_link.py)."""
        raise web.HTTPNotImplemented


class House:
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
        self.boxes: dict[str, BallotBox] = {}
        self.faults: dict[str, Faults] = {}
        self.executors = {name: ScriptedExecutor(folder / name) for name in NAMES}
        self.sent: list[tuple[str, str, Envelope]] = []
        self.cut: set[str] = set()
        self._timestamp = 0

    def is_cut(self, sender: str, receiver: str) -> bool:
        """Whether the network loses what one sends to the other."""
        return sender in self.cut or receiver in self.cut

    def start(self, name: str, fault: str | None = None) -> None:
        """Start or restart a replica from its folder."""
        faults = self.faults[name] = Faults(fault)
        store = self.stores[name] = Store(self.folder / name, self.cluster.id, name)
        ledger = store.ledger
        application = BuildApplication(
            self.cluster, self.limits, ledger.find_statement, ledger.not_given_out
        )
        self.applications[name] = application
        runtime = Runtime(
            cluster=self.cluster,
            name=name,
            signing_key=KEYS[name],
            store=store,
            application=application,
            settings=self.settings,
        )
        runtime.restore()
        box = self.boxes[name] = BallotBox(
            cluster=self.cluster,
            name=name,
            sign=KEYS[name].sign,
            limits=self.limits,
            store=store,
            executor=self.executors[name],  # type: ignore[arg-type]
            application=application,
            clients=lambda: runtime.replica.core.clients,
            send=runtime.ask,
            faults=faults,
            stand_by_seconds=self.stand_by_seconds,
        )
        self.runtimes[name] = runtime
        links = FaultyLinks(FunctionLinks(self, name), faults, self.cluster, name, KEYS[name].sign)
        runtime.start(links, box)
        for other in self.runtimes:
            if other != name:
                self.runtimes[other].on_connected(name)
                runtime.on_connected(other)

    async def stop(self, name: str) -> None:
        """End a replica without a goodbye."""
        runtime = self.runtimes.pop(name)
        await self.boxes[name].close()
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
            "client",
            self._timestamp,
            encode_operation(operation),
            self.cluster,
            KEYS["client"].sign,
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
        return make_request(name, timestamp, operation_bytes, self.cluster, KEYS[name].sign)

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


def server_of(house: House, name: str) -> NodeServer:
    """The routes of one of its nodes."""
    faults = house.faults[name]
    return NodeServer(
        cluster=house.cluster,
        name=name,
        version="test",
        runtime=house.runtimes[name],
        application=house.applications[name],
        store=house.stores[name],
        executor=house.executors[name],  # type: ignore[arg-type]
        links=FunctionLinks(house, name),  # type: ignore[arg-type]
        verify=verify,
        sign=KEYS[name].sign,
        faults=faults,
        fault_routes=FaultRoutes(name=name, faults=faults, is_allowed=True, peers={}),
        scrub=Scrub(house.stores[name]),
    )
