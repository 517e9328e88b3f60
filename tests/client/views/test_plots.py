"""client.views.plots: where lines and bars are drawn, and what they say in words."""

import pytest

from client.views.plots import BAR_PLACE, BARS_HEIGHT, LINE_HEIGHT, LINE_WIDTH, bars, line, run
from client.views.trend_view import percent


def said(value: float) -> str:
    return f"{value:g} s"


def test_a_line_goes_from_the_oldest_at_the_left_and_stands_on_zero() -> None:
    drawn = line([1.0, 4.0, 2.0], said)
    assert drawn is not None
    assert drawn.text == "3 builds, from 1 s to 4 s, the newest 2 s"
    places = [tuple(map(float, place.split(","))) for place in drawn.points.split()]
    xs, ys = zip(*places, strict=True)
    assert list(xs) == sorted(xs)
    assert all(0 < x < LINE_WIDTH and 0 < y < LINE_HEIGHT for x, y in places)
    # the highest touches the upper margin, and twice as much is twice as high
    margin = min(ys)
    high = [LINE_HEIGHT - margin - y for y in ys]
    assert high == [pytest.approx(part * high[1], abs=0.1) for part in (0.25, 1, 0.5)]


@pytest.mark.parametrize("values", [[], [3.0]])
def test_one_value_is_no_line(values: list[float]) -> None:
    assert line(values, said) is None


def test_a_line_of_equal_values_says_so() -> None:
    drawn = line([0.0, 0.0], said)
    assert drawn is not None
    assert drawn.text == "2 builds, all 0 s, the newest 0 s"


def test_a_run_has_high_bars_for_what_passed() -> None:
    drawn = run([True, False, True])
    assert (drawn.passed, drawn.not_passed) == ("M0 0h5v16h-5zM12 0h5v16h-5z", "M6 8h5v8h-5z")
    assert drawn.width == 18


def test_a_bar_is_as_high_as_its_value_and_an_unknown_one_is_left_out() -> None:
    drawn = bars([2.0, None, 4.0, 0.0], ["a", "b", "c", "d"], said=said)
    assert (drawn.top, drawn.width) == ("4 s", 4 * BAR_PLACE)
    assert [bar.text for bar in drawn.bars] == ["a: 2 s", "c: 4 s", "d: 0 s"]
    assert [bar.height for bar in drawn.bars[:2]] == [BARS_HEIGHT / 2, BARS_HEIGHT]
    assert all(bar.y + bar.height == BARS_HEIGHT for bar in drawn.bars)
    assert drawn.bars[2].height > 0, "nothing is seen otherwise"


def test_shares_stand_against_the_whole() -> None:
    drawn = bars([0.5], ["a"], said=percent, highest=1.0)
    assert (drawn.top, drawn.bars[0].height) == ("100 %", BARS_HEIGHT / 2)


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "0 %"), (1, "100 %"), (0.9999, "99.9 %"), (1e-6, "0.1 %"), (2 / 3, "66.7 %")],
)
def test_all_and_none_are_said_only_where_they_are_meant(share: float, words: str) -> None:
    assert percent(share) == words
