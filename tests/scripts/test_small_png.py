"""scripts.small_png: the same picture, in fewer bytes."""

import random
import struct
import zlib

import pytest

from scripts.small_png import SIGNATURE, NotSuchPng, smaller_png

WIDTH, HEIGHT = 40, 30
RGB, RGBA = 2, 6


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: list[bytes], colour_type: int, filters: list[int]) -> bytes:
    """Encoded as the specification says, each line with a filter of its own."""
    size = {RGB: 3, RGBA: 4}[colour_type]
    header = struct.pack(">IIBBBBB", len(rows[0]) // size, len(rows), 8, colour_type, 0, 0, 0)
    above = bytes(len(rows[0]))
    lines = b""
    for row, kind in zip(rows, filters, strict=True):
        lines += bytes([kind]) + bytes(
            (row[i] - predicted(kind, row, above, i, size)) % 256 for i in range(len(row))
        )
        above = row
    packed = zlib.compress(lines)
    # in two parts, as encoders may
    data = chunk(b"IDAT", packed[:50]) + chunk(b"IDAT", packed[50:])
    return SIGNATURE + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def predicted(kind: int, row: bytes, above: bytes, i: int, size: int) -> int:
    a = row[i - size] if i >= size else 0
    b = above[i]
    c = above[i - size] if i >= size else 0
    p = a + b - c
    paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
    return (0, a, b, (a + b) // 2, paeth)[kind]


def colours_of(data: bytes) -> list[bytes]:
    """The pixels of a PNG with a palette and without filters."""
    place, palette, packed, width = len(SIGNATURE), b"", b"", 0
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        body = data[place + 8 : place + 8 + length]
        assert data[place + 8 + length :][:4] == struct.pack(">I", zlib.crc32(kind + body))
        if kind == b"IHDR":
            width, _, depth, colour_type = struct.unpack(">IIBB", body[:10])
            assert (depth, colour_type) == (8, 3)
        palette = body if kind == b"PLTE" else palette
        packed += body if kind == b"IDAT" else b""
        place += length + 12
    lines = zlib.decompress(packed)
    numbers = b"".join(lines[i + 1 : i + 1 + width] for i in range(0, len(lines), width + 1))
    return [palette[3 * n : 3 * n + 3] for n in numbers]


def picture(colours: int, seed: int) -> list[list[bytes]]:
    chance = random.Random(seed)
    there = [chance.randbytes(3) for _ in range(colours)]
    return [[chance.choice(there) for _ in range(WIDTH)] for _ in range(HEIGHT)]


@pytest.mark.parametrize("colour_type", [RGB, RGBA])
@pytest.mark.parametrize("kind", range(5))
def test_the_picture_is_the_same(colour_type: int, kind: int) -> None:
    pixels = picture(100, kind)
    more = b"" if colour_type == RGB else b"\xff"
    rows = [b"".join(pixel + more for pixel in row) for row in pixels]
    data = png(rows, colour_type, [kind] * (HEIGHT - 5) + [0, 1, 2, 3, 4])
    small = smaller_png(data)
    assert colours_of(small) == [pixel for row in pixels for pixel in row]
    assert len(small) < len(data)


def test_of_many_colours_the_rare_ones_become_their_neighbours() -> None:
    common = [bytes((n, n, n)) for n in range(256)]
    rare = bytes((100, 101, 100))
    rows = [b"".join(common) * 2, rare + b"".join(common[1:]) + b"".join(common)]
    assert colours_of(smaller_png(png(rows, RGB, [0, 0])))[512] == bytes((100, 100, 100))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        SIGNATURE,
        SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, RGB, 0, 0, 0)),
        SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, RGB, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0\0")),
        SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, RGB, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\7\0\0\0")),
    ],
)
def test_what_is_no_such_png_is_refused(data: bytes) -> None:
    with pytest.raises(NotSuchPng):
        smaller_png(data)
