"""How much the long tests try: as much as each change is worth, or so many times as much.

Before a release: `PBFT_CI_TIMES=5 ./scripts/test.sh --full`
"""

import os
import zlib
from collections.abc import Sequence
from typing import TypeVar

import pytest

from scripts.folders import ROOT
from simulator.campaigns.source_commit import commit_hash

T = TypeVar("T")


def times(count: int) -> int:
    """So many, times PBFT_CI_TIMES (1)."""
    return count * max(1, int(os.environ.get("PBFT_CI_TIMES", "1")))


def drawn(items: Sequence[T], count: int) -> list[T]:
    """`times(count)` of these, or all if there are no more, in their order.

    The commit decides which: a failure is no chance, and a few commits try all.
    """
    first = _commit_number()
    chosen = {(first + number) % len(items) for number in range(min(times(count), len(items)))}
    return [item for place, item in enumerate(items) if place in chosen]


def first_of(every: int) -> int:
    """Where to begin if one of `every` is tried: the commit decides, and a few commits try all."""
    return _commit_number() % every


def rare(every: int, name: str) -> pytest.MarkDecorator:
    """Of a test of that name that costs much, and whose rules cheaper tests show: one of `every`
    commits tries it, and skips tell the others. If more than usual is tried, it always is."""
    return pytest.mark.skipif(
        not is_tried(every, name),
        reason=f"one of {every} commits tries it; with PBFT_CI_TIMES=2 each does",
    )


def is_tried(every: int, name: str) -> bool:
    """Whether this is the one of `every` commits that tries what has that name, or more than usual
    is tried."""
    return times(1) > 1 or (_commit_number() + zlib.crc32(name.encode())) % every == 0


def _commit_number() -> int:
    return int(commit_hash(ROOT)[:8] or "0", 16)
