"""Logging as the nodes and the gateway do it: one line per record, to a file and to stderr.

Text from outside goes through `safe_text.log_text` first, so that nobody can forge a log line or
send control characters to the terminal of a person who reads the log.
"""

import json
import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from common.config_error import ConfigError
from common.safe_text import escape_controls

# Five files of this size per process: enough for days, and a bound on the disk they take.
LOG_FILE_BYTES_MAX = 10 * 1024 * 1024
LOG_FILES_KEPT = 4
# Set to "no" by the scripts that start processes in the background: their stderr goes to a file
# that nothing rotates, so only what is said before logging starts belongs there.
STDERR_VARIABLE = "PBFT_CI_LOG_TO_STDERR"


class LineFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123Z LEVEL process logger: text`, tracebacks folded into the line."""

    def __init__(self, name: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {name} %(name)s: %(message)s")
        self._second = -1
        self._moment = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (the base class's name)
        """The record's time in UTC, so that the logs of several machines can be laid together."""
        second = int(record.created)
        if second != self._second:
            self._moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._moment}.{int(record.msecs):03d}Z"

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line: whatever would break the line or the terminal is escaped."""
        return escape_controls(super().format(record).replace("\n", " | "))


class JsonFormatter(LineFormatter):
    """The same as one JSON object per line: time, level, process, logger, message, exception."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        """The record; strangers' control characters are escaped twice over by JSON."""
        fields = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "process": self._name,
            "logger": record.name,
            "message": escape_controls(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=True)


class RotatingFile(logging.handlers.RotatingFileHandler):
    """The standard library's formats each record twice: to measure it, and to write it."""

    def __init__(self, file: Path) -> None:
        """Open it, to go on at its end. Raises OSError."""
        super().__init__(
            file,
            maxBytes=LOG_FILE_BYTES_MAX,
            backupCount=LOG_FILES_KEPT,
            encoding="utf-8",
            errors="backslashreplace",
        )
        # /dev/stdout and the like are never rotated
        self._is_regular = file.is_file()
        self._is_losing = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, into a new file where this one would become too long."""
        try:
            line = self.format(record) + self.terminator
            if self.stream is None:
                # the last rollover closed the old one, and could not open another
                self.stream = self._open()
            if self._is_regular and self.stream.tell() + len(line) > self.maxBytes:
                self.doRollover()
            self.stream.write(line)
            self.flush()
            self._is_losing = False
        except OSError as error:
            # Its disk is full, or its folder gone: the same for each record until that is mended.
            if not self._is_losing:
                self._is_losing = True
                reason = f"cannot be written ({error.strerror}): its lines are lost until it can be"
                print(f"{self.baseFilename} {reason}", file=sys.stderr, flush=True)  # noqa: T201
        except Exception:  # noqa: BLE001 - as the standard library's: to log must never raise
            self.handleError(record)


FORMATTERS: Mapping[str, type[LineFormatter]] = {"text": LineFormatter, "json": JsonFormatter}


def start_logging(log_file: Path | None, name: str, log_format: str = "text") -> None:
    """Send all records from INFO up to `log_file` (rotating, bounded) and to stderr.

    With PBFT_CI_LOG_TO_STDERR=no and a file, stderr gets nothing.
    name: who writes, e.g. `node0`. log_format: a key of FORMATTERS. Calling it again replaces
    what the last call set up.
    Raises ConfigError where the file cannot be written.
    """
    handlers: list[logging.Handler] = []
    if log_file is None or os.environ.get(STDERR_VARIABLE) != "no":
        handlers.append(logging.StreamHandler(sys.stderr))
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(RotatingFile(log_file))
        except OSError as error:
            raise ConfigError.at(
                log_file,
                "log_file",
                f"cannot be written ({error.strerror})",
                "a file in a folder that can be written to",
            ) from error
    # What no line tells need not be found out for each (Python's HOWTO on logging, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    formatter = FORMATTERS[log_format](name)
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, LineFormatter):
            root.removeHandler(old)
            old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(logging.INFO)
