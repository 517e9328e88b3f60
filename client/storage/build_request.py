"""A build that somebody wants: what the gateway keeps of it until the network has it."""

import msgspec

from ci.operations import Delivery, Event, SubmitBuild
from common.forge_words import ForgeWords
from common.ref_names import TAG_PREFIX


class BuildRequest(msgspec.Struct, frozen=True):
    """A build to ask the network for; the fields are those of ci.operations.SubmitBuild."""

    repository: str
    branch: str
    # None: whatever the branch points at by now; what has a delivery always names one
    commit: str | None = None
    event: Event = Event.PUSH
    # None: the branch
    ref: str | None = None
    # of a forge; a repeated one is the same build. None: a new build each time
    delivery: Delivery | None = None
    # no replica builds it before an operator approves
    needs_approval: bool = False
    # what the ref pointed at until then, if the forge says so; the network is not told
    before: str | None = None
    # of a pull request, if the forge says so; the network is not told
    author: str | None = None
    # which schedule is due; None for all events but cron
    schedule: str | None = None
    # without caches
    is_cold: bool = False
    # who asked for it here: of a rebuild
    person: str | None = None
    # what else the forge says for people; the network is not told
    words: ForgeWords = ForgeWords()

    def as_tag(self) -> "BuildRequest":
        """The same of the tag that has the branch's name."""
        return msgspec.structs.replace(self, event=Event.TAG, ref=TAG_PREFIX + self.branch)

    def operation(self, identity: bytes, public_url: str | None = None) -> SubmitBuild:
        """The operation that asks for it; identity: 32 random bytes. public_url: the gateway's."""
        return SubmitBuild(
            identity=identity,
            repository=self.repository,
            branch=self.branch,
            commit=self.commit,
            event=self.event,
            ref=self.ref,
            delivery=self.delivery,
            needs_approval=self.needs_approval,
            public_url=public_url,
            schedule=self.schedule,
            is_cold=self.is_cold,
            person=self.person,
        )


class ChangeDetails(msgspec.Struct, frozen=True):
    """What is kept of a change of a build, or of a note on one, beside its kind.

    person: who asks for it here; None: nobody who is known by name. text: of a note.
    """

    person: str | None = None
    text: str = ""


class Submitted(msgspec.Struct, frozen=True):
    """A build that was accepted (its id, 32 bytes), or that this gateway has already."""

    build: bytes
    is_new: bool
