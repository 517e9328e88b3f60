"""What an operator should know of the engine before the node's first build. Blocking."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ci.limits import Limits
from common.configuration.config import NodeConfig
from common.finding import Finding, State
from node.sandboxes.containers.builder_watch import FREE_BYTES_MIN
from node.sandboxes.containers.docker_engine import DockerEngine, engine_errors
from node.sandboxes.containers.egress_filter import WITHOUT, filter_problem, is_engine_here
from node.sandboxes.containers.pipeline_run import container_memory_bytes
from node.work.infrastructure_error import InfrastructureError

MEBIBYTE = 2**20


def check_engine(config: NodeConfig, limits: Limits) -> list[Finding]:
    """The engine: whether it answers, what it is, and whether builds as configured fit it."""
    engine = DockerEngine(config.docker_host, 1, config.docker_tls_folder)
    try:
        with engine_errors():
            info = engine.client().info()
            found = [_version(info), _user_namespaces(info), _memory(config, limits, info)]
            found += _space(config, info)
            found += _local_images(config, engine)
    except InfrastructureError as error:
        text = f"{error.reason}: start it, or let this user in (its group is usually `docker`)"
        return [Finding("Docker", State.WRONG, text)]
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


def _user_namespaces(info: dict[str, Any]) -> Finding:
    """Root in a build should be nobody on the machine; builds run without it as well."""
    subject, options = "Docker users", info.get("SecurityOptions") or []
    for option, text in (("name=userns", "userns-remap"), ("name=rootless", "rootless")):
        if any(entry.startswith(option) for entry in options):
            return Finding(subject, State.OK, f"{text}: root in a build is not root here")
    text = "root in a build has root's number on this machine: set userns-remap, if you can"
    return Finding(subject, State.WARNING, text)


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
