"""Posts what is in a queue: one worker per target, one post at a time, until it is heard.

`Sender` is for any queue of that kind, `Reporter` for commit statuses: there a target is a
repository's forge.

What a forge cannot take now is tried again, with back-off, across restarts, for a day. A wrong
token is told once and then tried again rarely, or when its file has changed. What a token does not
see is tried again as rarely, and nothing else waits for it: it may be one commit that is gone.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import aiohttp

from common.config_error import ConfigError
from common.configuration.secret_file import read_secrets
from common.forges.registry import statuses_of
from common.forges.shared.status import (
    Later,
    Meaning,
    Posted,
    Rejected,
    Unseen,
    WrongToken,
)
from common.repositories.repository_config import StatusTarget
from common.statuses.status_queue import Database, StatusQueue, WaitingStatus
from common.web.bounded_http import AnswerBounds, HttpRequest, NoAnswer, ask, bounded_session

POST_TIMEOUT_SECONDS = 15.0
ANSWER_BYTES_MAX = 256 * 1024
RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 300.0
WRONG_TOKEN_SECONDS = 3600.0
# How often a file whose token was refused is looked at.
TOKEN_LOOK_SECONDS = 5.0
GIVE_UP_SECONDS = 24 * 3600.0
STORAGE_AGAIN_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Waiting(Protocol):
    """What waits in a queue. Times are seconds since 1970."""

    @property
    def since(self) -> float:
        """When it was put there."""

    @property
    def attempts(self) -> int:
        """How many were in vain."""

    @property
    def not_before(self) -> float:
        """When it is due."""


Target = TypeVar("Target")
Item = TypeVar("Item", bound=Waiting)


class Queue(Protocol[Item]):
    """A queue in a database. Methods that change something are called inside a transaction."""

    def next(self, target: str, /) -> Item | None:
        """What is due first for a target, due or not."""

    def note_settled(self, waiting: Item, given_up: str | None = None, /) -> None:
        """It is posted, or given up for this reason."""

    def note_later(self, waiting: Item, not_before: float, /) -> None:
        """It was in vain; not again before then."""


class Sender(ABC, Generic[Target, Item]):
    """Posts to some targets, which have names."""

    # what the log calls it all
    what: str

    def __init__(
        self,
        *,
        targets: Mapping[str, Target],
        queue: Queue[Item],
        database: Database,
        clock: Callable[[], float],
        storage_failed: type[Exception],
    ) -> None:
        """targets: by name. clock: seconds since 1970 (time.time).

        storage_failed: what the database raises where the disk takes nothing.
        """
        self.waiting = queue
        self._database = database
        self._clock = clock
        self._storage_failed = storage_failed
        self._workers: dict[str, _Worker[Target, Item]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._is_started = False
        # of the workers, and of those that were let go
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self.use_targets(targets)

    @abstractmethod
    async def _post(self, session: aiohttp.ClientSession, target: Target, item: Item) -> Meaning:
        """Post one, and say what the answer means."""

    @abstractmethod
    def secret_file(self, target: Target) -> Path | None:
        """The file with the target's secret; None: it has none."""

    @abstractmethod
    def shown(self, item: Item) -> str:
        """An item as the log calls it."""

    @property
    def names(self) -> frozenset[str]:
        """The names of its targets."""
        return frozenset(self._workers)

    def start(self) -> None:
        """Begin to post what is waiting."""
        self._is_started = True
        for name in self._workers:
            self._begin(name)

    def use_targets(self, targets: Mapping[str, Target]) -> None:
        """Post to these from now on. What waits for another one stays in the queue.

        One whose target is as before goes on undisturbed.
        """
        for name, worker in tuple(self._workers.items()):
            if targets.get(name) != worker.target:
                del self._workers[name]
                self._end(name)
        for name, target in targets.items():
            if name not in self._workers:
                self._workers[name] = _Worker(self, name, target)
                if self._is_started:
                    self._begin(name)

    def wake(self) -> None:
        """Something was put into the queue."""
        for worker in self._workers.values():
            worker.wake()

    async def close(self) -> None:
        """Stop. What was not posted stays in the queue."""
        for name in tuple(self._tasks):
            self._end(name)
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _begin(self, name: str) -> None:
        if self._session is None:
            self._session = self._new_session()
        self._tasks[name] = asyncio.get_running_loop().create_task(
            self._workers[name].run(), name=f"{self.what} of {name}"
        )

    def _new_session(self) -> aiohttp.ClientSession:
        return bounded_session()

    def _end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def post(self, target: Target, item: Item) -> Meaning:
        """Post one, and say what the answer means. Raises nothing."""
        assert self._session is not None, "start comes first"
        try:
            return await self._post(self._session, target, item)
        except NoAnswer as error:
            return Later(str(error))
        except ConfigError as error:
            return WrongToken(str(error))
        except Exception:  # noqa: BLE001 - told in full; it is tried again, and others get their turn
            _log.exception("%s: a post failed by a fault of our own", self.what)
            return Later("a fault of this program, see above")

    def settle(self, waiting: Item, meaning: Meaning, again_seconds: float) -> None:
        """Note what came of a post. Raises what the database raises."""
        now = self._clock()
        is_too_old = now - waiting.since > GIVE_UP_SECONDS
        with self._database.transaction():
            if isinstance(meaning, Posted):
                self.waiting.note_settled(waiting)
            elif isinstance(meaning, Rejected) or is_too_old:
                _log.error("%s given up: %s", self.shown(waiting), meaning.reason)
                self.waiting.note_settled(waiting, meaning.reason)
            else:
                self.waiting.note_later(waiting, now + again_seconds)

    @property
    def now(self) -> float:
        """Seconds since 1970."""
        return self._clock()

    @property
    def storage_failed(self) -> type[Exception]:
        """What the database raises where the disk takes nothing."""
        return self._storage_failed


class Reporter(Sender[StatusTarget, WaitingStatus]):
    """Reports to the forges of some repositories. A target's name is the repository's url."""

    what = "commit statuses"

    def __init__(
        self,
        *,
        targets: Mapping[str, StatusTarget],
        database: Database,
        clock: Callable[[], float],
        storage_failed: type[Exception],
    ) -> None:
        """As a Sender, of a queue in that database."""
        self.queue = StatusQueue(database)
        super().__init__(
            targets=targets,
            queue=self.queue,
            database=database,
            clock=clock,
            storage_failed=storage_failed,
        )

    @property
    def repositories(self) -> frozenset[str]:
        """The repositories that it reports of."""
        return self.names

    async def _post(
        self, session: aiohttp.ClientSession, target: StatusTarget, item: WaitingStatus
    ) -> Meaning:
        (secret,) = read_secrets(target.token_file, "status token", secrets_max=1)
        forge = statuses_of(target.forge)
        request = forge.request(
            target.api_url, target.project, secret.decode("ascii"), status=item.status
        )
        answer = await ask(
            session,
            HttpRequest(method="POST", url=request.url, headers=request.headers, body=request.body),
            AnswerBounds(ANSWER_BYTES_MAX, POST_TIMEOUT_SECONDS),
        )
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return forge.meaning(answer.status, headers, answer.data, now=self.now)

    def secret_file(self, target: StatusTarget) -> Path:
        """The token's."""
        return target.token_file

    def shown(self, item: WaitingStatus) -> str:
        """State, commit and repository."""
        status = item.status
        return f"status {status.state} of {status.commit[:12]} in {item.repository}"


class _Worker(Generic[Target, Item]):
    """What waits for one target, in its order."""

    def __init__(self, sender: Sender[Target, Item], name: str, target: Target) -> None:
        self._sender = sender
        self._name = name
        self.target = target
        self._awake = asyncio.Event()
        self._told = ""

    def wake(self) -> None:
        """There may be something to post."""
        self._awake.set()

    async def run(self) -> None:
        """Post for ever."""
        while True:
            self._awake.clear()
            try:
                await self._post_next()
            except self._sender.storage_failed as error:
                _log.error("%s: %s; trying again", self._sender.what, error)
                await asyncio.sleep(STORAGE_AGAIN_SECONDS)
            except Exception:  # noqa: BLE001 - told in full; without this task nothing is posted
                _log.exception("%s of %s: trying again", self._sender.what, self._name)
                await asyncio.sleep(STORAGE_AGAIN_SECONDS)

    async def _post_next(self) -> None:
        """Post what is due, or wait until something is."""
        waiting = self._sender.waiting.next(self._name)
        if waiting is None:
            await self._awake.wait()
            return
        seconds = waiting.not_before - self._sender.now
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._awake.wait()
            except TimeoutError:
                pass
            return
        token_version = self._version()
        meaning = await self._sender.post(self.target, waiting)
        again_seconds = min(RETRY_SECONDS * 2 ** min(waiting.attempts, 16), RETRY_SECONDS_MAX)
        if isinstance(meaning, Later):
            again_seconds = max(again_seconds, meaning.seconds or 0.0)
            _log.warning(
                "%s: %s; again in %g s",
                self._sender.shown(waiting),
                meaning.reason,
                round(again_seconds),
            )
        elif isinstance(meaning, Unseen):
            again_seconds = WRONG_TOKEN_SECONDS
            self._tell(meaning.reason)
        self._sender.settle(waiting, meaning, again_seconds)
        if isinstance(meaning, WrongToken):
            await self._wait_for_token(meaning, token_version)
        elif isinstance(meaning, Later):
            # The forge or the way to it is in trouble: what else waits would fare no better.
            await asyncio.sleep(again_seconds)
        elif not isinstance(meaning, Unseen):
            self._told = ""

    def _tell(self, reason: str) -> None:
        """Say what is wrong with a token, once."""
        if reason != self._told:
            self._told = reason
            _log.error("%s of %s: %s", self._sender.what, self._name, reason)

    async def _wait_for_token(
        self, meaning: WrongToken, refused: tuple[int, int, int] | None
    ) -> None:
        """Say once what is wrong; then wait for another token, or an hour."""
        self._tell(meaning.reason)
        end = self._sender.now + WRONG_TOKEN_SECONDS
        # Nothing tells that a file has changed: it is looked at.
        while self._sender.now < end and self._version() == refused:  # noqa: ASYNC110
            await asyncio.sleep(TOKEN_LOOK_SECONDS)

    def _version(self) -> tuple[int, int, int] | None:
        """What changes when somebody puts another secret there."""
        file = self._sender.secret_file(self.target)
        try:
            found = None if file is None else file.stat()
        except OSError:
            return None
        return None if found is None else (found.st_mtime_ns, found.st_size, found.st_mode)
