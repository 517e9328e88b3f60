"""Whose turn it is, where several want more than there is: nobody waits behind another's crowd."""

from collections.abc import Iterable, Mapping


class FairTurns:
    """Gives turns: first to who holds least, then to who was served longest ago.

    Remembers only those that wait or hold something, so its memory is bounded by them.
    """

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._count = 0

    def next(self, waiting: Iterable[str], held: Mapping[str, int]) -> str:
        """Who is next; counts as served now. waiting: at least one, in the order of coming.

        held: how much each one has got already; who is missing there has nothing.
        """
        names = list(dict.fromkeys(waiting))
        assert names, "nobody is waiting"
        chosen = min(names, key=lambda name: (held.get(name, 0), self._served.get(name, 0)))
        self._count += 1
        self._served[chosen] = self._count
        known = {*names, *(name for name, count in held.items() if count)}
        self._served = {name: at for name, at in self._served.items() if name in known}
        return chosen
