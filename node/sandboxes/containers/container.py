"""One hardened container: what it is made of, and how it is confined. Blocking.

The caller removes the container, even if creating it failed half-way: its labels identify it.
"""

import posixpath
from collections.abc import Mapping
from typing import Any

import docker
import docker.errors
import docker.types
import msgspec

from node.sandboxes.containers.docker_engine import Image
from node.sandboxes.containers.hosts_file import (
    HOST_NAME,
    hosts_mount,
    is_missing,
    write_hosts_file,
)
from node.sources.tree import BUILD_USER_ID

HOME = "/home/build"
TEMPORARY = "/tmp"  # noqa: S108 (inside the container, a file system of its own)
# what programs share in /dev/shm
SHARED_BYTES = 64 * 2**20
# of a file system in the place of a volume that an image declares
VOLUME_BYTES = 64 * 2**20
OPEN_FILES_MAX = 16_384
CPU_PERIOD_MICROSECONDS = 100_000
# where the machine itself runs out of memory, builds go first, not nodes
OUT_OF_MEMORY_SCORE = 500
# a file in memory costs the kernel memory beyond its contents; so many bytes for each one
BYTES_PER_FILE = 8192
# so that a small file system still takes a tree of many empty files
FILES_MIN = 120_000
# a network namespace that has no way out, and that other containers can join
JOINABLE = "none"
# the kernel's setting that keeps ::1 from its loopback interface
NO_IPV6 = "net.ipv6.conf.lo.disable_ipv6"
# before the id of a container whose network is joined
JOINING = "container:"
# What programs need that begin as root, prepare their folders, and go on as another user.
ROOT_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID")
# of a file system that is the build's own; beside it, its folder in the image may say who may what
OWNER = f"uid={BUILD_USER_ID},gid={BUILD_USER_ID}"


class ContainerOrder(msgspec.Struct, frozen=True):
    """What to run, and its limits."""

    image: Image
    name: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    # entrypoint and command: None means what the image says
    entrypoint: tuple[str, ...] | None
    command: tuple[str, ...] | None
    # None for a container that nobody waits for
    seconds: float | None
    # of its processes and of everything that it writes into its file systems in memory, the volumes
    # included
    memory_bytes: int
    cpus: float
    pids: int
    # bytes of each file system that ends with the container, by path
    temporary: Mapping[str, int]
    # shared file systems, by path: the name, and whether it can be written to
    volumes: Mapping[str, tuple[str, bool]] = {}
    # shared file systems that are made and removed along with this container, by path: the options
    # of a file system in memory
    new_volumes: Mapping[str, str] = {}
    working_directory: str | None = None
    # the name of the engine's network, None for none. JOINABLE costs the engine as much as a
    # network does
    network: str | None = None
    # where the network is JOINABLE: names that mean its loopback address, and whether it has ::1
    host_names: tuple[str, ...] = ()
    has_ipv6: bool = True
    # whether its standard input is open; whoever attaches to it may close it
    has_input: bool = False
    # whether it is root, with no more than ROOT_CAPABILITIES; else it is the build's user
    is_root: bool = False


def create_container(client: docker.APIClient, order: ContainerOrder) -> str:
    """The id of a container that is made and not started. Raises what the library raises."""
    if order.network is not None:
        return _create(client, order, None)
    hosts = hosts_mount(client)
    try:
        return _create(client, order, hosts)
    except docker.errors.APIError as error:
        if not is_missing(hosts, error):
            raise
    write_hosts_file(client, order.image.id, order.labels)
    return _create(client, order, hosts)


def file_system_options(bytes_max: int) -> str:
    """Options of a file system in memory that limit its size."""
    return f"size={bytes_max},nr_inodes={files_max(bytes_max)}"


def files_max(bytes_max: int) -> int:
    """How many files a file system in memory of that size holds."""
    return FILES_MIN + bytes_max // BYTES_PER_FILE


def _create(
    client: docker.APIClient, order: ContainerOrder, hosts: docker.types.Mount | None
) -> str:
    created: dict[str, Any] = client.create_container(
        image=order.image.id,
        name=order.name,
        command=list(order.command) if order.command is not None else None,
        entrypoint=list(order.entrypoint) if order.entrypoint is not None else None,
        # whoever joins a network has the names of that
        hostname=None if _joins(order) else HOST_NAME,
        user="0:0" if order.is_root else f"{BUILD_USER_ID}:{BUILD_USER_ID}",
        # so that the init process hands a signal on to all, not to the shell alone
        environment=dict(order.environment) | {"TINI_KILL_PROCESS_GROUP": "1"},
        labels=dict(order.labels),
        working_dir=order.working_directory,
        stdin_open=order.has_input,
        network_disabled=order.network is None,
        # an image's own health check would be one more process that nobody asked for
        healthcheck={"test": ["NONE"]},
        host_config=_host_config(client, order, hosts),
    )
    container_id: str = created["Id"]
    return container_id


def _host_config(
    client: docker.APIClient, order: ContainerOrder, hosts: docker.types.Mount | None
) -> dict[str, Any]:
    """The isolation of the build; the same for every image and every pipeline."""
    flags = "rw,exec,nosuid,nodev,mode=1777"
    temporary = {
        path: f"{flags},{'' if path == TEMPORARY else OWNER + ','}{file_system_options(size)}"
        for path, size in order.temporary.items()
    }
    for declared in order.image.volumes:
        # A volume that an image declares would be a folder on the host without a quota.
        path = posixpath.normpath(declared)
        if path not in order.volumes and path not in order.new_volumes:
            temporary.setdefault(path, f"{flags},{file_system_options(VOLUME_BYTES)}")
    # /dev/shm is in memory as well
    memory_bytes = order.memory_bytes + SHARED_BYTES
    config: dict[str, Any] = client.create_host_config(
        cap_drop=["ALL"],
        cap_add=list(ROOT_CAPABILITIES) if order.is_root else None,
        security_opt=["no-new-privileges:true"],
        network_mode=order.network or "none",
        read_only=True,
        tmpfs=temporary,
        mounts=[
            *_shared(order.volumes),
            *_made_along(order.new_volumes, order.labels),
            *([] if hosts is None else [hosts]),
        ],
        **(_loopback(order) if order.network == JOINABLE else {}),
        # A first process that reaps orphans and makes a missing program an exit code. What others
        # are to join must not start without its program.
        init=order.network != JOINABLE,
        ipc_mode="private",
        shm_size=SHARED_BYTES,
        mem_limit=memory_bytes,
        # equal to the memory: no swap
        memswap_limit=memory_bytes,
        oom_score_adj=OUT_OF_MEMORY_SCORE,
        # quota and period, not nano_cpus: that one is refused on a machine with fewer CPUs
        cpu_period=CPU_PERIOD_MICROSECONDS,
        cpu_quota=max(1000, round(order.cpus * CPU_PERIOD_MICROSECONDS)),
        pids_limit=order.pids,
        ulimits=[
            docker.types.Ulimit(name="nofile", soft=OPEN_FILES_MAX, hard=OPEN_FILES_MAX),
            docker.types.Ulimit(name="core", soft=0, hard=0),
        ],
        # the output is read as it comes; nothing of it is kept by the engine
        log_config=docker.types.LogConfig(type="none"),
        restart_policy={"Name": "no"},
    )
    return config


def _joins(order: ContainerOrder) -> bool:
    return order.network is not None and order.network.startswith(JOINING)


def _loopback(order: ContainerOrder) -> dict[str, Any]:
    """What an engine leaves out of a namespace that it makes: ::1, and all names."""
    return {
        "extra_hosts": dict.fromkeys((HOST_NAME, *order.host_names), "127.0.0.1"),
        "sysctls": {NO_IPV6: "0"} if order.has_ipv6 else {},
    }


def lacks_ipv6(error: docker.errors.APIError) -> bool:
    """Whether a container did not start because the kernel has no IPv6."""
    return NO_IPV6.replace(".", "/") in str(error.explanation)


def _shared(volumes: Mapping[str, tuple[str, bool]]) -> list[docker.types.Mount]:
    return [
        docker.types.Mount(path, volume, type="volume", read_only=not is_writable, no_copy=True)
        for path, (volume, is_writable) in volumes.items()
    ]


def _made_along(
    new_volumes: Mapping[str, str], labels: Mapping[str, str]
) -> list[docker.types.Mount]:
    """Volumes without a name: the engine makes them, and removes them with the container."""
    return [
        docker.types.Mount(
            path,
            None,
            type="volume",
            no_copy=True,
            labels=dict(labels),
            driver_config=docker.types.DriverConfig(
                "local", {"type": "tmpfs", "device": "tmpfs", "o": options}
            ),
        )
        for path, options in new_volumes.items()
    ]
