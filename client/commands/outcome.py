"""How a command ends: its exit codes, and the one error that all commands raise."""

PASSED = "passed"
DISPUTED = "disputed"

EXIT_DONE = 0
EXIT_NOT_PASSED = 1
EXIT_WRONG = 2
EXIT_NO_ANSWER = 3
EXIT_TOO_LATE = 4
EXIT_DISPUTED = 5


class CommandFailed(Exception):
    """A command that cannot do what was asked: one line for a person, and the exit code."""

    def __init__(self, text: str, exit_code: int = EXIT_NO_ANSWER) -> None:
        super().__init__(" ".join(text.split()))
        self.exit_code = exit_code


def exit_of_outcome(outcome: str) -> int:
    """The exit code for a verdict's outcome."""
    if outcome == DISPUTED:
        return EXIT_DISPUTED
    return EXIT_DONE if outcome == PASSED else EXIT_NOT_PASSED
