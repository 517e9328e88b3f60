"""An invariant that does not hold, with all that is needed to see it again."""


class Violation(Exception):
    """seed, step: where it broke. invariant: its name (simulator.checkers). details: how."""

    def __init__(self, seed: int, step: int, invariant: str, details: str) -> None:
        super().__init__(seed, step, invariant, details)
        self.seed = seed
        self.step = step
        self.invariant = invariant
        self.details = details

    def __str__(self) -> str:
        return f"seed {self.seed}, step {self.step}: invariant {self.invariant}: {self.details}"
