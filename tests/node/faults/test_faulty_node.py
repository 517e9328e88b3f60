"""The code of a node that misbehaves on purpose is not in one that was not told to."""

import subprocess
import sys

from scripts.folders import ROOT

LOADED = "import sys, node.main; print(*(name for name in sys.modules if 'node.faults' in name))"


def test_a_node_loads_it_only_by_its_setting() -> None:
    """`node.main` imports it where `fault_injection` is set, and nowhere else."""
    ended = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == []
