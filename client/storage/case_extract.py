"""What the gateway keeps of a replica's test details: messages, and which cases were slow. Pure.

The details of 20,000 cases are megabytes. What a page shows of them is kept, in a file beside the
log. All else is asked for when somebody wants it.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec


class QuarantinedCase(msgspec.Struct, frozen=True, array_like=True):
    """A case that the pipeline file quarantines: until a day, of which so many days were left at
    the build's commit; none or fewer once it is over."""

    case: Annotated[str, msgspec.Meta(max_length=512)]
    until: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")]
    days_left: int
    reason: Annotated[str, msgspec.Meta(max_length=200)]


class CaseExtract(msgspec.Struct, frozen=True, array_like=True):
    """messages: by case, of those that did not pass. slowest: (case, seconds), longest first.
    quarantine: of the pipeline file, by the replica's own account."""

    messages: Mapping[str, str] = {}
    slowest: tuple[tuple[str, float], ...] = ()
    quarantine: tuple[QuarantinedCase, ...] = ()


_decoder = msgspec.json.Decoder(CaseExtract)


def encode_extract(extract: CaseExtract) -> bytes:
    """The bytes of its file."""
    return msgspec.json.encode(extract)


def decode_extract(data: bytes) -> CaseExtract:
    """The inverse of encode_extract. Raises ValueError."""
    return _decoder.decode(data)
