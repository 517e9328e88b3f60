"""An image with the Python that runs the tests, and no more of it than the relay imports."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import docker

from scripts.base_image import has_image
from scripts.folders import RUN, exclusive

RELAY_IMAGE = "pbft-ci-example/relay:1"
# what it loads by itself, and for the relay
_LIST_FILES = """
import __future__, collections.abc, contextlib, os, selectors, socket, struct, sys
for module in list(sys.modules.values()):
    print(getattr(module, "__file__", None) or "")
"""


def ensure_relay_image(client: docker.DockerClient) -> str:
    """The name of the image, which is then on the engine."""
    with exclusive(RUN / "relay-image.lock"):
        if not has_image(client, RELAY_IMAGE):
            name, _, tag = RELAY_IMAGE.partition(":")
            client.api.import_image_from_data(_archive(), repository=name, tag=tag)
    return RELAY_IMAGE


def _archive() -> bytes:
    program = Path(sys.executable).resolve()
    listed = _output(str(program), "-I", "-S", "-c", _LIST_FILES).split()
    files = {program, *(Path(line) for line in listed if line)}
    for file in (program, *(file for file in files if file.suffix == ".so")):
        words = _output("ldd", str(file)).split()
        files |= {Path(word) for word in words if word.startswith("/")}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
        for file in sorted(files):
            tar.add(file, arcname=str(file).lstrip("/"))
        link = tarfile.TarInfo("bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, str(program)
        tar.addfile(link)
    return archive.getvalue()


def _output(*command: str) -> str:
    return subprocess.run(command, env={}, check=True, capture_output=True, text=True).stdout
