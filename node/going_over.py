"""A node begins the next epoch by itself, once its own has ended (docs/decisions/0062).

The rule (`may_go_over`): a replica says no more in its epoch once it has gone over. So it waits
until `strong` replicas are seen to have the end, and for a while for the rest, which may still
fetch it. A replica that lacks ledger entries waits for them, too (`may_leave_ledger`): members that
leave may be all that have them. What is seen of others decides when, never what: the end, the state
and the next members are this replica's own, proved by `strong` CHECKPOINTs.

A replica that was away finds the others in the next epoch, and nobody that gives it the end of its
own. A link proves which state that is (`common.membership.link_search`), and any member of the next
epoch gives it (`node.begin_state`). It goes over by them as the others did by what they executed.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Set

import aiohttp
import msgspec

from common.configuration.config import ConfigError, NodeConfig
from common.english import counted
from common.links.members import replicas_for
from common.membership.epochs import Following, next_file, read_seat_key
from common.membership.link_search import Found, LinkSearch
from common.web.bounded_http import AnswerBounds, HttpRequest, NoAnswer, ask, bounded_session
from common.web.peers import Peers
from driver.ports import SaveFailed
from node.begin_state import BeginStateFetch
from node.replica.runtime import Runtime
from node.storage.damage import StoreUnusable
from node.succession import NextEpoch, go_over, leaving, read_following
from pbft.core import Core
from pbft.epoch_link import EpochLink, decode_link
from pbft.genesis import Cluster

LOOK_SECONDS = 0.5
# A replica that lacks the end asks those that it has no link to, which mostly are down, for a link.
LINK_LOOK_SECONDS = 2.0
# Ten rounds of STATUS, in which a replica that lacks the end asks for it and gets it. Whoever is
# down costs the others this much.
LAGGARD_SECONDS = 10.0
# So long after the last entry came: then nobody in the old epoch has more to give.
LEDGER_SECONDS = 60.0
STATUS_BOUNDS = AnswerBounds(bytes_max=64 * 1024, timeout_seconds=2.0)

_log = logging.getLogger(__name__)


class _Status(msgspec.Struct, frozen=True):
    """What is read of GET /pbft/status. A peer wrote it."""

    # 64 hexadecimal digits
    cluster: str
    ledger_missing: int = 0


class _Leaving(ConfigError):
    """This replica is none in the next epoch."""


def may_go_over(
    before: Cluster,
    following: Cluster,
    *,
    sealed: Set[str],
    begun: Set[str],
    waited_seconds: float,
) -> bool:
    """Whether a replica that has sealed its epoch leaves it now.

    sealed: the replicas that have the end, this one included. begun: those that are in the next
    epoch. waited_seconds: since this one sealed. At most f of each epoch's replicas lie about it.
    """
    have_end = (sealed | begun) & set(before.replica_names)
    is_awaited = len(begun & set(following.replica_names)) + 1 >= following.quorums.strong
    if len(have_end) < before.quorums.strong and not is_awaited:
        return False
    return len(have_end) == len(before.expected_names) or waited_seconds >= LAGGARD_SECONDS


def may_leave_ledger(
    following: Cluster, *, missing: int, whole: Set[str], waited_seconds: float
) -> bool:
    """Whether a replica need not wait for the ledger entries that it lacks.

    missing: how many. whole: the replicas in the next epoch that say that they lack none; of f+1
    one tells the truth and gives them there. waited_seconds: since an entry came.
    """
    are_there = len(whole & set(following.replica_names)) >= following.quorums.weak
    return missing == 0 or are_there or waited_seconds >= LEDGER_SECONDS


def may_follow_link(*, linked: int, waited_seconds: float) -> bool:
    """Whether a replica that lacks the end of its epoch leaves it by what a link proves.

    linked: how many other replicas of its epoch it has a link to: they may still give it the end,
    and what it has not of the ledger. waited_seconds: since the link was there. It has no
    CHECKPOINT of the end that others might need, and gives the link to whoever is left.
    """
    return linked == 0 or waited_seconds >= LAGGARD_SECONDS


class GoingOver:
    """Waits for the end of one epoch, and for what the next one needs."""

    def __init__(
        self,
        config: NodeConfig,
        runtime: Runtime,
        peers: Peers,
        *,
        connected: Callable[[], frozenset[str]],
    ) -> None:
        """peers: the other replicas of this epoch. connected: those that there is a link to now."""
        # what the node begins then; None while it is not time
        self.begun: NextEpoch | None = None
        # one line for people; None while the epoch goes on
        self.waits_for: str | None = None
        self._config = config
        self._runtime = runtime
        self._replicas = frozenset(peers)
        self._connected = connected
        self._search = LinkSearch(
            runtime.identity.cluster, peers, connected=connected, next_file=next_file(config)
        )
        self._fetch: BeginStateFetch | None = None
        # where links lead, the state there, and since when they lead on
        self._found: Found | None = None
        self._parts: Mapping[str, bytes] | None = None
        self._proved_at: float | None = None
        self._link_look_at = 0.0
        self._sealed_at: float | None = None
        # how many ledger entries were missing when last looked at, and since when it is so many
        self._missing = (0, 0.0)
        self._told: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to look; the task ends once the node is to go over, which `begun` says."""
        self._task = asyncio.create_task(self._run(), name="going over")
        return self._task

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def take_over(self) -> None:
        """Write the next epoch's folder, if it is to begin. Raises StoreUnusable.

        Once nothing else of the node uses the store.
        """
        if self.begun is None:
            return
        try:
            folder = go_over(self._config, self.begun, self._runtime.store.ledger)
        except (OSError, SaveFailed, ConfigError) as error:
            raise StoreUnusable(f"the next epoch cannot begin: {error}") from error
        epoch = self.begun.following.cluster.epoch
        _log.warning("%s goes over to epoch %d: %s", self._config.name, epoch, folder)

    async def _run(self) -> None:
        async with bounded_session() as session:
            while True:
                if await self._is_time(session):
                    return
                await asyncio.sleep(LOOK_SECONDS)

    async def _is_time(self, session: aiohttp.ClientSession) -> bool:
        core = self._runtime.replica.core
        if self._runtime.is_unsaved:
            return False
        if core.is_sealed and await self._is_time_after_end(session):
            return True
        # Also where the operator's file is of a later epoch: others were there twice meanwhile.
        now = asyncio.get_running_loop().time()
        if now < self._link_look_at:
            return False
        self._link_look_at = now + LINK_LOOK_SECONDS
        return await self._is_time_by_link(session)

    async def _is_time_after_end(self, session: aiohttp.ClientSession) -> bool:
        core = self._runtime.replica.core
        now = asyncio.get_running_loop().time()
        self._sealed_at = self._sealed_at or now
        try:
            following = await asyncio.to_thread(read_following, core, next_file(self._config))
            peers = await asyncio.to_thread(self._next_peers, following)
        except ConfigError as error:
            return self._cannot_begin(error)
        cluster = following.cluster
        said = await _begun(session, peers, cluster)
        begun = frozenset(said)
        sealed = _sealed(core)
        waited_seconds = now - self._sealed_at
        if not may_go_over(
            core.cluster, cluster, sealed=sealed, begun=begun, waited_seconds=waited_seconds
        ):
            missing = ", ".join(sorted(set(core.cluster.replica_names) - sealed - begun))
            return self._wait(f"epoch {core.cluster.epoch} has ended; not seen yet: {missing}")
        if not self._has_ledger(cluster, said, now):
            return False
        self.begun = NextEpoch.of_own(following, core)
        return True

    async def _is_time_by_link(self, session: aiohttp.ClientSession) -> bool:
        """The same for a replica that lacks the end, where links and others' state replace it."""
        core = self._runtime.replica.core
        now = asyncio.get_running_loop().time()
        try:
            found = await self._search.find(session)
            if found is None:
                told = self._search.contradiction
                return False if told is None else self._wait(told)
            if core.is_sealed and not found.passed:
                return False  # it goes over as all others
            peers = await asyncio.to_thread(self._next_peers, found.following)
        except ConfigError as error:
            last = self._search.proved[-1].cluster
            if last.replica_index(self._config.name) is None:
                return self._wait(leaving(self._config.name, last.epoch))
            return self._cannot_begin(error)
        self._proved_at = self._proved_at or now
        linked = len(self._connected() & self._replicas)
        if not may_follow_link(linked=linked, waited_seconds=now - self._proved_at):
            return self._wait(
                f"epoch {core.cluster.epoch} has ended, and this replica lacks its end: it asks"
                f" {counted(linked, 'other replica')} for it, and then goes over without"
            )
        parts = await self._state_of(session, found, peers)
        if parts is None:
            return False
        cluster = found.following.cluster
        if not self._has_ledger(cluster, await _begun(session, peers, cluster), now):
            return False
        if core.is_sealed and not found.passed:
            return False  # meanwhile
        link = decode_link(found.link)
        assert isinstance(link, EpochLink), "it was followed"
        self.begun = NextEpoch(
            found.following,
            parts,
            link,
            found.passed,
            # Whoever recovers may have been in the next epoch before it lost its records.
            has_forgotten=core.is_recovering,
        )
        return True

    async def _state_of(
        self, session: aiohttp.ClientSession, found: Found, peers: Peers
    ) -> Mapping[str, bytes] | None:
        """The state that the epoch begins with; None: nobody gave it yet."""
        following = found.following
        if self._found is None or self._found.following.cluster.id != following.cluster.id:
            self._parts = None
        if self._found is None or self._found.following.text != following.text:
            self._found = found
            self._fetch = BeginStateFetch(self._config, following.cluster, peers)
        if self._parts is None:
            assert self._fetch is not None
            self._parts = await self._fetch.ask(session)
            if self._parts is None:
                epoch = self._runtime.replica.core.cluster.epoch
                self._wait(
                    f"epoch {epoch} has ended, and the state that the next one begins with is"
                    f" fetched: {self._fetch.reason}"
                )
        return self._parts

    def _has_ledger(self, following: Cluster, said: Mapping[str, _Status], now: float) -> bool:
        """Whether the ledger keeps this replica in its epoch no longer."""
        lacking = self._runtime.store.ledger.missing()
        if lacking != self._missing[0]:
            self._missing = (lacking, now)
        whole = frozenset(peer for peer, status in said.items() if not status.ledger_missing)
        if may_leave_ledger(
            following, missing=lacking, whole=whole, waited_seconds=now - self._missing[1]
        ):
            return True
        return self._wait(
            f"epoch {self._runtime.replica.core.cluster.epoch} has ended; this replica lacks"
            f" {counted(lacking, 'ledger entry', 'ledger entries')}, and fetches them first"
        )

    def _next_peers(self, following: Following) -> Peers:
        """The other replicas of the next epoch, for this one with its key there.

        Raises ConfigError: it is no replica there, or its key is missing.
        """
        config = self._config
        if following.cluster.replica_index(config.name) is None:
            raise _Leaving(leaving(config.name, following.cluster.epoch))
        key = read_seat_key(config, following.cluster)
        peers = replicas_for(following.config, following.cluster, config.name, signing_key=key)
        return peers.only(name for name in peers if name != config.name)

    def _cannot_begin(self, error: ConfigError) -> bool:
        if isinstance(error, _Leaving):
            return self._wait(str(error))
        epoch = self._runtime.replica.core.cluster.epoch
        return self._wait(f"epoch {epoch} has ended, and the next one cannot begin here: {error}")

    def _wait(self, text: str) -> bool:
        self.waits_for = text
        if text != self._told:
            self._told = text
            _log.warning("%s", text)
        return False


def _sealed(core: Core) -> frozenset[str]:
    """Whose STATUS said that the end of the epoch is stable there, and this replica."""
    names = core.cluster.replica_names
    said = {names[i] for i, status in core.peers.status.items() if status.stable >= core.low}
    return frozenset(said | {names[core.index]})


async def _begun(
    session: aiohttp.ClientSession, peers: Peers, following: Cluster
) -> dict[str, _Status]:
    """What those of these say that are in the next epoch."""
    names = sorted(peers)
    found = await asyncio.gather(
        *(_status_in(session, peers, name, following=following) for name in names)
    )
    return {name: said for name, said in zip(names, found, strict=True) if said is not None}


async def _status_in(
    session: aiohttp.ClientSession, peers: Peers, name: str, *, following: Cluster
) -> _Status | None:
    request = peers.request(name, HttpRequest(url="/pbft/status"))
    try:
        answer = await ask(session, request, STATUS_BOUNDS)
        said = msgspec.json.decode(answer.data, type=_Status)
    except (NoAnswer, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return said if said.cluster == following.id.hex() else None
