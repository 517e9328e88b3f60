"""Four operators, each in a folder of their own, make a cluster that share nothing but entries."""

import functools
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.address import Address
from scripts.example_repository import write_repository
from scripts.free_ports import free_ports
from scripts.processes import Process, answers
from tests import forked
from tests.processes.network import pipeline
from tests.processes.programs import environment, run
from tests.waiting import block_until

NAMES = ("acme", "berg", "corp", "dune")
READY_SECONDS = 60


@pytest.fixture
def running(tmp_path: Path) -> Iterator[list[Process]]:
    """What a test starts, to be ended after it."""
    started: list[Process] = []
    yield started
    for process in started:
        process.terminate()
    for process in started:
        process.wait(READY_SECONDS)


def member(program: str, *arguments: str | Path) -> str:
    """Run one command of one operator; what it printed."""
    ended = run("-m", program, *map(str, arguments))
    assert ended.code == 0, ended
    return ended.output


def rows(table: str, kind: str) -> dict[str, str]:
    """The states of the rows of one kind in what `check` printed, by name."""
    lines = [line.split() for line in table.splitlines()]
    return {line[1]: line[2] for line in lines if line[0] == kind}


def test_four_operators_who_share_only_entries_come_to_a_verdict(
    tmp_path: Path, running: list[Process]
) -> None:
    repository = tmp_path / "repository.git"
    write_repository(repository, {"main": pipeline("echo built by four")})
    ports = dict(zip((*NAMES, "web"), free_ports(5), strict=True))
    folders = {name: tmp_path / name for name in ports}
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse battery")
    passphrase.chmod(0o600)
    configs = {}
    for name, folder in folders.items():
        program, file = ("client", "client.yml") if name == "web" else ("node", "node.yml")
        listen = f"127.0.0.1:{ports[name]}"
        flags = ["--listen", listen, "--repository", str(repository)]
        if name == "acme":
            flags += ["--passphrase-file", str(passphrase)]
        member(program, "init", "--name", name, "--folder", folder, *flags)
        configs[name] = (program, folder / file)

    # everybody has everybody's entries, and assembles alone
    entries = [folder / f"{name}.entry.yml" for name, folder in folders.items()]
    for name, folder in folders.items():
        others = folder / "entries"
        others.mkdir()
        given = [Path(shutil.copy(entry, others)) for entry in entries]
        order = given[::-1] if name == "berg" else given
        member("client", "cluster", "assemble", *order, "--output", folder / "cluster.yml")
    files = {(folder / "cluster.yml").read_bytes() for folder in folders.values()}
    assert len(files) == 1

    shown = member("client", "cluster", "fingerprint", folders["acme"] / "cluster.yml")
    fingerprint = shown.rpartition("In digits: ")[2].strip()
    for program, config in configs.values():
        member(program, "confirm", fingerprint, "--config", config)
        if program == "node":
            text = config.read_text()
            config.write_text(text.replace("executor: docker", "executor: process"))
    alone = member("node", "--config", configs["acme"][1], "check")
    assert rows(alone, "replica") == dict.fromkeys(NAMES[1:], "warning"), alone
    assert rows(alone, "repository") == {f"file://{repository}": "ok"}

    with ExitStack() as opened:
        for name, (program, config) in configs.items():
            output = opened.enter_context((tmp_path / f"{name}.output").open("w+"))
            nothing = opened.enter_context(Path("/dev/null").open())
            command = ("-m", program, "--config", str(config))
            running.append(forked.start(command, (nothing, output, output), environment()))
        for name, port in ports.items():
            is_up = functools.partial(answers, Address("127.0.0.1", port))
            block_until(is_up, f"{name} answers", READY_SECONDS)

    table = run("-m", "client", "--config", str(configs["web"][1]), "check")
    assert rows(table.output, "replica") == dict.fromkeys(NAMES, "ok"), table
    # by the gateway itself, which may be asked while it runs
    assert (table.code, "is in use while this member runs" in table.output) == (0, True)
    printed = member("client", "--config", configs["web"][1], "submit", "main", "--wait")
    assert "passed" in printed
