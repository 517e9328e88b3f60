"""Seed 1, the CI of four nodes: its scripts, its curl, its flags, on a fresh copy of the checkout.

What needs containers is in `tests/processes/test_main_job.py`.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ci.limits import Limits, encode_limits
from common.configuration.config import load_cluster_config
from tests.processes.network import NoAnswer, ask
from tests.seeds.checkout import Checkout
from tests.waiting import block_until

pytestmark = pytest.mark.processes

SECONDS = 180.0
OUTCOMES = {"master": ("passed", 0), "feature": ("failed", 7), "other": ("checkout_failed", 128)}
NODE_FLAGS = ("--id", "--host", "--port", "--path", "--pkLoc", "--peerNodeAddrList", "--config")
CLIENT_FLAGS = ("--path", "--pkLoc", "--pbftHost", "--pbftPort", "--webHookPort", "--config")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A copy in which the client runs, and then the network; both started by their scripts."""
    with Checkout(tmp_path_factory.mktemp("seed-1") / "checkout") as made:
        client = made.start_client()
        started = made.run("./startNetwork.sh", "--executor", "process")
        assert started.returncode == 0, started.stdout + started.stderr
        block_until(lambda: client.poll() is not None or _is_linked(made), "the client", SECONDS)
        assert client.poll() is None
        yield made


@pytest.fixture(scope="module")
def builds(checkout: Checkout) -> dict[str, dict[str, Any]]:
    """The example's branches, built, by branch."""
    ids = {branch: _curl(checkout, "-d", json.dumps({"branch": branch})) for branch in OUTCOMES}
    done: dict[str, dict[str, Any]] = {}

    def are_done() -> bool:
        for branch, answer in ids.items():
            view = ask(f"{checkout.gateway_url}/api/v1/builds/{answer['build']}").json()
            if view["status"] != "decided" or len(view["ballots"]) < 4 or len(view["logs"]) < 4:
                return False
            done[branch] = view
        return True

    block_until(are_done, "the verdicts", SECONDS)
    return done


def _is_linked(checkout: Checkout) -> bool:
    try:
        network = ask(f"{checkout.gateway_url}/api/v1/network").json()
    except (NoAnswer, ValueError):
        return False
    return all(replica["connected"] for replica in network["replicas"])


def _curl(checkout: Checkout, *arguments: str) -> dict[str, Any]:
    done = checkout.run("curl", "-sS", *arguments, f"{checkout.gateway_url}/webHook")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_start_client(checkout: Checkout) -> None:
    """./scripts/startClient.sh starts the client, stopped by hand.

    Here it was started before the network; a second time it is stopped and started after it.
    """
    assert checkout.stop_client() in (0, 130)
    client = checkout.start_client()
    block_until(
        lambda: client.poll() is not None or _is_linked(checkout), "the client again", SECONDS
    )
    assert client.poll() is None


def test_start_network(checkout: Checkout) -> None:
    """./startNetwork.sh starts 4 nodes with the example configuration.

    It returned because all answer; once more, it says that they run.
    """
    for index, port in enumerate(checkout.ports):
        assert ask(f"http://127.0.0.1:{port}/pbft/status").json()["node_id"] == f"node{index}"
    again = checkout.run("./startNetwork.sh", "--executor", "process")
    assert again.returncode == 1
    assert "already running: node0, node1, node2, node3" in again.stderr


def test_webhook(checkout: Checkout) -> None:
    """curl -d a branch to /webHook, with or without a JSON content type.

    And optionally the repository; one that is not configured is refused.
    """
    body = '{"branch":"master"}'
    plain = _curl(checkout, "-d", body)
    typed = _curl(checkout, "-H", "Content-Type: application/json", "-d", body)
    assert plain["build"] != typed["build"]
    repository = "file://" + str(checkout.folder / "run" / "example-repository.git")
    named = json.dumps({"branch": "master", "repoCloneUrl": repository})
    assert len(_curl(checkout, "-d", named)["build"]) == 64
    other = json.dumps({"branch": "master", "repoCloneUrl": "https://example.org/other.git"})
    assert "repositories" in _curl(checkout, "-d", other)["error"]


def test_example_branches(builds: dict[str, dict[str, Any]]) -> None:
    """Example branches: master (exit 0), feature (exit not 0), others.

    For any other branch the network still works and answers with an error code.
    """
    found = {
        branch: (view["verdict"]["outcome"], view["verdict"]["exit_code"])
        for branch, view in builds.items()
    }
    assert found == OUTCOMES


def test_equal_exit_codes(checkout: Checkout, builds: dict[str, dict[str, Any]]) -> None:
    """The client accepts f+1 equal exit codes of distinct replicas.

    The replies are signed; verdicts are appended to log/results.jsonl, output is kept per build.
    """
    lines = (checkout.folder / "log" / "results.jsonl").read_text().splitlines()
    results = {line["id"]: line for line in map(json.loads, lines)}
    for branch, view in builds.items():
        agreeing = {r["replica"] for r in view["replies"] if r["agrees"] and r["signed"]}
        assert len(agreeing) >= 2, branch
        assert results[view["id"]]["exit_code"] == OUTCOMES[branch][1]
        log = ask(f"{checkout.gateway_url}/api/v1/builds/{view['id']}/log/node0")
        assert (log.status, bool(log.body)) == (200, True)


def test_logs(checkout: Checkout, builds: dict[str, dict[str, Any]]) -> None:
    """Per-node logs ./log/node0.log and so on, ./log/client.log."""
    for name in ("node0", "node1", "node2", "node3"):
        assert builds["master"]["id"][:12] in (checkout.folder / "log" / f"{name}.log").read_text()
    assert (checkout.folder / "log" / "client.log").read_text()


def test_flags(checkout: Checkout) -> None:
    """The flags of client/index.py and node/index.py.

    Over the configuration file; flags without a meaning today are accepted.
    """
    for program, flags in (("node", NODE_FLAGS), ("client", CLIENT_FLAGS)):
        told = checkout.run("./.venv/bin/python", f"./{program}/index.py", "-h")
        assert told.returncode == 0
        assert all(flag in told.stdout for flag in flags)


def test_stop_network(checkout: Checkout, builds: dict[str, dict[str, Any]]) -> None:
    """./stopNetwork.sh ends exactly the processes that it started.

    The client, which a person started, goes on; and the network can be started again.
    """
    assert builds
    stopped = checkout.run("./stopNetwork.sh")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    for port in checkout.ports:
        with pytest.raises(NoAnswer):
            ask(f"http://127.0.0.1:{port}/healthz")
    assert ask(f"{checkout.gateway_url}/api/v1/builds").status == 200
    started = checkout.run("./startNetwork.sh", "--executor", "process")
    assert started.returncode == 0, started.stdout + started.stderr
    block_until(lambda: _is_linked(checkout), "links to the new network", SECONDS)


@pytest.mark.parametrize(("replicas", "faults"), [(1, 0), (3, 0), (4, 1), (7, 2), (10, 3)])
def test_sizes(checkout: Checkout, replicas: int, faults: int) -> None:
    """3f+1 nodes, f from their number.

    `--replicas N` makes keys and configuration for each size, from which any node reads its f.
    """
    made = checkout.run(
        "./.venv/bin/python", "-m", "scripts.configuration", "--replicas", str(replicas)
    )
    assert made.returncode == 0, made.stderr
    cluster = load_cluster_config(checkout.folder / made.stdout.strip() / "cluster.yml")
    quorums = cluster.cluster(encode_limits(Limits())).quorums
    assert (quorums.replicas, quorums.faults_max) == (replicas, faults)
