"""Which hosts a pattern means."""

import pytest

from common.host_patterns import are_covered, is_host_name, is_host_pattern, is_meant


@pytest.mark.parametrize(
    "text", ["pypi.org", "*.example.org", "xn--bcher-kva.example", "a-b.c9.io:8443", "*", "*:22"]
)
def test_patterns(text: str) -> None:
    assert is_host_pattern(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "localhost", "PyPI.org", "pypi.org.", ".pypi.org", "a..org", "-a.org", "a-.org"),
        *("127.0.0.1", "127.1", "0x7f.0x1", "[::1]", "::1", "1.2.3.4.5", "a.1", "a.0x7f"),
        *("*.org", "a.*.org", "*a.example.org", "**.example.org", "*.", "*.1.2"),
        *("http://a.org", "a.org/x", "a.org:", "a.org:0", "a.org:080", "a.org:65536"),
        *("user@a.org", "bücher.example", "a.org\n", "a .org", "a.org:1:2", "a_b.example.org"),
        *(f"{'a' * 64}.org", f"{'a.' * 126}org", "\uff41.org", "a\u3002org", "a.org\x00.b.org"),
    ],
)
def test_no_patterns(text: str) -> None:
    assert not is_host_pattern(text)
    assert not is_host_name(text)


@pytest.mark.parametrize(
    ("host", "port", "is_ours"),
    [
        ("pypi.org", 443, True),
        ("pypi.org", 80, True),
        ("pypi.org", 22, False),
        ("evilpypi.org", 443, False),
        ("a.pypi.org", 443, False),
        ("pypi.org.evil.com", 443, False),
        ("a.b.cdn.example.org", 443, True),
        ("cdn.example.org", 443, False),
        ("evilcdn.example.org", 443, False),
        ("odd.example.org", 8443, True),
        ("odd.example.org", 443, False),
    ],
)
def test_which_hosts_are_meant(host: str, port: int, is_ours: bool) -> None:
    patterns = ("pypi.org", "*.cdn.example.org", "odd.example.org:8443")
    assert is_meant(patterns, host, port) is is_ours


def test_all_names_have_the_usual_ports_alone() -> None:
    assert is_meant(["*"], "a.example.org", 443)
    assert not is_meant(["*"], "a.example.org", 22)


@pytest.mark.parametrize(
    ("asked", "is_allowed"),
    [
        ("pypi.org", True),
        ("pypi.org:443", True),
        ("pypi.org:8443", False),
        ("*.pypi.org", False),
        ("*.cdn.example.org", True),
        ("*.a.cdn.example.org", True),
        ("a.cdn.example.org:80", True),
        ("cdn.example.org", False),
        ("*.example.org", False),
        ("odd.example.org", False),
        ("odd.example.org:8443", True),
    ],
)
def test_an_operator_covers_what_is_asked_for(asked: str, is_allowed: bool) -> None:
    patterns = ("pypi.org", "*.cdn.example.org", "odd.example.org:8443")
    assert are_covered(patterns, [asked]) is is_allowed
    assert are_covered(patterns, ["pypi.org", asked]) is is_allowed
    assert not are_covered([], [asked])
