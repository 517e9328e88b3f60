"""What the gateway keeps of a replica's test details: messages, and which cases were slow. Pure.

The details of 20,000 cases are megabytes. What a page shows of them is kept, in a file beside the
log. All else is asked for when somebody wants it.
"""

from collections.abc import Mapping

import msgspec


class CaseExtract(msgspec.Struct, frozen=True, array_like=True):
    """messages: by case, of those that did not pass. slowest: (case, seconds), longest first."""

    messages: Mapping[str, str] = {}
    slowest: tuple[tuple[str, float], ...] = ()


_decoder = msgspec.json.Decoder(CaseExtract)


def encode_extract(extract: CaseExtract) -> bytes:
    """The bytes of its file."""
    return msgspec.json.encode(extract)


def decode_extract(data: bytes) -> CaseExtract:
    """The inverse of encode_extract. Raises ValueError."""
    return _decoder.decode(data)
