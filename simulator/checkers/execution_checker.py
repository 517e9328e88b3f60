"""The invariants of execution: the same everywhere, once, decided, asked for; one ledger."""

from ci.ledger import next_head
from pbft.messages import Commit
from pbft.ports import Entry, Executed, ExecutedRequest
from simulator.checkers.build_checker import BuildChecker
from simulator.checkers.end_checker import EndChecker
from simulator.checkers.history import ExecutedBatch, History, effect_digest
from simulator.world.reader import Reader
from simulator.world.world import World


class ExecutionChecker:
    """Compares each execution with the first one of its number."""

    def __init__(
        self,
        world: World,
        history: History,
        reader: Reader,
        *,
        builds: BuildChecker,
        end: EndChecker,
    ) -> None:
        self._cluster = world.cluster
        self._quorums = world.cluster.quorums
        self._history = history
        self._reader = reader
        self._builds = builds
        self._end = end
        self._violate = world.violate

    def on_executed(
        self, name: str, own: int, record: Executed, *, requests: list[ExecutedRequest]
    ) -> None:
        """A correct replica executed a number. own: its voice."""
        history = self._history
        sequence = record.sequence
        digest = effect_digest(requests)
        golden = history.executed.get(sequence)
        if golden is None:
            history.executed[sequence] = ExecutedBatch(digest, tuple(requests))
            for index, executed in enumerate(requests):
                self._check_first_execution(executed, index)
        elif golden.digest != digest:
            self._violate("1 agreement", f"{name} at {sequence}")
        if history.batch_digests.setdefault(sequence, record.digest) != record.digest:
            self._violate("5 one digest per number", f"{name} at {sequence}")
        self._check_decided(name, own, record)

    def _check_decided(self, name: str, own: int, record: Executed) -> None:
        """`strong` COMMITs of one view, so f+1 of correct replicas, or it was not decided."""
        voices: dict[int, dict[str, None]] = {}
        for signed in record.commits:
            message = self._reader.decode(signed.payload)
            if (
                isinstance(message, Commit)
                and (message.sequence, message.digest) == (record.sequence, record.digest)
                and self._cluster.replica_index(signed.signer) == message.replica
                and self._reader.holds(signed)
            ):
                voices.setdefault(message.view, {})[signed.signer] = None
        views = [view for view, names in voices.items() if len(names) >= self._quorums.strong]
        if not views:
            self._violate("11 evidence of committed", f"{name} executes {record.sequence} unproved")
        said = [
            self._history.committed_by.get((view, record.sequence, record.digest), 0) | own
            for view in views
        ]
        if max(voices.bit_count() for voices in said) < self._quorums.weak:
            self._violate(
                "11 evidence of committed",
                f"{name} executes {record.sequence}, f+1 correct ones did not say so",
            )

    def _check_first_execution(self, executed: ExecutedRequest, index: int) -> None:
        history = self._history
        request = executed.request
        key = (request.client, request.timestamp)
        if key in history.positions:
            self._violate("8 no double execution", f"{key} again at {executed.sequence}")
        position = history.positions[key] = (executed.sequence, index)
        history.results[key] = executed
        payload = executed.signed.payload
        if self._reader.decode(payload) != request or not self._reader.holds(executed.signed):
            self._violate("7 validity", f"{key} at {executed.sequence} is not its client's")
        if self._builds.is_remembering(request.client) and payload not in history.issued:
            self._violate("7 validity", f"{key} at {executed.sequence} was never asked for")
        after = history.asked_after.get(key)
        if after is not None and position <= after:
            self._violate("20 real-time order", f"{key} at {position}, asked after {after}")
        self._builds.on_execution(executed)
        self._end.on_execution(executed)

    def on_entry(self, name: str, entry: Entry) -> None:
        """A correct replica wrote a ledger entry."""
        ledger = self._history.ledger
        if entry.index <= len(ledger):
            if ledger[entry.index - 1] != entry:
                self._violate("2 ledger prefix", f"{name} at entry {entry.index}")
            return
        before = ledger[-1].head if ledger else self._builds.genesis_head
        if entry.index != len(ledger) + 1 or entry.head != next_head(
            before, entry.index, entry.body
        ):
            self._violate("2 ledger prefix", f"{name}: entry {entry.index} does not chain")
        ledger.append(entry)
        self._builds.on_entry(entry)

    def on_fetched(self, name: str, entries: tuple[Entry, ...]) -> None:
        """Peers gave a replica what its ledger lacked: it is what was executed."""
        for entry in entries:
            if self._history.ledger[entry.index - 1 : entry.index] != [entry]:
                self._violate("2 ledger prefix", f"{name} fetched entry {entry.index}")
