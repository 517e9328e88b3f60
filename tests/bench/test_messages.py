"""Messages per batch, counted on the real core."""

import pytest

from bench.messages import Count, count, paper, rows


@pytest.mark.parametrize("replicas", [4, 7])
def test_a_batch_takes_as_many_messages_as_in_the_paper(replicas: int) -> None:
    counted = count(replicas, interval=4, batches=8)
    assert counted.messages == paper(replicas, 4)
    assert counted.bytes > 0


def test_the_paper_counts_two_per_ordered_pair_and_the_checkpoints() -> None:
    assert paper(4, interval=12) == 24 + 1


def test_more_messages_or_a_steeper_growth_miss_the_target() -> None:
    good = [Count(n, paper(n, 8), 100 * paper(n, 8), 0.0) for n in (4, 7, 10)]
    assert [row.is_met for row in rows(good, 8)] == [True, True]
    chatty = [Count(n, paper(n, 8) + n, 100.0 * n**3, 0.0) for n in (4, 7, 10)]
    assert [row.is_met for row in rows(chatty, 8)] == [False, False]
