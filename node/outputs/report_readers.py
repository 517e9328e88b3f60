"""The processes that read test reports, one for each reading; the next one is started ahead.

A process reads the reports of one build and ends. To start Python and its imports costs more than
most reports. So a node that has read some starts the next process behind a build, and it waits
for its first line. It ends with the node, however that ends: its input is closed then.
"""

import subprocess
import sys
import threading
from contextlib import suppress

from common.junit import report_process


def start_reader() -> "subprocess.Popen[bytes]":
    """A process that reads test reports (common.junit.report_process). Raises OSError."""
    return subprocess.Popen(
        (sys.executable, "-I", "-S", report_process.__file__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        # what ends the node from a terminal is not for it
        start_new_session=True,
    )


class ReportReaders:
    """Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready: subprocess.Popen[bytes] | None = None
        self._is_needed = False
        self._is_closed = False

    def take(self) -> "subprocess.Popen[bytes]":
        """A process for one reading, which is the caller's from now on. Raises OSError."""
        with self._lock:
            self._is_needed = True
            ready, self._ready = self._ready, None
        if ready is None:
            return start_reader()
        if ready.poll() is None:
            return ready
        # something ended it, so it would read nothing
        _end(ready)
        return start_reader()

    def prepare(self) -> None:
        """Start the next process if one was taken since."""
        with self._lock:
            if self._is_needed and self._ready is None and not self._is_closed:
                self._is_needed = False
                # else `take` tries it, and says so
                with suppress(OSError):
                    self._ready = start_reader()

    def close(self) -> None:
        """End what waits, and start nothing more ahead."""
        with self._lock:
            self._is_closed = True
            ready, self._ready = self._ready, None
        if ready is not None:
            _end(ready)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
