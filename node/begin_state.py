"""Gets the state that a later epoch begins with from other members (docs/decisions/0064).

The rule: the epoch's id names the state, so it counts by its digest alone, whoever gives it. Wrong
bytes are the fault of whoever gave them, and the next one is asked. Each is given so many seconds.
Once all had them, all get twice as many: a slow member costs a multiple of what an honest one
needs, and no more, however slow the network is.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Mapping, Sequence

import aiohttp

from ci.admission import STATE_BYTES_MAX
from common.configuration.config import ConfigError, NodeConfig
from common.epoch_folder import BEGIN_NAME, EPOCH_FOLDERS, epoch_folder
from common.web.bounded_http import CannotWrite, HttpRequest, NoAnswer, bounded_session, save
from common.web.peers import Peers
from driver.ports import SaveFailed
from node.opening import Member
from node.storage import recovery_files
from node.storage.damage import StoreDamaged, StoreUnusable
from node.storage.epoch_folder import read_state, take_over
from node.web.begin_state_routes import PATH
from pbft.genesis import Cluster

# Twice what a state may have: its encoding adds a few bytes to each of its parts.
FETCHED_BYTES_MAX = 2 * STATE_BYTES_MAX
# What the first member that is asked has: enough for 60 MB at 1 MB/s. States are mostly smaller.
SECONDS_MIN = 60.0
# Then 1.6 GB come at 0.2 MB/s.
SECONDS_MAX = 7680.0
FETCHED_NAME = ".fetched"
AGAIN_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Turns:
    """Which member is asked next, and for how long."""

    def __init__(self, names: Sequence[str]) -> None:
        """names: those that may have the state; there is one."""
        self._names = tuple(names)
        self._asked = 0
        # who gave something else
        self._wrong: set[str] = set()

    def next(self) -> tuple[str, float]:
        """The next member, and how many seconds it has."""
        if self._wrong.issuperset(self._names):
            # All of them: then it is more likely that something on the way is wrong.
            self._wrong.clear()
        while self._names[self._asked % len(self._names)] in self._wrong:
            self._asked += 1
        rounds, place = divmod(self._asked, len(self._names))
        self._asked += 1
        return self._names[place], min(SECONDS_MIN * 2**rounds, SECONDS_MAX)

    def note_wrong(self, name: str) -> None:
        """That member gave something else: the others are asked first."""
        self._wrong.add(name)


class BeginStateFetch:
    """Gets the state that one epoch begins with."""

    def __init__(self, config: NodeConfig, cluster: Cluster, peers: Peers) -> None:
        """cluster: of that epoch. peers: its other replicas, as this one reaches them."""
        # why there is none yet, in one line for people
        self.reason = "no other replica is known"
        self._cluster = cluster
        self._peers = peers
        self._turns = Turns(sorted(peers)) if peers else None
        folder = epoch_folder(config.data_directory, cluster.epoch)
        self._file = folder.with_name(folder.name + FETCHED_NAME)

    async def ask(self, session: aiohttp.ClientSession) -> Mapping[str, bytes] | None:
        """The state, if the next member gives it; None: `reason` says why not."""
        if self._turns is None:
            return None
        name, seconds = self._turns.next()
        try:
            await self._save(session, name, seconds)
            return await asyncio.to_thread(read_state, self._file, self._cluster)
        except StoreDamaged:
            self._turns.note_wrong(name)
            self.reason = f"{name} gave another state than epoch {self._cluster.epoch} begins with"
            _log.warning("%s; the next replica is asked", self.reason)
        except NoAnswer as error:
            self.reason = f"{name} gave no state: {error}"
        except (CannotWrite, OSError) as error:
            self.reason = f"{self._file} cannot be written: {error}"
        finally:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)
        return None

    async def _save(self, session: aiohttp.ClientSession, name: str, seconds: float) -> None:
        query = {"epoch": str(self._cluster.epoch)}
        request = self._peers.request(name, HttpRequest(url=PATH, query=query))
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("wb") as file:
            status, _ = await save(
                session,
                request,
                file,
                length=FETCHED_BYTES_MAX,
                timeout_seconds=seconds,
                is_exact=False,
            )
        if status != 200:
            raise NoAnswer(f"it answered with status {status}")


async def join_by_itself(config: NodeConfig, member: Member) -> bool:
    """Have the state of a new member's epoch here; whether the node is to start.

    Returns at once where it is here or none is needed, and False if the node is told to stop while
    it waits. Raises StoreUnusable.
    """
    cluster = member.identity.cluster
    folder = epoch_folder(config.data_directory, cluster.epoch)
    if cluster.ancestry is None or (folder / BEGIN_NAME).exists():
        return True
    fetching = asyncio.create_task(_fetched(config, cluster, member.others()), name="begin state")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, fetching.cancel)
    try:
        parts = await fetching
    except asyncio.CancelledError:
        return False
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    try:
        # of a lost disk: its operator may have put the marker into the folder of any epoch
        places = (config.data_directory, *config.data_directory.glob(EPOCH_FOLDERS))
        has_forgotten = any(map(recovery_files.is_begun, places))
        take_over(
            config.data_directory,
            cluster,
            config.name,
            parts=parts,
            entries=iter(()),
            has_forgotten=has_forgotten,
        )
    except (OSError, SaveFailed, ConfigError) as error:
        raise StoreUnusable(f"epoch {cluster.epoch} cannot begin here: {error}") from error
    _log.warning(
        "%s begins in epoch %d with the state that the others gave it; the ledger is fetched",
        config.name,
        cluster.epoch,
    )
    return True


async def _fetched(config: NodeConfig, cluster: Cluster, peers: Peers) -> Mapping[str, bytes]:
    fetch = BeginStateFetch(config, cluster, peers)
    told: str | None = None
    async with bounded_session() as session:
        while (parts := await fetch.ask(session)) is None:
            if fetch.reason != told:
                told = fetch.reason
                _log.warning(
                    "epoch %d begins here once another replica gives the state that it begins"
                    " with: %s",
                    cluster.epoch,
                    told,
                )
            await asyncio.sleep(AGAIN_SECONDS)
    return parts
