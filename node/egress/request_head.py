"""What a client asks of the proxy, from the bytes of its request's head. Pure.

Two forms are taken: CONNECT with a name and a port, and a request for an `http://` URL. A
connection has one request. What two programs could understand in two ways is refused: line ends
that are not CR LF, blanks around names, lines that go on, a length that is told twice, chunks.
Sources: RFC 9112 (3.2, 5, 6.3), RFC 9110 (9.3.6).
"""

import re

import msgspec

from common.host_patterns import is_host_name

HEAD_BYTES_MAX = 16 * 1024
HEAD_END = b"\r\n\r\n"

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rf"({_WORD}) ([!-~]+) (HTTP/1\.[01])")
_FIELD = re.compile(rf"({_WORD}):[ \t]*([\t -~\x80-\xff]*)")
_AUTHORITY = re.compile(r"([A-Za-z0-9.-]{1,254})(?::([0-9]{1,5}))?")
_URL = re.compile(r"http://([^/?#]*)([/?][!-~]*)?")
_LENGTH = re.compile(r"[0-9]{1,15}")
_HTTP_PORT = 80
_PORT_MAX = 65_535
# They are about this connection, or about the proxy.
_NOT_PASSED_ON = frozenset(
    {"connection", "host", "keep-alive", "proxy-authorization", "proxy-connection", "te", "upgrade"}
)


class HeadRefused(Exception):
    """The request is not taken; the text says why. status: of the answer."""

    def __init__(self, problem: str, status: str = "400 Bad Request") -> None:
        super().__init__(problem)
        self.status = status


class Request(msgspec.Struct, frozen=True):
    """Where a client wants to be connected."""

    # in small letters, without a dot at its end
    host: str
    port: int
    # what the host gets first; None: the client speaks with it from here on (CONNECT)
    head: bytes | None = None
    # so many bytes of the client follow the head
    body_bytes: int = 0


def parse_head(data: bytes) -> Request:
    """The request that begins with these bytes, which end with HEAD_END. Raises HeadRefused."""
    lines = data.removesuffix(HEAD_END).decode("latin-1").split("\r\n")
    found = _REQUEST_LINE.fullmatch(lines[0])
    if found is None:
        raise HeadRefused("the request line is not understood")
    method, target, version = found[1], found[2], found[3]
    fields = [_field(line) for line in lines[1:]]
    if method == "CONNECT":
        host, port = _host_and_port(target, None)
        return Request(host, port)
    url = _URL.fullmatch(target)
    if url is None:
        raise HeadRefused("write CONNECT name:port, or an http:// URL")
    host, port = _host_and_port(url[1], _HTTP_PORT)
    body_bytes = _body_bytes(fields)
    path = url[2] or "/"
    named = host if port == _HTTP_PORT else f"{host}:{port}"
    kept = [(name, value) for name, value in fields if name.lower() not in _NOT_PASSED_ON]
    head = "".join(
        (
            f"{method} {path if path.startswith('/') else '/' + path} {version}\r\n",
            f"Host: {named}\r\n",
            *(f"{name}: {value}\r\n" for name, value in kept),
            "Connection: close\r\n\r\n",
        )
    )
    return Request(host, port, head.encode("latin-1"), body_bytes)


def _field(line: str) -> tuple[str, str]:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise HeadRefused("a header line is not understood")
    return found[1], found[2].strip(" \t")


def _host_and_port(text: str, port: int | None) -> tuple[str, int]:
    """port: if none is written; None: one must be."""
    found = _AUTHORITY.fullmatch(text)
    number = port if found is None or found[2] is None else int(found[2])
    if found is None or number is None or not 1 <= number <= _PORT_MAX:
        raise HeadRefused("a name and a port are needed, without a login")
    # a name and the same with a dot at its end mean one host
    host = found[1].lower().removesuffix(".")
    if not is_host_name(host):
        raise HeadRefused(f"{text} is not the full name of a host, and a port", "403 Forbidden")
    return host, number


def _body_bytes(fields: list[tuple[str, str]]) -> int:
    lengths = [value for name, value in fields if name.lower() == "content-length"]
    if any(name.lower() == "transfer-encoding" for name, _ in fields):
        raise HeadRefused("a request in chunks is not taken", "411 Length Required")
    if not lengths:
        return 0
    if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise HeadRefused("Content-Length is not understood")
    return int(lengths[0])
