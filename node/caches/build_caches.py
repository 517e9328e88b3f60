"""The caches of the builds that run: what each may use, and what becomes of what it left.

The rule: what a build staged is kept only if the verdict is `passed` and this replica's own ballot
is one of those that agree. What a build used goes if its own finding differs from the verdict. The
ledger says both, so nothing is kept that only this replica believes in.

A restart drops what waited for a verdict. What undecided builds used is remembered on the disk.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec

from ci.ledger import AnyEntry, LateBallotEntry, VerdictEntry
from ci.operations import Outcome
from ci.statement import dissenters, parse_statement
from common.pipeline.pipeline_file import Cache
from node.caches.cache_store import BuildKey, CacheCounts, CacheStore, Entry
from node.caches.entry_archive import EntryWriter
from node.caches.entry_key import EntryOwner, entry_key
from node.caches.scope import Scope

# Builds that wait for their verdicts; of more, the oldest lose what they staged.
WAITING_MAX = 1000

_log = logging.getLogger(__name__)


class Standing(msgspec.Struct, frozen=True):
    """How this replica's ballot on a build stands to the verdict."""

    build: BuildKey
    # the verdict is `passed`, and the ballot is equal to it
    is_confirmed: bool
    # the ballot is a finding, and another one than the verdict
    is_dissent: bool


def standing_of(entry: AnyEntry, replica: str) -> Standing | None:
    """What a ledger entry says of this replica's ballot; None: nothing yet, or nothing at all."""
    match entry:
        case VerdictEntry():
            verdict = parse_statement(bytes(entry.statement)).verdict
            if verdict.agreeing and all(b.replica != replica for b in entry.ballots):
                return None  # it is late, and will be recorded
            is_confirmed = verdict.outcome is Outcome.PASSED and replica in verdict.agreeing
        case LateBallotEntry() if entry.ballot.replica == replica:
            is_confirmed = entry.agrees is True and entry.ballot.outcome == Outcome.PASSED
        case _:
            return None
    build = (entry.build, entry.opened)
    return Standing(build, is_confirmed, replica in dissenters(entry))


class CacheAccess:
    """What one build may do with the caches that its pipeline names. Blocking.

    files: the SHA-256 (hex) of each file that the caches name.
    """

    def __init__(
        self,
        store: CacheStore,
        build: BuildKey,
        *,
        owner: EntryOwner,
        is_written: bool,
        caches: Sequence[Cache],
        files: Mapping[str, str],
    ) -> None:
        self.store = store
        self._build = build
        self._owner = owner
        self._is_written = is_written
        self._caches = caches
        self._files = files
        self._keys: dict[str, str] = {}
        # what was unpacked, whole or in part, in its order; each cell of a matrix unpacks its own
        self.used: list[Entry] = []

    def find(
        self, image_ids: Sequence[str], note: Callable[[str], None]
    ) -> tuple[tuple[Cache, Entry], ...]:
        """The entries that are there for this build, which runs in these images."""
        found = []
        for cache in self._caches:
            key = entry_key(self._owner, cache, image_ids=image_ids, files=self._files)
            self._keys[cache.name] = key
            entry = self.store.find(key)
            if entry is None:
                self.store.counts.misses += 1
                note(
                    f"cache {cache.name}: nothing of branch {self._owner.branch} for these files"
                    " and images"
                )
            else:
                found.append((cache, entry))
        return tuple(found)

    def forget(self, kept: int = 0) -> None:
        """The build begins anew without caches, or what it began after `kept` entries does."""
        del self.used[kept:]

    def to_write(self) -> tuple[tuple[Cache, str], ...]:
        """The caches that this build is to fill, with the keys of their entries."""
        if not self._is_written:
            return ()
        return tuple(
            (cache, self._keys[cache.name])
            for cache in self._caches
            if cache.name in self._keys and self.store.find(self._keys[cache.name]) is None
        )

    def stage(self, cache: Cache, key: str, write: Callable[[EntryWriter], None]) -> bool:
        """As `CacheStore.stage`, under this build's name."""
        build, opened = self._build
        entry = Entry(
            file="",
            key=key,
            repository=self._owner.repository,
            name=cache.name,
            build=build,
            opened=opened,
            sha256="",
            length=0,
            parts=(),
        )
        return self.store.stage(entry, write)

    def note_use(self, entry: Entry) -> bool:
        """As `CacheStore.note_use`, for this build."""
        return self.store.note_use(entry, self._build)


class _Waiting(msgspec.Struct):
    standing: Standing | None = None
    # what the build leaves is staged, or nothing is
    is_staged: bool = False


class BuildCaches:
    """For one event loop; `conclude` blocks and is for threads.

    replica: this one's name.
    """

    def __init__(self, store: CacheStore, replica: str) -> None:
        self.store = store
        self._replica = replica
        self._waiting: dict[BuildKey, _Waiting] = {}

    @property
    def counts(self) -> CacheCounts:
        """What came of caches since the start."""
        return self.store.counts

    def start(self) -> None:
        """Open the store; builds that were not decided when the process ended wait on. Blocking."""
        self.store.start()
        for build in self.store.users():
            self._waiting[build] = _Waiting(is_staged=True)

    def access(
        self,
        build: BuildKey,
        scope: Scope,
        repository: str,
        *,
        caches: Sequence[Cache],
        files: Mapping[str, str],
    ) -> CacheAccess:
        """For a build that begins; its verdict is waited for from now on."""
        while len(self._waiting) >= WAITING_MAX:
            oldest = next(iter(self._waiting))
            _log.warning("build %s: its verdict is not waited for by caches", oldest[0][:12])
            self._waiting.pop(oldest)
        self._waiting.pop(build, None)
        self._waiting[build] = _Waiting()
        return CacheAccess(
            self.store,
            build,
            owner=EntryOwner(repository, scope.branch),
            is_written=scope.is_written,
            caches=caches,
            files=files,
        )

    @property
    def is_waiting(self) -> bool:
        """Whether any build waits for its verdict."""
        return bool(self._waiting)

    def forget(self, build: BuildKey) -> None:
        """The build came to no ballot."""
        self._waiting.pop(build, None)

    def note_staged(self, build: BuildKey) -> Standing | None:
        """All that the build leaves is staged; what to `conclude` then."""
        waiting = self._waiting.get(build)
        if waiting is None:
            # too many waited
            return Standing(build, is_confirmed=False, is_dissent=False)
        waiting.is_staged = True
        return self._taken(build, waiting)

    def note_entry(self, entry: AnyEntry) -> Standing | None:
        """The ledger has a new entry; what to `conclude` then."""
        if not isinstance(entry, VerdictEntry | LateBallotEntry):
            return None
        waiting = self._waiting.get((entry.build, entry.opened))
        if waiting is None or waiting.standing is not None:
            return None
        waiting.standing = standing_of(entry, self._replica)
        return self._taken((entry.build, entry.opened), waiting)

    def conclude(self, standing: Standing) -> None:
        """Keep what the build staged, or remove it; remove what misled it."""
        if standing.is_confirmed:
            self.store.keep(standing.build)
        else:
            self.store.discard(standing.build)
        self.store.forget_uses(standing.build, is_dissent=standing.is_dissent)

    def _taken(self, build: BuildKey, waiting: _Waiting) -> Standing | None:
        if waiting.standing is None or not waiting.is_staged:
            return None
        del self._waiting[build]
        return waiting.standing
