"""What an operator should know of the engine before the node's first build. Blocking."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ci.limits import Limits
from common.configuration.config import NodeConfig
from common.finding import Finding, State
from node.sandboxes.containers.builder_watch import FREE_BYTES_MIN
from node.sandboxes.containers.docker_engine import (
    BUILD_LABEL,
    CLUSTER_LABEL,
    REPLICA_LABEL,
    DockerEngine,
    Image,
    engine_errors,
)
from node.sandboxes.containers.egress_filter import WITHOUT, filter_problem, is_engine_here
from node.sandboxes.containers.limits_probe import measure_limits, not_measured
from node.sandboxes.containers.pipeline_run import container_memory_bytes
from node.work.infrastructure_error import InfrastructureError

MEBIBYTE = 2**20


def check_engine(
    config: NodeConfig, limits: Limits, cluster_id: bytes | None = None
) -> list[Finding]:
    """The engine: whether it answers, what it is, and whether builds as configured fit it.

    cluster_id: whose leftovers a broken-off measurement is; the next start of the node removes them
    with its own. None: does not measure the limits.
    """
    engine = DockerEngine(config.docker_host, 2, config.docker_tls_folder, runtime=config.runtime)
    try:
        with engine_errors():
            info = engine.client().info()
            runtime = _runtime(config, info)
            found = [_version(info), runtime, _memory(config, limits, info)]
            found += _space(config, info)
            found += _local_images(config, engine)
            if cluster_id is not None and runtime.state is State.OK:
                found += _limits(config, engine, cluster_id)
    except InfrastructureError as error:
        return [Finding("Docker", State.WRONG, f"{error.reason}: {_remedy(config)}")]
    finally:
        engine.close()
    if config.network_allowed:
        found.append(_egress(config))
    return found


def _version(info: dict[str, Any]) -> Finding:
    text = f"{info['ServerVersion']}, storage {info['Driver']}, cgroup v{info['CgroupVersion']}"
    missing = [name for name in ("MemoryLimit", "PidsLimit", "CpuCfsQuota") if not info.get(name)]
    if missing:
        text += f": it cannot limit builds ({', '.join(missing)}); enable the cgroup controllers"
        return Finding("Docker", State.WRONG, text)
    return Finding("Docker", State.OK, text)


def _remedy(config: NodeConfig) -> str:
    """What to do if the engine does not answer, by the way to it."""
    host = config.docker_host or os.environ.get("DOCKER_HOST") or ""
    if host.startswith("ssh://"):
        return (
            f"docker_host: {host}: `ssh -oBatchMode=yes {host} docker system dial-stdio` must"
            " connect as the node's user, without a question"
        )
    if host.startswith("tcp://"):
        return (
            f"docker_host: {host}: start the engine there, open its port to this machine, and see"
            " that the certificates in docker_tls_folder fit (host name, authority, dates)"
        )
    return "start it, or let this user in (its group is usually `docker`)"


def _runtime(config: NodeConfig, info: dict[str, Any]) -> Finding:
    known, default = sorted(info.get("Runtimes") or {}), info.get("DefaultRuntime")
    subject, wanted = "runtime", config.runtime
    if wanted is None:
        return Finding(subject, State.OK, f"{default}, the engine's default")
    if wanted not in known:
        text = f"{wanted}: the engine knows {', '.join(known)}: add it to daemon.json there"
        return Finding(subject, State.WRONG, text)
    if wanted != default and config.allow_dockerfile:
        text = (
            f"{wanted}; this replica abstains from Dockerfiles, which the builder runs with"
            f' {default}: set "default-runtime" in daemon.json, or allow_dockerfile: false'
        )
        # builds of pipelines are as they should be
        return Finding(subject, State.OK, text)
    return Finding(subject, State.OK, wanted)


def _limits(config: NodeConfig, engine: DockerEngine, cluster_id: bytes) -> list[Finding]:
    """What one build of our own found. A build that the engine refuses is one finding, too."""
    image = _image_with_shell(config, engine)
    if image is None:
        text = f"no image to do it with: pull {config.network_relay_image} on the engine"
        return [not_measured(text)]
    # never the name of a build
    label = f"check-{secrets.token_hex(4)}"
    labels = {
        CLUSTER_LABEL: cluster_id.hex(),
        REPLICA_LABEL: config.name,
        BUILD_LABEL: label,
    }
    try:
        with engine_errors():
            name = f"pbft-ci-{config.name}-{label}"
            return measure_limits(engine.client(), image, name=name, labels=labels)
    except InfrastructureError as error:
        text = f"no build runs on this engine and runtime: {error.reason}"
        return [Finding("limits", State.WRONG, text)]


def _image_with_shell(config: NodeConfig, engine: DockerEngine) -> Image | None:
    """One that builds may use and the engine has: nothing is pulled for a check."""
    local = [name for entry in config.repositories for name in entry.local_images]
    for name in (*local, config.network_relay_image):
        image = engine.find_image(name)
        if image is not None:
            return image
    return None


def _memory(config: NodeConfig, limits: Limits, info: dict[str, Any]) -> Finding:
    one_bytes = container_memory_bytes(limits.memory_bytes, limits)
    needed_bytes, machine_bytes = config.builds_at_once * one_bytes, int(info["MemTotal"])
    text = (
        f"{config.builds_at_once} at once may need {needed_bytes // MEBIBYTE} MiB, and the"
        f" machine has {machine_bytes // MEBIBYTE} MiB"
    )
    if needed_bytes > machine_bytes:
        return Finding("memory for builds", State.WARNING, f"{text}: lower builds_at_once")
    return Finding("memory for builds", State.OK, text)


def _space(config: NodeConfig, info: dict[str, Any]) -> Iterator[Finding]:
    """Of an engine on this machine, whose disk can be looked at."""
    root = Path(info["DockerRootDir"])
    if not is_engine_here(config.docker_host) or not root.is_dir():
        return
    free_bytes = shutil.disk_usage(root).free
    text = f"{free_bytes // MEBIBYTE} MiB free for {root}"
    if free_bytes < FREE_BYTES_MIN:
        text += f": builds of images need {FREE_BYTES_MIN // MEBIBYTE} MiB"
        yield Finding("Docker's disk", State.WRONG, text)
    else:
        yield Finding("Docker's disk", State.OK, text)


def _local_images(config: NodeConfig, engine: DockerEngine) -> Iterator[Finding]:
    """The images that no registry has, and that builds may use."""
    wanted = dict.fromkeys(name for entry in config.repositories for name in entry.local_images)
    for name in wanted:
        subject = f"image {name}"
        if engine.find_image(name) is None:
            text = "is in local_images and not on the engine: build or load it there"
            yield Finding(subject, State.WARNING, text)
        else:
            yield Finding(subject, State.OK, "is on the engine")


def _egress(config: NodeConfig) -> Finding:
    problem = filter_problem(config.docker_host)
    if problem is None:
        return Finding("egress filter", State.OK, "stands around builds with a network")
    return Finding("egress filter", State.WARNING, f"{problem}; without it {WITHOUT}")
