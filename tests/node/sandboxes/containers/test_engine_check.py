"""What `check` says of the Docker engine."""

from pathlib import Path

import docker
import pytest

from ci.limits import Limits
from common.configuration.config import NodeConfig, RepositoryEntry
from common.finding import State
from node.sandboxes.containers.engine_check import check_engine
from scripts.base_image import EXAMPLE_IMAGE
from tests.node.conftest import ConfigMaker

URL = "https://git.example/team/app.git"


def states(config: NodeConfig, limits: Limits | None = None) -> dict[str, State]:
    return {found.subject: found.state for found in check_engine(config, limits or Limits())}


@pytest.mark.docker
def test_the_engine_and_what_builds_need_of_it(
    make_config: ConfigMaker, docker_engine: docker.DockerClient
) -> None:
    missing = "pbft-ci-example/not-there:1"
    entry = RepositoryEntry(URL, local_images=(EXAMPLE_IMAGE, missing))
    config = make_config(entry, network_allowed=True, builds_at_once=1)
    found = states(config, Limits(memory_bytes=2**28, workspace_bytes=2**24, home_bytes=2**24))
    assert found["Docker"] is State.OK
    assert found["memory for builds"] is State.OK
    assert found["Docker's disk"] is State.OK
    assert found[f"image {missing}"] is State.WARNING
    assert found[f"image {EXAMPLE_IMAGE}"] is State.OK
    # how they are depends on whose machine this is
    assert found["egress filter"] in (State.OK, State.WARNING)
    assert found["runtime"] is State.OK


@pytest.mark.docker
def test_builds_that_need_more_memory_than_there_is(
    make_config: ConfigMaker, docker_engine: docker.DockerClient
) -> None:
    found = states(make_config(URL), Limits(memory_bytes=2**50))
    assert found["memory for builds"] is State.WARNING


def test_an_engine_that_does_not_answer_is_wrong(make_config: ConfigMaker, tmp_path: Path) -> None:
    (found,) = check_engine(make_config(URL, docker_host=f"unix://{tmp_path}/none"), Limits())
    assert (found.subject, found.state) == ("Docker", State.WRONG)
    assert "start it, or let this user in" in found.text
