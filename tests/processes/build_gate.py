"""Builds that wait until a test lets them go on, and the containers that they wait in."""

import contextlib
from pathlib import Path

import docker
import docker.errors

from node.sandboxes.containers.docker_engine import BUILD_LABEL, CLUSTER_LABEL, REPLICA_LABEL
from tests.processes.network import VERDICT_SECONDS, Network


class Containers:
    """The containers of one network on the engine."""

    def __init__(self, engine: docker.DockerClient, network: Network) -> None:
        self._engine = engine
        self._cluster = network.status("node0")["cluster"]

    def of(self, build: str = "") -> dict[str, list[str]]:
        """Their ids by replica; of one build, or of all."""
        found: dict[str, list[str]] = {}
        filters = {"label": f"{CLUSTER_LABEL}={self._cluster}"}
        for row in self._engine.api.containers(all=True, filters=filters):
            labels = row["Labels"]
            if labels.get(BUILD_LABEL, "").startswith(build):
                found.setdefault(labels[REPLICA_LABEL], []).append(row["Id"])
        return found


class BuildGate:
    """Builds that wait for it go on once it is open: in containers, or on this machine itself."""

    def __init__(self, folder: Path, engine: docker.DockerClient | None) -> None:
        self._engine = engine
        self._file = folder / "go" if engine is None else Path("/tmp/go")
        # for the commands of a pipeline
        self.wait = f"until test -e {self._file}; do sleep 0.05; done"

    def open(self, network: Network, build: str) -> None:
        """Let go on what waits now; in a container that begins later it is still shut."""
        if self._engine is None:
            self._file.touch()
            return
        for ids in Containers(self._engine, network).of(build).values():
            for container in ids:
                # one that has not begun, or has ended
                with contextlib.suppress(docker.errors.APIError):
                    made = self._engine.api.exec_create(container, ["touch", str(self._file)])
                    self._engine.api.exec_start(made["Id"])

    def open_for_all(self, network: Network, build: str) -> None:
        """Let them all go on, until each replica has cast its ballot."""

        def have_all_ended() -> bool:
            self.open(network, build)
            return len(network.build(build)["ballots"]) == len(network.node_names)

        network.wait_until(have_all_ended, "all ballots", VERDICT_SECONDS)
