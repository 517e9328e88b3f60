"""The harness as the tests use it: processes are forked, and the ledgers of a network compared."""

import base64
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ci.ledger import VerdictEntry, decode_entry, genesis_head, verify_chain
from common.address import Address
from pbft.ports import Entry
from scripts import harness
from scripts.harness import (
    CLIENT,
    VERDICT_SECONDS,
    Answer,
    NoAnswer,
    Programs,
    RunningNetwork,
    ask,
    pipeline,
)
from tests import forked, waiting

__all__ = [
    "CLIENT", "VERDICT_SECONDS", "Answer", "ComparedNetwork", "Network", "NoAnswer", "ask",
    "pipeline", "verdict_entries",
]  # fmt: skip

LEDGER_PAGE = 500


class ComparedNetwork(RunningNetwork):
    """A network whose ledgers and captures can be compared."""

    # which ones a failing test should tell about
    living: ClassVar[list[RunningNetwork]] = []
    # nodes that were members and are stopped for good, whose logs and captures count as well
    former_names: tuple[str, ...] = ()

    def capture_file(self, name: str) -> Path:
        """What a node sent, where the network is captured."""
        return self.folder / "capture" / f"{name}.capture"

    def pause_seconds(self, waited: float) -> float:
        """The longer it has waited, the less often it asks: nodes and gateway answer each time."""
        return max(super().pause_seconds(waited), waiting.pause_seconds(waited))

    def ledger(self, name: str) -> list[Entry]:
        """The whole ledger of a node."""
        entries: list[Entry] = []
        while True:
            first = len(entries) + 1
            page = self.node(name, f"/ledger?from={first}&limit={LEDGER_PAGE}").json()
            entries.extend(
                Entry(row["index"], base64.b64decode(row["body"]), bytes.fromhex(row["head"]))
                for row in page["entries"]
            )
            if not page["entries"] or len(entries) >= page["index"]:
                return entries

    def settle(
        self,
        names: Sequence[str] | None = None,
        *,
        are_builds_closed: bool = True,
        seconds: float = VERDICT_SECONDS,
    ) -> list[Entry]:
        """Wait until these nodes stand at one place with nothing left to do, and compare them.

        Gives the ledger, which is equal byte for byte on all of them and whose chain holds.
        are_builds_closed: wait for every replica's ballot too, so not where one is down.
        """
        asked = names or self.node_names
        places: dict[str, tuple[int, int, str]] = {}

        def is_settled() -> bool:
            for name in asked:
                status = self.status(name)
                if status["pending_requests"] or (are_builds_closed and status["open_builds"]):
                    return False
                if status["ledger_missing"]:
                    return False  # after a state transfer the entries come a little later
                places[name] = (
                    status["sequence"],
                    status["ledger_index"],
                    status["ledger_head"],
                )
            return len(set(places.values())) == 1

        self.wait_until(is_settled, lambda: f"one state on all: {places}", seconds)
        # a late ballot may be ordered meanwhile
        (length,) = {place[1] for place in places.values()}
        ledgers = {name: self.ledger(name)[:length] for name in asked}
        first = ledgers[asked[0]]
        for name, ledger in ledgers.items():
            different = next((a.index for a, b in zip(first, ledger, strict=False) if a != b), None)
            assert ledger == first, f"{name} and {asked[0]} differ from entry {different} on"
        status = self.status(asked[0])
        # the release before has no epochs, and one id
        lineage = bytes.fromhex(status.get("lineage", status["cluster"]))
        assert verify_chain(first, genesis_head(lineage)) is None
        return first


class Network(ComparedNetwork, harness.Network):
    """A network whose processes are forked where their imports are done."""

    def __init__(
        self,
        folder: Path,
        branches: Mapping[str, Mapping[str, str]],
        *,
        is_captured: bool = False,
        **settings: Any,
    ) -> None:
        """is_captured: each node appends what it sends to `capture_file(name)`.

        settings: as the harness takes them.
        """
        super().__init__(folder, branches, **{"programs": Programs(forked.start), **settings})
        if is_captured:
            for name in self.node_names:
                self._capture(name)
        Network.living.append(self)

    def add(self, name: str, listen: Address) -> None:
        """One more node, whose configuration is there. listen: where it answers."""
        self._listen[name] = listen
        self.node_names = (*self.node_names, name)

    def remove(self, name: str) -> None:
        """A node that has left for good, and was stopped."""
        assert not self.is_running(name)
        self.node_names = tuple(other for other in self.node_names if other != name)

    def close(self) -> None:
        """End everything that was started here and still runs."""
        with contextlib.suppress(ValueError):
            Network.living.remove(self)
        super().close()

    def _capture(self, name: str) -> None:
        file = str(self.capture_file(name))
        self.rewrite(name, lambda settings: settings.update(capture_file=file))


def verdict_entries(ledger: Iterable[Entry]) -> list[VerdictEntry]:
    """The verdicts in a ledger, in its order."""
    decoded = [decode_entry(entry.body) for entry in ledger]
    return [entry for entry in decoded if isinstance(entry, VerdictEntry)]
