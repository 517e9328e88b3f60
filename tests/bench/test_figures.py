"""Medians, percentiles, paired ratios, slopes."""

import pytest

from bench.figures import Spread, exponent, percentile, ratios, slope, spread


def test_a_spread_has_the_median_and_both_ends() -> None:
    assert spread([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0, 3)
    assert spread([1.0, 2.0]).median == 1.5


def test_ratios_are_taken_pair_by_pair() -> None:
    # the machine was twice as slow in the second pair: no difference between the two sides
    assert ratios([2.0, 4.0], [1.0, 2.0]) == Spread(2.0, 2.0, 2.0, 2)


def test_ratios_need_as_many_of_either_side() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)]
)
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


def test_a_slope_ignores_single_outliers() -> None:
    points = [(float(x), 3.0 * x + 1.0) for x in range(20)]
    points[7] = (7.0, 1_000.0)
    assert slope(points) == pytest.approx(3.0)


def test_one_point_has_no_slope() -> None:
    assert slope([(1.0, 2.0)]) == 0.0


def test_the_exponent_of_a_power_law_is_found() -> None:
    assert exponent([(x, 5.0 * x**2) for x in (4, 7, 10, 13)]) == pytest.approx(2.0)
