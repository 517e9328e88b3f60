"""The container image, and the trial cluster of four nodes and a gateway in containers of it."""

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.models.images
import pytest

from common.version import VERSION
from scripts.base_image import NoBaseImage
from scripts.container_image import PACKAGES, USER_ID, make_image
from scripts.folders import ROOT
from tests.deploy.test_compose import FOLDER, compose
from tests.node.conftest import GitRepository, pipeline
from tests.waiting import block_until

pytestmark = [pytest.mark.docker, pytest.mark.long]

SIZE_MAX = 200_000_000
NODES = ("node0", "node1", "node2", "node3")
MEMBERS = (*NODES, "gateway")
# a container's health is asked once a minute, and the machine may be busy
HEALTHY_SECONDS = 500.0
REPOSITORY = "/srv/git/project.git"


@pytest.fixture(scope="module")
def image(docker_engine: docker.DockerClient) -> Iterator[docker.models.images.Image]:
    """This checkout's, under a name of its own. Skips where no Debian can be made."""
    name = f"pbft-ci-tests:{secrets.token_hex(8)}"
    try:
        make_image(docker_engine, name)
    except NoBaseImage as error:
        pytest.skip(str(error))
    yield docker_engine.images.get(name)
    docker_engine.images.remove(name, force=True)


class Trial:
    """The containers of deploy/trial, as a project of compose with a name of its own."""

    def __init__(self, engine: docker.DockerClient, image: str, repositories: Path) -> None:
        self._engine = engine
        self.name = f"pbft{secrets.token_hex(6)}"
        socket = (os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock").removeprefix(
            "unix://"
        )
        if not socket.startswith("/"):
            pytest.skip("the engine is not reached by a socket that could be mounted")
        self._variables = {
            "PBFT_CI_IMAGE": image,
            "DOCKER_SOCKET": socket,
            "DOCKER_GID": str(os.stat(socket).st_gid),
            "REPOSITORY": REPOSITORY,
            "REPOSITORIES": str(repositories),
            # a free one: nobody asks there
            "GATEWAY_PORT": "0",
        }

    def compose(self, *arguments: str) -> str:
        """What compose answers; it must end well."""
        place = FOLDER / "trial"
        done = compose(place, "-p", self.name, *arguments, **self._variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def container(self, service: str) -> Any:
        """That of a service, as the engine has it now."""
        label = f"com.docker.compose.service={service}"
        project = f"com.docker.compose.project={self.name}"
        (found,) = self._engine.containers.list(filters={"label": [label, project]})
        return found

    def run(self, service: str, *command: str) -> str:
        """The output of a command in a container that runs; it must end well."""
        code, output = self.container(service).exec_run(list(command))
        text: str = output.decode()
        assert code == 0, text
        return text


@pytest.fixture(scope="module")
def trial(
    docker_engine: docker.DockerClient,
    image: docker.models.images.Image,
    base_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Trial]:
    """Up, with a repository of this machine, whose builds may use the image of the tests."""
    folder = tmp_path_factory.mktemp("trial")
    files: dict[str, str | bytes] = {
        "text": "a line\n",
        ".pbft-ci.yml": pipeline(base_image, "cat text"),
    }
    work = GitRepository(folder / "work")
    work.commit(files)
    repositories = folder / "repositories"
    bare = repositories / "project.git"
    subprocess.run(("git", "clone", "-q", "--bare", work.folder, bare), check=True)
    # git takes no repository of another user
    for path in (repositories, *repositories.rglob("*")):
        os.chown(path, USER_ID, USER_ID)
    trial = Trial(docker_engine, image.tags[0], repositories)
    try:
        trial.compose("up", "-d")
        for name in NODES:
            flags = ("--config", f"/etc/pbft-ci/{name}/node.yml")
            command = ("pbft-ci-node", "repository")
            trial.run(name, *command, "remove", *flags, REPOSITORY)
            images = f"local_images=[{base_image!r}]"
            trial.run(name, *command, "add", *flags, REPOSITORY, images)
        yield trial
    finally:
        trial.compose("down", "--volumes", "--timeout", "60")


def test_an_image_is_small_and_its_user_has_no_rights(
    docker_engine: docker.DockerClient, image: docker.models.images.Image
) -> None:
    assert image.attrs["Size"] < SIZE_MAX
    assert image.attrs["Config"]["User"] == "pbft-ci"

    def run(*command: str) -> str:
        said: bytes = docker_engine.containers.run(
            image, list(command), remove=True, read_only=True, network_mode="none"
        )
        return said.decode()

    assert run("id", "-u").strip() == str(USER_ID)
    for program in ("pbft-ci", "pbft-ci-node", "pbft-ci-gateway"):
        assert run(program, "--version").split()[-1] == VERSION
    assert run("git", "--version").startswith("git version")
    assert set(PACKAGES) <= set(run("dpkg-query", "-W", "-f", "${Package}\n").split())
    # nothing of how it was made, and nothing that is compiled at each start
    found = run("sh", "-c", "ls /context /root/.cache /root/.config 2>/dev/null; which pip; true")
    assert found == ""
    script = "import sys, msgspec; print(msgspec.__cached__, sys.prefix)"
    cached, prefix = run("/opt/pbft-ci/bin/python", "-c", script).split()
    assert prefix == "/opt/pbft-ci"
    assert run("ls", cached).strip() == cached


def test_its_files_are_those_of_the_wheels(
    docker_engine: docker.DockerClient, image: docker.models.images.Image
) -> None:
    """All names of the locked requirements for this platform are there, in their versions."""
    script = (
        "from importlib.metadata import distributions;"
        "[print(d.metadata['Name'].lower().replace('_', '-') + '==' + d.version)"
        " for d in distributions()]"
    )
    said = docker_engine.containers.run(
        image, ["/opt/pbft-ci/bin/python", "-c", script], remove=True, network_mode="none"
    )
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    locked = {line.split(" ")[0].lower() for line in lines if "==" in line and "win32" not in line}
    assert set(said.decode().split()) == {*locked, f"pbft-ci=={VERSION}"}


def test_the_trial_cluster_comes_to_a_verdict(trial: Trial) -> None:
    """The containers have no rights and a read-only root; builds run beside them."""
    for name in MEMBERS:
        settings = trial.container(name).attrs["HostConfig"]
        assert settings["ReadonlyRootfs"]
        assert settings["CapDrop"] == ["ALL"]
    flags = ("--config", "/etc/pbft-ci/gateway/client.yml")
    said = trial.run("gateway", "pbft-ci", "submit", *flags, "main", "--wait", "--timeout", "300")
    assert "verdict     passed 0" in said, said
    build = said.split()[0]
    assert "a line\n" in trial.run("gateway", "pbft-ci", "log", *flags, build, "node0")


def test_each_container_becomes_healthy(trial: Trial) -> None:
    """With TLS a node answers members alone, so its healthcheck asks with the node's key."""

    def is_healthy(name: str) -> bool:
        return bool(trial.container(name).attrs["State"]["Health"]["Status"] == "healthy")

    for name in MEMBERS:
        block_until(lambda name=name: is_healthy(name), f"{name} is healthy", HEALTHY_SECONDS)  # type: ignore[misc]


def test_another_start_keeps_the_members(trial: Trial) -> None:
    """Other keys would be another cluster, and the nodes would refuse their data."""
    command = ("sh", "-c", "cat /etc/pbft-ci/*/*.entry.yml")
    before = trial.run("gateway", *command)
    trial.compose("up", "-d", "--force-recreate", "setup")
    assert trial.run("gateway", *command) == before
