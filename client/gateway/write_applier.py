"""Applies writes to outbox and archive: the one place that turns those values into rows."""

import time
from collections.abc import Callable

import msgspec

from ci.statement import submitted_build_id
from client.gateway.build_changes import BuildChanges, CannotChange
from client.gateway.gateway_setup import GatewayIdentity, GatewayStorage
from client.gateway.reporting import Reports
from client.gateway.resolve import FoundCommit, Unreachable
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
    ForgetWrittenResults,
    NoteDue,
    NoteResolution,
    Write,
    WriteResult,
)
from client.storage.build_request import BuildRequest, ChangeDetails
from client.storage.due_times import DueTimes
from client.storage.outbox import Outbox
from common.repositories.repository_config import GatewayRepository


class WriteApplier:
    """Applies the writes of one gateway."""

    def __init__(
        self,
        identity: GatewayIdentity,
        storage: GatewayStorage,
        *,
        outbox: Outbox,
        changes: BuildChanges,
        reports: Reports,
        configured: Callable[[str], GatewayRepository],
    ) -> None:
        """configured: gives the settings of a repository, by its URL."""
        self._name = identity.name
        self._cluster = identity.cluster
        self._outbox = outbox
        self._archive = storage.archive
        self._changes = changes
        self._results = storage.results
        self._due_times = DueTimes(storage.database)
        self._reports = reports
        self._configured = configured

    def apply(self, write: Write) -> WriteResult:
        """Apply a write; call it inside a transaction. Raises StorageFailed."""
        match write:
            case AddBuild():
                return self._add_build(write)
            case AddAppend():
                self._outbox.add_append(write.identity, write.text)
            case CancelWrite() | ApproveWrite() | AddNote():
                return self._change(write)
            case NoteResolution():
                self._note_resolution(write)
            case NoteDue():
                self._note_due(write.due)
            case ForgetWrittenResults():
                self._results.forget_written()
        return None

    def known_build(self, write: AddBuild) -> bytes | None:
        """The build that is asked for, if this gateway has it already. Raises StorageFailed."""
        request, _ = self._changes.pushed_again(write.request, self._id_of(write))
        build = self._id_of(write)(request)
        return build if self._archive.has(build) else None

    def _add_build(self, write: AddBuild) -> BuildAdded | BuildKnown:
        if write.due is not None:
            self._note_due(write.due)
        id_of = self._id_of(write)
        request, is_newest = self._changes.pushed_again(write.request, id_of)
        build = id_of(request)
        if not self._archive.add(build, request, time.time()):
            return BuildKnown(build)
        if write.skip_reason:
            self._archive.note_skipped(build, write.skip_reason)
            record = self._archive.get(build)
            assert record is not None, "it was just added"
            self._reports.skipped(record, write.skip_reason)
            return BuildAdded(build, request)
        self._outbox.add_build(write.identity, build, request)
        if write.rebuild_of is not None:
            self._archive.note_rebuild(build, write.rebuild_of)
            if write.actor is not None:
                text = f"of {write.rebuild_of.hex()}"
                self._archive.audit.note(
                    "rebuild", write.actor, at=time.time(), build=build, text=text
                )
        elif is_newest and self._configured(request.repository).supersede:
            self._changes.supersede(build, request)
        return BuildAdded(build, request)

    def _note_due(self, due: Due) -> None:
        self._due_times.note((due.repository, due.branch, due.name), due.minute)

    def _id_of(self, write: AddBuild) -> Callable[[BuildRequest], bytes]:
        return lambda request: submitted_build_id(
            self._cluster.lineage, self._name, request.operation(write.identity)
        )

    def _change(self, write: CancelWrite | ApproveWrite | AddNote) -> ChangeRefused | None:
        """Begin a change, and record who asked for it, in one commit."""
        actor = write.actor
        person = None if actor is None else actor.person
        try:
            match write:
                case CancelWrite():
                    what, text = "cancel", write.reason
                    self._changes.cancel(write.build, write.reason, person)
                case ApproveWrite():
                    what, text = "approve", ""
                    self._changes.approve(write.build, person)
                case AddNote():
                    what, text = "note", write.text
                    details = ChangeDetails(person, write.text)
                    self._changes.note(write.identity, write.build, details)
        except CannotChange as error:
            return ChangeRefused(str(error))
        if actor is not None:
            self._archive.audit.note(what, actor, at=time.time(), build=write.build, text=text)
        return None

    def _note_resolution(self, write: NoteResolution) -> None:
        if self._outbox.build_row(write.build) is None:
            return  # it was cancelled meanwhile
        if isinstance(write.found, Unreachable):
            self._archive.note_detail(
                write.build,
                f"the repository's server gives no answer ({write.found.reason}); "
                f"asking again in {write.retry_seconds:g} s",
            )
            return
        commit = write.found.commit if isinstance(write.found, FoundCommit) else None
        request = msgspec.structs.replace(write.request, commit=commit)
        self._outbox.resolve(write.identity, request)
        self._archive.note_resolved(write.build, request, time.time())
