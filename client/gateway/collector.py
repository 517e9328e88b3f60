"""Ballots and logs of a build, fetched from the nodes and checked before they are kept.

A ballot is kept if its replica's signature holds and f+1 nodes serve the same one: a node alone
could serve a ballot that was signed but never ordered. A log is kept if it has the SHA-256 that
its replica's ballot names. What is late (a replica that is down) is asked for again, for a while.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence

import msgspec

from ci.case_results import CaseOutcome
from ci.operations import Abstain, BuildResult, Outcome, ResultWithTests
from ci.statement import VerdictFields
from client.gateway.case_reader import CaseReader
from client.gateway.measuring import measure
from client.network.case_details import ServedCase, WrongDetails, checked_cases
from client.network.limits_history import LimitsHistory
from client.network.nodes import NodeFailed, Nodes, NotThere, ServedBuild
from client.storage.archive import Archive, BallotRecord, StateRecord
from client.storage.case_extract import CaseExtract
from client.storage.database import Database, StorageFailed
from client.storage.outbox import Outbox
from client.views.build_view import accepted_verdict, checked_ballot, read_ballot
from common.configuration.keys import verify
from pbft.authentication import Authenticator
from pbft.codec import MalformedMessage, decode_signed
from pbft.genesis import Cluster

AGAIN_SECONDS = 0.25
# A verdict comes before the last ballot, which the primary may keep for a moment.
LAST_BALLOT_SECONDS = 0.5
AGAIN_SECONDS_MAX = 30.0
# Beyond the time that a replica may still be building: for one that is being restarted.
LATE_SECONDS = 300.0
CANCELLED_SECONDS = 10.0
ROUNDS_AT_ONCE_MAX = 8
# Logs that come within this time are synchronised and noted together.
LOGS_TOGETHER_SECONDS = 0.5
# The same for what nodes say of a build.
ANSWERS_TOGETHER_SECONDS = 0.25
GLANCE_SECONDS = 2.0
GLANCES_KEPT = 1024
# A node's own words; they are shown on one line.
STATE_CHARACTERS_MAX = 300
# The kept log is at most log_bytes_max and one line that says what was left out.
LOG_BYTES_EXTRA = 4096
# Of a replica's test details: so many messages, of so many characters, together and each; and so
# many slow cases. One replica's are fetched at a time, for they may be megabytes.
MESSAGES_MAX = 256
MESSAGES_CHARACTERS_MAX = 128 * 1024
MESSAGE_CHARACTERS_MAX = 2000
SLOWEST_MAX = 100

_log = logging.getLogger(__name__)


class Collector:
    """Fetches what belongs to builds; one task for each build that lacks something."""

    def __init__(
        self,
        cluster: Cluster,
        limits: LimitsHistory,
        nodes: Nodes,
        *,
        database: Database,
        archive: Archive,
    ) -> None:
        self._cluster = cluster
        self._limits = limits
        self._nodes = nodes
        self._database = database
        self._archive = archive
        self._outbox = Outbox(database)
        self._cases = CaseReader(archive, cluster.quorums)
        self._details = asyncio.Semaphore(1)
        self._authenticator = Authenticator(cluster, verify)
        self._rounds = asyncio.Semaphore(ROUNDS_AT_ONCE_MAX)
        self._following: dict[bytes, asyncio.Task[None]] = {}
        self._glanced: dict[bytes, float] = {}
        self._glances: set[asyncio.Task[None]] = set()
        # Who has not answered yet about which build: it is not asked once more meanwhile.
        self._asked: set[tuple[bytes, str]] = set()
        # What each replica said last of a build, by build: of the builds that were looked at last.
        self._states: dict[bytes, dict[str, StateRecord]] = {}
        self._listeners: list[Callable[[bytes], None]] = []

    def listen(self, listener: Callable[[bytes], None]) -> None:
        """Tell this one of a build when a node says something new of it. It must not raise."""
        self._listeners.append(listener)

    def follow(self, build: bytes) -> None:
        """Collect everything of a decided build, in the background."""
        if build not in self._following:
            task = asyncio.get_running_loop().create_task(self._follow(build))
            self._following[build] = task
            task.add_done_callback(lambda done: self._on_done(build, done))

    async def glance(self, build: bytes, seconds: float | None = None) -> None:
        """Fetch the ballots that an open build has so far; at most every two seconds.

        Returns after so many seconds at most; what comes later is taken in all the same.
        """
        loop = asyncio.get_running_loop()
        if self._glanced.get(build, 0.0) + GLANCE_SECONDS > loop.time():
            return
        self._glanced[build] = loop.time()
        if len(self._glanced) > GLANCES_KEPT:
            del self._glanced[next(iter(self._glanced))]
        task = loop.create_task(self._look(build))
        self._glances.add(task)
        task.add_done_callback(lambda done: self._on_glanced(build, done))
        await asyncio.wait([task], timeout=seconds)

    def states(self, build: bytes) -> list[StateRecord]:
        """What each replica said last of a build; of one that was never asked, nothing."""
        said = {state.replica: state for state in self._archive.states(build)}
        said.update(self._states.get(build, {}))
        return [said.get(name, StateRecord(name, None, None, None)) for name in self._nodes.names]

    async def close(self) -> None:
        """Stop; the next start goes on."""
        tasks = [*self._following.values(), *self._glances]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, build: bytes) -> None:
        verdict = await self._verdict(build)
        loop = asyncio.get_running_loop()
        patience = self._limits.at(verdict.opened).build_seconds_max + LATE_SECONDS
        if verdict.outcome is Outcome.CANCELLED:
            patience = CANCELLED_SECONDS
        until = loop.time() + patience
        delay = AGAIN_SECONDS
        noted = 0
        are_states_kept = verdict.outcome is not Outcome.DISPUTED
        if verdict.without_ballot and are_states_kept:
            # Asked at once, all would be asked again for it.
            await asyncio.sleep(LAST_BALLOT_SECONDS)
        while True:
            try:
                await self._fetch_commits(build, verdict.opened, verdict.agreeing)
                if not are_states_kept:
                    # at once what is known, and again when all were asked
                    self._keep_states(build)
                async with self._rounds:
                    is_complete = await self._round(build, verdict)
                    noted = self._note_cases(build, noted)
                    is_complete &= await self._fetch_extracts(build, verdict.opened)
                if not are_states_kept:
                    self._keep_states(build)
                    are_states_kept = True
                if is_complete or loop.time() >= until:
                    with self._database.transaction():
                        self._note_collected(build)
                    return
            except (StorageFailed, OSError) as error:
                _log.error("build %s: %s; trying again", build.hex()[:12], error)
            await asyncio.sleep(delay)
            delay = min(2 * delay, AGAIN_SECONDS_MAX)

    async def _verdict(self, build: bytes) -> VerdictFields:
        """The verdict of a decided build, as soon as the disk gives it."""
        delay = AGAIN_SECONDS
        while True:
            try:
                record = self._archive.get(build)
                break
            except StorageFailed as error:
                _log.error("build %s: %s; trying again", build.hex()[:12], error)
            await asyncio.sleep(delay)
            delay = min(2 * delay, AGAIN_SECONDS_MAX)
        assert record is not None
        assert record.statement is not None
        verdict = accepted_verdict(record.statement, self._cluster, build)
        assert verdict is not None, "the archive holds accepted statements only"
        return verdict

    async def _round(self, build: bytes, verdict: VerdictFields) -> bool:
        """Fetch what is missing, once. Is it all there now?"""
        opened = verdict.opened
        if not self._has_all(verdict, self._archive.ballots(build)):
            await self._fetch_ballots(build, opened)
        ballots = self._archive.ballots(build)
        has_all_ballots = self._has_all(verdict, ballots)
        wanted = [ballot for ballot in ballots if _has_log(ballot) and not ballot.log_archived]
        missing = {ballot.replica for ballot in wanted}
        pending = {
            asyncio.ensure_future(self._fetch_log(build, opened, ballot)) for ballot in wanted
        }
        # what the others did, and what is known of test cases, is kept before its end (`_follow`)
        has_tests = any(isinstance(read_ballot(b.signed), ResultWithTests) for b in ballots)
        may_end = has_all_ballots and verdict.outcome is not Outcome.DISPUTED and not has_tests
        try:
            while pending:
                # All that are quick go to the disk together; a slow one does not hold them up.
                done, pending = await asyncio.wait(pending, timeout=LOGS_TOGETHER_SECONDS)
                logs = dict(found for task in done if (found := task.result()) is not None)
                missing -= logs.keys()
                await self._keep_logs(build, logs, is_complete=may_end and not missing)
        finally:
            for task in pending:
                task.cancel()
        return has_all_ballots and not missing

    def _note_cases(self, build: bytes, noted: int) -> int:
        """Keep what the ballots say of test cases if more than `noted` are here; how many are."""
        record, here = self._archive.get(build), len(self._archive.ballots(build))
        if record is not None and here > noted:
            with self._database.transaction():
                self._cases.note(record)
        return here

    async def _fetch_extracts(self, build: bytes, opened: int) -> bool:
        """Keep what pages show of replicas' test details. Is all of it here now?"""
        wanted = {
            ballot.replica: result.tests.report_sha256
            for ballot in self._archive.ballots(build)
            if not ballot.tests_archived
            and isinstance(result := read_ballot(ballot.signed), ResultWithTests)
        }
        found = {}
        for replica, digest in wanted.items():
            async with self._details:
                extract = await self._fetch_extract(build, opened, replica, digest=digest)
            if extract is not None:
                found[replica] = extract
        if found:
            await asyncio.to_thread(self._archive.write_extracts, build, found)
            with self._database.transaction():
                for replica in found:
                    self._archive.note_tests(build, replica)
        return found.keys() == wanted.keys()

    async def _fetch_extract(
        self, build: bytes, opened: int, replica: str, *, digest: str
    ) -> CaseExtract | None:
        """What is kept of a replica's test details, if it serves those that its ballot names."""
        try:
            data = await self._nodes.cases(replica, build, opened)
            return await asyncio.to_thread(_checked_extract, data, digest)
        except NotThere:
            return None
        except NodeFailed as error:
            _log.info("test cases of build %s: %s", build.hex()[:12], error)
        except WrongDetails as error:
            _log.warning("test cases of build %s: %s: %s", build.hex()[:12], replica, error)
        return None

    def _has_all(self, verdict: VerdictFields, ballots: Sequence[BallotRecord]) -> bool:
        """Whether every expected ballot is here: stand-bys build only if executors disagree."""
        if not verdict.executors:
            return len(ballots) == len(self._cluster.expected_names)
        cast = {ballot.replica: read_ballot(ballot.signed) for ballot in ballots}
        found = {ballot.compared for ballot in cast.values() if isinstance(ballot, BuildResult)}
        is_disputed = len(found) > 1 or any(isinstance(b, Abstain) for b in cast.values())
        asked = self._cluster.expected_names if is_disputed else verdict.executors
        return all(name in cast for name in asked)

    async def _keep_logs(self, build: bytes, logs: dict[str, bytes], *, is_complete: bool) -> None:
        """Archive these logs; is_complete: nothing more is waited for then, in the same commit."""
        if logs:
            await asyncio.to_thread(self._archive.write_logs, build, logs)
        if logs or is_complete:
            with self._database.transaction():
                for replica in logs:
                    self._archive.note_log(build, replica)
                if is_complete:
                    self._note_collected(build)

    def _note_collected(self, build: bytes) -> None:
        self._archive.note_collected(build)
        measure(self._archive, build)

    async def _look(self, build: bytes) -> None:
        """Fetch what there is of an open build."""
        served = await self._fetch_ballots(build, None)
        opened = self._agreed_opening([answer for _, answer in served])
        if opened is not None:
            # one that waits for a place has not fetched the commit
            begun = [name for name, answer in served if answer.state != "waiting"]
            await self._fetch_commits(build, opened, begun)

    async def _fetch_commits(self, build: bytes, opened: int, replicas: Sequence[str]) -> None:
        """Keep what the build's commit says, and those before it: one replica is enough, as
        commits prove themselves."""
        record = self._archive.get(build)
        if record is None or record.commit is None or self._archive.commits.get(record.commit):
            return
        for replica in replicas:
            try:
                found = await self._nodes.commits(replica, build, opened, commit=record.commit)
            except NotThere:
                continue
            except NodeFailed as error:
                _log.info("commits of build %s: %s", build.hex()[:12], error)
                continue
            with self._database.transaction():
                self._archive.commits.add(found, record.number)
            for listener in self._listeners:
                listener(build)
            return

    async def _fetch_ballots(
        self, build: bytes, opened: int | None
    ) -> list[tuple[str, ServedBuild]]:
        """Ask the nodes; each answer counts when it comes, however long another one takes.

        Gives back what they said, by replica.
        """
        names = [name for name in self._nodes.names if (build, name) not in self._asked]
        pending = {asyncio.ensure_future(self._ask(name, build)) for name in names}
        served: list[tuple[str, ServedBuild]] = []
        try:
            while pending:
                done, pending = await asyncio.wait(pending, timeout=ANSWERS_TOGETHER_SECONDS)
                for name, answer in [task.result() for task in done]:
                    if isinstance(answer, ServedBuild):
                        served.append((name, answer))
                    self._note_state(build, name, answer)
                if done:
                    self._keep_ballots(build, opened, [answer for _, answer in served])
        finally:
            for task in pending:
                task.cancel()
        return served

    async def _ask(self, name: str, build: bytes) -> tuple[str, ServedBuild | NodeFailed]:
        self._asked.add((build, name))
        try:
            return name, await self._nodes.build(name, build)
        except NodeFailed as error:
            return name, error
        finally:
            self._asked.discard((build, name))

    def _keep_ballots(
        self, build: bytes, opened: int | None, served: Sequence[ServedBuild]
    ) -> None:
        """Archive the ballots that enough of these answers have, and an operator's approval."""
        self._note_approval(build, served)
        if opened is None:
            opened = self._agreed_opening(served)
        if opened is None:
            return
        known = {ballot.replica for ballot in self._archive.ballots(build)}
        agreed = agreed_ballots(served, self._cluster.replica_names, self._cluster.quorums.weak)
        new = [
            (replica, signed)
            for replica, signed in agreed
            if replica not in known
            and checked_ballot(
                signed, replica, build, opened=opened, authenticator=self._authenticator
            )
            is not None
        ]
        if new:
            with self._database.transaction():
                for replica, signed in new:
                    self._archive.put_ballot(build, replica, signed)

    def _note_approval(self, build: bytes, served: Sequence[ServedBuild]) -> None:
        """An operator approves with a key of their own as well: the network alone knows then.

        Nobody's ballot counts before that, so one that is served says the same.
        """
        said = sum(answer.approved or bool(answer.ballots) for answer in served)
        if said >= self._cluster.quorums.weak and self._outbox.waits_for_approval(build):
            with self._database.transaction():
                self._outbox.note_approved(build)
                self._archive.clear_detail(build)

    def _note_state(self, build: bytes, replica: str, answer: ServedBuild | NodeFailed) -> None:
        states = self._states.setdefault(build, {})
        if len(self._states) > GLANCES_KEPT:
            del self._states[next(iter(self._states))]
        last = states.get(replica)
        if last is None:
            archived = {state.replica: state for state in self._archive.states(build)}
            last = archived.get(replica, StateRecord(replica, None, None, None))
        if isinstance(answer, ServedBuild):
            state = answer.state[:STATE_CHARACTERS_MAX]
            new = StateRecord(replica, state, time.time(), None)
        else:
            # One that has no such build has not executed the request yet, or has closed it again.
            problem = None if isinstance(answer, NotThere) else str(answer)
            new = msgspec.structs.replace(last, problem=problem)
        states[replica] = new
        if (new.state, new.problem) != (last.state, last.problem):
            for listener in self._listeners:
                listener(build)

    def _keep_states(self, build: bytes) -> None:
        """Archive what those were doing who had cast no ballot when the others gave up."""
        cast = {ballot.replica for ballot in self._archive.ballots(build)}
        with self._database.transaction():
            for state in self.states(build):
                if state.replica not in cast:
                    self._archive.put_state(build, state)

    def _agreed_opening(self, served: Sequence[ServedBuild]) -> int | None:
        counted = Counter(answer.opened for answer in served).most_common(1)
        if not counted or counted[0][1] < self._cluster.quorums.weak:
            return None
        return counted[0][0]

    async def _fetch_log(
        self, build: bytes, opened: int, ballot: BallotRecord
    ) -> tuple[str, bytes] | None:
        """A replica and its log, if it serves the one that its ballot names."""
        result = read_ballot(ballot.signed)
        assert isinstance(result, BuildResult)
        bytes_max = self._limits.at(opened).log_bytes_max + LOG_BYTES_EXTRA
        try:
            log = await self._nodes.log(ballot.replica, build, opened, bytes_max=bytes_max)
        except NotThere:
            return None
        except NodeFailed as error:
            _log.info("log of build %s: %s", build.hex()[:12], error)
            return None
        if hashlib.sha256(log).hexdigest() != result.evidence.log_sha256:
            _log.warning(
                "log of build %s: what %s serves is not what its ballot names",
                build.hex()[:12],
                ballot.replica,
            )
            return None
        # its own account of when that came, which nothing depends on
        with contextlib.suppress(NodeFailed, OSError):
            times = await self._nodes.log_times(ballot.replica, build, opened)
            await asyncio.to_thread(self._archive.write_times, build, ballot.replica, times)
        return ballot.replica, log

    def _on_glanced(self, build: bytes, task: asyncio.Task[None]) -> None:
        self._glances.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, StorageFailed):
            _log.error("%s", error)
        else:
            _log.error("looking at build %s failed", build.hex()[:12], exc_info=error)

    def _on_done(self, build: bytes, task: asyncio.Task[None]) -> None:
        self._following.pop(build, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("collecting build %s failed", build.hex()[:12], exc_info=error)


def agreed_ballots(
    served: Iterable[ServedBuild], replicas: Container[str], weak: int
) -> list[tuple[str, bytes]]:
    """(replica, encoded Signed Request) for each ballot that `weak` nodes serve equally.

    Ballots of others than these replicas are not looked at.
    The signed payload is compared: of one payload there may be more than one valid signature.
    """
    seen: dict[tuple[str, bytes], list[bytes]] = {}
    for answer in served:
        of_this_node: set[str] = set()
        for ballot in answer.ballots:
            if ballot.replica in of_this_node or ballot.replica not in replicas:
                continue
            of_this_node.add(ballot.replica)
            try:
                payload = decode_signed(ballot.signed).payload
            except MalformedMessage:
                continue
            seen.setdefault((ballot.replica, payload), []).append(ballot.signed)
    return [(replica, min(copies)) for (replica, _), copies in seen.items() if len(copies) >= weak]


def _checked_extract(data: bytes, digest: str) -> CaseExtract:
    """Raises WrongDetails."""
    found = checked_cases(data, digest)
    return msgspec.structs.replace(extract_of(found.cases), quarantine=found.quarantine)


def extract_of(cases: Iterable[ServedCase]) -> CaseExtract:
    """What is kept of these details: messages are cut, and left out beyond a bound."""
    messages: dict[str, str] = {}
    characters = 0
    timed: list[tuple[str, float]] = []
    for case in cases:
        if case.seconds is not None:
            timed.append((case.id, case.seconds))
        is_bad = case.outcome in (CaseOutcome.FAILED, CaseOutcome.WARNED)
        if is_bad and case.message and len(messages) < MESSAGES_MAX:
            message = case.message[:MESSAGE_CHARACTERS_MAX]
            characters += len(message)
            if characters <= MESSAGES_CHARACTERS_MAX:
                messages[case.id] = message
    timed.sort(key=lambda found: (-found[1], found[0]))
    return CaseExtract(messages, tuple(timed[:SLOWEST_MAX]))


def _has_log(ballot: BallotRecord) -> bool:
    return isinstance(read_ballot(ballot.signed), BuildResult)
