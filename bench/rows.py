"""What a bench gives: rows, each a ratio with what it was measured against and its target. Pure."""

import enum

import msgspec

from bench.figures import Spread


class State(enum.StrEnum):
    """What became of a row."""

    MEASURED = "measured"
    NOT_THERE_YET = "not there yet"
    LEFT_OUT = "left out"
    FAILED = "failed"


class Target(msgspec.Struct, frozen=True):
    """The bound that a ratio has to keep: at most it, or at least it."""

    bound: float
    is_floor: bool = False

    def is_met(self, value: float) -> bool:
        """Whether the value keeps the bound."""
        return value >= self.bound if self.is_floor else value <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.is_floor else '<='} {self.bound:g}"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    # the name to run it by
    bench: str
    # the two sides of the ratio
    what: str
    against: str
    target: Target | None = None
    state: State = State.MEASURED
    # None unless it was measured
    ratio: Spread | None = None
    # what else was measured, the unit last in each name
    figures: dict[str, float] = {}
    # why there is no ratio, or what to know about it
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None where there is none, or nothing was measured."""
        if self.ratio is None or self.target is None:
            return None
        return self.target.is_met(self.ratio.median)
