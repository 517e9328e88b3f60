"""What `check` says of the machine."""

import contextlib
import os
import socket
from pathlib import Path

import pytest

from common.address import Address
from common.checks import machine
from common.checks.machine import GIBIBYTE, check_listen, check_saves, check_space
from common.configuration.process_file import ProcessFile
from common.finding import State


def test_a_port_is_free_until_somebody_has_it(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        found = check_listen(address, tmp_path)
        assert (found.state, f"{address} is in use" in found.text) == (State.WRONG, True)
        with contextlib.closing(ProcessFile(tmp_path)):
            found = check_listen(address, tmp_path)
        assert (found.state, f"(process {os.getpid()})" in found.text) == (State.OK, True)
    found = check_listen(address, tmp_path)
    assert (found.state, found.text) == (State.OK, f"{address} is free")


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_wrong(host: str, tmp_path: Path) -> None:
    found = check_listen(Address(host, 10000), tmp_path)
    assert (found.state, "take an address of this machine" in found.text) == (State.WRONG, True)


def test_a_disk_has_room_for_what_may_be_kept(tmp_path: Path) -> None:
    # the folder is made at the start
    directory = tmp_path / "not" / "yet"
    assert check_space(directory, 1).state is State.OK
    found = check_space(directory, 2**62)
    assert (found.state, "lower the *_bytes_max" in found.text) == (State.WARNING, True)
    assert not directory.exists()


def test_a_disk_that_is_nearly_full_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "FREE_BYTES_MIN", 2**62)
    assert check_space(tmp_path, GIBIBYTE).state is State.WRONG


def test_saves_are_measured_and_leave_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    assert check_saves(directory, 1e9).state is State.OK
    slow = check_saves(directory, 0.0)
    assert (slow.state, "a longer view_change_seconds" in slow.text) == (State.WARNING, True)
    assert list(directory.iterdir()) == []


def test_a_folder_that_is_none_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    found = check_saves(file / "data", 1e9)
    assert (found.state, "cannot be written to" in found.text) == (State.WRONG, True)
