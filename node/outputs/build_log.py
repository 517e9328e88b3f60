"""The log of one build on disk, bounded: its head is written at once, its tail at the end.

A build may write without end. The file keeps the first half and the last half of the limit, with
one line between them that gives the number of bytes cut. Memory holds at most the last half.

If a build that has no git history looks for it, the log says so after that line. A small file
beside it says when each part came (common.log_times).
"""

import hashlib
import os
import re
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from common.log_pieces import LogPiece, kept_sizes, marker, read_log_file
from common.log_times import LogTimes

# small writes are gathered up to this size, so that memory is not spent on bookkeeping
CHUNK_BYTES = 16 * 1024
# the file beside the log
TIMES = "log-times"
NO_GIT = (
    '.git is not there: write clone: {depth: 50, tags: true} if you need it; see "The history" in'
    " docs/PIPELINES.md; tools that ask git for a version also take it from the environment, such"
    " as SETUPTOOLS_SCM_PRETEND_VERSION"
)
# What git says, and what tools say that found no git.
_LOOKS_FOR_GIT = re.compile(
    rb"not a git repository|setuptools-scm was unable to detect|upstream git repository"
)
# What resolvers and connections say without a network: libc and its many callers, busybox, curl,
# git, apt, pip, npm, Go, Rust, Java. Not a refused connection: on loopback it has other reasons.
_LOOKS_OFFLINE = re.compile(
    rb"could ?n[o']t resolve|temporary failure (in name resolution|resolving)"
    rb"|name or service not known|no address associated|unknown ?host|getaddrinfo|bad address"
    rb"|network is unreachable|no route to host|dial tcp: lookup|failed to lookup address"
    rb"|ENOTFOUND|EAI_AGAIN|ENETUNREACH"
    # all that pip says if it may not try again
    rb"|no matching distribution found for",
    re.IGNORECASE,
)
# Where a build ends that the missing network ended.
_OFFLINE_BYTES = 64 * 1024
# as long as what is looked for, which may come in two pieces
_KEPT_BYTES = 64


class BuildLog:
    """Takes output as it comes, from any thread; `finish` completes the file."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        """Starts an empty file. bytes_max: of the file when finished. Raises OSError."""
        self.path = path
        self._head_bytes_max, self._tail_bytes_max = kept_sizes(bytes_max)
        self._head_bytes = 0
        self._tail: deque[bytearray] = deque()
        self._tail_bytes = 0
        self._cut_bytes = 0
        self._last = b"\n"
        # the end of what was written before; None: no line about git is to come
        self._before: bytes | None = b""
        self._is_finishing = False
        self._times = LogTimes()
        self._began_at = time.monotonic()
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        # unbuffered: whoever reads along sees each piece of the head at once
        self._file: BinaryIO | None = path.open("wb", buffering=0)

    def expect_git(self) -> None:
        """The build has a history: there is nothing to explain."""
        with self._lock:
            self._before = None

    @property
    def is_open(self) -> bool:
        """Whether it is neither finished nor closed."""
        return self._file is not None

    def write(self, data: bytes) -> None:
        """Output of the build, before `finish`. Raises OSError (disk full)."""
        with self._lock:
            if self._file is None or self._is_finishing or not data:
                return
            if self._before is None:
                self._add(self._file, data)
                return
            seen = self._before + data
            found = _LOOKS_FOR_GIT.search(seen)
            if found is None:
                self._before = seen[-_KEPT_BYTES:]
                self._add(self._file, data)
                return
            end = seen.find(b"\n", found.end()) + 1 - len(self._before)
            end = end if end > 0 else len(data)
            self._before = None
            self._add(self._file, data[:end])
            self._add(self._file, self._noted(NO_GIT))
            self._add(self._file, data[end:])

    def write_line(self, line: bytes) -> None:
        """A whole line of something beside the build, with its line feed. Raises OSError."""
        self.write(line if self._last == b"\n" else b"\n" + line)

    def note(self, text: str) -> None:
        """One line of this node's own, marked as such. Raises OSError (disk full)."""
        self.write(self._noted(text))

    def _noted(self, text: str) -> bytes:
        start = "" if self._last == b"\n" else "\n"
        return f"{start}[pbft-ci] {text}\n".encode(errors="backslashreplace")

    def _add(self, file: BinaryIO, data: bytes) -> None:
        if not data:
            return
        self._last = data[-1:]
        written = self._head_bytes + self._cut_bytes + self._tail_bytes
        self._times.note(written, int(1000 * (time.monotonic() - self._began_at)))
        taken = data[: self._head_bytes_max - self._head_bytes]
        if taken:
            _write_all(file, taken)
            self._head_bytes += len(taken)
        self._keep_tail(data[len(taken) :])

    def looks_offline(self) -> bool:
        """Whether the end of what is kept has a resolver's or a connection's error.

        Raises OSError.
        """
        end = b""
        offset = max(0, self.total - _OFFLINE_BYTES)
        while (piece := self.read(offset, _OFFLINE_BYTES)).data:
            end += piece.data
            offset = piece.end
        return _LOOKS_OFFLINE.search(end) is not None

    @property
    def total(self) -> int:
        """How many bytes were written, kept or not."""
        with self._lock:
            return self._head_bytes + self._cut_bytes + self._tail_bytes

    def read(self, offset: int, bytes_max: int) -> LogPiece:
        """What is here from that byte of the whole output on, at most bytes_max. Raises OSError.

        A piece ends where the head does: the next one begins after what was dropped.
        """
        with self._lock:
            if self._file is None:
                return read_log_file(self.path, offset, bytes_max=bytes_max)
            tail_offset = self._head_bytes + self._cut_bytes
            total = tail_offset + self._tail_bytes
            dropped = (self._head_bytes, tail_offset) if self._cut_bytes else None
            if offset < self._head_bytes:
                data = _read_at(self.path, offset, min(bytes_max, self._head_bytes - offset))
                return LogPiece(offset, data, total, dropped, True)
            offset = min(max(offset, tail_offset), total)
            return LogPiece(
                offset, self._tail_at(offset - tail_offset, bytes_max), total, dropped, True
            )

    def finish(self) -> tuple[str, int]:
        """Complete and close the file: (SHA-256 in hex, size) of the whole. Raises OSError."""
        with self._lock:
            file = self._file
            self._is_finishing = True
        try:
            if file is not None:
                # without the lock: who reads along meanwhile has the head and the tail as before
                if self._cut_bytes:
                    _write_all(file, marker(self._cut_bytes))
                for chunk in self._tail:
                    _write_all(file, chunk)
                self.close()
                # nothing follows from it: a log without it has no times
                with suppress(OSError):
                    self.path.with_name(TIMES).write_bytes(self._times.encode())
        finally:
            self._is_finishing = False
        with self.path.open("rb") as finished:
            digest = hashlib.file_digest(finished, "sha256").hexdigest()
        return digest, self.path.stat().st_size

    def close(self) -> None:
        """Close the file where `finish` was never reached; never raises OSError."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
            self._tail.clear()

    def _tail_at(self, position: int, bytes_max: int) -> bytes:
        parts: list[bytes] = []
        wanted = bytes_max
        for chunk in self._tail:
            if position >= len(chunk):
                position -= len(chunk)
                continue
            parts.append(bytes(chunk[position : position + wanted]))
            wanted -= len(parts[-1])
            position = 0
            if not wanted:
                break
        return b"".join(parts)

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


def _read_at(path: Path, place: int, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, length, place)
    finally:
        os.close(descriptor)


def _write_all(file: BinaryIO, data: bytes | bytearray) -> None:
    """An unbuffered file may take less than it was given."""
    view = memoryview(data)
    while view:
        written = file.write(view)
        view = view[written:]
