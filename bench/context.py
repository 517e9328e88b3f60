"""What every bench is given: how much to do, where to write, whom to tell."""

import contextlib
import itertools
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

Measured = TypeVar("Measured")


class Context:
    """One run of one bench. Its folder is gone after it."""

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None],
        *,
        is_quick: bool,
        minutes: float | None = None,
    ) -> None:
        """folder: exists, on the disk that counts. say: shows one line of progress.

        minutes: how long what runs for a given time should run; None: as the bench thinks best.
        """
        self.is_quick = is_quick
        self.minutes = minutes
        self._folder = folder
        self._say = say
        self._numbers = itertools.count(1)

    def say(self, text: str) -> None:
        """One line of progress."""
        self._say(text)

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """A new folder for something that is started; all of it is removed at the end."""
        folder = self._folder / f"{next(self._numbers)}-{name}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def pairs(
        self,
        repetitions: int,
        product: Callable[[], Awaitable[Measured]],
        reference: Callable[[], Awaitable[Measured]],
    ) -> tuple[list[Measured], list[Measured]]:
        """Measure both sides so many times, one right after the other, each first in turn."""
        ours: list[Measured] = []
        theirs: list[Measured] = []
        for number in range(repetitions):
            if number % 2:
                theirs.append(await reference())
                ours.append(await product())
            else:
                ours.append(await product())
                theirs.append(await reference())
            self.say(f"pair {number + 1} of {repetitions}")
        return ours, theirs
