"""The Docker engine as this node uses it: connections, images, and this replica's objects on it.

Four replicas may share one engine. Only labels, and descent from an image that carries them,
identify what belongs to a build. So no replica touches the objects of another.
"""

import asyncio
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.utils
import msgspec
import urllib3.exceptions

from node.sandboxes.containers.engine_client import Connections, EngineClient
from node.sandboxes.containers.registry_answers import ImageAbsent, absent_or_raise
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

CLUSTER_LABEL = "pbft-ci.cluster"
REPLICA_LABEL = "pbft-ci.replica"
BUILD_LABEL = "pbft-ci.build"

# for one ordinary answer of the engine; builds and pulls have limits of their own
ANSWER_SECONDS_MAX = 60

# while an engine unpacks an image that it was sent, it says nothing
IMPORT_SECONDS_MAX = 600

# for one question to a registry, which the engine passes on
REGISTRY_SECONDS_MAX = 30

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_LIBRARY_ERRORS = (docker.errors.DockerException, urllib3.exceptions.HTTPError, OSError)


class Image(msgspec.Struct, frozen=True):
    """An image on the engine."""

    id: str
    # the registry's; None for one that never was in a registry
    digest: str | None
    # paths that it declares as volumes
    volumes: tuple[str, ...]
    # whether it has a command to run
    has_command: bool
    # whether its ONBUILD instructions run in a build upon it
    has_triggers: bool
    # with all its layers, also those that it shares
    bytes: int
    # the program and arguments of its HEALTHCHECK; empty: it has none
    health_check: tuple[str, ...] = ()


class EngineResources(msgspec.Struct):
    """What a build has on the engine, in the order in which it was made."""

    # Ids.
    containers: list[str] = []
    networks: list[str] = []
    # The container that keeps the workspace, once it was made.
    keeper: str | None = None
    # There is nothing else. False after an error: the engine may have made something whose answer
    # was lost.
    is_certain: bool = False
    # The engine may still be building an image.
    is_building: bool = False
    # Ends when the engine has answered the request to build the image.
    builder: asyncio.Task[Any] | None = None
    # Of the image.
    tag: str | None = None


class DockerEngine:
    """Connections to one engine, made when first needed; for use in threads."""

    def __init__(
        self,
        docker_host: str | None,
        connections_max: int,
        tls_folder: Path | None = None,
        *,
        runtime: str | None = None,
    ) -> None:
        """docker_host: None for DOCKER_HOST or the default socket. The others: as in node.yml."""
        self._docker_host = docker_host
        self._tls_folder = tls_folder
        self._runtime = runtime
        self._connections_max = connections_max
        self._lock = threading.Lock()
        self._client: docker.APIClient | None = None

    def client(self) -> docker.APIClient:
        """The shared connection pool. Raises what the library raises: see `engine_errors`."""
        with self._lock:
            if self._client is None:
                self._client = self.new_client()
            return self._client

    @contextmanager
    def stream_client(self, stop: Stop, given_up: Stop | None = None) -> Iterator[docker.APIClient]:
        """A connection of its own for one answer that goes on for long; `stop` breaks it off.

        An engine gives up a build whose client has gone. given_up: tells it to do so, and leaves
        the rest of its answer to be read: that ends when the engine has really given up.
        """
        given_up = given_up or Stop()
        client = self.new_client()
        connections = Connections(client)
        try:
            with (
                stop.interrupting(connections.break_off),
                given_up.interrupting(connections.end_requests),
            ):
                yield client
        finally:
            client.close()

    def new_client(self) -> EngineClient:
        """Connections of its own, which the caller closes. Raises what the library raises."""
        environment = dict(os.environ)
        if self._docker_host is not None:
            environment["DOCKER_HOST"] = self._docker_host
        # with a swarm, some engines may be reached otherwise
        is_tcp = environment.get("DOCKER_HOST", "").startswith("tcp://")
        if self._tls_folder is not None and is_tcp:
            environment["DOCKER_TLS_VERIFY"] = "1"
            environment["DOCKER_CERT_PATH"] = str(self._tls_folder)
        return EngineClient(
            **docker.utils.kwargs_from_env(environment=environment),
            runtime=self._runtime,
            timeout=ANSWER_SECONDS_MAX,
            max_pool_size=self._connections_max,
        )

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def find_image(self, name: str) -> Image | None:
        """The image of that name on the engine, None where it is not there.

        An engine takes the beginning of an image's id for a name as well. We do not: a pipeline
        must not reach what other builds leave between two of their steps.
        """
        found = self._inspect(name)
        if found is None:
            return None
        names = (*(found.get("RepoTags") or []), *(found.get("RepoDigests") or []))
        if _repository(name) not in {_repository(entry) for entry in names}:
            return None
        return _image(found, digest_of(name, found.get("RepoDigests") or []))

    def built_image(self, image_id: str) -> Image | None:
        """An image that was built here, by its id."""
        found = self._inspect(image_id)
        return None if found is None else _image(found, None)

    def registry_digest(self, name: str, login: Mapping[str, str], stop: Stop) -> str | ImageAbsent:
        """The digest ("sha256:...") that a registry gives a name right now; asked by the engine.

        A name with a digest has that one, if the registry has it. Of an image for several platforms
        it is that of the list of them, as in RepoDigests, so that machines of different kinds
        compare the same. Raises RegistryRefuses, and InfrastructureError for every other answer.
        """
        try:
            with self.stream_client(stop) as client:
                client.timeout = REGISTRY_SECONDS_MAX
                answer = client.inspect_distribution(name, auth_config=dict(login))  # type: ignore[no-untyped-call]
        except docker.errors.APIError as error:
            return absent_or_raise(name, str(error.explanation or error))
        digest = str(answer["Descriptor"]["digest"])
        if _DIGEST.fullmatch(digest) is None:
            raise InfrastructureError(f"the registry gives {name} a digest of an unknown form")
        return digest

    def pull(
        self, name: str, login: Mapping[str, str], silence_seconds_max: int, *, stop: Stop
    ) -> ImageAbsent | None:
        """Get an image from its registry; ImageAbsent where the registry has none.

        login: for that registry, empty for none. silence_seconds_max: the engine says nothing while
        it waits for a registry. Raises RegistryRefuses, InfrastructureError for every other answer
        and for none, Stopped.
        """
        try:
            with self.stream_client(stop) as client:
                client.timeout = silence_seconds_max
                pulled = client.pull(name, stream=True, decode=True, auth_config=dict(login))
                for message in pulled:
                    if "error" in message:
                        return absent_or_raise(name, str(message["error"]))
        except docker.errors.APIError as error:
            return absent_or_raise(name, str(error.explanation or error))
        except _LIBRARY_ERRORS:
            stop.check()
            raise
        stop.check()
        return None

    def import_image(self, tar: Path | bytes, labels: Mapping[str, str], stop: Stop) -> str:
        """The id of a new image that holds the content of a tar file, and carries these labels.

        Raises InfrastructureError if the engine makes none, Stopped, and what the library raises.
        """
        marks = " ".join(f"{json.dumps(key)}={json.dumps(value)}" for key, value in labels.items())
        with self.stream_client(stop) as client:
            client.timeout = IMPORT_SECONDS_MAX
            answer = client.import_image(
                src=str(tar) if isinstance(tar, Path) else tar, changes=[f"LABEL {marks}"]
            )
        stop.check()
        made = _DIGEST.findall(answer)
        if not made:
            raise InfrastructureError("the Docker engine made no image of the inputs")
        return str(made[-1])

    def remove_names(self, names: Iterable[str]) -> bool:
        """Take names from an image, which goes with its last one; whether all are gone now.

        False where a container or another image needs it. Raises what the library raises.
        """
        for name in names:
            try:
                self.client().remove_image(name)
            except docker.errors.ImageNotFound:
                continue
            except docker.errors.APIError as error:
                if error.status_code == HTTPStatus.CONFLICT:
                    return False
                raise
        return True

    def remove_certain(self, resources: EngineResources) -> None:
        """Remove what is known to be all of a build, with the volumes that the containers made.

        Raises what the library raises.
        """
        client = self.client()
        # the last one first: the first keeps the volumes of the others
        while resources.containers:
            client.remove_container(resources.containers[-1], force=True, v=True)
            resources.containers.pop()
        while resources.networks:
            client.remove_network(resources.networks[-1])
            resources.networks.pop()

    def remove(self, is_ours: Callable[[Mapping[str, str]], bool]) -> int:
        """Remove everything whose labels are ours, and all images that descend from ours.

        Returns how many there were: containers, images, volumes, networks. Raises what the library
        raises.
        """
        client = self.client()
        images: list[dict[str, Any]] = client.images(all=True)
        ours = images_of(images, is_ours)
        containers = [
            container["Id"]
            for container in client.containers(all=True)
            if is_ours(container["Labels"] or {}) or container["ImageID"] in ours
        ]
        for container_id in containers:
            # gone already, or just being removed by somebody else
            with suppress(docker.errors.NotFound), _already_in_progress():
                client.remove_container(container_id, force=True, v=True)
        # from the leaves: the engine removes parents that nothing needs any more along with them
        for image_id in ours - {image["ParentId"] for image in images}:
            with suppress(docker.errors.NotFound), _already_in_progress():
                client.remove_image(image_id, force=True)
        return len(containers) + len(ours) + _remove_shared(client, is_ours)

    def _inspect(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.client().inspect_image(name)  # type: ignore[no-untyped-call]
        except docker.errors.ImageNotFound:
            return None
        return found


@contextmanager
def engine_errors() -> Iterator[None]:
    """The library's errors as InfrastructureError: the engine is down, refuses, or broke off.

    So are errors of this machine itself, such as a full disk, under their own names.
    """
    try:
        yield
    except docker.errors.APIError as error:
        raise InfrastructureError(f"the Docker engine: {error.explanation or error}") from error
    except _LIBRARY_ERRORS as error:
        # the library's connection errors are OSErrors too, without a number
        is_local = isinstance(error, OSError) and error.errno is not None
        whose = "this machine" if is_local else "the Docker engine"
        raise InfrastructureError(f"{whose}: {error}") from error


def images_of(
    images: Iterable[Mapping[str, Any]], is_ours: Callable[[Mapping[str, str]], bool]
) -> set[str]:
    """The ids of images, of all that an engine listed, that are ours or descend from one of ours.

    A Dockerfile can change its labels later on, but not what its layers were built upon.
    """
    ours: set[str] = set()
    pending: list[str] = []
    children: dict[str, list[str]] = {}
    for image in images:
        children.setdefault(image["ParentId"], []).append(image["Id"])
        if is_ours(image["Labels"] or {}):
            pending.append(image["Id"])
    while pending:
        image_id = pending.pop()
        if image_id not in ours:
            ours.add(image_id)
            pending += children.get(image_id, [])
    return ours


def digest_of(name: str, repository_digests: list[str]) -> str | None:
    """The registry digest ("sha256:...") under which this name is known, None where there is none.

    Of several, the one that the name asks for, else the smallest, so that the order does not
    matter.
    """
    asked = name.partition("@")[2]
    digests = sorted(
        entry.partition("@")[2]
        for entry in repository_digests
        if _repository(entry) == _repository(name)
    )
    if asked in digests:
        return asked
    return digests[0] if digests else None


def _repository(name: str) -> str:
    """A name without tag and digest, and without what Docker leaves out when it shows one."""
    head, slash, last = name.partition("@")[0].rpartition("/")
    repository = head + slash + last.partition(":")[0]
    for prefix in ("docker.io/", "index.docker.io/"):
        repository = repository.removeprefix(prefix)
    return repository.removeprefix("library/")


def _image(found: dict[str, Any], digest: str | None) -> Image:
    settings = found.get("Config") or {}
    return Image(
        id=found["Id"],
        digest=digest,
        volumes=tuple(settings.get("Volumes") or {}),
        has_command=bool(settings.get("Cmd") or settings.get("Entrypoint")),
        has_triggers=bool(settings.get("OnBuild")),
        bytes=int(found.get("Size") or 0),
        health_check=_health_check(settings),
    )


def _health_check(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What an image's HEALTHCHECK runs, as engines read it: CMD, CMD-SHELL, or NONE."""
    kind, *words = (settings.get("Healthcheck") or {}).get("Test") or ["NONE"]
    if kind == "CMD-SHELL":
        return (*(settings.get("Shell") or ("/bin/sh", "-c")), *words)
    return tuple(words) if kind == "CMD" else ()


def _remove_shared(client: docker.APIClient, is_ours: Callable[[Mapping[str, str]], bool]) -> int:
    """Remove volumes and networks that are ours; no container uses them any more."""
    volumes = [
        volume["Name"]
        for volume in client.volumes()["Volumes"] or ()
        if is_ours(volume["Labels"] or {})
    ]
    networks = [network["Id"] for network in client.networks() if is_ours(network["Labels"] or {})]
    for volume in volumes:
        with suppress(docker.errors.NotFound), _already_in_progress():
            client.remove_volume(volume, force=True)
    for network in networks:
        with suppress(docker.errors.NotFound), _already_in_progress():
            client.remove_network(network)
    return len(volumes) + len(networks)


@contextmanager
def _already_in_progress() -> Iterator[None]:
    """The engine's way of saying that somebody else is removing it right now."""
    try:
        yield
    except docker.errors.APIError as error:
        if "already in progress" not in str(error.explanation):
            raise
