"""What the tests of the scripts share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.processes import Processes


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Processes of a temporary folder, ended afterwards."""
    made = Processes(tmp_path / "pids", tmp_path / "output")
    yield made
    made.stop(stop_seconds_max=0.1)
