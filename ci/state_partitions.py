"""The names and encodings of the parts that the application's state is made of."""

from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec

from ci.builds import MalformedBuild, OpenBuild, decode_build
from pbft.messages import Digest

BUILD_PART_PREFIX = "build/"
CLOSED_PART = "closed"
DELIVERIES_PART = "deliveries"
JOURNAL_PART = "journal"
LEDGER_PART = "ledger"
LIMITS_PART = "limits"
MEMBERS_PART = "members"
NOTES_PART = "notes"

_Part = TypeVar("_Part")


class CorruptState(ValueError):
    """Parts that no state has; the text names the part."""


class ChainPart(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How many items a hash chain has, and its digest after the last."""

    length: Annotated[int, msgspec.Meta(ge=0)]
    digest: Digest


def ledger_position(parts: Mapping[str, bytes]) -> tuple[int, bytes]:
    """Index and head of the ledger in a state that the application gave. Raises CorruptState."""
    ledger = decode_part(parts, LEDGER_PART, ChainPart)
    return ledger.length, ledger.digest


def decode_part(parts: Mapping[str, bytes], name: str, kind: type[_Part]) -> _Part:
    """What the part of that name holds. Raises CorruptState."""
    data = parts.get(name)
    if data is None:
        raise CorruptState(f"{name}: missing")
    try:
        part = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptState(f"{name}: {error}") from error
    if msgspec.msgpack.encode(part) != data:
        raise CorruptState(f"{name}: not its one encoding")
    return part


def decode_build_part(name: str, data: bytes) -> tuple[bytes, OpenBuild]:
    """The id of an open build and that build. Raises CorruptState."""
    try:
        build = decode_build(data)
    except MalformedBuild as error:
        raise CorruptState(f"{name}: {error}") from error
    if name != BUILD_PART_PREFIX + build.id.hex():
        raise CorruptState(f"{name}: not the name of this part")
    return build.id, build
