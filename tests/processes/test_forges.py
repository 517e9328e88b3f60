"""A forge's webhook through real processes: build, commit statuses, redelivery, forks, pings."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.configuration.keys import generate_key_files
from common.forges.shared.delivery import Delivery
from scripts.base_image import EXAMPLE_IMAGE
from scripts.free_ports import free_ports
from scripts.processes import Process
from tests import forked
from tests.common.forges.deliveries import (
    BITBUCKET_URL,
    DATA_CENTER_URL,
    SECRET,
    bitbucket,
    body_of,
    data_center,
    openssl_hmac,
)
from tests.forge_server import TOKEN, ForgeServer, Status
from tests.forge_server import Answer as Unavailable
from tests.processes.conftest import Engine, NetworkMaker
from tests.processes.network import (
    CLIENT,
    VERDICT_SECONDS,
    Answer,
    Network,
    ask,
    pipeline,
    verdict_entries,
)
from tests.processes.programs import run
from tests.secret_files import secret_file

pytestmark = pytest.mark.processes

ROLES = ("gateway", "operator")
FINAL = {"success", "failure", "error", "failed", "canceled"}


@pytest.fixture
def forge() -> Iterator[ForgeServer]:
    with ForgeServer("github") as server:
        yield server


def hooked(
    network: Network,
    forge: ForgeServer,
    folder: Path,
    report: str,
    *,
    alias: str = "https://github.com/Codertocat/hello-world.git",
    **more: object,
) -> None:
    """Connect the network's repository to the forge, as an operator does it in the files.

    alias: what its webhooks call it. more: what else client.yml sets for it.
    """
    secret = str(secret_file(folder / "webhook-secret", SECRET))
    token = str(secret_file(folder / "status-token", TOKEN))
    project = "Codertocat/hello-world"
    forge_keys = {"forge": forge.forge, "api_url": forge.api_url, "project": project}

    def change_client(settings: dict[str, Any]) -> None:
        (entry,) = settings["repositories"]
        del entry["unsigned_allowed"]
        entry |= {**forge_keys, "webhook_secret_file": secret, "report": report}
        entry |= {"aliases": [alias], **more}
        if report == "gateway":
            entry["status_token_file"] = token

    def change_node(settings: dict[str, Any]) -> None:
        settings["repositories"][0] |= {**forge_keys, "status_token_file": token}
        settings["public_url"] = network.gateway_url

    network.rewrite("client", change_client)
    if report == "replicas":
        for name in network.node_names:
            network.rewrite(name, change_node)


def clients(
    folder: Path, *names: str, roles: tuple[str, ...] = ("gateway",)
) -> dict[str, dict[str, object]]:
    """What makes these the clients of a network; the first has its key where it always has it."""
    entries = []
    for name in names:
        keys = folder / "network0" / "run" / "keys"
        public = keys / f"{name}.public.pem"
        generate_key_files(keys / f"{name}.private.pem", public)
        entries.append({"name": name, "public_key_file": str(public), "roles": list(roles)})
    return {"cluster": {"clients": entries}}


def deliver(
    network: Network, event: str, body: bytes, secret: bytes = SECRET, url: str | None = None
) -> Answer:
    """POST a body as GitHub does, signed by openssl; to the network's gateway, or to another."""
    request = urllib.request.Request(
        f"{url or network.gateway_url}/webHook",
        data=body,
        headers={
            "Content-Type": "application/json",
            "X-GitHub-Event": event,
            "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
            "X-Hub-Signature-256": f"sha256={openssl_hmac(secret, body).hex()}",
        },
    )
    return ask(request)


def merged_into(network: Network, branch: str, target: str) -> str:
    """Set the branch to a commit with its files that follows the target's; its id."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    git += ["-C", str(network.repository)]
    tree = f"{network.commits[branch]}^{{tree}}"
    command = [*git, "commit-tree", "-m", "merge", "-p", network.commits[target], tree]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run([*git, "update-ref", f"refs/heads/{branch}", made], check=True)
    return made


def push(branch: str, commit: str) -> bytes:
    """GitHub's whole body of a push of this commit to that branch."""
    changes = {"ref": f"refs/heads/{branch}", "after": commit, "head_commit.id": commit}
    return body_of("github-push", changes)


def fork_pull_request(number: int, commit: str) -> bytes:
    changes = {
        "number": number,
        "pull_request.head.sha": commit,
        "pull_request.user.login": "Bertha",
        "pull_request.base.ref": "master",
    }
    return body_of("github-pull-request-fork", changes)


def deliver_as(network: Network, delivery: Delivery) -> Answer:
    """POST a delivery with the headers that it has."""
    headers = {name: values[0] for name, values in delivery.headers.items()}
    return ask(
        urllib.request.Request(f"{network.gateway_url}/webHook", delivery.body, headers=headers)
    )


def wait_for_statuses(
    network: Network, forge: ForgeServer, condition: Callable[[list[Status]], bool], what: str
) -> list[Status]:
    network.wait_until(
        lambda: condition(forge.statuses), lambda: f"{what}: {forge.statuses}, {forge.wrong}", 180
    )
    return list(forge.statuses)


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
    finals = [(s.commit, s.state) for s in forge.statuses if s.state in FINAL]
    assert set(finals) == {
        (network.commits["master"], "success"),
        (network.commits["red"], "failure"),
    }
    # one is posted at a time: that one once more, where the gateway died before it heard the answer
    assert len(finals) <= len(branches) + 1


def test_a_forks_pull_request_waits_for_an_operator_and_is_then_built(
    make_network: NetworkMaker, forge: ForgeServer, tmp_path: Path
) -> None:
    branches = {
        "master": pipeline("exit 0"),
        "changes": pipeline("true"),
        "greedy": pipeline("true", timeout_seconds=1_000_000),
    }
    network = make_network(branches, overrides=clients(tmp_path, CLIENT, roles=ROLES))
    head = network.commits["changes"]
    for number, branch in ((3, "changes"), (4, "greedy")):
        ref = ["update-ref", f"refs/pull/{number}/head", network.commits[branch]]
        subprocess.run(["git", "-C", str(network.repository), *ref], check=True)
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
    assert run(*network.command(CLIENT), "approve", build, "--yes").code == 0
    assert network.verdict(build)["verdict"]["outcome"] == "passed"
    wait_for_statuses(
        network,
        forge,
        lambda s: [one.state for one in s if one.commit == head] == ["pending", "success"],
        "pending, then green",
    )
    # approved or not: what a fork's file asks for is held to the cluster's limits
    greedy = deliver(network, "pull_request", fork_pull_request(4, network.commits["greedy"]))
    build = greedy.json()["build"]
    assert run(*network.command(CLIENT), "approve", build, "--yes").code == 0
    assert network.verdict(build)["verdict"]["outcome"] == "pipeline_invalid"


def test_with_report_replicas_each_node_posts_its_own(
    make_network: NetworkMaker, forge: ForgeServer, tmp_path: Path
) -> None:
    network = make_network({"master": pipeline("exit 0")})
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
    make_network: NetworkMaker, forge: ForgeServer, tmp_path: Path
) -> None:
    network = make_network({"master": pipeline("exit 0")})
    hooked(network, forge, tmp_path, "none")
    network.start()
    ended = run(*network.command(CLIENT), "submit", "master", "--wait")
    assert ended.code == 0, ended
    settings = yaml.safe_load(network.config_file("client").read_text())
    assert "unsigned_allowed" not in settings["repositories"][0]
    unsigned = deliver(network, "push", push("master", network.commits["master"]), b"guess")
    assert unsigned.status == 401


@pytest.fixture
def second_gateway(tmp_path: Path) -> Iterator[Callable[[Network], str]]:
    """Start another gateway of the network, under a name of its own; its URL."""
    started: list[Process] = []

    def start(network: Network) -> str:
        settings = yaml.safe_load(network.config_file(CLIENT).read_text())
        (port,) = free_ports(1)
        settings |= {
            "name": "second",
            "private_key_file": str(tmp_path / "network0" / "run" / "keys" / "second.private.pem"),
            "listen": f"127.0.0.1:{port}",
            "data_directory": str(tmp_path / "second" / "data"),
            "log_file": str(tmp_path / "second" / "log"),
            "results_file": str(tmp_path / "second" / "results.jsonl"),
        }
        file = network.config_file("second")
        file.write_text(yaml.safe_dump(settings))
        command = ["-m", "client", "--config", str(file)]
        with open(os.devnull, "r+") as nothing:
            started.append(forked.start(command, (nothing,) * 3, os.environ))
        url = f"http://127.0.0.1:{port}"
        network.wait_until(
            lambda: ask(f"{url}/healthz").status == 200, "the second gateway", VERDICT_SECONDS
        )
        return url

    yield start
    for process in started:
        process.terminate()
        process.wait(60)


def test_one_delivery_through_two_gateways_is_one_build_for_both(
    make_network: NetworkMaker,
    forge: ForgeServer,
    tmp_path: Path,
    second_gateway: Callable[[Network], str],
) -> None:
    network = make_network(
        {"master": pipeline("exit 0")},
        overrides=clients(tmp_path, CLIENT, "second"),
    )
    hooked(network, forge, tmp_path, "none")
    network.start()
    body = push("master", network.commits["master"])
    first = deliver(network, "push", body)
    build = first.json()["build"]
    network.verdict(build)
    url = second_gateway(network)
    second = deliver(network, "push", body, url=url)
    assert (second.status, second.json()["build"]) == (202, build), "new there, and the same build"

    def is_decided() -> bool:
        return bool(ask(f"{url}/api/v1/builds/{build}").json()["status"] == "decided")

    network.wait_until(is_decided, "the verdict at the second gateway", VERDICT_SECONDS)

    def have_all_ballots() -> bool:
        # The last one may come after the verdict, to one gateway before the other.
        verdicts = [
            ask(f"{base}/api/v1/builds/{build}").json()["verdict"]
            for base in (network.gateway_url, url)
        ]
        return verdicts[0] == verdicts[1] and len(verdicts[0]["agreeing"]) == len(
            network.configuration.nodes
        )

    network.wait_until(have_all_ballots, "equal verdicts at both gateways", VERDICT_SECONDS)
    assert [entry.build for entry in verdict_entries(network.settle())] == [build]


def test_a_status_that_the_forge_did_not_take_survives_a_kill(
    make_network: NetworkMaker, forge: ForgeServer, tmp_path: Path
) -> None:
    network = make_network({"master": pipeline("exit 3")})
    hooked(network, forge, tmp_path, "gateway")
    forge.answer_with = lambda number: Unavailable(503, "down")
    network.start()
    commit = network.commits["master"]
    build = deliver(network, "push", push("master", commit)).json()["build"]
    network.verdict(build)
    network.wait_until(lambda: forge.requests > 0, "a post in vain", VERDICT_SECONDS)
    network.kill(CLIENT)
    forge.answer_with = lambda number: None
    network.start(CLIENT)
    statuses = wait_for_statuses(network, forge, lambda s: len(s) >= 1, "the status")
    assert [(status.commit, status.state) for status in statuses] == [(commit, "failure")]
    assert network.build(build)["verdict"]["exit_code"] == 3


def test_a_merge_group_is_built_and_reported_under_the_names_of_requests(
    make_network: NetworkMaker, forge: ForgeServer, tmp_path: Path
) -> None:
    queue = "gh-readonly-queue/master/pr-104-0123456789abcdef0123456789abcdef01234567"
    steps = [
        {"name": "docs", "commands": ["exit 1"], "when": {"path": "docs/**"}},
        {"name": "code", "commands": ["exit 0"], "when": {"path": {"exclude": ["docs/**"]}}},
    ]
    files = {".pbft-ci.yml": json.dumps({"image": EXAMPLE_IMAGE, "steps": steps}), "docs/a": "1"}
    network = make_network({"master": files, queue: files | {"main.c": "1"}})
    events = ["push", "tag", "pull_request", "merge_group"]
    hooked(network, forge, tmp_path, "gateway", events=events)
    head = merged_into(network, queue, "master")
    network.start()
    group = {
        "merge_group.head_ref": f"refs/heads/{queue}",
        "merge_group.head_sha": head,
        "merge_group.base_ref": "refs/heads/master",
    }
    asked = deliver(network, "merge_group", body_of("github-merge-group", group))
    assert asked.status == 202, asked
    pushed = deliver(network, "push", push(queue, head))
    assert (pushed.status, "build" in pushed.json()) == (200, False)
    view = network.verdict(asked.json()["build"])
    assert (view["verdict"]["outcome"], view["event"]) == ("passed", "merge_group")
    assert (view["branch"], view["verdict"]["target"]) == ("master", "refs/heads/master")
    states = {step["name"]: step["state"] for step in view["verdict"]["steps"]}
    assert states == {"docs": "skipped by when", "code": "ran"}
    merged = body_of("github-merge-group-destroyed", group | {"reason": "merged"})
    answer = deliver(network, "merge_group", merged)
    assert (answer.status, "over already" in answer.json()["detail"]) == (200, True)
    statuses = wait_for_statuses(
        network, forge, lambda s: [one.state for one in s][-1:] == ["success"], "a green status"
    )
    assert {(s.commit, s.context) for s in statuses} == {(head, "pbft-ci/pr")}
    assert forge.wrong == []
    assert len(verdict_entries(network.settle())) == 1


def test_bitbucket_clouds_pushes_and_pull_requests(
    make_network: NetworkMaker, tmp_path: Path
) -> None:
    network = make_network({"main": pipeline("exit 0"), "changes": pipeline("exit 3")})
    pushed, head = network.commits["main"], network.commits["changes"]
    with ForgeServer("bitbucket") as forge:
        hooked(network, forge, tmp_path, "gateway", alias=BITBUCKET_URL)
        network.start()
        moved = {
            "push.changes.0.new.target.hash": pushed,
            "push.changes.0.new.name": "main",
        }
        answers = [
            deliver_as(network, bitbucket(*delivery))
            for delivery in (
                ("bitbucket-push", "repo:push", moved),
                (
                    "bitbucket-pull-request",
                    "pullrequest:created",
                    {"pullrequest.source.commit.hash": head[:12]},
                ),
            )
        ]
        assert [answer.status for answer in answers] == [202, 202], answers
        views = [network.verdict(answer.json()["build"]) for answer in answers]
        assert [view["verdict"]["outcome"] for view in views] == ["passed", "failed"]
        assert (views[1]["commit"], views[1]["event"]) == (head, "pull_request")
        statuses = wait_for_statuses(
            network,
            forge,
            lambda s: {one.state for one in s} >= {"SUCCESSFUL", "FAILED"},
            "two final statuses",
        )
        assert forge.wrong == []
    final = {(s.commit, s.context, s.state, s.ref) for s in statuses if s.state != "INPROGRESS"}
    assert final == {
        (pushed, "pbft-ci", "SUCCESSFUL", "main"),
        (head, "pbft-ci/pr", "FAILED", None),
    }


def test_bitbucket_data_centers_tags_and_pull_requests(
    make_network: NetworkMaker, tmp_path: Path
) -> None:
    network = make_network({"main": pipeline("exit 0"), "changes": pipeline("exit 3")})
    tagged, head = network.commits["main"], network.commits["changes"]
    git = ["git", "-C", str(network.repository), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "tag", "-a", "-m", "one", "v1.0.0", tagged], check=True)
    subprocess.run([*git, "update-ref", "refs/pull-requests/11/from", head], check=True)
    read = [*git, "rev-parse", "refs/tags/v1.0.0"]
    tag_object = subprocess.run(read, check=True, capture_output=True, text=True).stdout.strip()
    assert tag_object != tagged
    with ForgeServer("bitbucket_data_center") as forge:
        hooked(network, forge, tmp_path, "gateway", alias=DATA_CENTER_URL)
        network.start()
        answers = [
            deliver_as(network, data_center(*delivery))
            for delivery in (
                ("bitbucket-data-center-ping", "diagnostics:ping", {}),
                (
                    "bitbucket-data-center-push-tag",
                    "repo:refs_changed",
                    {"changes.0.toHash": tag_object},
                ),
                (
                    "bitbucket-data-center-pull-request",
                    "pr:opened",
                    {"pullRequest.fromRef.latestCommit": head},
                ),
            )
        ]
        assert [answer.status for answer in answers] == [200, 202, 202], answers
        views = [network.verdict(answer.json()["build"]) for answer in answers[1:]]
        assert [view["verdict"]["outcome"] for view in views] == ["passed", "failed"]
        assert (views[0]["commit"], views[0]["verdict"]["ref"]) == (tagged, "refs/tags/v1.0.0")
        statuses = wait_for_statuses(
            network,
            forge,
            lambda s: {one.state for one in s} >= {"SUCCESSFUL", "FAILED"},
            "two final statuses",
        )
        assert forge.wrong == []
    final = {(s.commit, s.context, s.state) for s in statuses if s.state != "INPROGRESS"}
    assert final == {(tagged, "pbft-ci", "SUCCESSFUL"), (head, "pbft-ci/pr", "FAILED")}
