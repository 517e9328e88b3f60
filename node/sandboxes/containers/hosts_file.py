"""Provides `/etc/hosts` to containers that have no network. Blocking.

An engine writes that file only when it makes the container's network namespace, which takes as long
as the rest of a start. Without a namespace (`network_disabled`) the file is empty, and nothing
resolves `localhost`. The contents are the same for all containers, so a volume of the engine holds
them, and each container mounts the file from there, read-only. The path is the engine's own, so the
engine may run on another machine. The node makes the volume when a container first needs it, and
the volume stays on the engine.
"""

import hashlib
import io
import tarfile
from collections.abc import Mapping

import docker
import docker.errors
import docker.types

HOST_NAME = "pbft-ci"
_PATH = "/etc/hosts"
# The kernel brings up lo with both addresses.
_CONTENT = (
    f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t{HOST_NAME}\n"
).encode()
_FILE = "hosts"
# Another release on the same engine may need another text.
VOLUME = f"pbft-ci-hosts-{hashlib.sha256(_CONTENT).hexdigest()[:8]}"
_FILLER_PATH = "/pbft-ci-hosts"


def hosts_mount(client: docker.APIClient) -> docker.types.Mount:
    """The mount of the file, which may not be there yet. Raises what the library raises."""
    # the engine returns the volume if it has it already
    volume = client.create_volume(VOLUME, driver="local")
    return docker.types.Mount(_PATH, f"{volume['Mountpoint']}/{_FILE}", type="bind", read_only=True)


def is_missing(mount: docker.types.Mount, error: docker.errors.APIError) -> bool:
    """Whether an engine refused a container because the file is not in the volume."""
    return error.is_client_error() and str(mount["Source"]) in str(error.explanation)


def write_hosts_file(client: docker.APIClient, image_id: str, labels: Mapping[str, str]) -> None:
    """Put the file into the volume. Raises what the library raises.

    image_id, labels: of a container that is never started: an engine writes into a volume only
    through a container. One that runs with an earlier file keeps that.
    """
    volume = docker.types.Mount(_FILLER_PATH, VOLUME, type="volume", no_copy=True)
    made = client.create_container(
        image_id,
        ["true"],
        labels=dict(labels),
        network_disabled=True,
        host_config=client.create_host_config(network_mode="none", mounts=[volume]),
    )
    try:
        client.put_archive(made["Id"], _FILLER_PATH, _archive())
    finally:
        client.remove_container(made["Id"], force=True, v=True)


def _archive() -> bytes:
    header = tarfile.TarInfo(_FILE)
    header.size, header.mode = len(_CONTENT), 0o444
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as file:
        file.addfile(header, io.BytesIO(_CONTENT))
    return archive.getvalue()
