"""Who can read the private keys on operators' machines: found by trying it as each user."""

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.operators.machine import CONFIGURATION, DISK, HOME, Machine

PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
FILE_BYTES_MAX = 2**20


def private_keys(machines: Iterable[Machine]) -> dict[Path, tuple[Machine, os.stat_result]]:
    """All private keys on the machines' disks, encrypted ones too, found by what is in them."""
    found = {}
    for machine in machines:
        for place in (CONFIGURATION, DISK, HOME):
            for file in (machine.root / place[1:]).rglob("*"):
                status = file.lstat()
                is_small = stat.S_ISREG(status.st_mode) and status.st_size <= FILE_BYTES_MAX
                if is_small and PRIVATE_KEY.search(file.read_bytes()):
                    found[file] = (machine, status)
    return found


def readers(
    keys: dict[Path, tuple[Machine, os.stat_result]], machines: Iterable[Machine]
) -> dict[str, set[int]]:
    """Who can read each key, by trying it as each operator, on the machine where it is."""
    found: dict[str, set[int]] = defaultdict(set)
    for file, (machine, _) in keys.items():
        inside = f"/{file.relative_to(machine.root)}"
        for other in machines:
            answer = machine.run(
                f"setpriv --reuid={other.plan.uid} --regid={other.plan.uid} --clear-groups"
                f" cat {inside} >/dev/null 2>&1 && echo yes || echo no",
                is_root=True,
            )
            if answer.strip() == "yes":
                found[f"{machine.name}:{inside}"].add(other.plan.uid)
    return found
