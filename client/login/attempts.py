"""One attempt to log in, between the browser's leaving for the provider and its coming back.

The gateway keeps nothing of it, so nobody fills its memory with attempts. The browser keeps a
random value in a cookie, with when it expires and where it wants to go. The state, the nonce and
the verifier (RFC 7636) follow from the whole cookie by a key of this process. So a callback counts
in the browser that left alone (RFC 6749, 10.12), and a changed cookie belongs to no state.
"""

import base64
import hashlib
import hmac
import re

import msgspec

COOKIE = "pbft_ci_login"
ATTEMPT_SECONDS = 600
NEXT_CHARACTERS_MAX = 1000

_COOKIE_VALUE = re.compile(r"([0-9a-f]{64})\.([0-9]{1,12})\.([A-Za-z0-9_-]{0,1400})")
# A path of this gateway: a second slash or a backslash would begin another host's name. What a
# browser takes out of an address (tabs, line ends) is not in it either.
_LOCAL_PATH = re.compile(r"/(?:[A-Za-z0-9._~%?=&:@+,;!$'()*#-][A-Za-z0-9._~%?=&:@+,;!$'()*#/-]*)?")


class AttemptLost(ValueError):
    """The browser comes back with nothing that it left with; the text says what to do."""


class Attempt(msgspec.Struct, frozen=True):
    """What belongs to one attempt. next_path: where the person goes afterwards."""

    cookie: str
    state: str
    nonce: str
    verifier: str
    next_path: str

    @property
    def challenge(self) -> str:
        """What the provider is told of the verifier (RFC 7636, 4.2: S256)."""
        return _encoded(hashlib.sha256(self.verifier.encode()).digest())


class Attempts:
    """Those of one process."""

    def __init__(self, key: bytes) -> None:
        """key: 32 random bytes."""
        self._key = key

    def begin(self, drawn: bytes, next_path: str, now: float) -> Attempt:
        """A new one. drawn: 32 random bytes; now: seconds since 1970."""
        wanted = _encoded(local_path(next_path).encode())
        return self._attempt(f"{drawn.hex()}.{int(now) + ATTEMPT_SECONDS}.{wanted}")

    def finish(self, cookie: str, state: str, now: float) -> Attempt:
        """The attempt that this cookie and this state belong to. Raises AttemptLost."""
        found = _COOKIE_VALUE.fullmatch(cookie)
        if found is None:
            raise AttemptLost(
                "this browser did not begin this login here: allow cookies, and log in again from"
                " this gateway's own page"
            )
        attempt = self._attempt(cookie)
        if not hmac.compare_digest(attempt.state.encode(), state.encode()):
            raise AttemptLost("the answer belongs to another attempt to log in: log in again")
        if int(found[2]) < now:
            raise AttemptLost(
                f"the login took longer than {ATTEMPT_SECONDS // 60} minutes: log in again"
            )
        return attempt

    def _attempt(self, cookie: str) -> Attempt:
        wanted = cookie.rpartition(".")[2]
        path = base64.urlsafe_b64decode(wanted + "=" * (-len(wanted) % 4)).decode(errors="replace")
        return Attempt(
            cookie=cookie,
            state=self._derived("state", cookie),
            nonce=self._derived("nonce", cookie),
            verifier=self._derived("verifier", cookie),
            next_path=local_path(path),
        )

    def _derived(self, what: str, cookie: str) -> str:
        return _encoded(hmac.digest(self._key, f"{what}\0{cookie}".encode(), "sha256"))


def local_path(text: str) -> str:
    """That path if it leads to a page of this gateway, else the first page."""
    is_local = len(text) <= NEXT_CHARACTERS_MAX and _LOCAL_PATH.fullmatch(text) is not None
    return text if is_local and not text.startswith(("/login", "/logout")) else "/"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
