"""Streams of chance follow from seed and name, and from nothing else."""

from simulator.world.seeded_random import stream


def test_a_stream_is_the_same_again() -> None:
    assert [stream(7, "disk").random() for _ in range(3)] == [stream(7, "disk").random()] * 3


def test_streams_of_other_names_and_seeds_differ() -> None:
    drawn = {stream(seed, name).random() for seed in (1, 2) for name in ("disk", "network")}
    assert len(drawn) == 4


def test_what_never_happens_draws_nothing() -> None:
    one, other = stream(1, "x"), stream(1, "x")
    assert not one.happens(0.0)
    assert one.random() == other.random()
