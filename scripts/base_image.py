"""A small image for the example and the tests: BusyBox, from wherever this machine can get it."""

import argparse
import io
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import docker
import docker.errors
import requests

from scripts.folders import RUN, exclusive

EXAMPLE_IMAGE = "pbft-ci-example/busybox:1"
UPSTREAM_IMAGE = "busybox:1.36"
# a registry that cannot be reached may keep the engine waiting for minutes
PULL_SECONDS_MAX = 20
LOCAL_BUSYBOX = Path("/bin/busybox")


class NoBaseImage(RuntimeError):
    """There is no base image and none could be made; the text says what to do."""


def ensure_example_image(client: docker.DockerClient) -> str:
    """The name of an image with sh, tar and the usual small tools, ready on the engine.

    Takes EXAMPLE_IMAGE where it is there, else UPSTREAM_IMAGE where it is there, else pulls that
    one (PULL_SECONDS_MAX at most), else makes EXAMPLE_IMAGE out of this machine's own BusyBox.
    Raises NoBaseImage; docker.errors.DockerException where the engine does not answer.
    """
    for name in (EXAMPLE_IMAGE, UPSTREAM_IMAGE):
        if has_image(client, name):
            return name
    # two may find it missing at once: then the second takes what the first made
    with exclusive(RUN / "base-image.lock"):
        return _make_example_image(client)


def _make_example_image(client: docker.DockerClient) -> str:
    for name in (EXAMPLE_IMAGE, UPSTREAM_IMAGE):
        if has_image(client, name):
            return name
    print(f"pulling {UPSTREAM_IMAGE} (at most {PULL_SECONDS_MAX} s) ...", flush=True)
    problem = pull_bounded(client, UPSTREAM_IMAGE, PULL_SECONDS_MAX)
    if problem is None:
        return UPSTREAM_IMAGE
    print(f"not pulled: {problem}; making {EXAMPLE_IMAGE} from {LOCAL_BUSYBOX}", flush=True)
    import_busybox(client, EXAMPLE_IMAGE)
    return EXAMPLE_IMAGE


def has_image(client: docker.DockerClient, name: str) -> bool:
    """Whether the engine has this image."""
    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def pull_bounded(client: docker.DockerClient, name: str, seconds_max: float) -> str | None:
    """Pull an image; None where it worked in time, else why not in one line."""
    problems: list[str] = []

    def pull() -> None:
        try:
            client.images.pull(name)
        except (docker.errors.DockerException, requests.RequestException) as error:
            problems.append(" ".join(str(error).split())[:300])

    # a daemon thread: the engine may take minutes to give up, and nobody waits for it
    thread = threading.Thread(target=pull, name="pull", daemon=True)
    thread.start()
    thread.join(seconds_max)
    if thread.is_alive():
        return f"no answer within {seconds_max:g} s"
    return problems[0] if problems else None


def import_busybox(client: docker.DockerClient, name: str) -> None:
    """Make an image out of this machine's statically linked BusyBox. Raises NoBaseImage."""
    if not LOCAL_BUSYBOX.is_file():
        raise NoBaseImage(
            f"{LOCAL_BUSYBOX} is not there; install busybox-static, or pull {UPSTREAM_IMAGE}"
        )
    listed = subprocess.run(
        [LOCAL_BUSYBOX, "--list"], check=True, capture_output=True, text=True, timeout=10
    )
    repository, _, tag = name.partition(":")
    client.api.import_image_from_data(
        _root_file_system(listed.stdout.split()),
        repository=repository,
        tag=tag,
        changes=['CMD ["sh"]', "ENV PATH=/bin"],
    )
    # a binary that needs shared libraries imports well and then runs nothing
    try:
        client.containers.run(name, ["true"], remove=True, network_mode="none")
    except (docker.errors.ContainerError, docker.errors.APIError) as error:
        client.images.remove(name, force=True)
        raise NoBaseImage(
            f"{LOCAL_BUSYBOX} is not statically linked; install busybox-static"
        ) from error


def _root_file_system(applets: list[str]) -> bytes:
    """A tar of bin/busybox with a link per applet, and the folders that programs expect."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        binary = LOCAL_BUSYBOX.read_bytes()
        _add_file(archive, "bin/busybox", binary, mode=0o755)
        _add_file(archive, "etc/passwd", b"nobody:x:65534:65534:nobody:/:/bin/sh\n", mode=0o644)
        _add_file(archive, "etc/group", b"nogroup:x:65534:\n", mode=0o644)
        for applet in sorted(set(applets) - {"busybox"}):
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)
    return buffer.getvalue()


def _add_file(archive: tarfile.TarFile, name: str, data: bytes, *, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def main() -> int:
    """`python -m scripts.base_image`: make sure that the image is there and print its name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docker-host", help="the engine (default: DOCKER_HOST)")
    docker_host: str | None = parser.parse_args().docker_host
    try:
        client = docker.DockerClient(base_url=docker_host) if docker_host else docker.from_env()
        print(ensure_example_image(client))
    except (NoBaseImage, docker.errors.DockerException) as error:
        print(f"no base image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
