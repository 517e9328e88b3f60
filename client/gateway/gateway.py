"""The gateway at work: from an accepted webhook to an archived verdict.

The rule: commit, then say. A 202 is answered when the row is on disk; a request is sent when its
timestamp and bytes are; the outbox forgets a request in the commit that archives its answer. All
that arrives within one turn of the loop shares one commit.
"""

import asyncio
import contextlib
import functools
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from ci.application import OPERATOR_ROLE
from ci.limits import Limits
from ci.statement import submitted_build_id
from client.gateway.answers import (
    Answers,
    AppendAnswered,
    AppendResult,
    AskAgain,
    Effect,
    HoldBack,
    RepliesAdded,
    VerdictArchived,
)
from client.gateway.build_changes import BuildChanges, CannotChange, rebuild_of
from client.gateway.commit_search import CommitSearch
from client.gateway.gateway_setup import (
    GatewayIdentity,
    GatewayServices,
    GatewaySettings,
    GatewayStorage,
)
from client.gateway.resolve import Resolution, Unreachable
from client.gateway.results_file import ResultsWriter
from client.gateway.timestamp_allocator import TimestampAllocator
from client.gateway.write_applier import WriteApplier
from client.gateway.write_queue import PendingWrite, QueueFull, WriteQueue
from client.gateway.writes import (
    AddAppend,
    AddBuild,
    AddNote,
    ApproveWrite,
    BuildAdded,
    BuildKnown,
    CancelWrite,
    ChangeRefused,
    Due,
    NoteDue,
)
from client.storage.audit import Actor
from client.storage.build_request import BuildRequest, ChangeDetails, Submitted
from client.storage.database import StorageFailed
from client.storage.outbox import Kind, Outbox, OutboxRow, State
from common.configuration.keys import verify
from common.repositories.repository_config import GatewayRepository
from common.safe_text import log_text
from pbft.authentication import without_relayed
from pbft.client import Accepted, Client, ClientOutput, LateReply
from pbft.codec import decode_signed
from pbft.messages import Envelope

STORAGE_AGAIN_SECONDS = 1.0
# While the disk takes nothing, that is logged so often.
STORAGE_TOLD_SECONDS = 60.0
# The loop's timers may fire a millisecond early; what is held back would then miss its turn.
TIMER_PRECISION_SECONDS = 0.01
# Nobody waits for more replies than were needed: those of some replicas share a commit.
LATE_REPLIES_SECONDS = 0.1
# Before asking again for signatures that the replies to an accepted verdict lacked.
ATTEST_AGAIN_SECONDS = 5.0
# Bitbucket gives a delivery up after ten.
FIND_SECONDS_MAX = 8.0
# As long as pbft.client waits at most before it asks again.
FORGOTTEN_AGAIN_SECONDS = 15.0

LAST_KINDS = {
    Kind.BUILD: frozenset({"decided", "refused"}),
    Kind.APPEND: frozenset({"appended", "refused"}),
    Kind.CANCEL: frozenset({"done", "refused"}),
    Kind.APPROVE: frozenset({"done", "refused"}),
    Kind.NOTE: frozenset({"done", "refused"}),
}

_log = logging.getLogger(__name__)


class Transport(Protocol):
    """What carries messages to the replicas (common.links.link.Links)."""

    def send(self, to: str, envelopes: Sequence[Envelope]) -> None:
        """Queue them for that replica, or drop them: the protocol sends again."""


class WaitingBuilds(NamedTuple):
    """Builds in one state of the outbox: how many there are, and the oldest of them.

    is_held: they wait for an operator's approval.
    """

    state: State
    is_held: bool
    total: int
    oldest: tuple[OutboxRow, ...]


class Gateway:
    """One gateway. Everything happens in the event loop's thread, but for git and the nodes."""

    def __init__(
        self,
        identity: GatewayIdentity,
        storage: GatewayStorage,
        services: GatewayServices,
        *,
        settings: GatewaySettings,
        draw: Callable[[int], bytes],
    ) -> None:
        """draw: gives that many random bytes (os.urandom)."""
        archive, results, reports = storage.archive, storage.results, services.reports
        self._name = identity.name
        self._cluster = cluster = identity.cluster
        self._database = storage.database
        self._archive = archive
        self._results = results
        self._reports = reports
        self._collector = services.collector
        self._draw = draw
        self._repositories = {entry.url: entry for entry in settings.repositories}
        self._outbox = Outbox(storage.database)
        self._changes = BuildChanges(self._outbox, archive, draw)
        self._allocator = TimestampAllocator(
            identity,
            self._outbox,
            archive,
            queue_max=settings.queue_max,
            open_max=lambda repository: self._configured(repository).open_builds_max,
        )
        self._answering = Answers(
            cluster,
            self._outbox,
            archive,
            results=results,
            reports=reports,
            changes=self._changes,
        )
        self._client = Client(cluster, identity.name, verify)
        self._transport: Transport | None = None
        self._write_queue = WriteQueue(settings.queue_max, self._configured, self._wake)
        self._applier = WriteApplier(
            identity,
            storage,
            outbox=self._outbox,
            changes=self._changes,
            reports=reports,
            configured=self._configured,
        )
        self._results_writer = ResultsWriter(results, self._write_queue.put, self._spawn)
        self._resolver = services.resolver
        self._commits = CommitSearch(services.resolver, self._outbox, self._write_queue.put)
        self._answers: deque[Accepted | LateReply] = deque()
        self._appends: dict[bytes, asyncio.Future[AppendResult]] = {}
        self._awake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        # When it was logged that the disk takes nothing; None: it takes all.
        self._storage_told_at: float | None = None
        self.task: asyncio.Task[None] | None = None

    # --- the surface ----------------------------------------------------------------------------

    def start(self, transport: Transport) -> None:
        """Go on with everything that is unfinished. Raises StorageFailed, OSError.

        From then on `task` runs; it ends before `close` only by a fault of our own.
        """
        self._transport = transport
        self._results.open()
        self._results_writer.forget_soon()
        self._write_queue.note_unfinished(self._outbox)
        for row in self._outbox.unresolved_builds():
            self._spawn(self._commits.find(row.identity, row.build, row.build_request))
        # In the order of their timestamps: the lowest one decides how far the others may run ahead.
        for row in self._outbox.asked():
            self._ask(row)
        for record in self._archive.to_collect():
            self._collector.follow(record.build)
            self._complete_envelope(record.build)
        self.task = asyncio.get_running_loop().create_task(self._work(), name="gateway")
        self._wake()

    async def close(self) -> None:
        """Send no more requests. What is unfinished stays in the outbox for the next start."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._tasks, *([self.task] if self.task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._write_queue.close()
        for future in self._appends.values():
            future.cancel()
        try:
            self._results.close()
        except (OSError, StorageFailed) as error:
            _log.warning("results file: %s; it is completed at the next start", error)

    def use_repositories(self, repositories: Sequence[GatewayRepository]) -> None:
        """Take the settings of these repositories for what comes; what is accepted stays."""
        self._repositories = {entry.url: entry for entry in repositories}

    def use_limits(self, limits: Limits) -> None:
        """Take the limits that hold from now on, for what the network is given at once."""
        self._allocator.use_limits(limits)

    @property
    def unfinished(self) -> int:
        """How many accepted requests have no answer yet."""
        return self._write_queue.unfinished

    async def submit(self, repository: str, branch: str, commit: str | None) -> bytes:
        """Accept a new build of a branch; see `order`."""
        return (await self.order(BuildRequest(repository, branch, commit))).build

    async def order(
        self,
        request: BuildRequest,
        skip_reason: str = "",
        again: bytes | None = None,
        *,
        due: Due | None = None,
        actor: Actor | None = None,
    ) -> Submitted:
        """Accept a build, once the row is on disk; or only keep that it is skipped, and why.

        due: the time of the schedule that asks for it; it is dealt with once the row is on disk.
        actor: who asks for it, where somebody does.
        again: the build that this one does again. Where that is configured, a build cancels the
        older ones of its ref; one that is done again never does.
        A delivery that is here already is the build that it was (but BuildChanges.pushed_again).
        Raises QueueFull and StorageFailed; then nothing was accepted.
        """
        write = AddBuild(self._draw(32), request, skip_reason, again, due, actor)
        try:
            result = await self._write_queue.accept(write)
        except QueueFull:
            known = self._applier.known_build(write)
            if known is None:
                raise
            return Submitted(known, is_new=False)
        assert isinstance(result, BuildAdded | BuildKnown)
        return Submitted(result.build, is_new=isinstance(result, BuildAdded))

    async def pass_over(self, due: Due) -> None:
        """Have a time of a schedule dealt with, without a build. Raises StorageFailed."""
        await self._write_queue.put(NoteDue(due))

    async def find_commit(self, request: BuildRequest) -> Resolution:
        """Where a build's ref points now, before the build is accepted. Raises nothing.

        It takes no longer than a forge waits for the answer to its delivery.
        """
        try:
            async with asyncio.timeout(FIND_SECONDS_MAX):
                return await self._resolver.resolve(request.repository, request.branch, request.ref)
        except TimeoutError:
            return Unreachable(f"no answer in {FIND_SECONDS_MAX:g} s")

    async def withdraw(self, request: BuildRequest, reason: str) -> None:
        """Withdraw what a delivery asked for, as `cancel` does. Raises CannotChange,
        StorageFailed."""
        assert request.delivery is not None, "only a delivery's build can be found again"
        operation = request.operation(bytes(32))
        await self.cancel(submitted_build_id(self._cluster.lineage, self._name, operation), reason)

    async def rebuild(
        self, build: bytes, *, is_cold: bool = False, actor: Actor | None = None
    ) -> bytes:
        """Accept a new build of the same commit; its id. is_cold: without caches.

        actor: who asks for it. Raises CannotChange, and as `order`.
        """
        record = self._archive.get(build)
        if record is None:
            raise CannotChange("there is no such build here")
        person = None if actor is None else actor.person
        request = rebuild_of(record, is_cold=is_cold, person=person)
        return (await self.order(request, again=build, actor=actor)).build

    async def cancel(self, build: bytes, reason: str, actor: Actor | None = None) -> None:
        """Withdraw our request for a build; if we are an operator, that ends it at once.

        actor: who asks for it; None: nobody does, the gateway decides. What the network was not
        asked for is over when this returns. Raises CannotChange, StorageFailed.
        """
        await self._change(CancelWrite(build, reason, actor))
        _log.info("build %s: %s", build.hex()[:12], log_text(reason))

    async def approve(self, build: bytes, actor: Actor | None = None) -> None:
        """Let a build begin that waits for approval. Raises CannotChange, StorageFailed.

        actor: who asks for it.
        """
        if OPERATOR_ROLE not in self._cluster.roles(self._name):
            raise CannotChange(f"{self._name} is no operator of this cluster")
        await self._change(ApproveWrite(build, actor))

    async def note(self, build: bytes, text: str, actor: Actor) -> None:
        """Have a note on a build ordered. Raises CannotChange, QueueFull, StorageFailed.

        text: as ci.operations.NoteText. actor: who writes it.
        """
        write = AddNote(self._draw(32), build, text, actor)
        result = await self._write_queue.accept(write)
        if isinstance(result, ChangeRefused):
            raise CannotChange(result.reason)

    def waiting_notes(self, build: bytes) -> list[ChangeDetails]:
        """The notes on a build that wait to be ordered. Raises StorageFailed."""
        return [row.details for row in self._outbox.notes(build)]

    def possible_changes(self, build: bytes) -> frozenset[Kind]:
        """Which of CANCEL and APPROVE this gateway could do to the build now."""
        possible = self._changes.possible(build)
        is_operator = OPERATOR_ROLE in self._cluster.roles(self._name)
        return possible if is_operator else possible - {Kind.APPROVE}

    def waiting(self, rows_max: int) -> list[WaitingBuilds]:
        """The builds without a verdict by what they wait for, so many of each, the oldest first."""
        tally = self._outbox.tally()
        found = []
        for state in State:
            for held in (False, True):
                total = tally.builds(state, waits_for_approval=held).total()
                if total:
                    rows = self._outbox.oldest_builds(state, rows_max, waits_for_approval=held)
                    found.append(WaitingBuilds(state, held, total, tuple(rows)))
        return found

    def waits_for_approval(self, build: bytes) -> bool:
        """Must an operator still let this build begin, here or with a key of their own?"""
        return Kind.APPROVE in self._changes.possible(build)

    async def _change(self, write: CancelWrite | ApproveWrite) -> None:
        result = await self._write_queue.put(write)
        if isinstance(result, ChangeRefused):
            raise CannotChange(result.reason)

    async def append(self, text: str) -> asyncio.Future[AppendResult]:
        """Accept a string for the journal; the future has the network's answer.

        Raises QueueFull and StorageFailed; then nothing was accepted.
        """
        identity = self._draw(32)
        future: asyncio.Future[AppendResult] = asyncio.get_running_loop().create_future()
        self._appends[identity] = future
        try:
            await self._write_queue.accept(AddAppend(identity, text))
        except (QueueFull, StorageFailed):
            self._appends.pop(identity, None)
            raise
        return future

    def receive(self, replica: str, envelopes: Sequence[Envelope]) -> None:
        """Take what a replica's link brought, of replies only that replica's own."""
        own = without_relayed(replica, envelopes)
        self._handle(self._client.receive(own, self._now()))

    def on_connected(self, replica: str) -> None:
        """A link to that replica was made: ask what it may have missed or answered in vain."""
        window = self._cluster.genesis.client_window
        try:
            asked = [(row.timestamp or 0, row.signed) for row in self._outbox.asked(window)]
            unanswered = self._answering.unanswered_by(replica)
        except StorageFailed as error:
            _log.error("%s; what %s may have missed is sent again later", error, replica)
            return
        self._send(
            replica,
            [signed for timestamp, signed in asked if signed and timestamp < asked[0][0] + window],
        )
        self._send(replica, unanswered)

    def _send(self, replica: str, requests: list[bytes]) -> None:
        assert self._transport is not None, "start comes first"
        if requests:
            envelopes = [Envelope(decode_signed(request)) for request in requests]
            self._transport.send(replica, envelopes)

    # --- one turn: one commit -------------------------------------------------------------------

    def _configured(self, repository: str) -> GatewayRepository:
        return self._repositories.get(repository) or GatewayRepository(repository)

    def _wake(self) -> None:
        self._awake.set()

    def _wake_later(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._wake)

    async def _work(self) -> None:
        while True:
            await self._awake.wait()
            self._awake.clear()
            self._turn()

    def _turn(self) -> None:
        """Commit what arrived, take in the answers, give timestamps to what may go; then ask."""
        writes = self._write_queue.take()
        answers = list(self._answers)
        effects: list[Effect] = []
        signed: list[OutboxRow] = []
        now = self._now()
        try:
            if writes or answers or self._allocator.is_anything_waiting():
                with self._database.transaction():
                    self._results.forget_written()
                    for pending in writes:
                        pending.result = self._applier.apply(pending.write)
                    for answer in answers:
                        effects.extend(self._answering.take_in(answer))
                    for effect in effects:
                        if isinstance(effect, HoldBack):
                            delay = self._allocator.hold_back(effect.identity, now)
                            self._wake_later(delay + TIMER_PRECISION_SECONDS)
                    signed = self._allocator.allocate_ready(now)
                    self._write_queue.note_unfinished(self._outbox)
                self._storage_told_at = None
        except StorageFailed as error:
            told_at = self._storage_told_at
            if told_at is None or now - told_at >= STORAGE_TOLD_SECONDS:
                self._storage_told_at = now
                _log.error("%s; trying again", error)
            for pending in writes:
                pending.fail(error)
            # What was not committed waits no longer; the counts of what does are in memory.
            with contextlib.suppress(StorageFailed):
                self._write_queue.note_unfinished(self._outbox)
            self._wake_later(STORAGE_AGAIN_SECONDS)
            return
        self._reports.wake()
        for _ in answers:
            self._answers.popleft()
        for row in signed:
            self._ask(row)
        for pending in writes:
            pending.note_committed()
            self._after_write(pending)
        for effect in effects:
            self._follow_up(effect)

    # --- requests -------------------------------------------------------------------------------

    def _ask(self, row: OutboxRow) -> None:
        assert row.signed is not None
        signed = decode_signed(row.signed)
        self._handle(self._client.ask(signed, LAST_KINDS[row.kind], self._now()))

    def _handle(self, output: ClientOutput) -> None:
        """Do what the core asks: send, take in what was accepted, arm the one timer."""
        assert self._transport is not None, "start comes first"
        by_replica: dict[str, list[Envelope]] = {}
        for message in output.messages:
            names = self._cluster.replica_names if message.to is None else (message.to,)
            for name in names:
                by_replica.setdefault(name, []).append(message.envelope)
        for name, envelopes in by_replica.items():
            self._transport.send(name, envelopes)
        for event in output.events:
            _log.info("%s: %s", event.name, log_text(str(event.details)))
        self._answers.extend(output.accepted)
        self._answers.extend(output.late)
        if output.accepted:
            self._wake()
        elif output.late:
            self._wake_later(LATE_REPLIES_SECONDS)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if output.deadline is not None and not self._is_closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(output.deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self._handle(self._client.handle_timer(self._now()))

    # --- after the commit -----------------------------------------------------------------------

    def _after_write(self, pending: PendingWrite) -> None:
        """Log a build that was added, and search for its commit if it names none."""
        write, added = pending.write, pending.result
        if not (isinstance(write, AddBuild) and isinstance(added, BuildAdded)):
            return
        what = f"skipped ({write.skip_reason})" if write.skip_reason else "accepted"
        _log.info("build %s %s: %s", added.build.hex()[:12], what, log_text(added.request.branch))
        if added.request.commit is None:
            self._spawn(self._commits.find(write.identity, added.build, added.request))

    def _follow_up(self, effect: Effect) -> None:
        match effect:
            case AppendAnswered():
                future = self._appends.pop(effect.identity, None)
                if future is not None and not future.done():
                    future.set_result(effect.result)
            case VerdictArchived():
                self._allocator.forget(effect.identity)
                self._results_writer.write()
                self._collector.follow(effect.build)
                self._complete_envelope(effect.build)
                self._wake()  # there may be room for another build now
            case RepliesAdded():
                self._complete_envelope(effect.build)
            case AskAgain():
                # pbft.client asks no more for a timestamp that was used
                find = functools.partial(self._answering.request_for_verdict, effect.timestamp)
                self._spawn(self._ask_again(FORGOTTEN_AGAIN_SECONDS, find))
            case HoldBack():
                pass  # its row is held back since the turn that took its refusal in

    def _complete_envelope(self, build: bytes) -> None:
        """Ask again where f+1 replicas agree, but fewer gave a signature that holds.

        Another replica's reply, or the same one's next, completes the envelope.
        """
        try:
            if self._answering.is_envelope_complete(build):
                return
        except StorageFailed as error:
            _log.error("%s; looking at its signatures later", error)
        find = functools.partial(self._answering.request_for_signatures, build)
        self._spawn(self._ask_again(ATTEST_AGAIN_SECONDS, find))

    async def _ask_again(self, seconds: float, find: Callable[[], bytes | None]) -> None:
        """After so long, ask for the build whose request `find` gives then; None: no more."""
        while True:
            await asyncio.sleep(seconds)
            try:
                request = find()
                break
            except StorageFailed as error:
                _log.error("%s; trying again", error)
        if request is not None:
            signed = decode_signed(request)
            self._handle(self._client.ask(signed, LAST_KINDS[Kind.BUILD], self._now()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task of the gateway failed", exc_info=error)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
