"""Distributions of this checkout, and an environment with the wheel in it.

Nothing is fetched: the backend of pyproject.toml is among requirements-dev.txt, and the libraries
are those of this Python.
"""

import compileall
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.folders import ROOT

COMMANDS = ("pbft-ci", "pbft-ci-node", "pbft-ci-gateway")
BUILD_SECONDS_MAX = 60
RUN_SECONDS_MAX = 60


def build(source: Path, kind: str, folder: Path) -> Path:
    """Build the `wheel` or the `sdist` of this source tree; the file."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    _run(command, source)
    (built,) = folder.iterdir()
    return built


@dataclass(frozen=True)
class Installation:
    """An environment that has the wheel and, by a line in a .pth file, the libraries it needs."""

    folder: Path

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.folder)}))

    def command(self, name: str) -> Path:
        """One of its programs."""
        return self.folder / "bin" / name

    def run(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a program in a folder that has nothing of ours, as a person does."""
        return subprocess.run(
            [str(self.command(name)), *arguments],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS_MAX,
            check=False,
        )


def install(wheel: Path, folder: Path) -> Installation:
    """Make an environment and install the wheel in it."""
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check"]
    _run([sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)])
    installation = Installation(folder)
    libraries = sysconfig.get_path("purelib")
    (installation.packages / "libraries.pth").write_text(f"{libraries}\n")
    # as pip does: who may not write there would compile at each start
    compileall.compile_dir(installation.packages, quiet=2)
    return installation


def copied(installation: Installation, folder: Path, seen_as: Path | None = None) -> Installation:
    """A copy of it that may be changed. seen_as: where its programs will be; None: there."""
    shutil.copytree(installation.folder, folder, symlinks=True)
    copy = Installation(folder)
    for name in COMMANDS:
        program = copy.command(name)
        _, _, rest = program.read_text().partition("\n")
        program.write_text(f"#!{seen_as or folder}/bin/python\n{rest}")
    return copy


def environment(variables: Mapping[str, str] = os.environ) -> Mapping[str, str]:
    """Ours or these, without what would lead Python to the checkout."""
    return {name: value for name, value in variables.items() if not name.startswith("PYTHON")}


def _run(command: list[str], folder: Path = ROOT) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
