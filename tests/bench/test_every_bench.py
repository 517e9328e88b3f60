"""Each bench runs to its end in its smallest form. How fast it is asserts nothing.

A change tries some of them, and a release all.
"""

import pytest

from bench.benches import BENCHES, Bench
from tests.processes import programs
from tests.thoroughness import drawn

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def check(bench: Bench, program: str) -> None:
    ended = programs.run("-m", program, bench.name, "--quick", seconds=bench.quick_seconds_max + 60)
    assert ended.code == 0, ended.errors
    _, _, *rows = ended.output.splitlines()
    assert rows, ended.output


@pytest.mark.docker
@pytest.mark.usefixtures("docker_engine")
@pytest.mark.parametrize(
    "bench", drawn([b for b in BENCHES.values() if b.needs_docker], 1), ids=lambda b: b.name
)
def test_a_bench_with_containers_runs_to_its_end(bench: Bench) -> None:
    """As a person runs it."""
    check(bench, "bench")


@pytest.mark.parametrize(
    "bench", drawn([b for b in BENCHES.values() if not b.needs_docker], 3), ids=lambda b: b.name
)
def test_a_bench_runs_to_its_end(bench: Bench) -> None:
    check(bench, "tests.bench.forked_bench")
