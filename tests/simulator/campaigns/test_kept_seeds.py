"""Runs that once broke an invariant: they break none today, and do again without the fix.

Each is kept as `python -m simulator shrink` printed it, with what it found; a new finding is added
here together with its fix.
"""

from pathlib import Path

import msgspec
import pytest

from simulator.campaigns.shrink import fails
from simulator.faults.parameters import Parameters
from tests.simulator.reverts import REVERTS

FILE = Path(__file__).parent / "kept_seeds.json"


class KeptSeed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """finding: what was wrong. fix: the one in `reverts` without which it is wrong again."""

    finding: str
    fix: str
    invariant: str
    parameters: Parameters


KEPT = msgspec.json.decode(FILE.read_bytes(), type=list[KeptSeed])


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.fix)
def test_a_kept_run_breaks_nothing_today(kept: KeptSeed) -> None:
    assert fails(kept.parameters) is None


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.fix)
def test_a_kept_run_finds_its_fault_again(kept: KeptSeed, monkeypatch: pytest.MonkeyPatch) -> None:
    REVERTS[kept.fix](monkeypatch)
    violation = fails(kept.parameters)
    assert violation is not None
    assert violation.invariant == kept.invariant


def test_every_fix_that_can_be_taken_back_has_its_run() -> None:
    assert {kept.fix for kept in KEPT} == set(REVERTS)
