"""A machine has a disk, a clock and a user of its own, and leaves nothing when it ends."""

import functools
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.leftovers import mounts
from tests.operators.key_readers import private_keys, readers
from tests.operators.machine import (
    CONFIGURATION,
    DISK,
    HOME,
    CommandFailed,
    Machine,
    clock_environment,
    faketime_library,
    missing_programs,
)
from tests.operators.world import World
from tests.waiting import block_until

SECONDS = 60.0
HOUR = 3600


def world_of(folder: Path, *names: str) -> World:
    if missing := missing_programs():
        pytest.skip(f"no machines can be made here: {', '.join(missing)}")
    world = World(folder / "world", None)
    world.__enter__()
    for name in names:
        world.add(name)
    return world


def loops() -> set[str]:
    """What is a file behind a block device now."""
    listed = subprocess.check_output(["losetup", "--list", "--noheadings"], text=True)
    return set(listed.splitlines())


def test_nothing_is_left_of_a_machine_and_what_ran_on_it(tmp_path: Path) -> None:
    before = mounts()
    world = world_of(tmp_path, "acme")
    acme = world.machines["acme"]
    with open(os.devnull) as nothing:
        process = acme.spawn(("sleep", "1000"), (nothing, nothing, nothing), {})
    block_until(lambda: name_of(process.pid) == "sleep", "it", SECONDS)
    pid = process.pid
    assert Path(f"/proc/{pid}").stat().st_uid == acme.plan.uid
    process.send_signal(signal.SIGSTOP)
    world.__exit__(None, None, None)
    process.wait(SECONDS)
    assert not Path(f"/proc/{pid}").exists()
    # others may mount meanwhile
    ours = (str(tmp_path), DISK, CONFIGURATION)
    assert not [place for place in mounts() - before if place.startswith(ours)]
    block_until(lambda: not any(str(tmp_path) in line for line in loops()), "loops", SECONDS)


def test_a_process_is_stopped_continued_and_killed_while_it_is_stopped(tmp_path: Path) -> None:
    world = world_of(tmp_path, "acme")
    try:
        with open(os.devnull) as nothing:
            process = world.machines["acme"].spawn(("sleep", "1000"), (nothing,) * 3, {})
        block_until(lambda: name_of(process.pid) == "sleep", "it", SECONDS)
        for number, state in ((signal.SIGSTOP, "T"), (signal.SIGCONT, "S"), (signal.SIGSTOP, "T")):
            process.send_signal(number)
            reached = functools.partial(is_in_state, process.pid, state)
            block_until(reached, f"state {state}", SECONDS)
        process.kill()
        assert process.wait(SECONDS) == -signal.SIGKILL
    finally:
        world.__exit__(None, None, None)


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def is_in_state(pid: int, state: str) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == state


def test_operators_cannot_read_each_others_files(tmp_path: Path) -> None:
    world = world_of(tmp_path, "acme", "berg")
    try:
        acme, berg = world.machines.values()
        for place in ("/etc/pbft-ci/secret", f"{DISK}/secret"):
            acme.run(f"umask 077; echo mine > {place}")
            assert acme.run(f"cat {place}") == "mine\n"
            # it is not there, and where it is, another user may not read it
            assert berg.run(f"cat {place} 2>&1 || true").endswith("No such file or directory\n")
            as_berg = f"setpriv --reuid={berg.plan.uid} --regid={berg.plan.uid} --clear-groups"
            with pytest.raises(CommandFailed, match="Permission denied"):
                acme.run(f"{as_berg} cat {place}", is_root=True)
    finally:
        world.__exit__(None, None, None)


def test_a_private_key_that_two_operators_can_read_is_found(tmp_path: Path) -> None:
    world = world_of(tmp_path, "acme", "berg")
    try:
        machines = list(world.machines.values())
        _, berg = machines
        text = "-----BEGIN ENCRYPTED PRIVATE KEY-----"
        for machine in machines:
            machine.run(f"umask 077; mkdir {HOME}/below; echo '{text}' > {HOME}/below/a.pem")
        name = f"{{}}:{HOME}/below/a.pem".format
        uids = [machine.plan.uid for machine in machines]
        assert readers(private_keys(machines), machines) == {
            name("acme"): {uids[0]},
            name("berg"): {uids[1]},
        }
        berg.run(f"chmod 644 {HOME}/below/a.pem; chmod 711 {HOME}/below {HOME}")
        assert readers(private_keys(machines), machines) == {
            name("acme"): {uids[0]},
            name("berg"): set(uids),
        }
    finally:
        world.__exit__(None, None, None)


def test_a_disk_is_filled_freed_and_stalled(tmp_path: Path) -> None:
    world = world_of(tmp_path, "acme")
    try:
        acme = world.machines["acme"]
        acme.fill_disk()
        with pytest.raises(CommandFailed, match="No space left on device"):
            acme.run(f"cp /etc/passwd {DISK}/file")
        acme.free_disk()
        acme.run(f"echo more > {DISK}/file")
        stalls = acme.slow_disk(3.0, 1.0)
        waits = []
        while stalls.poll() is None:
            waits.append(write_seconds(acme))
        # a write that meets a stall waits for its end
        assert max(waits) > 0.3
        Machine.wait_until_fast(stalls)
        acme.run(f"echo more > {DISK}/file")
    finally:
        world.__exit__(None, None, None)


def write_seconds(machine: Machine) -> float:
    script = f"date +%s.%N; echo more > {DISK}/file; sync {DISK}/file; date +%s.%N"
    began, ended = map(float, machine.run(script).split())
    return ended - began


def test_a_clock_jumps_while_the_process_runs_and_for_it_alone(tmp_path: Path) -> None:
    if faketime_library() is None:
        pytest.skip("libfaketime is not here: `./scripts/test.sh` unpacks Debian's")
    world = world_of(tmp_path, "acme", "berg")
    try:
        acme, berg = world.machines.values()
        running = {}
        script = "while sleep 0.1; do date +%s; done"
        for machine in (acme, berg):
            output = tmp_path / machine.name
            with output.open("wb") as file, open(os.devnull) as nothing:
                command = ("sh", "-c", script)
                machine.spawn(command, (nothing, file, file), clock_environment())
            running[machine.name] = output

        def offset(name: str) -> int:
            lines = running[name].read_text().split()
            return int(lines[-1]) - int(running[name].stat().st_mtime) if lines else HOUR * 24

        block_until(lambda: abs(offset("acme")) < HOUR, "acme's clock", SECONDS)
        acme.set_clock(2 * HOUR)
        block_until(lambda: offset("acme") > HOUR, "the jump", SECONDS)
        block_until(lambda: abs(offset("berg")) < HOUR, "berg's clock", SECONDS)
        acme.set_clock(0)
        block_until(lambda: abs(offset("acme")) < HOUR, "the way back", SECONDS)
    finally:
        world.__exit__(None, None, None)
