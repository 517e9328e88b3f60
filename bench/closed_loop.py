"""Clients that ask again as soon as they are answered, and how fast that goes."""

import asyncio
import bisect
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from bench.figures import percentile
from bench.network import BenchFailed
from bench.process_use import cpu_seconds

ANSWERED_SECONDS = 90.0
# Before anything counts: connections and caches are warm, batches have their size.
SETTLE_SECONDS = 0.3
POLL_SECONDS = 0.05


class ClosedLoop(ABC):
    """One client. in_flight: how many requests it has under way at once."""

    def __init__(self, name: str, in_flight: int) -> None:
        self.name = name
        self.in_flight = in_flight
        # (when it was asked, when it was answered), in seconds of time.monotonic, by the latter:
        # uvloop's own clock knows whole milliseconds only
        self.answers: list[tuple[float, float]] = []
        self._asked: dict[int, float] = {}
        self._number = 0
        self._is_asking = False
        self._idle = asyncio.Event()
        self._idle.set()

    @abstractmethod
    def send_request(self, number: int) -> None:
        """Send the request with that number; `note_answer` comes later."""

    def start_asking(self) -> None:
        """Ask, and again with each answer, until `stop_asking`."""
        self._is_asking = True
        for _ in range(self.in_flight - len(self._asked)):
            self._ask()

    async def stop_asking(self) -> None:
        """Ask no more, and wait for what is under way. Raises BenchFailed."""
        self._is_asking = False
        try:
            async with asyncio.timeout(ANSWERED_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            raise BenchFailed(f"{self.name}: no answer within {ANSWERED_SECONDS:g} s") from None

    def note_answer(self, number: int) -> None:
        """A request of ours is answered."""
        now = time.monotonic()
        self.answers.append((self._asked.pop(number), now))
        if self._is_asking:
            self._ask()
        elif not self._asked:
            self._idle.set()

    def _ask(self) -> None:
        self._number += 1
        self._asked[self._number] = time.monotonic()
        self._idle.clear()
        self.send_request(self._number)


class Load(msgspec.Struct, frozen=True):
    """What came of a time under load.

    server_cpu_seconds, client_cpu_seconds: per operation, of all processes that serve together,
    and of this one. On a machine that others use too they say more than times by the wall clock.
    """

    operations_per_second: float
    p50_seconds: float
    p99_seconds: float
    server_cpu_seconds: float
    client_cpu_seconds: float


def answered(
    clients: Sequence[ClosedLoop], since: float, until: float
) -> list[tuple[float, float]]:
    """(asked, answered) of all answers within that time of time.monotonic, in their order."""
    found: list[tuple[float, float]] = []
    for client in clients:
        first = bisect.bisect_left(client.answers, since, key=lambda answer: answer[1])
        last = bisect.bisect_left(client.answers, until, key=lambda answer: answer[1])
        found.extend(client.answers[first:last])
    return sorted(found, key=lambda answer: answer[1])


async def measure(clients: Sequence[ClosedLoop], seconds: float, servers: Sequence[int]) -> Load:
    """Have all of them ask for so many seconds, and until something was answered in them.

    Nothing is under way afterwards.

    servers: the processes whose CPU time is counted. Raises BenchFailed.
    """
    for client in clients:
        client.answers.clear()
        client.start_asking()
    await asyncio.sleep(SETTLE_SECONDS)
    since, before = time.monotonic(), [cpu_seconds(pid) for pid in servers]
    own_before = time.process_time()
    await asyncio.sleep(seconds)
    # on a busy machine, or while a view changes, the first answer may take longer than that
    while not answered(clients, since, time.monotonic()):
        if time.monotonic() > since + ANSWERED_SECONDS:
            break
        await asyncio.sleep(POLL_SECONDS)
    until, after = time.monotonic(), [cpu_seconds(pid) for pid in servers]
    own_after = time.process_time()
    await asyncio.gather(*(client.stop_asking() for client in clients))
    found = answered(clients, since, until)
    if not found:
        raise BenchFailed(f"nothing was answered within {seconds:g} s")
    latencies = [at - asked for asked, at in found]
    return Load(
        len(found) / (until - since),
        percentile(latencies, 0.5),
        percentile(latencies, 0.99),
        (sum(after) - sum(before)) / len(found),
        (own_after - own_before) / len(found),
    )
