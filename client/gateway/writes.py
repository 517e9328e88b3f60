"""What callers ask the gateway to change in its database, as values: one type per change.

`WriteQueue` holds them until the next turn; `WriteApplier` alone applies them.
"""

import msgspec

from client.gateway.resolve import Resolution
from client.storage.audit import Actor
from client.storage.build_request import BuildRequest


class Due(msgspec.Struct, frozen=True):
    """A time at which a schedule is due, in minutes since 1970."""

    repository: str
    branch: str
    name: str
    minute: int


class AddBuild(msgspec.Struct, frozen=True):
    """Accept a build."""

    # 32 random bytes; the build's id follows from them and the request
    identity: bytes
    request: BuildRequest
    # if not empty: only record that the build is skipped, and why
    skip_reason: str = ""
    # the build that this one does again
    rebuild_of: bytes | None = None
    # the time of the schedule that asks for it, which is dealt with by this
    due: Due | None = None
    # who asks for it, if somebody does: of a rebuild
    actor: Actor | None = None


class AddAppend(msgspec.Struct, frozen=True):
    """Accept a string for the journal."""

    # 32 random bytes
    identity: bytes
    text: str


class CancelWrite(msgspec.Struct, frozen=True):
    """Withdraw this gateway's request for a build."""

    build: bytes
    reason: str
    # who asks for it; None: the gateway itself
    actor: Actor | None = None


class ApproveWrite(msgspec.Struct, frozen=True):
    """Let a build begin that waits for approval."""

    build: bytes
    actor: Actor | None = None


class AddNote(msgspec.Struct, frozen=True):
    """Accept a note on a build."""

    # 32 random bytes
    identity: bytes
    build: bytes
    text: str
    actor: Actor


class NoteResolution(msgspec.Struct, frozen=True):
    """Record what the repository's server answered about a build's ref."""

    # the outbox row's
    identity: bytes
    build: bytes
    # what was asked for; its `commit` is still to be filled in
    request: BuildRequest
    found: Resolution
    # until the server is asked again, if it could not be reached
    retry_seconds: float


class NoteDue(msgspec.Struct, frozen=True):
    """Record that a time of a schedule is dealt with, without a build."""

    due: Due


class ForgetWrittenResults(msgspec.Struct, frozen=True):
    """Forget the lines that the results file has by now."""


Write = (
    AddBuild
    | AddAppend
    | AddNote
    | CancelWrite
    | ApproveWrite
    | NoteResolution
    | NoteDue
    | ForgetWrittenResults
)


class BuildAdded(msgspec.Struct, frozen=True):
    """AddBuild added this build."""

    build: bytes
    # as it was added: a repeated push may have got another delivery
    request: BuildRequest


class BuildKnown(msgspec.Struct, frozen=True):
    """AddBuild added nothing: this gateway has the build already."""

    build: bytes


class ChangeRefused(msgspec.Struct, frozen=True):
    """CancelWrite, ApproveWrite or AddNote changed nothing."""

    reason: str


# None: of a change that is done or that answers nothing
WriteResult = BuildAdded | BuildKnown | ChangeRefused | None
