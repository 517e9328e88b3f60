"""Measures what the build of an image uses, and ends the build if that is too much. Blocking.

The classic builder limits memory and processors. It limits neither what an instruction writes,
which is in a layer on the engine's disk, nor the number of processes. So the node measures both
while they grow: of what carries the build's labels and of what was built upon that, since a
Dockerfile can change its labels.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests

from node.sandboxes.containers.docker_engine import images_of
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

POLL_SECONDS = 0.5
# what must stay free on the engine's disk, for whatever else is on it
FREE_BYTES_MIN = 2**30


class BuilderWatch:
    """Measures one build. labels: of its first layers."""

    def __init__(self, client: docker.APIClient, labels: Mapping[str, str]) -> None:
        """Asks the engine where its disk is. Raises what the library raises."""
        self._client = client
        self._labels = dict(labels)
        root = Path(client.info().get("DockerRootDir") or "/nowhere")
        # an engine on another machine has its disk there
        self._root = root if root.is_dir() else None
        self._running: list[str] = []

    def written_bytes(self) -> int:
        """What all instructions so far have written: the finished ones, and the one that runs."""
        images: list[dict[str, Any]] = self._client.images(all=True)
        ours = images_of(images, self._is_ours)
        # After the images, and only those that run: what has ended may be an image meanwhile, and
        # must not count twice.
        self._running = [
            container["Id"]
            for container in self._client.containers()
            if container["ImageID"] in ours or self._is_ours(container["Labels"] or {})
        ]
        size_of = {image["Id"]: int(image["Size"]) for image in images if image["Id"] in ours}
        # the first one of a stage only adds the labels to an image that others have made
        finished = sum(
            max(0, size_of[image["Id"]] - size_of[image["ParentId"]])
            for image in images
            if image["Id"] in ours and image["ParentId"] in ours
        )
        return finished + self._written_in(self._running)

    def _written_in(self, containers: list[str]) -> int:
        """What those of these that still run have written; the engine reads their files for it."""
        if not containers:
            return 0
        running = self._client.containers(size=True, filters={"id": containers})
        return sum(int(container.get("SizeRw") or 0) for container in running)

    def _is_ours(self, labels: Mapping[str, str]) -> bool:
        return self._labels.items() <= labels.items()

    def _has_more_processes(self, most: int) -> bool:
        """Whether one of the containers that ran a moment ago has more processes and threads."""
        for container in self._running:
            # It may have ended meanwhile. If it does while the engine looks, the answer is empty.
            with suppress(docker.errors.APIError, requests.exceptions.JSONDecodeError):
                stats = self._client.stats(container, stream=False, one_shot=True)
                if int(stats.get("pids_stats", {}).get("current") or 0) > most:
                    return True
        return False

    def wait_for_excess(self, bytes_max: int, processes_max: int, stop: Stop) -> str:
        """Return once there is more than one of these, with what is too much.

        Raises Stopped, InfrastructureError where the engine's disk is nearly full (which says
        nothing of the build), and what the library raises.
        """
        while True:
            if self.written_bytes() > bytes_max:
                return too_many_bytes(bytes_max)
            if self._has_more_processes(processes_max):
                return f"Dockerfile: an instruction has more than {processes_max} processes"
            if self._root is not None and shutil.disk_usage(self._root).free < FREE_BYTES_MIN:
                raise InfrastructureError(
                    f"less than {FREE_BYTES_MIN // 2**20} MiB are free on the disk of the Docker"
                    f" engine ({self._root})"
                )
            stop.wait(POLL_SECONDS)
            stop.check()


def too_many_bytes(bytes_max: int) -> str:
    """What is said of a build that wrote more than that."""
    return f"Dockerfile: the build wrote more than {bytes_max} bytes into its image"
