"""What is replicated about clients: which numbers are executed, and the last results.

A client counts its requests 1, 2, 3 ... Per client there is a floor (all up to it are executed),
the executed numbers above it, and the results above floor - W. A number is executable if
floor < t <= floor + W and it is not executed yet (DESIGN section 4; the paper's `timestamp`).
"""

from collections.abc import Mapping

import msgspec

PART_PREFIX = "client/"


class StoredResult(msgspec.Struct, frozen=True, array_like=True):
    """The reply to one executed request, without view or signature."""

    request_digest: bytes
    kind: str
    subject: bytes
    result: bytes


class ClientRecord(msgspec.Struct, array_like=True):
    """One client's numbers; `executed` holds those above `floor`."""

    floor: int = 0
    executed: set[int] = msgspec.field(default_factory=set)
    results: dict[int, StoredResult] = msgspec.field(default_factory=dict)


class _EncodedRecord(msgspec.Struct, frozen=True, array_like=True):
    """A record with one encoding: everything in order of its number."""

    floor: int
    executed: tuple[int, ...]
    results: tuple[tuple[int, StoredResult], ...]


class ClientTable:
    """The records of all clients that ever had a request executed."""

    def __init__(self, client_window: int) -> None:
        self._window = client_window
        self._records: dict[str, ClientRecord] = {}

    def floor(self, client: str) -> int:
        """All numbers up to this one are executed."""
        record = self._records.get(client)
        return record.floor if record else 0

    def was_executed(self, client: str, timestamp: int) -> bool:
        """Whether that number of that client is used up."""
        record = self._records.get(client)
        if record is None:
            return False
        return timestamp <= record.floor or timestamp in record.executed

    def is_executable(self, client: str, timestamp: int) -> bool:
        """Whether a request with that number, ordered now, is executed."""
        record = self._records.get(client)
        floor = record.floor if record else 0
        within = floor < timestamp <= floor + self._window
        return within and (record is None or timestamp not in record.executed)

    def result(self, client: str, timestamp: int) -> StoredResult | None:
        """The kept result of an executed number; None if it is too old or not executed."""
        record = self._records.get(client)
        return record.results.get(timestamp) if record else None

    def record(self, client: str, timestamp: int, result: StoredResult) -> None:
        """Note that an executable request was executed, and what it gave."""
        assert self.is_executable(client, timestamp)
        record = self._records.setdefault(client, ClientRecord())
        record.executed.add(timestamp)
        record.results[timestamp] = result
        while record.floor + 1 in record.executed:
            record.floor += 1
            record.executed.discard(record.floor)
            record.results.pop(record.floor - self._window, None)

    def parts(self) -> dict[str, bytes]:
        """One part of the replicated state per client."""
        return {
            PART_PREFIX + name: msgspec.msgpack.encode(
                _EncodedRecord(
                    record.floor,
                    tuple(sorted(record.executed)),
                    tuple(sorted(record.results.items())),
                )
            )
            for name, record in self._records.items()
        }

    def restore(self, parts: Mapping[str, bytes]) -> None:
        """Replace everything by the parts whose names start with PART_PREFIX."""
        self._records = {}
        for name, data in parts.items():
            if name.startswith(PART_PREFIX):
                encoded = msgspec.msgpack.decode(data, type=_EncodedRecord)
                self._records[name.removeprefix(PART_PREFIX)] = ClientRecord(
                    encoded.floor, set(encoded.executed), dict(encoded.results)
                )
