"""A project whose packages a lock file pins: pip installs them offline, by the project's own
command, from wheels and from a source archive."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ci.artifact_rules import BILL_OF_MATERIALS
from ci.operations import Outcome
from common.configuration.package_sources import PackageSource
from common.dependencies.lock_file import Tool
from tests.node.conftest import Room
from tests.node.dependencies.mirror import Mirror, running_mirror
from tests.ordinary.conftest import Registry
from tests.ordinary.test_documented import generous

pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.timeout(600)]

DOWNLOAD_SECONDS_MAX = 120
# what the project uses, and what the source archive is built with
USED = {"six": "1.17.0", "idna": "3.10"}
BUILT_WITH = {"setuptools": "80.9.0", "wheel": "0.45.1"}
COMMANDS = (
    "python3 -m venv $HOME/venv",
    "$HOME/venv/bin/pip install --require-hashes -r requirements.txt",
    "$HOME/venv/bin/python -c 'import idna, six; print(six.__version__, idna.__version__)'",
)


def downloaded(folder: Path, registry: Registry) -> list[Path]:
    """The files of all these packages; of six the source archive."""
    pins = [f"{name}=={version}" for name, version in {**USED, **BUILT_WITH}.items()]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--no-binary=six", f"--dest={folder}", *pins),
        ],
        env={**own, **registry.environment, "PIP_CONFIG_FILE": os.devnull},
        check=True,
        timeout=DOWNLOAD_SECONDS_MAX,
    )
    return sorted(folder.iterdir())


def serve(mirror: Mirror, files: list[Path]) -> dict[str, str]:
    """Have the mirror serve these files; the line of a lock file for each package."""
    lines = {}
    for file in files:
        name, version = file.name.split("-")[:2]
        version = version.removesuffix(".tar.gz")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        mirror.files[f"/{name}/"] = f'<a href="{file.name}#sha256={digest}">x</a>'.encode()
        mirror.files[f"/{name}/{file.name}"] = file.read_bytes()
        lines[name] = f"{name}=={version} --hash=sha256:{digest}\n"
    return lines


@pytest.mark.parametrize("is_dockerfile", [False, True])
async def test_pip_installs_offline_what_a_lock_file_pins(
    room: Room, debian_image: str, registry: Registry, tmp_path: Path, *, is_dockerfile: bool
) -> None:
    room.local_images.append(debian_image)
    folder = tmp_path / "packages"
    folder.mkdir()
    with running_mirror() as mirror:
        lines = serve(mirror, downloaded(folder, registry))
        locks = ("requirements.txt", "requirements-build.txt")
        pipeline = {
            "image": debian_image,
            "commands": COMMANDS,
            "dependencies": [{"pip": lock, "python": "3.11"} for lock in locks],
        }
        dockerfile = (
            *(f"# pbft-ci dependencies: pip={lock} python=3.11" for lock in locks),
            *(f"FROM {debian_image}", "WORKDIR /app", "COPY . ."),
            # HOME of the image's own user is not the one of the image's command
            *(f"RUN {command.replace('$HOME', '/app')}" for command in COMMANDS),
            f"CMD {json.dumps(['sh', '-c', COMMANDS[-1].replace('$HOME', '/app')])}\n",
        )
        files: dict[str, str | bytes] = {
            **(
                {"Dockerfile": "\n".join(dockerfile)}
                if is_dockerfile
                else {".pbft-ci.yml": json.dumps(pipeline)}
            ),
            "requirements.txt": "".join(lines[name] for name in USED),
            "requirements-build.txt": "".join(lines[name] for name in BUILT_WITH),
        }
        sources = (PackageSource(tool=Tool.PIP, url=mirror.url),)
        config = room.make_config(room.repository.url, sources=sources)
        builder = await room.make_builder(config, **generous())
        order = builder.order(room.repository.url, room.repository.commit(files))
        finding = await builder.find(order)
    log = builder.log(order)
    assert finding.compared.outcome is Outcome.PASSED, log
    assert "1.17.0 3.10" in log
    (bill,) = finding.compared.artifacts
    assert bill.path == BILL_OF_MATERIALS
    made = builder.runner.artifacts_path(order.build, order.opened) / bill.sha256
    listed = {
        (each["name"], each["version"]) for each in json.loads(made.read_bytes())["components"]
    }
    assert listed == set({**USED, **BUILT_WITH}.items())
