"""A finished build in the numbers that plots are made of."""

from collections.abc import Sequence

from client.storage.archive import BallotRecord, BuildRecord
from client.storage.build_measures import BuildMeasure
from client.views.build_times import building_seconds
from client.views.build_view import build_view


def measure_of(record: BuildRecord, ballots: Sequence[BallotRecord]) -> BuildMeasure | None:
    """Its measure; None: it has no verdict."""
    verdict = (view := build_view(record, list(ballots), [])).verdict
    if verdict is None or record.decided_at is None:
        return None
    opened_at = record.decided_at if record.opened_at is None else record.opened_at
    return BuildMeasure(
        number=record.number,
        repository=record.repository,
        outcome=verdict.outcome,
        decided_at=record.decided_at,
        queued_seconds=max(0.0, opened_at - record.received_at),
        built_seconds=building_seconds(view),
        agreeing=len(verdict.agreeing),
        dissenting=len(verdict.dissenting),
        abstained=sum(ballot.abstains is not None for ballot in view.ballots),
    )
