"""GET /metrics: a replica's numbers for Prometheus, from the same events as its log.

Names follow Prometheus' conventions (base units, `_total` for counters). Labels have few values:
texts that others choose are cut to their fixed beginning, and beyond a number of them become
`other`, so that nobody can fill the memory of whoever collects this.

What an alert counts is there from the start, with 0: a counter that appears with its first count
shows Prometheus no increase.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ci.ledger import ABSTAINED, AnyEntry, LateBallotEntry, VerdictEntry, decode_entry
from ci.operations import Outcome
from ci.statement import dissenters, parse_statement
from common.links.link import Traffic
from node.storage.scrub import ScrubProgress
from pbft.core import Core
from pbft.genesis import Cluster
from pbft.ports import Event, Output

CONTENT_TYPE = CONTENT_TYPE_LATEST

PHASES = ("prepared", "executed")
# Sequence numbers whose phases are being timed: more than any window has.
TIMED_SEQUENCES_MAX = 4096
REASONS_MAX = 64
# Those that an alert counts (deploy/prometheus/alerts.yml).
ALERTED_EVENTS = ("diverged", "forgot")
RELAYED = "not over its signer's link"
PHASE_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SAVE_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)


class NodeMetrics:
    """The numbers of one replica. `observe_*` are called by the runtime, `text` when asked."""

    def __init__(self, *, replica: str, cluster: Cluster, version: str) -> None:
        self._registry = CollectorRegistry()
        info = self._gauge("pbftci_info", "Who this is; always 1", "replica", "cluster", "version")
        info.labels(replica, cluster.id.hex(), version).set(1)
        self._phases = Histogram(
            "pbftci_phase_seconds",
            "From accepting a PRE-PREPARE until the batch is prepared, and until it is executed",
            ["phase"],
            buckets=PHASE_BUCKETS,
            registry=self._registry,
        )
        self._saves = Histogram(
            "pbftci_save_seconds",
            "Until a turn's records were on disk",
            buckets=SAVE_BUCKETS,
            registry=self._registry,
        )
        self._saves_failed = self._counter(
            "pbftci_saves_failed_total", "Saves that the disk refused; each is tried again"
        )
        self._events = self._counter("pbftci_notices_total", "What the replica told", "event")
        self._refusals = self._counter(
            "pbftci_refusals_total", "Messages that were not accepted", "reason"
        )
        self._requests = self._counter("pbftci_requests_executed_total", "Requests in batches")
        self._views = self._counter("pbftci_view_changes_total", "Views that were left")
        self._builds = self._counter("pbftci_builds_total", "Verdicts in the ledger", "outcome")
        self._dissent = self._counter(
            "pbftci_dissent_total", "Ballots that differed from a verdict", "replica"
        )
        self._abstentions = self._counter(
            "pbftci_abstentions_total", "Builds that a replica abstained from", "replica"
        )
        self._evidence = self._gauge(
            "pbftci_evidence_pairs", "Pairs of messages kept that convict a replica", "replica"
        )
        self._state = self._gauge("pbftci_state", "Where the replica stands", "what")
        self._builds_here = self._gauge("pbftci_builds_here", "Builds of this node", "state")
        self._peers = self._gauge("pbftci_peer_connected", "1 where there is a link", "replica")
        self._links_needed = self._gauge(
            "pbftci_links_needed", "Links to other replicas that an order needs"
        )
        self._links_needed.set(cluster.quorums.strong - 1)
        self._link_messages = self._gauge(
            "pbftci_link_messages", "Messages that links carried since the start", "direction"
        )
        self._link_bytes = self._gauge(
            "pbftci_link_bytes",
            "Bytes of the frames that links carried since the start, without HTTP and TLS",
            "direction",
        )
        self._disk = self._gauge("pbftci_disk_bytes", "Data directory and its disk", "what")
        self._ledger = self._gauge("pbftci_ledger_entries", "Entries of the ledger here", "what")
        self._scrubbed = self._gauge(
            "pbftci_scrub_passes", "Whole looks through the store since the start"
        )
        self._caches = self._gauge(
            "pbftci_caches",
            "What came of builds' caches since the start, and what there is",
            "what",
        )
        self._evictions = self._gauge(
            "pbftci_cache_evictions",
            "Entries of caches that were removed since the start",
            "reason",
        )
        # What came since the last `text`: raising the library's counters takes a lock each, and of
        # these there are several in each turn.
        self._new_events: dict[str, int] = {}
        self._requests_new = 0
        self._began: dict[int, float] = {}
        self._reasons: set[str] = set()
        self._states_seen: set[str] = set()
        for name in ALERTED_EVENTS:
            self._events.labels(name)
        for outcome in Outcome:
            self._builds.labels(outcome.value)
        for name in cluster.replica_names:
            self._dissent.labels(name)
            self._abstentions.labels(name)
            self._evidence.labels(name)

    def observe_outputs(self, outputs: Iterable[Output], now: float) -> None:
        """Take in what a turn gave. now: monotonic seconds."""
        for output in outputs:
            for event in output.events:
                self._observe(event, now)
            for executed in output.executed:
                for entry in executed.applied.entries:
                    self._observe_entry(entry.body)

    def observe_relayed(self, count: int) -> None:
        """So many messages were dropped because others than their signers brought them."""
        self._refusals.labels(self._reason(RELAYED)).inc(count)

    def observe_save(self, seconds: float) -> None:
        """A turn was saved in that time."""
        self._saves.observe(seconds)

    def observe_failed_save(self) -> None:
        """The disk refused to save a turn."""
        self._saves_failed.inc()

    def observe_evidence(self, pairs: Mapping[str, int]) -> None:
        """How many pairs are kept, by the replica that they convict."""
        for replica, count in pairs.items():
            self._evidence.labels(replica).set(count)

    def observe_state(self, core: Core, behind_by: int, peers: dict[str, bool]) -> None:
        """Where the replica stands at the moment of the question."""
        for what, value in (
            ("view", core.view),
            ("has_entered_view", core.has_entered),
            ("is_primary", core.is_primary),
            ("executed", core.executed),
            ("stable_checkpoint", core.low),
            ("behind_by", behind_by),
            ("pending_requests", len(core.pending)),
            ("is_voting", core.is_voting),
            ("is_diverged", core.is_diverged),
            ("is_recovering", core.is_recovering),
        ):
            self._state.labels(what).set(float(value))
        for name, is_connected in peers.items():
            self._peers.labels(name).set(float(is_connected))

    def observe_traffic(self, traffic: Traffic) -> None:
        """What links carried since the start, to and from replicas and clients."""
        self._link_messages.labels("sent").set(traffic.messages_sent)
        self._link_messages.labels("received").set(traffic.messages_received)
        self._link_bytes.labels("sent").set(traffic.bytes_sent)
        self._link_bytes.labels("received").set(traffic.bytes_received)

    def observe_builds(self, states: Iterable[str], open_builds: int) -> None:
        """states: of each build that this node has at hand; open_builds: of the network."""
        counts: dict[str, int] = dict.fromkeys(self._states_seen, 0)
        for state in states:
            # "retrying: <reason>" is one state
            kind = state.partition(":")[0]
            counts[kind] = counts.get(kind, 0) + 1
        self._states_seen.update(counts)
        for kind, count in counts.items():
            self._builds_here.labels(kind).set(count)
        self._state.labels("open_builds").set(open_builds)

    def observe_disk(self, folder: Path, *, is_slow: bool, is_refusing: bool) -> None:
        """How much room the data directory's disk has and its databases take; how saves go."""
        self._state.labels("is_disk_slow").set(is_slow)
        self._state.labels("is_disk_refusing").set(is_refusing)
        usage = shutil.disk_usage(folder)
        self._disk.labels("free").set(usage.free)
        self._disk.labels("total").set(usage.total)
        databases = sum(file.stat().st_size for file in folder.glob("*.sqlite*"))
        self._disk.labels("databases").set(databases)

    def observe_scrub(self, progress: ScrubProgress, missing: int) -> None:
        """How far the look through the store is; missing: entries to be fetched."""
        self._ledger.labels("checked").set(progress.entries_checked)
        self._ledger.labels("found_damaged").set(progress.damaged_entries)
        self._ledger.labels("missing").set(missing)
        self._scrubbed.set(progress.passes)

    def observe_caches(self, counts: Mapping[str, float], evictions: Mapping[str, int]) -> None:
        """What came of caches since the start: by what is counted; by why an entry went."""
        for what, value in counts.items():
            self._caches.labels(what).set(value)
        for reason, count in evictions.items():
            self._evictions.labels(reason).set(count)

    def watch_configuration(
        self, is_taken: Callable[[], bool], read_at: Callable[[], float]
    ) -> None:
        """Tell of the last reload: whether it was taken, and when it was, in seconds since 1970."""
        self._gauge(
            "pbftci_configuration_taken", "1 unless the last reload was refused"
        ).set_function(is_taken)
        self._gauge(
            "pbftci_configuration_read_seconds",
            "When the configuration was last read, at the start or by a reload",
        ).set_function(read_at)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        for name, count in self._new_events.items():
            self._events.labels(name).inc(count)
            self._new_events[name] = 0
        self._requests.inc(self._requests_new)
        self._requests_new = 0
        return generate_latest(self._registry)

    # --- inside ---------------------------------------------------------------------------------

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(name, what, labels, registry=self._registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(name, what, labels, registry=self._registry)

    def _observe(self, event: Event, now: float) -> None:
        try:
            self._new_events[event.name] += 1
        except KeyError:
            # Now is when the library's counter begins.
            self._events.labels(event.name)
            self._new_events[event.name] = 1
        sequence = event.details.get("sequence")
        match event.name:
            case "pre_prepared" if isinstance(sequence, int):
                self._began[sequence] = now
                if len(self._began) > TIMED_SEQUENCES_MAX:
                    del self._began[next(iter(self._began))]
            case "prepared" if sequence in self._began:
                assert isinstance(sequence, int)
                self._phases.labels("prepared").observe(now - self._began[sequence])
            case "executed":
                assert isinstance(sequence, int)
                began = self._began.pop(sequence, None)
                if began is not None:
                    self._phases.labels("executed").observe(now - began)
                requests = event.details.get("requests")
                self._requests_new += requests if isinstance(requests, int) else 0
            case "view_change":
                self._views.inc()
            case "refused":
                self._refusals.labels(self._reason(str(event.details.get("reason")))).inc()

    def _reason(self, text: str) -> str:
        """The fixed beginning of a reason; `other` where there are too many of them."""
        reason = text.partition(":")[0][:80]
        if reason in self._reasons:
            return reason
        if len(self._reasons) >= REASONS_MAX:
            return "other"
        self._reasons.add(reason)
        return reason

    def _observe_entry(self, body: bytes) -> None:
        entry = decode_entry(body)
        if isinstance(entry, VerdictEntry):
            outcome = parse_statement(bytes(entry.statement)).verdict.outcome
            self._builds.labels(outcome.value).inc()
        for replica in sorted(dissenters(entry)):
            self._dissent.labels(replica).inc()
        for replica in _abstaining(entry):
            self._abstentions.labels(replica).inc()


def _abstaining(entry: AnyEntry) -> list[str]:
    """The replicas that this entry records as abstaining."""
    match entry:
        case VerdictEntry():
            ballots = entry.ballots
        case LateBallotEntry():
            ballots = (entry.ballot,)
        case _:
            return []
    return [ballot.replica for ballot in ballots if ballot.outcome == ABSTAINED]
