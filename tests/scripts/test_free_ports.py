"""scripts.free_ports: each is another one, in each process, and nobody listens on it."""

import itertools
import socket
import subprocess
import sys

import pytest

from scripts import free_ports as module
from scripts.folders import ROOT
from scripts.free_ports import BLOCK_PORTS, PORTS, free_ports
from scripts.processes import StartFailed


def test_they_differ_and_lie_where_the_kernel_takes_none() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    assert all(port in PORTS for port in found)


def test_no_other_process_is_given_one_of_them() -> None:
    """Even though nobody listens on any of them yet."""
    count = BLOCK_PORTS // 2
    script = f"from scripts.free_ports import free_ports; print(*free_ports({count}))"
    others = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    theirs = {int(port) for port in others.stdout.split()}
    assert len(theirs) == count
    assert not theirs & set(free_ports(BLOCK_PORTS - 20))


def test_one_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = free_ports(2)
    monkeypatch.setattr(module, "_ports_of", lambda _: itertools.cycle([taken, free]))
    with socket.create_server(("127.0.0.1", taken)):
        assert free_ports(1) == [free]
        monkeypatch.setattr(module, "_ports_of", lambda _: itertools.cycle([taken]))
        with pytest.raises(StartFailed, match="no 1 free ports"):
            free_ports(1)
