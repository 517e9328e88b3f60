"""Words and signs for people: outcomes, how long ago, how long. Pure."""

import datetime
from urllib.parse import urlsplit

MINUTE_SECONDS = 60
HOUR_SECONDS = 3600
DAY_SECONDS = 86400

# (sign, kind): the sign stands beside the word, the kind is a class of the style sheet.
_SIGNS = {
    "passed": ("✓", "good"),
    "queued": ("…", "open"),
    "building": ("…", "open"),
    "cancelled": ("⊘", "open"),
    "skipped": ("»", "quiet"),
    "disputed": ("?", "bad"),
}


def sign(outcome: str) -> str:
    """The sign of an outcome or of a build's status."""
    return _SIGNS.get(outcome, ("✗", "bad"))[0]


def kind(outcome: str) -> str:
    """good, bad, open or quiet: how an outcome or a build's status is coloured."""
    return _SIGNS.get(outcome, ("✗", "bad"))[1]


def words(name: str) -> str:
    """An outcome's name as words: `timed_out` is "timed out"."""
    return name.replace("_", " ")


def short_repository(url: str) -> str:
    """A repository's URL as people say it: without scheme, user and `.git`. Pure."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url.removesuffix(".git")
    host = parts.netloc.rpartition("@")[2]
    return f"{host}{parts.path.removesuffix('.git')}"


def ago(iso: str, now: float) -> str:
    """How long before `now` (seconds since 1970) that ISO 8601 time was: "3 min ago"."""
    seconds = now - _seconds(iso)
    if seconds < MINUTE_SECONDS:
        return "just now"
    if seconds < HOUR_SECONDS:
        return f"{int(seconds // MINUTE_SECONDS)} min ago"
    if seconds < DAY_SECONDS:
        return f"{int(seconds // HOUR_SECONDS)} h ago"
    days = int(seconds // DAY_SECONDS)
    return f"{days} day{'s' if days != 1 else ''} ago"


def absolute(iso: str) -> str:
    """An ISO 8601 time in UTC as people read it: "2026-01-31 09:05:07 UTC"."""
    moment = datetime.datetime.fromisoformat(iso).astimezone(datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def at(seconds: int) -> str:
    """Seconds since 1970 as ISO 8601 in UTC."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat().replace("+00:00", "Z")


def length(seconds: float) -> str:
    """A length of time, not below 0: "4.2 s", "12 s", "3 min 05 s", "1 h 02 min"."""
    return f"{seconds:.1f} s" if seconds < 10 else _span(seconds)


def elapsed(iso: str, now: float) -> str:
    """From an ISO 8601 time until `now` (seconds since 1970): "12 s"."""
    return _span(max(0.0, now - _seconds(iso)))


def _span(seconds: float) -> str:
    if seconds < MINUTE_SECONDS:
        return f"{int(seconds)} s"
    if seconds < HOUR_SECONDS:
        return f"{int(seconds // MINUTE_SECONDS)} min {int(seconds % MINUTE_SECONDS):02d} s"
    hours, rest = divmod(int(seconds), HOUR_SECONDS)
    return f"{hours} h {rest // MINUTE_SECONDS:02d} min"


def _seconds(iso: str) -> float:
    return datetime.datetime.fromisoformat(iso).timestamp()
