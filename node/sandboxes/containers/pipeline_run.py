"""Runs the steps of a pipeline, each in a hardened container of its own. Blocking.

Several steps, artifacts, test reports, services or caches need a workspace that outlives a
container: see `workspace`. A single step without those gets its tree over its standard input, into
file systems that end with it, and its image's own tar unpacks the tree: that is a third of the work
for the engine. So does a single step whose caches are only read: their entries come before the
tree. If it has inputs by lock file, the engine unpacks them into it while it waits for its tree.
If the image has no tar, or anything else is unusual before the first command runs, the step runs
like the others.
"""

import hashlib
import posixpath
import time
from collections.abc import Iterable, Iterator, Mapping, MutableSet
from contextlib import contextmanager

import docker
import msgspec

from ci.limits import Limits
from ci.operations import ImageDigest, Outcome
from common.pipeline.pipeline_file import Pipeline, Step
from node.dependencies.hand_in import INPUTS
from node.egress.egress_proxy import EgressRules
from node.egress.operator_rules import OperatorRules, not_allowed
from node.sandboxes.containers.build_cache import (
    CacheNotWhole,
    FoundEntries,
    OpeningEntry,
    count_restored,
    early_archives,
    find_caches,
    note_restored,
    opening_caches,
    restore_caches,
)
from node.sandboxes.containers.container import (
    HOME,
    JOINABLE,
    JOINING,
    TEMPORARY,
    ContainerOrder,
)
from node.sandboxes.containers.container_output import TreeNotTaken, unpack_script
from node.sandboxes.containers.container_run import (
    ContainerEnd,
    EarlyArchive,
    HandedTree,
    can_hand_in,
    run_container,
)
from node.sandboxes.containers.docker_engine import EngineResources, Image, engine_errors
from node.sandboxes.containers.egress_filter import bridge_name
from node.sandboxes.containers.egress_relay import (
    Egress,
    RelayOrder,
    proxy_variables,
    running_egress,
)
from node.sandboxes.containers.services import (
    RunningServices,
    ServiceEnded,
    ServicesOrder,
    running_services,
)
from node.sandboxes.containers.workspace import (
    CA_FILE,
    Workspace,
    fill_home,
    fill_inputs,
    fill_workspace,
    inputs_volume_bytes,
    keeper_end,
    keeper_order,
    make_workspace,
    take_files,
    volume_options,
)
from node.sandboxes.sandbox import (
    NETWORK_WAS_OFF,
    RUN_COMMANDS,
    ImageDigests,
    RunResult,
    Work,
    build_environment,
    result_of_exit,
)
from node.sandboxes.step_sequence import StepSequence
from node.sandboxes.workspace_files import WorkspaceFiles
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
    # Of its steps and services, by name.
    images: Mapping[str, Image]
    work: Work
    # The beginning of all names on the engine.
    name: str
    # Of all that the run makes on the engine.
    labels: Mapping[str, str]
    limits: Limits
    # The operator's own settings.
    network: OperatorRules
    ca_bundle: bytes | None
    # Variables of steps with `network: true`.
    package_proxies: Mapping[str, str]
    # The surroundings (_surroundings) in which an image did not take a tree. All builds share and
    # extend the set.
    without_tar: MutableSet[str]
    # What this build has on the engine; the run extends it.
    resources: EngineResources
    # For steps that get the hosts that they name; None: there is none.
    relay_image: Image | None = None

    @property
    def image_digest(self) -> ImageDigests:
        """What a finding says of the images, as `ci.operations.ResultKey` explains."""
        if len(self.images) == 1:
            (image,) = self.images.values()
            return image.digest
        return tuple(ImageDigest(name, self.images[name].digest) for name in sorted(self.images))

    @property
    def image_id(self) -> str | None:
        """What the engine calls the only image."""
        return next(iter(self.images.values())).id if len(self.images) == 1 else None


def run_pipeline(
    client: docker.APIClient, context: RunContext, steps: tuple[Step, ...], *, stop: Stop
) -> RunResult:
    """Run the steps; what came of them. The time begins with the first step.

    Raises InfrastructureError, Stopped, OSError and what the library raises.
    """
    work = context.work
    image_ids = tuple(image.id for image in context.images.values())
    found = find_caches(work, image_ids)
    if not _is_short(client, context, steps, found=found):
        return _run_steps(client, context, steps, found=found, stop=stop)
    used_before = 0 if work.caches is None else len(work.caches.used)
    remaining, is_without_tar = found, False
    try:
        return _run_alone(client, context, steps[0], found=found, stop=stop)
    except _EntryUnreadable as problem:
        work.log.note(f"caches: not used after all: {problem}")
        remaining = ()
    except TreeNotTaken as problem:
        work.log.note(f"the image's tar does not unpack the tree ({problem}): the engine does")
        is_without_tar = not isinstance(problem, _NotOverCaches)
    if work.caches is not None:
        work.caches.forget(used_before)
    client.remove_container(context.resources.containers.pop(), force=True, v=True)
    result = _run_steps(client, context, steps, found=remaining, stop=stop)
    if is_without_tar:
        # Only now: a tree that the engine does not unpack either says nothing about the image, and
        # must not send the builds of others the long way.
        context.without_tar.add(_surroundings(context, steps[0], found))
    return result


class _EntryUnreadable(Exception):
    """An entry of a cache is not whole, or cannot be read; nothing of the build has run."""


class _NotOverCaches(TreeNotTaken):
    """The image's tar took the caches, and not this commit's tree over them."""


def _is_short(
    client: docker.APIClient, context: RunContext, steps: tuple[Step, ...], *, found: FoundEntries
) -> bool:
    """Whether nothing has to be there before the container is, or after it."""
    caches = context.work.caches
    needs_trust = _is_online(steps[0], context) and context.ca_bundle is not None
    # What the image declares below the workspace lies over that part of the tree, and would be
    # unpacked into here.
    is_covered = any(
        posixpath.normpath(path).startswith(f"{WORKSPACE}/")
        for path in context.images[steps[0].image].volumes
    )
    return (
        len(steps) == 1
        and not context.pipeline.services
        # what is to be stored is packed after the end
        and (caches is None or not caches.to_write())
        and not context.pipeline.artifacts
        and context.pipeline.tests is None
        and not needs_trust
        and not _has_relay(steps[0], context)
        and not is_covered
        and _surroundings(context, steps[0], found) not in context.without_tar
        and can_hand_in(client)
    )


def _surroundings(context: RunContext, step: Step, found: FoundEntries) -> str:
    """All that decides whether the image's tar unpacks a tree: what a pipeline sets may be why it
    does not, and must not count against the builds of others; nor may what its caches hold."""
    keys = tuple(entry.key for _, entry in found)
    own = msgspec.json.encode((step.environment, context.pipeline.resources, keys))
    return f"{context.images[step.image].id} {hashlib.sha256(own).hexdigest()}"


def _run_alone(
    client: docker.APIClient, context: RunContext, step: Step, *, found: FoundEntries, stop: Stop
) -> RunResult:
    """The only step, in a container that takes its tree itself, and what is to lie below that.

    Inputs by lock file have a volume, for the engine sees no other file systems. It is writable for
    the engine alone: folder and files are root's, and a step is another user without any
    capability. Raises TreeNotTaken and _EntryUnreadable too.
    """
    limits, work = context.limits, context.work
    new_volumes = {}
    if work.inputs is not None:
        new_volumes[INPUTS] = volume_options(INPUTS, inputs_volume_bytes(work.inputs))
    passed = result_of_exit(0, context.image_digest, context.image_id)
    sequence = StepSequence(context.work, context.pipeline, (step,), passed=passed)
    next(sequence.steps())
    with opening_caches(work, found=found, stop=stop) as opening:
        entries = tuple(each.entry for each in opening)
        early = [archive for each in opening for archive in _early_archives(each, stop)]
        if work.inputs is not None and work.inputs.home:
            # over what caches hold there
            early.append(EarlyArchive(HOME, len(work.inputs.home), (work.inputs.home,)))
        if work.caches is not None:
            work.caches.used.extend(entries)
        began_at = 0.0
        restored_seconds: float | None = None

        def fill(container: str) -> None:
            nonlocal began_at
            if work.inputs is not None:
                fill_inputs(client, container, work.inputs, stop=stop)
            began_at = time.monotonic()

        def on_early_taken() -> None:
            nonlocal restored_seconds
            restored_seconds = time.monotonic() - began_at
            note_restored(work, entries, restored_seconds)

        order = msgspec.structs.replace(
            _order(context, step),
            name=f"{context.name}-1-{step.name}",
            entrypoint=(
                *("sh", "-c", unpack_script((each.folder, each.length) for each in early)),
                *(RUN_COMMANDS, "pbft-ci"),
            ),
            seconds=sequence.begin(step),
            temporary={
                WORKSPACE: limits.workspace_bytes,
                HOME: limits.home_bytes,
                TEMPORARY: limits.temporary_bytes,
            },
            new_volumes=new_volumes,
            network=_network(client, context) if _is_online(step, context) else None,
            has_input=True,
        )
        try:
            end = run_container(
                client,
                order,
                work.log,
                stop=stop,
                resources=context.resources,
                tree=HandedTree(work.tree, tuple(early), on_early_taken, fill),
            )
        except TreeNotTaken as problem:
            if entries and restored_seconds is not None:
                raise _NotOverCaches(str(problem)) from problem
            raise
        # else the engine unpacks them again
        count_restored(work, entries, restored_seconds or 0.0)
    result = _judged(_result(end, context), step, is_online=_is_online(step, context))
    sequence.end(step, result)
    return sequence.result


def _early_archives(opening: OpeningEntry, stop: Stop) -> Iterator[EarlyArchive]:
    """As `early_archives`; reading them raises Stopped and _EntryUnreadable."""

    def read(pieces: Iterable[bytes]) -> Iterator[bytes]:
        try:
            yield from pieces
        except (OSError, CacheNotWhole) as error:
            raise _EntryUnreadable(str(error)) from error

    for archive in early_archives(opening, stop):
        yield msgspec.structs.replace(archive, pieces=read(archive.pieces))


def _run_steps(
    client: docker.APIClient,
    context: RunContext,
    steps: tuple[Step, ...],
    *,
    found: FoundEntries,
    stop: Stop,
) -> RunResult:
    """All steps, over a workspace that they share, and beside the services. found: its caches."""
    limits, pipeline = context.limits, context.pipeline
    keeper = keeper_order(
        context.images[steps[0].image], context.name, context.labels, limits=limits
    )
    if pipeline.services or any(_has_relay(step, context) for step in steps):
        names = tuple(service.name for service in pipeline.services)
        keeper = msgspec.structs.replace(keeper, network=JOINABLE, host_names=names)
    workspace = _made_workspace(client, context, keeper, found=found, stop=stop)
    if not pipeline.services or keeper_end(client, workspace) is not None:
        # without a keeper there is no network to join, and the first step tells why
        return _run_in(client, context, steps, workspace=workspace, services=None, stop=stop)
    context.work.show_state("services")
    order = ServicesOrder(
        pipeline=pipeline,
        images=context.images,
        keeper=workspace.keeper,
        name=context.name,
        labels=context.labels,
        limits=limits,
        resources=context.resources,
    )
    try:
        with running_services(client, order, context.work.log, stop=stop) as services:
            return _run_in(
                client, context, steps, workspace=workspace, services=services, stop=stop
            )
    except ServiceEnded as ended:
        if ended.is_out_of_memory:
            return RunResult(Outcome.OUT_OF_MEMORY, None, context.image_digest, problem=str(ended))
        return RunResult(Outcome.FAILED, 1, context.image_digest, problem=str(ended))


def _made_workspace(
    client: docker.APIClient,
    context: RunContext,
    keeper: ContainerOrder,
    *,
    found: FoundEntries,
    stop: Stop,
) -> Workspace:
    """The workspace with the commit's files, laid over what caches hold for this build.

    If the engine fails there, it is made once more without caches.
    """
    work, resources = context.work, context.resources

    def make() -> Workspace:
        return make_workspace(
            client,
            keeper,
            context.limits,
            ca_bundle=context.ca_bundle,
            inputs=work.inputs,
            resources=resources,
        )

    workspace = make()
    if work.caches is not None and found:
        work.show_state("caches")
        used_before = len(work.caches.used)
        try:
            with engine_errors():
                restore_caches(client, workspace.keeper, work, found=found, stop=stop)
                _fill(client, workspace, work, stop=stop)
            return workspace
        except InfrastructureError as error:
            if len(work.caches.used) == used_before:
                raise
            work.log.note(f"caches: not used after all: {error.reason}")
            work.caches.forget(used_before)
            client.remove_container(resources.containers.pop(), force=True, v=True)
            workspace = make()
    _fill(client, workspace, work, stop=stop)
    return workspace


def _fill(client: docker.APIClient, workspace: Workspace, work: Work, *, stop: Stop) -> None:
    fill_workspace(client, workspace, work.tree, stop=stop)
    if work.inputs is not None:
        fill_inputs(client, workspace.keeper, work.inputs, stop=stop)
        fill_home(client, workspace.keeper, work.inputs)


def _run_in(
    client: docker.APIClient,
    context: RunContext,
    steps: tuple[Step, ...],
    *,
    workspace: Workspace,
    services: RunningServices | None,
    stop: Stop,
) -> RunResult:
    """All steps, over that workspace; services: those that run."""
    passed = result_of_exit(0, context.image_digest, context.image_id)
    files = WorkspaceFiles(
        context.work,
        context.pipeline,
        workspace=WORKSPACE,
        take=lambda collector: take_files(
            client, workspace, collector, limits=context.limits, stop=stop
        ),
        stop=stop,
    )
    sequence = StepSequence(context.work, context.pipeline, steps, passed=passed, files=files)
    for number, step in sequence.steps():
        is_online = _is_online(step, context)
        code = keeper_end(client, workspace)
        if code is not None:
            context.work.log.note("the image has no shell (sh) to run commands with")
            return result_of_exit(code, context.image_digest, context.image_id)
        name = f"{context.name}-{number}-{step.name}"
        network = None
        if step.network is True:
            network = _network(client, context) if is_online else None
            if services is not None:
                # Also where this operator allows no network, so that it finds the same everywhere.
                context.work.log.note(f"step {step.name} has network: true, so it sees no services")
        elif services is not None or is_online:
            network = f"{JOINING}{workspace.keeper}"
        with _egress(client, context, step, keeper=workspace.keeper, stop=stop) as egress:
            order = msgspec.structs.replace(
                _order(context, step),
                name=name,
                seconds=sequence.begin(step),
                volumes=workspace.volumes,
                network=network,
            )
            result = _run_step(client, order, context, stop=stop)
        if services is not None:
            services.note_ended(step.name)
        trouble = None if egress is None else egress.trouble
        if not sequence.has_failed:
            result = _judged(result, step, is_online=is_online, trouble=trouble)
        sequence.end(step, result)
    return files.finish(sequence.result)


@contextmanager
def _egress(
    client: docker.APIClient, context: RunContext, step: Step, *, keeper: str, stop: Stop
) -> Iterator[Egress | None]:
    """The proxy of a step that names its hosts; None for any other, or if it gets none.

    Raises as `running_egress`.
    """
    if not _has_relay(step, context):
        yield None
        return
    assert isinstance(step.network, tuple), "it names its hosts"
    assert context.relay_image is not None, "it was obtained before the first step"
    order = RelayOrder(
        rules=EgressRules(step.network, context.network.exceptions),
        image=context.relay_image,
        keeper=keeper,
        name=f"{context.name}-relay",
        labels=context.labels,
        cpus=context.limits.cpus,
    )
    resources = context.resources
    with running_egress(client, order, context.work.log, resources=resources, stop=stop) as egress:
        yield egress


def _is_online(step: Step, context: RunContext) -> bool:
    return context.network.grants(step.network)


def _has_relay(step: Step, context: RunContext) -> bool:
    """Whether it reaches the hosts that it names, and no others."""
    return isinstance(step.network, tuple) and _is_online(step, context)


def _order(context: RunContext, step: Step) -> ContainerOrder:
    """The container of a step, but for its name, its time, its workspace and its network."""
    limits = context.limits
    environment = build_environment(HOME, context.work.origin, step)
    if context.work.inputs is not None:
        environment = {**context.work.inputs.variables(HOME), **environment}
    if _is_online(step, context):
        trusted = {} if context.ca_bundle is None else dict.fromkeys(CA_VARIABLES, CA_FILE)
        servers = context.package_proxies
        if _has_relay(step, context):
            servers = proxy_variables(service.name for service in context.pipeline.services)
        environment = {**trusted, **servers, **environment}
    return ContainerOrder(
        image=context.images[step.image],
        name=context.name,
        labels=context.labels,
        environment=environment,
        entrypoint=("sh", "-e", "-c", RUN_COMMANDS, "pbft-ci"),
        command=step.commands,
        seconds=0.0,
        memory_bytes=container_memory_bytes(context.pipeline.step_memory_bytes, limits),
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
    context: RunContext,
    *,
    stop: Stop,
) -> RunResult:
    """One container; it is gone afterwards, with whatever it left running."""
    resources = context.resources
    end = run_container(client, order, context.work.log, stop=stop, resources=resources)
    client.remove_container(resources.containers.pop(), force=True, v=True)
    return _result(end, context)


def _result(end: ContainerEnd, context: RunContext) -> RunResult:
    digest, image_id = context.image_digest, context.image_id
    if end.exit_code is None:
        return RunResult(Outcome.TIMED_OUT, None, digest, image_id)
    if end.is_out_of_memory:
        return RunResult(Outcome.OUT_OF_MEMORY, None, digest, image_id)
    return result_of_exit(end.exit_code, digest, image_id)


def _judged(
    result: RunResult, step: Step, *, is_online: bool, trouble: str | None = None
) -> RunResult:
    """The result of a step.

    trouble: why this machine did not reach a host that the step names; None: it reached all.

    Raises InfrastructureError if this operator's own setting or machine may be why the step failed.
    A step without the network that it asks for says nothing of what it does on other replicas.
    """
    if result.outcome is Outcome.PASSED or result.outcome is Outcome.OUT_OF_MEMORY:
        return result
    if trouble is not None:
        raise InfrastructureError(f"step {step.name} did not pass, and {trouble}")
    if is_online:
        return result
    if step.network:
        raise InfrastructureError(
            f"{NETWORK_WAS_OFF} step {step.name} asks for it and did not pass without it, and this"
            f" operator {not_allowed(step.network)}",
            is_permanent=True,
        )
    return msgspec.structs.replace(result, network_was_off=True)


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
