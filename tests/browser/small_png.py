"""Makes a PNG smaller: at most 256 colours.

For pictures of pages, which have few colours: the many that stand for the edges of letters are
told apart by no eye. A colour that few pixels have, as a green dot, is kept,
and the ground is as it was.
"""

import io

from PIL import Image

COLOURS_MAX = 256


def smaller_png(data: bytes) -> bytes:
    """The same picture with a palette. Raises PIL.UnidentifiedImageError for what is no picture."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        few = picture.convert("RGB").quantize(COLOURS_MAX, Image.Quantize.MAXCOVERAGE, kmeans=1)
        few.save(out, "PNG", optimize=True)
    return out.getvalue()
