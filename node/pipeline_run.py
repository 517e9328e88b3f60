"""The steps of a pipeline, each in a hardened container of its own. Blocking.

Several steps, and artifacts, need a workspace that outlives a container: see node.workspace. What
is run in one step alone gets its tree over its standard input into file systems that end with it,
and its image's own tar unpacks it: that is a third of the work for the engine. Where the image has
none, or anything else is strange before the first command runs, the step is run like the others.
"""

import hashlib
import posixpath
import time
from collections.abc import Mapping, MutableSet

import docker
import msgspec

from ci.limits import Limits
from ci.operations import Outcome
from common.pipeline import Pipeline, Step
from node.artifacts import ArtifactsWrong, Collector
from node.container import HOME, TEMPORARY, ContainerOrder
from node.container_output import UNPACK, TreeNotTaken
from node.container_run import ContainerEnd, can_hand_in, run_container
from node.docker_engine import Image, Remains
from node.egress_filter import bridge_name
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

    network_allowed, ca_bundle: the operator's own settings. without_tar: where an image did not
    take a tree (_surroundings); shared by all builds, and added to. remains: of this build; added
    to.
    """

    name: str
    labels: Mapping[str, str]
    limits: Limits
    network_allowed: bool
    ca_bundle: bytes | None
    without_tar: MutableSet[str]
    remains: Remains


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
    if _is_short(client, pipeline, steps, image, grounds):
        try:
            return _run_alone(client, pipeline, steps[0], image, work, grounds, stop)
        except TreeNotTaken as problem:
            client.remove_container(grounds.remains.containers.pop(), force=True, v=True)
            work.log.note(f"the image's tar does not unpack the tree ({problem}): the engine does")
        result = _run_steps(client, pipeline, steps, image, work, grounds, stop)
        # Only now: a tree that the engine does not unpack either says nothing about the image, and
        # must not send the builds of others the long way.
        grounds.without_tar.add(_surroundings(pipeline, steps[0], image))
        return result
    return _run_steps(client, pipeline, steps, image, work, grounds, stop)


def _is_short(
    client: docker.APIClient,
    pipeline: Pipeline,
    steps: tuple[Step, ...],
    image: Image,
    grounds: Grounds,
) -> bool:
    """Whether nothing has to be there before the container is, or after it."""
    needs_trust = _is_online(steps[0], grounds) and grounds.ca_bundle is not None
    # What the image declares below the workspace lies over that part of the tree, and would be
    # unpacked into here.
    is_covered = any(posixpath.normpath(path).startswith(f"{WORKSPACE}/") for path in image.volumes)
    return (
        len(steps) == 1
        and not pipeline.artifacts
        and not needs_trust
        and not is_covered
        and _surroundings(pipeline, steps[0], image) not in grounds.without_tar
        and can_hand_in(client)
    )


def _surroundings(pipeline: Pipeline, step: Step, image: Image) -> str:
    """All that decides whether the image's tar unpacks a tree: what a pipeline sets may be why it
    does not, and must not count against the builds of others."""
    own = msgspec.json.encode((step.environment, pipeline.resources))
    return f"{image.id} {hashlib.sha256(own).hexdigest()}"


def _run_alone(
    client: docker.APIClient,
    pipeline: Pipeline,
    step: Step,
    image: Image,
    work: Work,
    grounds: Grounds,
    stop: Stop,
) -> RunResult:
    """The only step, in a container that takes its tree itself. Raises TreeNotTaken too."""
    work.begin_step(step, 1, 1)
    limits = grounds.limits
    order = msgspec.structs.replace(
        _order(pipeline, step, image, work, grounds),
        name=f"{grounds.name}-1-{step.name}",
        entrypoint=("sh", "-c", UNPACK, RUN_COMMANDS, "pbft-ci"),
        seconds=min(step.timeout_seconds, pipeline.timeout_seconds),
        temporary={
            WORKSPACE: limits.workspace_bytes,
            HOME: limits.home_bytes,
            TEMPORARY: limits.temporary_bytes,
        },
        network=_network(client, grounds) if _is_online(step, grounds) else None,
        has_input=True,
    )
    end = run_container(client, order, work.log, stop, grounds.remains, work.tree)
    return _judged(_result(end, image), step, _is_online(step, grounds))


def _run_steps(
    client: docker.APIClient,
    pipeline: Pipeline,
    steps: tuple[Step, ...],
    image: Image,
    work: Work,
    grounds: Grounds,
    stop: Stop,
) -> RunResult:
    """All steps, over a workspace that they share."""
    workspace = make_workspace(
        client,
        image,
        grounds.name,
        grounds.labels,
        grounds.limits,
        grounds.ca_bundle,
        grounds.remains,
    )
    fill_workspace(client, workspace, work.tree, stop)
    ends_at = time.monotonic() + pipeline.timeout_seconds
    result = result_of_exit(0, image.digest, image.id)
    for number, step in enumerate(steps, 1):
        work.begin_step(step, number, len(steps))
        is_online = _is_online(step, grounds)
        code = keeper_end(client, workspace)
        if code is not None:
            work.log.note("the image has no shell (sh) to run commands with")
            return result_of_exit(code, image.digest, image.id)
        order = msgspec.structs.replace(
            _order(pipeline, step, image, work, grounds),
            name=f"{grounds.name}-{number}-{step.name}",
            seconds=min(step.timeout_seconds, max(0.0, ends_at - time.monotonic())),
            volumes=workspace.volumes,
            network=_network(client, grounds) if is_online else None,
        )
        result = _run_step(client, order, work, grounds.remains, stop)
        if result.outcome is not Outcome.PASSED:
            return _judged(result, step, is_online)
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


def _is_online(step: Step, grounds: Grounds) -> bool:
    return step.network and grounds.network_allowed


def _order(
    pipeline: Pipeline, step: Step, image: Image, work: Work, grounds: Grounds
) -> ContainerOrder:
    """The container of a step, but for its name, its time, its workspace and its network."""
    limits = grounds.limits
    environment = build_environment(HOME, work.origin, step)
    if _is_online(step, grounds) and grounds.ca_bundle is not None:
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
        working_directory=WORKSPACE,
    )


def container_memory_bytes(memory_bytes: int, limits: Limits) -> int:
    """What the kernel may count for a container whose processes may use memory_bytes.

    Files in memory are counted for the container that writes them: with that much more, a build
    that fills them is told "no space left" instead of being killed.
    """
    return memory_bytes + limits.workspace_bytes + limits.home_bytes + limits.temporary_bytes


def _run_step(
    client: docker.APIClient, order: ContainerOrder, work: Work, remains: Remains, stop: Stop
) -> RunResult:
    """One container; it is gone afterwards, with whatever it left running."""
    end = run_container(client, order, work.log, stop, remains)
    client.remove_container(remains.containers.pop(), force=True, v=True)
    return _result(end, order.image)


def _result(end: ContainerEnd, image: Image) -> RunResult:
    digest, image_id = image.digest, image.id
    if end.exit_code is None:
        return RunResult(Outcome.TIMED_OUT, None, digest, image_id)
    if end.is_out_of_memory:
        return RunResult(Outcome.OUT_OF_MEMORY, None, digest, image_id)
    return result_of_exit(end.exit_code, digest, image_id)


def _judged(result: RunResult, step: Step, is_online: bool) -> RunResult:
    """The result of a step. Raises OwnTrouble where this operator's own setting may be why it is
    red: without the network that it asks for, a step says nothing of what it does elsewhere.
    """
    if result.outcome is Outcome.PASSED:
        return result
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


def _network(client: docker.APIClient, grounds: Grounds) -> str:
    """The network of this build alone, made once: it reaches out, and no other build is on it.

    Its bridge has a name by which an operator's egress filter knows it.
    """
    name = f"{grounds.name}-network"
    if grounds.remains.networks:
        return name
    made = client.create_network(
        name,
        driver="bridge",
        options={
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.bridge.name": bridge_name(),
        },
        labels=dict(grounds.labels),
    )
    grounds.remains.networks.append(made["Id"])
    return name
