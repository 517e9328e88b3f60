"""`log/results.jsonl`: one line per accepted verdict, exactly once, also across kill -9.

The line is kept in the database in the same commit as the verdict; the file follows. What is in
it is forgotten there a moment later, in a commit that is made for something else where there is
one. So after a crash only the lines of that moment are in question, and the end of the file tells
which of them it has. An operator may move the file away at any time: nothing old is written again,
but for lines of the moment before a crash, where the file was moved before the next start.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from client.gateway.writes import ForgetWrittenResults, Write
from client.storage.database import Database, StorageFailed
from common.new_file import sync_folder

# More than the lines that one transaction can leave in question.
TAIL_BYTES = 4 * 1024 * 1024
# Replies that come late make a commit by then, which forgets the line too; this is for the rest.
FORGET_SECONDS = 0.2

_log = logging.getLogger(__name__)


class ResultsFile:
    """The file and the lines that are not in it yet."""

    def __init__(self, database: Database, file: Path) -> None:
        self._database = database
        self._file = file
        self._written = 0

    def open(self) -> None:
        """Find out where a crash left the file, and complete it. Raises OSError, StorageFailed."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # What is known to be in the file is deleted soon after: what is left is in doubt.
        present = self._lines_at_end()
        for number, line in self._lines_after(0):
            if line not in present:
                break
            self._written = number
        self.write()

    def add(self, build: bytes, line: bytes) -> None:
        """Keep the line of a verdict; call it in the transaction that keeps the verdict.

        line: without its line end.
        """
        self.forget_written()
        self._database.write(
            "INSERT INTO results (build, line) VALUES (?, ?) ON CONFLICT DO NOTHING", (build, line)
        )

    def write(self) -> None:
        """Append every line that is kept and not written, and sync. Raises OSError, StorageFailed.

        After an error nothing is lost: the next call goes on after the last complete line.
        """
        lines = self._lines_after(self._written)
        if not lines:
            return
        existed = self._file.exists()
        descriptor = os.open(
            self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
        )
        try:
            length = os.fstat(descriptor).st_size
            try:
                data = b"".join(line + b"\n" for _, line in lines)
                while data:
                    data = data[os.write(descriptor, data) :]
                os.fsync(descriptor)
            except OSError:
                # Half a line must not stay: the next attempt writes it whole.
                os.ftruncate(descriptor, length)
                raise
        finally:
            os.close(descriptor)
        if not existed:
            sync_folder(self._file.parent)
        self._written = lines[-1][0]

    def close(self) -> None:
        """Write what is left and remember it. Raises OSError, StorageFailed."""
        self.write()
        with self._database.transaction():
            self.forget_written()

    def forget_written(self) -> None:
        """Keep no line any more that is in the file; call it inside a transaction."""
        self._database.write("DELETE FROM results WHERE number <= ?", (self._written,))

    def _lines_after(self, number: int) -> list[tuple[int, bytes]]:
        rows = self._database.rows(
            "SELECT number, line FROM results WHERE number > ? ORDER BY number", (number,)
        )
        return [(int(number), bytes(line)) for number, line in rows]

    def _lines_at_end(self) -> set[bytes]:
        """The complete lines near the end of the file; a torn last one is cut off."""
        try:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return set()
        try:
            length = os.fstat(descriptor).st_size
            start = max(0, length - TAIL_BYTES)
            tail = os.pread(descriptor, length - start, start)
            complete = tail.rfind(b"\n") + 1
            if complete < len(tail):
                os.ftruncate(descriptor, start + complete)
                os.fsync(descriptor)
            lines = tail[:complete].split(b"\n")
            return set(lines[1:] if start else lines)
        finally:
            os.close(descriptor)


class ResultsWriter:
    """Keeps one gateway's file up with its verdicts.

    put: has a write applied in the next commit. spawn: runs something beside the rest.
    """

    def __init__(
        self,
        results: ResultsFile,
        put: Callable[[Write], Awaitable[object]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._results = results
        self._put = put
        self._spawn = spawn
        self._is_waiting = False

    def write(self) -> None:
        """Write what is kept, and have it forgotten a moment later."""
        try:
            self._results.write()
        except (OSError, StorageFailed) as error:
            _log.error("results file: %s; the line is written with the next one", error)
            return
        self.forget_soon()

    def forget_soon(self) -> None:
        """Have what is in the file forgotten, with all that is written until then."""
        if not self._is_waiting:
            self._is_waiting = True
            self._spawn(self._forget())

    async def _forget(self) -> None:
        await asyncio.sleep(FORGET_SECONDS)
        # before it is put: a line that is written from now on may come too late for this
        self._is_waiting = False
        try:
            await self._put(ForgetWrittenResults())
        except StorageFailed as error:
            _log.error("results file: %s; what is in it is forgotten with the next line", error)


__all__ = ["ResultsFile", "ResultsWriter", "StorageFailed"]
