"""The parts of a report that nodes and gateways share: each is text, bounded, and may fail."""

import importlib.metadata
import os
import platform
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from common.address import Address
from common.configuration.config import ClientConfig, NodeConfig
from common.finding import Finding, table
from common.installation import IS_INSTALLED
from common.version import VERSION
from common.web.bounded_http import AnswerBounds, HttpRequest, NoAnswer, ask, bounded_session

# As pyproject.toml names them.
LIBRARIES = (
    "aiohttp", "aiohttp-sse", "aiosmtplib", "cronsim", "cryptography", "docker", "GitPython",
    "Jinja2", "joserfc", "mnemonic", "msgspec", "packageurl-python", "packaging",
    "prometheus-client", "pycryptodome", "PyNaCl", "PyYAML", "requests", "shtab", "urllib3",
    "uvloop",
)  # fmt: skip
LOG_LINES_MAX = 5000
LOG_BYTES_MAX = 2 * 1024 * 1024
ANSWER_BOUNDS = AnswerBounds(bytes_max=4 * 1024 * 1024, timeout_seconds=10.0)
COMMAND_SECONDS = 20
# What is counted of a data directory.
FILES_MAX = 1_000_000


class Part(NamedTuple):
    """One file of a report. collect: gives its text, and may raise anything."""

    name: str
    collect: Callable[[], str | Coroutine[Any, Any, str]]


def versions() -> str:
    """What this program runs on."""
    lines = {
        "PBFT/CI": f"{VERSION} ({'installed' if IS_INSTALLED else 'a checkout'})",
        "Python": f"{sys.version} in {sys.prefix}",
        "OpenSSL": ssl.OPENSSL_VERSION,
        "SQLite": sqlite3.sqlite_version,
        "kernel": platform.platform(),
        "processors": str(os.cpu_count()),
        "memory": _first_line(Path("/proc/meminfo")),
        "git": _output("git", "--version"),
        "Docker's client": _output("docker", "--version"),
        **{name: _version(name) for name in LIBRARIES},
    }
    return "".join(f"{name}: {text}\n" for name, text in lines.items())


def configuration(config: NodeConfig | ClientConfig) -> str:
    """The configuration as it was read, defaults included; of files of secrets it has the names."""
    plain = msgspec.to_builtins(config, enc_hook=_as_text)
    return msgspec.json.format(msgspec.json.encode(plain), indent=1).decode() + "\n"


def check_table(findings: Iterable[Finding]) -> str:
    """What `check` found."""
    return table(list(findings)) + "\n"


def sizes(directory: Path) -> str:
    """How many files and bytes each entry of a data directory has."""
    lines = []
    for entry in sorted(directory.iterdir()):
        count, size = _size(entry)
        lines.append(f"{size:>15} bytes  {count:>7} files  {entry.name}\n")
    return "".join(lines)


def last_lines(file: Path) -> str:
    """The end of a log, whole lines."""
    with file.open("rb") as stream:
        length = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, length - LOG_BYTES_MAX))
        data = stream.read(LOG_BYTES_MAX)
    lines = data.decode(errors="backslashreplace").splitlines(keepends=True)
    if length > LOG_BYTES_MAX:
        del lines[0]
    return "".join(lines[-LOG_LINES_MAX:])


async def answer(request: HttpRequest) -> str:
    """What this member answers, if it runs: status and body."""
    async with bounded_session() as session:
        try:
            found = await ask(session, request, ANSWER_BOUNDS)
        except NoAnswer as error:
            return f"no answer: {error}\n"
    return f"{found.status}\n{found.data.decode(errors='backslashreplace')}"


def rows(database: Path, **queries: str) -> str:
    """The rows of these queries, by their names, of a database that may be in use."""
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    try:
        lines = [
            f"{name}: {connection.execute(query).fetchall()}\n" for name, query in queries.items()
        ]
    finally:
        connection.close()
    return "".join(lines)


def _size(entry: Path) -> tuple[int, int]:
    count = size = 0
    files = (
        [entry]
        if not entry.is_dir()
        else (Path(root, name) for root, _, names in os.walk(entry) for name in names)
    )
    for file in files:
        try:
            size += file.lstat().st_size
        except FileNotFoundError:
            continue
        count += 1
        if count == FILES_MAX:
            break
    return count, size


def _as_text(value: object) -> str:
    assert isinstance(value, Path | Address), f"a {type(value)} in a configuration"
    return str(value)


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _first_line(file: Path) -> str:
    try:
        return file.read_text().partition("\n")[0]
    except OSError as error:
        return f"{error.strerror}"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"none ({error})"
    return (done.stdout or done.stderr).decode(errors="replace").strip()
