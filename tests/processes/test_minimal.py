"""`executors: minimal` with real processes: three of four build, the fourth where it is needed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.executors import STAND_BY
from ci.limits import Limits
from tests.processes.conftest import NetworkMaker
from tests.processes.network import VERDICT_SECONDS, Network, pipeline

pytestmark = pytest.mark.processes

# Beyond how long one waits for a build of these to be decided by itself.
LONG_SECONDS = 300
BRANCHES = {"green": pipeline("echo green"), "red": pipeline("exit 3")}


def minimal_network(
    make_network: NetworkMaker,
    branches: dict[str, dict[str, str]],
    stand_by_seconds: float = LONG_SECONDS,
    **overrides: dict[str, object],
) -> Network:
    limits = {"executors": "minimal", "deadline_seconds": 2 * LONG_SECONDS}
    network: Network = make_network(
        branches,
        overrides={
            "node": {"stand_by_seconds": stand_by_seconds},
            "cluster": {"limits": limits},
            **overrides,
        },
    )
    assert network.configuration.cluster.limits_as(Limits).executors == "minimal"
    return network


def stands(view: dict[str, Any]) -> dict[str, str]:
    """What each replica says of a build."""
    return {row["replica"]: row["state"] for row in view["replicas"]}


def gated(folder: Path) -> tuple[Path, dict[str, dict[str, str]]]:
    """A branch whose build ends once that file is there."""
    gate = folder / "gate"
    return gate, {"main": pipeline(f"until [ -e {gate} ]; do sleep 0.1; done")}


def begun(network: Network, build: str) -> tuple[list[str], list[str]]:
    """Who builds and who stands by, once three are building."""
    found: dict[str, list[str]] = {}

    def are_three_building() -> bool:
        found.clear()
        for name, state in stands(network.build(build)).items():
            found.setdefault(str(state), []).append(name)
        return len(found.get("building", [])) == 3 and STAND_BY in found

    network.wait_until(are_three_building, lambda: f"three that build: {found}", VERDICT_SECONDS)
    return found["building"], found[STAND_BY]


def test_three_of_four_build_and_the_fourth_is_no_trouble(make_network: NetworkMaker) -> None:
    network = minimal_network(make_network, BRANCHES)
    network.start()
    builds = [network.post(branch) for branch in ("green", "red", "none") * 3]
    drawn: set[str] = set()
    for build in builds:
        view = network.complete(build, ballots=3)
        executors = view["verdict"]["executors"]
        assert len(executors) == 3
        assert sorted(view["verdict"]["agreeing"]) == sorted(executors)
        assert sorted(ballot["replica"] for ballot in view["ballots"]) == sorted(executors)
        (fourth,) = set(network.node_names) - set(executors)
        assert stands(view)[fourth] == STAND_BY
        drawn.update(executors)
    assert drawn == set(network.node_names)
    network.settle()
    for name in network.node_names:
        status = network.status(name)
        assert status["dissenting_nodes"] == status["byzantine_nodes"] == []


def test_who_stands_by_takes_over_from_one_that_is_killed(
    make_network: NetworkMaker, tmp_path: Path
) -> None:
    gate, branches = gated(tmp_path)
    network = minimal_network(make_network, branches, stand_by_seconds=0.5)
    network.start()
    build = network.post("main")
    executors, (fourth,) = begun(network, build)
    network.kill(executors[0])
    gate.touch()
    view = network.complete(build, ballots=3)
    assert view["verdict"]["outcome"] == "passed"
    assert set(view["verdict"]["agreeing"]) == {*executors[1:], fourth}
    network.start(executors[0])
    assert network.verdict(network.post("main"))["verdict"]["outcome"] == "passed"


def test_who_stands_by_takes_over_from_one_that_lies(make_network: NetworkMaker) -> None:
    network = minimal_network(make_network, BRANCHES, node3={"fault_injection": "lying"})
    network.start()
    is_drawn = {"green": False, "red": False}
    for branch, right in (("green", "passed"), ("red", "failed")) * 20:
        view = network.verdict(network.post(branch))
        assert view["verdict"]["outcome"] == right
        is_drawn[branch] |= "node3" in view["verdict"]["executors"]
        if "node3" in view["verdict"]["executors"] and branch == "green":
            view = network.complete(view["id"], ballots=4)
            assert sorted(view["verdict"]["agreeing"]) == ["node0", "node1", "node2"]
            assert view["verdict"]["dissenting"] == ["node3"]
        if all(is_drawn.values()):
            break
    assert all(is_drawn.values())


def test_an_executor_that_comes_after_the_verdict_casts_its_ballot_too(
    make_network: NetworkMaker,
) -> None:
    """Two of three are enough for `failed`; the build stays open for the third's ballot."""
    network = minimal_network(make_network, BRANCHES)
    network.start("node0", "node1", "node2", "client")
    builds = [network.post("red") for _ in range(8)]
    views = [network.verdict(build) for build in builds]
    late = [v["id"] for v in views if "node3" in v["verdict"]["executors"]]
    assert late, "one of eight draws three of four with node3, all but once in 65,536"
    network.start("node3")
    for build in late:
        view = network.complete(build, ballots=3)
        assert "node3" in view["verdict"]["agreeing"]
    network.settle()


def test_an_executor_that_starts_late_is_done_without_and_builds_later_ones(
    make_network: NetworkMaker,
) -> None:
    network = minimal_network(make_network, BRANCHES, stand_by_seconds=0.5)
    others = ["node0", "node1", "node2"]
    network.start(*others, "client")
    builds = [network.post("green") for _ in range(4)]
    for build in builds:
        view = network.complete(build, ballots=3)
        assert sorted(view["verdict"]["agreeing"]) == others
    network.start("node3")
    for _ in range(40):
        view = network.complete(network.post("green"), ballots=3)
        if "node3" in view["verdict"]["agreeing"]:
            break
    assert "node3" in view["verdict"]["agreeing"]
    network.wait_until(
        lambda: network.status("node3")["in_sync"],
        "node3 to have what the others have",
        VERDICT_SECONDS,
    )


def test_a_node_that_would_stand_by_too_long_does_not_start(make_network: NetworkMaker) -> None:
    network = minimal_network(make_network, BRANCHES)
    network.rewrite("node0", lambda settings: settings.update(stand_by_seconds=301))
    network.spawn("node0")
    assert network.processes.pop("node0").wait(60) == 2
    said = (network.folder / "output" / "node0.txt").read_text()
    assert "stand_by_seconds: 301 is more than half of deadline_seconds" in said
    assert "at most 300 is allowed with executors: minimal" in said
    text = network.config_file("cluster").read_text()
    assert yaml.safe_load(text)["limits"]["executors"] == "minimal"
