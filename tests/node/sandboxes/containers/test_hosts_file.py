"""The file with `localhost` on a real engine; what a build sees of it is in test_sandbox."""

import secrets

import docker
import pytest

from node.sandboxes.containers.container import ContainerOrder, create_container
from node.sandboxes.containers.docker_engine import DockerEngine
from node.sandboxes.containers.hosts_file import hosts_mount

pytestmark = pytest.mark.docker


def test_a_volume_that_is_empty_or_was_removed_is_filled(
    docker_engine: docker.DockerClient, base_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash left it empty, or an operator removed what no container uses."""
    # with a name of its own, for the builds of other tests use the other one
    name = f"pbft-ci-test-{secrets.token_hex(8)}"
    monkeypatch.setattr("node.sandboxes.containers.hosts_file.VOLUME", name)
    image = DockerEngine(None, 1).find_image(base_image)
    assert image is not None
    order = ContainerOrder(
        image=image,
        name=name,
        labels={},
        environment={},
        entrypoint=None,
        command=("true",),
        seconds=None,
        memory_bytes=2**25,
        cpus=1,
        pids=8,
        temporary={},
    )
    api = docker_engine.api
    hosts_mount(api)
    try:
        for state in ("empty", "removed"):
            if state == "removed":
                api.remove_volume(name)
            api.remove_container(create_container(api, order), force=True, v=True)
            assert b"127.0.0.1\tlocalhost\n::1\tlocalhost" in _file(api, image.id, name)
    finally:
        api.remove_volume(name)


def _file(api: docker.APIClient, image_id: str, volume: str) -> bytes:
    """The archive of the file in the volume, by way of a container that is never started."""
    mount = docker.types.Mount("/hosts", volume, type="volume")
    config = api.create_host_config(mounts=[mount])
    made: dict[str, str] = api.create_container(image_id, ["true"], host_config=config)
    try:
        return b"".join(api.get_archive(made["Id"], "/hosts/hosts")[0])
    finally:
        api.remove_container(made["Id"], force=True)
