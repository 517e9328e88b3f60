"""Made smaller, a picture is the same picture, in fewer bytes."""

import io
from pathlib import Path

import PIL
import pytest
from PIL import Image, ImageChops

from tests.browser.small_png import COLOURS_MAX, smaller_png


def png(picture: Image.Image) -> bytes:
    """As a browser gives it."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def read(data: bytes) -> Image.Image:
    """With all its colours."""
    return Image.open(io.BytesIO(data)).convert("RGB")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_few_colours_stay_what_they_are(mode: str) -> None:
    picture = Image.new(mode, (40, 30), "white")
    picture.paste("navy", (5, 5, 20, 20))
    picture.putpixel((39, 29), (1, 2, 3))
    small = smaller_png(png(picture))
    assert ImageChops.difference(read(small), picture.convert("RGB")).getbbox() is None


def test_many_colours_become_few_that_are_near() -> None:
    """Greys with a tint, as the edges of letters have, one green dot, and the ground."""
    grey = Image.radial_gradient("L")
    tint = Image.linear_gradient("L").point(lambda value: value // 32)
    tinted = [ImageChops.subtract(grey, each) for each in (tint, tint.rotate(90))]
    picture = Image.merge("RGB", (grey, *tinted))
    picture.paste((30, 110, 50), (10, 10, 18, 18))
    picture.paste((251, 251, 250), (0, 192, 256, 256))
    data = png(picture)
    small = smaller_png(data)
    assert len(small) < len(data)
    with Image.open(io.BytesIO(small)) as reduced:
        assert (reduced.mode, reduced.size) == ("P", (256, 256))
        colours = reduced.getcolors()
    assert colours is not None
    assert len(colours) <= COLOURS_MAX
    difference = ImageChops.difference(read(small), picture)
    assert max(difference.tobytes()) < 8
    assert difference.crop((0, 192, 256, 256)).getbbox() is None


@pytest.mark.parametrize("data", [b"", b"<svg/>", b"GIF89a" + bytes(20)])
def test_what_is_no_png_is_refused(data: bytes) -> None:
    with pytest.raises(PIL.UnidentifiedImageError):
        smaller_png(data)


def test_the_pictures_of_the_documents_have_a_palette() -> None:
    pictures = list((Path(__file__).parents[2] / "docs" / "images").glob("*.png"))
    assert pictures
    for file in pictures:
        with Image.open(file) as picture:
            assert picture.mode == "P", file.name
