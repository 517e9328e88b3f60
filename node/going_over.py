"""A node begins the next epoch by itself, once its own has ended (docs/decisions/0062).

The rule (`may_go_over`): a replica says no more in its epoch once it has gone over. So it waits
until `strong` replicas are seen to have the end, and for a while for the rest, which may still
fetch it. A replica that lacks ledger entries waits for them, too (`may_leave_ledger`): members that
leave may be all that have them. What is seen of others decides when, never what: the end, the state
and the next members are this replica's own, proved by `strong` CHECKPOINTs.
"""

import asyncio
import logging
from collections.abc import Set

import aiohttp
import msgspec

from common.configuration.config import ConfigError, NodeConfig
from common.english import counted
from common.links.members import replicas_for
from common.membership.epochs import Following, next_file, read_seat_key
from common.web.bounded_http import AnswerBounds, HttpRequest, NoAnswer, ask, bounded_session
from common.web.peers import Peers
from driver.ports import SaveFailed
from node.replica.runtime import Runtime
from node.storage.damage import StoreUnusable
from node.succession import go_over, leaving, read_following
from pbft.core import Core
from pbft.genesis import Cluster

LOOK_SECONDS = 0.5
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


class GoingOver:
    """Waits for the end of one epoch, and for what the next one needs."""

    def __init__(self, config: NodeConfig, runtime: Runtime) -> None:
        self.following: Following | None = None
        # one line for people; None while the epoch goes on
        self.waits_for: str | None = None
        self._config = config
        self._runtime = runtime
        self._sealed_at: float | None = None
        # how many ledger entries were missing when last looked at, and since when it is so many
        self._missing = (0, 0.0)
        self._told: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin to look; the task ends once the node is to go over, which `following` says."""
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
        if self.following is None:
            return
        try:
            core = self._runtime.replica.core
            folder = go_over(
                self._config, self.following, core=core, ledger=self._runtime.store.ledger
            )
        except (OSError, SaveFailed) as error:
            raise StoreUnusable(f"the next epoch cannot begin: {error}") from error
        _log.warning(
            "%s goes over to epoch %d: %s", self._config.name, core.cluster.epoch + 1, folder
        )

    async def _run(self) -> None:
        async with bounded_session() as session:
            while True:
                if await self._is_time(session):
                    return
                await asyncio.sleep(LOOK_SECONDS)

    async def _is_time(self, session: aiohttp.ClientSession) -> bool:
        core, name = self._runtime.replica.core, self._config.name
        if not core.is_sealed or self._runtime.is_unsaved:
            return False
        now = asyncio.get_running_loop().time()
        self._sealed_at = self._sealed_at or now
        try:
            following = await asyncio.to_thread(read_following, core, next_file(self._config))
            cluster = following.cluster
            if cluster.replica_index(name) is None:
                return self._wait(leaving(name, cluster.epoch))
            peers = await asyncio.to_thread(self._next_peers, following)
        except ConfigError as error:
            return self._wait(
                f"epoch {core.cluster.epoch} has ended, and the next one cannot begin here: {error}"
            )
        said = await _begun(session, peers, cluster)
        begun = frozenset(said)
        sealed = _sealed(core)
        waited_seconds = now - self._sealed_at
        if not may_go_over(
            core.cluster, cluster, sealed=sealed, begun=begun, waited_seconds=waited_seconds
        ):
            missing = ", ".join(sorted(set(core.cluster.replica_names) - sealed - begun))
            return self._wait(f"epoch {core.cluster.epoch} has ended; not seen yet: {missing}")
        lacking = self._runtime.store.ledger.missing()
        if lacking != self._missing[0]:
            self._missing = (lacking, now)
        whole = frozenset(peer for peer, status in said.items() if not status.ledger_missing)
        if not may_leave_ledger(
            cluster, missing=lacking, whole=whole, waited_seconds=now - self._missing[1]
        ):
            return self._wait(
                f"epoch {core.cluster.epoch} has ended; this replica lacks"
                f" {counted(lacking, 'ledger entry', 'ledger entries')}, and fetches them first"
            )
        self.following = following
        return True

    def _next_peers(self, following: Following) -> Peers:
        """The other replicas of the next epoch, for this one with its key there."""
        config = self._config
        key = read_seat_key(config, following.cluster)
        peers = replicas_for(following.config, following.cluster, config.name, signing_key=key)
        return peers.only(name for name in peers if name != config.name)

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
