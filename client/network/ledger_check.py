"""The gateway's own check of the ledger, kept up with as it grows.

The rule: an entry counts as checked when the hash chain holds from the genesis on to a head that
f+1 replicas, asked one by one, give alike: one of them is correct. Where a checkpoint's
certificate covers it, 2f+1 replicas also signed for it. Nothing is read beyond what f+1 replicas
say there is, so a liar cannot keep anybody reading.

Of what was checked only heads are kept, one of each block of entries; so any stretch of the
ledger can be fetched again from any one node, and shown only if it leads from head to head.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated

import msgspec

from ci.ledger import AnyEntry, LimitsEntry, genesis_head, verify_chain
from ci.ledger_proof import LedgerProof, ProvedLedger, check_ledger_proof
from client.network.dissent import DissentHistory
from client.network.limits_history import LimitsHistory
from client.network.node_status import NodeStatus
from client.network.nodes import NodeFailed, Nodes, ServedLedgerProof, Unreadable
from client.network.signed_changes import SignedChanges, is_change
from common.configuration.keys import verify
from common.english import counted
from common.safe_text import log_text
from common.web.bounded_http import AnswerBounds
from pbft.codec import MalformedMessage, decode_signed
from pbft.genesis import Cluster
from pbft.ports import Entry, Refusal

# Heads are kept at this distance; a page shows about as many entries.
BLOCK_ENTRIES = 50
# What is read between two agreed heads: a long ledger is checked in steps that are kept.
STEP_ENTRIES = 5000
FETCHED_ENTRIES = 500
# A node cuts its pages at 8 MiB of entries, but for one that is longer; in base64, a third more.
PAGE_BYTES_MAX = 32 * 1024 * 1024
PAGE_SECONDS = 10.0
# A node that answers each time, and with one entry, is not waited for all the same.
STEP_SECONDS = 600.0
STRETCH_SECONDS = 10.0
# Far more than so many entries of a correct node have: until the last one, others look right too.
STRETCH_BYTES_MAX = 64 * 1024 * 1024
KEPT_STRETCHES = 32
KEPT_BYTES_MAX = 8 * 1024 * 1024


class LedgerAbsent(Exception):
    """What was asked for cannot be shown; one line why."""


class LedgerState(msgspec.Struct, frozen=True):
    """How far the ledger is checked."""

    index: Annotated[int, msgspec.Meta(description="of the last checked entry")]
    head: Annotated[str, msgspec.Meta(description="of the last checked entry, in hexadecimal")]
    agreed_by: Annotated[
        tuple[str, ...], msgspec.Meta(description="the replicas that gave this head")
    ]
    certified: Annotated[
        int | None,
        msgspec.Meta(description="the last entry that a checkpoint's certificate covers"),
    ]
    checkpoint: Annotated[
        int | None, msgspec.Meta(description="the sequence number of that checkpoint")
    ]
    signed_by: Annotated[tuple[str, ...], msgspec.Meta(description="the replicas that signed it")]
    there_are: Annotated[
        int | None,
        msgspec.Meta(description="entries that f+1 replicas report; null: fewer than f+1 answer"),
    ]
    served_by: Annotated[str | None, msgspec.Meta(description="the replica that gave the entries")]
    differing: Annotated[
        dict[str, int],
        msgspec.Meta(
            description="by replica, the entry at which it gave another head than f+1 others"
        ),
    ]
    problem: Annotated[str | None, msgspec.Meta(description="why the rest is not checked")]
    alarm: Annotated[str | None, msgspec.Meta(description="in words, if more than f replicas lie")]


class Stretch(msgspec.Struct, frozen=True):
    """Some checked entries without a hole, the head before them, and who served them."""

    entries: tuple[Entry, ...]
    head_before: bytes
    served_by: str


class _WrongLedger(Exception):
    """A node's entries do not lead to the head that was agreed on."""


def read_ledger_proof(served: ServedLedgerProof) -> LedgerProof:
    """A served proof, decoded and not checked. Raises MalformedMessage."""
    checkpoints = tuple(decode_signed(data) for data in served.checkpoints)
    return LedgerProof(served.sequence, checkpoints, served.leaves, served.ledger_part)


class LedgerCheck:
    """The checked ledger of one cluster, as one gateway knows it."""

    def __init__(self, cluster: Cluster, nodes: Nodes, limits: LimitsHistory) -> None:
        """limits: is fed with what was checked."""
        self._cluster = cluster
        self._limits = limits
        self._nodes = nodes
        self._index = 0
        self._heads = [genesis_head(cluster.lineage)]  # after entries 0, 50, 100 ...
        self._head = self._heads[0]
        self.history = DissentHistory()
        self.changes = SignedChanges()
        self._agreed_by: tuple[str, ...] = ()
        self._certified: ProvedLedger | None = None
        self._refused_proofs: dict[str, int] = {}
        self._there_are: int | None = None
        self._served_by: str | None = None
        self._differing: dict[str, int] = {}
        self._problem: str | None = None
        self._alarm: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._kept: OrderedDict[tuple[int, int], Stretch] = OrderedDict()
        self._kept_bytes = 0
        # one stretch is fetched at a time: many may ask for the same one at once
        self._turn = asyncio.Lock()

    @property
    def state(self) -> LedgerState:
        """What is known now."""
        certified = self._certified
        return LedgerState(
            index=self._index,
            head=self._head.hex(),
            agreed_by=self._agreed_by,
            certified=None if certified is None else certified.index,
            checkpoint=None if certified is None else certified.sequence,
            signed_by=() if certified is None else certified.replicas,
            there_are=self._there_are,
            served_by=self._served_by,
            differing=dict(self._differing),
            problem=self._problem,
            alarm=self._alarm,
        )

    def advance(self, statuses: Mapping[str, NodeStatus]) -> asyncio.Task[None]:
        """Check what has come since, by what the answering nodes say of themselves.

        Gives the task that does it: the one that is already at it, where there is one.
        """
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._advance(dict(statuses)))
        return self._task

    async def close(self) -> None:
        """Stop; the next start begins anew."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def stretch(self, first: int, last: int) -> Stretch:
        """The checked entries `first` to `last`. Raises LedgerAbsent."""
        assert 1 <= first <= last <= self._index, "only what is checked is shown"
        begin = (first - 1) // BLOCK_ENTRIES * BLOCK_ENTRIES
        async with self._turn:
            # not before it is our turn: the ledger may have grown
            end = min(-(-last // BLOCK_ENTRIES) * BLOCK_ENTRIES, self._index)
            found = self._kept.get((begin, end))
            if found is None:
                found = await self._fetch_stretch(begin, end)
                self._keep((begin, end), found)
            else:
                self._kept.move_to_end((begin, end))
        entries = found.entries[first - 1 - begin : last - begin]
        before = found.head_before if first == begin + 1 else found.entries[first - 2 - begin].head
        return Stretch(entries, before, found.served_by)

    # --- on to what f+1 replicas say ------------------------------------------------------------

    async def _advance(self, statuses: dict[str, NodeStatus]) -> None:
        self._problem = None
        claimed = sorted((s.ledger_index or 0 for s in statuses.values()), reverse=True)
        weak = self._cluster.quorums.weak
        self._there_are = claimed[weak - 1] if len(claimed) >= weak else None
        if self._there_are is None:
            self._problem = (
                f"too few replicas answer: {len(claimed)}; it takes {weak} that say the same"
            )
            return
        self._note_heads(statuses)
        while self._index < self._there_are and self._problem is None:
            step = min(self._there_are, self._index + STEP_ENTRIES)
            agreed = await self._agreed_head(step, statuses)
            if agreed is not None:
                head, agreeing, others = agreed
                await self._read_to(step, head, agreeing, others=others)
        await self._certify(statuses)

    def _note_heads(self, statuses: Mapping[str, NodeStatus]) -> None:
        """Who stands where we stand, and whether with our head."""
        here = {
            name: status.ledger_head == self._head.hex()
            for name, status in statuses.items()
            if status.ledger_index == self._index and status.ledger_head is not None
        }
        if self._index:
            self._count(here)

    def _count(self, here: Mapping[str, bool]) -> None:
        """here: whether a replica gave the agreed head for the last checked entry."""
        agreeing = {*self._agreed_by, *(name for name, is_equal in here.items() if is_equal)}
        for name, is_equal in here.items():
            if is_equal:
                self._differing.pop(name, None)
            else:
                self._differing[name] = self._index
                agreeing.discard(name)
        self._agreed_by = tuple(n for n in self._cluster.replica_names if n in agreeing)

    async def _agreed_head(
        self, index: int, statuses: Mapping[str, NodeStatus]
    ) -> tuple[bytes, tuple[str, ...], tuple[str, ...]] | None:
        """The head after that entry that f+1 replicas give, who does, and who gives another.

        None: no f+1 agree, and `_problem` says so.
        """
        asked = [n for n, s in statuses.items() if (s.ledger_index or 0) >= index]
        answers = await asyncio.gather(
            *(self._page(name, index, 1) for name in asked),
            return_exceptions=True,
        )
        said: dict[bytes, list[str]] = {}
        for name, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, NodeFailed):
                    raise answer
            elif answer and answer[0].index == index:
                said.setdefault(answer[0].head, []).append(name)
        head = max(said, key=lambda found: len(said[found]), default=None)
        if head is None or len(said[head]) < self._cluster.quorums.weak:
            heads = "; ".join(f"{', '.join(n)}: {h.hex()[:12]}" for h, n in said.items())
            self._problem = (
                f"for entry {index}, {self._cluster.quorums.weak} equal answers are needed"
                f" and not here ({heads or 'nobody has it at hand'})"
            )
            return None
        others = tuple(name for found, names in said.items() if found != head for name in names)
        return head, tuple(said[head]), others

    async def _read_to(
        self, index: int, head: bytes, agreeing: tuple[str, ...], *, others: tuple[str, ...]
    ) -> None:
        """Read up to that entry from one of those that agree; keep it if it leads to that head."""
        sources = sorted(agreeing, key=lambda name: name != self._served_by)
        for name in sources:
            try:
                async with asyncio.timeout(STEP_SECONDS):
                    heads, history, told = await self._read_from(name, index, head)
            except TimeoutError:
                self._problem = f"{name}: gave no {index} entries in {STEP_SECONDS:g} s"
                continue
            except (NodeFailed, _WrongLedger) as error:
                self._problem = log_text(str(error), 300)
                continue
            self._problem = None
            self._index, self._head, self.history = index, head, history
            self._limits.feed(entry for entry, body in told if isinstance(body, LimitsEntry))
            for entry, body in told:
                self.changes.feed(entry.index, body)
            self._heads.extend(heads)
            self._served_by = name
            self._agreed_by = ()
            self._count({**dict.fromkeys(agreeing, True), **dict.fromkeys(others, False)})
            return

    async def _read_from(
        self, name: str, last: int, head_wanted: bytes
    ) -> tuple[list[bytes], DissentHistory, list[tuple[Entry, AnyEntry]]]:
        """The heads of whole blocks up to that entry, the history with it, and what clients
        changed."""
        index, head = self._index, self._head
        heads: list[bytes] = []
        told: list[tuple[Entry, AnyEntry]] = []
        history = self.history.copy()
        while index < last:
            wanted = min(FETCHED_ENTRIES, last - index)
            entries = await self._page(name, index + 1, wanted)
            if not entries:
                raise NodeFailed(f"{name}: has no entry {index + 1}")
            broken = verify_chain(entries, head, index)
            if broken is not None:
                raise _WrongLedger(f"{name}: entry {broken.index}: {broken.reason}")
            for entry in entries:
                body = history.feed(entry)
                if body is not None and is_change(body):
                    told.append((entry, body))
                if entry.index % BLOCK_ENTRIES == 0:
                    heads.append(entry.head)
            index, head = entries[-1].index, entries[-1].head
            await asyncio.sleep(0)
        if head != head_wanted:
            raise _WrongLedger(f"{name}: its entries lead to another head for {last} than it said")
        return heads, history, told

    async def _page(self, name: str, first: int, entries_max: int) -> list[Entry]:
        page, _ = await self._nodes.ledger_page(
            name, first, entries_max, bounds=AnswerBounds(PAGE_BYTES_MAX, PAGE_SECONDS)
        )
        return page

    # --- certificates ---------------------------------------------------------------------------

    async def _certify(self, statuses: Mapping[str, NodeStatus]) -> None:
        """Take the newest stable checkpoint's certificate from whoever has it."""
        known = 0 if self._certified is None else self._certified.sequence
        newer = {
            name: status.stable_checkpoint
            for name, status in statuses.items()
            if (status.stable_checkpoint or 0) > known
            and self._refused_proofs.get(name) != status.stable_checkpoint
        }
        for name in sorted(newer, key=lambda name: -(newer[name] or 0)):
            try:
                served = await self._nodes.ledger_proof(name)
                proved = check_ledger_proof(read_ledger_proof(served), self._cluster, verify)
            except (Unreadable, MalformedMessage):
                proved = Refusal("it cannot be read")
            except NodeFailed:
                continue  # it gave none: the same one is asked for in the next round
            if isinstance(proved, Refusal):
                # asked again when it has another one
                self._refused_proofs[name] = newer[name] or 0
            elif proved.index <= self._index and proved.sequence > known:
                await self._compare(proved)
                return

    async def _compare(self, proved: ProvedLedger) -> None:
        try:
            head = await self._head_at(proved.index)
        except LedgerAbsent:
            return
        if head == proved.head:
            self._certified, self._alarm = proved, None
            return
        self._alarm = (
            f"{', '.join(proved.replicas)} signed another head for entry {proved.index} than"
            f" {counted(self._cluster.quorums.weak, 'replica')} answered with: somebody stands"
            " between this gateway and them, or more are faulty than this cluster tolerates"
        )

    async def _head_at(self, index: int) -> bytes:
        if index == self._index:
            return self._head
        if index % BLOCK_ENTRIES == 0:
            return self._heads[index // BLOCK_ENTRIES]
        return (await self.stretch(index, index)).entries[0].head

    # --- what is shown --------------------------------------------------------------------------

    async def _fetch_stretch(self, begin: int, end: int) -> Stretch:
        """The entries after `begin` up to `end`, both of which have heads here."""
        head = self._heads[begin // BLOCK_ENTRIES]
        is_whole = end % BLOCK_ENTRIES == 0
        head_wanted = self._heads[end // BLOCK_ENTRIES] if is_whole else self._head
        names = sorted(self._nodes.names, key=lambda name: name not in self._agreed_by)
        names.sort(key=lambda name: name != self._served_by)
        failures = []
        for name in names:
            try:
                async with asyncio.timeout(STRETCH_SECONDS):
                    entries = await self._entries(name, begin, end)
            except TimeoutError:
                failures.append(f"{name}: does not give them in {STRETCH_SECONDS:g} s")
                continue
            except NodeFailed as error:
                failures.append(log_text(str(error)))
                continue
            if verify_chain(entries, head, begin) is None and entries[-1].head == head_wanted:
                # who gives them is asked first the next time, so one that hangs is met once
                self._served_by = name
                return Stretch(tuple(entries), head, name)
            failures.append(f"{name}: gives others than those that were checked")
        raise LedgerAbsent(f"no replica gives entries {begin + 1} to {end}: {'; '.join(failures)}")

    async def _entries(self, name: str, begin: int, end: int) -> list[Entry]:
        """A node's entries after `begin` up to `end`, unchecked. Raises NodeFailed."""
        entries: list[Entry] = []
        length = 0
        while len(entries) < end - begin:
            first, wanted = begin + len(entries) + 1, end - begin - len(entries)
            page = await self._page(name, first, wanted)
            if not page:
                raise NodeFailed(f"{name}: has no entry {first}")
            length += sum(len(entry.body) for entry in page)
            if length > STRETCH_BYTES_MAX:
                raise NodeFailed(f"{name}: more than {STRETCH_BYTES_MAX} bytes of entries")
            entries.extend(page)
        return entries

    def _keep(self, place: tuple[int, int], stretch: Stretch) -> None:
        """Keep it for the next who looks, within bounds; the one looked at longest ago goes."""
        if place not in self._kept:
            self._kept[place] = stretch
            self._kept_bytes += _size(stretch)
        while len(self._kept) > KEPT_STRETCHES or self._kept_bytes > KEPT_BYTES_MAX:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= _size(dropped)


def _size(stretch: Stretch) -> int:
    return sum(len(entry.body) for entry in stretch.entries)
