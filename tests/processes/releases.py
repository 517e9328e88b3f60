"""The release before this one, started beside it in one network."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from scripts.configuration import Configuration, DataFolders, Ports, read_configuration
from scripts.folders import ROOT
from scripts.processes import Process, start_process
from tests import forked

# The commit of the release before; docs/TESTING.md says when it is changed.
BEFORE = "c74c00ab26e87c33714985d421a509a2adfcce94"

# What the release before runs to write a configuration of its own form.
_WRITE = """
import json, sys
from pathlib import Path
from scripts.configuration import write_configuration
settings = json.load(sys.stdin)
for key in ("run_folder", "log_folder"):
    settings[key] = Path(settings[key])
write_configuration(Path(sys.argv[1]), **settings)
"""


def export_before(folder: Path) -> Path:
    """The files of the release before, in a new folder. Skips the test if there is no history.

    A clone has it. An sdist and a shallow clone may not: there alone the test is skipped.
    """
    _skip_without_history()
    archive = _git("archive", "--format=tar", BEFORE)
    assert archive.returncode == 0, archive.stderr
    folder.mkdir()
    subprocess.run(["tar", "--extract", "--directory", folder], input=archive.stdout, check=True)
    # Nothing that is installed here takes the place of its own packages.
    where = [sys.executable, "-c", "import node; print(node.__file__)"]
    found = subprocess.run(where, cwd=folder, capture_output=True, check=True, text=True).stdout
    assert Path(found.strip()).is_relative_to(folder), found
    return folder


def read_before(path: str) -> bytes:
    """One file of the release before. Skips the test if there is no history, as above."""
    _skip_without_history()
    shown = _git("show", f"{BEFORE}:{path}")
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def _skip_without_history() -> None:
    if _git("cat-file", "-e", f"{BEFORE}^{{commit}}").returncode != 0:
        is_shallow = _git("rev-parse", "--is-shallow-repository").stdout.strip()
        if is_shallow == b"false" and (ROOT / ".git").exists():
            pytest.fail(f"this clone has all its history, but not the release before, {BEFORE}")
        pytest.skip("this checkout has no history, so the release before cannot be started")


class TwoReleases:
    """Starts nodes and gateways of a network from one release or the other."""

    def __init__(self, before: Path) -> None:
        """before: where the release before is."""
        self._before = before
        # which members this release runs; the release before runs the others
        self.upgraded: set[str] = set()

    def write_configuration(
        self,
        folder: Path,
        repositories: Sequence[str | Path],
        folders: DataFolders,
        *,
        ports: Ports,
        **settings: Any,
    ) -> Configuration:
        """As the function of that name; the release before writes it, this one reads it too."""
        settings |= {
            "replicas": len(ports.nodes),
            "repositories": repositories,
            "run_folder": folders.keys.parent,
            "log_folder": folders.logs,
            "ports": list(ports.nodes),
            "client_port": ports.client,
        }
        text = json.dumps(settings, default=str)
        where = [sys.executable, "-c", _WRITE, str(folder)]
        subprocess.run(where, input=text, cwd=self._before, check=True, text=True)
        return read_configuration(folder)

    def start(
        self, command: Sequence[str], files: Sequence[IO[Any]], environment: Mapping[str, str]
    ) -> Process:
        """As scripts.harness.start_python."""
        if Path(command[-1]).stem in self.upgraded:
            return forked.start(command, files, environment)
        return start_process((sys.executable, *command), files, environment, folder=self._before)


def _git(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
