"""What all routes of a node's HTTP share: numbers from the query, and one form of error."""

import msgspec
from aiohttp import web


def number(request: web.Request, name: str, default: int, low: int, high: int) -> int:
    """A number from the query. Raises HTTPBadRequest."""
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not low <= int(text) <= high:
        raise http_error(web.HTTPBadRequest, f"?{name}= takes a number from {low} to {high}")
    return int(text)


def http_error(kind: type[web.HTTPException], reason: str) -> web.HTTPException:
    """An error as this node's HTTP says it: {"error": reason}."""
    return kind(
        text=msgspec.json.encode({"error": reason}).decode(), content_type="application/json"
    )
