"""What is noted is told as Prometheus' own histogram tells it."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from node.durations import Durations

BOUNDS = (0.001, 0.5, 1, 10)
SECONDS = (0.0, 0.0009, 0.001, 0.0011, 0.5, 0.75, 1.0, 1, 9.99, 10, 11.5)


def _text(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    # when a histogram began is another moment for each of them
    return [line.rpartition(" ")[0] if "_created" in line else line for line in lines]


def test_it_is_told_as_the_library_would() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    durations = Durations("x_seconds", "What for", BOUNDS)
    ours.register(durations)
    histogram = Histogram("x_seconds", "What for", buckets=BOUNDS, registry=theirs)
    assert _text(ours) == _text(theirs), "before anything is noted"
    for seconds in SECONDS:
        durations.note(seconds)
        histogram.observe(seconds)
    assert _text(ours) == _text(theirs)


def test_a_label_is_shown_once_something_has_it() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    durations = Durations("x_seconds", "What for", BOUNDS, "phase")
    ours.register(durations)
    histogram = Histogram("x_seconds", "What for", ["phase"], buckets=BOUNDS, registry=theirs)
    assert _text(ours) == _text(theirs), "before anything is noted"
    for seconds in SECONDS:
        for phase, times in (("prepared", 1.0), ("executed", 1.5)):
            durations.note(times * seconds, phase)
            histogram.labels(phase).observe(times * seconds)
    assert _text(ours) == _text(theirs)
