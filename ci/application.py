"""The replicated CI application: what each ordered operation does to builds, ledger and journal.

It runs nothing and waits for nothing. Each handler's docstring lists when the operation is
accepted; whatever is not accepted is answered `refused` with the reason and changes nothing.
Execution reads only the state that `parts` gives, never the ledger: of the ledger the state
holds the index and the head. Reasons are fixed texts, for replies are compared between replicas.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import msgspec

from ci.admission import GATEWAY_ROLE, approval_refusal, joining_refusal, opening_refusal
from ci.assignments import Key
from ci.builds import OpenBuild, Requester, encode_build
from ci.executors import drawn_executors, first_executors, is_anybody_expected
from ci.ledger import (
    AnyEntry,
    AppendEntry,
    ApproveEntry,
    CancelEntry,
    LateBallotEntry,
    LimitsEntry,
    MembersEntry,
    NoteEntry,
    RecordedApproval,
    RecordedAsker,
    RecordedMember,
    SupersededEntry,
    VerdictEntry,
    encode_entry,
    genesis_head,
    next_head,
    recorded_ballot,
    recorded_ballots,
)
from ci.limit_changes import LimitChanges, Proposal, decode_limits_part
from ci.limits import Limits, read_limits, shown_limits
from ci.member_changes import MemberChanges, MembersProposal, decode_members_part
from ci.notes import NoteCounts, decode_notes_part
from ci.operations import (
    AddNote,
    Append,
    ApproveBuild,
    ApproveLimits,
    ApproveMembers,
    Ballot,
    BuildId,
    BuildResult,
    CancelBuild,
    CastBallot,
    MalformedOperation,
    Noop,
    Operation,
    Outcome,
    ProposeLimits,
    ProposeMembers,
    ReportDeadline,
    ResultKey,
    SubmitBuild,
    WithdrawLimits,
    WithdrawMembers,
    decode_operation,
)
from ci.references import reference_refusal
from ci.seats import seats_of
from ci.state_partitions import (
    BUILD_PART_PREFIX,
    CLOSED_PART,
    DELIVERIES_PART,
    JOURNAL_PART,
    LEDGER_PART,
    ChainPart,
    CorruptState,
    decode_build_part,
    decode_part,
)
from ci.statement import pae, statement_bytes, submitted_build_id
from ci.verdict import CANCELLED, Thresholds, Verdict, decide, is_contradicted
from pbft.genesis import REPLICA_ROLE, Cluster, Member
from pbft.messages import Request
from pbft.ports import Applied, DeferredReply, Entry, Refusal, Verify

OPERATOR_ROLE = "operator"

# Who may ask for what; a noop is anybody's.
ROLES: Mapping[type, frozenset[str]] = {
    SubmitBuild: frozenset({GATEWAY_ROLE}),
    CastBallot: frozenset({REPLICA_ROLE}),
    ReportDeadline: frozenset({REPLICA_ROLE}),
    CancelBuild: frozenset({GATEWAY_ROLE, OPERATOR_ROLE}),
    ApproveBuild: frozenset({OPERATOR_ROLE}),
    AddNote: frozenset({GATEWAY_ROLE, OPERATOR_ROLE}),
    ProposeLimits: frozenset({OPERATOR_ROLE}),
    ApproveLimits: frozenset({OPERATOR_ROLE}),
    WithdrawLimits: frozenset({OPERATOR_ROLE}),
    ProposeMembers: frozenset({OPERATOR_ROLE}),
    ApproveMembers: frozenset({OPERATOR_ROLE}),
    WithdrawMembers: frozenset({OPERATOR_ROLE}),
    Append: frozenset({GATEWAY_ROLE}),
}

# Closed builds that are remembered, so that their ids do not build again. 34 bytes of state each.
CLOSED_BUILDS_MAX = 1024
# The same of builds that a forge's delivery asked for, apart: plain POSTs cannot push them out,
# and a delivery is redelivered by hand for days.
DELIVERIES_MAX = 1024


class BuildApplication:
    """pbft.ports.Application for builds.

    limits: those of the genesis.
    find_statement: build id -> the newest verdict statement of that build in the ledger, or
        None. missing_entries: how many entries the ledger lacks here for now. Both are used by
        `find_deferred` alone.
    verify: with it, replicas of the next epoch prove that they are ready. By default none does.
    """

    def __init__(
        self,
        cluster: Cluster,
        limits: Limits,
        find_statement: Callable[[bytes], bytes | None],
        *,
        missing_entries: Callable[[], int] = lambda: 0,
        verify: Verify = lambda key, message, signature: False,
    ) -> None:
        self._cluster = cluster
        self._genesis_limits = limits
        self.limit_changes = LimitChanges(cluster)
        self.member_changes = MemberChanges(cluster, verify)
        self._find_statement = find_statement
        self._missing_entries = missing_entries
        self._builds: dict[bytes, OpenBuild] = {}
        self._closed: dict[bytes, None] = {}  # an ordered set, the oldest first
        self._deliveries: dict[bytes, None] = {}  # likewise
        self._notes = NoteCounts()
        self.journal_length = 0
        self.journal_digest = hashlib.sha256(
            b"pbft-ci journal genesis\0" + cluster.lineage
        ).digest()
        self.ledger_index = 0
        self.ledger_head = genesis_head(cluster.lineage)

    @property
    def limits(self) -> Limits:
        """The limits that hold now; a build that is open has those it was opened under."""
        return self._read_limits(self.limit_changes.encoded)

    def limits_of(self, build: OpenBuild) -> Limits:
        """The limits that this build was opened under."""
        return self._read_limits(build.limits)

    def thresholds_of(self, build: OpenBuild) -> Thresholds:
        """How many equal ballots a value of this build takes."""
        quorums = self._cluster.quorums
        is_weak_allowed = self.limits_of(build).weak_agreement_allowed
        vacant = quorums.replicas - len(self._cluster.expected_names)
        return Thresholds(quorums, is_weak_allowed, vacant)

    def is_contradicted(self, key: Key, own: ResultKey, *, replica: str) -> bool:
        """Whether f + 1 replicas beside this one cast equal ballots on that build that differ from
        `own`. False if it is not open any more."""
        build, opened = key
        found = self._builds.get(build)
        if found is None or found.opened != opened:
            return False
        quorums = self._cluster.quorums
        return is_contradicted(found.ballots.items(), own, replica, quorums=quorums)

    def open_builds(self) -> Mapping[bytes, OpenBuild]:
        """Undecided and closing builds by id, the first opened first. For the shell to read."""
        return dict(sorted(self._builds.items(), key=lambda item: (item[1].opened, item[0])))

    def is_open(self, build: bytes, opened: int) -> bool:
        """Is that very build (id and opening) undecided or closing, so that it takes ballots?"""
        found = self._builds.get(build)
        return found is not None and found.opened == opened

    def apply(self, request: Request, request_digest: bytes, sequence: int) -> Applied:
        """Apply one ordered operation; never raises. The caller has verified the signature.

        Kinds: `opened` (result: build id), `appended` (result: JSON of the journal's digest and
        length), `done`, `refused` (result: the reason).
        """
        try:
            operation = decode_operation(request.operation)
        except MalformedOperation:
            return _refused("malformed operation")
        roles = self._cluster.roles(request.client)
        needed = ROLES.get(type(operation))
        if needed is not None and needed.isdisjoint(roles):
            return _refused(f"this takes the role {' or '.join(sorted(needed))}")
        return self._dispatch(operation, request, request_digest, sequence=sequence)

    def find_deferred(
        self, request: Request, request_digest: bytes
    ) -> DeferredReply | Refusal | None:
        """What is to be said of a request that asked for a build: its verdict, or that it is open.

        The second matters where the client table has forgotten the first answer.
        """
        try:
            operation = decode_operation(request.operation)
        except MalformedOperation:
            return None
        if not isinstance(operation, SubmitBuild):
            return None
        build_id = submitted_build_id(self._cluster.lineage, request.client, operation)
        build = self._builds.get(build_id)
        statement = self._find_statement(build_id) if build is None else build.statement
        asker = Requester(request.client, request.timestamp, request_digest)
        if build is None and self._missing_entries():
            # Also where one is found: the build may have been opened and decided again since.
            return Refusal("the verdict may be among the entries that the ledger lacks here")
        if statement:
            return _deferred_reply(asker, build_id, statement)
        if build is None:
            return None
        return DeferredReply(
            asker.client, asker.timestamp, asker.request_digest, "opened", build_id, build_id
        )

    def may_delay(self, requests: Sequence[Request]) -> bool:
        """Whether all of these are ballots, and no build has its verdict with them.

        Nobody waits for a ballot that settles nothing yet, nor for one after the verdict. Somebody
        may wait for what cannot be read, or is about a build that is not open here.
        """
        cast: dict[bytes, list[tuple[str, Ballot]]] = {}
        for request in requests:
            try:
                operation = decode_operation(request.operation)
            except MalformedOperation:
                return False
            if not isinstance(operation, CastBallot):
                return False
            build = self._open_build(operation.build, operation.opened)
            if build is None:
                return False
            if not build.is_decided:
                earlier = cast.setdefault(build.id, list(build.ballots.items()))
                earlier.append((request.client, operation.ballot))
                if decide(earlier, len(build.reports), self.thresholds_of(build)) is not None:
                    return False
        return True

    def parts(self) -> dict[str, bytes]:
        """The whole state: one part per open build, and those that `ci.state_partitions` names."""
        encode = msgspec.msgpack.encode
        parts = {BUILD_PART_PREFIX + id.hex(): encode_build(b) for id, b in self._builds.items()}
        parts[CLOSED_PART] = encode(tuple(self._closed))
        parts[DELIVERIES_PART] = encode(tuple(self._deliveries))
        parts[JOURNAL_PART] = encode(ChainPart(self.journal_length, self.journal_digest))
        parts[LEDGER_PART] = encode(ChainPart(self.ledger_index, self.ledger_head))
        parts.update(self.limit_changes.parts())
        parts.update(self.member_changes.parts())
        parts.update(self._notes.parts())
        return dict(sorted(parts.items()))

    def restore(self, parts: Mapping[str, bytes]) -> None:
        """Replace the state by these parts; others (the core's) may be among them.

        Raises CorruptState, and then nothing is replaced.
        """
        closed = decode_part(parts, CLOSED_PART, tuple[BuildId, ...])
        deliveries = decode_part(parts, DELIVERIES_PART, tuple[BuildId, ...])
        journal = decode_part(parts, JOURNAL_PART, ChainPart)
        ledger = decode_part(parts, LEDGER_PART, ChainPart)
        limits = decode_limits_part(parts)
        members = decode_members_part(parts)
        builds = dict(
            decode_build_part(name, data)
            for name, data in parts.items()
            if name.startswith(BUILD_PART_PREFIX)
        )
        if len({*closed, *deliveries, *builds}) != len(closed) + len(deliveries) + len(builds):
            raise CorruptState(f"{CLOSED_PART}: a build that is there twice, or open")
        notes = decode_notes_part(parts, {*closed, *deliveries, *builds})
        self._builds = builds
        self._closed = dict.fromkeys(closed)
        self._deliveries = dict.fromkeys(deliveries)
        self.journal_length, self.journal_digest = journal.length, journal.digest
        self.ledger_index, self.ledger_head = ledger.length, ledger.digest
        self.limit_changes.restore_part(limits)
        self.member_changes.restore_part(members)
        self._notes.restore(notes)

    # --- operations -----------------------------------------------------------------------------

    def _dispatch(
        self, operation: Operation, request: Request, request_digest: bytes, *, sequence: int
    ) -> Applied:
        match operation:
            case SubmitBuild():
                asker = Requester(request.client, request.timestamp, request_digest)
                return self._on_submit_build(operation, asker, sequence)
            case CastBallot():
                return self._on_cast_ballot(operation, request.client)
            case ReportDeadline():
                return self._on_report_deadline(operation, request.client)
            case CancelBuild():
                return self._on_cancel_build(operation, request.client, sequence)
            case ApproveBuild():
                return self._on_approve_build(operation, request.client)
            case AddNote():
                return self._on_add_note(operation, request.client)
            case ProposeLimits():
                found = self.limit_changes.propose(operation, request.client, sequence)
                return self._on_approval_of_limits(found, sequence)
            case ApproveLimits():
                found = self.limit_changes.approve(operation.proposal, request.client, sequence)
                return self._on_approval_of_limits(found, sequence)
            case WithdrawLimits():
                limit_changes = self.limit_changes
                reason = limit_changes.withdraw(operation.proposal, request.client, sequence)
                return _refused(reason) if reason else Applied("done", operation.proposal)
            case ProposeMembers():
                limits = self.limits
                proposed = self.member_changes.propose(
                    operation, request.client, sequence, limits=limits
                )
                return self._on_approval_of_members(proposed, sequence)
            case ApproveMembers():
                approved = self.member_changes.approve(operation.proposal, request.client, sequence)
                return self._on_approval_of_members(approved, sequence)
            case WithdrawMembers():
                changes = self.member_changes
                reason = changes.withdraw(operation.proposal, request.client, sequence)
                return _refused(reason) if reason else Applied("done", operation.proposal)
            case Append():
                return self._on_append(operation, request.client)
            case Noop():
                return Applied("done")

    def _on_submit_build(self, operation: SubmitBuild, asker: Requester, sequence: int) -> Applied:
        """Opens a build, or adds an asker to the build of this id.

        Accepted if event, ref, branch and schedule are one claim (`ci.references`), and then if the
        build is closed and remembered (`find_deferred` has its verdict); or is open, asks for the
        same, and has room for this asker: see `ci.admission`; or is new and there is room for it:
        see there.
        """
        if reason := reference_refusal(
            operation.event, operation.branch, operation.ref, schedule=operation.schedule
        ):
            return _refused(reason)
        build_id = submitted_build_id(self._cluster.lineage, asker.client, operation)
        opened = Applied("opened", build_id, build_id)
        if build_id in self._closed or build_id in self._deliveries:
            return opened
        build = self._builds.get(build_id)
        if build is None:
            is_waiting = operation.needs_approval
            reason = opening_refusal(
                self._builds,
                self._cluster,
                self.limits,
                client=asker.client,
                needs_approval=is_waiting,
            )
            if reason:
                return _refused(reason)
            encoded = self.limit_changes.encoded_at(sequence)
            limits = self._read_limits(encoded)
            self._builds[build_id] = OpenBuild(
                id=build_id,
                opened=sequence,
                request_digest=asker.request_digest,
                repository=operation.repository,
                branch=operation.branch,
                commit=operation.commit,
                askers=(asker,),
                event=operation.event,
                ref=operation.ref,
                delivery=operation.delivery,
                is_approved=not operation.needs_approval,
                public_url=operation.public_url,
                executors=drawn_executors(
                    self._cluster, limits, self.ledger_head, build_id=build_id
                ),
                limits=encoded,
                schedule=operation.schedule,
                is_cold=operation.is_cold,
                person=operation.person,
            )
            return opened
        if _asked(operation) != _asked(build):
            return _refused("this identity already asks for another build")
        if reason := joining_refusal(build, self._builds, self.limits, client=asker.client):
            return _refused(reason)
        self._builds[build_id] = build.with_asker(asker)
        if not build.is_decided:
            return opened
        reply = _deferred_reply(asker, build_id, build.statement)
        return msgspec.structs.replace(opened, deferred=(reply,))

    def _on_cast_ballot(self, operation: CastBallot, replica: str) -> Applied:
        """Counts a ballot as the asking replica's, whoever else it may mention.

        Accepted if that very build (id and opening) is open and approved, the replica has not
        cast a ballot on it, and the ballot can be one on it. After the verdict it is only
        recorded.
        """
        build = self._open_build(operation.build, operation.opened)
        if build is None:
            return _refused("no such open build")
        if replica in build.ballots:
            return _refused("this replica has cast its ballot")
        reason = build.ballot_refusal(operation.ballot, self.limits_of(build))
        if reason:
            return _refused(reason)
        build = build.with_ballot(replica, operation.ballot)
        self._builds[build.id] = build
        if build.verdict is None:
            return self._decide(build)
        late = LateBallotEntry(
            build=build.id.hex(),
            opened=build.opened,
            ballot=recorded_ballot(replica, operation.ballot, is_late=True),
            agrees=_agrees(operation.ballot, build.verdict),
        )
        entry = self._write(late)
        self._close_finished(build)
        return Applied("done", build.id, entries=(entry,))

    def _on_report_deadline(self, operation: ReportDeadline, replica: str) -> Applied:
        """Counts a replica's word that the deadline passed: overdue, or after the verdict over.

        Accepted if that very build is open and approved, and the replica has not said so (since
        the verdict).
        """
        build = self._open_build(operation.build, operation.opened)
        if build is None:
            return _refused("no such open build")
        if replica in build.reports:
            return _refused("this replica has reported the deadline")
        build = build.with_report(replica)
        self._builds[build.id] = build
        if build.verdict is None:
            return self._decide(build)
        self._close_finished(build)
        return Applied("done", build.id)

    def _on_cancel_build(self, operation: CancelBuild, client: str, sequence: int) -> Applied:
        """Ends an undecided build: an operator's at once, a gateway's when no asker is left.

        Accepted if the build is undecided and the client is an operator or one of its askers.
        A build that waits for approval ends likewise. A delivery's build that its askers gave up
        is not remembered: else one gateway could ask and withdraw, and no other could ask for it.
        So it is not given up in the very batch that opened it: asked for again there, it would be
        another build under the same id and opening.
        """
        build = self._builds.get(operation.build)
        if build is None or build.is_decided:
            return _refused("no such undecided build")
        is_operator = OPERATOR_ROLE in self._cluster.roles(client)
        remaining = build.without_asker(client)
        if not is_operator and remaining.askers == build.askers:
            return _refused("this client did not ask for this build")
        is_given_up = not remaining.askers and not is_operator
        if is_given_up and build.delivery is not None and build.opened == sequence:
            return _refused("this build was opened in the same batch: cancel it again")
        cancel = self._write(CancelEntry(build.id.hex(), build.opened, client, operation.person))
        if remaining.askers and not is_operator:
            self._builds[build.id] = remaining
            return Applied("done", build.id, entries=(cancel,))
        settled = self._settle(build, CANCELLED)
        if not is_operator:
            self._deliveries.pop(build.id, None)
            if build.id not in self._closed:
                self._notes.forget(build.id)
        return msgspec.structs.replace(settled, entries=(cancel, *settled.entries))

    def _on_approve_build(self, operation: ApproveBuild, client: str) -> Applied:
        """Lets a build begin. accepted if it waits and there is room (`ci.admission`)."""
        build = self._builds.get(operation.build)
        if build is None or build.is_decided or build.is_approved:
            return _refused("no such build that waits for approval")
        if reason := approval_refusal(self._builds, self.limits):
            return _refused(reason)
        self._builds[build.id] = build.with_approval()
        entry = self._write(ApproveEntry(build.id.hex(), build.opened, client, operation.person))
        return Applied("done", build.id, entries=(entry,))

    def _on_add_note(self, operation: AddNote, client: str) -> Applied:
        """Writes what a client says about a build into the ledger, and changes nothing else.

        Accepted if the state remembers the build (it is open, or among the last that were closed)
        and the client has a place for one more note on it (`ci.notes`).
        """
        build = operation.build
        if not (build in self._builds or build in self._closed or build in self._deliveries):
            return _refused("no build that is remembered: notes are for the newest builds")
        if reason := self._notes.refusal(build, client):
            return _refused(reason)
        self._notes.add(build, client)
        entry = self._write(NoteEntry(build.hex(), client, operation.text, operation.person))
        return Applied("done", build, entries=(entry,))

    def _on_approval_of_limits(self, found: Proposal | str, sequence: int) -> Applied:
        """Changes the limits if this approval, perhaps the proposer's own, was the last needed.

        found: the proposal with that approval, or why there is none (`ci.limit_changes`). Result:
        JSON of the approved seats, of how many are needed, and of whether the limits changed.
        """
        if isinstance(found, str):
            return _refused(found)
        changes, digest = self.limit_changes, found.digest(self._cluster.id)
        has_changed = changes.is_approved(found)
        result = self._progress(changes.approved_seats(found), has_changed)
        if not has_changed:
            return Applied("done", digest, result)
        changes.make(found, sequence)
        entry = self._write(
            LimitsEntry(
                serial=found.serial,
                since=sequence,
                limits=shown_limits(read_limits(found.limits)),
                until=found.until,
                digest=digest.hex(),
                approvals=self._recorded_approvals(found.approvals),
            )
        )
        return Applied("done", digest, result, entries=(entry,))

    def _on_approval_of_members(self, found: MembersProposal | str, sequence: int) -> Applied:
        """Decides the next epoch if this approval, perhaps the proposer's own, was the last needed.

        found: the proposal with that approval, or why there is none (`ci.member_changes`). The
        result is as for limits.
        """
        if isinstance(found, str):
            return _refused(found)
        changes, digest = self.member_changes, found.digest(self._cluster.id)
        has_changed = changes.is_approved(found)
        result = self._progress(changes.approved_seats(found), has_changed)
        if not has_changed:
            return Applied("done", digest, result)
        following = changes.make(found)
        entry = self._write(
            MembersEntry(
                epoch=self._cluster.epoch + 1,
                since=sequence,
                configuration=following.configuration.hex(),
                replicas=_recorded_members(following.genesis.replicas),
                clients=_recorded_members(following.genesis.clients),
                until=found.until,
                digest=digest.hex(),
                approvals=self._recorded_approvals(found.approvals),
            )
        )
        return Applied("done", digest, result, entries=(entry,), successor=following.configuration)

    def _progress(self, approved: Sequence[str], has_changed: bool) -> bytes:
        return msgspec.json.encode(
            {
                "approved": len(approved),
                "needed": self._cluster.quorums.strong,
                "changed": has_changed,
            }
        )

    def _recorded_approvals(self, operators: Sequence[str]) -> tuple[RecordedApproval, ...]:
        return tuple(RecordedApproval(name, seats_of(self._cluster, [name])) for name in operators)

    def _on_append(self, operation: Append, client: str) -> Applied:
        """Appends a string to the journal. Accepted always."""
        text = operation.text.encode()
        self.journal_length += 1
        self.journal_digest = hashlib.sha256(
            b"pbft-ci journal\0" + self.journal_digest + text
        ).digest()
        digest = self.journal_digest.hex()
        entry = self._write(AppendEntry(client, operation.text, self.journal_length, digest))
        result = msgspec.json.encode({"digest": digest, "length": self.journal_length})
        return Applied("appended", b"", result, entries=(entry,))

    def end_epoch(self) -> tuple[Entry, ...]:
        """End what cannot go on under other members: builds, and what is proposed.

        Undecided builds are forgotten, and the ledger says so: their gateways ask for them again,
        under the same ids. Those that still take late ballots are closed.
        """
        entries = []
        for build in self.open_builds().values():
            if build.is_decided:
                self._close(build)
                continue
            del self._builds[build.id]
            self._notes.forget(build.id)
            entries.append(self._write(SupersededEntry(build.id.hex(), build.opened)))
        self.limit_changes.clear()
        self.member_changes.end_epoch()
        return tuple(entries)

    # --- transitions ----------------------------------------------------------------------------

    def _open_build(self, build_id: bytes, opened: int) -> OpenBuild | None:
        """That very build, if ballots and reports can be about it."""
        build = self._builds.get(build_id)
        if build is None or build.opened != opened or not build.is_approved:
            return None
        return build

    def _read_limits(self, encoded: bytes) -> Limits:
        return read_limits(encoded) if encoded else self._genesis_limits

    def _decide(self, build: OpenBuild) -> Applied:
        verdict = decide(build.ballots.items(), len(build.reports), self.thresholds_of(build))
        return Applied("done", build.id) if verdict is None else self._settle(build, verdict)

    def _settle(self, build: OpenBuild, verdict: Verdict) -> Applied:
        """Write the verdict into the ledger, tell all askers, and begin the closing."""
        index = self.ledger_index + 1
        agreement = verdict.compared.agreement if verdict.compared is not None else None
        executors = first_executors(build.executors, agreement, self.thresholds_of(build))
        statement = statement_bytes(
            self._cluster,
            build,
            verdict,
            ledger_index=index,
            previous_head=self.ledger_head,
            executors=executors,
        )
        entry = self._write(
            VerdictEntry(
                build=build.id.hex(),
                opened=build.opened,
                askers=tuple(
                    RecordedAsker(
                        asker.client,
                        asker.timestamp,
                        asker.request_digest.hex(),
                        # of whoever opened it: it is no other client's word
                        build.person if asker.request_digest == build.request_digest else None,
                    )
                    for asker in build.askers
                ),
                ballots=recorded_ballots(build.ballots),
                deadline_reports=build.reports,
                statement=msgspec.Raw(statement),
            )
        )
        decided = build.with_verdict(verdict, index, statement)
        self._builds[build.id] = decided
        self._close_finished(decided)
        self._close_oldest()
        deferred = tuple(_deferred_reply(asker, build.id, statement) for asker in build.askers)
        return Applied("done", build.id, entries=(entry,), deferred=deferred)

    def _close_finished(self, build: OpenBuild) -> None:
        """Close a decided build from which nothing more is to be waited for."""
        assert build.verdict is not None
        if (
            build.verdict.outcome is Outcome.CANCELLED
            or not is_anybody_expected(build, self.thresholds_of(build))
            or len(build.reports) >= self._cluster.quorums.strong
        ):
            self._close(build)

    def _close_oldest(self) -> None:
        """Keep the closing builds to their number: the one decided first goes first."""
        closing = [build for build in self._builds.values() if build.is_decided]
        closing.sort(key=lambda build: build.verdict_index)
        for build in closing[: -self.limits.closing_builds_max]:
            self._close(build)

    def _close(self, build: OpenBuild) -> None:
        del self._builds[build.id]
        is_delivery = build.delivery is not None
        remembered = self._deliveries if is_delivery else self._closed
        remembered[build.id] = None
        if len(remembered) > (DELIVERIES_MAX if is_delivery else CLOSED_BUILDS_MAX):
            oldest = next(iter(remembered))
            del remembered[oldest]
            self._notes.forget(oldest)

    def _write(self, entry: AnyEntry) -> Entry:
        body = encode_entry(entry)
        self.ledger_index += 1
        self.ledger_head = next_head(self.ledger_head, self.ledger_index, body)
        return Entry(self.ledger_index, body, self.ledger_head)


def _refused(reason: str) -> Applied:
    return Applied("refused", b"", reason.encode())


def _recorded_members(members: Sequence[Member]) -> tuple[RecordedMember, ...]:
    return tuple(RecordedMember(m.name, m.public_key.hex(), m.roles) for m in members)


def _asked(of: SubmitBuild | OpenBuild) -> tuple[object, ...]:
    """What is asked for, to be compared; approval may have been given since."""
    reference = (of.repository, of.branch, of.commit, of.event, of.ref)
    return (*reference, of.delivery, of.schedule, of.is_cold)


def _deferred_reply(asker: Requester, build_id: bytes, statement: bytes) -> DeferredReply:
    return DeferredReply(
        asker.client,
        asker.timestamp,
        asker.request_digest,
        "decided",
        build_id,
        statement,
        pae(statement),
    )


def _agrees(ballot: Ballot, verdict: Verdict) -> bool | None:
    """Does a late ballot agree? None where it neither agrees nor dissents."""
    if verdict.compared is None or not isinstance(ballot, BuildResult):
        return None
    return ballot.compared == verdict.compared
