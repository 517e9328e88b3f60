"""The chaos program, short and long; who wants more seeds runs it by hand."""

import sys
from pathlib import Path

import docker
import pytest

from scripts.base_image import EXAMPLE_IMAGE
from tests.processes import chaos
from tests.processes.network import Network

pytestmark = pytest.mark.processes


def say(line: str) -> None:
    """pytest shows it where the test fails."""
    sys.stdout.write(f"{line}\n")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1])
def test_twenty_webhooks_in_chaos(tmp_path: Path, seed: int) -> None:
    branches = chaos.branches(EXAMPLE_IMAGE)
    with Network(tmp_path / "network", branches, is_captured=True) as network:
        assert chaos.run(network, seed=seed, webhooks=20, say=say) == []


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [2])
def test_a_hundred_webhooks_in_chaos(tmp_path: Path, seed: int) -> None:
    branches = chaos.branches(EXAMPLE_IMAGE)
    with Network(tmp_path / "network", branches, is_captured=True) as network:
        assert chaos.run(network, seed=seed, webhooks=100, say=say) == []


@pytest.mark.long
@pytest.mark.docker
@pytest.mark.timeout(1500)
def test_sixty_webhooks_in_chaos_with_containers(
    docker_engine: docker.DockerClient, base_image: str, tmp_path: Path
) -> None:
    """Containers of killed nodes go on without them; they are gone when the nodes are back."""
    branches = chaos.branches(base_image)
    folder = tmp_path / "network"
    with Network(folder, branches, executor="docker", is_captured=True) as network:
        assert chaos.run(network, seed=3, webhooks=60, say=say) == []
        assert chaos.left_on_engine(network, docker_engine) == []
