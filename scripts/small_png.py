"""Makes a PNG smaller: at most 256 colours.

For pictures of pages, which have few colours: the many that stand for the edges of letters are
told apart by no eye.
"""

import io

from PIL import Image

COLOURS_MAX = 256


def smaller_png(data: bytes) -> bytes:
    """The same picture with a palette. Raises PIL.UnidentifiedImageError for what is no picture."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        picture.convert("RGB").quantize(COLOURS_MAX).save(out, "PNG", optimize=True)
    return out.getvalue()
