"""Webhooks of the forges through the gateway's HTTP: what they are answered, and what is built."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci.builds import OpenBuild
from ci.operations import Ballot, SubmitBuild, decode_operation
from client.gateway.resolve import FoundCommit, NoSuchBranch, Resolution, Unreachable
from client.serve import make_application
from common.config_error import ConfigError
from common.forges.shared.delivery import Delivery
from common.repositories.repository_config import EventKind, GatewayRepository
from pbft.codec import decode_request, decode_signed
from tests.ci.builders import finding
from tests.client.gateway.test_gateway import until
from tests.client.running_network import FixedResolver, Network, Running, run_gateway
from tests.client.site import Client, site_of
from tests.common.forges.deliveries import (
    BITBUCKET_URL,
    DATA_CENTER_URL,
    FORK,
    GITEA_URL,
    GITHUB_URL,
    GITLAB_URL,
    OTHER_SECRET,
    PUSHED,
    QUEUE_REF,
    SECRET,
    bitbucket,
    body_of,
    data_center,
    gitea,
    github,
    gitlab,
    openssl_hmac,
)
from tests.secret_files import secret_file

EVENTS = get_args(EventKind)
URLS = {
    GITHUB_URL: "github",
    GITLAB_URL: "gitlab",
    GITEA_URL: "gitea",
    BITBUCKET_URL: "bitbucket",
    DATA_CENTER_URL: "bitbucket_data_center",
}


def find_what_is_asked_for(build: OpenBuild) -> tuple[Ballot, bytes]:
    """A green ballot on whatever commit the build names."""
    return finding(commit=build.commit), b"log"


@pytest.fixture
async def network(network: Network) -> Network:
    """Nodes that find every commit green."""
    for node in network.nodes.values():
        node.finds = find_what_is_asked_for
    return network


def webhook_secret_file(folder: Path) -> Path:
    return secret_file(folder / "webhook-secret", OTHER_SECRET + b"\n" + SECRET + b"\n")


async def client_of(running: Running, folder: Path) -> Client:
    """A gateway for the repositories of the fixtures."""
    secret = webhook_secret_file(folder)
    repositories = tuple(
        GatewayRepository(url, forge=forge, webhook_secret_file=secret, events=EVENTS)  # type: ignore[arg-type]
        for url, forge in URLS.items()
    )
    site = site_of(running, folder, repositories)
    client: Client = TestClient(TestServer(make_application(site)))
    await client.start_server()
    return client


@pytest.fixture
async def client(running: Running, tmp_path: Path) -> AsyncIterator[Client]:
    client = await client_of(running, tmp_path)
    yield client
    await client.close()


async def test_a_strangers_webhooks_do_not_fill_the_log(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        assert (await post(client, github("github-push", "push", b"guess")))[0] == 401
    said = [record for record in caplog.records if "was refused" in record.getMessage()]
    assert len(said) == 5


async def post(client: Client, delivery: Delivery) -> tuple[int, dict[str, Any]]:
    headers = [(name, value) for name, values in delivery.headers.items() for value in values]
    answer = await client.post("/webHook", data=delivery.body, headers=headers)
    return answer.status, await answer.json()


def asked_for(running: Running, build: str) -> SubmitBuild:
    """The operation that the network was asked for."""
    record = running.archive.get(bytes.fromhex(build))
    assert record is not None
    assert record.request is not None
    operation = decode_operation(decode_request(decode_signed(record.request)).operation)
    assert isinstance(operation, SubmitBuild)
    return operation


async def decided(client: Client, running: Running, build: str) -> dict[str, Any]:
    def is_decided() -> bool:
        record = running.archive.get(bytes.fromhex(build))
        return record is not None and record.statement is not None

    await until(is_decided)
    value: dict[str, Any] = await (await client.get(f"/api/v1/builds/{build}")).json()
    return value


@pytest.mark.parametrize(
    ("delivery", "url"),
    [
        (github("github-push", "push"), GITHUB_URL),
        (github("github-push", "push", is_form=True), GITHUB_URL),
        (gitlab("gitlab-push", "Push Hook"), GITLAB_URL),
        (gitea("gitea-push", "push", is_form=True), GITEA_URL),
        (bitbucket("bitbucket-push", "repo:push"), BITBUCKET_URL),
        (data_center("bitbucket-data-center-push", "repo:refs_changed"), DATA_CENTER_URL),
    ],
)
async def test_a_push_of_each_forge_is_built_and_decided(
    running: Running, client: Client, delivery: Delivery, url: str
) -> None:
    status, answer = await post(client, delivery)
    assert status == 202
    view = await decided(client, running, answer["build"])
    assert (view["repository"], view["commit"], view["event"]) == (url, PUSHED, "push")
    assert view["verdict"]["outcome"] == "passed"


async def test_a_redelivery_is_the_same_build_before_and_after_its_verdict(
    running: Running, client: Client
) -> None:
    delivery = github("github-push", "push")
    status, first = await post(client, delivery)
    again = [await post(client, delivery) for _ in range(2)]
    await decided(client, running, first["build"])
    again.append(await post(client, github("github-push", "push", X_GitHub_Delivery="other")))
    assert status == 202
    assert {(status, answer["build"]) for status, answer in again} == {(200, first["build"])}
    assert all("received before" in answer["detail"] for _, answer in again)
    assert len(running.archive.page(None, 10)) == 1


async def test_a_tag_and_a_merge_request_are_asked_for_by_their_refs(
    running: Running, client: Client
) -> None:
    _, tag = await post(client, github("github-push-tag", "push"))
    _, request = await post(client, gitlab("gitlab-merge-request", "Merge Request Hook"))
    for build in (tag["build"], request["build"]):
        await decided(client, running, build)
    assert asked_for(running, tag["build"]).ref == "refs/tags/v1.0.0"
    asked = asked_for(running, request["build"])
    assert (asked.ref, asked.branch, asked.event) == (
        "refs/merge-requests/1/head",
        "master",
        "pull_request",
    )


async def test_a_forks_pull_request_waits_for_approval(running: Running, client: Client) -> None:
    status, answer = await post(client, github("github-pull-request-fork", "pull_request"))
    assert status == 202
    build = bytes.fromhex(answer["build"])

    def is_open() -> bool:
        record = running.archive.get(build)
        return record is not None and record.opened_at is not None

    await until(is_open)
    asked = asked_for(running, answer["build"])
    assert (asked.needs_approval, asked.commit) == (True, FORK)
    value = await (await client.get(f"/api/v1/builds/{answer['build']}")).json()
    assert "approv" in value["detail"]
    assert value["verdict"] is None
    opened = [node.application.open_builds()[build] for node in running.network.nodes.values()]
    assert all(not build.is_decided and not build.ballots for build in opened)


async def test_what_is_skipped_is_kept_and_never_asked_for(
    running: Running, client: Client
) -> None:
    delivery = github("github-push-skip", "push")
    status, answer = await post(client, delivery)
    assert status == 200
    assert "[skip ci]" in answer["detail"]
    assert (await post(client, delivery))[0] == 200
    value = await (await client.get(f"/api/v1/builds/{answer['build']}")).json()
    assert value["status"] == "skipped"
    assert "[skip ci]" in value["detail"]
    assert running.network.asked == []
    assert running.gateway.unfinished == 0
    page = await (await client.get(f"/builds/{answer['build']}")).text()
    assert "[skip ci]" in page


@pytest.mark.parametrize(
    "delivery",
    [
        github("github-ping", "ping"),
        github("github-push-deleted", "push"),
        gitlab("gitlab-push-deleted", "Push Hook"),
        gitea("gitea-push-deleted", "push"),
        gitea("gitea-test-delivery", "push"),
        github("github-push-queue", "push"),
        github("github-merge-group-destroyed", "merge_group"),
        bitbucket("bitbucket-push-deleted", "repo:push"),
        data_center("bitbucket-data-center-ping", "diagnostics:ping"),
    ],
)
async def test_pings_deletions_and_tests_are_answered_200_and_build_nothing(
    running: Running, client: Client, delivery: Delivery
) -> None:
    status, answer = await post(client, delivery)
    assert status == 200
    assert answer["detail"]
    assert running.archive.page(None, 1) == []


@pytest.mark.parametrize(
    ("delivery", "expected"),
    [
        (github("github-push", "push", b"guess"), 401),
        (github("github-push", "push", X_Hub_Signature_256="(none)"), 401),
        (gitlab("gitlab-push", "Push Hook", b"guess"), 401),
        (gitea("gitea-push", "push", secret=None), 401),
        (github("github-push", "push", X_Hub_Signature_256="sha256=é"), 401),
        (github("github-push", "pull_request"), 400),
        (bitbucket("bitbucket-push", "repo:push", secret=None), 401),
        (data_center("bitbucket-data-center-push", "repo:refs_changed", secret=b"guess"), 401),
    ],
)
async def test_what_proves_nothing_builds_nothing(
    running: Running, client: Client, delivery: Delivery, expected: int
) -> None:
    status, answer = await post(client, delivery)
    assert status == expected
    assert "\n" not in answer["error"]
    assert SECRET.decode() not in answer["error"]
    assert running.archive.page(None, 1) == []


async def test_a_signature_that_is_there_twice_is_refused(client: Client) -> None:
    delivery = github("github-push", "push")
    name = "x-hub-signature-256"
    twice = Delivery(delivery.headers | {name: delivery.headers[name] * 2}, delivery.body)
    status, answer = await post(client, twice)
    assert status == 400
    assert "more than once" in answer["error"]


async def test_two_gateways_ask_for_one_build(network: Network, tmp_path: Path) -> None:
    """The second one, as after a loss of its disk: same name, nothing known."""
    delivery = gitea("gitea-push", "push")
    builds = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        running = await run_gateway(network, tmp_path / name)
        client = await client_of(running, tmp_path / name)
        status, answer = await post(client, delivery)
        assert status == 202
        builds.append(answer["build"])
        view = await decided(client, running, answer["build"])
        assert view["verdict"]["outcome"] == "passed"
        await client.close()
        await running.close()
    assert builds[0] == builds[1]
    assert all(node.application.ledger_index == len(node.ledger) for node in network.nodes.values())
    verdicts = [e for e in next(iter(network.nodes.values())).ledger if b'"verdict"' in e.body[:64]]
    assert len(verdicts) <= 1


def test_a_secret_that_others_may_read_stops_the_start(running: Running, tmp_path: Path) -> None:
    file = webhook_secret_file(tmp_path)
    file.chmod(0o644)
    entry = GatewayRepository(GITHUB_URL, webhook_secret_file=file)
    with pytest.raises(ConfigError, match="chmod 600"):
        site_of(running, tmp_path, (entry,))


async def test_a_merge_group_that_is_destroyed_is_cancelled_but_no_verdict_is(
    running: Running, client: Client
) -> None:
    for node in running.network.nodes.values():
        node.finds = lambda build: None
    asked = github("github-merge-group", "merge_group")
    destroyed = github("github-merge-group-destroyed", "merge_group")
    status, answer = await post(client, asked)
    assert status == 202
    await until(lambda: bool(running.network.asked))
    status, said = await post(client, destroyed)
    assert (status, said["detail"][:10]) == (200, "cancelled:")
    view = await decided(client, running, answer["build"])
    assert view["verdict"]["outcome"] == "cancelled"
    assert view["event"] == "merge_group"
    assert (view["verdict"]["ref"], view["verdict"]["target"]) == (QUEUE_REF, "refs/heads/main")
    assert "dequeued" in view["withdrawn"]
    # told again neither is anything new
    assert (await post(client, destroyed))[1] == said
    assert (await post(client, asked))[1]["build"] == answer["build"]


async def test_a_merge_group_that_was_decided_stays_so(running: Running, client: Client) -> None:
    _, answer = await post(client, github("github-merge-group", "merge_group"))
    await decided(client, running, answer["build"])
    status, said = await post(client, github("github-merge-group-destroyed", "merge_group"))
    assert status == 200
    assert "over already" in said["detail"]
    view = await decided(client, running, answer["build"])
    assert (view["verdict"]["outcome"], view["withdrawn"]) == ("passed", None)


async def test_a_push_of_several_refs_is_as_many_builds(running: Running, client: Client) -> None:
    changes = [
        {"new": {"type": "branch", "name": name, "target": {"hash": PUSHED}}}
        for name in ("one", "two")
    ]
    body = body_of("bitbucket-push", {"push.changes": changes})
    headers = {
        "X-Hook-UUID": "{1}",
        "X-Event-Key": "repo:push",
        "X-Hub-Signature": f"sha256={openssl_hmac(SECRET, body).hex()}",
    }
    for expected in (202, 200):
        answer = await client.post("/webHook", data=body, headers=headers)
        assert answer.status == expected
        assert "2 refs" in (await answer.json())["detail"]
    records = running.archive.page(None, 10)
    assert {record.branch for record in records} == {"one", "two"}
    for record in records:
        await decided(client, running, record.build.hex())


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        (FoundCommit(PUSHED), 202, None),
        (FoundCommit("f" * 40), 200, "moved on"),
        (NoSuchBranch(), 200, "moved on"),
        (Unreachable("away"), 503, "deliver it again"),
    ],
)
async def test_of_a_request_at_bitbucket_cloud_the_branch_is_asked_for_the_commit(
    network: Network, tmp_path: Path, found: Resolution, expected: int, said: str | None
) -> None:
    running = await run_gateway(network, tmp_path, FixedResolver(found))
    client = await client_of(running, tmp_path)
    delivery = bitbucket("bitbucket-pull-request", "pullrequest:created")
    status, answer = await post(client, delivery)
    assert status == expected
    if said is None:
        view = await decided(client, running, answer["build"])
        assert (view["commit"], view["event"]) == (PUSHED, "pull_request")
        assert asked_for(running, answer["build"]).ref == "refs/heads/changes"
        again = await post(client, delivery)
        assert (again[0], again[1]["build"]) == (200, answer["build"])
    else:
        assert said in (answer["error"] if expected == 503 else answer["detail"])
        assert running.archive.page(None, 1) == []
    await client.close()
    await running.close()


async def test_many_refs_of_one_push_wait_for_the_git_server_together(
    network: Network, tmp_path: Path
) -> None:
    """Else a push of many tags would take longer than the forge waits."""

    class SlowResolver(FixedResolver):
        most_waiting = waiting = 0

        async def resolve(self, *asked: str | None) -> Resolution:
            self.waiting += 1
            self.most_waiting = max(self.waiting, self.most_waiting)
            await asyncio.sleep(0)
            self.waiting -= 1
            return FoundCommit(PUSHED)

    resolver = SlowResolver()
    running = await run_gateway(network, tmp_path, resolver)
    client = await client_of(running, tmp_path)
    change = {"fromHash": "0" * 40, "toHash": PUSHED, "type": "ADD"}
    changes = [{**change, "refId": f"refs/tags/v{number}"} for number in range(20)]
    tags = data_center("bitbucket-data-center-push", "repo:refs_changed", {"changes": changes})
    status, answer = await post(client, tags)
    assert (status, "20 refs" in answer["detail"]) == (202, True)
    assert resolver.most_waiting == 20
    assert len(running.archive.page(None, 100)) == 20
    await client.close()
    await running.close()


async def test_an_annotated_tag_of_data_center_is_built_at_its_commit(
    network: Network, tmp_path: Path
) -> None:
    running = await run_gateway(network, tmp_path, FixedResolver(FoundCommit(PUSHED)))
    client = await client_of(running, tmp_path)
    tag = data_center("bitbucket-data-center-push-tag", "repo:refs_changed")
    status, answer = await post(client, tag)
    assert status == 202
    view = await decided(client, running, answer["build"])
    assert (view["commit"], view["verdict"]["ref"]) == (PUSHED, "refs/tags/v1.0.0")
    await client.close()
    await running.close()


async def test_a_forks_request_at_bitbucket_cloud_is_kept_as_skipped(
    running: Running, client: Client
) -> None:
    delivery = bitbucket("bitbucket-pull-request-fork", "pullrequest:created")
    status, answer = await post(client, delivery)
    assert status == 200
    assert "no ref of a fork" in answer["detail"]
    view = await (await client.get(f"/api/v1/builds/{answer['build']}")).json()
    assert (view["status"], view["commit"]) == ("skipped", FORK[:12])
    # done again it is what the repository itself has, which is nothing: never a branch of that name
    again = await running.gateway.rebuild(bytes.fromhex(answer["build"]))
    record = running.archive.get(again)
    assert record is not None
    assert (record.ref, record.commit) in {
        ("refs/pull-requests/3/from", None),
        ("refs/pull-requests/3/from", "c" * 40),
    }
