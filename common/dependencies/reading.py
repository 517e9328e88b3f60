"""Reads a lock file of any tool: equal bytes mean the same anywhere."""

from collections.abc import Callable, Mapping

from common.dependencies.cargo_lock import read_cargo_lock
from common.dependencies.files_lock import read_files_lock
from common.dependencies.go_sum import read_go_sum
from common.dependencies.lock_file import (
    INPUTS_MAX,
    LOCK_BYTES_MAX,
    LockFile,
    LockWriter,
    Tool,
    TooManyInputs,
)
from common.dependencies.npm_lock import read_npm_lock
from common.dependencies.pip_requirements import read_requirements

_READERS: Mapping[Tool, Callable[[bytes, LockWriter], None]] = {
    Tool.PIP: read_requirements,
    Tool.NPM: read_npm_lock,
    Tool.GO: read_go_sum,
    Tool.CARGO: read_cargo_lock,
    Tool.FILES: read_files_lock,
}
_NAMES: Mapping[str, Tool] = {
    "package-lock.json": Tool.NPM,
    "npm-shrinkwrap.json": Tool.NPM,
    "go.sum": Tool.GO,
    "Cargo.lock": Tool.CARGO,
}


def tool_of(name: str) -> Tool | None:
    """The tool whose lock file has this name (the last part of a path); None if it tells none."""
    if name.endswith(".txt"):
        return Tool.PIP
    if name.endswith((".lock.yaml", ".lock.yml")):
        return Tool.FILES
    return _NAMES.get(name)


def read_lock(tool: Tool, data: bytes) -> LockFile:
    """What the lock file of that tool says. Never raises."""
    writer = LockWriter()
    if len(data) > LOCK_BYTES_MAX:
        size = f"{len(data)} bytes; at most {LOCK_BYTES_MAX}"
        writer.flaw("", size, "divide the lock file in two")
        return writer.finish()
    try:
        _READERS[tool](data, writer)
    except TooManyInputs:
        writer.flaw("", f"more than {INPUTS_MAX} packages", "divide the lock file in two")
    return writer.finish()
