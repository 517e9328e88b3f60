"""The parts that all HTTP routes of a node share: reading parameters, and one form of error."""

import msgspec
from aiohttp import web

from common.web.request_body import Bodies, BodyRefused


class _TooLarge(web.HTTPClientError):
    """413; aiohttp's own takes no text."""

    status_code = 413


_BODY_ERRORS: dict[int, type[web.HTTPException]] = {
    400: web.HTTPBadRequest,
    408: web.HTTPRequestTimeout,
    413: _TooLarge,
    503: web.HTTPServiceUnavailable,
}


def number(request: web.Request, name: str, default: int, *, low: int, high: int) -> int:
    """A number from the query. Raises HTTPBadRequest."""
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not low <= int(text) <= high:
        raise http_error(web.HTTPBadRequest, f"?{name}= takes a number from {low} to {high}")
    return int(text)


async def read_body(bodies: Bodies, request: web.Request, bytes_max: int) -> bytes:
    """A request's whole body. Raises an HTTP error where it is refused."""
    try:
        return await bodies.read(request, bytes_max)
    except BodyRefused as error:
        raise http_error(_BODY_ERRORS[error.status], error.text) from None


def http_error(kind: type[web.HTTPException], reason: str) -> web.HTTPException:
    """An error as this node's HTTP says it: {"error": reason}."""
    return kind(
        text=msgspec.json.encode({"error": reason}).decode(), content_type="application/json"
    )
