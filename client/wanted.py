"""A build that somebody wants: what the gateway keeps of it until the network has it."""

import msgspec

from ci.operations import Delivery, Event, SubmitBuild
from common.git_environment import TAG_PREFIX


class WantedBuild(msgspec.Struct, frozen=True):
    """A build to ask the network for; the fields are those of ci.operations.SubmitBuild.

    `commit` None: whatever the branch points at by now; a delivery always names one.
    `before`: what the ref pointed at until then, where the forge says so; `author`: of a request,
    likewise. The network is told of neither.
    """

    repository: str
    branch: str
    commit: str | None = None
    event: Event = Event.PUSH
    ref: str | None = None
    delivery: Delivery | None = None
    needs_approval: bool = False
    before: str | None = None
    author: str | None = None

    def as_tag(self) -> "WantedBuild":
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
        )


class Submitted(msgspec.Struct, frozen=True):
    """A build that was accepted (its id, 32 bytes), or that this gateway has already."""

    build: bytes
    is_new: bool
