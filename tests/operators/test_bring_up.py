"""Four operators on four machines type the commands of docs/BRING_UP.md, up to their first verdict.

Each has a user, a disk, a network namespace and a Docker engine of their own. They hand each other
public entries, and nothing else.
"""

import os
import re
import socket
import time
from pathlib import Path

import pytest

from scripts.base_image import EXAMPLE_IMAGE
from scripts.example_repository import write_repository
from scripts.processes import Process
from tests.leftovers import WITHOUT_DOCKER
from tests.node.git_servers import HttpsGitServer
from tests.operators import page
from tests.operators.key_readers import private_keys, readers
from tests.operators.machine import CONFIGURATION, CommandFailed
from tests.operators.world import OPERATORS, World, exchange_entries
from tests.processes.network import pipeline
from tests.waiting import block_until

pytestmark = [pytest.mark.processes, pytest.mark.docker, pytest.mark.long]

GIT_SERVER = "git.example"
READY_SECONDS = 120.0


class Clock:
    """Says how long each step of the page took."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._began = self._last = time.monotonic()

    def say(self, step: str) -> None:
        now = time.monotonic()
        with self._capsys.disabled():
            print(f"\n{now - self._began:6.1f} s  (+{now - self._last:.1f} s)  {step}", end="")  # noqa: T201
        self._last = now


def test_four_operators_come_to_a_verdict_by_the_page(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.environ.get(WITHOUT_DOCKER) == "1":
        pytest.skip(f"{WITHOUT_DOCKER}=1: no Docker engine on this machine")
    clock = Clock(capsys)
    for name in (*OPERATORS, "olga", "git"):
        world.add(name)
    operators = [world.machines[name] for name in OPERATORS]
    acme, olga = operators[0], world.machines["olga"]
    write_repository(
        tmp_path / "projects" / "team" / "app.git",
        {"main": pipeline("echo built by four", image=EXAMPLE_IMAGE)},
    )
    git = world.machines["git"]
    listening = git.call(lambda: listen_at(git.plan.address, 443))
    clock.say("machines (part of the test, not of the page)")
    image = None
    for operator in operators:
        image = world.start_engine(operator.name, image)
    clock.say("a Docker engine on each, with the image (part of the test)")
    with HttpsGitServer(
        tmp_path / "git", tmp_path / "projects", None, listening=(listening, GIT_SERVER)
    ) as server:
        for machine in world.machines.values():
            authority = server.ca_file.read_text()
            machine.run(
                f"echo '{git.plan.address} {GIT_SERVER}' >> /etc/hosts;"
                f" echo '{authority}' >> /etc/ssl/certs/ca-certificates.crt",
                is_root=True,
            )
        bring_up(world, clock)
        processes = start_all(world, clock)
        try:
            printed = acme.run(page.command("pbft-ci submit"))
            clock.say("the first verdict")
            assert "passed" in printed
            heads = set()
            for operator in operators:
                checked = acme.run(f"pbft-ci ledger --verify --node {operator.name}")
                heads.update(
                    re.findall("the chain of 2 entries holds, head ([0-9a-f]{64})", checked)
                )
            assert len(heads) == 1
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(READY_SECONDS)
    keys = private_keys([*operators, olga])
    assert len(keys) == len(OPERATORS) + 2, sorted(map(str, keys))
    assert {mode.st_mode & 0o777 for _, mode in keys.values()} == {0o600}
    may_read = readers(keys, world.machines.values())
    assert len(may_read) == len(keys), may_read
    assert all(len(uids) == 1 for uids in may_read.values()), may_read
    # the gateway's key is its operator's, and all others are of one operator each
    assert len(set.union(*may_read.values())) == len(OPERATORS) + 1


def bring_up(world: World, clock: Clock) -> None:
    """Sections 1 to 4 of the page."""
    operators = [world.machines[name] for name in OPERATORS]
    acme, olga = operators[0], world.machines["olga"]
    for operator in operators:
        operator.run(page.command("install -d"), is_root=True)
        operator.run(page.typed_by(operator, page.command("pbft-ci-node init")))
        # what this machine cannot pull: `init` wrote the line as a comment
        operator.run("sed -i 's/^    # local_images:/    local_images:/' node.yml")
    acme.run(page.command("pbft-ci-gateway init"))
    olga.run(page.command("pbft-ci operator init"))
    clock.say("1. members are made")
    exchange_entries(world, (*OPERATORS, "olga"))
    for operator in operators:
        operator.run(page.command("pbft-ci cluster assemble"))
    clusters = {(m.root / CONFIGURATION[1:] / "cluster.yml").read_bytes() for m in operators}
    assert len(clusters) == 1
    assert b"tls: required" in clusters.pop()
    clock.say("2. entries are exchanged, clusters assembled")
    for line in (line for line in page.commands() if line.endswith(" confirm")):
        for operator in operators if "pbft-ci-node" in line else [acme]:
            # `script` gives it a terminal, at which the operator answers
            shown = operator.run(f"script -qec '{line}' /dev/null", text="yes\n")
            assert "Read these words" in shown
    clock.say("3. the fingerprint is confirmed")
    for operator in operators:
        checked = operator.run(page.command("pbft-ci-node", "check"))
        assert " wrong " not in checked, checked
    clock.say("4. checked")


def start_all(world: World, clock: Clock) -> list[Process]:
    """Section 5: no systemd runs on these machines, so what its units start is started here."""
    started = []
    for line in (line for line in page.commands() if line.startswith("systemctl enable --now")):
        program = line.split()[-1]
        config = f"{CONFIGURATION}/{'node' if program == 'pbft-ci-node' else 'client'}.yml"
        names = OPERATORS if program == "pbft-ci-node" else OPERATORS[:1]
        for machine in (world.machines[name] for name in names):
            output_file = world.folder / machine.name / f"{program}.txt"
            with output_file.open("ab") as output, open(os.devnull) as nothing:
                command = (f"/opt/pbft-ci/bin/{program}", "--config", config)
                started.append(machine.spawn(command, (nothing, output, output), {}))
    acme = world.machines[OPERATORS[0]]

    def is_ready() -> bool:
        try:
            acme.run("curl --fail --silent http://127.0.0.1:8080/readyz")
        except CommandFailed:
            return False
        return True

    block_until(is_ready, "a gateway that is ready", READY_SECONDS)
    clock.say("5. started")
    return started


def listen_at(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port))
