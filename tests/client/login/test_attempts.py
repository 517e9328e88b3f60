"""client.login.attempts: only the browser that left for the provider comes back, in time."""

import base64
import hashlib

import pytest

from client.login.attempts import ATTEMPT_SECONDS, AttemptLost, Attempts, local_path

ATTEMPTS = Attempts(b"k" * 32)
NOW = 1000.0


def test_the_browser_that_left_comes_back_to_where_it_was() -> None:
    begun = ATTEMPTS.begin(b"r" * 32, "/builds/ab?x=1", NOW)
    assert ATTEMPTS.finish(begun.cookie, begun.state, NOW + ATTEMPT_SECONDS) == begun
    assert begun.next_path == "/builds/ab?x=1"
    assert len({begun.state, begun.nonce, begun.verifier}) == 3
    # RFC 7636, 4.1 and 4.2
    assert 43 <= len(begun.verifier) <= 128
    digest = hashlib.sha256(begun.verifier.encode()).digest()
    assert begun.challenge == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def test_another_browsers_answer_counts_for_nothing() -> None:
    ours, other = (ATTEMPTS.begin(letter * 32, "/", NOW) for letter in (b"a", b"b"))
    for cookie, state in (
        (ours.cookie, other.state),
        (other.cookie, ours.state),
        (ours.cookie, ""),
        ("", ours.state),
        (ours.cookie + "A", ours.state),
        (ours.cookie.replace("1600", "9999"), ours.state),
    ):
        with pytest.raises(AttemptLost):
            ATTEMPTS.finish(cookie, state, NOW)
    with pytest.raises(AttemptLost):
        Attempts(b"x" * 32).finish(ours.cookie, ours.state, NOW)


def test_an_attempt_ends() -> None:
    begun = ATTEMPTS.begin(b"r" * 32, "/", NOW)
    with pytest.raises(AttemptLost, match="10 minutes"):
        ATTEMPTS.finish(begun.cookie, begun.state, NOW + ATTEMPT_SECONDS + 1)


@pytest.mark.parametrize(
    "path", ["/", "/builds/ab", "/?branch=a%2Fb&x=1", "/tests/a/b", "/ledger#e"]
)
def test_a_page_of_this_gateway_is_gone_back_to(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "builds",
        "//evil.example.org",
        "/\\evil.example.org",
        "https://evil.example.org",
        "/\t/evil.example.org",
        "/a\r\nSet-Cookie: x",
        "/é",
        "/login?next=/login",
        "/logout",
        "/" + "a" * 1001,
        "javascript:alert(1)",
    ],
)
def test_no_other_place_is_gone_to(path: str) -> None:
    assert local_path(path) == "/"
