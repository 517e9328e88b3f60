"""Traps that only real builds show: long ones, ones that never agree, and nodes that die in one."""

import os
import time
from pathlib import Path

import pytest

from tests.processes.build_gate import BuildGate
from tests.processes.conftest import Engine, NetworkMaker
from tests.processes.load import Load
from tests.processes.network import Network, pipeline
from tests.waiting import block_until

pytestmark = pytest.mark.processes

# Longer than a busy machine keeps a request waiting.
TIMER_SECONDS = 10.0
# More than two timers: were executing within the timer, the view would change twice.
LONG_SECONDS = 22.0
GO_ON_SECONDS = 180.0


def test_trap_15_a_long_build_changes_no_view(
    engine: Engine, make_network: NetworkMaker, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The timer covers ordering alone, which goes on beside builds; a limit is the pipeline's."""
    is_in_containers = engine.executor == "docker"
    gate = BuildGate(
        tmp_path, request.getfixturevalue("docker_engine") if is_in_containers else None
    )
    network = make_network(
        {
            "long": pipeline(gate.wait, image=engine.image),
            "endless": pipeline("sleep 600", image=engine.image, timeout_seconds=2),
        },
        executor=engine.executor,
        overrides={"node": {"view_change_seconds": TIMER_SECONDS}},
    )
    network.start()
    long, endless = network.post("long"), network.post("endless")
    network.wait_until(
        lambda: network.status("node0")["open_builds"] == 2, "two open builds", GO_ON_SECONDS
    )
    opened = time.monotonic()
    with Load(network, "beside") as load:
        load.wait_for_answers(10, GO_ON_SECONDS)
    over = network.complete(endless)["verdict"]
    assert (over["outcome"], sorted(over["agreeing"])) == ("timed_out", list(network.node_names))
    network.wait_until(
        lambda: time.monotonic() > opened + LONG_SECONDS, "more than two timers", GO_ON_SECONDS
    )
    assert network.build(long)["status"] != "decided"
    gate.open_for_all(network, long)
    assert network.complete(long)["verdict"]["outcome"] == "passed"
    network.settle()
    for name in network.node_names:
        status = network.status(name)
        assert (status["view"], status["counters"].get("view_change", 0)) == (0, 0), name


def test_trap_21_builds_that_never_agree_are_disputed_and_nobody_is_condemned(
    engine: Engine, make_network: NetworkMaker
) -> None:
    """Each replica's build ends with a code by chance: the answer says who said what."""
    chance = "exit $(( 1 + $(head -c 1 /dev/urandom | od -A n -t u1) % 200 ))"
    network = make_network(
        {"flaky": pipeline(chance, image=engine.image)}, executor=engine.executor
    )
    network.start()
    for _ in range(2):
        view = network.complete(network.post("flaky"))
        codes = {ballot["replica"]: ballot["exit_code"] for ballot in view["ballots"]}
        assert set(codes) == set(network.node_names)
        verdict = view["verdict"]
        if len(set(codes.values())) == len(codes):
            assert (verdict["outcome"], verdict["exit_code"]) == ("disputed", None)
            assert verdict["agreeing"] == []
        else:
            # By chance two had the same one, and f+1 are enough for a red one.
            agreeing = {name for name in codes if codes[name] == verdict["exit_code"]}
            assert (verdict["outcome"], set(verdict["agreeing"])) == ("failed", agreeing)
    for name in network.node_names:
        assert network.status(name)["byzantine_nodes"] == []


def test_a_node_that_is_killed_takes_its_plain_processes_along(make_network: NetworkMaker) -> None:
    """executor: process. Also those that left their group; the other nodes' go on."""
    script = "setsid sleep 500 & (setsid sleep 501 &) ; sleep 502"
    network = make_network({"green": pipeline("echo green"), "long": pipeline(script)})
    network.start()
    build = network.post("long")
    network.wait_until(
        lambda: all(len(processes_of(network, name)) >= 4 for name in network.node_names),
        "the processes of all builds",
        GO_ON_SECONDS,
    )
    network.kill("node1")
    network.wait_until(lambda: not processes_of(network, "node1"), "their end", GO_ON_SECONDS)
    assert len(processes_of(network, "node2")) >= 4
    network.start("node1")
    network.wait_until(
        lambda: len(processes_of(network, "node1")) >= 4, "the build begun anew", GO_ON_SECONDS
    )
    network.close()
    block_until(
        lambda: not any(processes_of(network, name) for name in network.node_names),
        f"the end of build {build}",
    )


def processes_of(network: Network, name: str) -> list[int]:
    """The processes that work in a node's folder, but for the node itself."""
    folder = network.data_directory(name).resolve()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            where = Path(os.readlink(entry / "cwd"))
        except OSError:
            continue  # it has ended
        if where.is_relative_to(folder):
            found.append(int(entry.name))
    return found
