"""Makes and syncs folders so that their names survive a crash."""

import os
from pathlib import Path


def make(directory: Path) -> None:
    """Make it, so that it is there after a crash, too. Raises OSError."""
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def sync(directory: Path) -> None:
    """Have the names in it on disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
