"""The faults that were injected in one run, one by one, so that shrinking can leave some out.

A fault's name is its kind (and link) and its number among those: `lost r0>r2 #17`. Which ones are
left out decides the run as much as its seed does, so a smaller list is a run of its own.
"""


class FaultRecord:
    """Asked before each fault. only: the names of those that may happen; None: all."""

    def __init__(self, only: tuple[str, ...] | None = None, *, is_kept: bool = False) -> None:
        self.injected: list[str] = []
        self._only = None if only is None else dict.fromkeys(only)
        self.is_kept = is_kept
        # Most runs neither leave out nor remember anything: for them this costs nothing.
        self._is_idle = only is None and not is_kept
        self._counts: dict[str, int] = {}

    def allows(self, kind: str) -> bool:
        """Whether the next fault of this kind is injected."""
        if self._is_idle:
            return True
        number = self._counts[kind] = self._counts.get(kind, 0) + 1
        name = f"{kind} #{number}"
        if self._only is not None and name not in self._only:
            return False
        if self.is_kept:
            self.injected.append(name)
        return True
