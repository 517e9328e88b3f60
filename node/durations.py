"""Durations that cost next to nothing to note, and become a Prometheus histogram when asked for.

The library's own takes a lock and goes through its buckets in each call, and several are noted in
each turn. Only one thread may note here: the loop's.
"""

import bisect
import math
import time
from collections.abc import Iterator, Sequence

from prometheus_client import Metric


class Durations:
    """A family of histograms; a collector that a registry of Prometheus' library takes.

    bounds: of the buckets, in seconds and in order; infinity is added. label: the name of its one
    label; empty: it has none, and is shown from the start.
    """

    def __init__(self, name: str, what: str, bounds: Sequence[float], label: str = "") -> None:
        self._name = name
        self._what = what
        self._bounds = [*map(float, bounds), math.inf]
        self._label = label
        self._histograms: dict[str, _Histogram] = {}
        if not label:
            self._histograms[""] = _Histogram(len(self._bounds))

    def note(self, seconds: float, value: str = "") -> None:
        """One took that long; what equals a bound is in its bucket. value: of the label."""
        try:
            histogram = self._histograms[value]
        except KeyError:
            histogram = self._histograms[value] = _Histogram(len(self._bounds))
        histogram.counts[bisect.bisect_left(self._bounds, seconds)] += 1
        histogram.sum += seconds

    def collect(self) -> Iterator[Metric]:
        """All of it, as the library asks for it."""
        family = Metric(self._name, self._what, "histogram")
        for value, histogram in self._histograms.items():
            self._add(family, histogram, {self._label: value} if self._label else {})
        yield family

    def _add(self, family: Metric, histogram: "_Histogram", labels: dict[str, str]) -> None:
        count = 0
        for bound, more in zip(self._bounds, histogram.counts, strict=True):
            count += more
            bucket = {"le": "+Inf" if bound == math.inf else repr(bound), **labels}
            family.add_sample(f"{self._name}_bucket", bucket, count)
        family.add_sample(f"{self._name}_count", labels, count)
        family.add_sample(f"{self._name}_sum", labels, histogram.sum)
        family.add_sample(f"{self._name}_created", labels, histogram.began)


class _Histogram:
    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0
        self.began = time.time()
