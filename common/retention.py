"""What is kept no longer, by age, number and size: the oldest go first. Pure."""

from collections.abc import Iterable

import msgspec

DAY_SECONDS = 86400.0


class KeptItem(msgspec.Struct, frozen=True):
    """Something that is kept: its name, since when (seconds since 1970), and its size in bytes."""

    name: str
    at: float
    bytes: int = 0


class KeepRules(msgspec.Struct, frozen=True):
    """How much is kept at most; None: without this limit."""

    items_max: int | None = None
    bytes_max: int | None = None
    seconds_max: float | None = None


class Surplus(msgspec.Struct, frozen=True):
    """What goes, each item under the first rule that it breaks, the oldest first."""

    too_old: tuple[str, ...] = ()
    too_many: tuple[str, ...] = ()
    too_large: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All that goes."""
        return (*self.too_old, *self.too_many, *self.too_large)

    def in_words(self) -> str:
        """How many go, and why."""
        counted = (
            (len(self.too_old), "too old"),
            (len(self.too_many), "more than may be kept"),
            (len(self.too_large), "beyond the size that all may have"),
        )
        return ", ".join(f"{count} {why}" for count, why in counted if count)


def find_surplus(items: Iterable[KeptItem], rules: KeepRules, now: float) -> Surplus:
    """What breaks the rules at that time (seconds since 1970)."""
    # of the same age in the order of their names, so that the answer does not depend on the disk's
    left = sorted(items, key=lambda item: (item.at, item.name))
    too_old, too_many, too_large = [], [], []
    if rules.seconds_max is not None:
        too_old = [item for item in left if now - item.at > rules.seconds_max]
        left = left[len(too_old) :]
    if rules.items_max is not None and len(left) > rules.items_max:
        too_many = left[: len(left) - rules.items_max]
        left = left[len(too_many) :]
    if rules.bytes_max is not None:
        total = sum(item.bytes for item in left)
        for item in left:
            if total <= rules.bytes_max:
                break
            too_large.append(item)
            total -= item.bytes
    return Surplus(*(tuple(item.name for item in part) for part in (too_old, too_many, too_large)))
