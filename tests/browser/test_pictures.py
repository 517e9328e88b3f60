"""The pictures of the documents can be taken of the pages as they are now."""

import asyncio
import io

import pytest
from PIL import Image

from scripts.screenshots import HEIGHT_MAX, PICTURES, WIDTH, running_browser, take
from tests.browser.site import Site

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="session")]

# what else is in the documents needs a system that has lived for longer
NAMES = ("builds-dark", "build", "comparison")


async def test_pictures_are_taken_of_what_is_to_be_seen(site: Site) -> None:
    builds = {"rounding": site.builds["dissent"]}

    def take_them() -> list[bytes]:
        with running_browser() as browser:
            return [take(browser, site.origin, p, builds) for p in PICTURES if p.name in NAMES]

    taken = await asyncio.to_thread(take_them)
    assert len(taken) == len(NAMES)
    for data in taken:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            width, height = picture.size
        assert width == WIDTH
        assert 300 < height <= HEIGHT_MAX
