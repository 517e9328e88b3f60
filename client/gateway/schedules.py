"""Orders the builds of schedules (`schedules:`) when they are due.

The rule: a time is dealt with in the commit that accepts its build. So whatever ends this process,
one time makes one build. Times that pass while it is down or cannot ask for the branch's commit are
one build together, of the last of them: nobody wants the builds of a week at once.

Several gateways may have the same schedule. The delivery is made of the schedule and the time, so
that theirs is one build if they find the same commit; if the branch moves in between, it is two.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from ci.operations import Delivery, Event
from client.gateway.resolve import FoundCommit, NoSuchBranch, Resolution, Unreachable
from client.gateway.webhook_router import delivery_identity
from client.gateway.write_queue import QueueFull
from client.gateway.writes import Due
from client.storage.build_request import BuildRequest, Submitted
from client.storage.database import StorageFailed
from client.storage.due_times import DueTimes
from common.repositories.repository_config import GatewayRepository
from common.repositories.schedule import MINUTE_SECONDS, Schedule, last_due

# What stands for the forge in the delivery.
DELIVERY_NAME = "cron"
# After a try in vain.
AGAIN_SECONDS = 10.0
# A time that is noted further ahead than this was noted by a clock that was wrong.
AHEAD_MINUTES_MAX = 24 * 60

_log = logging.getLogger(__name__)


class Orders(Protocol):
    """What takes the builds (client.gateway.gateway.Gateway)."""

    async def find_commit(self, request: BuildRequest) -> Resolution:
        """Where the request's ref points now. Raises nothing."""

    async def order(self, request: BuildRequest, *, due: Due | None = None) -> Submitted:
        """Accept a build, and with it the time of a schedule. Raises QueueFull, StorageFailed."""

    async def pass_over(self, due: Due) -> None:
        """Have a time dealt with, without a build. Raises StorageFailed."""


class Schedules:
    """The schedules of one gateway, a task for each."""

    def __init__(
        self, orders: Orders, due_times: DueTimes, *, clock: Callable[[], float] = time.time
    ) -> None:
        """clock: seconds since 1970."""
        self._orders = orders
        self._due_times = due_times
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    def use_repositories(self, repositories: Sequence[GatewayRepository]) -> None:
        """Keep the schedules of these repositories from now on."""
        self._cancel()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._keep(entry.url, schedule), name=f"schedule {schedule.name}")
            for entry in repositories
            for schedule in entry.schedules
        ]

    async def close(self) -> None:
        """Stop. What is due meanwhile is dealt with after the next start."""
        tasks = self._cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self, repository: str, schedule: Schedule) -> bool:
        """Deal with what is due by now; False: that was in vain, so look again soon."""
        now = int(self._clock()) // MINUTE_SECONDS
        key = (repository, schedule.branch, schedule.name)
        try:
            dealt_with = self._due_times.last(key)
            if dealt_with is None or dealt_with > now + AHEAD_MINUTES_MAX:
                # a schedule that is new here begins now
                await self._orders.pass_over(Due(*key, now))
                return True
            minute = last_due(schedule.cron, now)
            if minute is None or minute <= dealt_with:
                return True
            return await self._deal_with(Due(*key, minute))
        except (StorageFailed, QueueFull) as error:
            _log.error("schedule %s: %s; trying again", schedule.name, error)
            return False

    async def _deal_with(self, due: Due) -> bool:
        """Have it built; False: its commit cannot be found out. Raises StorageFailed, QueueFull."""
        time_of = (due.branch, due.name, str(due.minute))
        request = BuildRequest(
            repository=due.repository,
            branch=due.branch,
            event=Event.CRON,
            delivery=Delivery(
                DELIVERY_NAME, delivery_identity(DELIVERY_NAME, due.repository, *time_of)
            ),
            schedule=due.name,
        )
        found = await self._orders.find_commit(request)
        match found:
            case Unreachable():
                _log.warning("schedule %s: %s; asking again", due.name, found.reason)
                return False
            case NoSuchBranch():
                _log.warning("schedule %s: %s has no such branch", due.name, due.repository)
                await self._orders.pass_over(due)
            case FoundCommit():
                request = msgspec.structs.replace(request, commit=found.commit)
                await self._orders.order(request, due=due)
        return True

    def _cancel(self) -> list[asyncio.Task[None]]:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        return tasks

    async def _keep(self, repository: str, schedule: Schedule) -> None:
        while True:
            is_done = await self.look(repository, schedule)
            rest = MINUTE_SECONDS - self._clock() % MINUTE_SECONDS
            await asyncio.sleep(rest if is_done else min(rest, AGAIN_SECONDS))
