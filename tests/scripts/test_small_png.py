"""scripts.small_png: the same picture, in fewer bytes."""

import io
from pathlib import Path

import PIL
import pytest
from PIL import Image, ImageChops

from scripts.small_png import COLOURS_MAX, smaller_png


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
    picture = Image.linear_gradient("L").convert("RGB").rotate(90)
    picture.paste(Image.radial_gradient("L"), (0, 128))
    data = png(Image.merge("RGB", (picture.getchannel("R"), *[Image.linear_gradient("L")] * 2)))
    small = smaller_png(data)
    assert len(small) < len(data)
    with Image.open(io.BytesIO(small)) as reduced:
        assert (reduced.mode, reduced.size) == ("P", (256, 256))
        colours = reduced.getcolors()
    assert colours is not None
    assert len(colours) <= COLOURS_MAX
    assert max(ImageChops.difference(read(small), read(data)).tobytes()) < 64


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
