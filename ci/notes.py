"""How many notes each client has on each build, so that their number has a bound. Pure.

A note itself is in the ledger alone. Each client has places of its own on a build, so no client
uses up another's. Only builds that the state remembers take notes: so the ledger grows by no more
notes than there are builds, clients and places.
"""

from collections.abc import Container, Mapping
from typing import Annotated

import msgspec

from ci.operations import BuildId
from ci.state_partitions import NOTES_PART, CorruptState, decode_part

NOTES_PER_CLIENT_MAX = 20

_Count = Annotated[int, msgspec.Meta(ge=1, le=NOTES_PER_CLIENT_MAX)]
# By build and client, both sorted. In all at most as many as there are builds in the state, open or
# remembered, times the clients of the genesis: some 100 bytes for each.
_NotesPart = tuple[tuple[BuildId, tuple[tuple[str, _Count], ...]], ...]


class NoteCounts:
    """The counts of one replicated state."""

    def __init__(self) -> None:
        self._counts: dict[bytes, dict[str, int]] = {}

    def refusal(self, build: bytes, client: str) -> str | None:
        """Why this client cannot write one more note on that build; None: it can."""
        if self._counts.get(build, {}).get(client, 0) >= NOTES_PER_CLIENT_MAX:
            return f"this client wrote {NOTES_PER_CLIENT_MAX} notes on this build, the most allowed"
        return None

    def add(self, build: bytes, client: str) -> None:
        """Count one more."""
        of_build = self._counts.setdefault(build, {})
        of_build[client] = of_build.get(client, 0) + 1

    def forget(self, build: bytes) -> None:
        """The state does not remember that build any more."""
        self._counts.pop(build, None)

    def parts(self) -> dict[str, bytes]:
        """The part of the state; none if there are no notes, as in states from before notes."""
        if not self._counts:
            return {}
        part = tuple(
            (build, tuple(sorted(of_build.items())))
            for build, of_build in sorted(self._counts.items())
        )
        return {NOTES_PART: msgspec.msgpack.encode(part)}

    def restore(self, counts: dict[bytes, dict[str, int]]) -> None:
        """Replace everything by what `decode_notes_part` gave."""
        self._counts = counts


def decode_notes_part(
    parts: Mapping[str, bytes], remembered: Container[bytes]
) -> dict[bytes, dict[str, int]]:
    """What a state says about notes. remembered: its builds. Raises CorruptState."""
    if NOTES_PART not in parts:
        return {}
    part = decode_part(parts, NOTES_PART, _NotesPart)
    counts = {build: dict(of_build) for build, of_build in part}
    again = NoteCounts()
    again.restore(counts)
    if not all(counts.values()) or again.parts().get(NOTES_PART) != parts[NOTES_PART]:
        raise CorruptState(f"{NOTES_PART}: not its one encoding")
    if not all(build in remembered for build in counts):
        raise CorruptState(f"{NOTES_PART}: a build that the state does not remember")
    return counts
