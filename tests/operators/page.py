"""The commands of docs/BRING_UP.md, as each operator types them."""

import re
from pathlib import Path

from scripts.folders import ROOT
from tests.operators.machine import Machine

PAGE = ROOT / "docs" / "BRING_UP.md"
# The page's example: whose commands it shows, and where that operator's machine is.
EXAMPLE_NAME = "acme"
EXAMPLE_ADDRESS = "10.0.0.1"


def commands(page: Path = PAGE) -> list[str]:
    """All commands of the page's `sh` blocks, in its order, each on one line, without comments."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", page.read_text(encoding="utf-8"))
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.partition(" # ")[0].split()) for line in lines if line.strip()]


def command(start: str, having: str = "") -> str:
    """The only command of the page that begins so, and has that text."""
    (found,) = [line for line in commands() if line.startswith(start) and having in line]
    return found


def typed_by(machine: Machine, line: str) -> str:
    """What another operator types in place of the example's."""
    text = line.replace(EXAMPLE_ADDRESS, machine.plan.address)
    return re.sub(rf"\b{EXAMPLE_NAME}\b", machine.name, text)
