"""All thresholds of the protocol in one place, with the reasons why they intersect."""

import msgspec


class UnsupportedSize(ValueError):
    """A number of replicas that the protocol cannot use; the text says why and what to take."""


class Quorums(msgspec.Struct, frozen=True):
    """The thresholds for `replicas` machines of which `faults_max` may be arbitrarily faulty.

    `strong` (2f+1 in the paper): any two strong sets share a correct replica.
    `weak` (f+1): a weak set holds at least one correct replica.
    `prepares`: PREPAREs that, with the primary's PRE-PREPARE, make a strong set.
    """

    replicas: int
    faults_max: int
    strong: int
    weak: int
    prepares: int


def quorums_for(replicas: int) -> Quorums:
    """The thresholds for `replicas` machines: n = 3f+1, or fewer than four with f = 0.

    Raises UnsupportedSize for any other number: with 3f+2 or 3f+3 machines the protocol
    tolerates no more faults than with 3f+1, and every quorum gets larger.
    """
    if replicas < 1:
        raise UnsupportedSize(f"{replicas} replicas: there must be at least one")
    if replicas >= 4 and (replicas - 1) % 3 != 0:
        below = replicas - (replicas - 1) % 3
        raise UnsupportedSize(
            f"{replicas} replicas tolerate no more faults than {below} and cost more: "
            f"use 3f+1 replicas, for example {below} or {below + 3}"
        )
    faults_max = (replicas - 1) // 3
    strong = 2 * faults_max + 1 if faults_max else replicas // 2 + 1
    weak = faults_max + 1
    # Two strong sets overlap in more than f replicas, so in a correct one (OSDI'99, 4.2), and
    # the correct replicas alone can form a strong set, so the faulty ones cannot block (4.4).
    assert 2 * strong - replicas > faults_max
    assert replicas - faults_max >= strong
    return Quorums(replicas, faults_max, strong, weak, prepares=strong - 1)
