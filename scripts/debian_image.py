"""An image to build ordinary projects in, for tests where no registry can be pulled from.

Debian with Python, a C compiler, make, git and Node.js, put together by mmdebstrap from the mirror
that this machine's apt uses. The archive is kept in run/cache/, so it is made once.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import docker
import docker.errors

from scripts.base_image import NoBaseImage, has_image
from scripts.folders import RUN, exclusive

SUITE = "bookworm"
PACKAGES = (
    "ca-certificates",
    "gcc",
    "git",
    "libc6-dev",
    "make",
    "nodejs",
    "python3",
    "python3-pip",
    "python3-venv",
)
REPOSITORY = "pbft-ci-example/debian"
# half a minute on a free machine with a mirror nearby
MAKE_SECONDS_MAX = 900
IMPORT_SECONDS_MAX = 300
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def image_name(more: Sequence[str] = ()) -> str:
    """The image's name; another list of packages is another image."""
    digest = hashlib.sha256(" ".join((SUITE, *PACKAGES, *more)).encode()).hexdigest()
    return f"{REPOSITORY}:{digest[:12]}"


def ensure_debian_image(
    client: docker.DockerClient, cache: Path = RUN / "cache", *, more: Sequence[str] = ()
) -> str:
    """The name of the image, ready on the engine; it stays there, as its archive stays in `cache`.

    more: packages beside PACKAGES.
    Raises NoBaseImage where it cannot be made, OSError, and docker.errors.DockerException.
    """
    name = image_name(more)
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(cache / "debian.lock"):
        if has_image(client, name):
            return name
        repository, _, tag = name.partition(":")
        archive = cache / f"debian-{tag}.tar"
        if not archive.exists():
            packages = ",".join((*PACKAGES, *more))
            make_archive(archive, ["--variant=minbase", f"--include={packages}"])
        print(f"importing {name} ...", file=sys.stderr, flush=True)
        # the library's client gives up after a minute without an answer
        timeout_seconds, client.api.timeout = client.api.timeout, IMPORT_SECONDS_MAX
        try:
            client.api.import_image_from_file(
                str(archive),
                repository=repository,
                tag=tag,
                changes=[f"ENV {PATH}", 'CMD ["bash"]'],
            )
        finally:
            client.api.timeout = timeout_seconds
    return name


def make_archive(archive: Path, options: Sequence[str]) -> None:
    """Write a tar archive of a Debian system. options: of mmdebstrap. Raises NoBaseImage."""
    program = shutil.which("mmdebstrap")
    if program is None or os.geteuid() != 0:
        raise NoBaseImage("mmdebstrap and root are needed: apt-get install mmdebstrap")
    print(f"making {archive} (at most {MAKE_SECONDS_MAX} s) ...", file=sys.stderr, flush=True)
    draft = archive.with_suffix(".new.tar")
    command = (program, "--quiet", *options)
    # the caller's umask and language would be in the image
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            [*command, SUITE, draft],
            env=environment,
            capture_output=True,
            text=True,
            timeout=MAKE_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        draft.unlink(missing_ok=True)
        raise NoBaseImage(f"mmdebstrap took more than {MAKE_SECONDS_MAX} s") from error
    if done.returncode != 0:
        draft.unlink(missing_ok=True)
        raise NoBaseImage(f"mmdebstrap failed: {' '.join(done.stderr.split())[-300:]}")
    draft.rename(archive)


def main() -> int:
    """`python -m scripts.debian_image`: make sure that the image is there and print its name."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    try:
        print(ensure_debian_image(docker.from_env()))
    except (NoBaseImage, OSError, docker.errors.DockerException) as error:
        print(f"no image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
