"""What is replicated about clients: which numbers are executed, and the last results.

A client counts its requests 1, 2, 3 ... Per client there is `low_timestamp` (all up to it are
executed), the executed timestamps above it, and the results above low_timestamp - W. A timestamp t
is executable if low_timestamp < t <= low_timestamp + W and it is not executed yet
(docs/PROTOCOL.md, 4.1).
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
    """One client's numbers; `executed` holds those above `low_timestamp`."""

    low_timestamp: int = 0
    executed: set[int] = msgspec.field(default_factory=set)
    results: dict[int, StoredResult] = msgspec.field(default_factory=dict)


class _EncodedRecord(msgspec.Struct, frozen=True, array_like=True):
    """A record with one encoding: everything in order of its number."""

    low_timestamp: int
    executed: tuple[int, ...]
    results: tuple[tuple[int, StoredResult], ...]


class ClientTable:
    """The records of all clients that ever had a request executed."""

    def __init__(self, client_window: int) -> None:
        self._window = client_window
        self._records: dict[str, ClientRecord] = {}

    def low_timestamp(self, client: str) -> int:
        """All numbers up to this one are executed."""
        record = self._records.get(client)
        return record.low_timestamp if record else 0

    def was_executed(self, client: str, timestamp: int) -> bool:
        """Whether that number of that client is used up."""
        record = self._records.get(client)
        if record is None:
            return False
        return timestamp <= record.low_timestamp or timestamp in record.executed

    def is_executable(self, client: str, timestamp: int) -> bool:
        """Whether a request with that number, ordered now, is executed."""
        record = self._records.get(client)
        low = record.low_timestamp if record else 0
        within = low < timestamp <= low + self._window
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
        while record.low_timestamp + 1 in record.executed:
            record.low_timestamp += 1
            record.executed.discard(record.low_timestamp)
            record.results.pop(record.low_timestamp - self._window, None)

    def forget_all(self) -> None:
        """No client had anything executed: each counts anew."""
        self._records = {}

    def parts(self) -> dict[str, bytes]:
        """One part of the replicated state per client."""
        return {
            PART_PREFIX + name: msgspec.msgpack.encode(
                _EncodedRecord(
                    record.low_timestamp,
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
                    encoded.low_timestamp, set(encoded.executed), dict(encoded.results)
                )
