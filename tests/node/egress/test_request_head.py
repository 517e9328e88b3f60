"""What the proxy takes for a request, and what it refuses."""

import pytest

from node.egress.request_head import HeadRefused, Request, parse_head


def parse(*lines: str) -> Request:
    return parse_head(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("pypi.org:443", "pypi.org", 443),
        ("PyPI.Org:443", "pypi.org", 443),
        ("pypi.org.:8443", "pypi.org", 8443),
    ],
)
def test_connect(target: str, host: str, port: int) -> None:
    assert parse(f"CONNECT {target} HTTP/1.1", f"Host: {target}") == Request(host, port)


def test_a_request_for_a_url_goes_on_in_the_hosts_own_form() -> None:
    request = parse(
        "POST http://Deb.Example.org./a?b HTTP/1.1",
        "Host: elsewhere.example.org",
        "Proxy-Authorization: Basic x",
        "Proxy-Connection: keep-alive",
        "Connection: keep-alive",
        "Accept: */*",
        "Content-Length: 3",
    )
    assert (request.host, request.port, request.body_bytes) == ("deb.example.org", 80, 3)
    assert request.head == (
        b"POST /a?b HTTP/1.1\r\nHost: deb.example.org\r\nAccept: */*\r\nContent-Length: 3\r\n"
        b"Connection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("url", "first"),
    [
        ("http://a.example.org", b"GET / HTTP/1.0\r\nHost: a.example.org\r\n"),
        ("http://a.example.org?q", b"GET /?q HTTP/1.0\r\nHost: a.example.org\r\n"),
        ("http://a.example.org:81/x", b"GET /x HTTP/1.0\r\nHost: a.example.org:81\r\n"),
    ],
)
def test_the_path_of_a_url(url: str, first: bytes) -> None:
    head = parse(f"GET {url} HTTP/1.0").head
    assert head == first + b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    "target",
    [
        *("127.0.0.1:443", "[::1]:443", "[::ffff:127.0.0.1]:443", "2130706433:443", "0x7f.1:443"),
        *("localhost:443", "pypi.org", "pypi.org:", "pypi.org:0", "pypi.org:65536", "pypi.org:-1"),
        *("pypi.org:443:443", "user@pypi.org:443", "pypi.org..:443", ".pypi.org:443", "*.a.org:1"),
        *("pypi.org%00.evil.org:443", "pypi.org/x:443", "b\xfccher.example:443", "a_b.org:443"),
        *("http://pypi.org:443", "pypi.org:443#", "pypi.org:00000443", "pypi.org:4 43"),
    ],
)
def test_places_that_connect_does_not_take(target: str) -> None:
    with pytest.raises(HeadRefused):
        parse(f"CONNECT {target} HTTP/1.1")


@pytest.mark.parametrize(
    "lines",
    [
        ("GET / HTTP/1.1", "Host: pypi.org"),
        ("GET https://pypi.org/ HTTP/1.1",),
        ("GET HTTP://pypi.org/ HTTP/1.1",),
        ("GET http:///x HTTP/1.1",),
        ("GET http://pypi.org@evil.org/ HTTP/1.1",),
        ("GET http://evil.org\\@pypi.org/ HTTP/1.1",),
        ("GET http://127.0.0.1/ HTTP/1.1",),
        ("GET http://pypi.org/ HTTP/2.0",),
        ("GET http://pypi.org/",),
        ("GET  http://pypi.org/ HTTP/1.1",),
        ("GET http://pypi.org/ x HTTP/1.1",),
        ("GET http://pypi.org/\x00 HTTP/1.1",),
        (" GET http://pypi.org/ HTTP/1.1",),
        # two ways to say how long it is, and lines that others may read in another way
        ("POST http://pypi.org/ HTTP/1.1", "Content-Length: 1", "Content-Length: 1"),
        ("POST http://pypi.org/ HTTP/1.1", "Content-Length: +1"),
        ("POST http://pypi.org/ HTTP/1.1", "Content-Length: 1, 1"),
        ("POST http://pypi.org/ HTTP/1.1", "Content-Length: -1"),
        ("POST http://pypi.org/ HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked"),
        ("POST http://pypi.org/ HTTP/1.1", "transfer-encoding: identity"),
        ("POST http://pypi.org/ HTTP/1.1", "Content-Length : 1"),
        ("POST http://pypi.org/ HTTP/1.1", " Content-Length: 1"),
        ("POST http://pypi.org/ HTTP/1.1", "A: b", "\tfolded"),
        ("POST http://pypi.org/ HTTP/1.1", "A: b\nGET http://evil.org/ HTTP/1.1"),
        ("POST http://pypi.org/ HTTP/1.1", "A: b\rContent-Length: 1"),
        ("CONNECT pypi.org:443 HTTP/1.1", "A: b\x00"),
        ("CONNECT pypi.org:443 HTTP/1.1\nX: y",),
        ("CONNECT pypi.org:443 HTTP/1.1", "no colon"),
        ("CONNECT pypi.org:443 HTTP/1.1", ": no name"),
        ("",),
    ],
)
def test_requests_that_are_not_taken(lines: tuple[str, ...]) -> None:
    with pytest.raises(HeadRefused):
        parse(*lines)
