"""What the tests of operators' machines need; without it they are skipped, with the reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operators.machine import missing_programs
from tests.operators.world import World
from tests.processes.conftest import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world without machines, which ends with the test."""
    if missing := missing_programs():
        pytest.skip(f"no machines can be made here: {', '.join(missing)}")
    with World(tmp_path / "world") as made:
        yield made
        # pytest removes the folder of a test that passed
        made.keep()
