"""What the kernel says of a process."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.process_use import children_cpu_seconds, cpu_seconds, descriptors, resident_bytes


def _burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_time_grows_with_work() -> None:
    before = cpu_seconds(os.getpid())
    _burn(0.2)
    assert cpu_seconds(os.getpid()) - before >= 0.15


def test_cpu_time_is_found_in_the_other_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(()))
    before = cpu_seconds(os.getpid())
    _burn(0.2)
    assert cpu_seconds(os.getpid()) - before >= 0.15


def test_children_count_once_they_have_ended() -> None:
    before = children_cpu_seconds(os.getpid())
    own = cpu_seconds(os.getpid())
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-I", "-S", "-c", burn], check=True)
    assert children_cpu_seconds(os.getpid()) - before >= 0.15
    assert cpu_seconds(os.getpid()) - own < 0.15


def test_an_open_file_is_a_descriptor_more(tmp_path: Path) -> None:
    # what other tests left to the collector must not be closed between the two looks
    gc.collect()
    before = descriptors(os.getpid())
    with (tmp_path / "file").open("w"):
        assert descriptors(os.getpid()) == before + 1


def test_memory_that_is_used_is_resident() -> None:
    assert resident_bytes(os.getpid()) > 2**20


def test_a_process_that_has_ended_is_told() -> None:
    with pytest.raises(OSError, match="No such file"):
        descriptors(2**22 + 1)
