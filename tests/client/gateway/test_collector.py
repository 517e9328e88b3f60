"""client.gateway.collector: only ballots that f+1 nodes serve, only logs that a ballot names."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest

from ci.limits import Limits
from ci.operations import Abstain, Outcome
from ci.statement import parse_statement
from client.gateway import collector
from client.gateway.collector import agreed_ballots
from client.network.nodes import ServedBallot, ServedBuild
from client.views.build_view import build_view
from tests.ci.builders import FAILED, PASSED, World
from tests.client.gateway.test_gateway import decided, record_of, until
from tests.client.running_network import (
    REPOSITORY,
    Network,
    Running,
    gateway_on,
    passed,
    run_gateway,
)
from tests.client.site import client_of
from tests.client.views.test_build_view import signed_ballot

NAMES = ("replica-0", "replica-1", "replica-2", "replica-3")


def served(*ballots: tuple[str, bytes]) -> ServedBuild:
    return ServedBuild(
        "00", 1, "none", tuple(ServedBallot(name, signed) for name, signed in ballots), True
    )


def test_one_node_alone_is_not_enough() -> None:
    """A ballot may be signed and yet never have been ordered."""
    world = World()
    build = world.open(1)
    ordered = signed_ballot(world, 0, build, PASSED)
    never_ordered = signed_ballot(world, 0, build, FAILED)
    liar = served(("replica-0", never_ordered))
    honest = served(("replica-0", ordered))
    assert agreed_ballots([liar, honest], NAMES, 2) == []
    assert agreed_ballots([liar, honest, honest], NAMES, 2) == [("replica-0", ordered)]


def test_one_node_has_one_voice() -> None:
    world = World()
    build = world.open(1)
    signed = signed_ballot(world, 0, build, PASSED)
    assert agreed_ballots([served(("replica-0", signed), ("replica-0", signed))], NAMES, 2) == []
    assert agreed_ballots([served(("replica-0", b"nonsense"))] * 4, NAMES, 2) == []


def test_strangers_ballots_are_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(data: bytes) -> None:
        raise AssertionError(data)

    monkeypatch.setattr(collector, "decode_signed", decode)
    told = served(*((f"stranger-{number}", b"x") for number in range(3)))
    assert agreed_ballots([told] * 4, NAMES, 2) == []


async def test_a_log_that_does_not_match_its_ballot_is_not_archived(running: Running) -> None:
    network = running.network
    network.nodes["replica-1"].finds = lambda build: (passed("told")[0], b"served")
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await decided(running, build)
    await until(lambda: len(running.archive.ballots(build)) == 4)
    await until(lambda: sum(ballot.log_archived for ballot in running.archive.ballots(build)) == 3)
    logs = {ballot.replica for ballot in running.archive.ballots(build) if ballot.log_archived}
    assert "replica-1" not in logs
    assert not running.archive.log_file(build, "replica-1").exists()
    network.nodes["replica-1"].logs[build] = b"told"
    await until(lambda: record_of(running, build).collected)
    assert running.archive.log_file(build, "replica-1").read_bytes() == b"told"


async def test_a_log_that_is_too_long_is_not_read(running: Running) -> None:
    network = running.network
    long = bytes(network.limits.log_bytes_max + 10_000)
    network.nodes["replica-1"].finds = lambda build: (passed(long.decode())[0], long)
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: len(running.archive.ballots(build)) == 4)
    log_path = f"/builds/{build.hex()}/log"
    await until(lambda: log_path in network.nodes["replica-1"].served)
    await until(lambda: sum(ballot.log_archived for ballot in running.archive.ballots(build)) == 3)
    assert not running.archive.log_file(build, "replica-1").exists()


async def test_a_slow_log_does_not_hold_up_the_others(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is kept, each once; the slow one, and the end of it all, come later."""
    go_on = asyncio.Event()
    get_log, write_logs = running.nodes.log, running.archive.write_logs
    written: list[set[str]] = []

    async def log(replica: str, build: bytes, opened: int, bytes_max: int) -> bytes:
        if replica == "replica-1":
            await go_on.wait()
        return await get_log(replica, build, opened, bytes_max=bytes_max)

    def write(build: bytes, logs: Mapping[str, bytes]) -> None:
        written.append(set(logs))
        write_logs(build, logs)

    monkeypatch.setattr(running.nodes, "log", log)
    monkeypatch.setattr(running.archive, "write_logs", write)
    monkeypatch.setattr("client.gateway.collector.LOGS_TOGETHER_SECONDS", 0.05)
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: any(ballot.log_archived for ballot in running.archive.ballots(build)))
    assert not record_of(running, build).collected
    assert "replica-1" not in written[0]
    go_on.set()
    await until(lambda: record_of(running, build).collected)
    assert running.archive.log_file(build, "replica-1").exists()
    assert sorted(name for names in written for name in names) == list(NAMES)


async def test_an_abstention_has_no_log(running: Running) -> None:
    running.network.nodes["replica-2"].finds = lambda build: (Abstain("no engine"), b"")
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).collected)
    ballots = {ballot.replica: ballot.log_archived for ballot in running.archive.ballots(build)}
    assert ballots == {
        "replica-0": True,
        "replica-1": True,
        "replica-2": False,
        "replica-3": True,
    }


async def test_a_late_ballot_is_waited_for(running: Running) -> None:
    slow = running.network.nodes["replica-3"]
    slow.finds = lambda build: None
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await decided(running, build)
    await until(lambda: len(running.archive.ballots(build)) == 3)
    assert not record_of(running, build).collected
    slow.finds = lambda build: passed("late")
    await until(lambda: record_of(running, build).collected)
    assert running.archive.log_file(build, "replica-3").read_bytes() == b"late"


@pytest.mark.parametrize("executors", ["all", "minimal"])
async def test_no_ballot_is_waited_for_from_a_vacant_seat(
    tmp_path: Path, executors: Literal["all", "minimal"]
) -> None:
    """Nor if the others disagree, so that everybody is called who may build."""
    limits = Limits(executors=executors)
    async with gateway_on(Network(limits=limits, vacant=("replica-1",)), tmp_path) as running:
        running.network.nodes["replica-2"].finds = lambda build: (FAILED, b"log")
        running.network.nodes["replica-3"].finds = lambda build: (FAILED, b"log")
        build = await running.gateway.submit(REPOSITORY, "master", None)
        await until(lambda: record_of(running, build).collected)
        cast = [ballot.replica for ballot in running.archive.ballots(build)]
        assert sorted(cast) == ["replica-0", "replica-2", "replica-3"]


async def test_waiting_ends_some_time(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.gateway.collector.LATE_SECONDS", -600.0 + 0.5)
    running.network.nodes["replica-3"].finds = lambda build: None
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).collected)
    assert len(running.archive.ballots(build)) == 3


async def test_a_glance_shows_an_open_build_and_is_not_repeated_at_once(running: Running) -> None:
    nodes = list(running.network.nodes.values())
    for node in nodes[1:]:
        node.finds = lambda build: None
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).opened_at is not None)
    await until(lambda: all(len(node.ballots.get(build, [])) == 1 for node in nodes))
    await asyncio.gather(*(running.collector.glance(build) for _ in range(10)))
    view = build_view(record_of(running, build), running.archive.ballots(build), [])
    assert [(ballot.replica, ballot.outcome) for ballot in view.ballots] == [
        ("replica-0", "passed")
    ]
    assert nodes[0].served.count(f"/builds/{build.hex()}") == 1


def freeze(running: Running, monkeypatch: pytest.MonkeyPatch, frozen: str) -> list[str]:
    """Have that node take questions and answer none; gives whom was asked about builds."""
    asked: list[str] = []
    get_build = running.nodes.build

    async def build_of(replica: str, build: bytes) -> ServedBuild:
        asked.append(replica)
        if replica == frozen:
            await asyncio.Event().wait()
        return await get_build(replica, build)

    monkeypatch.setattr(running.nodes, "build", build_of)
    return asked


async def test_a_node_that_hangs_hides_no_other(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page of an open build waits for a while, and shows who answered until then."""
    monkeypatch.setattr("client.api.routes.GLANCE_TIMEOUT_SECONDS", 4.0)
    monkeypatch.setattr("client.gateway.collector.ANSWERS_TOGETHER_SECONDS", 0.05)
    nodes = list(running.network.nodes.values())
    for node in nodes[1:]:
        node.finds = lambda build: None
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).opened_at is not None)
    await until(lambda: all(len(node.ballots.get(build, [])) == 1 for node in nodes))
    asked = freeze(running, monkeypatch, "replica-3")
    client = await client_of(running, tmp_path)

    async def cast() -> list[str]:
        async with client.get(f"/api/v1/builds/{build.hex()}") as answer:
            return [ballot["replica"] for ballot in (await answer.json())["ballots"]]

    found = await cast()
    said = {state.replica: state.state for state in running.collector.states(build)}
    assert found == ["replica-0"]
    assert said == {**dict.fromkeys(NAMES, "none"), "replica-3": None}
    # those that answer are asked again while the other one still hangs
    running.collector._glanced.clear()
    nodes[1].finds = lambda build: passed()
    await until(lambda: all(len(node.ballots[build]) == 2 for node in nodes))
    assert await cast() == ["replica-0", "replica-1"]
    assert Counter(asked) == {"replica-0": 2, "replica-1": 2, "replica-2": 2, "replica-3": 1}
    await client.close()


async def test_what_a_replica_did_last_is_kept_where_a_build_is_disputed(
    network: Network, tmp_path: Path
) -> None:
    """One finds it passed, two cannot build, and the fourth, which was at it, dies."""
    running = await run_gateway(network, tmp_path)
    for node in network.nodes.values():
        node.finds = lambda build: None
    build = await running.gateway.submit(REPOSITORY, "master", None)
    dying = network.nodes["replica-3"]
    dying.growing.add(build)
    await until(lambda: build in dying.application.open_builds())
    await running.collector.glance(build)
    dying.is_down = True
    network.nodes["replica-0"].finds = lambda build: passed()
    network.nodes["replica-1"].finds = lambda build: (Abstain("no engine"), b"")
    network.nodes["replica-2"].finds = lambda build: (Abstain("no disk"), b"")
    record = await decided(running, build)
    assert record.statement is not None
    assert parse_statement(record.statement).verdict.outcome is Outcome.DISPUTED
    await until(lambda: any(s.problem for s in running.archive.states(build)))
    await running.close()
    # a gateway that starts again, and gets no answer either, forgets nothing
    running = await run_gateway(network, tmp_path)
    await until(lambda: len(running.archive.ballots(build)) == 3)
    kept = {state.replica: state for state in running.archive.states(build)}["replica-3"]
    assert kept.state == "building"
    assert kept.seen_at is not None
    assert kept.problem is not None
    said = {state.replica: state for state in running.collector.states(build)}
    assert said["replica-3"].state == "building"
    await running.close()
