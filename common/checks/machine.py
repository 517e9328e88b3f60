"""This machine: whether the port is free, and how large and fast the disk is. Blocking."""

import errno
import os
import shutil
import socket
import statistics
import tempfile
import time
from pathlib import Path

from common.address import Address
from common.configuration.process_file import find_process
from common.configuration.secret_file import PRIVATE_UMASK
from common.finding import Finding, State

# A save is a record or two; the middle one of these is what the disk needs.
SAVES = 15
SAVE_BYTES = 4096
GIBIBYTE = 2**30
# Below it not even a few builds' logs and one repository fit.
FREE_BYTES_MIN = GIBIBYTE


def check_listen(address: Address, directory: Path, key: str = "listen") -> Finding:
    """Whether the member could listen there, or does. directory: its data; key: of `address`."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, place in found:
            with socket.socket(family, kind, protocol) as listener:
                # as asyncio does: connections of an earlier process may still be ending
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            pid = _running(directory)
            if pid is not None:
                text = f"{address} is in use while this member runs (process {pid})"
                return Finding(key, State.OK, text)
            text = f"{address} is in use, and this member does not run: end what uses it"
        else:
            text = f"{address}: {error.strerror}: take an address of this machine"
        return Finding(key, State.WRONG, text)
    return Finding(key, State.OK, f"{address} is free")


def _running(directory: Path) -> int | None:
    """The process that serves from this data directory; None if there is none, or a secret one."""
    try:
        process = find_process(directory)
    except OSError:
        return None
    return None if process is None else process.pid


def check_space(directory: Path, kept_bytes_max: int) -> Finding:
    """Whether the disk has room for all that the configuration lets the member keep."""
    try:
        free_bytes = shutil.disk_usage(_existing(directory)).free
    except OSError as error:
        return Finding("disk space", State.WRONG, f"{directory}: {error.strerror}")
    free = f"{free_bytes / GIBIBYTE:.1f} GiB free for {directory}"
    if free_bytes < FREE_BYTES_MIN:
        return Finding("disk space", State.WRONG, f"{free}: at least 1 GiB is needed")
    if free_bytes < kept_bytes_max:
        kept = f"{kept_bytes_max / GIBIBYTE:.1f} GiB"
        text = f"{free}, and the configuration lets it keep {kept}: lower the *_bytes_max, or add"
        return Finding("disk space", State.WARNING, f"{text} space")
    return Finding("disk space", State.OK, free)


def check_saves(directory: Path, save_seconds_max: float) -> Finding:
    """How long a save takes that must be on the disk before a message goes out.

    directory: where the member will save; it is made if it is missing, as the member makes it.
    save_seconds_max: with slower saves the member's timers run out.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o777 & ~PRIVATE_UMASK)
        seconds = statistics.median(_save_seconds(directory))
    except OSError as error:
        return Finding(
            "disk speed", State.WRONG, f"{directory} cannot be written to: {error.strerror}"
        )
    text = f"{seconds * 1000:.1f} ms for a save"
    if seconds > save_seconds_max:
        most = f"{save_seconds_max * 1000:.0f} ms"
        text += f", and {most} is the most: use a faster disk, or a longer view_change_seconds"
        return Finding("disk speed", State.WARNING, text)
    return Finding("disk speed", State.OK, text)


def _existing(directory: Path) -> Path:
    """The directory, or the nearest one above it that is there."""
    return next(path for path in (directory, *directory.parents) if path.exists())


def _save_seconds(directory: Path) -> list[float]:
    with tempfile.TemporaryFile(dir=directory) as file:
        seconds = []
        for _ in range(SAVES):
            began = time.perf_counter()
            file.write(bytes(SAVE_BYTES))
            file.flush()
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - began)
    return seconds
