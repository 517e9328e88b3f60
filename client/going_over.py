"""A gateway begins the next epoch by itself, once the replicas have ended its own (decision 0063).

The rule: a link leads on, for it proves itself, and it is followed only to the members of the file
that this gateway's operator put there. A gateway has no vote, so it waits for nobody: it goes over
once one replica gives the link (`common.membership.link_search`).
"""

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import aiohttp

from common.configuration.config import ClientConfig, ConfigError
from common.configuration.keys import SigningKey
from common.epoch_folder import (
    CLUSTER_NAME,
    LINK_MODE,
    LINK_NAME,
    UNFINISHED,
    epoch_folder,
    forget_if_passed,
    keep_passed_link,
)
from common.links.members import replicas_for
from common.membership.epochs import (
    Following,
    cluster_file_text,
    next_file,
    read_seat_key,
)
from common.membership.link_search import Found, LinkSearch
from common.new_file import new_file, sync_folder, write_new_file
from common.web.bounded_http import bounded_session
from common.web.peers import Peers
from pbft.genesis import Cluster

LOOK_SECONDS = 1.0

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
        self._on_over = on_over
        self._search = LinkSearch(cluster, peers, connected=connected, next_file=next_file(config))
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
        try:
            found = await self._search.find(session)
            if found is None:
                self.waits_for = self._search.contradiction or self.waits_for
                return False
            folder = await asyncio.to_thread(make_folder, self._config, found)
        except (ConfigError, OSError) as error:
            last = self._search.proved[-1].cluster
            reason = (
                str(error)
                if _is_client(last, self._config.name)
                else leaving(self._config.name, last.epoch)
            )
            self.waits_for = (
                f"epoch {self._cluster.epoch} has ended, and the next one cannot begin here:"
                f" {reason}"
            )
            if self.waits_for not in self._told:
                self._told.add(self.waits_for)
                _log.warning("%s", self.waits_for)
            return False
        epoch = found.following.cluster.epoch
        _log.warning("%s goes over to epoch %d: %s", self._config.name, epoch, folder)
        return True


def make_folder(config: ClientConfig, found: Found) -> Path:
    """Make the folder of the next epoch, if all that a start there needs is here.

    It is there complete or not at all, and it decides where the gateway starts. Raises ConfigError,
    OSError.
    """
    following, cluster = found.following, found.following.cluster
    if not _is_client(cluster, config.name):
        raise ConfigError(leaving(config.name, cluster.epoch))
    key = read_seat_key(config, cluster)
    _check_reached(following, config.name, key)
    for passed in found.passed:
        keep_passed_link(config.data_directory, passed.cluster.epoch, passed.link)
    folder = epoch_folder(config.data_directory, cluster.epoch)
    unfinished = folder.with_name(folder.name + UNFINISHED)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    with new_file(unfinished / LINK_NAME, LINK_MODE) as stream:
        stream.write(found.link)
    write_new_file(unfinished / CLUSTER_NAME, cluster_file_text(following), LINK_MODE)
    forget_if_passed(folder)
    unfinished.rename(folder)
    sync_folder(config.data_directory)
    return folder


def leaving(name: str, epoch: int) -> str:
    """What the operator of a gateway that leaves is told."""
    return (
        f"{name} is no client of epoch {epoch}: it shows what it has, and has nothing built any"
        " more; stop it once nobody reads it, then destroy its key"
    )


def _is_client(cluster: Cluster, name: str) -> bool:
    return cluster.public_key(name) is not None and cluster.replica_index(name) is None


def _check_reached(following: Following, name: str, key: SigningKey) -> None:
    """Raises ConfigError where the gateway could not reach the next replicas as it must."""
    replicas_for(following.config, following.cluster, name, signing_key=key)
