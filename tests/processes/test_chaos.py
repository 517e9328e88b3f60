"""Webhooks while nodes and the gateway are killed -9 again and again, short and long.

Every 1-3 seconds one of them dies and is started again a moment later, the primary like the others,
sometimes several at once. All other faults are those of tests/operators.
"""

import sys
import time
from pathlib import Path

import docker
import pytest

from scripts.base_image import EXAMPLE_IMAGE
from tests.processes.nemesis import (
    TICK_SECONDS,
    Nemesis,
    Pace,
    Poster,
    branches,
    check_nobody_ended,
    decided,
    kill_fault,
    left_on_engine,
    problems,
)
from tests.processes.network import Network
from tests.thoroughness import times

pytestmark = pytest.mark.processes

# Far more than a webhook takes on two busy cores, and than the first one waits for.
WEBHOOK_SECONDS_MAX = 9.0
FIRST_SECONDS_MAX = 300.0


def say(line: str) -> None:
    """pytest shows it where the test fails."""
    sys.stdout.write(f"{line}\n")


def chaos(network: Network, *, seed: int, webhooks: int) -> list[str]:
    """Post so many webhooks and kill until they have verdicts; a line for each broken promise."""
    network.start()
    pace = Pace()
    nemesis = Nemesis([kill_fault(network)], seed, pace, say)
    end = time.monotonic() + FIRST_SECONDS_MAX + webhooks * WEBHOOK_SECONDS_MAX
    with Poster(network, seed, pace, webhooks) as posted:
        while len(posted.builds) < webhooks or len(decided(network)) < webhooks:
            assert time.monotonic() < end, f"{len(decided(network))} of {webhooks} decided"
            check_nobody_ended(network)
            nemesis.act()
            time.sleep(TICK_SECONDS)
    nemesis.heal_all()
    return problems(network, posted, say)


@pytest.mark.short
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1])
def test_twenty_webhooks_in_chaos(tmp_path: Path, seed: int) -> None:
    with Network(tmp_path / "network", branches(EXAMPLE_IMAGE), is_captured=True) as network:
        assert chaos(network, seed=seed, webhooks=20) == []


@pytest.mark.long
@pytest.mark.timeout(times(1500))
@pytest.mark.parametrize("seed", [2])
def test_many_webhooks_in_chaos(tmp_path: Path, seed: int) -> None:
    with Network(tmp_path / "network", branches(EXAMPLE_IMAGE), is_captured=True) as network:
        assert chaos(network, seed=seed, webhooks=times(40)) == []


@pytest.mark.long
@pytest.mark.docker
@pytest.mark.timeout(times(1500))
def test_webhooks_in_chaos_with_containers(
    docker_engine: docker.DockerClient, base_image: str, tmp_path: Path
) -> None:
    """Containers of killed nodes go on without them; they are gone when the nodes are back."""
    folder = tmp_path / "network"
    with Network(folder, branches(base_image), executor="docker", is_captured=True) as network:
        assert chaos(network, seed=3, webhooks=times(15)) == []
        assert left_on_engine(network, docker_engine) == []
