"""Checkpoints and windows in real processes: many windows of appends, and who was away too long."""

import json
from functools import partial

import pytest

from ci.ledger import AppendEntry, decode_entry
from tests.processes.conftest import NetworkMaker
from tests.processes.network import VERDICT_SECONDS, Network, ask, pipeline
from tests.processes.programs import client

pytestmark = pytest.mark.processes

BRANCHES = {"green": pipeline("echo green")}
INTERVAL, WINDOW = 4, 8
SMALL_WINDOW: dict[str, dict[str, object]] = {
    "cluster": {"checkpoint_interval": INTERVAL, "window": WINDOW}
}


def test_ten_windows_of_appends_complete_on_all(make_network: NetworkMaker) -> None:
    """10 x L appends, one after the other, so that each takes a sequence number of its own."""
    network = make_network(BRANCHES, overrides=SMALL_WINDOW)
    network.start()
    texts = [f"<{number}>" for number in range(10 * WINDOW)]
    done = client(network, "append", *texts)
    assert done.code == 0, done.errors
    lengths = [int(line.split()[0]) for line in done.output.splitlines()]
    assert lengths == list(range(1, len(texts) + 1))
    ledger = network.settle()
    appended = [decode_entry(entry.body) for entry in ledger]
    assert [entry.text for entry in appended if isinstance(entry, AppendEntry)] == texts
    for name in network.node_names:
        status = network.status(name)
        assert status["sequence"] >= len(texts)
        assert status["journal_length"] == len(texts)
        network.wait_until(
            partial(has_stable_checkpoint, network, name), "a checkpoint", VERDICT_SECONDS
        )
    journal = client(network, "journal", "--all")
    assert journal.code == 0, journal.output
    assert journal.output.count("".join(texts)) == len(network.node_names)
    digests = {line.partition("digest ")[2] for line in journal.output.splitlines()[::2]}
    assert digests == {done.output.splitlines()[-1].split()[1]}


def test_a_node_away_for_more_than_a_window_takes_over_the_state(
    make_network: NetworkMaker,
) -> None:
    """What it missed is no longer in the others' logs."""
    network = make_network(BRANCHES, overrides=SMALL_WINDOW)
    network.start()
    append(network, "while all are there")
    network.settle()
    network.kill("node3")
    for number in range(3 * WINDOW):
        append(network, f"without node3: {number}")
    network.start("node3")
    network.settle()
    status = network.status("node3")
    assert status["counters"]["state_transferred"] >= 1
    assert (status["status"], status["in_sync"]) == ("normal", True)
    view = network.complete(network.post("green"))
    assert view["verdict"]["outcome"] == "passed"
    assert "node3" in {ballot["replica"] for ballot in view["ballots"]}


def test_a_node_away_for_less_than_a_window_catches_up(make_network: NetworkMaker) -> None:
    network = make_network(BRANCHES, overrides=SMALL_WINDOW)
    network.start()
    append(network, "while all are there")
    network.settle()
    network.kill("node3")
    for number in range(INTERVAL - 1):
        append(network, f"without node3: {number}")
    network.start("node3")
    network.settle()
    assert network.status("node3")["status"] == "normal"


def has_stable_checkpoint(network: Network, name: str) -> bool:
    """Whether the newest one is; the last words about it come behind what it is of."""
    status = network.status(name)
    return bool(status["stable_checkpoint"] > status["sequence"] - INTERVAL)


def append(network: Network, text: str) -> None:
    answer = ask(f"{network.gateway_url}/api/v1/append", json.dumps({"text": text}).encode())
    assert answer.status == 200, answer
