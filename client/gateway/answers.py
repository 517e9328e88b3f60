"""What the replicas' accepted answers change in outbox and archive, and what follows from it.

Everything here happens inside one transaction of the gateway's turn; what must wait for its
commit is given back as effects.
"""

import logging
import time

import msgspec

from ci.admission import is_temporary
from ci.flaky import CaseState
from ci.statement import VerdictFields, pae, parse_statement
from client.gateway.build_changes import BuildChanges
from client.gateway.case_reader import CaseReader
from client.gateway.reporting import Reports
from client.gateway.results_file import ResultsFile
from client.storage.archive import Archive, BuildRecord, ReplyRecord
from client.storage.audit import Actor
from client.storage.outbox import CHANGES, Kind, Outbox, OutboxRow, State
from client.views.build_view import WAITS_FOR_APPROVAL, accepted_verdict, iso_time
from common.configuration.keys import verify
from common.safe_text import log_text
from common.statuses.status_texts import ToldCases, told_cases
from pbft.client import Accepted, LateReply
from pbft.codec import decode_request, decode_signed, digest_of
from pbft.genesis import Cluster

# pbft.client reports late replies of the last 256 finished timestamps.
DECIDED_KEPT = 512
# What replicas answer where the timestamp is too old to remember (pbft.normal_case).
USED = "used"
# Asked of a replica when it comes back: the builds that people may be looking at.
UNANSWERED_MAX = 64

# Who refuses in the list of who changed what.
NETWORK = Actor("-", "the network")

_log = logging.getLogger(__name__)


class AppendResult(msgspec.Struct, frozen=True):
    """What the network answered to an append: the journal's digest (hex) and length, or why not."""

    digest: str | None
    length: int | None
    refused: str | None = None


class AppendAnswered(msgspec.Struct, frozen=True):
    """Tell whoever waits for that append."""

    identity: bytes
    result: AppendResult


class VerdictArchived(msgspec.Struct, frozen=True):
    """A build has its verdict: the results file, ballots and logs come next."""

    identity: bytes
    build: bytes


class RepliesAdded(msgspec.Struct, frozen=True):
    """More signatures on a verdict that is archived already."""

    build: bytes


class HoldBack(msgspec.Struct, frozen=True):
    """The network is full: give this request a new timestamp a little later."""

    identity: bytes


class AskAgain(msgspec.Struct, frozen=True):
    """The network opened the build of this timestamp, and says that it has forgotten it."""

    timestamp: int


Effect = AppendAnswered | VerdictArchived | RepliesAdded | HoldBack | AskAgain


class _Journal(msgspec.Struct, frozen=True):
    digest: str
    length: int


class Answers:
    """Takes in what pbft.client accepted, for one gateway."""

    def __init__(
        self,
        cluster: Cluster,
        outbox: Outbox,
        archive: Archive,
        *,
        results: ResultsFile,
        reports: Reports,
        changes: BuildChanges,
    ) -> None:
        self._cluster = cluster
        self._outbox = outbox
        self._archive = archive
        self._cases = CaseReader(archive, cluster.quorums)
        self._results = results
        self._reports = reports
        self._changes = changes
        # request timestamp -> build, of those that are decided and may get more replies
        self._decided: dict[int, bytes] = {}

    def take_in(self, answer: Accepted | LateReply) -> list[Effect]:
        """Keep what an answer says; call it inside a transaction. Raises StorageFailed."""
        build = self._decided.get(answer.timestamp)
        if isinstance(answer, LateReply):
            if build is not None and answer.kind == "decided":
                self._take_in_late(build, answer)
            return []
        row = self._outbox.with_timestamp(answer.timestamp)
        if row is not None:
            return self._take_in_first(row, answer)
        if build is not None and answer.kind == "decided":
            return self._take_in_again(build, answer)
        return []

    def expect_more(self, timestamp: int, build: bytes) -> None:
        """Replies to this timestamp will be about that build, which is decided."""
        self._decided[timestamp] = build
        if len(self._decided) > DECIDED_KEPT:
            del self._decided[next(iter(self._decided))]

    def unanswered_by(self, replica: str) -> list[bytes]:
        """The requests of the newest decided builds that this replica has not replied to."""
        requests = []
        for build in list(self._decided.values())[-UNANSWERED_MAX:]:
            if all(reply.replica != replica for reply in self._archive.replies(build)):
                record = self._archive.get(build)
                if record is not None and record.request is not None:
                    requests.append(record.request)
        return requests

    def is_envelope_complete(self, build: bytes) -> bool:
        """Are there signatures of f+1 replicas over the accepted statement?"""
        attested = [reply.attestation for reply in self._archive.replies(build)]
        return len(attested) - attested.count(None) >= self._cluster.quorums.weak

    def request_for_signatures(self, build: bytes) -> bytes | None:
        """The request of a decided build, to be asked again; None: its envelope is complete, or
        the archive has forgotten the build (ArchiveKeeper)."""
        record = self._archive.get(build)
        if record is None:
            return None
        assert record.request is not None, "what was decided was asked for"
        if self.is_envelope_complete(build):
            return None
        self.expect_more(decode_request(decode_signed(record.request)).timestamp, build)
        return record.request

    def request_for_verdict(self, timestamp: int) -> bytes | None:
        """The request of that timestamp, to be asked again; None: its verdict came meanwhile."""
        row = self._outbox.with_timestamp(timestamp)
        return None if row is None else row.signed

    def _take_in_first(self, row: OutboxRow, answer: Accepted) -> list[Effect]:
        assert row.signed is not None
        if answer.request_digest != digest_of(decode_signed(row.signed).payload):
            return self._take_in_used_number(row, answer)
        if answer.kind == "refused":
            return self._take_in_refusal(row, answer.result.decode("utf-8", "replace"))
        if row.kind is Kind.APPEND and answer.kind == "appended":
            self._outbox.finish(row.identity)
            return [AppendAnswered(row.identity, _append_result(answer.result))]
        if row.kind in CHANGES and answer.kind == "done":
            self._outbox.finish(row.identity)
            if row.kind is Kind.APPROVE:
                self._outbox.note_approved(row.build)
            self._archive.clear_detail(row.build)
        if row.kind is Kind.NOTE and answer.kind == "done":
            self._outbox.finish(row.identity)
        if row.kind is Kind.BUILD and answer.kind == "opened":
            self._outbox.open(row.identity)
            self._take_in_opening(row)
            self._changes.on_opened(row.build)
        if row.kind is Kind.BUILD and answer.kind == "decided":
            return self._take_in_verdict(row, answer)
        return []

    def _take_in_opening(self, row: OutboxRow) -> None:
        needs_approval = row.build_request.needs_approval
        self._archive.note_opened(row.build, time.time())
        if needs_approval:
            self._archive.note_detail(row.build, WAITS_FOR_APPROVAL)
        record = self._archive.get(row.build)
        if record is not None:
            self._reports.ordered(record, needs_approval=needs_approval)

    def _take_in_used_number(self, row: OutboxRow, answer: Accepted) -> list[Effect]:
        """This gateway's counter was lost once: the timestamp belongs to an older request.

        Where the replicas remember that request they name it, and the next timestamp is tried;
        where it is too old for that they say up to which timestamp all are used. At least one
        correct replica said so, and such a timestamp only rises: it cannot be too high.

        Where f+1 replicas have opened a build under this timestamp it is this build's: then those
        that answered have lost what became of it. It keeps its timestamp, since there is a verdict,
        also on a build that was withdrawn; it is asked for until f+1 others give it.
        """
        used = used_up_to(answer)
        if used is not None:
            self._outbox.continue_above(used)
        if row.state is State.OPENED:
            _log.warning(
                "build %s: replicas that opened it have forgotten it; asking again",
                row.build.hex()[:12],
            )
            self._archive.note_detail(row.build, "replicas have forgotten it; asking again")
            return [AskAgain(answer.timestamp)]
        _log.warning(
            "request number %d was used before; %s",
            answer.timestamp,
            "taking the next" if used is None else f"going on above {used}",
        )
        self._outbox.take_back(row.identity)
        if row.kind is Kind.BUILD:
            self._changes.end_if_withdrawn(row)
        return []

    def _take_in_refusal(self, row: OutboxRow, reason: str) -> list[Effect]:
        shown = log_text(reason)
        if row.kind is Kind.BUILD and is_temporary(reason):
            if self._changes.end_if_withdrawn(row):
                return []
            self._outbox.take_back(row.identity)
            self._archive.note_detail(row.build, f"the network is full ({shown}); asking again")
            return [HoldBack(row.identity)]
        _log.warning("request number %s was refused: %s", row.timestamp, shown)
        self._outbox.finish(row.identity)
        if row.kind is Kind.BUILD:
            self._archive.note_refused(row.build, shown)
            record = self._archive.get(row.build)
            if record is not None:
                self._reports.refused(record, shown)
            self._changes.on_over(row.build)
            return []
        if row.kind in CHANGES:
            # It was over before this was ordered, or the network does not allow it to us.
            self._archive.note_detail(row.build, f"the network refused to {row.kind} it: {shown}")
            return []
        if row.kind is Kind.NOTE:
            self._archive.audit.note(
                "note refused", NETWORK, at=time.time(), build=row.build, text=shown
            )
            return []
        return [AppendAnswered(row.identity, AppendResult(None, None, refused=shown))]

    def _take_in_verdict(self, row: OutboxRow, answer: Accepted) -> list[Effect]:
        """Accepted if the statement is about the build that was asked for, in this cluster."""
        verdict = accepted_verdict(answer.result, self._cluster, row.build)
        if verdict is None or answer.subject != row.build:
            # Only more faulty replicas than the cluster tolerates can agree on such an answer.
            _log.error("build %s: the verdict names another build", row.build.hex()[:12])
            self._archive.note_detail(row.build, "the replicas answered for another build")
            return []
        now = time.time()
        if verdict.commit != row.commit:
            self._take_in_commit(row, verdict, now)
        self._archive.note_decided(row.build, answer.result, now)
        self._keep_replies(row.build, answer)
        line = {
            "id": verdict.build,
            "repository": row.repository,
            "branch": row.branch,
            "commit": verdict.commit,
            "outcome": verdict.outcome,
            "exit_code": verdict.exit_code,
            "agreeing": verdict.agreeing,
            "ledger_index": verdict.ledger_index,
            "decided": iso_time(now),
        }
        self._changes.on_over(row.build)
        self._results.add(row.build, msgspec.json.encode(line))
        record = self._archive.get(row.build)
        if record is not None:
            self._reports.decided(record, verdict, self._told_cases(record))
        self._outbox.finish(row.identity)
        _log.info("build %s decided: %s", verdict.build[:12], verdict.outcome)
        self.expect_more(answer.timestamp, row.build)
        return [VerdictArchived(row.identity, row.build)]

    def _told_cases(self, record: BuildRecord) -> ToldCases | None:
        """What a status says of a decided build's test cases."""
        assert record.statement is not None, "it is decided"
        statement = parse_statement(record.statement)
        if statement.verdict.tests is None:
            return None
        new = self._cases.new_failures(record, statement.predicate.failed_tests)
        standings = self._archive.cases.standings_of(
            record.repository, statement.verdict.tests.unsettled
        )
        flaky = {c for c, standing in standings.items() if standing.state is CaseState.FLAKY}
        return told_cases(statement, new, flaky)

    def _take_in_commit(self, row: OutboxRow, verdict: VerdictFields, now: float) -> None:
        """The replicas built another commit than is known here, and it is the one that counts.

        This gateway was restored from a backup that it made before it had found the commit of this
        branch. It asked for the build then, and looked for the commit again after the restore.
        """
        _log.warning("build %s: the replicas built commit %s", verdict.build[:12], verdict.commit)
        built = msgspec.structs.replace(
            row.build_request, commit=verdict.commit, event=verdict.event, ref=verdict.ref
        )
        self._archive.note_resolved(row.build, built, now)

    def _take_in_again(self, build: bytes, answer: Accepted) -> list[Effect]:
        """The answer to a question that was asked for its signatures alone."""
        record = self._archive.get(build)
        if record is None or record.statement != answer.result:
            _log.error("build %s: the replicas answer with another verdict", build.hex()[:12])
            return []
        self._keep_replies(build, answer)
        return [RepliesAdded(build)]

    def _take_in_late(self, build: bytes, reply: LateReply) -> None:
        record = self._archive.get(build)
        if record is None or record.statement is None:
            return
        agrees = reply.agrees and reply.result == record.statement
        signature = None
        if agrees:
            signature = self._checked(reply.replica, reply.attestation, record.statement)
        self._archive.put_reply(build, ReplyRecord(reply.replica, agrees, signature))

    def _keep_replies(self, build: bytes, answer: Accepted) -> None:
        for replica, attestation, _ in answer.replies:
            signature = self._checked(replica, attestation, answer.result)
            self._archive.put_reply(build, ReplyRecord(replica, True, signature))

    def _checked(self, replica: str, signature: bytes, statement: bytes) -> bytes | None:
        """The signature, if it is that replica's over this statement."""
        public_key = self._cluster.public_key(replica)
        if public_key is None or not verify(public_key, pae(statement), signature):
            return None
        return signature


def used_up_to(answer: Accepted) -> int | None:
    """The timestamp up to which all are used, where the answer is that; else None."""
    text = answer.result.decode("ascii", "replace")
    if answer.kind != USED or not text.isascii() or not text.isdigit() or len(text) > 18:
        return None
    used = int(text)
    return used if used >= answer.timestamp else None


def _append_result(result: bytes) -> AppendResult:
    try:
        journal = msgspec.json.decode(result, type=_Journal)
    except ValueError:
        return AppendResult(None, None)
    return AppendResult(journal.digest, journal.length)
