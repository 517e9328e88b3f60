"""The file systems that the steps of one build share: workspace and HOME, in memory. Blocking.

They are volumes of the engine that live in memory and have a fixed size. So a full volume is an
error that every replica sees alike, no disk quota is needed, and nothing of a build reaches a disk
of the host. Such a volume exists only while a container uses it. A small container, the keeper,
uses the volumes from before the first step until after the last. The volumes are made and removed
together with the keeper.
"""

import re
import tarfile
import time
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import docker
import docker.errors
import msgspec

from ci.limits import Limits
from node.dependencies.hand_in import INPUTS, HandedInputs
from node.outputs.artifact_store import (
    SECOND_NAME,
    SPECIAL_FILE,
    SYMBOLIC_LINK,
    Collector,
    FilesWrong,
    check_on_the_way,
    take_from_archive,
)
from node.sandboxes.containers.container import (
    HOME,
    OWNER,
    ContainerOrder,
    create_container,
    file_system_options,
    lacks_ipv6,
)
from node.sandboxes.containers.docker_engine import EngineResources, Image
from node.sources.tree import WORKSPACE
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop

TRUST = "/pbft-ci"
CA_FILE = f"{TRUST}/ca.pem"
TRUST_BYTES = 8 * 2**20
KEEPER_MEMORY_BYTES = 32 * 2**20
KEEPER_PIDS = 16
CHUNK_BYTES = 256 * 1024
# for its own tables
FILE_SYSTEM_BYTES = 2**20
# for a few builtin commands of a shell
QUESTION_SECONDS_MAX = 30.0
QUESTION_POLL_SECONDS = 0.02
# Ends with the place of the first argument that is the same file as one before it, 0 for none.
# There are fewer arguments than exit codes (ci.limits).
_FIND_SECOND_NAME = """n=0
for later do
  n=$((n + 1)); m=0
  for earlier do
    m=$((m + 1))
    if [ $m -ge $n ]; then break; fi
    if [ "./$later" -ef "./$earlier" ]; then exit $n; fi
  done
done
exit 0"""
FOLDER = "folder"
_READ_ONLY = (TRUST, INPUTS)
_NO_PROGRAM = (126, 127)
# What runtimes say if a container's own program is not there.
_NO_SHELL = re.compile(r"exec: .{0,9}sh\b.*(not found|no such file|permission denied)")
_GO_FOLDER = 1 << 31
_GO_SYMBOLIC_LINK = 1 << 27


class Workspace(msgspec.Struct, frozen=True):
    """The shared file systems of a build: the names of their volumes, and the keeper's id."""

    keeper: str
    volumes: Mapping[str, tuple[str, bool]]


def make_workspace(
    client: docker.APIClient,
    keeper: ContainerOrder,
    limits: Limits,
    *,
    ca_bundle: bytes | None,
    inputs: HandedInputs | None = None,
    resources: EngineResources,
) -> Workspace:
    """Make the file systems, empty but for the certificates, and start the keeper.

    keeper: of `keeper_order`. inputs: what lock files pin. resources: gets the keeper's id.

    Raises what the library raises.
    """
    sizes = {WORKSPACE: limits.workspace_bytes, HOME: limits.home_bytes}
    if ca_bundle is not None:
        sizes[TRUST] = TRUST_BYTES
    if inputs is not None:
        sizes[INPUTS] = inputs_volume_bytes(inputs)
    order = msgspec.structs.replace(
        keeper,
        new_volumes={path: volume_options(path, size) for path, size in sizes.items()},
    )
    container = _start_keeper(client, order, resources)
    resources.keeper = container
    if ca_bundle is not None:
        client.put_archive(container, TRUST, _archive("ca.pem", ca_bundle))
    mounts = client.inspect_container(container)["Mounts"]
    names = {mount["Destination"]: mount["Name"] for mount in mounts if mount["Type"] == "volume"}
    return Workspace(container, {path: (names[path], path not in _READ_ONLY) for path in sizes})


def _start_keeper(
    client: docker.APIClient, order: ContainerOrder, resources: EngineResources
) -> str:
    container = create_container(client, order)
    resources.containers.append(container)
    try:
        client.start(container)
    except docker.errors.APIError as error:
        if order.has_ipv6 and lacks_ipv6(error):
            client.remove_container(resources.containers.pop(), force=True, v=True)
            without = msgspec.structs.replace(order, has_ipv6=False)
            return _start_keeper(client, without, resources)
        # An image without a shell, which `keeper_end` tells: without an init process that is an
        # error of the start.
        if _NO_SHELL.search(str(error.explanation)) is None:
            raise
    return container


def keeper_order(
    image: Image, name: str, labels: Mapping[str, str], *, limits: Limits
) -> ContainerOrder:
    """A container that runs until it is removed, for what others share; it needs a shell."""
    return ContainerOrder(
        image=image,
        name=f"{name}-keeper",
        labels=labels,
        environment={},
        # a shell that waits for a line which never comes; it is no safer than any other step
        entrypoint=("sh", "-c", "read -r pbft_ci_line"),
        command=(),
        seconds=None,
        memory_bytes=KEEPER_MEMORY_BYTES,
        cpus=limits.cpus,
        pids=KEEPER_PIDS,
        temporary={},
        has_input=True,
    )


def volume_options(path: str, size: int) -> str:
    """Of a volume in memory of that size, for this path of a build."""
    # Certificates and inputs are root's own. The keeper has them writable, so that the engine can
    # put them in. What the build writes to is for everybody: an engine that maps users has another
    # number for the build's.
    rights = "mode=0755" if path in _READ_ONLY else f"{OWNER},mode=1777"
    return f"nosuid,nodev,{rights},{file_system_options(size)}"


def inputs_volume_bytes(inputs: HandedInputs) -> int:
    """The size of the volume at INPUTS."""
    return inputs.page_bytes + FILE_SYSTEM_BYTES


def fill_inputs(
    client: docker.APIClient, container: str, inputs: HandedInputs, *, stop: Stop
) -> None:
    """Put in what the build's lock files pin.

    container: one that runs, with a volume at INPUTS. Raises Stopped, OSError and what the library
    raises.
    """
    with inputs.archive.open("rb") as file:
        client.put_archive(container, INPUTS, _chunks(file, stop))


def fill_home(client: docker.APIClient, container: str, inputs: HandedInputs) -> None:
    """Put in what tools read in HOME of those. container: one that runs, with a volume at HOME.

    Raises what the library raises.
    """
    if inputs.home:
        client.put_archive(container, HOME, inputs.home)


def fill_workspace(
    client: docker.APIClient, workspace: Workspace, tree: Path, *, stop: Stop
) -> None:
    """Unpack a tar file into the workspace; the engine does it, the image needs no tar.

    Raises Stopped, OSError and what the library raises.
    """
    with tree.open("rb") as file:
        client.put_archive(workspace.keeper, WORKSPACE, _chunks(file, stop))


def keeper_end(client: docker.APIClient, workspace: Workspace) -> int | None:
    """None while the keeper runs; the exit code of an image that has no shell to keep with.

    Raises InfrastructureError where the keeper is gone for another reason: the workspace is then,
    too.
    """
    state: dict[str, Any] = client.inspect_container(workspace.keeper)["State"]
    if state["Running"]:
        return None
    code = int(state["ExitCode"])
    if code in _NO_PROGRAM:
        return code
    raise InfrastructureError(
        f"the container that keeps the workspace has ended with exit code {code}"
    )


def take_files(
    client: docker.APIClient,
    workspace: Workspace,
    collector: Collector,
    *,
    limits: Limits,
    stop: Stop,
) -> None:
    """Give the collector copies of what it wants of the workspace.

    The engine reads it, so the image needs no tar, and nobody can write meanwhile: no step runs
    any more. Raises FilesWrong, InfrastructureError, Stopped, OSError and what the library raises.
    """
    keeper_end(client, workspace)
    for root in collector.roots():
        for folder in collector.folders_on_the_way(root):
            # asked for only to learn what it is: that is said before the first piece
            found = archive_of(client, workspace.keeper, f"{WORKSPACE}/{folder}")
            if found is not None:
                found[0].close()
                check_on_the_way(folder, found[1])
        wanted = archive_of(client, workspace.keeper, f"{WORKSPACE}/{root}".rstrip("/"))
        if wanted is not None:
            stream = cast(IO[bytes], ArchiveStream(wanted[0], stop))
            take_from_archive(collector, root, stream, stop=stop, most=limits.workspace_bytes)
    second = _second_name(client, workspace, collector.equal_files(), stop=stop)
    if second is not None:
        raise FilesWrong(second, f"is {SECOND_NAME}, no plain file")


def _second_name(
    client: docker.APIClient, workspace: Workspace, paths: tuple[str, ...], *, stop: Stop
) -> str | None:
    """Which of these is another name of the file of one before it; None: none, or nobody knows.

    An archive shows that of the names in it alone. So the keeper's shell is asked about those with
    equal content, by a test that has no output and needs no program.
    """
    if not paths:
        return None
    started = client.exec_create(
        workspace.keeper, ["sh", "-c", _FIND_SECOND_NAME, "pbft-ci", *paths], workdir=WORKSPACE
    )
    client.exec_start(started["Id"], detach=True)
    ends_at = time.monotonic() + QUESTION_SECONDS_MAX
    while time.monotonic() < ends_at:
        state = client.exec_inspect(started["Id"])
        if not state["Running"]:
            number = int(state["ExitCode"] or 0)
            return paths[number - 1] if 1 <= number <= len(paths) else None
        stop.wait(QUESTION_POLL_SECONDS)
        stop.check()
    raise InfrastructureError("the container that keeps the workspace does not answer")


def archive_of(
    client: docker.APIClient, keeper: str, path: str
) -> tuple[Generator[bytes, None, None], str] | None:
    """The engine's tar of an absolute path in the keeper, and what it is; None: it is not there.

    The engine follows links above the last part of the path.
    """
    try:
        pieces, found = client.get_archive(keeper, path)
    except docker.errors.NotFound:
        return None
    return pieces, _kind_of_go_mode(int(found["mode"]))


def _kind_of_go_mode(mode: int) -> str:
    """The engine describes files as Go does (io/fs.FileMode)."""
    if mode & _GO_FOLDER:
        return FOLDER
    return SYMBOLIC_LINK if mode & _GO_SYMBOLIC_LINK else SPECIAL_FILE


class ArchiveStream:
    """An answer that comes in pieces, as a file to read from."""

    def __init__(self, pieces: Iterable[bytes], stop: Stop) -> None:
        self._pieces = iter(pieces)
        self._rest = b""
        self._stop = stop

    def read(self, size: int) -> bytes:
        """The next bytes, fewer only at the end."""
        parts = [self._rest]
        missing = size - len(self._rest)
        while missing > 0:
            self._stop.check()
            piece = next(self._pieces, b"")
            if not piece:
                break
            parts.append(piece)
            missing -= len(piece)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]


def _chunks(file: IO[bytes], stop: Stop) -> Iterable[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        stop.check()
        yield chunk


def _archive(name: str, data: bytes) -> bytes:
    """A tar archive with one file, which everybody may read."""
    header = tarfile.TarInfo(name)
    header.size, header.mode = len(data), 0o644
    block = tarfile.BLOCKSIZE
    padding = b"\0" * (-len(data) % block + 2 * block)
    return header.tobuf(tarfile.USTAR_FORMAT) + data + padding
