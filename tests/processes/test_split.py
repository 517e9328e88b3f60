"""Two against two: such a build is never green, in whatever order the ballots come."""

from collections.abc import Iterator

import pytest

from tests.processes.conftest import NetworkMaker
from tests.processes.network import Network, pipeline

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("liars", [("node2", "node3"), ("node0", "node1"), ("node0", "node3")])
def test_two_liars_are_more_than_f_but_never_make_red_of_it_green(
    make_network: NetworkMaker, liars: tuple[str, str]
) -> None:
    """More than f faults: anything but `passed` may come out, and `passed` may not.

    The green build ends as the liars say (f+1 equal ballots of failed), the red one as it is.
    """
    network = make_network(
        {"green": pipeline("echo green"), "red": pipeline("exit 7")},
        overrides={name: {"fault_injection": "lying"} for name in liars},
    )
    network.start()
    honest = sorted(set(network.node_names) - set(liars))
    green = network.complete(network.post("green"))["verdict"]
    assert (green["outcome"], green["exit_code"]) == ("failed", 1)
    assert (sorted(green["agreeing"]), sorted(green["dissenting"])) == (sorted(liars), honest)
    red = network.complete(network.post("red"))["verdict"]
    assert (red["outcome"], red["exit_code"]) == ("failed", 7)
    assert (sorted(red["agreeing"]), sorted(red["dissenting"])) == (honest, sorted(liars))
    network.settle()


def by_node(*commands: str) -> dict[str, str]:
    """A pipeline that does something else on each node: it is run in that node's own folder."""
    cases = "".join(f"*/node{index}/*) {command};; " for index, command in enumerate(commands))
    return pipeline(f'case "$PWD/" in {cases}*) exit 99;; esac')


LATER = "sleep 1.5"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Builds that are not reproducible, as they come in real life."""
    branches = {
        "green-first": by_node("exit 0", "exit 0", f"{LATER}; exit 5", f"{LATER}; exit 5"),
        "red-first": by_node(f"{LATER}; exit 0", f"{LATER}; exit 0", "exit 5", "exit 5"),
        "alternating": by_node("exit 0", f"{LATER}; exit 0", "exit 5", f"{LATER}; exit 5"),
        "three-kinds": by_node("exit 0", "exit 0", "exit 5", "exit 6"),
        "four-kinds": by_node("exit 0", "exit 5", "exit 6", "exit 7"),
        "three-to-one": by_node("exit 0", "exit 0", "exit 0", "exit 5"),
    }
    folder = tmp_path_factory.mktemp("split")
    with Network(folder, branches) as made:
        made.start()
        yield made


@pytest.mark.parametrize("branch", ["green-first", "red-first", "alternating"])
def test_a_split_in_two_halves_is_red_in_every_order(network: Network, branch: str) -> None:
    verdict = network.complete(network.post(branch))["verdict"]
    assert (verdict["outcome"], verdict["exit_code"]) == ("failed", 5)
    assert sorted(verdict["agreeing"]) == ["node2", "node3"]
    assert verdict["dissenting"] == ["node0", "node1"]


@pytest.mark.parametrize("branch", ["three-kinds", "four-kinds"])
def test_where_no_value_can_win_the_build_is_disputed(network: Network, branch: str) -> None:
    view = network.complete(network.post(branch))
    assert (view["verdict"]["outcome"], view["verdict"]["exit_code"]) == ("disputed", None)
    assert view["verdict"]["agreeing"] == []
    codes = {ballot["replica"]: ballot["exit_code"] for ballot in view["ballots"]}
    assert (
        codes
        == {
            "three-kinds": {"node0": 0, "node1": 0, "node2": 5, "node3": 6},
            "four-kinds": {"node0": 0, "node1": 5, "node2": 6, "node3": 7},
        }[branch]
    )


def test_three_to_one_is_green(network: Network) -> None:
    """The same kind of build does pass where n - f agree, so the tests above prove something."""
    verdict = network.complete(network.post("three-to-one"))["verdict"]
    assert (verdict["outcome"], verdict["dissenting"]) == ("passed", ["node3"])
    network.settle()
