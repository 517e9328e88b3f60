"""Who wants to know that something changed, and what each of them has not been told yet.

Changes are counted; a page says up to which number it has seen them all, so that what happens
between its making and its first listening is not missed.
"""

import asyncio


class TooManyFollowers(Exception):
    """No room for one more."""


class Follower:
    """One listener; `build`: the only one that it wants to hear of, None: of all."""

    def __init__(self, build: bytes | None) -> None:
        self.build = build
        self._changed: set[bytes | None] = set()
        self._awake = asyncio.Event()

    def note(self, build: bytes | None) -> None:
        """Something changed: with that build, or (None) with the network."""
        if self.build is None or build is None or build == self.build:
            # Beyond some it is no longer worth telling which.
            self._changed.add(build if len(self._changed) < 2 else None)
            self._awake.set()

    async def wait(self) -> bytes | None:
        """The one build that changed since this was asked last; None: more than that."""
        await self._awake.wait()
        self._awake.clear()
        changed, self._changed = self._changed, set()
        return next(iter(changed)) if len(changed) == 1 else self.build


class Changes:
    """Counts what changes, and tells the followers.

    first: the number that the count begins with; another one in each life of the process.
    """

    def __init__(self, first: int, followers_max: int) -> None:
        self.count = first
        self._followers_max = followers_max
        self._followers: set[Follower] = set()

    @property
    def followers(self) -> frozenset[Follower]:
        """Who listens now."""
        return frozenset(self._followers)

    def note(self, build: bytes | None) -> None:
        """Something changed: with that build, or (None) with the network."""
        self.count += 1
        for follower in self._followers:
            follower.note(build)

    def note_all(self, builds: frozenset[bytes]) -> None:
        """The same, for each of them."""
        for build in builds:
            self.note(build)

    def follow(self, build: bytes | None, after: int | None) -> Follower:
        """A new follower, who has seen all up to `after` (None: is here for what comes).

        Raises TooManyFollowers.
        """
        if len(self._followers) >= self._followers_max:
            raise TooManyFollowers
        follower = Follower(build)
        self._followers.add(follower)
        if after is not None and after != self.count:
            follower.note(build)
        return follower

    def leave(self, follower: Follower) -> None:
        """That one is gone."""
        self._followers.discard(follower)
