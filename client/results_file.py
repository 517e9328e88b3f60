"""`log/results.jsonl`: one line per accepted verdict, exactly once, also across kill -9.

The line is kept in the database in the same commit as the verdict; the file follows. Which line
was written last is remembered there too, with the next commit. So after a crash only lines
after that one are in question, and the end of the file tells which of them it has. An operator
may move the file away at any time: nothing old is written again.
"""

import os
from pathlib import Path

from client.archive import sync_directory
from client.database import Database, StorageFailed

# More than the lines that one transaction can leave in question.
TAIL_BYTES = 4 * 1024 * 1024


class ResultsFile:
    """The file and the lines that are not in it yet."""

    def __init__(self, database: Database, file: Path) -> None:
        self._database = database
        self._file = file
        self._written = 0

    def open(self) -> None:
        """Find out where a crash left the file, and complete it. Raises OSError, StorageFailed."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # Rows up to the mark are deleted with the commit that moved it: what is left is in doubt.
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
        self._forget_written()
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
            sync_directory(self._file.parent)
        self._written = lines[-1][0]

    def close(self) -> None:
        """Write what is left and remember it. Raises OSError, StorageFailed."""
        self.write()
        with self._database.transaction():
            self._forget_written()

    def _forget_written(self) -> None:
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


__all__ = ["ResultsFile", "StorageFailed"]
