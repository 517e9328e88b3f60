"""client.views.trend_view: weeks of finished builds in numbers."""

import datetime

import msgspec

from client.storage.build_measures import BuildMeasure
from client.views.trend_view import begin_of, plots_of, slow, weeks_of

# a Wednesday
NOW = datetime.datetime(2026, 11, 25, 12, tzinfo=datetime.UTC).timestamp()
DAY = 86_400.0
BUILD = BuildMeasure(1, "r", "passed", NOW, 2.0, 10.0, 4, 0, 0)


def build(**changed: object) -> BuildMeasure:
    return msgspec.structs.replace(BUILD, **changed)


def test_a_week_begins_on_monday_and_ends_before_the_next() -> None:
    monday = begin_of(1, NOW)
    assert datetime.datetime.fromtimestamp(monday, datetime.UTC).isoformat() == (
        "2026-11-23T00:00:00+00:00"
    )
    builds = [build(decided_at=at) for at in (monday, monday - 0.001, begin_of(2, NOW) - 0.001)]
    weeks = weeks_of(builds, 2, NOW)
    assert [(week.begin, week.builds) for week in weeks] == [("2026-11-16", 1), ("2026-11-23", 1)]


def test_what_was_not_to_be_built_does_not_count() -> None:
    weeks = weeks_of([build(outcome="cancelled"), build(outcome="skipped")], 1, NOW)
    assert (weeks[0].builds, weeks[0].passed, weeks[0].queued) == (0, None, None)


def test_shares_and_times() -> None:
    builds = [
        build(),
        build(outcome="failed", dissenting=1, queued_seconds=4.0, built_seconds=30.0),
        # nobody agrees, so there is no build time
        build(outcome="disputed", queued_seconds=9.0, built_seconds=None),
        # a machine that could not build says nothing against the others
        build(abstained=1, agreeing=3, queued_seconds=1.0, built_seconds=20.0),
    ]
    (week,) = weeks_of(builds, 1, NOW)
    assert (week.builds, week.passed, week.agreed) == (4, 0.5, 0.5)
    assert (week.queued, week.queued_slow) == (3.0, 9.0)
    assert (week.built, week.built_slow) == (20.0, 30.0)
    assert [plot.title for plot in plots_of([week])] == [
        "Time in queue", "Time in build", "Passed", "Agreed",
    ]  # fmt: skip
    assert [plot.bars.bars[0].text for plot in plots_of([week])] == [
        f"week of 2026-11-23: {said}" for said in ("3.0 s", "20 s", "50 %", "50 %")
    ]


def test_nine_of_ten_do_not_exceed_it() -> None:
    for count in range(1, 50):
        ordered = [float(value) for value in range(count)]
        found = slow(ordered)
        assert found is not None
        assert sum(value <= found for value in ordered) >= 0.9 * count
        assert sum(value < found for value in ordered) < 0.9 * count
    assert slow([]) is None
