"""What people change about builds under way: cancel, supersede, approve. Inside transactions.

What the network has not been asked for ends here, at once. For the rest the network is asked in
turn, by a request in the outbox; it is sent once the build is known to be open, for before that
the network would know no such build.
"""

import hashlib
import time
from collections.abc import Callable

import msgspec

from ci.notes import NOTES_PER_CLIENT_MAX
from ci.operations import Delivery, Event, Outcome, SubmitBuild, decode_operation
from ci.statement import parse_statement
from client.storage.archive import Archive, BuildRecord
from client.storage.build_request import BuildRequest, ChangeDetails
from client.storage.outbox import Kind, Outbox, OutboxRow, State
from client.views.build_view import is_over, schedule_of
from common.ref_names import check_commit
from pbft.codec import decode_request, decode_signed

CANCELLED = "cancelled"
SUPERSEDED = "superseded by "
REASON_CHARACTERS_MAX = 200


class CannotChange(Exception):
    """That cannot be done to this build; the text says why. Nothing was changed."""


class BuildChanges:
    """Changes one gateway's builds. Every method that changes something must be called inside
    `Database.transaction`."""

    def __init__(self, outbox: Outbox, archive: Archive, draw: Callable[[int], bytes]) -> None:
        """draw: gives that many random bytes."""
        self._outbox = outbox
        self._archive = archive
        self._draw = draw

    def cancel(self, build: bytes, reason: str, person: str | None = None) -> None:
        """Withdraw this gateway's request. A second time changes nothing. Raises CannotChange.

        person: who asks for it here.
        """
        record = self._archive.get(build)
        if record is None:
            raise CannotChange("there is no such build here")
        if record.withdrawn is not None:
            return
        if is_over(record):
            raise CannotChange(f"it is over already: {_how(record)}")
        row = self._outbox.build_row(build)
        assert row is not None, "a build that is not over is in the outbox"
        self._archive.note_withdrawn(build, reason)
        if row.state in (State.RECEIVED, State.RESOLVED):
            self._end(row)
        else:
            self._ask(Kind.CANCEL, row, person)

    def approve(self, build: bytes, person: str | None = None) -> None:
        """Let a build begin that waits for approval. Raises CannotChange. person: as for cancel."""
        record = self._archive.get(build)
        if record is None:
            raise CannotChange("there is no such build here")
        if is_over(record):
            raise CannotChange(f"it is over already: {_how(record)}")
        row = self._outbox.build_row(build)
        assert row is not None, "a build that is not over is in the outbox"
        if not row.build_request.needs_approval:
            raise CannotChange("it needs no approval")
        if self._outbox.is_asked(Kind.APPROVE, build):
            return
        self._ask(Kind.APPROVE, row, person)
        self._archive.note_detail(build, "approved; the network is being told")

    def note(self, identity: bytes, build: bytes, details: ChangeDetails) -> None:
        """Have a note on a build ordered. identity: 32 random bytes. Raises CannotChange."""
        record = self._archive.get(build)
        if record is None:
            raise CannotChange("there is no such build here")
        if record.opened_at is None:
            raise CannotChange("the network does not have it yet: notes are for builds it has")
        if len(self._outbox.notes(build)) >= NOTES_PER_CLIENT_MAX:
            raise CannotChange(f"{NOTES_PER_CLIENT_MAX} notes on it wait to be ordered")
        self._outbox.add_note(identity, build, details)

    def pushed_again(
        self, request: BuildRequest, id_of: Callable[[BuildRequest], bytes]
    ) -> tuple[BuildRequest, bool]:
        """What a delivery asks for, and whether it may be newer than all that is here of its ref.

        A ref that is moved away from a commit and back to it comes with the delivery that the
        commit had. Where that one's build was withdrawn meanwhile it asks for another, whose
        delivery follows from that build: so it is one build however often, and through whichever
        gateway, it is told. What the ref pointed at before says which it is: a build that came
        later than the withdrawn one, or earlier, and then it is that old delivery once more.
        Where nobody can tell it is built, for it may be the head, and supersedes nothing.
        """
        is_newest = True
        while request.delivery is not None:
            record = self._archive.get(id_of(request))
            if record is None or not _is_given_up(record):
                break
            before = request.before and self._archive.newest_of_commit(request, request.before)
            if before:
                is_old = before < record.number
            else:
                is_newest = False
                is_old = not (record.withdrawn or "").startswith(SUPERSEDED)
            if is_old:
                break
            identity = hashlib.sha256(b"pbft-ci pushed again\0" + record.build).digest()
            delivery = Delivery(request.delivery.forge, identity)
            request = msgspec.structs.replace(request, delivery=delivery)
        return request, is_newest

    def supersede(self, build: bytes, request: BuildRequest) -> None:
        """Cancel what is under way of the same ref: somebody pushed something newer to it.

        Forges deliver side by side: what was pushed onto this very commit is newer than it.
        """
        for row in self._outbox.builds_of_branch(request.repository, request.branch):
            other = row.build_request
            if row.build == build or not _is_same_ref(other, request):
                continue
            is_newer = other.before is not None and other.before == request.commit
            if not is_newer or other.commit == request.before:
                self.cancel(row.build, SUPERSEDED + build.hex())

    def possible(self, build: bytes) -> frozenset[Kind]:
        """Which of CANCEL and APPROVE would change something about this build now."""
        record = self._archive.get(build)
        if record is None or is_over(record) or record.withdrawn is not None:
            return frozenset()
        if self._outbox.waits_for_approval(build) and not self._outbox.is_asked(
            Kind.APPROVE, build
        ):
            return frozenset({Kind.CANCEL, Kind.APPROVE})
        return frozenset({Kind.CANCEL})

    def on_opened(self, build: bytes) -> None:
        """The network has it: what waited for that may be asked."""
        self._outbox.release(build)

    def on_over(self, build: bytes) -> None:
        """Nothing can be changed any more: what was not asked yet is not asked."""
        self._outbox.drop_waiting(build)

    def end_if_withdrawn(self, row: OutboxRow) -> bool:
        """End a build whose request was taken back, where nobody wants it any more. Is it over?"""
        record = self._archive.get(row.build)
        if record is None or record.withdrawn is None:
            return False
        self._end(row)
        return True

    def _end(self, row: OutboxRow) -> None:
        """The network does not have it, and never will."""
        self._outbox.finish(row.identity)
        self._outbox.drop_waiting(row.build)
        self._archive.note_never_asked(row.build, time.time())

    def _ask(self, kind: Kind, row: OutboxRow, person: str | None) -> None:
        state = State.RESOLVED if row.state is State.OPENED else State.RECEIVED
        self._outbox.add_change(self._draw(32), kind, row, state=state, person=person)


def rebuild_of(
    record: BuildRecord, *, is_cold: bool = False, person: str | None = None
) -> BuildRequest:
    """The same commit, ref and event once more, as a build of its own.

    is_cold: without caches. person: who asks for it.

    What was built was approved, where it needed that, and so is the same commit now. What was
    never built is not: whoever may ask for a rebuild may not approve. Raises CannotChange.
    """
    schedule = schedule_of(record)
    if record.event is Event.CRON and schedule is None:
        raise CannotChange("the network was never asked for it; wait for its schedule")
    needs_approval = record.event is Event.PULL_REQUEST
    # of what was skipped a forge may have told only how its commit begins
    is_full_commit = record.commit is not None and check_commit(record.commit) is None
    if record.request is not None:
        operation = decode_operation(decode_request(decode_signed(record.request)).operation)
        assert isinstance(operation, SubmitBuild), "a build was asked for by such a request"
        needs_approval = operation.needs_approval
    if record.statement is not None:
        outcome = parse_statement(record.statement).verdict.outcome
        needs_approval = needs_approval and outcome is Outcome.CANCELLED
    return BuildRequest(
        repository=record.repository,
        branch=record.branch,
        commit=record.commit if is_full_commit else None,
        event=record.event,
        ref=record.ref,
        needs_approval=needs_approval,
        schedule=schedule,
        is_cold=is_cold,
        person=person,
    )


def _how(record: BuildRecord) -> str:
    if record.statement is not None:
        return str(parse_statement(record.statement).verdict.outcome)
    return record.refused or record.skipped or record.withdrawn or Outcome.CANCELLED


def _is_given_up(record: BuildRecord) -> bool:
    """Was it withdrawn, so that there is no verdict on its commit, or will be none?"""
    if record.withdrawn is None or record.refused is not None:
        return False
    if record.statement is None:
        return True
    return parse_statement(record.statement).verdict.outcome is Outcome.CANCELLED


def _is_same_ref(one: BuildRequest, other: BuildRequest) -> bool:
    of_one, of_other = (
        (asked.event, asked.branch, asked.ref, asked.schedule) for asked in (one, other)
    )
    return of_one == of_other
