"""The packages of two small projects, and images that have them: nothing comes from elsewhere.

One image has the packages as an index of files (`/index`), the other has them installed, too
(`/warm`): that is what a person has who ran the same commands before.
"""

import base64
import hashlib
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import docker
import docker.errors
import msgspec

from bench.network import BenchFailed
from scripts.base_image import NoBaseImage
from scripts.debian_image import PACKAGES, ensure_debian_image

ENGINE_SECONDS_MAX = 900
INSTALL_PYTHON = (
    "python3 -m pip install --quiet --no-index --no-cache-dir --disable-pip-version-check"
    " --find-links /index --target {target} -r requirements.txt"
)
INSTALL_NODE = "npm ci --offline --no-audit --no-fund --ignore-scripts --loglevel=error"
_FILE_LINES = 100
_LINE_BYTES = 32


class Size(msgspec.Struct, frozen=True):
    """How many packages, and files in each."""

    packages: int
    files: int


class ProjectImages(msgspec.Struct, frozen=True):
    """Names of images on the engine. index: with the packages as files; warm: with both projects'
    packages installed as well."""

    index: str
    warm: str


def python_files(size: Size, loops: int) -> dict[str, str]:
    """The commit's files of the Python project. loops: how much its test works."""
    test = (
        "import importlib, unittest\n\n\n"
        "class TestAll(unittest.TestCase):\n"
        "    def test_all(self):\n"
        f"        for package in range({size.packages}):\n"
        f"            for number in range({size.files}):\n"
        "                found = importlib.import_module(f'bench{package}.module{number}')\n"
        "                self.assertEqual(found.NUMBER, number)\n"
        f"        self.assertGreater(sum(i * i % 7 for i in range({loops})), 0)\n"
    )
    names = "".join(f"bench{package}==1.0\n" for package in range(size.packages))
    return {"requirements.txt": names, "test_all.py": test}


def node_files(size: Size, loops: int) -> dict[str, str]:
    """The commit's files of the Node project."""
    tarballs = _tarballs(size)
    wanted = {f"bench{number}": f"file:/index/{name}" for number, name in enumerate(tarballs)}
    locked = {
        f"node_modules/bench{number}": {
            "version": "1.0.0",
            "resolved": f"file:/index/{name}",
            "integrity": "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode(),
        }
        for number, (name, data) in enumerate(tarballs.items())
    }
    root = {"name": "bench", "version": "1.0.0", "dependencies": wanted}
    lock = {**root, "lockfileVersion": 3, "requires": True, "packages": {"": root, **locked}}
    test = (
        "const test = require('node:test');\nconst assert = require('node:assert');\n"
        "test('all', () => {\n"
        f"  for (let i = 0; i < {size.packages}; i++)\n"
        f"    for (let k = 0; k < {size.files}; k++)\n"
        "      assert.equal(require(`bench${i}/file${k}.js`).number, k);\n"
        f"  let sum = 0;\n  for (let i = 0; i < {loops}; i++) sum += (i * i) % 7;\n"
        "  assert(sum > 0);\n});\n"
    )
    return {
        "package.json": json.dumps(root),
        "package-lock.json": json.dumps(lock),
        "all.test.js": test,
    }


@contextmanager
def project_images(host: str, *, python: Size, node: Size, name: str) -> Iterator[ProjectImages]:
    """Make both images; they are removed at the end. Blocking.

    host: of the engine. name: the images' repository. Raises BenchFailed.
    """
    client = docker.DockerClient(base_url=host, timeout=ENGINE_SECONDS_MAX)
    images = ProjectImages(f"{name}:index", f"{name}:warm")
    try:
        try:
            base = ensure_debian_image(client, (*PACKAGES, "npm"))
        except NoBaseImage as error:
            raise BenchFailed(f"no image for the projects: {error}") from error
        index = {**wheels(python), **_tarballs(node)}
        files = {f"index/{file}": data for file, data in index.items()}
        _build(client, images.index, f"FROM {base}\nCOPY index /index\n", files=files)
        project = {**python_files(python, 0), **node_files(node, 0)}
        installed = (
            f"FROM {images.index}\nCOPY project /warm\nWORKDIR /warm\n"
            f"RUN {INSTALL_PYTHON.format(target='/warm/libraries')}\nRUN {INSTALL_NODE}\n"
        )
        files = {f"project/{file}": text.encode() for file, text in project.items()}
        _build(client, images.warm, installed, files=files)
        yield images
    finally:
        for image in (images.warm, images.index):
            try:
                client.images.remove(image, force=True)
            except docker.errors.ImageNotFound:
                continue
        client.close()


def _build(
    client: docker.DockerClient, tag: str, dockerfile: str, *, files: Mapping[str, bytes]
) -> None:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, data in {"Dockerfile": dockerfile.encode(), **files}.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    context.seek(0)
    try:
        client.images.build(
            fileobj=context,
            custom_context=True,
            tag=tag,
            rm=True,
            forcerm=True,
            network_mode="none",
        )
    except docker.errors.BuildError as error:
        said = "".join(str(line.get("stream", "")) for line in error.build_log)
        raise BenchFailed(f"{tag}: {error}: {said[-500:]}") from error


def wheels(size: Size) -> dict[str, bytes]:
    """Wheels of Python packages, by file name."""
    found = {}
    for package in range(size.packages):
        name, about = f"bench{package}", f"bench{package}-1.0.dist-info"
        files = {
            f"{name}/__init__.py": "",
            **{f"{name}/module{n}.py": _text(package, n, "#") for n in range(size.files)},
            f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        files[f"{about}/RECORD"] = "".join(f"{file},,\n" for file in (*files, f"{about}/RECORD"))
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, text in files.items():
                archive.writestr(file, text)
        found[f"{name}-1.0-py3-none-any.whl"] = data.getvalue()
    return found


def _tarballs(size: Size) -> dict[str, bytes]:
    """Packages as npm packs them, by file name; equal each time."""
    found = {}
    for package in range(size.packages):
        name = f"bench{package}"
        files = {
            "package.json": json.dumps({"name": name, "version": "1.0.0"}),
            **{f"file{n}.js": _text(package, n, "//") for n in range(size.files)},
        }
        data = io.BytesIO()
        # not compressed: gzip would write the time
        with tarfile.open(fileobj=data, mode="w") as archive:
            for file, text in files.items():
                header = tarfile.TarInfo(f"package/{file}")
                header.size = len(text)
                archive.addfile(header, io.BytesIO(text.encode()))
        found[f"{name}-1.0.0.tgz"] = data.getvalue()
    return found


def _text(package: int, number: int, comment: str) -> str:
    """A module that has its number; most of it is text that packs to half."""
    chance = random.Random(f"{package} {number}")  # noqa: S311 - equal in each run
    lines = (f"{comment} {chance.randbytes(_LINE_BYTES).hex()}\n" for _ in range(_FILE_LINES))
    says = f"exports.number = {number};\n" if comment == "//" else f"NUMBER = {number}\n"
    return says + "".join(lines)
