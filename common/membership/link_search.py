"""What leads on from an epoch, as replicas that have gone over give it (docs/decisions/0063, 0064).

The rule: a link counts by its signatures alone, whoever gives it. Two different links from one
epoch are both left alone, since whoever made one of them has `strong` keys of that epoch.

A replica that has gone over has no link to the members of the epoch before. So only those without
one are asked.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import aiohttp
import msgspec

from common.configuration.config import ConfigError, load_cluster_config
from common.membership.epochs import Following, followed_by, read_agreed
from common.web.bounded_http import AnswerBounds, HttpRequest, NoAnswer, ask
from common.web.peers import Peers
from pbft.epoch_link import LINK_BYTES_MAX
from pbft.genesis import Cluster
from pbft.ports import Refusal

# So long a replica that answers slowly, or not at all, holds up a look.
LINK_BOUNDS = AnswerBounds(bytes_max=LINK_BYTES_MAX, timeout_seconds=5.0)
LINKS_PATH = "/pbft/links"
# How far a member may be behind: whoever is further is given a newer cluster file.
PASSED_MAX = 8

_log = logging.getLogger(__name__)


class ProvedEpoch(msgspec.Struct, frozen=True):
    """A later epoch, and the encoded link that leads to it from the one before."""

    cluster: Cluster
    link: bytes


class Found(msgspec.Struct, frozen=True):
    """The epoch to begin. passed: those between it and the present one, the earliest first."""

    following: Following
    link: bytes
    passed: tuple[ProvedEpoch, ...]


class LinkSearch:
    """Looks for what leads on from the epoch of one member."""

    def __init__(
        self,
        cluster: Cluster,
        peers: Peers,
        *,
        connected: Callable[[], frozenset[str]],
        next_file: Path,
    ) -> None:
        """peers: the other replicas of this epoch. connected: those that there is a link to now.

        next_file: of the next members, as the operator gives it. It says where they have moved.
        """
        # the later epochs that are proved, one after the other
        self.proved: list[ProvedEpoch] = []
        # two links of one epoch in one line for people; None: there were none
        self.contradiction: str | None = None
        self._cluster = cluster
        self._peers = peers
        self._connected = connected
        self._next_file = next_file
        # what was logged already
        self._told: set[str] = set()

    async def find(self, session: aiohttp.ClientSession) -> Found | None:
        """The epoch of the operator's file, if links lead there; None: none leads on from here.

        Raises ConfigError: links lead on, and the file is not there or is of no epoch on the way.
        """
        while True:
            found: Found | ConfigError | None = None
            if self.proved:
                found = await asyncio.to_thread(agreed_among, self._next_file, self.proved)
            if isinstance(found, Found):
                return found
            if len(self.proved) >= PASSED_MAX or not await self._look_further(session):
                break
        if found is not None:
            raise found
        return None

    async def _look_further(self, session: aiohttp.ClientSession) -> bool:
        """Ask once for the link that leads on from the last proved epoch; whether there is one."""
        away = [name for name in self._peers if name not in self._connected()]
        if not away:
            return False
        last = self.proved[-1].cluster if self.proved else self._cluster
        peers = await asyncio.to_thread(self._where, away)
        answers = await asyncio.gather(
            *(_link_of(session, peers, name, epoch=last.epoch) for name in away)
        )
        proved: dict[bytes, ProvedEpoch] = {}
        for name, link in zip(away, answers, strict=True):
            if link is None:
                continue
            found = await asyncio.to_thread(followed_by, last, link)
            if isinstance(found, Refusal):
                self._tell(f"{name}: its link to the next epoch is refused: {found.reason}")
            else:
                proved[found.id] = ProvedEpoch(found, link)
        if len(proved) > 1:
            ids = " and ".join(sorted(each.hex() for each in proved))
            self.contradiction = (
                f"epoch {last.epoch + 1} is proved twice, as {ids}: neither is followed;"
                " ask the operators which one they confirmed, and put its cluster file here"
            )
            self._tell(self.contradiction)
            return False
        self.proved += proved.values()
        return bool(proved)

    def _where(self, names: Iterable[str]) -> Peers:
        """These replicas, where the next members' file has them: they may have moved."""
        try:
            replicas = load_cluster_config(self._next_file).replicas
        except ConfigError:
            replicas = ()
        moved = {entry.name: entry.address for entry in replicas}
        addresses = {name: moved.get(name, self._peers[name]) for name in names}
        return Peers(addresses, self._peers.tls)

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            _log.warning("%s", text)


def agreed_among(file: Path, proved: Sequence[ProvedEpoch]) -> Found | ConfigError | None:
    """The latest of the proved epochs whose members are those of the operator's file.

    ConfigError: why it is not the last one either. None: no epoch is proved.
    """
    reason: ConfigError | None = None
    for place in reversed(range(len(proved))):
        cluster = proved[place].cluster
        assert cluster.ancestry is not None, "a link leads to no first epoch"
        try:
            following = read_agreed(file, cluster.ancestry, cluster.configuration)
        except ConfigError as error:
            reason = reason or error
        else:
            return Found(following, proved[place].link, tuple(proved[:place]))
    return reason


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
