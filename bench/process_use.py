"""What a process uses, as the kernel counts it: CPU time, memory, file descriptors."""

import contextlib
import os
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """What a process has used of the CPUs, over all threads that it has. Raises OSError."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        # a thread may have ended meanwhile
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    if total:
        return total / 1e9
    # A kernel without that file: user and system time, in whole clock ticks.
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_cpu_seconds(pid: int) -> float:
    """What those of its children used that have ended and were waited for. Raises OSError.

    Theirs as well, and so on; in whole clock ticks.
    """
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = text.rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """How much of its memory is in RAM. Raises OSError where it has ended."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """How many files, sockets and pipes it has open. Raises OSError where it has ended."""
    return len(os.listdir(f"/proc/{pid}/fd"))
