"""The systemd units: how far they confine, and whether what they name is in an installation.

systemd-analyze judges the files alone. No systemd is started here.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from scripts.folders import ROOT
from tests.pbft_ci.installation import Installation

FOLDER = ROOT / "deploy" / "systemd"
UNITS = ("pbft-ci-node.service", "pbft-ci-gateway.service")
# where `scripts/test.sh` unpacks it
UNPACKED = ROOT / "run" / "systemd-analyze"
# of systemd-analyze: from 0, which can do nothing, to 10
EXPOSURE_MAX = 3.0
SECONDS_MAX = 60


class Analyzer:
    """The program systemd-analyze, of this machine or unpacked for the tests."""

    def __init__(self) -> None:
        """Skips the test where it does not run."""
        program = shutil.which("systemd-analyze") or str(UNPACKED / "usr/bin/systemd-analyze")
        libraries = [*UNPACKED.glob("usr/lib/*/systemd"), *UNPACKED.glob("usr/lib/*")]
        self._environment: Mapping[str, str] = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(str(path) for path in libraries),
            "LC_ALL": "C.UTF-8",
        }
        self._command: Sequence[str] = (program,)
        if not Path(program).exists() or self.run("--version").returncode != 0:
            pytest.skip("systemd-analyze is not here: `./scripts/test.sh` unpacks it")

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Its answer."""
        return subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )


@pytest.mark.parametrize("name", UNITS)
def test_a_service_can_do_little(name: str) -> None:
    judged = Analyzer().run("security", "--offline=true", str(FOLDER / name))
    found = re.search(rf"Overall exposure level for {name}: ([0-9.]+)", judged.stdout)
    assert found is not None, judged.stdout + judged.stderr
    assert float(found[1]) < EXPOSURE_MAX, judged.stdout


@pytest.mark.parametrize("name", UNITS)
def test_systemd_knows_each_line(name: str, installation: Installation, tmp_path: Path) -> None:
    """Its program is one of the installation; a key that systemd does not know is a warning."""
    unit = tmp_path / name
    text = (FOLDER / name).read_text()
    installed = text.replace("/opt/pbft-ci/", f"{installation.folder}/")
    assert installed != text
    unit.write_text(installed)
    verified = Analyzer().run("verify", "--man=no", str(unit))
    said = [line for line in verified.stderr.splitlines() if name in line]
    assert (verified.returncode, said) == (0, []), verified.stderr


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_names_a_command_and_its_configuration(
    name: str, installation: Installation
) -> None:
    (line,) = re.findall(r"(?m)^ExecStart=(.*)$", (FOLDER / name).read_text())
    program, flag, file = line.split()
    assert Path(program).parent == Path("/opt/pbft-ci/bin")
    assert flag == "--config"
    helped = installation.run(Path(program).name, "--help")
    # lines break at hyphens, too
    assert f"(default:{file})" in "".join(helped.stdout.split())


def test_what_the_documents_say_of_the_unit() -> None:
    """The folder that the node may write to is the one that `init` is given there."""
    for name in UNITS:
        assert "\nStateDirectory=pbft-ci\n" in (FOLDER / name).read_text()
    page = (ROOT / "docs" / "OPERATING.md").read_text()
    assert "--data-folder /var/lib/pbft-ci" in page
    assert all(f"deploy/systemd/{name}" in page for name in UNITS)
