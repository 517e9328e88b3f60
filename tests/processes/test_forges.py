"""A forge's webhook through real processes: build, commit statuses, redelivery, forks, pings."""

import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.client.forges.deliveries import SECRET, body_of, openssl_hmac
from tests.forge_server import TOKEN, ForgeServer, Status
from tests.processes.conftest import Engine, NetworkMaker
from tests.processes.network import Answer, Network, NoAnswer, pipeline, verdict_entries

pytestmark = pytest.mark.processes

FINAL = {"success", "failure", "error", "failed", "canceled"}


@pytest.fixture
def forge() -> Iterator[ForgeServer]:
    with ForgeServer("github") as server:
        yield server


def private_file(folder: Path, name: str, data: bytes) -> str:
    file = folder / name
    file.write_bytes(data)
    file.chmod(0o600)
    return str(file)


def hooked(network: Network, forge: ForgeServer, folder: Path, report: str) -> None:
    """Connect the network's repository to the forge, as an operator does it in the files."""
    secret = private_file(folder, "webhook-secret", SECRET)
    token = private_file(folder, "status-token", TOKEN.encode())
    forge_keys = {"forge": "github", "api_url": forge.api_url, "project": "Codertocat/hello-world"}

    def change_client(settings: dict[str, Any]) -> None:
        (entry,) = settings["repositories"]
        del entry["unsigned_allowed"]
        entry |= {**forge_keys, "webhook_secret_file": secret, "report": report}
        entry["aliases"] = ["https://github.com/Codertocat/hello-world.git"]
        if report == "gateway":
            entry["status_token_file"] = token

    def change_node(settings: dict[str, Any]) -> None:
        settings["repositories"][0] |= {**forge_keys, "status_token_file": token}
        settings["public_url"] = network.gateway_url

    network.rewrite("client", change_client)
    if report == "replicas":
        for name in network.node_names:
            network.rewrite(name, change_node)


def deliver(network: Network, event: str, body: bytes, secret: bytes = SECRET) -> Answer:
    """POST a body as GitHub does, signed by openssl."""
    request = urllib.request.Request(
        f"{network.gateway_url}/webHook",
        data=body,
        headers={
            "Content-Type": "application/json",
            "X-GitHub-Event": event,
            "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
            "X-Hub-Signature-256": f"sha256={openssl_hmac(secret, body).hex()}",
        },
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as response:
            return Answer(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())
    except OSError as error:
        raise NoAnswer(str(error)) from error


def push(branch: str, commit: str) -> bytes:
    """GitHub's whole body of a push of this commit to that branch."""
    body = json.loads(body_of("github-push"))
    body |= {"ref": f"refs/heads/{branch}", "after": commit}
    body["head_commit"]["id"] = commit
    return json.dumps(body).encode()


def fork_pull_request(number: int, commit: str) -> bytes:
    body = json.loads(body_of("github-pull-request-fork"))
    body |= {"number": number}
    body["pull_request"]["head"]["sha"] = commit
    body["pull_request"]["base"]["ref"] = "master"
    return json.dumps(body).encode()


def wait_for_statuses(
    network: Network, forge: ForgeServer, condition: Callable[[list[Status]], bool], what: str
) -> list[Status]:
    network.wait_until(
        lambda: condition(forge.statuses), lambda: f"{what}: {forge.statuses}, {forge.wrong}", 90
    )
    return list(forge.statuses)


@pytest.mark.timeout(300)
def test_a_push_is_built_and_reported_and_its_redelivery_is_the_same_build(
    engine: Engine, make_network: NetworkMaker, forge: ForgeServer, tmp_path: Path
) -> None:
    branches = {
        "master": pipeline("exit 0", image=engine.image),
        "red": pipeline("exit 7", image=engine.image),
    }
    network = make_network(branches, executor=engine.executor)
    hooked(network, forge, tmp_path, "gateway")
    network.start()

    ping = deliver(network, "ping", body_of("github-ping"))
    assert (ping.status, ping.json()) == (200, {"detail": "pong: this webhook is set up"})
    gone = deliver(network, "push", body_of("github-push-deleted"))
    assert gone.status == 200
    assert "deleted" in gone.json()["detail"]
    assert deliver(network, "push", push("master", "a" * 40), b"guess").status == 401

    builds = {}
    for branch in branches:
        body = push(branch, network.commits[branch])
        first = deliver(network, "push", body)
        assert first.status == 202
        builds[branch] = first.json()["build"]
        again = deliver(network, "push", body)
        assert (again.status, again.json()["build"]) == (200, builds[branch])
    views = network.verdicts(list(builds.values()))
    assert views[builds["master"]]["verdict"]["outcome"] == "passed"
    assert views[builds["red"]]["verdict"]["exit_code"] == 7

    def are_final(statuses: list[Status]) -> bool:
        last = {status.commit: status.state for status in statuses}
        return len(last) == 2 and set(last.values()) <= FINAL

    statuses = wait_for_statuses(network, forge, are_final, "two final statuses")
    assert forge.wrong == []
    for branch, state, exit_code in (("master", "success", 0), ("red", "failure", 7)):
        said = [status for status in statuses if status.commit == network.commits[branch]]
        assert [status.state for status in said] in (["pending", state], [state])
        assert f"of 4 replicas: exit {exit_code}" in said[-1].description
        assert said[-1].target_url == f"{network.gateway_url}/builds/{builds[branch]}"
        assert said[-1].context == "pbft-ci"

    # the same delivery after the verdict, and after a restart of the gateway
    network.kill("client")
    network.start("client")
    again = deliver(network, "push", push("master", network.commits["master"]))
    assert (again.status, again.json()["build"]) == (200, builds["master"])
    ledger = network.settle()
    assert len(verdict_entries(ledger)) == 2
    assert [s.state for s in forge.statuses if s.state in FINAL] == ["success", "failure"] or [
        s.state for s in forge.statuses if s.state in FINAL
    ] == ["failure", "success"]


@pytest.mark.timeout(300)
def test_a_forks_pull_request_waits_and_is_pending(
    engine: Engine, make_network: NetworkMaker, forge: ForgeServer, tmp_path: Path
) -> None:
    branches = {
        "master": pipeline("exit 0", image=engine.image),
        "changes": pipeline("true", image=engine.image),
    }
    network = make_network(branches, executor=engine.executor)
    head = network.commits["changes"]
    subprocess.run(
        ["git", "-C", str(network.repository), "update-ref", "refs/pull/3/head", head], check=True
    )
    hooked(network, forge, tmp_path, "gateway")
    network.start()
    answer = deliver(network, "pull_request", fork_pull_request(3, head))
    assert answer.status == 202
    build = answer.json()["build"]
    (pending,) = wait_for_statuses(network, forge, lambda s: len(s) == 1, "one status")
    assert (pending.state, pending.commit) == ("pending", head)
    assert "approval" in pending.description
    # another build, decided later, shows that the nodes did not just take their time
    pushed = deliver(network, "push", push("master", network.commits["master"]))
    network.verdict(pushed.json()["build"])
    view = network.build(build)
    assert (view["status"], view["ballots"], view["event"]) == ("building", [], "pull_request")
    for name in network.node_names:
        assert json.loads(network.node(name, f"/builds/{build}").body)["ballots"] == []


@pytest.mark.timeout(300)
def test_with_report_replicas_each_node_posts_its_own(
    engine: Engine, make_network: NetworkMaker, forge: ForgeServer, tmp_path: Path
) -> None:
    network = make_network(
        {"master": pipeline("exit 0", image=engine.image)}, executor=engine.executor
    )
    hooked(network, forge, tmp_path, "replicas")
    network.start()
    assert deliver(network, "push", push("master", network.commits["master"])).status == 202
    contexts = {f"pbft-ci/{name}" for name in network.node_names}

    def are_green(statuses: list[Status]) -> bool:
        return {s.context for s in statuses if s.state == "success"} == contexts

    statuses = wait_for_statuses(network, forge, are_green, "a green status of each node")
    assert forge.wrong == []
    assert {status.context for status in statuses} == contexts, "and none of the gateway"
    assert {s.description for s in statuses if s.state == "success"} <= {
        "3 of 4 replicas: exit 0",
        "4 of 4 replicas: exit 0",
    }


def test_the_client_submits_signed_where_nothing_unsigned_is_taken(
    engine: Engine, make_network: NetworkMaker, forge: ForgeServer, tmp_path: Path
) -> None:
    network = make_network(
        {"master": pipeline("exit 0", image=engine.image)}, executor=engine.executor
    )
    hooked(network, forge, tmp_path, "none")
    network.start()
    command = network.command("client")
    ran = subprocess.run(
        [*command, "submit", "master", "--wait"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    settings = yaml.safe_load(network.config_file("client").read_text())
    assert "unsigned_allowed" not in settings["repositories"][0]
    unsigned = deliver(network, "push", push("master", network.commits["master"]), b"guess")
    assert unsigned.status == 401
