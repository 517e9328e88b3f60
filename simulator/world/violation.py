"""An invariant that does not hold, with all that is needed to see it again."""


class Violation(Exception):
    """invariant: its name (simulator.checkers). details: how. seed, step: where it broke."""

    def __init__(self, invariant: str, details: str, *, seed: int, step: int) -> None:
        super().__init__(invariant, details)
        self.seed = seed
        self.step = step
        self.invariant = invariant
        self.details = details

    def __str__(self) -> str:
        return f"seed {self.seed}, step {self.step}: invariant {self.invariant}: {self.details}"
