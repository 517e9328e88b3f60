"""What the metrics count, and that nobody can make them grow without bound."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ci.operations import Abstain, Ballot
from node.diagnostics.metrics import REASONS_MAX, TIMED_SEQUENCES_MAX, NodeMetrics
from pbft.ports import Event, Output
from tests.ci.builders import FAILED, PASSED, World


@pytest.fixture(name="metrics")
def fixture_metrics() -> NodeMetrics:
    return NodeMetrics(replica="node0", cluster=World().cluster, version="1")


def samples(metrics: NodeMetrics) -> dict[str, float]:
    """`name{label="value"}` -> value, as an independent parser reads it."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def emitted(name: str, **details: str | int | None) -> list[Output]:
    output = Output()
    output.events.append(Event(name, details))
    return [output]


def test_phases_are_timed_from_the_pre_prepare(metrics: NodeMetrics) -> None:
    metrics.observe_outputs(emitted("pre_prepared", sequence=7, view=0), 10.0)
    metrics.observe_outputs(emitted("prepared", sequence=7, view=0), 10.25)
    metrics.observe_outputs(emitted("executed", sequence=7, view=0, requests=3), 10.5)
    found = samples(metrics)
    assert found["pbftci_phase_seconds_sum{phase=prepared}"] == 0.25
    assert found["pbftci_phase_seconds_sum{phase=executed}"] == 0.5
    assert found["pbftci_requests_executed_total{}"] == 3
    metrics.observe_outputs(emitted("executed", sequence=8, view=0, requests=1), 11.0)
    assert samples(metrics)["pbftci_phase_seconds_count{phase=executed}"] == 1


def test_what_never_executes_is_forgotten(metrics: NodeMetrics) -> None:
    for sequence in range(TIMED_SEQUENCES_MAX + 1):
        metrics.observe_outputs(emitted("pre_prepared", sequence=sequence, view=0), 1.0)
    metrics.observe_outputs(emitted("executed", sequence=0, view=0, requests=1), 2.0)
    assert "pbftci_phase_seconds_count{phase=executed}" not in samples(metrics)


def test_strangers_reasons_cannot_fill_the_memory(metrics: NodeMetrics) -> None:
    for number in range(10):
        metrics.observe_outputs(emitted("refused", signer="x", reason=f"malformed: {number}"), 1.0)
    assert samples(metrics)["pbftci_refusals_total{reason=malformed}"] == 10
    for number in range(3 * REASONS_MAX):
        metrics.observe_outputs(emitted("refused", signer="x", reason=f"reason {number}"), 1.0)
    found = samples(metrics)
    reasons = [name for name in found if name.startswith("pbftci_refusals_total")]
    assert len(reasons) == REASONS_MAX + 1
    assert found["pbftci_refusals_total{reason=other}"] == 2 * REASONS_MAX + 1


def test_verdicts_and_dissent_are_counted_from_the_ledger(metrics: NodeMetrics) -> None:
    world = World()
    build = world.open()
    for index, ballot in enumerate((PASSED, PASSED, FAILED, PASSED)):
        world.cast(build, index, ballot)
    for entry in world.ledger:
        metrics._observe_entry(entry.body)
    found = samples(metrics)
    assert found["pbftci_builds_total{outcome=passed}"] == 1
    assert found["pbftci_dissent_total{replica=replica-2}"] == 1
    assert found["pbftci_dissent_total{replica=replica-0}"] == 0


def test_abstentions_are_counted_before_and_after_a_verdict(metrics: NodeMetrics) -> None:
    world = World()
    build = world.open()
    early: list[Ballot] = [PASSED, Abstain("no git server"), PASSED, PASSED]
    for index, ballot in enumerate(early):
        world.cast(build, index, ballot)
    build = world.open(1)
    late: list[Ballot] = [PASSED, PASSED, PASSED, Abstain("no engine")]
    for index, ballot in enumerate(late):
        world.cast(build, index, ballot)
    for entry in world.ledger:
        metrics._observe_entry(entry.body)
    found = samples(metrics)
    counts = [found[f"pbftci_abstentions_total{{replica=replica-{i}}}"] for i in range(4)]
    assert counts == [0, 1, 0, 1]


def test_what_alerts_count_is_there_before_its_first_count(metrics: NodeMetrics) -> None:
    """Prometheus sees no increase where a counter appears with 1."""
    found = samples(metrics)
    assert found["pbftci_notices_total{event=forgot}"] == 0
    assert found["pbftci_builds_total{outcome=disputed}"] == 0
    assert found["pbftci_saves_failed_total{}"] == 0
    for name in World().cluster.replica_names:
        for counter in ("dissent_total", "abstentions_total", "evidence_pairs"):
            assert found[f"pbftci_{counter}{{replica={name}}}"] == 0


def test_what_is_seen_at_the_moment_of_the_question(metrics: NodeMetrics, tmp_path: Path) -> None:
    metrics.observe_evidence({"replica-1": 2})
    metrics.observe_failed_save()
    metrics.observe_disk(tmp_path, is_slow=False, is_refusing=True)
    found = samples(metrics)
    assert found["pbftci_evidence_pairs{replica=replica-1}"] == 2
    assert found["pbftci_saves_failed_total{}"] == 1
    assert found["pbftci_state{what=is_disk_refusing}"] == 1
    assert found["pbftci_state{what=is_disk_slow}"] == 0
    assert found["pbftci_links_needed{}"] == 2


def test_a_state_that_nobody_is_in_any_more_is_zero(metrics: NodeMetrics) -> None:
    metrics.observe_builds(["waiting", "building", "retrying: no engine"], 3)
    metrics.observe_builds(["building"], 1)
    found = samples(metrics)
    assert found["pbftci_builds_here{state=retrying}"] == 0
    assert found["pbftci_builds_here{state=building}"] == 1


def test_views_saves_and_the_disk(metrics: NodeMetrics, tmp_path: Path) -> None:
    (tmp_path / "replica.sqlite3").write_bytes(bytes(1000))
    metrics.observe_outputs(emitted("view_change", view=1, reason="timer", prepared=0), 1.0)
    metrics.observe_save(0.003)
    metrics.observe_disk(tmp_path, is_slow=False, is_refusing=False)
    found = samples(metrics)
    assert found["pbftci_view_changes_total{}"] == 1
    assert found["pbftci_save_seconds_count{}"] == 1
    assert found["pbftci_disk_bytes{what=databases}"] == 1000
    assert found["pbftci_disk_bytes{what=free}"] > 0
