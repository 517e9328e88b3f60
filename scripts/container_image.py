"""The container image of node, gateway and command line (docs/decisions/0026).

Debian with Python, git and an ssh client, put together by mmdebstrap, and the wheel of this
checkout with the libraries of requirements.txt. All that is fetched is fetched here, with this
machine's settings of apt and pip. Nothing of them comes into the image.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import docker
import docker.errors

from common.version import VERSION
from scripts.base_image import NoBaseImage
from scripts.debian_image import IMPORT_SECONDS_MAX, make_archive
from scripts.folders import ROOT, RUN, exclusive

IMAGE = f"pbft-ci:{VERSION}"
# of scripts.debian_image.SUITE
PYTHON = "3.11"
USER = "pbft-ci"
# Any number that no system has by itself. Named volumes keep it, so it must stay as it is.
USER_ID = 10001
INSTALLATION = "/opt/pbft-ci"
CONFIGURATION = "/etc/pbft-ci"
DATA = "/var/lib/pbft-ci"
PATH = f"{INSTALLATION}/bin:/usr/local/bin:/usr/bin:/bin"
# what is installed, while it is: no folder of the image
CONTEXT = "/context"
COMMAND_SECONDS_MAX = 600

PACKAGES = ("ca-certificates", "git", "openssh-client", "python3")
# git names it, for commands that nobody needs here (send-email, svn); 50 MB
NOT_NEEDED = ("liberror-perl", "libperl5.36", "perl", "perl-modules-5.36")
# dpkg does not unpack these: what people read, character sets (UTF-8 is in the library), and what
# git serves or makes with
LEFT_OUT = (
    *("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/lintian/*"),
    *("/usr/share/locale/*", "/usr/share/man/*", "/usr/lib/*/gconv/*"),
    *("/usr/bin/git-shell", "/usr/bin/scalar", "/usr/lib/git-core/scalar"),
    *(
        f"/usr/lib/git-core/git-{name}"
        for name in ("daemon", "http-backend", "http-push", "imap-send", "shell")
    ),
)
# licenses stay
KEPT = ("/usr/share/doc/*/copyright",)
BASE_OPTIONS = (
    "--variant=essential",
    f"--include={','.join(PACKAGES)}",
    *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
    *(f"--dpkgopt=path-include={pattern}" for pattern in KEPT),
    f'--customize-hook=chroot "$1" dpkg --purge --force-depends {" ".join(NOT_NEEDED)}',
    f'--customize-hook=chroot "$1" groupadd --gid {USER_ID} {USER}',
    f'--customize-hook=chroot "$1" useradd --uid {USER_ID} --gid {USER_ID} --no-log-init'
    f" --home-dir {DATA} --shell /usr/sbin/nologin {USER}",
    # a volume that is made from one of these folders gets its owner
    f'--customize-hook=chroot "$1" install -d -m 700 -o {USER} -g {USER} {CONFIGURATION} {DATA}',
)
# A container is one member. Where a folder has the files of two, compose.yaml says which is asked.
_HEALTHCHECK = (
    f"if [ -e {CONFIGURATION}/node.yml ]; then exec pbft-ci-node healthcheck; fi;"
    " exec pbft-ci-gateway healthcheck"
)
SETTINGS = (
    f"USER {USER}",
    f"WORKDIR {DATA}",
    f"ENV PATH={PATH}",
    "ENV LANG=C.UTF-8",
    f"HEALTHCHECK --interval=60s --timeout=30s --start-period=60s CMD {_HEALTHCHECK}",
    'CMD ["pbft-ci-node"]',
    f"LABEL org.opencontainers.image.version={VERSION}",
    "LABEL org.opencontainers.image.title=PBFT/CI",
    "LABEL org.opencontainers.image.licenses=Apache-2.0",
)


class ImageFailed(RuntimeError):
    """The image could not be made; the text says which command failed, and what it said."""


def make_image(client: docker.DockerClient, name: str, cache: Path = RUN / "cache") -> None:
    """Make the image of this checkout on the engine, and give it that name.

    cache: keeps the Debian system, which takes minutes. Raises NoBaseImage, ImageFailed, OSError
    and docker.errors.DockerException.
    """
    digest = hashlib.sha256(json.dumps(BASE_OPTIONS).encode()).hexdigest()
    base = cache / f"container-{digest[:12]}.tar"
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(cache / "container.lock"):
        if not base.exists():
            make_archive(base, BASE_OPTIONS)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        archive = Path(folder) / "image.tar"
        _make_image_archive(base, archive)
        repository, _, tag = name.partition(":")
        # the library's client gives up after a minute without an answer
        timeout_seconds, client.api.timeout = client.api.timeout, IMPORT_SECONDS_MAX
        try:
            client.api.import_image_from_file(
                str(archive), repository=repository, tag=tag, changes=list(SETTINGS)
            )
        finally:
            client.api.timeout = timeout_seconds
    # the engine answers 200 also to a change that it did not take
    settings = client.images.get(name).attrs["Config"]
    if settings["User"] != USER or not settings["Healthcheck"]:
        raise ImageFailed(f"the engine did not take the settings of {name}: {settings}")


def _make_image_archive(base: Path, archive: Path) -> None:
    """The base with this checkout's wheel and its libraries. Raises ImageFailed, OSError."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        root = Path(folder) / "root"
        root.mkdir()
        _run("tar", "-x", "-f", base, "-C", root)
        context = root / CONTEXT[1:]
        _fetch(context)
        _install(root)
        _remove_symbols(root)
        shutil.rmtree(context)
        _run("tar", "-c", "-f", archive, "--sort=name", "--numeric-owner", "-C", root, ".")


def _fetch(context: Path) -> None:
    """Put the libraries, our wheel and pip into the folder."""
    libraries, tools = context / "libraries", context / "tools"
    tools.mkdir(parents=True)
    requirements = ROOT / "requirements.txt"
    _run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--require-hashes", "--only-binary=:all:", f"--python-version={PYTHON}"),
        *("--dest", libraries, "-r", requirements),
    )
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", context, folder=ROOT)
    shutil.copy(requirements, context)
    # it installs and does not stay
    found = importlib.util.find_spec("pip")
    assert found is not None, "it was just called"
    assert found.origin is not None, "a package has a file"
    shutil.copytree(Path(found.origin).parent, tools / "pip")


def _install(root: Path) -> None:
    python = f"{INSTALLATION}/bin/python"
    _run("chroot", root, "python3", "-m", "venv", "--without-pip", INSTALLATION)
    command = ("chroot", root, python, "-m", "pip", "install", "--quiet", "--no-index")
    options = ("--no-compile", "--root-user-action=ignore", "--disable-pip-version-check")
    environment = {
        "PATH": f"{PATH}:/usr/sbin",
        "PYTHONPATH": f"{CONTEXT}/tools",
        "HOME": CONTEXT,
    }
    found = (f"--find-links={CONTEXT}/libraries", "--require-hashes")
    requirements = f"{CONTEXT}/requirements.txt"
    _run(*command, *options, *found, "-r", requirements, environment=environment)
    (wheel,) = (root / CONTEXT[1:]).glob("*.whl")
    _run(*command, *options, "--no-deps", f"{CONTEXT}/{wheel.name}", environment=environment)
    # Nobody can write into the image later. By content: the files of an archive get other times.
    mode = "--invalidation-mode=unchecked-hash"
    _run("chroot", root, python, "-m", "compileall", "-q", mode, INSTALLATION)


def _remove_symbols(root: Path) -> None:
    """Take out of the libraries what only debuggers read: 36 MB."""
    libraries = sorted((root / INSTALLATION[1:]).rglob("*.so*"))
    _run("strip", "--strip-unneeded", *libraries)


def _run(
    *command: str | Path, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Raises ImageFailed."""
    program = " ".join(str(part) for part in command[:5])
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
    except FileNotFoundError as error:
        raise ImageFailed(f"{command[0]} is missing: apt-get install binutils") from error
    except subprocess.TimeoutExpired as error:
        raise ImageFailed(f"{program} took more than {COMMAND_SECONDS_MAX} s") from error
    if done.returncode != 0:
        raise ImageFailed(f"{program} failed: {' '.join(done.stderr.split())[-500:]}")


def main() -> int:
    """`python -m scripts.container_image`: make the image, print its name and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default=IMAGE, help="the image's name (default: %(default)s)")
    name: str = parser.parse_args().name
    if os.geteuid() != 0:
        print("no image: root is needed, as mmdebstrap needs it", file=sys.stderr)
        return 1
    try:
        client = docker.from_env()
        make_image(client, name)
        size = client.images.get(name).attrs["Size"]
    except (NoBaseImage, ImageFailed, OSError, docker.errors.DockerException) as error:
        print(f"no image: {error}", file=sys.stderr)
        return 1
    print(f"{name}: {size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
