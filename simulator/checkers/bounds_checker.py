"""The invariant of bounded logs: what a replica keeps has the bounds that docs/PROTOCOL.md gives.

Looked at where a checkpoint became stable, and now and then between: what grows is then seen
before garbage collection has taken it away.
"""

from collections.abc import Callable, Iterator

from pbft.core import Core
from pbft.genesis import Cluster
from pbft.log import COMMIT_VIEWS_KEPT, Slot

# The votes, the prepared certificate and the PRE-PREPARE of one view; `Executed` once.
RECORDS_PER_VIEW = 4


class BoundsChecker:
    """Counts what is kept. violate: (invariant, details) ends the run."""

    def __init__(self, cluster: Cluster, violate: Callable[[str, str], None]) -> None:
        self._violate = violate
        self._replicas = cluster.quorums.replicas
        self._body_bytes_max = cluster.body_bytes_max
        self._clients = len(cluster.genesis.clients) + self._replicas
        self._requests = self._clients * cluster.genesis.client_window

    def check(self, name: str, core: Core) -> None:
        """All tables of a correct replica, at the end of a turn."""
        slots = list(core.log.above(0))
        numbers = [slot.sequence for slot in slots]
        if any(not core.kept_above < number <= core.high for number in numbers):
            self._fail(name, f"keeps {numbers} at {core.low}")
        for slot in slots:
            for what, count, most in self._of_slot(core, slot):
                if count > most:
                    self._fail(name, f"{count} {what} of {slot.sequence}, at most {most}")
        for what, count, most in self._tables(core):
            if count > most:
                self._fail(name, f"{count} {what}, at most {most}")

    def _of_slot(self, core: Core, slot: Slot) -> Iterator[tuple[str, int, int]]:
        views = core.view + 1
        yield "replicas with a PREPARE", len(slot.prepares), self._replicas
        yield "replicas with a COMMIT", len(slot.commits), self._replicas
        commits = max((len(views) for views in slot.commits.values()), default=0)
        yield "COMMITs of one replica", commits, COMMIT_VIEWS_KEPT
        # The null request's, that of each view's primary, and the one that was decided.
        yield "bodies", len(slot.batches), views + 2
        largest = max((len(batch.body) for batch in slot.batches.values()), default=0)
        yield "bytes in a body", largest, self._body_bytes_max
        yield "records", len(slot.records), RECORDS_PER_VIEW * views + 1

    def _tables(self, core: Core) -> Iterator[tuple[str, int, int]]:
        replicas = self._replicas
        for what, table in (
            ("VIEW-CHANGEs", core.views.changes),
            ("overtaken VIEW-CHANGEs", core.views.overtaken_changes),
            ("RECOVERs", core.recovery.requests),
            ("recoveries", core.execution.recoveries),
            ("progress of peers", core.peers.progress),
            ("STATUSes of peers", core.peers.status),
            ("links of peers", core.peers.connected_at),
            ("answers to peers", core.peers.answered_at),
            ("proofs of a view for peers", core.peers.view_sent),
            ("checkpoints sent to peers", core.peers.checkpoints_sent),
        ):
            yield what, len(table), replicas
        for index in range(replicas):
            said = core.checkpoints.votes.own_above(index, -1)
            yield f"CHECKPOINTs of r{index}", len(said), core.window // core.interval + 2
        nonces = max((len(done.nonces) for done in core.execution.recoveries.values()), default=0)
        yield "nonces of a replica", nonces, 1
        states = core.window // core.interval + 1
        yield "states", len(core.checkpoints.snapshots), states
        yield "states whose leaves are kept", len(core.transfers.leaves), states + 1
        yield "numbers ordered by a NEW-VIEW", len(core.views.ordered), core.window
        yield "pending requests", len(core.pending), self._requests
        # Each client, each RECOVER, and the null requests that are owed: the next, and all of them.
        waited_for = self._clients + replicas + 2
        yield "numbers that are timed", len(core.timers.timed), waited_for
        yield "numbers that are waited for", len(core.timers.waiting), waited_for
        yield "requests handed on", len(core.timers.forwarded), self._requests + replicas
        if core.transfers.current is not None and core.transfers.current.leaves is not None:
            yield (
                "parts fetched",
                len(core.transfers.current.parts),
                len(core.transfers.current.leaves),
            )

    def _fail(self, name: str, details: str) -> None:
        self._violate("17 bounded logs", f"{name}: {details}")
