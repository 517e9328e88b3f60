"""What ordinary projects need: images, a package registry, and the operator's settings for it."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import docker
import pytest

from scripts.debian_image import ensure_debian_image
from tests.node.conftest import (
    base_image,
    docker_engine,
    make_builder,
    make_config,
    repository,
    room,
)
from tests.ordinary.operator_settings import ca_file, python_index
from tests.ordinary.service_images import SERVICE_IMAGES, ensure_service_image

__all__ = ["base_image", "docker_engine", "make_builder", "make_config", "repository", "room"]

REGISTRY_SECONDS_MAX = 60
# where pip looks if nobody says otherwise
PUBLIC_INDEX = "https://pypi.org/simple"
NAMED_IMAGES = ("python:3.12-slim", "gcc:13", "node:20-slim", "node:18-slim", "redis:7")


@pytest.fixture(scope="session")
def debian_image(docker_engine: docker.DockerClient) -> str:
    """An image with Python, a C compiler, git and Node.js."""
    return ensure_debian_image(docker_engine)


@dataclass(frozen=True)
class Registry:
    """A package registry that this machine reaches, as an operator behind a proxy would have it.

    settings: for a node's configuration. environment: what pip needs beside it.
    """

    settings: Mapping[str, object]
    environment: Mapping[str, str]


@pytest.fixture(scope="session")
def registry(
    docker_engine: docker.DockerClient, debian_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Registry:
    """Skips where no registry answers this machine itself, or a container on its engine.

    Beside another engine our own makes no rules for the way out: see scripts/docker_engine.py.
    """
    environment: dict[str, str] = {}
    if (index := python_index()) is not None:
        environment["PIP_INDEX_URL"] = index
    own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    if (authorities := ca_file()) is not None:
        own["PIP_CERT"] = str(authorities)
    command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir")
    try:
        problem = subprocess.run(
            [*command, "--retries=0", f"--dest={tmp_path_factory.mktemp('registry')}", "six"],
            env={**own, **environment, "PIP_CONFIG_FILE": os.devnull},
            capture_output=True,
            text=True,
            timeout=REGISTRY_SECONDS_MAX,
            check=False,
        ).stderr
        is_reached = not problem or "ERROR" not in problem
    except subprocess.TimeoutExpired:
        is_reached = False
    if not is_reached:
        pytest.skip("no package registry can be reached from this machine")
    problem = way_out(
        docker_engine, debian_image, urlsplit(environment.get("PIP_INDEX_URL", PUBLIC_INDEX))
    )
    if problem:
        pytest.skip(f"containers on this engine reach no package registry: {problem}")
    settings: dict[str, object] = {"network_allowed": True}
    if authorities is not None:
        settings["build_ca_file"] = authorities
    return Registry(settings, environment)


def way_out(engine: docker.DockerClient, image: str, url: SplitResult) -> str:
    """What keeps a container with a network like a build's from that server; "": nothing."""
    name = f"pbft-ci-tests-{secrets.token_hex(8)}"
    port = url.port or (443 if url.scheme == "https" else 80)
    connect = f"import socket; socket.create_connection(({url.hostname!r}, {port}), 20)"
    network = engine.networks.create(name, driver="bridge")
    try:
        engine.containers.run(
            image, ["python3", "-c", connect], network=name, name=name, remove=True
        )
    except docker.errors.ContainerError as error:
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else ""
        return said.strip().rpartition("\n")[2] or str(error)
    except docker.errors.APIError as error:
        return str(error.explanation or error)
    finally:
        network.remove()
    return ""


@pytest.fixture(scope="session")
def named_images(docker_engine: docker.DockerClient, debian_image: str) -> Iterator[None]:
    """The images that the documents name: the engine's own, else ours under their names."""
    made: list[str] = []
    for name in NAMED_IMAGES:
        try:
            docker_engine.images.get(name)
        except docker.errors.ImageNotFound:
            kind = name.partition(":")[0]
            is_service = kind in SERVICE_IMAGES
            ours = ensure_service_image(docker_engine, kind) if is_service else debian_image
            docker_engine.images.get(ours).tag(name)
            made.append(name)
    yield
    for name in made:
        docker_engine.images.remove(name)
