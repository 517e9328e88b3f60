"""What a build without a verdict waits for, and since when."""

from collections.abc import Sequence

import msgspec

from client.storage.archive import BuildRecord, StateRecord
from client.storage.outbox import State
from client.views.build_view import iso_time

APPROVAL = "approval"


class Section(msgspec.Struct, frozen=True):
    """What builds wait for. title: heads their list. text: one sentence on it."""

    name: str
    title: str
    text: str


# In the order in which a build comes to them.
SECTIONS = (
    Section("received", "Commit", "The gateway asks the git server for the branch's commit."),
    Section("resolved", "Turn", "The gateway asks the replicas for so many builds at once."),
    Section("signed", "Order", "The replicas are asked, and have not agreed to build yet."),
    Section(APPROVAL, "Approval", "Strangers asked for these: an operator has to let them begin."),
    Section("opened", "Ballots", "The replicas build, and their ballots are not here yet."),
)


class AwaitedBallot(msgspec.Struct, frozen=True):
    """A replica whose ballot is not here, and what it reports of the build; None: nothing."""

    replica: str
    state: str | None


class QueuedBuild(msgspec.Struct, frozen=True):
    """One build that waits. since: ISO 8601. ballots: those that are waited for."""

    build: str
    repository: str
    branch: str
    event: str
    author: str | None
    since: str | None
    detail: str | None
    ballots: tuple[AwaitedBallot, ...]


def section_of(state: State, *, is_held: bool) -> Section:
    """Under which title a build in that state of the outbox is listed."""
    name = APPROVAL if is_held else state.value
    return next(section for section in SECTIONS if section.name == name)


def queued_build(
    record: BuildRecord, state: State, *, states: Sequence[StateRecord], cast: frozenset[str]
) -> QueuedBuild:
    """A build that waits. states: of all replicas. cast: those whose ballots are here."""
    since = {
        State.RECEIVED: record.received_at,
        State.RESOLVED: record.resolved_at,
        State.SIGNED: record.signed_at,
        State.OPENED: record.opened_at,
    }[state]
    return QueuedBuild(
        build=record.build.hex(),
        repository=record.repository,
        branch=record.branch,
        event=record.event,
        author=record.author,
        since=iso_time(record.received_at if since is None else since),
        detail=record.detail,
        ballots=tuple(
            AwaitedBallot(one.replica, None if one.state in (None, "none") else one.state)
            for one in states
            if state is State.OPENED and one.replica not in cast
        ),
    )
