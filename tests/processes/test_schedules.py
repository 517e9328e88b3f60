"""Schedules on real nodes: what is due is one build, whatever ends the gateway in between."""

import signal
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.ledger import STEP_RAN, STEP_SKIPPED
from ci.statement import parse_statement
from tests.processes.conftest import NetworkMaker
from tests.processes.network import CLIENT, VERDICT_SECONDS, Network, ask, verdict_entries

pytestmark = pytest.mark.processes

# On the first of January, so that it is not due while the test runs (but once a year).
CRON = "0 0 1 1 *"
PIPELINE = {
    "image": "busybox",
    "steps": [
        {"name": "nightly", "commands": ["true"], "when": {"cron": "night*"}},
        {"name": "any", "commands": ["true"], "when": {"event": ["push", "cron"]}},
        {"name": "weekly", "commands": ["exit 1"], "when": {"cron": "weekly"}},
        {"name": "pushed", "commands": ["exit 1"], "when": {"event": "push"}},
    ],
}


def due_times(network: Network) -> list[int]:
    """Up to when the gateway has dealt with its schedules."""
    with closing(sqlite3.connect(database_of(network), timeout=30)) as connection:
        return [row[0] for row in connection.execute("SELECT due FROM schedules")]


def database_of(network: Network) -> Path:
    settings = yaml.safe_load(network.config_file(CLIENT).read_text())
    folder = network.config_file(CLIENT).parent / str(settings["data_directory"])
    return folder / "gateway.sqlite"


def let_a_year_pass(network: Network) -> None:
    """Have the stopped gateway's schedules dealt with until two years ago."""
    with closing(sqlite3.connect(database_of(network))) as connection, connection:
        connection.execute("UPDATE schedules SET due = due - 2 * 366 * 24 * 60")


def builds_of(network: Network) -> list[dict[str, Any]]:
    builds: list[dict[str, Any]] = ask(f"{network.gateway_url}/api/v1/builds").json()["builds"]
    return builds


def states_of(view: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["state"] for step in view["verdict"]["steps"]}


def test_what_was_missed_is_built_once_over_kills_of_the_gateway(
    make_network: NetworkMaker,
) -> None:
    network = make_network({"master": {".pbft-ci.yml": yaml.safe_dump(PIPELINE)}})

    def schedule(settings: dict[str, Any]) -> None:
        nightly = {"name": "nightly", "branch": "master", "cron": CRON}
        settings["repositories"][0]["schedules"] = [nightly]

    network.rewrite(CLIENT, schedule)
    network.start()
    network.wait_until(lambda: len(due_times(network)) == 1, "the schedule", VERDICT_SECONDS)
    assert builds_of(network) == [], "a schedule that is new builds nothing of the past"
    network.kill(CLIENT)
    let_a_year_pass(network)
    network.start(CLIENT)
    network.wait_until(lambda: len(builds_of(network)) == 1, "a build", VERDICT_SECONDS)
    network.kill(CLIENT)
    network.start(CLIENT)
    (build,) = builds_of(network)
    view = network.verdict(build["id"])
    assert (view["event"], view["schedule"], view["branch"]) == ("cron", "nightly", "master")
    assert view["commit"] == network.commits["master"]
    assert view["verdict"]["outcome"] == "passed"
    assert states_of(view) == {
        "nightly": STEP_RAN,
        "any": STEP_RAN,
        "weekly": STEP_SKIPPED,
        "pushed": STEP_SKIPPED,
    }
    (entry,) = verdict_entries(network.settle())
    assert parse_statement(bytes(entry.statement)).verdict.schedule == "nightly"
    # a reload takes another one
    weekly = {"name": "weekly", "branch": "master", "cron": "0 5 * * 1"}
    network.rewrite(CLIENT, lambda settings: settings["repositories"][0].update(schedules=[weekly]))
    network.processes[CLIENT].send_signal(signal.SIGHUP)
    network.wait_until(lambda: len(due_times(network)) == 2, "the other schedule", VERDICT_SECONDS)
    # done again it runs the same steps
    url = f"{network.gateway_url}/api/v1/builds/{build['id']}/rebuild"
    answer = ask(urllib.request.Request(url, data=b"", method="POST"))
    assert answer.status == 202, answer
    again = network.verdict(answer.json()["build"])
    assert (again["schedule"], states_of(again)) == ("nightly", states_of(view))
