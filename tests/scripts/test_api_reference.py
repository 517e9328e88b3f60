"""scripts.api_reference: the page of the API is what the API's own description makes of it."""

from client.api.openapi import ROUTES
from scripts.api_reference import FILE, page


def test_the_page_is_current() -> None:
    assert FILE.read_text() == page(), "run: python -m scripts.api_reference"


def test_it_has_each_route_and_the_fields_of_a_build() -> None:
    made = page()
    for route in ROUTES:
        assert f"### `{route.method.upper()} {route.path}`" in made
    assert "| `needs_approval` | boolean |" in made
