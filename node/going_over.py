"""A node begins the next epoch by itself, once its own has ended (docs/decisions/0062).

The rule (`may_go_over`): a replica says no more in its epoch once it has gone over. So it waits
until `strong` replicas are seen to have the end, and for a while for the rest, which may still
fetch it. What is seen of others decides when, never what: the end, the state and the next members
are this replica's own, proved by `strong` CHECKPOINTs.
"""

import asyncio
import logging
from collections.abc import Set

import aiohttp
import msgspec

from common.configuration.config import ConfigError, NodeConfig
from common.links.members import replicas_for
from common.web.bounded_http import AnswerBounds, HttpRequest, NoAnswer, ask, bounded_session
from common.web.peers import Peers
from driver.ports import SaveFailed
from node.opening import read_seat_key
from node.replica.runtime import Runtime
from node.storage.damage import StoreUnusable
from node.succession import Following, go_over, leaving, next_file, read_following
from pbft.core import Core
from pbft.genesis import Cluster

LOOK_SECONDS = 0.5
# Ten rounds of STATUS, in which a replica that lacks the end asks for it and gets it. Whoever is
# down costs the others this much.
LAGGARD_SECONDS = 10.0
STATUS_BOUNDS = AnswerBounds(bytes_max=64 * 1024, timeout_seconds=2.0)

_log = logging.getLogger(__name__)


class _Status(msgspec.Struct, frozen=True):
    """What is read of GET /pbft/status. A peer wrote it."""

    # 64 hexadecimal digits
    cluster: str


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


class GoingOver:
    """Waits for the end of one epoch, and for what the next one needs."""

    def __init__(self, config: NodeConfig, runtime: Runtime) -> None:
        self.following: Following | None = None
        # one line for people; None while the epoch goes on
        self.waits_for: str | None = None
        self._config = config
        self._runtime = runtime
        self._sealed_at: float | None = None
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
        begun = await _begun(session, peers, cluster)
        sealed = _sealed(core)
        waited_seconds = now - self._sealed_at
        if not may_go_over(
            core.cluster, cluster, sealed=sealed, begun=begun, waited_seconds=waited_seconds
        ):
            missing = ", ".join(sorted(set(core.cluster.replica_names) - sealed - begun))
            return self._wait(f"epoch {core.cluster.epoch} has ended; not seen yet: {missing}")
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
) -> frozenset[str]:
    """Which of these say that they are in the next epoch."""
    names = sorted(peers)
    found = await asyncio.gather(
        *(_is_in(session, peers, name, following=following) for name in names)
    )
    return frozenset(name for name, is_in in zip(names, found, strict=True) if is_in)


async def _is_in(
    session: aiohttp.ClientSession, peers: Peers, name: str, *, following: Cluster
) -> bool:
    request = peers.request(name, HttpRequest(url="/pbft/status"))
    try:
        answer = await ask(session, request, STATUS_BOUNDS)
        return msgspec.json.decode(answer.data, type=_Status).cluster == following.id.hex()
    except (NoAnswer, msgspec.MsgspecError, UnicodeDecodeError):
        return False
