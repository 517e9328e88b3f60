"""Where texts stand in a message diagram, so that each can be read. Pure."""

TEXT_HEIGHT = 12


class TextPlaces:
    """Where texts stand beside the lanes, so that none lies on another of the same lane."""

    def __init__(self) -> None:
        # Per lane the heights, in whole pixels, at which a text would touch another, each with one
        # further down up to which all are such: looked at one by one, many texts took minutes.
        self._blocked: dict[str, dict[int, int]] = {}

    def free(self, y: float, *lanes: str) -> int:
        """That height, or the next one below it where there is room on all of these lanes."""
        blocked = [self._blocked.setdefault(lane, {}) for lane in lanes]
        place, tried = round(y), None
        while place != tried:
            tried = place
            for rows in blocked:
                place = _below(rows, place)
        touched = range(place - TEXT_HEIGHT + 1, place + TEXT_HEIGHT)
        for rows in blocked:
            for row in touched:
                rows[row] = max(rows.get(row, 0), touched.stop)
        return place


def _below(rows: dict[int, int], place: int) -> int:
    """The first height from that one on that is not among the rows; what they say is renewed."""
    free = place
    while free in rows:
        free = rows[free]
    while place != free:
        rows[place], place = free, rows[place]
    return free
