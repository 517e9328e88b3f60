"""The log of one build on disk, bounded: the head as it comes, the tail at the end.

A build may write without end; what is kept is the first half and the last half of the limit, with
one line between them that says how many bytes were cut. Memory holds the last half at most.
"""

import hashlib
import threading
from collections import deque
from pathlib import Path
from typing import BinaryIO

# room for the line between head and tail
MARKER_BYTES_MAX = 96
# small writes are gathered up to this size, so that memory is not spent on bookkeeping
CHUNK_BYTES = 16 * 1024


class BuildLog:
    """Takes output as it comes, from any thread; `finish` completes the file."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        """Starts an empty file. bytes_max: of the file when finished. Raises OSError."""
        self.path = path
        self._head_bytes_max = (bytes_max - MARKER_BYTES_MAX) // 2
        self._tail_bytes_max = bytes_max - MARKER_BYTES_MAX - self._head_bytes_max
        self._head_bytes = 0
        self._tail: deque[bytearray] = deque()
        self._tail_bytes = 0
        self._cut_bytes = 0
        self._last = b"\n"
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        # unbuffered: whoever reads along sees each piece of the head at once
        self._file: BinaryIO | None = path.open("wb", buffering=0)

    def write(self, data: bytes) -> None:
        """Output of the build. Raises OSError (disk full)."""
        with self._lock:
            if self._file is None or not data:
                return
            self._last = data[-1:]
            taken = data[: self._head_bytes_max - self._head_bytes]
            if taken:
                _write_all(self._file, taken)
                self._head_bytes += len(taken)
            self._keep_tail(data[len(taken) :])

    def note(self, text: str) -> None:
        """One line of this node's own, marked as such. Raises OSError (disk full)."""
        start = "" if self._last == b"\n" else "\n"
        self.write(f"{start}[pbft-ci] {text}\n".encode(errors="backslashreplace"))

    def finish(self) -> tuple[str, int]:
        """Complete and close the file: (SHA-256 in hex, size) of the whole. Raises OSError."""
        with self._lock:
            if self._file is not None:
                if self._cut_bytes:
                    marker = f"\n[pbft-ci] ... {self._cut_bytes} bytes were cut here ...\n"
                    _write_all(self._file, marker.encode())
                for chunk in self._tail:
                    _write_all(self._file, chunk)
                self._tail.clear()
                self._file.close()
                self._file = None
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, self.path.stat().st_size

    def close(self) -> None:
        """Close the file where `finish` was never reached; never raises OSError."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
            self._tail.clear()

    def _keep_tail(self, data: bytes) -> None:
        """Put data at the end of the tail and drop from its start what is too much."""
        if not data:
            return
        if self._tail and len(self._tail[-1]) + len(data) <= CHUNK_BYTES:
            self._tail[-1] += data
        else:
            self._tail.append(bytearray(data))
        self._tail_bytes += len(data)
        while self._tail_bytes > self._tail_bytes_max:
            surplus = self._tail_bytes - self._tail_bytes_max
            first = self._tail[0]
            if len(first) <= surplus:
                self._tail.popleft()
                dropped = len(first)
            else:
                del first[:surplus]
                dropped = surplus
            self._tail_bytes -= dropped
            self._cut_bytes += dropped


def _write_all(file: BinaryIO, data: bytes | bytearray) -> None:
    """An unbuffered file may take less than it was given."""
    view = memoryview(data)
    while view:
        written = file.write(view)
        view = view[written:]
