"""Random numbers that follow from the seed alone: an independent stream per concern and link.

Streams are named, so that removing one fault while shrinking does not shift the others.
"""

import hashlib
import math
from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class SeededRandom(Random):
    """One stream of random numbers."""

    def happens(self, probability: float) -> bool:
        """True with this probability. A probability of 0 draws nothing."""
        return probability > 0 and self.random() < probability

    def exponential(self, mean: float) -> float:
        """A waiting time with this mean."""
        return -mean * math.log(1.0 - self.random())

    def some(self, items: Sequence[T], probability: float) -> list[T]:
        """Each item with this probability, in their order."""
        return [item for item in items if self.random() < probability]


def stream(seed: int, name: str) -> SeededRandom:
    """The stream of that name in the run of that seed."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return SeededRandom(int.from_bytes(digest, "big"))
