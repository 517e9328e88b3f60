"""scripts.free_ports: each is another one, and nobody listens on it."""

import socket

import pytest

from scripts import free_ports as module
from scripts.free_ports import PORTS, free_ports
from scripts.processes import StartFailed


def test_they_differ_and_lie_where_the_kernel_takes_none() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    assert all(port in PORTS for port in found)


def test_one_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    (taken,) = free_ports(1)
    with socket.create_server(("127.0.0.1", taken)):
        monkeypatch.setattr(module, "PORTS", range(taken, taken + 1))
        monkeypatch.setattr(module, "TRIES_MAX", 1)
        with pytest.raises(StartFailed, match="no 1 free ports"):
            free_ports(1)
