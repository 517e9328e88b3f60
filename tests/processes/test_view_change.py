"""The primary dies, sleeps, or has its disk wiped: the others go on, and soon.

Every test prints the longest time without service, as a multiple of the view-change timer too. It
may be the timers of the views that failed, and what this machine needs beside them (`wait_max`).
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import docker
import pytest

from ci.ledger import AppendEntry, decode_entry
from common.links.link import RECONNECT_SECONDS_MAX
from pbft.ports import Entry
from tests.node.conftest import things_of
from tests.processes.conftest import NetworkMaker
from tests.processes.load import Load
from tests.processes.nemesis import left_on_engine
from tests.processes.network import CLIENT, Network, pipeline, verdict_entries
from tests.processes.promises import broken_promises

pytestmark = pytest.mark.processes

BRANCHES = {"green": pipeline("echo green"), "red": pipeline("exit 3")}
TIMER_SECONDS = 2.0
# A view change has more to it than an append: proofs, links, and all that waited meanwhile.
USUAL_WAITS_MAX = 20
# Of the usual wait. A machine that was quiet when it was measured need not be so a moment later.
USUAL_SECONDS_MIN = 0.25
# The answers from which the usual wait is measured.
USUAL_ANSWERS = 15
# Longer than the moment between a look at a node and the signal that stops it.
SLEEPER_TIMER_SECONDS = 4.0
DEADLINE_MARGIN_SECONDS = 0.1
# A node that counts its sleep asks for another primary in every second one: it races what has come.
SLEEPS = 3
GO_ON_SECONDS = 180.0


def patient(network_maker: NetworkMaker, **cluster: object) -> Network:
    """A network with this test's timer, and everything that it sends captured."""
    overrides = {"node": {"view_change_seconds": TIMER_SECONDS}, "cluster": cluster}
    network: Network = network_maker(BRANCHES, is_captured=True, overrides=overrides)
    return network


def usual_wait(load: Load) -> float:
    """The longest wait for an answer while nothing fails, which tells how busy this machine is."""
    since = time.monotonic()
    load.wait_for_answers(USUAL_ANSWERS, GO_ON_SECONDS)
    return max(load.longest_wait(since), USUAL_SECONDS_MIN)


def print_wait(
    capsys: pytest.CaptureFixture[str], what: str, seconds: float, usual_seconds: float
) -> None:
    """Say how long nobody was served."""
    timers = seconds / TIMER_SECONDS
    with capsys.disabled():
        print(  # noqa: T201 - meant for whoever runs the tests
            f"\n{what}: {seconds:.2f} s without service, {timers:.2f} view-change timers"
            f" (usual: {usual_seconds:.2f} s)"
        )


def wait_max(views: int, usual_seconds: float) -> float:
    """How long nobody may be served at the most while so many views fail, one after the other.

    Their timers, each twice as long as the one before, once more the first one, for what there is
    to do besides may take no longer, and whatever this machine is late by.
    """
    return TIMER_SECONDS * (1 << views) + USUAL_WAITS_MAX * usual_seconds


def views_of(network: Network, *names: str) -> list[int]:
    """A loaded machine may change the view once more than the test asks for: it is never less."""
    return [network.status(name)["view"] for name in names or network.node_names]


def appended(ledger: list[Entry]) -> list[str]:
    decoded = [decode_entry(entry.body) for entry in ledger]
    return [entry.text for entry in decoded if isinstance(entry, AppendEntry)]


def wait_for_appends(network: Network, *loads: Load) -> None:
    """Until all are ordered; what its asker waits for no more, the gateway may still send again."""
    count = sum(len(load.texts) for load in loads)
    network.wait_until(
        lambda: network.status("node1")["journal_length"] >= count, "all appends", GO_ON_SECONDS
    )


def check_nothing_is_lost(network: Network, load: Load, builds: list[str]) -> None:
    """Every append once, every build with its verdict, all ledgers equal."""
    views = network.verdicts(builds)
    wait_for_appends(network, load)
    assert all(view["verdict"]["outcome"] in ("passed", "failed") for view in views.values())
    ledger = network.settle()
    assert sorted(entry.build for entry in verdict_entries(ledger)) == sorted(builds)
    assert sorted(appended(ledger)) == sorted(load.texts)


def test_the_primary_killed_under_load(
    make_network: NetworkMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    network = patient(make_network)
    network.start()
    with Load(network, "a") as load:
        usual = usual_wait(load)
        builds = [network.post("green" if number % 2 else "red") for number in range(6)]
        network.kill("node0")
        killed = time.monotonic()
        load.wait_for_answers(10, GO_ON_SECONDS)
        waited = load.longest_wait(killed)
        views = views_of(network, "node1", "node2", "node3")
        builds.append(network.post("green"))
        network.verdict(builds[-1])
        assert min(views_of(network, "node1", "node2", "node3")) >= 1
        network.start("node0")
    print_wait(capsys, "primary killed", waited, usual)
    assert waited < wait_max(max(views), usual)
    check_nothing_is_lost(network, load, builds)
    assert min(views_of(network)) >= 1
    assert broken_promises(network) == []


def test_the_primary_asleep_and_awake_again(
    make_network: NetworkMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """When it wakes it takes in what it missed; it does not ask for another primary itself."""
    network = patient(make_network)
    network.start()
    with Load(network, "a") as load:
        usual = usual_wait(load)
        builds = [network.post("green") for _ in range(3)]
        network.processes["node0"].send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        load.wait_for_answers(10, GO_ON_SECONDS)
        waited = load.longest_wait(stopped)
        views = views_of(network, "node1", "node2", "node3")
        # A primary leaves its view after twice the timer: none of its deadlines is later than that.
        wait_for_time(network, stopped + 2 * TIMER_SECONDS + DEADLINE_MARGIN_SECONDS)
        network.processes["node0"].send_signal(signal.SIGCONT)
        network.wait_until(
            lambda: network.status("node0")["view"] >= 1, "node0 in the new view", GO_ON_SECONDS
        )
        load.wait_for_answers(10, GO_ON_SECONDS)
    print_wait(capsys, "primary stopped", waited, usual)
    assert waited < wait_max(max(views), usual)
    check_nothing_is_lost(network, load, builds)
    assert min(views_of(network)) >= 1
    assert broken_promises(network) == []


def test_a_backup_that_falls_asleep_again_and_again_changes_nothing(
    make_network: NetworkMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """It wakes to requests that waited for longer than its timer, and blames nobody for it."""
    network = patient(make_network)
    network.rewrite(
        "node2", lambda settings: settings.update(view_change_seconds=SLEEPER_TIMER_SECONDS)
    )
    network.start()

    def send(number: int, *names: str) -> None:
        for name in names:
            network.processes[name].send_signal(number)

    fell_asleep_in_time = True
    with Load(network, "a") as load:
        usual = usual_wait(load)
        began = time.monotonic()
        for _ in range(SLEEPS):
            # Two others sleep for a moment, so that a request waits for sure when it falls asleep.
            others_asleep = time.monotonic()
            send(signal.SIGSTOP, "node1", "node3")
            wait_until_stuck(network, "node2")
            send(signal.SIGSTOP, "node2")
            asleep = time.monotonic()
            fell_asleep_in_time &= asleep < others_asleep + SLEEPER_TIMER_SECONDS
            send(signal.SIGCONT, "node1", "node3")
            load.wait_for_answers(10, GO_ON_SECONDS)
            wait_for_time(network, asleep + SLEEPER_TIMER_SECONDS + DEADLINE_MARGIN_SECONDS)
            send(signal.SIGCONT, "node2")
            load.wait_for_answers(10, GO_ON_SECONDS)
            network.wait_until(
                lambda: network.status("node2")["in_sync"], "node2 in sync", GO_ON_SECONDS
            )
        waited = load.longest_wait(began)
    print_wait(capsys, "backup stopped", waited, usual)
    assert waited < wait_max(max(views_of(network, "node0", "node1", "node3")), usual)
    check_nothing_is_lost(network, load, [])
    # It never leaves its view alone, whatever the others do. A machine on which the moments before
    # its sleep were as long as its timer, or the others' timers ran out, gives it a reason.
    assert network.status("node2")["view"] <= max(views_of(network, "node0", "node1", "node3"))
    if fell_asleep_in_time and max(views_of(network)) == 0:
        assert "view_change" not in network.status("node2")["counters"]
    assert broken_promises(network) == []


def wait_for_time(network: Network, end: float) -> None:
    """Until it is `end` by time.monotonic(): nothing else makes a deadline pass."""
    network.wait_until(lambda: time.monotonic() >= end, "the time", GO_ON_SECONDS)


def wait_until_stuck(network: Network, name: str) -> None:
    """Until requests wait there and nothing is ordered any more: three looks find the same."""
    looks: list[tuple[int, int]] = []

    def is_stuck() -> bool:
        status = network.status(name)
        looks.append((status["sequence"], status["pending_requests"]))
        return len(looks) >= 3 and len(set(looks[-3:])) == 1 and looks[-1][1] > 0

    network.wait_until(is_stuck, f"{name} is stuck", GO_ON_SECONDS)


def test_every_node_killed_in_turn(
    make_network: NetworkMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    network = patient(make_network, checkpoint_interval=16, window=32)
    network.start()
    builds: list[str] = []
    with Load(network, "a") as load:
        for name in network.node_names:
            usual = usual_wait(load)
            before = max(views_of(network))
            builds.append(network.post("green"))
            killed = time.monotonic()
            network.kill(name)
            load.wait_for_answers(10, GO_ON_SECONDS)
            waited = load.longest_wait(killed)
            others = [other for other in network.node_names if other != name]
            views = max(views_of(network, *others)) - before
            network.start(name)
            print_wait(capsys, f"{name} killed", waited, usual)
            assert waited < wait_max(views, usual)
            network.wait_until(
                lambda name=name: network.status(name)["in_sync"],  # type: ignore[misc]
                f"{name} in sync",
                GO_ON_SECONDS,
            )
    check_nothing_is_lost(network, load, builds)
    assert broken_promises(network) == []


def test_all_killed_at_once(make_network: NetworkMaker, capsys: pytest.CaptureFixture[str]) -> None:
    network = patient(make_network)
    network.start()
    with Load(network, "a") as load:
        usual = usual_wait(load)
        before = max(views_of(network))
        builds = [network.post("green") for _ in range(4)]
        for name in network.node_names:
            network.kill(name)
        network.start(*network.node_names)
        started = time.monotonic()
        load.wait_for_answers(10, GO_ON_SECONDS)
        waited = load.longest_wait(started)
        views = max(views_of(network)) - before
    print_wait(capsys, "all killed, since they answer", waited, usual)
    # links are made again at the latest after RECONNECT_SECONDS_MAX
    assert waited < RECONNECT_SECONDS_MAX + wait_max(views, usual)
    check_nothing_is_lost(network, load, builds)
    assert broken_promises(network) == []


def test_a_wiped_data_directory(
    make_network: NetworkMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """The state comes over the links, the ledger over HTTP; then all four are equal again."""
    network = patient(make_network, checkpoint_interval=8, window=16)
    network.start()
    with Load(network, "a") as load:
        usual = usual_wait(load)
        builds = [network.post("green") for _ in range(3)]
        network.verdicts(builds)
        network.wait_until(
            lambda: network.status("node0")["stable_checkpoint"] >= 32, "checkpoints", GO_ON_SECONDS
        )
        wiped = time.monotonic()
        network.kill("node3")
        shutil.rmtree(network.data_directory("node3"))
        network.start("node3")
        network.wait_until(
            lambda: network.status("node3")["sequence"] > 32, "node3 has the state", GO_ON_SECONDS
        )
        network.wait_until(
            lambda: network.status("node3")["ledger_missing"] == 0, "the ledger", GO_ON_SECONDS
        )
        assert network.status("node3")["counters"]["state_transferred"] >= 1
        builds.append(network.post("red"))
        view = network.complete(builds[-1], ballots=4)
        assert "node3" in {ballot["replica"] for ballot in view["ballots"]}
        waited = load.longest_wait(wiped)
    print_wait(capsys, "a backup wiped", waited, usual)
    check_nothing_is_lost(network, load, builds)
    network.kill("node3")
    network.start("node3")
    network.settle()
    status = network.status("node3")
    assert (status["in_sync"], status["ledger_missing"]) == (True, 0)


def test_the_gateway_loses_its_data_after_more_requests_than_are_remembered(
    make_network: NetworkMaker,
) -> None:
    network = patient(make_network, client_window=16)
    network.start()
    with Load(network, "a") as load:
        load.wait_for_answers(30, GO_ON_SECONDS)
    wait_for_appends(network, load)
    network.settle()
    network.stop(CLIENT)
    shutil.rmtree(network.data_directory(CLIENT))
    network.start(CLIENT)
    with Load(network, "b") as again:
        build = network.post("green")
        assert network.verdict(build)["verdict"]["outcome"] == "passed"
        again.wait_for_answers(20, GO_ON_SECONDS)
    wait_for_appends(network, load, again)
    ledger = network.settle()
    assert sorted(appended(ledger)) == sorted(load.texts + again.texts)


# --- the same while containers build ------------------------------------------------------------

CONTAINER_TIMER_SECONDS = 4.0
# What a node has of its own (libraries, client tables, a window of bodies), with much to spare;
# a queue that grew with the time that a peer sleeps would soon be above it.
RESIDENT_BYTES_MAX = 400 * 1024 * 1024


@pytest.mark.long
@pytest.mark.docker
@pytest.mark.timeout(900)
def test_every_fault_in_turn_while_containers_build(
    make_network: NetworkMaker,
    docker_engine: docker.DockerClient,
    base_image: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The primary asleep, a node killed, a backup asleep, all killed at once, a disk wiped."""
    network = make_network(
        {
            "green": pipeline("sleep 2; echo green", image=base_image),
            "red": pipeline("sleep 1; exit 3", image=base_image),
        },
        executor="docker",
        is_captured=True,
        overrides={
            "node": {"view_change_seconds": CONTAINER_TIMER_SECONDS},
            "cluster": {"checkpoint_interval": 16, "window": 32},
        },
    )
    network.start()
    cluster_id = bytes.fromhex(network.status("node0")["cluster"])
    builds: list[str] = []

    def fault(
        what: str,
        strike: Callable[[], None],
        heal: Callable[[], None],
        names: Sequence[str] = network.node_names,
    ) -> None:
        """Strike while containers run, wait until the others are served again, and heal."""
        builds.extend(network.post(branch) for branch in ("green", "red"))
        network.wait_until(
            lambda: bool(things_of(docker_engine, cluster_id)),
            "a container",
            GO_ON_SECONDS,
        )
        struck = time.monotonic()
        strike()
        load.wait_for_answers(10, GO_ON_SECONDS)
        waited = load.longest_wait(struck)
        heal()
        with capsys.disabled():
            timers = waited / CONTAINER_TIMER_SECONDS
            print(f"\n{what}: {waited:.2f} s without service, {timers:.2f} timers")  # noqa: T201
        network.wait_until(
            lambda: all(network.status(name)["in_sync"] for name in names),
            f"all in sync after {what}",
            2 * GO_ON_SECONDS,
        )

    def send(name: str, number: int) -> Callable[[], None]:
        return lambda: network.processes[name].send_signal(number)

    def restart_all() -> None:
        for name in network.node_names:
            network.kill(name)
        network.start(*network.node_names)

    def wipe(name: str) -> None:
        network.kill(name)
        shutil.rmtree(network.data_directory(name))

    with Load(network, "a") as load:
        load.wait_for_answers(10, GO_ON_SECONDS)
        primary = network.status("node0")["primary"]
        fault("primary asleep", send(primary, signal.SIGSTOP), send(primary, signal.SIGCONT))
        fault("node1 killed", partial(network.kill, "node1"), partial(network.start, "node1"))
        others = ("node0", "node1", "node2")
        fault("backup asleep", send("node3", signal.SIGSTOP), lambda: None, others)
        load.wait_for_answers(100, 2 * GO_ON_SECONDS)
        for name in others:
            assert resident_bytes(network.processes[name].pid) < RESIDENT_BYTES_MAX
        send("node3", signal.SIGCONT)()
        fault("all killed", restart_all, lambda: None)
        fault("node2 wiped", partial(wipe, "node2"), partial(network.start, "node2"))
    check_nothing_is_lost(network, load, builds)
    assert broken_promises(network) == []
    assert left_on_engine(network, docker_engine) == []


def resident_bytes(pid: int) -> int:
    """What a process has in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
