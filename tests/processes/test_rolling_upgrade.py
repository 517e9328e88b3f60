"""Two releases side by side: a working cluster is upgraded node by node, and one node back.

The nodes of the release before are real processes of its own files, with a configuration that it
wrote. The new release goes on with that, and with the data directory of each.
"""

import base64
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from ci.operations import BuildResult, CastBallot, ResultKey, decode_operation
from node.diagnostics.capture import read_capture
from pbft.codec import decode_message, decode_request, decode_signed
from pbft.messages import Checkpoint
from scripts.harness import Programs
from tests.processes.conftest import NetworkMaker
from tests.processes.network import CLIENT, VERDICT_SECONDS, Network, pipeline, verdict_entries
from tests.processes.promises import broken_promises
from tests.processes.releases import TwoReleases, export_before

pytestmark = pytest.mark.processes

NODES = ["node0", "node1", "node2", "node3"]
TIMER_SECONDS = 2.0
RESTARTS_MAX = 8


class _Cluster:
    """A network of two releases, and what is done to it."""

    def __init__(self, make_network: NetworkMaker, folder: Path) -> None:
        """All run the release before, and are started."""
        self._releases = TwoReleases(export_before(folder / "before"))
        self._gates = [folder / f"gate{number}" for number in range(RESTARTS_MAX)]
        held = {
            gate.name: pipeline(f"until test -e {gate}; do sleep 0.05; done")
            for gate in self._gates
        }
        self.network: Network = make_network(
            {"green": pipeline("echo green"), "red": pipeline("exit 3"), **held},
            is_captured=True,
            overrides={
                "node": {"view_change_seconds": TIMER_SECONDS},
                "cluster": {"tls": "required", "checkpoint_interval": 4, "window": 8},
            },
            programs=Programs(self._releases.start, self._releases.write_configuration),
        )
        # every build that was asked for
        self.builds: list[str] = []
        self.network.start()

    def primary(self) -> str:
        """The primary, once all nodes are in one view."""
        primaries: set[str] = set()

        def is_agreed() -> bool:
            nodes = [self.network.status(name) for name in NODES]
            primaries.clear()
            primaries.update(node["primary"] for node in nodes)
            return len(primaries) == 1 and all(node["has_entered_view"] for node in nodes)

        self.network.wait_until(is_agreed, lambda: f"one primary: {primaries}", VERDICT_SECONDS)
        return primaries.pop()

    def check_mixture(self) -> None:
        """A green and a red build get a verdict, by four equal ballots; all states are equal."""
        self._check_equal(self._post("green"), "passed")
        self._check_equal(self._post("red"), "failed")
        self.network.settle()
        for name in NODES:
            status = self.network.status(name)
            assert status["in_sync"], (name, status)
            assert status["evidence"] == {}, (name, status)
            assert not {"diverged", "forgot", "recovering"} & status["counters"].keys(), status

    def restart(self, name: str, *, is_new: bool, is_killed: bool = False) -> None:
        """End a member while all nodes build, and start it, of one release or the other.

        It casts its ballot of the build that it had begun, and of one that was decided without it.
        If it is the primary, the others change the view to decide that one.
        """
        builds = [self._post(self._gates[0].name)]
        self._wait_until_all_build(builds[0])
        if is_killed:
            self.network.kill(name)
        else:
            assert self.network.stop(name) == 0
        if name != CLIENT:
            builds.append(self._post("green"))
            decided = self.network.verdict(builds[-1])
            assert decided["verdict"]["outcome"] == "passed"
            assert name not in decided["verdict"]["agreeing"]
        if is_new:
            self._releases.upgraded.add(name)
        else:
            self._releases.upgraded.discard(name)
        self.network.start(name)
        self._gates.pop(0).touch()
        for build in builds:
            self._check_equal(build, "passed")

    def check_states(self) -> int:
        """All nodes said one digest of the state at each checkpoint; how many checkpoints."""
        digests: dict[int, set[bytes]] = defaultdict(set)
        for name in NODES:
            for _, signed in read_capture(self.network.capture_file(name)):
                message = decode_message(signed.payload)
                if isinstance(message, Checkpoint):
                    digests[message.sequence].add(message.digest)
        assert {len(said) for said in digests.values()} == {1}, digests
        return len(digests)

    def _post(self, branch: str) -> str:
        self.builds.append(self.network.post(branch))
        return self.builds[-1]

    def _check_equal(self, build: str, outcome: str) -> None:
        """Decided, and the ballots of all nodes have one result, also behind the verdict."""
        view = self.network.complete(build)
        assert view["verdict"]["outcome"] == outcome
        kept: list[dict[str, str]] = []

        def has_all() -> bool:
            # the gateway may have asked those who were ahead of node0
            kept[:] = self.network.node("node0", f"/builds/{build}").json()["ballots"]
            return sorted(ballot["replica"] for ballot in kept) == NODES

        self.network.wait_until(has_all, lambda: f"all ballots at node0: {kept}", VERDICT_SECONDS)
        found = {_result(base64.b64decode(ballot["signed"])) for ballot in kept}
        assert len(found) == 1, found

    def _wait_until_all_build(self, build: str) -> None:
        def all_build() -> bool:
            states = [self.network.node(name, f"/builds/{build}").json() for name in NODES]
            return all(state.get("state") == "building" for state in states)

        self.network.wait_until(all_build, "a build on all nodes", VERDICT_SECONDS)


def _result(ballot: bytes) -> ResultKey:
    operation = decode_operation(decode_request(decode_signed(ballot)).operation)
    assert isinstance(operation, CastBallot)
    assert isinstance(operation.ballot, BuildResult), operation
    return operation.ballot.compared


def _without_news(shown: Any, before: Any) -> Any:
    """What is shown, without the keys that this release shows beside those before."""
    if isinstance(shown, dict) and isinstance(before, dict):
        return {key: _without_news(shown[key], before[key]) for key in shown if key in before}
    if isinstance(shown, list) and isinstance(before, list) and len(shown) == len(before):
        return [_without_news(*both) for both in zip(shown, before, strict=True)]
    return shown


@pytest.mark.long
def test_a_working_cluster_is_upgraded_node_by_node_and_back(
    make_network: NetworkMaker, tmp_path: Path
) -> None:
    cluster = _Cluster(make_network, tmp_path)
    network = cluster.network
    cluster.check_mixture()
    first = network.build(cluster.builds[0])
    # a backup; then the primary, so that the new node1 leads two older ones
    assert cluster.primary() == "node0"
    cluster.restart("node1", is_new=True)
    cluster.check_mixture()
    cluster.restart("node0", is_new=True)
    assert cluster.primary() == "node1"
    cluster.check_mixture()
    # a view change between two and two: an older one leads
    cluster.restart("node1", is_new=True)
    assert cluster.primary() == "node2"
    cluster.restart("node2", is_new=True, is_killed=True)
    assert cluster.primary() == "node3"
    cluster.check_mixture()
    cluster.restart("node3", is_new=True)
    assert cluster.primary() == "node0"
    cluster.check_mixture()
    cluster.restart(CLIENT, is_new=True)
    cluster.check_mixture()
    assert _without_news(network.build(cluster.builds[0]), first) == first
    # and back: what nodes have on disk has the same formats in both. A gateway cannot go back: the
    # release before does not read its database (CHANGELOG.md)
    cluster.restart("node1", is_new=False)
    cluster.check_mixture()
    entries = verdict_entries(network.settle())
    assert sorted(entry.build for entry in entries) == sorted(cluster.builds)
    assert sorted(line["id"] for line in network.results_of(cluster.builds)) == sorted(
        cluster.builds
    )
    assert cluster.check_states() >= 8
    assert broken_promises(network) == []
