"""Runs the steps of a pipeline, each in a hardened container of its own. Blocking.

Several steps, artifacts or test reports need a workspace that outlives a container: see
`workspace`. A single step without those gets its tree over its standard input, into file systems
that end with it, and its image's own tar unpacks the tree: that is a third of the work for the
engine. If the image has no tar, or anything else is unusual before the first command runs, the step
runs like the others.
"""

import hashlib
import posixpath
import time
from collections.abc import Mapping, MutableSet

import docker
import msgspec

from ci.limits import Limits
from ci.operations import Outcome
from common.pipeline.pipeline_file import Pipeline, Step
from node.sandboxes.containers.container import HOME, TEMPORARY, ContainerOrder
from node.sandboxes.containers.container_output import UNPACK, TreeNotTaken
from node.sandboxes.containers.container_run import ContainerEnd, can_hand_in, run_container
from node.sandboxes.containers.docker_engine import EngineResources, Image
from node.sandboxes.containers.egress_filter import bridge_name
from node.sandboxes.containers.workspace import (
    CA_FILE,
    fill_workspace,
    keeper_end,
    keeper_order,
    make_workspace,
    take_files,
)
from node.sandboxes.sandbox import (
    NETWORK_WAS_OFF,
    RUN_COMMANDS,
    RunResult,
    Work,
    build_environment,
    result_of_exit,
    with_files,
)
from node.sources.tree import WORKSPACE
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

# where the tools that people use look for the authorities that they trust
CA_VARIABLES = (
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CURL_CA_BUNDLE",
)


class RunContext(msgspec.Struct, frozen=True):
    """All that one run of a pipeline needs beside the engine."""

    pipeline: Pipeline
    image: Image
    work: Work
    # The beginning of all names on the engine.
    name: str
    # Of all that the run makes on the engine.
    labels: Mapping[str, str]
    limits: Limits
    # The operator's own settings.
    network_allowed: bool
    ca_bundle: bytes | None
    # The surroundings (_surroundings) in which an image did not take a tree. All builds share and
    # extend the set.
    without_tar: MutableSet[str]
    # What this build has on the engine; the run extends it.
    resources: EngineResources


def run_pipeline(
    client: docker.APIClient, context: RunContext, steps: tuple[Step, ...], *, stop: Stop
) -> RunResult:
    """Run the steps until one does not pass; what came of it. The time begins with the first step.

    Raises InfrastructureError, Stopped, OSError and what the library raises.
    """
    if _is_short(client, context, steps):
        try:
            return _run_alone(client, context, steps[0], stop=stop)
        except TreeNotTaken as problem:
            client.remove_container(context.resources.containers.pop(), force=True, v=True)
            context.work.log.note(
                f"the image's tar does not unpack the tree ({problem}): the engine does"
            )
        result = _run_steps(client, context, steps, stop=stop)
        # Only now: a tree that the engine does not unpack either says nothing about the image, and
        # must not send the builds of others the long way.
        context.without_tar.add(_surroundings(context, steps[0]))
        return result
    return _run_steps(client, context, steps, stop=stop)


def _is_short(client: docker.APIClient, context: RunContext, steps: tuple[Step, ...]) -> bool:
    """Whether nothing has to be there before the container is, or after it."""
    needs_trust = _is_online(steps[0], context) and context.ca_bundle is not None
    # What the image declares below the workspace lies over that part of the tree, and would be
    # unpacked into here.
    is_covered = any(
        posixpath.normpath(path).startswith(f"{WORKSPACE}/") for path in context.image.volumes
    )
    return (
        len(steps) == 1
        and not context.pipeline.artifacts
        and context.pipeline.tests is None
        and not needs_trust
        and not is_covered
        and _surroundings(context, steps[0]) not in context.without_tar
        and can_hand_in(client)
    )


def _surroundings(context: RunContext, step: Step) -> str:
    """All that decides whether the image's tar unpacks a tree: what a pipeline sets may be why it
    does not, and must not count against the builds of others."""
    own = msgspec.json.encode((step.environment, context.pipeline.resources))
    return f"{context.image.id} {hashlib.sha256(own).hexdigest()}"


def _run_alone(
    client: docker.APIClient, context: RunContext, step: Step, *, stop: Stop
) -> RunResult:
    """The only step, in a container that takes its tree itself. Raises TreeNotTaken too."""
    context.work.begin_step(step, 1, 1)
    limits = context.limits
    order = msgspec.structs.replace(
        _order(context, step),
        name=f"{context.name}-1-{step.name}",
        entrypoint=("sh", "-c", UNPACK, RUN_COMMANDS, "pbft-ci"),
        seconds=min(step.timeout_seconds, context.pipeline.timeout_seconds),
        temporary={
            WORKSPACE: limits.workspace_bytes,
            HOME: limits.home_bytes,
            TEMPORARY: limits.temporary_bytes,
        },
        network=_network(client, context) if _is_online(step, context) else None,
        has_input=True,
    )
    end = run_container(
        client,
        order,
        context.work.log,
        stop=stop,
        resources=context.resources,
        tree=context.work.tree,
    )
    return _judged(_result(end, context.image), step, _is_online(step, context))


def _run_steps(
    client: docker.APIClient, context: RunContext, steps: tuple[Step, ...], *, stop: Stop
) -> RunResult:
    """All steps, over a workspace that they share."""
    limits = context.limits
    keeper = keeper_order(context.image, context.name, context.labels, limits=limits)
    workspace = make_workspace(
        client, keeper, limits, ca_bundle=context.ca_bundle, resources=context.resources
    )
    fill_workspace(client, workspace, context.work.tree, stop=stop)
    ends_at = time.monotonic() + context.pipeline.timeout_seconds
    result = result_of_exit(0, context.image.digest, context.image.id)
    for number, step in enumerate(steps, 1):
        context.work.begin_step(step, number, len(steps))
        is_online = _is_online(step, context)
        code = keeper_end(client, workspace)
        if code is not None:
            context.work.log.note("the image has no shell (sh) to run commands with")
            return result_of_exit(code, context.image.digest, context.image.id)
        order = msgspec.structs.replace(
            _order(context, step),
            name=f"{context.name}-{number}-{step.name}",
            seconds=min(step.timeout_seconds, max(0.0, ends_at - time.monotonic())),
            volumes=workspace.volumes,
            network=_network(client, context) if is_online else None,
        )
        result = _run_step(client, order, context.work, resources=context.resources, stop=stop)
        if result.outcome is not Outcome.PASSED:
            result = _judged(result, step, is_online)
            break
    return with_files(
        result,
        context.work,
        context.pipeline,
        workspace=WORKSPACE,
        take=lambda collector: take_files(client, workspace, collector, limits=limits, stop=stop),
    )


def _is_online(step: Step, context: RunContext) -> bool:
    return step.network and context.network_allowed


def _order(context: RunContext, step: Step) -> ContainerOrder:
    """The container of a step, but for its name, its time, its workspace and its network."""
    limits = context.limits
    environment = build_environment(HOME, context.work.origin, step)
    if _is_online(step, context) and context.ca_bundle is not None:
        environment = dict.fromkeys(CA_VARIABLES, CA_FILE) | environment
    return ContainerOrder(
        image=context.image,
        name=context.name,
        labels=context.labels,
        environment=environment,
        entrypoint=("sh", "-e", "-c", RUN_COMMANDS, "pbft-ci"),
        command=step.commands,
        seconds=0.0,
        memory_bytes=container_memory_bytes(context.pipeline.resources.memory_bytes, limits),
        cpus=context.pipeline.resources.cpus,
        pids=context.pipeline.resources.pids,
        temporary={TEMPORARY: limits.temporary_bytes},
        working_directory=WORKSPACE,
    )


def container_memory_bytes(memory_bytes: int, limits: Limits) -> int:
    """What the kernel may count for a container whose processes may use memory_bytes.

    Files in memory are counted for the container that writes them: with that much more, a build
    that fills them is told "no space left" instead of being killed.
    """
    return memory_bytes + limits.workspace_bytes + limits.home_bytes + limits.temporary_bytes


def _run_step(
    client: docker.APIClient,
    order: ContainerOrder,
    work: Work,
    *,
    resources: EngineResources,
    stop: Stop,
) -> RunResult:
    """One container; it is gone afterwards, with whatever it left running."""
    end = run_container(client, order, work.log, stop=stop, resources=resources)
    client.remove_container(resources.containers.pop(), force=True, v=True)
    return _result(end, order.image)


def _result(end: ContainerEnd, image: Image) -> RunResult:
    digest, image_id = image.digest, image.id
    if end.exit_code is None:
        return RunResult(Outcome.TIMED_OUT, None, digest, image_id)
    if end.is_out_of_memory:
        return RunResult(Outcome.OUT_OF_MEMORY, None, digest, image_id)
    return result_of_exit(end.exit_code, digest, image_id)


def _judged(result: RunResult, step: Step, is_online: bool) -> RunResult:
    """The result of a step.

    Raises InfrastructureError if this operator's own setting may be why the step failed. A step
    without the network that it asks for says nothing of what it does on other replicas.
    """
    if result.outcome is Outcome.PASSED:
        return result
    problem = f"step {step.name} did not pass"
    if is_online or result.outcome is Outcome.OUT_OF_MEMORY:
        return msgspec.structs.replace(result, problem=problem)
    if step.network:
        raise InfrastructureError(
            f"{NETWORK_WAS_OFF} step {step.name} asks for it and did not pass without it, and this"
            " operator allows none (network_allowed)",
            is_permanent=True,
        )
    return msgspec.structs.replace(result, problem=problem, network_was_off=True)


def _network(client: docker.APIClient, context: RunContext) -> str:
    """The network of this build alone, made once: it reaches out, and no other build is on it.

    Its bridge has a name by which an operator's egress filter knows it.
    """
    name = f"{context.name}-network"
    if context.resources.networks:
        return name
    made = client.create_network(
        name,
        driver="bridge",
        options={
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.name": bridge_name(),
        },
        labels=dict(context.labels),
    )
    context.resources.networks.append(made["Id"])
    return name
