"""What an operator should know of the swarm before the node's first build. Blocking."""

from collections.abc import Iterator

import docker
import msgspec

from ci.limits import Limits
from common.configuration.config import NodeConfig
from common.finding import Finding, State
from node.sandboxes.containers.docker_engine import DockerEngine, engine_errors
from node.sandboxes.containers.engine_check import check_engine
from node.sandboxes.containers.swarm import is_named
from node.sandboxes.containers.swarm_sandbox import worker_config
from node.work.infrastructure_error import InfrastructureError


def check_swarm(config: NodeConfig, limits: Limits, cluster_id: bytes) -> list[Finding]:
    """The manager, and each worker: whether the swarm knows it, and whether builds fit it.

    cluster_id: as `check_engine` takes it.
    """
    engine = DockerEngine(config.docker_host, 1, config.docker_tls_folder)
    try:
        with engine_errors():
            found = list(_nodes(engine.client(), config))
    except InfrastructureError as error:
        text = f"{error.reason}: docker_host must be a manager of this operator's own swarm"
        found = [Finding("swarm", State.WRONG, text)]
    finally:
        engine.close()
    for name in config.swarm_workers:
        found += [
            msgspec.structs.replace(finding, subject=f"{name}: {finding.subject}")
            for finding in check_engine(worker_config(config, name), limits, cluster_id)
        ]
    return found


def _nodes(manager: docker.APIClient, config: NodeConfig) -> Iterator[Finding]:
    nodes = manager.nodes()
    count = len(config.swarm_workers)
    yield Finding("swarm", State.OK, f"{len(nodes)} nodes, {count} of them for builds")
    for name, host in config.swarm_workers.items():
        subject = f"{name}: worker"
        named = [node for node in nodes if is_named(node, name)]
        if len(named) != 1:
            text = f"{len(named)} nodes have this hostname or id: see `docker node ls`"
            yield Finding(subject, State.WRONG, text)
        elif (node_id := _node_id(config, name)) not in (None, named[0]["ID"]):
            text = f"{host} is the engine of another node, {node_id or 'none of a swarm'}"
            yield Finding(subject, State.WRONG, text)
        else:
            state = named[0]["Status"]["State"], named[0]["Spec"]["Availability"]
            is_usable = state == ("ready", "active")
            text = f"{state[0]}, {state[1]}"
            yield Finding(subject, State.OK if is_usable else State.WARNING, text)


def _node_id(config: NodeConfig, name: str) -> str | None:
    """Which node an engine takes itself for; None if it does not answer, which is told apart."""
    worker = worker_config(config, name)
    engine = DockerEngine(worker.docker_host, 1, worker.docker_tls_folder)
    try:
        with engine_errors():
            return str(engine.client().info()["Swarm"]["NodeID"])
    except InfrastructureError:
        return None
    finally:
        engine.close()
