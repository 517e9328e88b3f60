"""What the tests of operators' machines need; without it they are skipped, with the reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operators.machine import missing_programs
from tests.operators.world import World
from tests.pbft_ci.conftest import installation, wheel
from tests.pbft_ci.installation import Installation
from tests.processes.conftest import pytest_runtest_makereport

__all__ = ["installation", "pytest_runtest_makereport", "wheel"]


@pytest.fixture
def world(tmp_path: Path, installation: Installation) -> Iterator[World]:
    """A world without machines, which ends with the test."""
    if missing := missing_programs():
        pytest.skip(f"no machines can be made here: {', '.join(missing)}")
    with World(tmp_path / "world", installation) as made:
        yield made
        # pytest removes the folder of a test that passed
        made.keep()
