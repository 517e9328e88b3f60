"""Bounds what a fetch may take of this machine, and removes what a failed fetch left. Blocking.

Anyone who may push decides how much is sent. A full data disk stops more than the build: a replica
that cannot save cannot vote. So a fetch is bounded, ends while enough space is still free, and
leaves nothing behind if it fails. How much is sent depends on what a mirror has already, and each
operator sets the bounds. So exceeding them is an infrastructure error, and never a result.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from node.sources.git_process import Bounds
from node.work.infrastructure_error import InfrastructureError

# What must stay free on the disk of data_directory, for the replica's own store and logs.
FREE_BYTES_MIN = 2**30
# mirrors_bytes_max bounds a fetch, too; but where it is small, or 0, only to keep little
FETCH_BYTES_MIN = 2**30
# git holds a few large files and what they are told as differences to; those above 512 MiB it
# reads in pieces
MEMORY_BYTES_MAX = 4 * 2**30

_LEFTOVERS = (
    *("*.lock", "refs/pbft-ci*/**/*.lock", "gc.pid"),
    *("objects/pack/tmp_*", "objects/??/tmp_obj_*"),
)


def check_free(folder: Path, needed_bytes: int = 0) -> None:
    """Check the free space of this folder's disk.

    Raises InfrastructureError if too little would stay free, and OSError.
    """
    if shutil.disk_usage(folder).free < FREE_BYTES_MIN + needed_bytes:
        needed = f" after {needed_bytes} bytes more" if needed_bytes else ""
        raise InfrastructureError(
            f"less than {FREE_BYTES_MIN // 2**20} MiB would be free{needed} on the disk of"
            f" data_directory: make room there"
        )


def fetch_bounds(mirror: Path, bytes_max: int) -> Bounds:
    """The bounds of one fetch into a mirror that is there. Raises OSError."""
    began_with = size_bytes(mirror)

    def check() -> None:
        check_free(mirror)
        if size_bytes(mirror) - began_with > bytes_max:
            raise InfrastructureError(
                f"the git server sends more than {bytes_max} bytes for this commit: a fetch may"
                " take as much as mirrors_bytes_max",
                is_permanent=True,
            )

    return Bounds(file_bytes_max=bytes_max, memory_bytes_max=MEMORY_BYTES_MAX, check=check)


def remove_leftovers(mirror: Path) -> None:
    """A git that was killed leaves its locks and half of a pack; nobody else writes here. OSError.

    The caller holds the mirror's lock.
    """
    for pattern in _LEFTOVERS:
        for leftover in mirror.glob(pattern):
            leftover.unlink(missing_ok=True)


def size_bytes(folder: Path) -> int:
    """The bytes of all files in a folder; what vanishes meanwhile does not count."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
