"""The steps of a pipeline, one hardened container after the other, over one workspace. Blocking."""

import time
from collections.abc import Mapping

import docker
import msgspec

from ci.limits import Limits
from ci.operations import Outcome
from common.pipeline import Pipeline, Step
from node.artifacts import ArtifactsWrong, Collector
from node.container import HOME, TEMPORARY, ContainerOrder, run_container
from node.docker_engine import Image
from node.run_result import (
    NETWORK_WAS_OFF,
    RUN_COMMANDS,
    RunResult,
    Work,
    artifacts_wrong,
    build_environment,
    result_of_exit,
)
from node.threads import Stop
from node.tree import WORKSPACE
from node.trouble import OwnTrouble
from node.workspace import (
    CA_FILE,
    Workspace,
    fill_workspace,
    keeper_end,
    make_workspace,
    take_artifacts,
)

# where the tools that people use look for the authorities that they trust
CA_VARIABLES = (
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CURL_CA_BUNDLE",
)


class Grounds(msgspec.Struct, frozen=True):
    """What a pipeline runs on here. name: the beginning of all names on the engine.

    network_allowed, ca_bundle: the operator's own settings.
    """

    name: str
    labels: Mapping[str, str]
    limits: Limits
    network_allowed: bool
    ca_bundle: bytes | None


def run_pipeline(
    client: docker.APIClient,
    pipeline: Pipeline,
    steps: tuple[Step, ...],
    image: Image,
    work: Work,
    grounds: Grounds,
    stop: Stop,
) -> RunResult:
    """Run the steps until one does not pass; what came of it. The time begins with the first step.

    Raises OwnTrouble, Stopped, OSError and what the library raises.
    """
    workspace = make_workspace(
        client, image, grounds.name, grounds.labels, grounds.limits, grounds.ca_bundle
    )
    fill_workspace(client, workspace, work.tree, stop)
    network: str | None = None
    ends_at = time.monotonic() + pipeline.timeout_seconds
    result = result_of_exit(0, image.digest, image.id)
    for number, step in enumerate(steps, 1):
        work.begin_step(step, number, len(steps))
        is_online = step.network and grounds.network_allowed
        if is_online and network is None:
            network = _make_network(client, grounds)
        code = keeper_end(client, workspace)
        if code is not None:
            work.log.note("the image has no shell (sh) to run commands with")
            return result_of_exit(code, image.digest, image.id)
        order = msgspec.structs.replace(
            _order(pipeline, step, image, work, grounds, workspace),
            name=f"{grounds.name}-{number}-{step.name}",
            seconds=min(step.timeout_seconds, max(0.0, ends_at - time.monotonic())),
            network=network if is_online else None,
        )
        result = _run_step(client, order, work, stop)
        if result.outcome is not Outcome.PASSED:
            return _red(result, step, is_online)
    if pipeline.artifacts:
        keeper_end(client, workspace)
        work.show_state("artifacts")
        collector = Collector(work.artifacts_folder, pipeline.artifacts, grounds.limits)
        try:
            made = take_artifacts(client, workspace, collector, grounds.limits, stop)
        except ArtifactsWrong as wrong:
            return artifacts_wrong(str(wrong), image.digest, image.id)
        result = msgspec.structs.replace(result, artifacts=made)
    return result


def _order(
    pipeline: Pipeline,
    step: Step,
    image: Image,
    work: Work,
    grounds: Grounds,
    workspace: Workspace,
) -> ContainerOrder:
    """The container of a step, but for its name, its time and its network."""
    limits = grounds.limits
    environment = build_environment(HOME, work.origin, step)
    if step.network and grounds.network_allowed and grounds.ca_bundle is not None:
        environment = dict.fromkeys(CA_VARIABLES, CA_FILE) | environment
    return ContainerOrder(
        image=image,
        name=grounds.name,
        labels=grounds.labels,
        environment=environment,
        entrypoint=("sh", "-e", "-c", RUN_COMMANDS, "pbft-ci"),
        command=step.commands,
        seconds=0.0,
        memory_bytes=container_memory_bytes(pipeline.resources.memory_bytes, limits),
        cpus=pipeline.resources.cpus,
        pids=pipeline.resources.pids,
        temporary={TEMPORARY: limits.temporary_bytes},
        volumes=workspace.volumes,
        working_directory=WORKSPACE,
    )


def container_memory_bytes(memory_bytes: int, limits: Limits) -> int:
    """What the kernel may count for a container whose processes may use memory_bytes.

    Files in memory are counted for the container that writes them: with that much more, a build
    that fills them is told "no space left" instead of being killed.
    """
    return memory_bytes + limits.workspace_bytes + limits.home_bytes + limits.temporary_bytes


def _run_step(client: docker.APIClient, order: ContainerOrder, work: Work, stop: Stop) -> RunResult:
    """One container; it is gone afterwards, with whatever it left running."""
    end = run_container(client, order, work.log, stop)
    client.remove_container(order.name, force=True, v=True)
    digest, image_id = order.image.digest, order.image.id
    if end.exit_code is None:
        return RunResult(Outcome.TIMED_OUT, None, digest, image_id)
    if end.is_out_of_memory:
        return RunResult(Outcome.OUT_OF_MEMORY, None, digest, image_id)
    return result_of_exit(end.exit_code, digest, image_id)


def _red(result: RunResult, step: Step, is_online: bool) -> RunResult:
    """A result that is not passed. Raises OwnTrouble where this operator's own setting may be why:

    without the network that it asks for, a step says nothing of what it does elsewhere.
    """
    problem = f"step {step.name} did not pass"
    if is_online or result.outcome is Outcome.OUT_OF_MEMORY:
        return msgspec.structs.replace(result, problem=problem)
    if step.network:
        raise OwnTrouble(
            f"{NETWORK_WAS_OFF} step {step.name} asks for it and did not pass without it, and this"
            " operator allows none (network_allowed)",
            is_lasting=True,
        )
    return msgspec.structs.replace(result, problem=problem, network_was_off=True)


def _make_network(client: docker.APIClient, grounds: Grounds) -> str:
    """A network of this build alone: it reaches out, and no other build is on it."""
    name = f"{grounds.name}-network"
    client.create_network(
        name,
        driver="bridge",
        options={"com.docker.network.bridge.enable_icc": "false"},
        labels=dict(grounds.labels),
    )
    return name
