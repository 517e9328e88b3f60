"""Reads test reports in a process that can do nothing else, and prints the cases that are in them.

A program of its own, `python -I -S report_process.py`, which imports nothing of ours but the
reader. Its standard input has a line with the length of the workspace's path, and that path; then,
for each report, a line with two lengths, the path and the content. It may be started ahead: it
waits for the first line, and ends if none comes. When the input ends, it prints the cases, sorted
by id, in lines of JSON: each an array of up to ROWS_MAX rows
`[id, outcome, seconds, message, file]`. It ends with REFUSED_CODE if a report
is unreadable, and prints which one and why. Any other code is a limit that it reached, or a fault
of our own, which it prints.

The limits are a backstop: the reader's own bounds keep it far below them. It reads its input and
writes its output. It opens no other file, even if a report took it over.
"""

import json
import os.path
import resource
import sys

# of processor time, of which the largest reports take a fifth on a slow machine
PROCESSOR_SECONDS = 10
MEMORY_BYTES = 256 * 2**20
REFUSED_CODE = 3
FAULT_CODE = 4
# Of a line: a line for each costs five times as much, and one for all takes much memory, since one
# character beyond the first 65,536 makes Python hold each with four bytes.
ROWS_MAX = 200
# two numbers
HEADER_BYTES_MAX = 64

_LIMITS = {
    resource.RLIMIT_CPU: PROCESSOR_SECONDS,
    resource.RLIMIT_AS: MEMORY_BYTES,
    # no further one; the input and the output are open
    resource.RLIMIT_NOFILE: 0,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_CORE: 0,
    # for any user but root
    resource.RLIMIT_NPROC: 0,
}

if __name__ == "__main__":
    # with -I the folder of a program is not where it imports from
    sys.path.insert(0, os.path.abspath(f"{__file__}/../../.."))

from common.junit.junit_report import (  # noqa: E402 (found by the line above)
    FoundCases,
    UnreadableReport,
)


def main() -> int:
    """Read all of the input; the exit code."""
    restrict()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    if not (first := source.readline(HEADER_BYTES_MAX)):
        return 0
    found = FoundCases(_read(int(first)).decode())
    while header := source.readline(HEADER_BYTES_MAX):
        path_bytes, content_bytes = map(int, header.split())
        path = _read(path_bytes).decode()
        content = _read(content_bytes)
        try:
            found.add(path, content)
        except UnreadableReport as error:
            sink.write(f"{path}: {error}".encode())
            return REFUSED_CODE
    rows = [
        (case, one.outcome, one.seconds, one.message, one.file)
        for case, one in sorted(found.cases.items())
    ]
    for first in range(0, len(rows), ROWS_MAX):
        line = json.dumps(rows[first : first + ROWS_MAX], ensure_ascii=False, separators=(",", ":"))
        sink.write(line.encode() + b"\n")
    return 0


def restrict() -> None:
    """From now on this process has its limits, and no user but root can raise them."""
    for limit, most in _LIMITS.items():
        _, given = resource.getrlimit(limit)
        # whoever runs the node may have set a lower one
        held = most if given == resource.RLIM_INFINITY else min(most, given)
        resource.setrlimit(limit, (held, held))


def _read(length: int) -> bytes:
    data = sys.stdin.buffer.read(length)
    if len(data) < length:
        raise EOFError("the input was cut off")
    return data


if __name__ == "__main__":
    try:
        code = main()
    except Exception as fault:  # noqa: BLE001 (whoever started it is told)
        sys.stdout.buffer.write(f"{type(fault).__name__}: {fault}".encode(errors="replace"))
        code = FAULT_CODE
    sys.stdout.buffer.flush()
    sys.exit(code)
