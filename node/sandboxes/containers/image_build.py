"""Builds a repository's Dockerfile into an image with the engine's classic builder. Blocking."""

import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import docker.errors
import msgspec

from ci.limits import Limits
from ci.operations import Outcome
from node.outputs.build_log import BuildLog
from node.sandboxes.containers.container import (
    CPU_PERIOD_MICROSECONDS,
    JOINABLE,
    OPEN_FILES_MAX,
    create_container,
)
from node.sandboxes.containers.container_run import (
    KILLED_EXIT_CODE,
    OUT_OF_MEMORY_SECONDS,
    POLL_SECONDS,
)
from node.sandboxes.containers.docker_engine import BUILD_LABEL, DockerEngine, Image
from node.sandboxes.containers.workspace import keeper_order
from node.sandboxes.sandbox import RunResult, result_of_exit
from node.sources.dockerfile import PreparedDockerfile
from node.sources.tree import append_to_tree
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

# The builder removes both from the context before the first instruction sees it.
_DOCKERFILE_NAME = ".pbft-ci.dockerfile"
_IGNORE_NAME = ".dockerignore"

# What the builder says of a Dockerfile that no builder can make sense of.
_INVALID = re.compile(
    r"dockerfile parse error|unknown instruction|cannot be empty|file with no instructions"
    r"|no build stage in current context|failed to parse|invalid reference format"
    r"|No image was generated",
    re.IGNORECASE,
)
# It never has to pull anything, since it gets ids of images that are on the engine.
_PULLED = re.compile(
    r"pull access denied|manifest (for|unknown)|toomanyrequests|registry|https?://"
)
# Failures of an instruction that come without an exit code, and the code that a shell would give.
_NOT_EXECUTABLE = re.compile(r"OCI runtime create failed.*permission denied", re.DOTALL)
_NOT_FOUND = re.compile(
    r"OCI runtime create failed.*(executable file not found|no such file or directory)", re.DOTALL
)
_INSTRUCTION_FAILED = re.compile(r"\A(COPY|ADD) failed: |unable to find (user|group) ")
# Those of the machine, whatever instruction they happened in. The cause comes last in such a text;
# further up may be a file name that a stranger chose.
_MACHINE = re.compile(
    r"(no space left on device|input/output error|cannot allocate memory)(: unknown)?\Z", re.I
)


# The engine's own namespace without a network: its lo has no ::1, and no name but localhost.
NO_NETWORK = "none"


class ImageOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An image to be built."""

    dockerfile: PreparedDockerfile
    # the file of the tree, which is made the build's context
    tree: Path
    # the image's, and the labels of the containers of its instructions
    tag: str
    labels: Mapping[str, str]
    limits: Limits
    # of its instructions, as `join_loopback` says
    network: str
    # variables of RUN instructions that no image keeps: the builder knows those of proxies
    proxies: Mapping[str, str] = {}


class BuiltImage(msgspec.Struct, frozen=True):
    """The image that came out."""

    id: str


def build_image(
    engine: DockerEngine, order: ImageOrder, log: BuildLog, *, given_up: Stop, stop: Stop
) -> BuiltImage | RunResult:
    """The image, or how the build of it failed.

    given_up: nobody wants the image any more. The engine is told so, and this goes on until it has
    really ended the build: the instruction that copies files is not broken off, and makes a layer.
    stop: does not wait for that either.

    Raises Stopped, InfrastructureError, OSError and what the library raises.
    """
    hidden = f"{_IGNORE_NAME}\n{_DOCKERFILE_NAME}\n".encode()
    append_to_tree(order.tree, {_IGNORE_NAME: hidden, _DOCKERFILE_NAME: order.dockerfile.text})
    limits, started_at = order.limits, time.time()
    image_id: str | None = None
    try:
        with engine.stream_client(stop, given_up) as client, order.tree.open("rb") as context:
            # limits that the engine takes and the library has no argument for
            client.params = {
                "cpuperiod": str(CPU_PERIOD_MICROSECONDS),
                "cpuquota": str(max(1000, round(limits.cpus * CPU_PERIOD_MICROSECONDS))),
                "ulimits": _ulimits(),
            }
            for message in client.build(
                fileobj=context,
                custom_context=True,
                dockerfile=_DOCKERFILE_NAME,
                tag=order.tag,
                nocache=True,
                rm=True,
                forcerm=True,
                network_mode=order.network,
                buildargs=dict(order.proxies),
                container_limits={
                    "memory": limits.memory_bytes,
                    "memswap": limits.memory_bytes,
                },
                timeout=limits.build_seconds_max + 60,
                decode=True,
            ):
                if given_up.is_set:
                    continue
                log.write(_shown(message))
                if "errorDetail" in message or "error" in message:
                    return _failure(engine, order, message, started_at=started_at)
                image_id = (message.get("aux") or {}).get("ID", image_id)
    except docker.errors.APIError as error:
        given_up.check()
        stop.check()
        message = {"error": str(error.explanation or error)}
        return _failure(engine, order, message, started_at=started_at)
    given_up.check()
    stop.check()
    if image_id is None:
        raise InfrastructureError("the Docker engine broke off the build")
    return BuiltImage(image_id)


def join_loopback(
    client: docker.APIClient,
    bases: Iterable[Image],
    name: str,
    *,
    labels: Mapping[str, str],
    limits: Limits,
) -> str:
    """The network of a Dockerfile's instructions: a container's, which runs until it is removed.

    A builder has no settings for lo and for names, so the instructions join a container that has
    them. It is made from the first base with a shell. NO_NETWORK if there is none, or if the kernel
    has no IPv6. Raises what the library raises.
    """
    for base in bases:
        order = msgspec.structs.replace(
            keeper_order(base, name, labels, limits=limits), network=JOINABLE
        )
        keeper = create_container(client, order)
        with suppress(docker.errors.APIError):
            client.start(keeper)
            if client.inspect_container(keeper)["State"]["Running"]:
                return f"container:{keeper}"
        client.remove_container(keeper, force=True, v=True)
    return NO_NETWORK


def _ulimits() -> str:
    return msgspec.json.encode(
        [
            {"Name": "nofile", "Soft": OPEN_FILES_MAX, "Hard": OPEN_FILES_MAX},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ]
    ).decode()


def _shown(message: Mapping[str, Any]) -> bytes:
    """What of the builder's message goes into the log: what instructions say."""
    return str(message.get("stream") or "").encode(errors="backslashreplace")


def _failure(
    engine: DockerEngine, order: ImageOrder, message: Mapping[str, Any], *, started_at: float
) -> RunResult:
    """What a build's error says of the repository.

    Raises InfrastructureError if it says nothing.
    """
    detail = message.get("errorDetail") or {}
    text = str(detail.get("message") or message.get("error"))
    code = detail.get("code")
    if isinstance(code, int) and code != 0:
        # an instruction that was killed ends before the engine tells why
        late_seconds = OUT_OF_MEMORY_SECONDS if code == KILLED_EXIT_CODE else 0.0
        if _was_out_of_memory(engine, order.labels, started_at, late_seconds=late_seconds):
            return RunResult(Outcome.OUT_OF_MEMORY)
        return result_of_exit(code, None, None)
    if _MACHINE.search(text):
        raise InfrastructureError(f"the Docker engine: {text}")
    # first what an instruction failed with: the rest of such a text is the repository's own words
    for pattern, exit_code in ((_INSTRUCTION_FAILED, 1), (_NOT_EXECUTABLE, 126), (_NOT_FOUND, 127)):
        if pattern.search(text):
            return RunResult(Outcome.FAILED, exit_code, problem=text)
    if _INVALID.search(text):
        return RunResult(
            Outcome.PIPELINE_INVALID, problem=f"Dockerfile: {order.dockerfile.original_lines(text)}"
        )
    if _PULLED.search(text):
        # The builder looks for what it does not find at Docker Hub, and tells what that answers.
        raise InfrastructureError("an image that the Dockerfile names went away while it was built")
    raise InfrastructureError(f"the Docker engine could not build the Dockerfile: {text}")


def _was_out_of_memory(
    engine: DockerEngine, labels: Mapping[str, str], started_at: float, *, late_seconds: float
) -> bool:
    """Whether a step of this build was killed for its memory: its container is gone by now.

    late_seconds: how long to wait for that event.
    """
    late_until = time.monotonic() + late_seconds
    while not _has_reported_lack(engine, labels, started_at):
        if time.monotonic() >= late_until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _has_reported_lack(engine: DockerEngine, labels: Mapping[str, str], started_at: float) -> bool:
    """Whether the engine has reported by now that something of this build lacked memory."""
    with suppress(docker.errors.APIError):
        return any(
            engine.client().events(
                # the label says whose event it is; the hour is for a clock that differs
                since=int(started_at) - 3600,
                # the past only, to the microsecond, so that the engine does not wait for more
                until=f"{time.time():.6f}",  # type: ignore[call-overload]
                filters={"event": "oom", "label": f"{BUILD_LABEL}={labels[BUILD_LABEL]}"},
                decode=True,
            )
        )
    return False
