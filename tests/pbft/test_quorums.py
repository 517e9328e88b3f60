"""The thresholds, by their arithmetic and by counting sets."""

import itertools

import pytest

from pbft.quorums import Quorums, UnsupportedSize, quorums_for

SUPPORTED = [1, 2, 3, 4, 7, 10, 13, 100]


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        (1, Quorums(1, 0, 1, 1, 0)),
        (2, Quorums(2, 0, 2, 1, 1)),
        (3, Quorums(3, 0, 2, 1, 1)),
        (4, Quorums(4, 1, 3, 2, 2)),
        (7, Quorums(7, 2, 5, 3, 4)),
        (10, Quorums(10, 3, 7, 4, 6)),
    ],
)
def test_thresholds(replicas: int, expected: Quorums) -> None:
    assert quorums_for(replicas) == expected


@pytest.mark.parametrize("replicas", [-1, 0])
def test_no_replicas_are_refused(replicas: int) -> None:
    with pytest.raises(UnsupportedSize, match="at least one"):
        quorums_for(replicas)


@pytest.mark.parametrize(("replicas", "below"), [(5, 4), (6, 4), (8, 7), (9, 7), (11, 10)])
def test_other_numbers_are_refused_with_what_to_take(replicas: int, below: int) -> None:
    with pytest.raises(UnsupportedSize, match=f"for example {below} or {below + 3}"):
        quorums_for(replicas)


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 7])
def test_any_two_strong_sets_share_a_correct_replica(replicas: int) -> None:
    quorums = quorums_for(replicas)
    strong_sets = list(itertools.combinations(range(replicas), quorums.strong))
    for first, second in itertools.product(strong_sets, strong_sets):
        assert len(set(first) & set(second)) > quorums.faults_max


@pytest.mark.parametrize("replicas", SUPPORTED)
def test_correct_replicas_alone_are_strong_and_a_weak_set_holds_one(replicas: int) -> None:
    quorums = quorums_for(replicas)
    assert replicas - quorums.faults_max >= quorums.strong
    assert quorums.weak == quorums.faults_max + 1
    assert quorums.prepares + 1 == quorums.strong
    # Whoever sees a strong certificate knows that a weak set of correct replicas is in it.
    assert quorums.strong - quorums.faults_max >= (quorums.weak if quorums.faults_max else 1)
