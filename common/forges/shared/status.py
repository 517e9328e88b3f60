"""One commit status, the request that carries it, and what a forge's answer means. Pure."""

import datetime
import email.utils
import enum
from collections.abc import Mapping

import msgspec

from common.safe_text import log_text
from common.version import VERSION

USER_AGENT = f"PBFT-CI/{VERSION}"
CONTEXT = "pbft-ci"
# A forge that asks for more than this is asked again after this.
RETRY_AFTER_SECONDS_MAX = 3600.0
SHOWN_CHARACTERS_MAX = 200
# GitHub's secondary limits may come without Retry-After; then it asks for at least a minute.
RATE_LIMIT_SECONDS = 60.0
RATE_LIMIT_WORDS = b"rate limit"


class State(enum.StrEnum):
    """How a build stands, in our words; each forge has its own."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class CommitStatus(msgspec.Struct, frozen=True):
    """What a forge shows beside a commit."""

    commit: str
    # who posts it; a forge shows one status per context
    context: str
    state: State
    description: str
    target_url: str | None = None
    # the branch or tag by its short name, if the commit was pushed to one
    ref: str | None = None


class StatusRequest(msgspec.Struct, frozen=True):
    """A POST to a forge."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Posted(msgspec.Struct, frozen=True):
    """The forge has it."""


class Later(msgspec.Struct, frozen=True):
    """Ask again: after so many seconds, or (None) with back-off."""

    reason: str
    seconds: float | None = None


class WrongToken(msgspec.Struct, frozen=True):
    """The token may not do this; nothing else sent with it would fare better."""

    reason: str


class Unseen(msgspec.Struct, frozen=True):
    """No such repository or commit, or none that this token may see: forges tell no difference.

    Others of the repository may fare better; this one may, with another token or another right.
    """

    reason: str


class Rejected(msgspec.Struct, frozen=True):
    """The forge will never take this one."""

    reason: str


Meaning = Posted | Later | WrongToken | Unseen | Rejected


def json_body(fields: Mapping[str, str | None]) -> bytes:
    """The fields that are there, as JSON."""
    return msgspec.json.encode({key: value for key, value in fields.items() if value is not None})


def cut(text: str, characters_max: int) -> str:
    """The text, or its beginning and three dots."""
    return text if len(text) <= characters_max else text[: characters_max - 3] + "..."


def common_meaning(
    status: int, headers: Mapping[str, str], data: bytes, *, now: float, scope: str
) -> Meaning:
    """What all forges mean alike. headers: looked up in lower case; now: seconds since 1970.

    scope: what a token needs, for whoever has to make another one.
    """
    said = f"{status}: {log_text(data.decode('utf-8', 'replace'), SHOWN_CHARACTERS_MAX)}"
    wait = retry_after_seconds(headers, now)
    if wait is None and status in (403, 429) and RATE_LIMIT_WORDS in data.lower():
        wait = RATE_LIMIT_SECONDS
    if 200 <= status < 300:
        return Posted()
    if status == 429 or (status == 403 and wait is not None):
        return Later(f"too many requests ({said})", wait)
    if status == 401:
        return WrongToken(f"the token is not valid ({said}); a new one needs {scope}")
    if status == 403:
        return WrongToken(f"the token may not post commit statuses ({said}); it needs {scope}")
    if status in (408, 409, 425) or status >= 500:
        return Later(said, wait)
    if 300 <= status < 400:
        return Rejected(f"{said}; a redirect is not followed: is `api_url` right?")
    if status == 404:
        return Unseen(
            f"{said}; no such repository or commit for this token: is `project` right, and does "
            f"the token have {scope}?"
        )
    return Rejected(said)


def retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """How long a forge asks to be left alone: Retry-After, or when its rate limit is reset."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return min(float(value), RETRY_AFTER_SECONDS_MAX)
    if value:
        try:
            at = email.utils.parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            # Overflow: numbers that no date has, as a year or as an offset.
            return None
        if at.tzinfo is None:
            at = at.replace(tzinfo=datetime.UTC)
        return min(max(0.0, at.timestamp() - now), RETRY_AFTER_SECONDS_MAX)
    reset = headers.get("x-ratelimit-reset", headers.get("ratelimit-reset", "")).strip()
    remaining = headers.get("x-ratelimit-remaining", headers.get("ratelimit-remaining", ""))
    if remaining.strip() == "0" and reset.isascii() and reset.isdigit() and len(reset) < 13:
        return min(max(0.0, int(reset) - now), RETRY_AFTER_SECONDS_MAX)
    return None
