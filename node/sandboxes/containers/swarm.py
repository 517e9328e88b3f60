"""Which worker of an operator's Docker Swarm a build gets, asked of a manager. Blocking.

A build reserves its worker with a service of one task, which sleeps. The swarm places the task
where its memory and CPUs are free, beside all else that the operator runs there. Nothing of a
repository runs in the task.
"""

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import docker
import docker.errors
import docker.types
import msgspec

from ci.limits import Limits
from node.sandboxes.containers.docker_engine import (
    BUILD_LABEL,
    CLUSTER_LABEL,
    REPLICA_LABEL,
)
from node.sandboxes.containers.pipeline_run import container_memory_bytes
from node.sandboxes.sandbox import Work
from node.sources.tree import BUILD_USER_ID
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

# A worker may be pulling the task's image. A build whose time here is over tries again.
PENDING_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05
# a task that only sleeps
TASK_MEMORY_BYTES = 32 * 2**20
# States from which a task does not come back.
_ENDED = ("complete", "failed", "shutdown", "rejected", "orphaned", "remove")


class Reservation(msgspec.Struct, frozen=True):
    """A worker that a build has. worker: its name in the configuration; the others are ids.

    container: of the task, on the worker's engine.
    """

    service: str
    node: str
    container: str
    worker: str


class Reserver(msgspec.Struct, frozen=True):
    """Reserves workers for one replica.

    workers: the hostnames or ids of those that it may use. image: the task's.
    """

    cluster: str
    replica: str
    workers: Collection[str]
    image: str

    def claim(self, client: docker.APIClient) -> None:
        """Refuse a swarm that another replica of this cluster uses; else note that this one does.

        Raises InfrastructureError and what the library raises.
        """
        name = f"pbft-ci-{self.cluster[:16]}"
        labels = {CLUSTER_LABEL: self.cluster, REPLICA_LABEL: self.replica}
        try:
            # the manager takes each name once
            client.create_config(name, b"-", labels)
        except docker.errors.APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:
                raise
        owner = client.inspect_config(name)["Spec"]["Labels"].get(REPLICA_LABEL)  # type: ignore[no-untyped-call]
        if owner != self.replica:
            raise InfrastructureError(
                f"replica {owner} of this cluster uses this swarm, so whoever controls it would"
                " control both; give each replica a swarm of its own, or, if that replica has left,"
                f" run `docker config rm {name}`",
                is_permanent=True,
            )

    def reserve(
        self, client: docker.APIClient, work: Work, avoided: Collection[str], *, stop: Stop
    ) -> Reservation:
        """The worker of a build, once its task runs there; `release` is to follow.

        avoided: workers that it gets only if there is no other.
        What was begun is removed again on an error. Raises InfrastructureError, Stopped and what
        the library raises.
        """
        nodes = client.nodes()
        wanted = preferred(nodes, self.workers, avoided)
        order = {
            "task_template": self._task(work.limits, excluded(nodes, wanted)),
            # for people; a service's name has at most 63 characters, and each is taken once
            "name": f"pbft-ci-{work.label[:16]}-{secrets.token_hex(8)}",
            "labels": {
                CLUSTER_LABEL: self.cluster,
                REPLICA_LABEL: self.replica,
                BUILD_LABEL: work.label,
            },
            # A replicated job's container stays when the service is removed (moby#42789).
            "mode": docker.types.ServiceMode("replicated", replicas=1),
        }
        service: str = client.create_service(**order)["ID"]  # type: ignore[no-untyped-call]
        try:
            task = _wait_for_task(client, service, stop)
            node, container = task["NodeID"], task["Status"]["ContainerStatus"]["ContainerID"]
            return Reservation(service, node, container, worker_of(nodes, node, self.workers))
        except BaseException:
            release(client, service)
            raise

    def release_leftovers(self, client: docker.APIClient, is_over: Callable[[str], bool]) -> None:
        """Give back what this replica has reserved for builds that are over.

        is_over: takes a build's label. Raises what the library raises.
        """
        wanted = {"label": [f"{CLUSTER_LABEL}={self.cluster}", f"{REPLICA_LABEL}={self.replica}"]}
        for service in client.services(filters=wanted):  # type: ignore[no-untyped-call]
            if is_over(service["Spec"]["Labels"].get(BUILD_LABEL, "")):
                release(client, service["ID"])

    def _task(self, limits: Limits, constraints: list[str]) -> docker.types.TaskTemplate:
        needed = docker.types.Resources(
            mem_limit=TASK_MEMORY_BYTES,
            mem_reservation=container_memory_bytes(limits.memory_bytes, limits),
            cpu_reservation=round(limits.cpus * 10**9),
        )
        container = docker.types.ContainerSpec(
            self.image,
            command=["sleep", "2147483647"],
            user=f"{BUILD_USER_ID}:{BUILD_USER_ID}",
            read_only=True,
            cap_drop=["ALL"],
            init=True,
        )
        return docker.types.TaskTemplate(
            container,
            resources=needed,
            # what is lost is reserved anew, by a build that begins anew
            restart_policy=docker.types.RestartPolicy(condition="none"),
            placement=docker.types.Placement(constraints=constraints),
            log_driver=docker.types.DriverConfig("none"),
        )


def release(client: docker.APIClient, service: str) -> None:
    """Give back what a service reserves, if it is still there. Raises what the library raises."""
    try:
        client.remove_service(service)  # type: ignore[no-untyped-call]
    except docker.errors.NotFound:
        return


def find_loss(client: docker.APIClient, reservation: Reservation) -> str | None:
    """Why a build no longer has its worker; None if it still has it. Raises as the library."""
    node = client.inspect_node(reservation.node)
    tasks = client.tasks(filters={"service": reservation.service})  # type: ignore[no-untyped-call]
    return loss(node, tasks, reservation.worker)


def loss(node: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], worker: str) -> str | None:
    """As `find_loss`, from what a manager says of the node and of the service's tasks."""
    state = node["Status"]["State"]
    if state != "ready":
        return f"worker {worker} is {state}"
    if node["Spec"]["Availability"] == "drain":
        return f"worker {worker} is being drained"
    for task in tasks:
        if task["Status"]["State"] == "running" and task["DesiredState"] == "running":
            return None
    return f"worker {worker} no longer runs the task that reserves it"


def is_named(node: Mapping[str, Any], worker: str) -> bool:
    """Whether a worker of the configuration is this node: by its id, else by its hostname."""
    return worker in (node["ID"], node["Description"]["Hostname"])


def excluded(nodes: Sequence[Mapping[str, Any]], workers: Collection[str]) -> list[str]:
    """Constraints that keep a task from all nodes that the configuration does not name."""
    return [
        f"node.id!={node['ID']}"
        for node in nodes
        if not any(is_named(node, worker) for worker in workers)
    ]


def preferred(
    nodes: Sequence[Mapping[str, Any]], workers: Collection[str], avoided: Collection[str]
) -> Collection[str]:
    """The workers that are not avoided, if one of them takes builds now; else all."""
    others = [name for name in workers if name not in avoided]
    takes_builds = any(
        node["Status"]["State"] == "ready" and node["Spec"]["Availability"] == "active"
        for node in nodes
        if any(is_named(node, name) for name in others)
    )
    return others if takes_builds else workers


def worker_of(nodes: Sequence[Mapping[str, Any]], node_id: str, workers: Collection[str]) -> str:
    """The configuration's name of a node. Raises InfrastructureError if it is not one node's."""
    node = next((node for node in nodes if node["ID"] == node_id), None)
    named = [] if node is None else [worker for worker in workers if is_named(node, worker)]
    if not named:
        raise InfrastructureError(
            f"the swarm chose node {node_id}, which just joined and is not in swarm_workers"
        )
    if sum(is_named(other, named[0]) for other in nodes if not _is_down(other)) > 1:
        raise InfrastructureError(
            f"swarm_workers: {named[0]} is the hostname of several nodes; write their ids instead",
            is_permanent=True,
        )
    return named[0]


def _is_down(node: Mapping[str, Any]) -> bool:
    # a machine that left and joined again is in the list twice
    return bool(node["Status"]["State"] == "down")


def _wait_for_task(client: docker.APIClient, service: str, stop: Stop) -> dict[str, Any]:
    """The service's task, once it runs. Raises InfrastructureError, Stopped."""
    ends_at = time.monotonic() + PENDING_SECONDS_MAX
    while True:
        tasks = client.tasks(filters={"service": service})  # type: ignore[no-untyped-call]
        state, reason, wanted = "new", "", "running"
        if tasks:
            status, wanted = tasks[0]["Status"], tasks[0]["DesiredState"]
            state, reason = status["State"], status.get("Err") or status.get("Message", "")
        if state == wanted == "running":
            found: dict[str, Any] = tasks[0]
            return found
        # a task whose node is gone stays in its state, and is wanted no more
        if state in _ENDED or wanted in _ENDED:
            raise InfrastructureError(
                f"the task that reserves a worker is {state}: {reason} (swarm_image must be on each"
                " worker, or in a registry that it reaches)"
            )
        if time.monotonic() >= ends_at:
            raise InfrastructureError(
                f"no worker of the swarm took the build within {PENDING_SECONDS_MAX:g} s; its task"
                f" is {state}: {reason}"
            )
        stop.wait(POLL_SECONDS)
        stop.check()
