"""What a disk may hold after the power went: worked out from the operations that were recorded.

The rule is what a disk promises and no more: what was written to a file before its last sync is
there, and a name that was created or removed is known once the folder was synced. Of everything
else any part may be there, in any combination, and one write may be torn at any byte.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.node.recording_disk import (
    Acknowledged,
    Created,
    FolderSynced,
    Operation,
    Removed,
    Synced,
    Truncated,
    Written,
)

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class CrashState:
    """The files by name; the number of the last promise that was made before; where it was."""

    files: dict[str, bytes]
    promise: int
    operations: int

    def write(self, folder: Path) -> None:
        """Put the files into a new folder."""
        folder.mkdir()
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


@dataclass
class _Content:
    """What a file holds: what is safe, and what was changed since."""

    safe: bytearray = field(default_factory=bytearray)
    changes: list[Written | Truncated] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.changes:
            _apply(self.safe, change)
        self.changes = []

    def after_crash(self, chance: random.Random) -> bytes:
        data = bytearray(self.safe)
        kept = _some(self.changes, chance)
        torn = chance.randrange(len(kept)) if kept and chance.random() < 0.5 else None
        for index, change in enumerate(kept):
            part = _beginning(change, chance) if index == torn else change
            _apply(data, part)
        return bytes(data)


def crash_states(
    operations: Sequence[Operation], chance: random.Random, states_per_operation: float
) -> Iterator[CrashState]:
    """States after a crash that comes after any of these operations.

    states_per_operation: how many on average, each with another choice of what was kept.
    """
    disk = _Disk()
    promise = -1
    for number, operation in enumerate(operations, 1):
        if isinstance(operation, Acknowledged):
            promise = operation.promise
        else:
            disk.apply(operation)
        whole, part = divmod(states_per_operation, 1)
        for _ in range(int(whole) + (chance.random() < part)):
            yield CrashState(disk.after_crash(chance), promise, number)


def final_state(operations: Sequence[Operation]) -> CrashState:
    """Everything as it was written, with no crash."""
    disk = _Disk()
    promise = -1
    for operation in operations:
        if isinstance(operation, Acknowledged):
            promise = operation.promise
        else:
            disk.apply(operation)
    disk.apply(FolderSynced())
    for content in disk.known.values():
        content.sync()
    files = {name: bytes(content.safe) for name, content in disk.known.items()}
    return CrashState(files, promise, len(operations))


class _Disk:
    """The files of one folder."""

    def __init__(self) -> None:
        self.names: dict[str, _Content] = {}
        self.known: dict[str, _Content] = {}
        self._renamed: list[tuple[str, _Content | None]] = []

    def apply(self, operation: Operation) -> None:
        """One operation."""
        if isinstance(operation, Created):
            self._name(operation.file, _Content())
        elif isinstance(operation, Removed):
            self._name(operation.file, None)
        elif isinstance(operation, FolderSynced):
            self.known = dict(self.names)
            self._renamed = []
        elif isinstance(operation, Synced):
            self.names[operation.file].sync()
        elif isinstance(operation, Written | Truncated):
            self.names[operation.file].changes.append(operation)

    def _name(self, file: str, content: _Content | None) -> None:
        _bind(self.names, file, content)
        self._renamed.append((file, content))

    def after_crash(self, chance: random.Random) -> dict[str, bytes]:
        """The files, by name."""
        names = dict(self.known)
        for file, content in _some(self._renamed, chance):
            _bind(names, file, content)
        return {file: content.after_crash(chance) for file, content in names.items()}


def _bind(names: dict[str, _Content], file: str, content: _Content | None) -> None:
    if content is None:
        names.pop(file, None)
    else:
        names[file] = content


def _some(items: Sequence[_Item], chance: random.Random) -> list[_Item]:
    """All, none, a beginning, or any choice of them, in order."""
    kind = chance.randrange(4)
    if kind == 0:
        return list(items)
    if kind == 1:
        return []
    if kind == 2:
        return list(items[: chance.randrange(len(items) + 1)])
    return [item for item in items if chance.random() < 0.5]


def _beginning(change: Written | Truncated, chance: random.Random) -> Written | Truncated:
    """What a torn write leaves."""
    if isinstance(change, Truncated):
        return change
    size = chance.randrange(len(change.data) + 1)
    return Written(change.file, change.offset, change.data[:size])


def _apply(data: bytearray, change: Written | Truncated) -> None:
    if isinstance(change, Truncated):
        del data[change.size :]
        data.extend(bytes(change.size - len(data)))
        return
    end = change.offset + len(change.data)
    data.extend(bytes(max(0, end - len(data))))
    data[change.offset : end] = change.data
