"""On what a run was measured: without it a figure cannot be compared with another."""

import os
import platform
from pathlib import Path

import msgspec

from common.version import VERSION
from scripts.folders import ROOT
from simulator.campaigns.source_commit import source_commit


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and the software, when the run began."""

    cores: int
    memory_mib: int
    # the model, as the kernel calls it
    processor: str
    kernel: str
    python: str
    version: str
    # of this checkout, with `+` at its end if files differ from it; empty if git knows none
    commit: str
    # the load average of the minute before: what others did meanwhile
    load: float
    # the type of the one that everything was written to. On `tmpfs` an fsync costs nothing, and its
    # figures are void
    file_system: str


def read_machine(folder: Path) -> Machine:
    """This machine now. folder: where the runs write."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        processor=_processor(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        kernel=platform.release(),
        python=platform.python_version(),
        version=VERSION,
        commit=source_commit(ROOT),
        load=round(os.getloadavg()[0], 2),
        file_system=file_system(folder, Path("/proc/self/mounts").read_text(encoding="utf-8")),
    )


def file_system(folder: Path, mounts: str) -> str:
    """The type of the file system that a folder is on. mounts: as in /proc/self/mounts."""
    place = folder.absolute()
    found, kind = Path("/"), "unknown"
    for line in mounts.splitlines():
        fields = line.split()
        mounted = Path(fields[1].replace("\\040", " "))
        if place.is_relative_to(mounted) and len(mounted.parts) >= len(found.parts):
            found, kind = mounted, fields[2]
    return kind


def _processor(text: str) -> str:
    names = [line.partition(":")[2] for line in text.splitlines() if line.startswith("model name")]
    return names[0].strip() if names else platform.machine()
