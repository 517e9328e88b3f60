"""The chain of a replica's records: each has the digest of all before it (node.storage.store)."""

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from node.storage.own_request_table import SideWriteRecord
from pbft.ports import CheckpointRecord, Executed, SavedMessage, SavedPrepared, SavedRecovery

NO_CHAIN = bytes(32)

ChainedRecord = (
    SavedMessage | SavedPrepared | SavedRecovery | Executed | CheckpointRecord | SideWriteRecord
)
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[ChainedRecord] = msgspec.msgpack.Decoder(ChainedRecord)


class BrokenChain(Exception):
    """A record is not what was saved, or is missing. first: the first one; position: this one."""

    def __init__(self, first: int, position: int) -> None:
        super().__init__(f"record {position} is not what was saved")
        self.first = first
        self.position = position


class WrongChain(Exception):
    """The records are whole, but others than those that were marked; one line."""


def encode_record(record: ChainedRecord) -> bytes:
    """The bytes of a record, as they are in the chain."""
    return _encoder.encode(record)


def decode_record(body: bytes) -> ChainedRecord:
    """The inverse. Raises msgspec.ValidationError and msgspec.DecodeError."""
    return _decoder.decode(body)


def next_chain(chain: bytes, position: int, body: bytes) -> bytes:
    """The digest after one more record; a CheckpointRecord begins with NO_CHAIN before it."""
    return hashlib.sha256(chain + position.to_bytes(8, "big") + body).digest()


def follow(
    rows: Iterable[tuple[int, bytes, bytes]], marks: Mapping[int, bytes]
) -> tuple[int, bytes]:
    """The last position and the digest there, of rows (position, body, chain) in order.

    marks: by position, digests that are known to be right. Raises BrokenChain, WrongChain.
    """
    position, chain = 0, NO_CHAIN
    first: int | None = None
    for row_position, body, row_chain in rows:
        if first is None:
            first = row_position
            position = row_position - 1
        is_next = row_position == position + 1
        if not is_next or next_chain(chain, row_position, body) != row_chain:
            raise BrokenChain(first, position + 1)
        position, chain = row_position, row_chain
        if marks.get(position, chain) != chain:
            raise WrongChain(f"record {position} is not what the redo log says")
    return position, chain
