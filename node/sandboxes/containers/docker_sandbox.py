"""Builds in Docker containers: a pipeline in its image, or a repository's own Dockerfile."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import docker.errors
import msgspec

from ci.limits import Limits
from ci.operations import Outcome
from common.configuration.config import NodeConfig
from common.pipeline.pipeline_file import Pipeline, PipelineInvalid
from node.dependencies.hand_in import INPUTS, PAGE_BYTES, HandedInputs
from node.egress.addresses import networks_of
from node.egress.egress_proxy import EgressRules
from node.egress.operator_rules import OperatorRules, not_allowed
from node.sandboxes.containers.build_cache import stage_caches
from node.sandboxes.containers.builder_watch import BuilderWatch, too_many_bytes
from node.sandboxes.containers.container import HOME, JOINING, TEMPORARY, ContainerOrder
from node.sandboxes.containers.container_run import ContainerEnd, run_container
from node.sandboxes.containers.docker_engine import (
    ANSWER_SECONDS_MAX,
    BUILD_LABEL,
    CLUSTER_LABEL,
    REPLICA_LABEL,
    DockerEngine,
    EngineResources,
    Image,
    engine_errors,
)
from node.sandboxes.containers.egress_filter import log_egress_filter
from node.sandboxes.containers.egress_relay import (
    Egress,
    RelayOrder,
    proxy_variables,
    start_egress,
)
from node.sandboxes.containers.engine_watch import EngineWatch, hold_connection
from node.sandboxes.containers.image_build import (
    NO_NETWORK,
    BuiltImage,
    ImageOrder,
    build_image,
    join_loopback,
)
from node.sandboxes.containers.images import Images, isolate_from_user
from node.sandboxes.containers.pipeline_run import RunContext, container_memory_bytes, run_pipeline
from node.sandboxes.containers.registry_answers import ImageAbsent
from node.sandboxes.sandbox import (
    NETWORK_WAS_OFF,
    RunResult,
    Work,
    build_environment,
    result_of_exit,
)
from node.sources.dockerfile import (
    BaseImage,
    GivenInputs,
    PreparedDockerfile,
    prepare_dockerfile,
)
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop, in_thread

# How long the engine may take to end a build that was given up; less than a stop of the node may.
BUILDER_SECONDS_MAX = 15.0
# A build that was broken off may leave one more layer behind a moment later.
QUIET_ROUNDS = 2
QUIET_ROUND_SECONDS = 0.3
REMOVAL_ROUNDS_MAX = 10
# After a crash the engine still does what it was asked for last, if it has as much to do as it may.
LOOK_AGAIN_SECONDS = float(ANSWER_SECONDS_MAX)
CA_BYTES_MAX = 4 * 2**20
# of images that do not unpack a tree by themselves, as long as this process lives
WITHOUT_TAR_MAX = 1000

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class DockerSandbox:
    """Implements `Sandbox` with the engine that the configuration names."""

    def __init__(
        self,
        config: NodeConfig,
        cluster_id: bytes,
        *,
        threads: ThreadPoolExecutor,
        connections_max: int,
    ) -> None:
        self._config = config
        self._cluster = cluster_id.hex()
        self._threads = threads
        self._engine = DockerEngine(
            config.docker_host,
            connections_max,
            config.docker_tls_folder,
            runtime=config.runtime,
        )
        self._images = Images(self._engine, config)
        self._network = OperatorRules(
            config.network_allowed, config.network_hosts, networks_of(config.network_addresses)
        )
        # of the builds that are not removed yet
        self._resources: dict[str, EngineResources] = {}
        self._without_tar: set[str] = set()
        self._watch = EngineWatch(
            lambda: self._call(lambda stop: hold_connection(self._engine, stop))
        )
        self._watching: asyncio.Task[None] | None = None
        # whether something of a build that is over may still be on the engine
        self._has_leftovers = True
        self._looking_again: set[asyncio.Task[None]] = set()

    async def start(self, limits: Limits) -> None:
        """Remove what a crash left behind; where the engine is down, before the next build.

        Raises OSError.
        """
        isolate_from_user(self._config.data_directory / "docker-config")
        if self._config.network_allowed:
            docker_host = self._config.docker_host
            await in_thread(self._threads, lambda stop: log_egress_filter(docker_host))
        try:
            await self._remove_leftovers()
            await self._call(lambda stop: self._compare_memory(limits))
        except InfrastructureError as error:
            _log.warning("leftovers of earlier builds stay for now: %s", error.reason)
        self._look_again_later()
        self._watching = asyncio.create_task(
            self._watch.keep(lambda: bool(self._resources)), name="watch of the engine"
        )

    async def close(self) -> None:
        """Let go of the connections."""
        for task in (*self._looking_again, *([self._watching] if self._watching else [])):
            await _end(task)
        self._watch.close()
        self._engine.close()

    async def run(self, work: Work) -> RunResult:
        """Run the work to its end; its containers and images stay until `remove`.

        Raises InfrastructureError, also if it did not pass and the engine was restarted meanwhile.
        """
        mark = await self._watch.begin()
        result = await self._run(work)
        if result.outcome in (Outcome.PASSED, Outcome.SKIPPED) or await self._watch.is_same(mark):
            return result
        self._resources[work.label].is_certain = False
        raise InfrastructureError(
            "the build did not pass, and the Docker engine was restarted meanwhile, or what is"
            " between ended a connection to its /events"
        )

    async def _run(self, work: Work) -> RunResult:
        assert work.label not in self._resources, "what was run is removed before it is run again"
        if self._has_leftovers:
            # also of an earlier try of this build: its names would be taken
            await self._remove_leftovers()
        resources = self._resources[work.label] = EngineResources()
        if not isinstance(work.job, Pipeline):
            resources.is_building = True
            result = await self._run_dockerfile(work, work.job, resources)
            resources.is_building = result.outcome is not Outcome.PASSED
            return result
        result = await self._run_pipeline(work, work.job, resources)
        resources.is_certain = True
        return result

    async def stage_caches(self, work: Work) -> None:
        """As `Sandbox`: the engine packs what the build left."""
        resources = self._resources.get(work.label)
        if resources is None or resources.keeper is None:
            return
        keeper = resources.keeper
        await self._call(lambda stop: stage_caches(self._engine.client(), keeper, work, stop=stop))

    async def is_running(self, container: str) -> bool:
        """Whether the engine runs the container of that id now. Raises InfrastructureError."""

        def look(_stop: Stop) -> bool:
            try:
                found = self._engine.client().inspect_container(container)
            except docker.errors.NotFound:
                return False
            return bool(found["State"]["Running"])

        return await self._call(look)

    async def remove(self, label: str) -> None:
        """Remove everything of a build; no container and no image of it stays."""
        resources = self._resources.get(label)
        if resources is None:
            return
        try:
            await self._remove_build(label, resources)
        finally:
            del self._resources[label]
            await self._release_images(label)

    async def _run_pipeline(
        self, work: Work, pipeline: Pipeline, resources: EngineResources
    ) -> RunResult:
        steps = work.wanted_steps(pipeline)
        if not steps:
            return RunResult(Outcome.SKIPPED)
        self._check_root(pipeline)
        work.show_state("image")
        # All before the first step: a registry that fails later would waste the steps before.
        images: dict[str, Image] = {}
        for name in pipeline.images(steps):
            image = await self._image(name, work)
            if image is None:
                return RunResult(Outcome.IMAGE_UNAVAILABLE)
            images[name] = image
        named = [step for step in steps if isinstance(step.network, tuple)]
        needs_relay = any(self._network.grants(step.network) for step in named)
        if len(self._without_tar) >= WITHOUT_TAR_MAX:
            self._without_tar.clear()
        context = RunContext(
            pipeline=pipeline,
            images=images,
            work=work,
            name=self._container_name(work),
            labels=self._labels(work.label),
            limits=work.limits,
            network=self._network,
            ca_bundle=await self._ca_bundle(),
            package_proxies=self._config.package_proxies.environment,
            without_tar=self._without_tar,
            resources=resources,
            relay_image=await self._relay_image(work) if needs_relay else None,
        )
        return await self._call(
            lambda stop: run_pipeline(self._engine.client(), context, steps, stop=stop)
        )

    def _check_root(self, pipeline: Pipeline) -> None:
        """Raises InfrastructureError if a service asks for what this operator does not allow."""
        for service in pipeline.services:
            if service.is_root and not self._config.services_as_root:
                raise InfrastructureError(
                    f"service {service.name} asks to run as root, and this operator allows that to"
                    " none (services_as_root)",
                    is_permanent=True,
                )

    def _check_builder_runtime(self) -> None:
        """Raises InfrastructureError if the builder would use another runtime than node.yml says.

        The API of the classic builder has no runtime: it takes the engine's default.
        """
        wanted = self._config.runtime
        if wanted is None:
            return
        default = self._engine.client().info()["DefaultRuntime"]
        if default != wanted:
            raise InfrastructureError(
                f"runtime: {wanted}: the engine's builder runs Dockerfiles with {default}; set"
                f' "default-runtime": "{wanted}" in daemon.json',
                is_permanent=True,
            )

    async def _run_dockerfile(
        self, work: Work, data: bytes, resources: EngineResources
    ) -> RunResult:
        prepared = prepare_dockerfile(data, self._labels(work.label))
        if isinstance(prepared, PipelineInvalid):
            return RunResult(Outcome.PIPELINE_INVALID, problem=prepared.text)
        await self._call(lambda stop: self._check_builder_runtime())
        work.show_state("image")
        bases: dict[str, Image] = {}
        for name in prepared.bases:
            base = await self._image(name, work)
            if base is None:
                return RunResult(Outcome.IMAGE_UNAVAILABLE)
            bases[name] = base
            if base.has_triggers:
                # they are instructions that we have not read, such as ADD with a URL
                problem = (
                    f"Dockerfile: image {name} has ONBUILD instructions, which are not taken; name"
                    " an image without, and write them into this Dockerfile"
                )
                return RunResult(Outcome.PIPELINE_INVALID, problem=problem)
        known = {name: BaseImage(base.id, base.volumes) for name, base in bases.items()}
        inputs = None if work.inputs is None else await self._given(work.inputs, work)
        prepared = prepare_dockerfile(data, self._labels(work.label), known, inputs=inputs)
        if isinstance(prepared, PipelineInvalid):
            return RunResult(Outcome.PIPELINE_INVALID, problem=prepared.text)
        work.show_state("building")
        network = await self._call(
            lambda stop: join_loopback(
                self._engine.client(),
                tuple(bases.values()),
                self._container_name(work),
                labels=self._labels(work.label),
                limits=work.limits,
            )
        )
        egress = await self._egress(prepared, network, work, resources=resources)
        ends_at = time.monotonic() + work.limits.build_seconds_max
        try:
            proxies = {} if egress is None else proxy_variables()
            built = await self._build_image(
                prepared, network, work, resources=resources, proxies=proxies
            )
        except BaseException:
            if egress is not None:
                await in_thread(self._threads, lambda stop: egress.abandon())
            raise
        if egress is not None:
            await self._call(lambda stop: egress.close(work.log, resources))
        if isinstance(built, RunResult):
            return _judged(built, prepared.network, egress)
        image = await self._call(lambda stop: self._engine.built_image(built.id))
        if image is None:
            raise InfrastructureError("the image that was just built is gone")
        if not image.has_command:
            problem = (
                "Dockerfile: the image has no CMD and no ENTRYPOINT, so there is nothing to run"
            )
            return RunResult(Outcome.PIPELINE_INVALID, problem=problem)
        limits = work.limits
        # An empty file system lies over each folder of inputs that the image has.
        hidden: dict[str, int] = {}
        if inputs is not None and work.inputs is not None and prepared.has_inputs:
            folders = (INPUTS, *(f"/{name}" for name in work.inputs.home_folders))
            hidden = dict.fromkeys(folders, PAGE_BYTES)
        order = ContainerOrder(
            image=image,
            name=self._container_name(work),
            labels=self._labels(work.label),
            environment=build_environment(HOME, work.origin, None),
            entrypoint=None,
            command=None,
            seconds=max(0.0, ends_at - time.monotonic()),
            memory_bytes=limits.memory_bytes + limits.home_bytes + limits.temporary_bytes,
            cpus=limits.cpus,
            pids=limits.pids_max,
            temporary={HOME: limits.home_bytes, TEMPORARY: limits.temporary_bytes, **hidden},
        )
        return _result(await self._run_container(order, work, resources), image.id)

    async def _given(self, handed: HandedInputs, work: Work) -> GivenInputs:
        """The inputs on the engine, for RUN instructions. Raises InfrastructureError."""
        labels = self._labels(work.label)
        copies: list[tuple[Path | bytes, str]] = [(handed.archive, f"{INPUTS}/")]
        if handed.home:
            # HOME of an instruction is its user's; Cargo looks into every folder up to this one
            copies.append((handed.home, "/"))
        made = [
            (await self._call(partial(self._engine.import_image, tar, labels)), folder)
            for tar, folder in copies
        ]
        return GivenInputs(tuple(made), handed.variables(None))

    async def _egress(
        self, prepared: PreparedDockerfile, network: str, work: Work, *, resources: EngineResources
    ) -> Egress | None:
        """The proxy of RUN instructions; None if the Dockerfile asks for no network, or gets none.

        network: that of the instructions. Raises InfrastructureError.
        """
        if not self._network.grants(prepared.network):
            return None
        if network == NO_NETWORK:
            raise InfrastructureError(
                "this replica gives the Dockerfile no network: no base image has a shell (sh), or"
                " the kernel has no IPv6",
                is_permanent=True,
            )
        order = RelayOrder(
            rules=EgressRules(prepared.network, self._network.exceptions),
            image=await self._relay_image(work),
            keeper=network.removeprefix(JOINING),
            name=f"{self._container_name(work)}-relay",
            labels=self._labels(work.label),
            cpus=work.limits.cpus,
        )
        return await self._call(
            lambda stop: start_egress(self._engine.client(), order, resources=resources, stop=stop)
        )

    async def _build_image(
        self,
        prepared: PreparedDockerfile,
        network: str,
        work: Work,
        *,
        resources: EngineResources,
        proxies: Mapping[str, str],
    ) -> BuiltImage | RunResult:
        """The built image; a build that takes too long is given up and timed out.

        The engine goes on with the instruction that it is at; `remove` waits for the end of that.
        """
        build_hex, _, opened = work.label.partition("-")
        # the last part cannot be guessed: another build must not name this one's image
        tag = (
            f"pbft-ci-build/{self._cluster[:16]}:{self._config.name}."
            f"{build_hex[:16]}-{opened}.{secrets.token_hex(8)}"
        )

        resources.tag = tag
        given_up = Stop()

        limits = work.limits
        order = ImageOrder(
            dockerfile=prepared,
            tree=work.tree,
            tag=tag,
            labels=self._labels(work.label),
            limits=limits,
            network=network,
            proxies=proxies,
        )

        def build(stop: Stop) -> BuiltImage | RunResult:
            return build_image(self._engine, order, work.log, given_up=given_up, stop=stop)

        bytes_max = limits.workspace_bytes + limits.home_bytes + limits.temporary_bytes
        if work.inputs is not None:
            # those copies are not the project's doing
            bytes_max += prepared.copy_count * work.inputs.page_bytes
        watch = await self._call(
            lambda stop: BuilderWatch(self._engine.client(), self._labels(work.label))
        )
        watching = asyncio.create_task(
            self._call(partial(watch.wait_for_excess, bytes_max, limits.pids_max))
        )
        building: asyncio.Task[BuiltImage | RunResult] = asyncio.create_task(self._call(build))
        resources.builder = building
        try:
            done, _ = await asyncio.wait(
                {watching, building},
                timeout=limits.build_seconds_max,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                return RunResult(Outcome.TIMED_OUT)
            if not watching.done():
                built = await building
                written_bytes = await self._call(lambda stop: watch.written_bytes())
                if written_bytes <= bytes_max:
                    return built
                problem = too_many_bytes(bytes_max)
            else:
                problem = await watching
            return RunResult(Outcome.FAILED, 1, problem=problem)
        finally:
            given_up.set()
            await _end(watching)

    async def _image(self, name: str, work: Work) -> Image | None:
        """The image that the name means now, on the engine; None where its registry has none."""
        seconds = self._config.pull_timeout_seconds
        try:
            image = await self._call(
                lambda stop: self._images.obtain(
                    name, work.label, work.local_images, note=work.log.note, stop=stop
                ),
                timeout_seconds=seconds,
            )
        except TimeoutError as error:
            raise InfrastructureError(f"image {name} was not pulled within {seconds} s") from error
        if isinstance(image, ImageAbsent):
            work.log.note(f"no image {name}: its registry has none of that name")
            return None
        work.log.note(f"image {name}, {image.digest or 'made locally: ' + image.id}")
        return image

    async def _relay_image(self, work: Work) -> Image:
        """The operator's image for relays; the engine's own of that name, else its registry's.

        Raises InfrastructureError.
        """
        name = self._config.network_relay_image
        image = await self._call(lambda stop: self._engine.find_image(name))
        image = image or await self._image(name, work)
        if image is None:
            raise InfrastructureError(f"network_relay_image: no registry has {name}")
        return image

    async def _run_container(
        self, order: ContainerOrder, work: Work, resources: EngineResources
    ) -> ContainerEnd:
        return await self._call(
            lambda stop: run_container(
                self._engine.client(), order, work.log, stop=stop, resources=resources
            )
        )

    async def _remove_build(self, label: str, resources: EngineResources) -> None:
        """Remove everything of one build, and look again where the engine may still be at it."""
        is_ours = self._owns(lambda build: build == label)
        try:
            if resources.is_certain:
                try:
                    await self._call(lambda stop: self._engine.remove_certain(resources))
                    return
                except InfrastructureError as error:
                    _log.warning("build %s is looked for on the engine: %s", label, error.reason)
            if resources.builder is not None and not await _has_ended(resources.builder):
                _log.warning("build %s stays on the engine, which is still at it", label)
                self._look_again_later()
                return
            quiet_rounds = QUIET_ROUNDS if resources.is_building else 0
            await self._call(lambda stop: self._remove(is_ours, quiet_rounds))
            if resources.tag is not None:
                # also where its labels tell nothing: it has the name from us
                names = (resources.tag,)
                await self._call(lambda stop: self._engine.remove_names(names))
        except InfrastructureError as error:
            self._has_leftovers = True
            _log.warning("leftovers of build %s stay for now: %s", label, error.reason)

    async def _release_images(self, label: str) -> None:
        """Let go of what the build ran in, and remove what has been kept for too long."""
        self._images.release(label)
        try:
            await self._call(self._images.tidy)
        except (InfrastructureError, OSError) as error:
            _log.warning("images that were kept too long stay for now: %s", error)

    def _look_again_later(self) -> None:
        task = asyncio.create_task(self._look_again(), name="leftovers")
        self._looking_again.add(task)
        task.add_done_callback(self._looking_again.discard)

    async def _look_again(self) -> None:
        """Remove what the engine made after we had looked: for one that crashed, or very slowly."""
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        try:
            await self._remove_leftovers()
        except InfrastructureError as error:
            _log.warning("leftovers of earlier builds stay for now: %s", error.reason)

    async def _remove_leftovers(self) -> None:
        """Remove all of this replica's but the builds that run now. Raises InfrastructureError."""
        self._has_leftovers = False
        is_ours = self._owns(lambda build: build not in self._resources)
        try:
            found = await self._call(lambda stop: self._remove(is_ours, 1))
        except BaseException:
            self._has_leftovers = True
            raise
        if found:
            _log.warning("removed %d containers and images of builds that are over", found)

    def _remove(self, is_ours: Callable[[Mapping[str, str]], bool], quiet_rounds: int) -> int:
        """Remove what is ours until nothing was found that many times; how much there was.

        Blocking. The engine may still be giving up a build: there can be one more layer.
        """
        removed = self._engine.remove(is_ours)
        quiet = 1 if removed == 0 else 0
        for _ in range(REMOVAL_ROUNDS_MAX):
            if quiet >= quiet_rounds:
                return removed
            time.sleep(QUIET_ROUND_SECONDS)
            found = self._engine.remove(is_ours)
            removed += found
            quiet = quiet + 1 if found == 0 else 0
        raise InfrastructureError("the Docker engine does not remove what is left of a build")

    def _owns(self, is_wanted: Callable[[str], bool]) -> Callable[[Mapping[str, str]], bool]:
        """Whether labels say: this cluster, this replica, and a build that is wanted."""

        def owns(labels: Mapping[str, str]) -> bool:
            return (
                labels.get(CLUSTER_LABEL) == self._cluster
                and labels.get(REPLICA_LABEL) == self._config.name
                and is_wanted(labels.get(BUILD_LABEL, ""))
            )

        return owns

    def _labels(self, label: str) -> dict[str, str]:
        return {
            CLUSTER_LABEL: self._cluster,
            REPLICA_LABEL: self._config.name,
            BUILD_LABEL: label,
        }

    def _compare_memory(self, limits: Limits) -> None:
        """Warn where the builds at once may need more memory than the engine's machine has."""
        one_bytes = container_memory_bytes(limits.memory_bytes, limits)
        needed_bytes = self._config.builds_at_once * one_bytes
        machine_bytes = int(self._engine.client().info()["MemTotal"])
        if needed_bytes > machine_bytes:
            _log.warning(
                "builds may need %d MiB of memory (builds_at_once %d, and the limits of the"
                " network), and the machine has %d MiB",
                needed_bytes // 2**20,
                self._config.builds_at_once,
                machine_bytes // 2**20,
            )

    async def _ca_bundle(self) -> bytes | None:
        """The operator's authorities, read for each build: they may have been renewed."""
        file = self._config.build_ca_file
        if file is None:
            return None
        return await in_thread(self._threads, lambda stop: _read_bundle(file))

    def _container_name(self, work: Work) -> str:
        """For people who look at `docker ps`; the label is what counts."""
        return f"pbft-ci-{self._cluster[:8]}-{self._config.name}-{work.label}"

    async def _call(
        self, work: Callable[[Stop], Result], *, timeout_seconds: float | None = None
    ) -> Result:
        """Blocking work with the engine.

        Raises InfrastructureError, and TimeoutError after the time.
        """

        def translated(stop: Stop) -> Result:
            with engine_errors():
                return work(stop)

        return await in_thread(self._threads, translated, timeout_seconds=timeout_seconds)


async def _end(task: "asyncio.Task[Any]") -> None:
    """Cancel a task whose result nobody wants, and wait for its end."""
    task.cancel()
    await asyncio.wait({task})
    # looked at, so that asyncio does not complain about what nobody saw
    if not task.cancelled():
        task.exception()


async def _has_ended(builder: "asyncio.Task[Any]") -> bool:
    """Wait until the engine makes no more layers of a build, and not for ever.

    Before anything of it is removed: a layer that is finished without its parents is an image of
    its own, and where the Dockerfile changed the labels nothing tells any more whose.
    """
    try:
        done, _ = await asyncio.wait({builder}, timeout=BUILDER_SECONDS_MAX)
    finally:
        await _end(builder)
    return bool(done)


def _read_bundle(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(CA_BYTES_MAX + 1)
    except OSError as error:
        raise InfrastructureError(f"build_ca_file: {file}: {error.strerror}") from error
    if len(data) > CA_BYTES_MAX:
        raise InfrastructureError(f"build_ca_file: {file} has more than {CA_BYTES_MAX} bytes")
    return data


def _judged(result: RunResult, asked: tuple[str, ...], egress: Egress | None) -> RunResult:
    """The result of a Dockerfile that came to no image. asked: the hosts that it names.

    Raises InfrastructureError if this operator's own setting or machine may be why.
    """
    if result.outcome not in (Outcome.FAILED, Outcome.TIMED_OUT):
        return result
    if egress is not None:
        if egress.trouble is not None:
            raise InfrastructureError(f"the Dockerfile was not built, and {egress.trouble}")
        return result
    if asked:
        raise InfrastructureError(
            f"{NETWORK_WAS_OFF} the Dockerfile asks for it and was not built without it, and this"
            f" operator {not_allowed(asked)}",
            is_permanent=True,
        )
    return msgspec.structs.replace(result, network_was_off=True)


def _result(end: ContainerEnd, image_id: str) -> RunResult:
    """What the container of a Dockerfile's image came to; it never has a network."""
    if end.exit_code is None:
        return RunResult(Outcome.TIMED_OUT, image_id=image_id, network_was_off=True)
    if end.is_out_of_memory:
        return RunResult(Outcome.OUT_OF_MEMORY, image_id=image_id)
    result = result_of_exit(end.exit_code, None, image_id)
    return msgspec.structs.replace(result, network_was_off=result.outcome is Outcome.FAILED)
