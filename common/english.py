"""Counts in sentences for people: "1 replica", "4 replicas". Pure."""


def counted(count: int, one: str, more: str | None = None) -> str:
    """The number with its noun. more: the plural, where it is not `one` with an "s"."""
    return f"{count} {plural(count, one, more)}"


def plural(count: int, one: str, more: str | None = None) -> str:
    """The word that goes with so many: a noun, or with `more` a verb ("is", "are")."""
    if count == 1:
        return one
    return f"{one}s" if more is None else more
