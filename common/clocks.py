"""Machines' clocks compared with each other: which of them are wrong. Pure.

The clocks are given as seconds by which each is ahead of this machine's. The middle one is taken
for right: fewer than half of them, whatever they say, move it beyond what another one says.
"""

import statistics
from collections.abc import Mapping

# Certificates and the dates of builds bear this; people who compare logs do not bear more.
CLOCK_SECONDS_MAX = 10.0


def own_error(ahead_seconds: Mapping[str, float]) -> float:
    """How far this machine's clock is ahead of the middle one. ahead_seconds: one at least."""
    return -statistics.median_low(sorted(ahead_seconds.values()))


def is_wrong(seconds: float) -> bool:
    """Whether a clock that is so far ahead should be set."""
    return abs(seconds) > CLOCK_SECONDS_MAX


def in_words(seconds: float) -> str:
    """How far a clock is wrong."""
    return f"{abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"
