"""Seeds of the simulator: the gate of every test run, and that it is a gate at all."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from common.configuration.keys import verify as verify_really
from simulator.campaigns.simulation import Simulation
from simulator.faults.parameters import Parameters, draw
from simulator.world.network import LinkFaults
from simulator.world.scheduler import Scheduler
from simulator.world.signatures import RealKeys, Signatures
from tests.simulator.world.test_signatures import make_key

ROOT = Path(__file__).resolve().parents[3]


def test_a_calm_world_decides_everything_in_view_0() -> None:
    result = Simulation(Parameters(seed=1, gateways=1)).run()
    assert (result.views, result.faults) == (0, {})
    assert result.executed > 5


def real_keys(seed: int, scheduler: Scheduler) -> Signatures:
    """Real Ed25519 for everybody."""
    return RealKeys(seed, make_key, verify_really)


@pytest.mark.parametrize("seed", range(3))
def test_real_signatures_over_a_corrupting_wire(seed: int) -> None:
    parameters = draw(seed, 4)
    links = LinkFaults(on_the_wire=True, corruption=0.05, loss=0.05)
    workload = msgspec.structs.replace(parameters.workload, requests=4)
    parameters = msgspec.structs.replace(
        parameters, links=links, workload=workload, healed_delay_seconds=0.02
    )
    result = Simulation(parameters, signatures=real_keys).run()
    assert result.executed > 0
    assert result.faults["corrupted"] > 0
    assert result.goals["refused: a bad signature"] > 0


def hashes(hash_seed: str, seeds: int = 6) -> str:
    """The trace digests of some seeds, from a process with this seed of str hashes."""
    done = subprocess.run(
        [sys.executable, "-m", "simulator", "hash", "--first", "1", "--seeds", str(seeds)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.short
def test_a_seed_is_the_same_run_in_every_process() -> None:
    """test_long_gate compares these seeds and more."""
    first = hashes("1")
    assert first.count("\n") == 6
    assert first == hashes("2")
