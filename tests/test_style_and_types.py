"""Style and types, as ./scripts/check.sh checks them, beside the other tests.

If its cache is empty, mypy keeps one core busy for half a minute. Nothing waits for it.
"""

import subprocess

import pytest

from scripts.folders import ROOT


@pytest.mark.long
@pytest.mark.timeout(900)
def test_style_and_types_are_right() -> None:
    done = subprocess.run(
        [str(ROOT / "scripts" / "check.sh")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
