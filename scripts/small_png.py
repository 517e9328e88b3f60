"""Makes a PNG smaller: at most 256 colours, and packed as tightly as zlib can. Pure.

For pictures of pages, which have few colours: the many that stand for the edges of letters are
told apart by no eye. PNG specification (W3C, third edition), sections 5, 9 and 11.
"""

import struct
import zlib
from collections import Counter

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS_MAX = 256
# PNG's colour types that Chromium writes, and how many bytes a pixel has
PIXEL_BYTES = {2: 3, 6: 4}
PALETTE_TYPE = 3


class NotSuchPng(ValueError):
    """Not a PNG of the kind that browsers write."""


def smaller_png(data: bytes) -> bytes:
    """The same picture with a palette. Raises NotSuchPng."""
    width, height, pixel_bytes, packed = _read(data)
    rows = _unfiltered(zlib.decompress(packed), width * pixel_bytes, height, pixel_bytes)
    pixels = [
        row[place : place + 3]
        for row in rows
        for place in range(0, width * pixel_bytes, pixel_bytes)
    ]
    palette, numbers = _palette(Counter(pixels))
    indices = bytes(numbers[pixel] for pixel in pixels)
    # In a picture with a palette no filter helps: neighbours' numbers have nothing to do with
    # each other.
    lines = b"".join(
        b"\0" + indices[place : place + width] for place in range(0, width * height, width)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, PALETTE_TYPE, 0, 0, 0)
    return (
        SIGNATURE
        + _chunk(b"IHDR", header)
        + _chunk(b"PLTE", b"".join(palette))
        + _chunk(b"IDAT", zlib.compress(lines, 9))
        + _chunk(b"IEND", b"")
    )


def _read(data: bytes) -> tuple[int, int, int, bytes]:
    """Width, height, bytes of a pixel, and the packed lines."""
    if not data.startswith(SIGNATURE):
        raise NotSuchPng("it does not begin as a PNG")
    place, parts, header = len(SIGNATURE), [], b""
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        body = data[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            header = body
        elif kind == b"IDAT":
            parts.append(body)
        place += length + 12
    if len(header) != 13:
        raise NotSuchPng("it has no header")
    width, height, depth, colour_type, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or colour_type not in PIXEL_BYTES or interlaced:
        raise NotSuchPng(f"depth {depth}, colour type {colour_type}, interlaced {interlaced}")
    return width, height, PIXEL_BYTES[colour_type], b"".join(parts)


def _unfiltered(data: bytes, row_bytes: int, height: int, pixel_bytes: int) -> list[bytes]:
    """The lines as they were before each was filtered (section 9)."""
    if len(data) != height * (row_bytes + 1):
        raise NotSuchPng("its lines do not have the length that the header says")
    rows: list[bytes] = []
    above = bytes(row_bytes)
    for number in range(height):
        start = number * (row_bytes + 1)
        row = bytearray(data[start + 1 : start + 1 + row_bytes])
        _unfilter(data[start], row, above, pixel_bytes)
        above = bytes(row)
        rows.append(above)
    return rows


def _unfilter(kind: int, row: bytearray, above: bytes, pixel_bytes: int) -> None:
    """Add to each byte of the row what the filter took away."""
    for place in range(len(row)):
        left = row[place - pixel_bytes] if place >= pixel_bytes else 0
        up = above[place]
        if kind == 0:
            return
        if kind == 1:
            taken = left
        elif kind == 2:
            taken = up
        elif kind == 3:
            taken = (left + up) // 2
        elif kind == 4:
            taken = _paeth(left, up, above[place - pixel_bytes] if place >= pixel_bytes else 0)
        else:
            raise NotSuchPng(f"there is no filter {kind}")
        row[place] = (row[place] + taken) & 0xFF


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    distances = (abs(guess - left), abs(guess - up), abs(guess - corner))
    return (left, up, corner)[distances.index(min(distances))]


def _palette(counts: Counter[bytes]) -> tuple[list[bytes], dict[bytes, int]]:
    """The most frequent colours, and for every colour the number of the nearest of them."""
    palette = [colour for colour, _ in counts.most_common(COLOURS_MAX)]
    numbers = {colour: number for number, colour in enumerate(palette)}
    for colour in counts.keys() - numbers.keys():
        numbers[colour] = min(range(len(palette)), key=lambda n: _distance(palette[n], colour))
    return palette, numbers


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
