"""Posts what is in the queue: one worker per repository, one post at a time, until it is heard.

What a forge cannot take now is tried again, with back-off, across restarts, for a day. A wrong
token is told once and then tried again rarely, or when its file has changed. What a token does not
see is tried again as rarely, and nothing else waits for it: it may be one commit that is gone.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

import aiohttp

from common.config_error import ConfigError
from common.configuration.secret_file import read_secrets
from common.forges.registry import statuses_of
from common.forges.shared.status import (
    CommitStatus,
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


class Reporter:
    """Reports to the forges of some repositories."""

    def __init__(
        self,
        *,
        targets: Mapping[str, StatusTarget],
        database: Database,
        clock: Callable[[], float],
        storage_failed: type[Exception],
    ) -> None:
        """targets: by the repository's url. clock: seconds since 1970 (time.time).

        storage_failed: what the database raises where the disk takes nothing.
        """
        self.queue = StatusQueue(database)
        self._database = database
        self._clock = clock
        self._storage_failed = storage_failed
        self._workers: dict[str, _Worker] = {}
        self._session: aiohttp.ClientSession | None = None
        self._is_started = False
        # of the workers, and of those that were let go
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self.use_targets(targets)

    @property
    def repositories(self) -> frozenset[str]:
        """The repositories that it reports of."""
        return frozenset(self._workers)

    def start(self) -> None:
        """Begin to post what is waiting."""
        self._is_started = True
        for repository in self._workers:
            self._begin(repository)

    def use_targets(self, targets: Mapping[str, StatusTarget]) -> None:
        """Report of these repositories from now on. What waits for another one stays in the queue.

        A repository whose target is as before goes on undisturbed.
        """
        for repository, worker in tuple(self._workers.items()):
            if targets.get(repository) != worker.target:
                del self._workers[repository]
                self._end(repository)
        for repository, target in targets.items():
            if repository not in self._workers:
                self._workers[repository] = _Worker(self, repository, target)
                if self._is_started:
                    self._begin(repository)

    def wake(self) -> None:
        """Something was put into the queue."""
        for worker in self._workers.values():
            worker.wake()

    async def close(self) -> None:
        """Stop. What was not posted stays in the queue."""
        for repository in tuple(self._tasks):
            self._end(repository)
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _begin(self, repository: str) -> None:
        if self._session is None:
            self._session = bounded_session()
        self._tasks[repository] = asyncio.get_running_loop().create_task(
            self._workers[repository].run(), name=f"statuses of {repository}"
        )

    def _end(self, repository: str) -> None:
        task = self._tasks.pop(repository, None)
        if task is not None:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def post(self, target: StatusTarget, status: CommitStatus) -> Meaning:
        """Post one status, and say what the answer means. Raises nothing."""
        assert self._session is not None, "start comes first"
        try:
            (secret,) = read_secrets(target.token_file, "status token", secrets_max=1)
        except ConfigError as error:
            return WrongToken(str(error))
        try:
            return await self._post(target, secret.decode("ascii"), status)
        except Exception:  # noqa: BLE001 - told in full; it is tried again, and others get their turn
            _log.exception("a commit status could not be posted by a fault of our own")
            return Later("a fault of this program, see above")

    async def _post(self, target: StatusTarget, token: str, status: CommitStatus) -> Meaning:
        assert self._session is not None
        forge = statuses_of(target.forge)
        request = forge.request(target.api_url, target.project, token, status=status)
        try:
            answer = await ask(
                self._session,
                HttpRequest(
                    method="POST", url=request.url, headers=request.headers, body=request.body
                ),
                AnswerBounds(ANSWER_BYTES_MAX, POST_TIMEOUT_SECONDS),
            )
        except NoAnswer as error:
            return Later(str(error))
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return forge.meaning(answer.status, headers, answer.data, now=self._clock())

    def settle(self, waiting: WaitingStatus, meaning: Meaning, again_seconds: float) -> None:
        """Note what came of a post. Raises what the database raises."""
        now = self._clock()
        is_too_old = now - waiting.since > GIVE_UP_SECONDS
        with self._database.transaction():
            if isinstance(meaning, Posted):
                self.queue.note_settled(waiting)
            elif isinstance(meaning, Rejected) or is_too_old:
                _log.error("%s given up: %s", _shown(waiting), meaning.reason)
                self.queue.note_settled(waiting, meaning.reason)
            else:
                self.queue.note_later(waiting, now + again_seconds)

    @property
    def now(self) -> float:
        """Seconds since 1970."""
        return self._clock()

    @property
    def storage_failed(self) -> type[Exception]:
        """What the database raises where the disk takes nothing."""
        return self._storage_failed


class _Worker:
    """The statuses of one repository, in their order."""

    def __init__(self, reporter: Reporter, repository: str, target: StatusTarget) -> None:
        self._reporter = reporter
        self._repository = repository
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
            except self._reporter.storage_failed as error:
                _log.error("commit statuses: %s; trying again", error)
                await asyncio.sleep(STORAGE_AGAIN_SECONDS)
            except Exception:  # noqa: BLE001 - told in full; without this task nothing is posted
                _log.exception("commit statuses of %s: trying again", self._repository)
                await asyncio.sleep(STORAGE_AGAIN_SECONDS)

    async def _post_next(self) -> None:
        """Post what is due, or wait until something is."""
        waiting = self._reporter.queue.next(self._repository)
        if waiting is None:
            await self._awake.wait()
            return
        seconds = waiting.not_before - self._reporter.now
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._awake.wait()
            except TimeoutError:
                pass
            return
        token_version = _version_of(self.target)
        meaning = await self._reporter.post(self.target, waiting.status)
        again_seconds = min(RETRY_SECONDS * 2 ** min(waiting.attempts, 16), RETRY_SECONDS_MAX)
        if isinstance(meaning, Later):
            again_seconds = max(again_seconds, meaning.seconds or 0.0)
            _log.warning(
                "%s: %s; again in %g s", _shown(waiting), meaning.reason, round(again_seconds)
            )
        elif isinstance(meaning, Unseen):
            again_seconds = WRONG_TOKEN_SECONDS
            self._tell(meaning.reason)
        self._reporter.settle(waiting, meaning, again_seconds)
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
            _log.error("commit statuses of %s: %s", self._repository, reason)

    async def _wait_for_token(
        self, meaning: WrongToken, refused: tuple[int, int, int] | None
    ) -> None:
        """Say once what is wrong; then wait for another token, or an hour."""
        self._tell(meaning.reason)
        end = self._reporter.now + WRONG_TOKEN_SECONDS
        # Nothing tells that a file has changed: it is looked at.
        while self._reporter.now < end and _version_of(self.target) == refused:  # noqa: ASYNC110
            await asyncio.sleep(TOKEN_LOOK_SECONDS)


def _version_of(target: StatusTarget) -> tuple[int, int, int] | None:
    """What changes when somebody puts another token there."""
    try:
        found = target.token_file.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_mode)


def _shown(waiting: WaitingStatus) -> str:
    status = waiting.status
    return f"status {status.state} of {status.commit[:12]} in {waiting.repository}"
