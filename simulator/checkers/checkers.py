"""The invariants of safety, checked at every turn of every correct replica.

Each has a number and a name. Whoever breaks one ends the run. What a turn said and executed counts
once it is on disk: a replica that dies before has told it to nobody, and never did it.
"""

import traceback

from pbft.certificates import state_digest
from pbft.checkpoint import state_parts
from pbft.codec import decode_batch, digest_of
from pbft.core import Core
from pbft.evidence import check_evidence
from pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
)
from pbft.ports import (
    CheckpointRecord,
    Event,
    Evidence,
    Executed,
    ExecutedRequest,
    Output,
    Refusal,
    SavedBody,
    SavedEntry,
    SavedMessage,
)
from simulator.checkers.bounds_checker import BoundsChecker
from simulator.checkers.build_checker import BuildChecker
from simulator.checkers.comparable_state import comparable_state
from simulator.checkers.end_checker import EndChecker
from simulator.checkers.execution_checker import ExecutionChecker
from simulator.checkers.history import History, effect_digest
from simulator.checkers.message_checker import MessageChecker
from simulator.checkers.timer_checker import TimerChecker
from simulator.checkers.view_checker import ViewChecker
from simulator.machine.process import Process
from simulator.world.reader import Reader
from simulator.world.world import World

# Of the turns of a deep run, those whose state is compared before and after.
COMPARED_EVERY = 31
# Of all turns, those after which everything that is kept is counted.
COUNTED_EVERY = 31
REPAIRS = ("diverged", "state_transferred")
# What a turn gave, and whether the last of it is that of an expired timer.
Turn = tuple[list[Output], bool]


class Checkers:
    """All checkers of one run. is_deep: the whole state is compared after every execution."""

    def __init__(
        self, world: World, reader: Reader, builds: BuildChecker, *, is_deep: bool
    ) -> None:
        self.history = History()
        self.violate = world.violate
        self._cluster = cluster = world.cluster
        self._scheduler = world.scheduler
        self._reader = reader
        self._builds = builds
        self._is_deep = is_deep
        self._state_before: tuple[object, ...] | None = None
        # By replica: its last turn with records, until that is on disk.
        self._unsaved: dict[str, Turn] = {}
        self.history.ledger.extend(world.begin_entries)
        self.end = EndChecker(world)
        self._views = ViewChecker(world, self.history, reader.holds)
        self._quorums = cluster.quorums
        self._standing: dict[str, Standing] = {
            name: Standing(index, cluster.begins_after)
            for index, name in enumerate(cluster.replica_names)
        }
        self.executions = ExecutionChecker(world, self.history, reader, builds=builds, end=self.end)
        self.messages = MessageChecker(
            world, self.history, reader, builds=builds, views=self._views, end=self.end
        )
        self._bounds = BoundsChecker(cluster, self.violate)
        self._timers = TimerChecker(world)
        resent = 64 * (cluster.quorums.replicas + 1)
        self._caused_max = resent + 8 * cluster.genesis.window * cluster.quorums.replicas

    # --- one turn -------------------------------------------------------------------------------

    def before_turn(self, process: Process) -> None:
        """A correct replica is about to take one message: look closely at some of these turns."""
        if self._scheduler.events % COMPARED_EVERY == 0:
            assert process.replica is not None
            self._state_before = comparable_state(process.replica.core)

    def _check_refusal(self, process: Process, core: Core, outputs: list[Output]) -> None:
        before, self._state_before = self._state_before, None
        names = [event.name for output in outputs for event in output.events]
        is_refusal = names == ["refused"] and len(outputs) == 1
        if is_refusal and comparable_state(core) != before:
            self.violate("28 input totality", f"{process.name} refuses, and yet changes")

    def on_turn(self, process: Process, outputs: list[Output], has_expired: bool) -> None:
        """A correct replica took something in; nothing of what follows is saved or sent yet.

        has_expired: the last of the outputs is that of an expired timer.
        """
        assert process.replica is not None
        core = process.replica.core
        caused = 0
        for output in outputs:
            caused += len(output.messages)
            for event in output.events:
                if event.name in REPAIRS:
                    self._check_repair(process, event)
            if output.evidence:
                self._check_evidence(process, output.evidence)
        turn = (outputs, has_expired)
        if any(output.records for output in outputs):
            self._unsaved[process.name] = turn
        else:
            self._check_turn(process, turn)
        if self._state_before is not None:
            self._check_refusal(process, core, outputs)
        self._timers.on_turn(process, outputs, process.clock.seconds(self._scheduler.now))
        if self._scheduler.events % COUNTED_EVERY == 0:
            self._bounds.check(process.name, core)
            self._timers.check_numbers(process.name, core)
        if caused > self._caused_max * len(outputs):
            self.violate("29 bounded amplification", f"{process.name}: {caused} at once")

    def on_saved(self, process: Process) -> None:
        """A turn is on disk; from here on it may be seen by others."""
        assert process.replica is not None
        core = process.replica.core
        standing = self._standing[process.name]
        executed_before = standing.executed
        self._check_turn(process, self._unsaved.pop(process.name))
        if standing.executed > executed_before:
            self._check_state(process, core)
        standing.saved = core.executed
        standing.saved_view = core.view

    def _check_turn(self, process: Process, turn: Turn) -> None:
        """Of a replica that has done nothing since."""
        assert process.replica is not None
        standing = self._standing[process.name]
        self._check_outputs(process, standing, turn)
        self._check_position(process, process.replica.core, standing)

    def _check_outputs(self, process: Process, standing: "Standing", turn: Turn) -> None:
        outputs, has_expired = turn
        for output in outputs:
            if output.records or output.executed:
                is_own_decision = has_expired and output is outputs[-1]
                self._check_records(process, standing, output, is_own_decision=is_own_decision)

    def _check_repair(self, process: Process, event: Event) -> None:
        """A correct replica's state is never wrong, so fetching one only ever helps it on."""
        if event.name == "diverged":
            self.violate("18 one state per number", f"{process.name}: {event.details}")
        executed, sequence = event.details["executed"], event.details["sequence"]
        assert isinstance(executed, int)
        assert isinstance(sequence, int)
        if sequence < executed:
            self.violate(
                "16 a certified state", f"{process.name} goes back from {executed} to {sequence}"
            )

    def _check_records(
        self, process: Process, standing: "Standing", output: Output, *, is_own_decision: bool
    ) -> None:
        by_sequence: dict[int, list[ExecutedRequest]] = {}
        for executed in output.executed:
            by_sequence.setdefault(executed.sequence, []).append(executed)
        for record in output.records:
            if isinstance(record, Executed):
                if record.sequence <= standing.executed:
                    continue  # saved again behind a new checkpoint record
                if record.sequence != standing.executed + 1:
                    self.violate(
                        "3 no gap", f"{process.name}: {record.sequence} after {standing.executed}"
                    )
                standing.executed = record.sequence
                requests = by_sequence.pop(record.sequence, [])
                own = 1 << standing.index
                self.executions.on_executed(process.name, own, record, requests=requests)
            elif isinstance(record, SavedBody):
                self._check_body(process, record)
            elif isinstance(record, SavedMessage):
                self._check_saved(process, standing, record.signed, is_own_decision=is_own_decision)
            elif isinstance(record, SavedEntry):
                self.executions.on_entry(process.name, record.entry)
            elif isinstance(record, CheckpointRecord):
                self._check_checkpoint_record(process, standing, record)
        if by_sequence:
            self.violate("3 no gap", f"{process.name} executes {sorted(by_sequence)} unrecorded")

    def _check_saved(
        self, process: Process, standing: "Standing", signed: Signed, *, is_own_decision: bool
    ) -> None:
        """The order of the records is the order in which the replica said things."""
        message = self._reader.decode(signed.payload)
        is_known = signed.payload in standing.recorded
        standing.recorded[signed.payload] = None
        if isinstance(message, ViewChange):
            if is_known and message.view == standing.voting_view:
                return  # saved again behind a new checkpoint record
            if message.view <= standing.voting_view:
                self.violate("12 views never go back", f"{process.name} leaves for {message.view}")
            if not is_own_decision:
                self._check_joining(process, standing, message)
            voices = self.history.view_changes.get(message.view, 0)
            self.history.view_changes[message.view] = voices | 1 << standing.index
            standing.voting_view, standing.has_entered = message.view, False
        elif isinstance(message, NewView):
            if signed.signer == process.name:
                for pre_prepare in map(
                    self._reader.decode, (s.payload for s in message.pre_prepares)
                ):
                    assert isinstance(pre_prepare, PrePrepare)
                    self._note_agreed(pre_prepare)
            standing.min_s = self._views.on_enter(process.name, signed)
            standing.voting_view, standing.has_entered = message.view, True
        elif isinstance(message, PrePrepare | Prepare | Commit) and signed.signer == process.name:
            if is_known:
                return
            if message.view != standing.voting_view or not standing.has_entered:
                self.violate(
                    "12 views never go back",
                    f"{process.name} votes in {message.view}, is in {standing.voting_view}",
                )
            if message.sequence <= standing.min_s and not isinstance(message, Commit):
                self.violate(
                    "14 a new view is correct",
                    f"{process.name} accepts {message.sequence}, min-s is {standing.min_s}",
                )
            if not isinstance(message, Commit):
                self._note_agreed(message)

    def _note_agreed(self, message: PrePrepare | Prepare) -> None:
        """A correct replica agreed to that digest; others may count on it from now on."""
        claim = (message.view, message.sequence, message.digest)
        agreed = self.history.agreed
        agreed[claim] = agreed.get(claim, 0) | 1 << message.replica

    def _check_body(self, process: Process, record: SavedBody) -> None:
        """What a correct replica agrees to or executes holds only what clients signed."""
        if digest_of(record.body) != record.digest:
            self.violate("7 validity", f"{process.name} takes another body for {record.sequence}")
        if record.digest in self.history.valid_bodies:
            return
        if not all(self._reader.holds(signed) for signed in decode_batch(record.body)):
            self.violate("7 validity", f"{process.name} takes a forged request: {record.sequence}")
        self.history.valid_bodies[record.digest] = None

    def _check_joining(self, process: Process, standing: "Standing", message: ViewChange) -> None:
        own = 1 << standing.index
        others = [
            voices & ~own
            for view, voices in self.history.view_changes.items()
            if view > standing.voting_view
        ]
        if not any(others):
            self.violate(
                "13 a view change is justified",
                f"{process.name} joins {message.view}, no correct replica left",
            )

    def _check_evidence(self, process: Process, found: list[Evidence]) -> None:
        for evidence in found:
            first, second = evidence.first, evidence.second
            proof = check_evidence(first, second, self._cluster, verify=self._reader.verify)
            if isinstance(proof, Refusal):
                self.violate("35 evidence is true", f"{process.name}: {proof.reason}")
            elif self._builds.is_remembering(first.signer):
                self.violate(
                    "35 evidence is true", f"{process.name} against a correct one: {proof}"
                )

    def _check_checkpoint_record(
        self, process: Process, standing: "Standing", record: CheckpointRecord
    ) -> None:
        digest = state_digest(record.parts)
        voices: dict[str, None] = {}
        for signed in record.certificate:
            message = self._reader.decode(signed.payload)
            if (
                isinstance(message, Checkpoint)
                and (message.sequence, message.digest) == (record.sequence, digest)
                and self._reader.holds(signed)
                and self._cluster.replica_index(signed.signer) == message.replica
            ):
                voices[signed.signer] = None
        if len(voices) < self._quorums.strong:
            self.violate(
                "16 a certified state",
                f"{process.name}: checkpoint {record.sequence} has {len(voices)}",
            )
        if record.sequence < standing.low:
            self.violate("15 stable checkpoints", f"{process.name} goes back to {record.sequence}")
        said = self.history.checkpoints.get((record.sequence, digest), 0)
        own = 1 << standing.index
        if (said | own).bit_count() < self._quorums.weak:
            self.violate(
                "15 stable checkpoints", f"{process.name}: f+1 never said {record.sequence}"
            )
        self._check_one_state(process, record.sequence, digest)
        if record.sequence > standing.executed:
            standing.executed = record.sequence

    def _check_position(self, process: Process, core: Core, standing: "Standing") -> None:
        if core.executed != standing.executed:
            self.violate(
                "3 no gap", f"{process.name} stands at {core.executed}, not {standing.executed}"
            )
        if core.view != standing.view:
            if core.view < standing.view:
                self.violate(
                    "12 views never go back", f"{process.name}: {core.view} after {standing.view}"
                )
            standing.view = core.view
        if core.low != standing.low:
            if core.low < standing.low or not core.cluster.is_checkpoint(core.low):
                self.violate("15 stable checkpoints", f"{process.name} at {core.low}")
            standing.low = core.low
            self._bounds.check(process.name, core)

    def _check_state(self, process: Process, core: Core) -> None:
        snapshot = core.checkpoints.snapshots.get(core.executed)
        if snapshot is not None:
            self._check_one_state(process, core.executed, snapshot[0])
        elif self._is_deep:
            self._check_one_state(process, core.executed, state_digest(state_parts(core)))
        application = process.application
        assert application is not None
        self._builds.limits.on_state(process.name, application)
        self.end.on_state(process.name, core)
        head = self.history.ledger[application.ledger_index - 1].head if (
            0 < application.ledger_index <= len(self.history.ledger)
        ) else self._builds.genesis_head  # fmt: skip
        if application.ledger_head != head:
            self.violate("2 ledger prefix", f"{process.name} at {application.ledger_index}")

    def _check_one_state(self, process: Process, sequence: int, digest: bytes) -> None:
        if self.history.states.setdefault(sequence, digest) != digest:
            self.violate("18 one state per number", f"{process.name} at {sequence}")

    # --- starts ---------------------------------------------------------------------------------

    def on_boot(self, process: Process, restored: Output) -> None:
        """A correct replica continued from its disk, which was not damaged."""
        assert process.replica is not None
        core = process.replica.core
        standing = self._standing[process.name]
        self._timers.on_start(process.name)
        unsaved = self._unsaved.pop(process.name, None)
        if unsaved is not None and process.has_kept_turn:
            self._check_outputs(process, standing, unsaved)
        if core.executed < standing.saved:
            self.violate(
                "2 ledger prefix",
                f"{process.name} restarts at {core.executed}, had shown {standing.saved}",
            )
        if core.view < standing.saved_view:
            self.violate("12 views never go back", f"{process.name} restarts in view {core.view}")
        standing.executed, standing.view, standing.low = core.executed, core.view, core.low
        standing.voting_view, standing.has_entered = core.view, core.has_entered
        standing.min_s = core.views.min_s
        by_sequence: dict[int, list[ExecutedRequest]] = {}
        for executed in restored.executed:
            by_sequence.setdefault(executed.sequence, []).append(executed)
        for sequence, requests in by_sequence.items():
            golden = self.history.executed.get(sequence)
            if golden is None or golden.digest != effect_digest(requests):
                self.violate("18 one state per number", f"{process.name} executes {sequence} anew")
        self._check_state(process, core)

    def on_loss(self, name: str) -> None:
        """A replica found its disk damaged: it starts empty, and its messages still count."""
        self._unsaved.pop(name, None)
        self._standing[name] = Standing(self._standing[name].index, self._cluster.begins_after)
        self._timers.on_start(name)
        self.messages.on_loss(name)
        self._builds.on_loss(name)

    def on_failure(self, process: Process, doing: str, error: Exception) -> None:
        """The core raised something: it never may, whatever came in."""
        where = "".join(traceback.format_exception(error)[-3:])
        self.violate("28 input totality", f"{process.name}, {doing}: {where}")


class Standing:
    """Where a correct replica was last seen; `saved`: where it was when it last spoke."""

    __slots__ = (
        "executed",
        "has_entered",
        "index",
        "low",
        "min_s",
        "recorded",
        "saved",
        "saved_view",
        "view",
        "voting_view",
    )

    def __init__(self, index: int, begins_after: int) -> None:
        self.index = index
        self.executed = begins_after
        self.view = 0
        self.low = begins_after
        self.saved = begins_after
        self.saved_view = 0
        # By its records: the view that it votes in, or has left for.
        self.voting_view = 0
        self.has_entered = True
        self.min_s = 0
        self.recorded: dict[bytes, None] = {}
