"""What all parts of one run share: its seed, time, cluster, keys, builds, faults and goals."""

from collections.abc import Mapping

import msgspec

from ci.limits import Limits
from pbft.authentication import Authenticator
from pbft.core import Settings
from pbft.genesis import Cluster
from pbft.ports import Entry
from simulator.world.builds import BuildTruth
from simulator.world.coverage_goals import CoverageGoals
from simulator.world.fault_record import FaultRecord
from simulator.world.run_trace import Trace
from simulator.world.scheduler import Scheduler
from simulator.world.signatures import Signatures
from simulator.world.violation import Violation


class ProcessFaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """slow_sync_seconds: mean of a slow fsync, for `slow_syncs` of all saves; turn_seconds: how
    long a turn keeps the process busy, so that messages wait and come in together."""

    slow_syncs: float = 0.0
    slow_sync_seconds: float = 0.2
    turn_seconds: float = 0.0


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What all parts of one run share."""

    # Every stream of chance is drawn from it.
    seed: int
    cluster: Cluster
    # The CI limits of the genesis, and the timers of the replicas.
    limits: Limits
    settings: Settings
    # Virtual time, and what happens in it.
    scheduler: Scheduler
    trace: Trace
    signatures: Signatures
    # Reads a payload once for all replicas.
    authenticator: Authenticator
    # What each container comes to.
    truth: BuildTruth
    faults: ProcessFaults = ProcessFaults()
    # Which faults may happen, one by one, and which goals were hit.
    record: FaultRecord = msgspec.field(default_factory=FaultRecord)
    goals: CoverageGoals = msgspec.field(default_factory=CoverageGoals)
    stand_by_seconds: float = 1.0
    # Of a later epoch: the parts of the state that it begins with, and the ledger up to there.
    begin: Mapping[str, bytes] | None = None
    begin_entries: tuple[Entry, ...] = ()
    # replica -> which of these it has, from the first one on; who is not here has none
    begin_ledgers: Mapping[str, tuple[Entry, ...]] = {}

    def violate(self, invariant: str, details: str) -> None:
        """End the run: this invariant does not hold. Raises Violation."""
        raise Violation(invariant, details, seed=self.seed, step=self.scheduler.events)
