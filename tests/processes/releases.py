"""The release before this one, started beside it in one network."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from scripts.folders import ROOT
from scripts.processes import Process, start_process
from tests import forked

# The commit of the release before; docs/TESTING.md says when it is changed.
BEFORE = "c74c00ab26e87c33714985d421a509a2adfcce94"


def export_before(folder: Path) -> Path:
    """The files of the release before, in a new folder. Skips the test if there is no history.

    A clone has it. An sdist and a shallow clone may not: there alone the test is skipped.
    """
    if _git("cat-file", "-e", f"{BEFORE}^{{commit}}").returncode != 0:
        is_shallow = _git("rev-parse", "--is-shallow-repository").stdout.strip()
        if is_shallow == b"false" and (ROOT / ".git").exists():
            pytest.fail(f"this clone has all its history, but not the release before, {BEFORE}")
        pytest.skip("this checkout has no history, so the release before cannot be started")
    archive = _git("archive", "--format=tar", BEFORE)
    assert archive.returncode == 0, archive.stderr
    folder.mkdir()
    subprocess.run(["tar", "--extract", "--directory", folder], input=archive.stdout, check=True)
    # Nothing that is installed here takes the place of its own packages.
    where = [sys.executable, "-c", "import node; print(node.__file__)"]
    found = subprocess.run(where, cwd=folder, capture_output=True, check=True, text=True).stdout
    assert Path(found.strip()).is_relative_to(folder), found
    return folder


class TwoReleases:
    """Starts nodes and gateways of a network (`start_program`) from one release or the other."""

    def __init__(self, before: Path) -> None:
        """before: where the release before is."""
        self._before = before
        # which members this release runs; the release before runs the others
        self.upgraded: set[str] = set()

    def start(
        self, command: Sequence[str], files: Sequence[IO[Any]], environment: Mapping[str, str]
    ) -> Process:
        """As scripts.harness.start_python."""
        if Path(command[-1]).stem in self.upgraded:
            return forked.start(command, files, environment)
        return start_process((sys.executable, *command), files, environment, folder=self._before)


def _git(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
