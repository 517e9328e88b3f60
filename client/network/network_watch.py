"""Asks the replicas how they are, again and again, and remembers since when one is silent.

Each is asked by itself: a slow one holds up nobody. What they report of themselves is shown as
theirs. Their ledgers and ballots are checked (client.network.ledger_check), and so is evidence.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable

import msgspec

from client.network.ledger_check import LedgerCheck
from client.network.limits_history import LimitsHistory
from client.network.network_view import (
    NetworkView,
    Reach,
    ReplicaState,
    consequence,
    heard_by,
    iso_seconds,
    summary,
)
from client.network.node_status import NodeStatus, foreign_words
from client.network.nodes import NodeFailed, Nodes, evidence_bytes_max
from client.network.proofs import ProofView, pair_key, read_proof
from common.clocks import is_wrong
from common.safe_text import log_text
from pbft.genesis import Cluster
from pbft.ports import Refusal

LINK_SECONDS = 1.0
ASK_SECONDS = 5.0
# While somebody looks at a page that lives.
ASK_FOLLOWED_SECONDS = 2.0
# Whoever looks sees nothing older; many who look at once cost the nodes one question.
FRESH_SECONDS = 2.0
# One lost answer of a node that is linked is no more than a busy machine.
FAILURES_MAX = 3
EVIDENCE_AGAIN_SECONDS = 30.0
EVIDENCE_PAGES_MAX = 50
EVIDENCE_PAGE_PAIRS = 20
PROOFS_SHOWN_MAX = 5

_log = logging.getLogger(__name__)


class _Known:
    """What is known of one replica."""

    def __init__(self) -> None:
        self.status: NodeStatus | None = None
        self.last: NodeStatus | None = None
        # How far its clock is ahead of this machine's, as its last answer had it.
        self.ahead_seconds: float | None = None
        self.error: str | None = None
        self.failures = 0
        self.reach = Reach.UNKNOWN
        self.since: float | None = None
        self.heard: float | None = None
        self.asked_at = float("-inf")
        self.asking: asyncio.Task[None] | None = None
        self.fetching: asyncio.Task[None] | None = None
        # By the pair's digests: what it proves. Whose counts they were, and when they were asked.
        self.proofs: dict[bytes, ProofView] = {}
        self.evidence: dict[str, int] = {}
        self.evidence_at = float("-inf")


class NetworkWatch:
    """The replicas of one cluster, as one gateway sees them.

    connected: the replicas that the gateway has a link to. limits: as far as the ledger is checked.
    on_change: called when a link, a
    status, a view or anything else that people should see at once has changed. is_followed: whether
    anybody looks at a page that lives. next_epoch: why the gateway has not begun the next epoch;
    None where it is not to. These three are set later.
    """

    def __init__(
        self,
        cluster: Cluster,
        nodes: Nodes,
        connected: Callable[[], frozenset[str]],
        *,
        limits: LimitsHistory,
    ) -> None:
        self.cluster = cluster
        self.nodes = nodes
        self.connected = connected
        self._known = {name: _Known() for name in nodes.names}
        self._began_at = time.time()
        self._linked: frozenset[str] = frozenset()
        self._told: object = None
        self._task: asyncio.Task[None] | None = None
        self.limits = limits
        self.ledger = LedgerCheck(cluster, nodes, limits)
        self.on_change: Callable[[], None] = lambda: None
        self.is_followed: Callable[[], bool] = lambda: False
        self.next_epoch: Callable[[], str | None] = lambda: None

    def start(self) -> None:
        """Begin to look, for as long as the gateway runs."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="network watch")

    async def close(self) -> None:
        """Stop."""
        all_known = self._known.values()
        possible = [self._task, *(k.asking for k in all_known), *(k.fetching for k in all_known)]
        tasks = [task for task in possible if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.ledger.close()

    async def look(self, seconds_max: float) -> NetworkView:
        """The replicas now: asked anew where that is long ago, and waited for so long at most.

        So is the check of the ledger; both go on afterwards.
        """
        try:
            async with asyncio.timeout(seconds_max):
                await self._ask_all(FRESH_SECONDS)
                await asyncio.shield(self.ledger.advance(self._statuses()))
        except TimeoutError:
            _log.debug("not all replicas answered in %g s", seconds_max)
        return self.view()

    async def look_again(self, replica: str) -> None:
        """Ask one replica now, whenever it was asked last: something was changed there."""
        known = self._known[replica]
        if known.asking is not None and not known.asking.done():
            await asyncio.wait([known.asking])
        known.asked_at = asyncio.get_running_loop().time()
        known.asking = asyncio.get_running_loop().create_task(self._ask(replica, known))
        await known.asking
        self._tell()

    def view(self) -> NetworkView:
        """What is known, without asking."""
        quorums = self.cluster.quorums
        statuses = self._statuses()
        ledger = self.ledger.state
        connected = self.connected()
        proofs, holders = self._proofs()
        replicas = tuple(
            ReplicaState(
                replica=name,
                connected=name in connected,
                reach=known.reach,
                since=None if known.since is None else iso_seconds(known.since),
                heard=None if known.heard is None else iso_seconds(known.heard),
                status=known.status,
                error=known.error,
                ahead_seconds=known.ahead_seconds,
                last=known.last,
                heard_by=heard_by(name, statuses),
                dissent=self.ledger.history.of(name),
                times=self.ledger.history.times.of(name),
                proofs=tuple(
                    msgspec.structs.replace(proof, held_by=tuple(holders[key]))
                    for key, proof in proofs.get(name, [])[:PROOFS_SHOWN_MAX]
                ),
                proofs_count=len(proofs.get(name, [])),
                ledger_differs_at=ledger.differing.get(name),
            )
            for name, known in self._known.items()
        )
        next_epoch = self.next_epoch()
        level, sentence = summary(
            replicas, quorums.strong, ledger.alarm or next_epoch, now=iso_seconds(time.time())
        )
        return NetworkView(
            cluster=self.cluster.id.hex(),
            epoch=self.cluster.epoch,
            next_epoch=next_epoch,
            faults_max=quorums.faults_max,
            needed=quorums.strong,
            level=level,
            sentence=sentence,
            consequence=consequence(replicas, quorums.strong),
            since=iso_seconds(self._began_at),
            replicas=replicas,
            ledger=ledger,
        )

    # --- asking ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        asked_at = float("-inf")
        while True:
            try:
                linked = self.connected()
                seconds = ASK_FOLLOWED_SECONDS if self.is_followed() else ASK_SECONDS
                if linked != self._linked or loop.time() >= asked_at + seconds:
                    is_new = linked != self._linked
                    self._linked, asked_at = linked, loop.time()
                    await self._ask_all(0.0 if is_new else LINK_SECONDS)
                    self.ledger.advance(self._statuses())
                self._tell()
            except Exception:  # noqa: BLE001 - told in full; without this task nobody looks
                _log.exception("the replicas were not looked at, by a fault of our own")
            await asyncio.sleep(LINK_SECONDS)

    async def _ask_all(self, fresh_seconds: float) -> None:
        """Ask those whose answer is older; those that are being asked are only waited for."""
        loop = asyncio.get_running_loop()
        asking = []
        for name, known in self._known.items():
            is_asking = known.asking is not None and not known.asking.done()
            if not is_asking and known.asked_at + fresh_seconds <= loop.time():
                known.asked_at = loop.time()
                known.asking = loop.create_task(self._ask(name, known))
            # one that gave no answer last time is not waited for: it is told when it does
            if known.asking is not None and known.failures == 0:
                asking.append(known.asking)
        if asking:
            await asyncio.wait(asking)
            for task in asking:
                task.result()
        self._tell()

    async def _ask(self, name: str, known: _Known) -> None:
        try:
            status, ahead_seconds = await self.nodes.status_and_clock(name)
            if (foreign := foreign_words(status, name, self.cluster.id)) is not None:
                raise NodeFailed(f"{name}: {foreign}")
        except NodeFailed as error:
            known.status = known.ahead_seconds = None
            known.error = log_text(str(error), 300)
            known.failures += 1
            is_late = name in self.connected() and known.failures < FAILURES_MAX
            self._note_reach(known, Reach.LATE if is_late and known.last else Reach.DOWN)
            return
        known.status = known.last = status
        known.ahead_seconds = ahead_seconds
        known.error = None
        known.failures = 0
        known.heard = time.time()
        self._note_reach(known, Reach.UP)
        loop = asyncio.get_running_loop()
        is_due = loop.time() >= known.evidence_at + EVIDENCE_AGAIN_SECONDS
        if status.evidence != known.evidence and is_due:
            # apart: it may be long, and nobody waits for it
            known.evidence_at = loop.time()
            known.fetching = loop.create_task(self._ask_for_evidence(name, known, status))

    def _note_reach(self, known: _Known, reach: Reach) -> None:
        if reach is known.reach:
            return
        if reach is Reach.UP:
            # what was so at the first look was so before, nobody knows for how long
            known.since = None if known.reach is Reach.UNKNOWN else time.time()
        else:
            known.since = known.heard
        known.reach = reach

    async def _ask_for_evidence(self, name: str, known: _Known, status: NodeStatus) -> None:
        """Fetch and check all the evidence of a node that says it has other than before.

        What came before a page that failed is shown too, and the node is asked again later.
        """
        proofs: dict[bytes, ProofView] = {}
        pages = self.nodes.evidence_pages(
            name,
            pages_max=EVIDENCE_PAGES_MAX,
            pairs_max=EVIDENCE_PAGE_PAIRS,
            bytes_max=evidence_bytes_max(self.cluster),
        )
        try:
            async for page in pages:
                for pair in page[:EVIDENCE_PAGE_PAIRS]:
                    proof = read_proof(pair, self.cluster)
                    if not isinstance(proof, Refusal):
                        proofs[pair_key(pair)] = proof
        except NodeFailed as error:
            _log.info("evidence of %s: %s", name, error)
            kept_max = EVIDENCE_PAGES_MAX * EVIDENCE_PAGE_PAIRS
            # the newest first: nobody makes us keep more by signing more
            known.proofs = dict(itertools.islice((proofs | known.proofs).items(), kept_max))
        else:
            known.evidence, known.proofs = dict(status.evidence), proofs
        self._tell()

    # --- what is made of it ---------------------------------------------------------------------

    def _statuses(self) -> dict[str, NodeStatus]:
        return {n: known.status for n, known in self._known.items() if known.status is not None}

    def _proofs(self) -> tuple[dict[str, list[tuple[bytes, ProofView]]], dict[bytes, list[str]]]:
        """Each proof once, by the replica that it convicts; and by its key, who holds it."""
        holders: dict[bytes, list[str]] = {}
        proofs: dict[str, list[tuple[bytes, ProofView]]] = {}
        for name, known in self._known.items():
            for key, proof in known.proofs.items():
                if key not in holders:
                    proofs.setdefault(proof.replica, []).append((key, proof))
                holders.setdefault(key, []).append(name)
        return proofs, holders

    def _tell(self) -> None:
        """Say that something changed, where it is something that people should see at once."""
        ledger = self.ledger.state
        now = (
            self.connected(),
            ledger.index,
            ledger.certified,
            ledger.problem,
            ledger.alarm,
            tuple(sorted(ledger.differing)),
            tuple(_notable(known) for known in self._known.values()),
        )
        if now != self._told:
            self._told = now
            self.on_change()


def _notable(known: _Known) -> tuple[object, ...]:
    status = known.status
    if status is None:
        return (known.reach, len(known.proofs))
    return (
        known.reach,
        status.status,
        status.view,
        status.has_entered_view,
        status.in_sync,
        status.stable_checkpoint,
        status.fault_injection,
        len(known.proofs),
        is_wrong(known.ahead_seconds or 0.0),
    )
