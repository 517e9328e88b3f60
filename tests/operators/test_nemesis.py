"""Half a minute of the nemesis. More before a release, and hours of it by hand."""

from pathlib import Path

import pytest

from tests.operators import nemesis
from tests.operators.machine import missing_programs
from tests.operators.world import World
from tests.pbft_ci.installation import Installation
from tests.thoroughness import times

pytestmark = [pytest.mark.processes, pytest.mark.long]


@pytest.mark.timeout(times(1500))
@pytest.mark.parametrize("seed", [1])
def test_faults_of_machines_break_no_promise(
    tmp_path: Path, installation: Installation, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed 1 stopped a primary for a minute beside a bridge and slow links."""
    if missing := missing_programs():
        pytest.skip(f"no machines can be made here: {', '.join(missing)}")

    def say(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)  # noqa: T201 - meant for whoever runs the tests

    say(f"\nnemesis: seed {seed}")
    with (
        World(tmp_path / "world", installation, seed=seed) as world,
        nemesis.bring_up(world, "process") as network,
    ):
        assert nemesis.run(network, seed=seed, seconds=times(30), say=say) == []
