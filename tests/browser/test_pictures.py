"""The pictures of the documents can be taken of the pages as they are now."""

import io

import pytest
from PIL import Image
from playwright.async_api import Browser

from tests.browser.screenshots import HEIGHT_MAX, PICTURES, WIDTH, take
from tests.browser.site import Site

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]

# what else is in the documents needs a system that has lived for longer
NAMES = ("builds-dark", "build", "comparison")


@pytest.mark.parametrize("name", NAMES)
async def test_a_picture_is_taken_of_what_is_to_be_seen(
    site: Site, browser: Browser, name: str
) -> None:
    (picture,) = (picture for picture in PICTURES if picture.name == name)
    data = await take(browser, site.origin, picture, {"rounding": site.builds["dissent"]})
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        width, height = image.size
    assert width == WIDTH
    assert 300 < height <= HEIGHT_MAX
