"""A gateway begins the next epoch by itself, once the replicas have ended its own (decision 0063).

The rule: a link leads on, for it proves itself, and it is followed only to the members of the file
that this gateway's operator put there. A gateway has no vote, so it waits for nobody: it goes over
once one replica gives the link. Two different links of one look are both left alone, since whoever
made one of them has `strong` keys of the epoch.

A replica that has gone over has no link to the members of the epoch before. So only those without
one are asked.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import aiohttp

from client.storage.archive import sync_directory
from common.configuration.config import ClientConfig, ConfigError, load_cluster_config
from common.configuration.keys import SigningKey
from common.epoch_folder import CLUSTER_NAME, LINK_NAME, UNFINISHED, epoch_folder
from common.links.members import replicas_for
from common.membership.epochs import (
    Following,
    cluster_file_text,
    followed_by,
    next_file,
    read_agreed,
    read_seat_key,
)
from common.new_file import new_file, write_new_file
from common.web.bounded_http import AnswerBounds, HttpRequest, NoAnswer, ask, bounded_session
from common.web.peers import Peers
from pbft.epoch_link import LINK_BYTES_MAX
from pbft.genesis import Cluster
from pbft.ports import Refusal

LOOK_SECONDS = 1.0
# So long a replica that answers slowly, or not at all, holds up a look.
LINK_BOUNDS = AnswerBounds(bytes_max=LINK_BYTES_MAX, timeout_seconds=5.0)
LINKS_PATH = "/pbft/links"
# The folder is no secret: it says who the members are.
FILE_MODE = 0o644

_log = logging.getLogger(__name__)


class GoingOver:
    """Waits for the end of one epoch, and for what the next one needs."""

    def __init__(
        self,
        config: ClientConfig,
        cluster: Cluster,
        peers: Peers,
        *,
        connected: Callable[[], frozenset[str]],
        on_over: Callable[[], None],
    ) -> None:
        """peers: the replicas of this epoch. connected: those that there is a link to now.

        on_over: called once, when the folder of the next epoch is there: the gateway is to begin
        anew.
        """
        # one line for people; None while nothing is missing
        self.waits_for: str | None = None
        self._config = config
        self._cluster = cluster
        self._peers = peers
        self._connected = connected
        self._on_over = on_over
        # the next epoch as the replicas have it, and the link that proves it
        self._proved: tuple[Cluster, bytes] | None = None
        # what was logged already
        self._told: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, until the next epoch is to begin."""
        self._task = asyncio.create_task(self._run(), name="going over")

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        async with bounded_session() as session:
            while True:
                try:
                    if await self.look(session):
                        self._on_over()
                        return
                except Exception:  # noqa: BLE001 - told in full; without this task nobody looks
                    _log.exception("the next epoch was not looked for, by a fault of our own")
                await asyncio.sleep(LOOK_SECONDS)

    async def look(self, session: aiohttp.ClientSession) -> bool:
        """Look once; whether the folder of the next epoch is there now."""
        if self._proved is None:
            self._proved = await self._find_link(session)
        if self._proved is None:
            return False
        cluster, link = self._proved
        try:
            folder = await asyncio.to_thread(make_folder, self._config, cluster, link)
        except (ConfigError, OSError) as error:
            return self._wait(
                f"epoch {self._cluster.epoch} has ended, and the next one cannot begin here:"
                f" {error}"
            )
        _log.warning("%s goes over to epoch %d: %s", self._config.name, cluster.epoch, folder)
        return True

    async def _find_link(self, session: aiohttp.ClientSession) -> tuple[Cluster, bytes] | None:
        """What leads on from this epoch, if a replica proves it."""
        away = [name for name in self._peers if name not in self._connected()]
        if not away:
            return None
        peers = await asyncio.to_thread(self._where, away)
        answers = await asyncio.gather(
            *(_link_of(session, peers, name, epoch=self._cluster.epoch) for name in away)
        )
        proved: dict[bytes, tuple[Cluster, bytes]] = {}
        for name, link in zip(away, answers, strict=True):
            if link is None:
                continue
            found = await asyncio.to_thread(followed_by, self._cluster, link)
            if isinstance(found, Refusal):
                self._tell(f"{name}: its link to the next epoch is refused: {found.reason}")
            else:
                proved[found.id] = found, link
        if len(proved) > 1:
            ids = " and ".join(sorted(each.hex() for each in proved))
            self._wait(
                f"epoch {self._cluster.epoch + 1} is proved twice, as {ids}: neither is followed;"
                " ask the operators which one they confirmed, and put its cluster file here"
            )
            return None
        return next(iter(proved.values()), None)

    def _where(self, names: Iterable[str]) -> Peers:
        """These replicas, where the next members' file has them: they may have moved."""
        try:
            replicas = load_cluster_config(next_file(self._config)).replicas
        except ConfigError:
            replicas = ()
        moved = {entry.name: entry.address for entry in replicas}
        addresses = {name: moved.get(name, self._peers[name]) for name in names}
        return Peers(addresses, self._peers.tls)

    def _wait(self, text: str) -> bool:
        self.waits_for = text
        self._tell(text)
        return False

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            _log.warning("%s", text)


async def _link_of(
    session: aiohttp.ClientSession, peers: Peers, name: str, *, epoch: int
) -> bytes | None:
    """What that replica says leads on from this epoch, unread; None: it says nothing."""
    request = peers.request(name, HttpRequest(url=LINKS_PATH, query={"after": str(epoch)}))
    try:
        answer = await ask(session, request, LINK_BOUNDS)
    except NoAnswer:
        return None
    return answer.data if answer.status == 200 else None


def make_folder(config: ClientConfig, cluster: Cluster, link: bytes) -> Path:
    """Make the folder of the next epoch, if all that a start there needs is here.

    It is there complete or not at all, and it decides where the gateway starts. Raises ConfigError,
    OSError.
    """
    assert cluster.ancestry is not None, "a link leads to no first epoch"
    if cluster.public_key(config.name) is None or cluster.replica_index(config.name) is not None:
        raise ConfigError(leaving(config.name, cluster.epoch))
    following = read_agreed(next_file(config), cluster.ancestry, cluster.configuration)
    key = read_seat_key(config, cluster)
    _check_reached(following, config.name, key)
    folder = epoch_folder(config.data_directory, cluster.epoch)
    unfinished = folder.with_name(folder.name + UNFINISHED)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    with new_file(unfinished / LINK_NAME, FILE_MODE) as stream:
        stream.write(link)
    write_new_file(unfinished / CLUSTER_NAME, cluster_file_text(following), FILE_MODE)
    unfinished.rename(folder)
    sync_directory(config.data_directory)
    return folder


def leaving(name: str, epoch: int) -> str:
    """What the operator of a gateway that leaves is told."""
    return (
        f"{name} is no client of epoch {epoch}: it shows what it has, and has nothing built any"
        " more; stop it once nobody reads it, then destroy its key"
    )


def _check_reached(following: Following, name: str, key: SigningKey) -> None:
    """Raises ConfigError where the gateway could not reach the next replicas as it must."""
    replicas_for(following.config, following.cluster, name, signing_key=key)
