"""A client that never stops asking, and how long it was left without an answer."""

import itertools
import json
import threading
import time
from types import TracebackType
from typing import Self

from tests.processes.network import Network, NoAnswer, ask

APPEND_SECONDS = 120.0
# More than one, so that the group nearly always has something to order.
APPENDERS = 3
# So that a loaded network is not a loaded machine: an append costs 9 ms of CPU, and mostly a test
# waits for something else.
PAUSE_SECONDS = 0.2


class Load:
    """Appends again and again, from several threads. Use it as a context manager."""

    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self._name = name
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._append_all, args=(number,)) for number in range(APPENDERS)
        ]
        self.failures: list[str] = []
        # When each answer came, in monotonic seconds.
        self.answered: list[float] = []
        self.texts: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(APPEND_SECONDS)
        if error is None:
            assert not self.failures, self.failures

    def answers_since(self, since: float) -> int:
        """How many answers came after this time."""
        with self._lock:
            return sum(time > since for time in self.answered)

    def wait_for_answers(self, count: int, seconds: float) -> None:
        """Return once that many more answers came."""
        since = time.monotonic()
        self._network.wait_until(
            lambda: self.answers_since(since) >= count, f"{count} answers", seconds
        )

    def longest_wait(self, since: float) -> float:
        """The longest time without any answer since then, in seconds."""
        with self._lock:
            times = [since, *(time for time in self.answered if time > since)]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def _append_all(self, thread: int) -> None:
        number = 0
        while not self._stop.wait(PAUSE_SECONDS):
            number += 1
            text = f"{self._name}-{thread}-{number};"
            body = json.dumps({"text": text}).encode()
            url = f"{self._network.gateway_url}/api/v1/append"
            try:
                answer = ask(url, body, APPEND_SECONDS)
            except NoAnswer as error:
                self.failures.append(str(error))
                return
            with self._lock:
                # 202: it is on disk, and takes longer than the gateway lets people wait
                if answer.status not in (200, 202):
                    self.failures.append(f"{answer.status}: {answer.body!r}")
                    return
                self.texts.append(text)
                if answer.status == 200:
                    self.answered.append(time.monotonic())
