"""What the tests with real processes share: the engine that builds run on, and networks."""

import itertools
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.base_image import EXAMPLE_IMAGE
from tests.leftovers import WITHOUT_DOCKER
from tests.node.conftest import base_image, docker_engine
from tests.processes.network import Network

__all__ = ["base_image", "docker_engine"]


@dataclass(frozen=True)
class Engine:
    """What builds run on: the `executor` of the nodes, and the image that pipelines name."""

    executor: str
    image: str


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Engine:
    """Docker; or plain processes, where this machine is said to have no Docker.

    For tests that prove the same on both. A test that needs Docker asks for `docker_engine`.
    """
    if os.environ.get(WITHOUT_DOCKER) == "1":
        return Engine("process", EXAMPLE_IMAGE)
    return Engine("docker", request.getfixturevalue("base_image"))


NetworkMaker = Callable[..., Network]


@pytest.fixture
def make_network(tmp_path: Path) -> Iterator[NetworkMaker]:
    """`make_network(branches, ...)`, as Network takes them; not started; ended after the test."""
    made: list[Network] = []
    numbers = itertools.count()

    def make(branches: Any, **settings: Any) -> Network:
        made.append(Network(tmp_path / f"network{next(numbers)}", branches, **settings))
        return made[-1]

    yield make
    for network in made:
        network.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of all logs beside a failure."""
    report = yield
    if report.failed:
        for network in Network.living:
            report.sections.append((f"logs of {network.folder}", network.last_words()))
    return report
