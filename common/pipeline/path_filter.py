"""`when: path`: whether a step is for the files that a request changes. Pure.

The rule: a step is left out only if it is known that it need not run. If what changed is not known,
or is too much to be compared, or is nothing, all steps run.
"""

from collections.abc import Sequence

import msgspec

# Characters of all globs multiplied by those of all paths: comparing takes time in proportion, and
# strangers wrote both. So many take one or two seconds at worst.
COMPARED_MAX = 20_000_000


class PathFilter(msgspec.Struct, frozen=True):
    """Globs for paths from the top of the repository. include None: all paths."""

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    @property
    def characters(self) -> int:
        """Of all globs together."""
        return sum(len(glob) for glob in (*(self.include or ()), *self.exclude))

    def is_touched(self, paths: Sequence[str]) -> bool:
        """Whether one of these paths is included, and not excluded."""
        return any(
            (self.include is None or any(matches_path(glob, path) for glob in self.include))
            and not any(matches_path(glob, path) for glob in self.exclude)
            for path in paths
        )


def are_too_many(filters: Sequence[PathFilter], paths: Sequence[str]) -> bool:
    """Whether these globs and paths are more than is compared; the same on every replica."""
    globs_characters = sum(filter_.characters for filter_ in filters)
    return globs_characters * sum(len(path) for path in paths) > COMPARED_MAX


def matches_path(glob: str, path: str) -> bool:
    """Whether a glob means this path, and all of it.

    `*` and `?` stop at a slash, `**` does not. `**/` after a slash or at the beginning stands for
    any folders, also for none.
    """
    places = {0}
    index = 0
    while index < len(glob) and places:
        begins_part = index == 0 or glob[index - 1] == "/"
        if begins_part and glob.startswith("**/", index):
            reached = range(min(places), len(path) + 1)
            places |= {place for place in reached if place and path[place - 1] == "/"}
            index += 3
        elif glob.startswith("**", index):
            places = set(range(min(places), len(path) + 1))
            index += 2
        elif glob[index] == "*":
            places = _within_a_part(path, places)
            index += 1
        else:
            places = {
                place + 1
                for place in places
                if place < len(path)
                and (path[place] == glob[index] or (glob[index] == "?" and path[place] != "/"))
            }
            index += 1
    return len(path) in places


def _within_a_part(path: str, places: set[int]) -> set[int]:
    """All places that can be reached from these without passing a slash."""
    reached: set[int] = set()
    for start in sorted(places):
        place = start
        while place not in reached:
            reached.add(place)
            if place == len(path) or path[place] == "/":
                break
            place += 1
    return reached
