"""Statistics of measurements: medians, percentiles, paired ratios, slopes. Pure.

The rule: a ratio is taken of two measurements made one right after the other, and the median of
such ratios is what is reported, with the lowest and the highest. On a machine that others use as
well, each half alone says little; what both halves of a pair suffered cancels out.
"""

import math
import statistics
from collections.abc import Sequence
from itertools import combinations

import msgspec

# More pairs than of so many points would take long and say no more.
SLOPE_POINTS_MAX = 400


class Spread(msgspec.Struct, frozen=True):
    """A measured value: the median of `count` repetitions, the lowest and the highest of them."""

    median: float
    lowest: float
    highest: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    assert values, "nothing was measured"
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratios(product: Sequence[float], reference: Sequence[float]) -> Spread:
    """The spread of product / reference, pair by pair in the order in which they were measured."""
    assert all(value > 0 for value in reference), "a reference that took nothing"
    return spread([ours / theirs for ours, theirs in zip(product, reference, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (above 0, at most 1) of all do not exceed."""
    assert values, "nothing was measured"
    assert 0 < share <= 1
    return sorted(values)[math.ceil(share * len(values)) - 1]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """How much the second number grows for each of the first: the median over pairs (Theil, Sen).

    A few outliers change nothing. 0.0 where there are fewer than two distinct places.
    """
    step = max(1, len(points) // SLOPE_POINTS_MAX)
    found = [
        (second[1] - first[1]) / (second[0] - first[0])
        for first, second in combinations(points[::step], 2)
        if second[0] != first[0]
    ]
    return statistics.median(found) if found else 0.0


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The k of the power law y = c * x^k that fits best: least squares of the logarithms."""
    assert len(points) > 1
    logs = [(math.log(x), math.log(y)) for x, y in points]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope
