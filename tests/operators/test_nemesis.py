"""Four operators' machines in a bad world: half a minute of the nemesis, and clocks that differ.

In one of three commits the members change, too. All tests share the machines, whose clocks are ten
minutes apart from the start: that does no harm. A member's certificate holds from a day before it
was made to a week after. So two days are refused: both ends log one line that names the cause, and
the others go on without the one whose clock is wrong. The nemesis runs longer before a release, and
for hours by hand.
"""

from collections.abc import Iterator

import pytest

from tests.operators import nemesis
from tests.operators.machine import faketime_library, missing_programs
from tests.operators.world import OperatorNetwork, World
from tests.pbft_ci.installation import Installation
from tests.thoroughness import is_tried, times

pytestmark = [pytest.mark.processes, pytest.mark.long]

SEED = 1
SECONDS = 120.0
MINUTE = 60
DAY = 24 * 3600
CLOCKS = (-10 * MINUTE, 0, 10 * MINUTE, 20 * MINUTE)


@pytest.fixture(scope="module")
def network(
    tmp_path_factory: pytest.TempPathFactory, installation: Installation
) -> Iterator[OperatorNetwork]:
    """Four nodes and a gateway that run, on machines whose clocks are ten minutes apart."""
    if missing := missing_programs():
        pytest.skip(f"no machines can be made here: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("machines") / "world"
    with (
        World(folder, installation, seed=SEED) as world,
        nemesis.bring_up(world, "process") as made,
    ):
        set_clocks(made)
        made.start()
        yield made


def set_clocks(network: OperatorNetwork) -> None:
    """Put the clocks ten minutes apart, wherever another test left them."""
    for name, offset in zip(network.node_names, CLOCKS, strict=True):
        network.machine(name).set_clock(offset)


def need_faketime() -> None:
    if faketime_library() is None:
        pytest.skip("libfaketime is not here: `./scripts/test.sh` unpacks Debian's")


def restart(network: OperatorNetwork, name: str) -> None:
    """So that all links are made anew, by its clock."""
    network.stop(name)
    network.start(name)


def are_linked(network: OperatorNetwork, name: str) -> bool:
    peers = network.status(name)["peers"]
    return all(peer["connected"] for peer in peers.values())


@pytest.mark.timeout(times(1500))
def test_faults_of_machines_break_no_promise(
    network: OperatorNetwork, capsys: pytest.CaptureFixture[str]
) -> None:
    """The seed stopped a primary for a minute beside a bridge and slow links."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)  # noqa: T201 - meant for whoever runs the tests

    # it costs almost as much again
    changes_members = is_tried(3, "members")
    say(f"\nnemesis: seed {SEED}, members {'change' if changes_members else 'stay'}")
    assert (
        nemesis.run(network, seed=SEED, seconds=times(30), say=say, changes_members=changes_members)
        == []
    )


def test_ten_minutes_apart_do_no_harm(network: OperatorNetwork) -> None:
    need_faketime()
    set_clocks(network)
    network.wait_until(
        lambda: all(are_linked(network, name) for name in network.node_names), "all links", SECONDS
    )
    sizes = {name: network.log_file(name).stat().st_size for name in network.node_names}
    builds = [network.post(branch) for branch in ("green", "red", "slow")]
    outcomes = [network.complete(build)["verdict"]["outcome"] for build in builds]
    assert outcomes == ["passed", "failed", "passed"]
    network.settle()
    for name, size in sizes.items():
        assert "this machine:" not in network.log_file(name).read_text()[size:]


def test_two_days_apart_are_refused_with_a_line_at_both_ends(network: OperatorNetwork) -> None:
    """tests/common/tls has the other ways to be wrong."""
    need_faketime()
    # its own certificates are of tomorrow's tomorrow, the others' are good for a week
    offset, here, there = 2 * DAY, "it does not take our certificate", "is not valid yet"
    other, *_, alone = network.node_names
    before = {name: network.log_file(name).stat().st_size for name in (alone, other)}

    def said(name: str) -> str:
        return network.log_file(name).read_text()[before[name] :]

    network.stop(alone)
    network.machine(alone).set_clock(offset)
    network.start(alone)
    network.wait_until(lambda: here in said(alone), f"{here!r} in {alone}'s log", SECONDS)
    network.wait_until(lambda: there in said(other), f"{there!r} in {other}'s log", SECONDS)
    assert not any(peer["connected"] for peer in network.status(alone)["peers"].values())
    # three are enough
    assert network.verdict(network.post("green"))["verdict"]["outcome"] == "passed"
    network.machine(alone).set_clock(0)
    restart(network, alone)
    network.wait_until(lambda: are_linked(network, alone), "its links", SECONDS)
    network.settle()
