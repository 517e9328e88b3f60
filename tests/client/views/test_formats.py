"""client.views.formats: times and outcomes in words."""

import pytest

from ci.operations import Outcome
from client.storage.build_filter import OUTCOMES
from client.views import formats

THEN = "2026-01-31T09:05:07.250Z"
THEN_SECONDS = 1769850307.25


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "just now"),
        (0, "just now"),
        (59.9, "just now"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86399, "23 h ago"),
        (86400, "1 day ago"),
        (400 * 86400, "400 days ago"),
    ],
)
def test_how_long_ago(seconds: float, words: str) -> None:
    assert formats.ago(THEN, THEN_SECONDS + seconds) == words


def test_a_time_as_people_read_it() -> None:
    assert formats.absolute(THEN) == "2026-01-31 09:05:07 UTC"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.0 s"),
        (4.2, "4.2 s"),
        (59.75, "59 s"),
        (185.0, "3 min 05 s"),
        (3720.0, "1 h 02 min"),
        (172800.0, "48 h 00 min"),
    ],
)
def test_how_long_it_took(seconds: float, words: str) -> None:
    assert formats.length(seconds) == words


def test_how_long_it_has_gone_on() -> None:
    assert formats.elapsed(THEN, THEN_SECONDS + 12.9) == "12 s"
    assert formats.elapsed(THEN, THEN_SECONDS - 1) == "0 s"


def test_every_outcome_has_a_sign_beside_its_colour() -> None:
    kinds = {name: formats.kind(name) for name in OUTCOMES}
    assert {name for name, kind in kinds.items() if kind == "good"} == {Outcome.PASSED}
    assert kinds["skipped"] == "quiet"
    assert {kinds[name] for name in ("queued", "building", "cancelled")} == {"open"}
    assert all(kinds[name] == "bad" for name in ("failed", "timed_out", "disputed", "refused"))
    signs = {
        kind: {formats.sign(n) for n, k in kinds.items() if k == kind} for kind in kinds.values()
    }
    for kind, others in ((a, b) for a in signs for b in signs if a != b):
        assert not signs[kind] & signs[others], "what colours tell apart, signs do too"
    assert formats.words("out_of_memory") == "out of memory"
