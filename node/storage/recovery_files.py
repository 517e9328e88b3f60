"""Starts a new store if the messages that a replica sent are lost, and records that they are lost.

The rule: the marker is on disk before the damaged files are moved away. It is removed only when the
new store records that the replica is recovering. Whenever a crash comes in between, the next start
finds the marker: an empty store must not be taken for that of a new replica.
"""

import shutil
from pathlib import Path

from node.storage import folders
from node.storage.store import DATABASE_NAME, REDO_NAME

MARKER_NAME = "recovery-begun"
# What is left of the store that was damaged last, for study.
DAMAGED_NAME = "damaged"


def is_begun(directory: Path) -> bool:
    """Whether a recovery was begun here, and its first record may not be on disk."""
    return (directory / MARKER_NAME).exists()


def note_begun(directory: Path) -> None:
    """Have the next start recover. Raises OSError."""
    (directory / MARKER_NAME).touch()
    folders.sync(directory)


def begin(directory: Path) -> Path:
    """Move the store away; where it went. Raises OSError."""
    first_time = not is_begun(directory)
    note_begun(directory)
    kept = directory / DAMAGED_NAME
    if first_time and kept.exists():
        shutil.rmtree(kept)
    kept.mkdir(exist_ok=True)
    for file in [*sorted(directory.glob(f"{DATABASE_NAME}*")), directory / REDO_NAME]:
        if not file.exists():
            continue
        if first_time or not (kept / file.name).exists():
            file.rename(kept / file.name)
        else:
            # Of a try that was cut short; the damaged file itself is kept already.
            file.unlink()
    folders.sync(kept)
    folders.sync(directory)
    return kept


def finish(directory: Path) -> None:
    """The new store holds the recovery's first record. Raises OSError."""
    (directory / MARKER_NAME).unlink()
    folders.sync(directory)
