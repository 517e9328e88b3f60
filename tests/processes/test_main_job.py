"""The main job, end to end: four branches, four nodes, real containers, four right verdicts."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker
import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key, SSlibKey  # type: ignore[attr-defined]
from securesystemslib.signer._utils import compute_default_keyid

from ci.statement import parse_statement
from common.configuration.keys import load_public_key
from pbft.ports import Entry
from scripts.example_repository import FEATURE_EXIT_CODE, example_branches
from scripts.harness import PROGRAMS
from tests.node.conftest import things_of
from tests.processes.network import Network, ask, verdict_entries
from tests.waiting import block_until

pytestmark = [pytest.mark.processes, pytest.mark.docker]

EXPECTED = {
    "master": ("passed", 0),
    "feature": ("failed", FEATURE_EXIT_CODE),
    "dockerfile": ("passed", 0),
    "no-such-branch": ("checkout_failed", 128),
}


@dataclass
class Job:
    """The main job, done."""

    network: Network
    views: dict[str, dict[str, Any]]
    ledger: list[Entry]
    left_on_engine: set[str]


@pytest.fixture(scope="module")
def job(
    docker_engine: docker.DockerClient, base_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Job]:
    """A network that was asked for the four branches and has finished them all."""
    folder = tmp_path_factory.mktemp("main-job")
    branches = example_branches(base_image)
    # The one network whose processes are started as its users start them.
    with Network(folder, branches, executor="docker", programs=PROGRAMS) as network:
        network.start()
        builds = {branch: network.post(branch) for branch in EXPECTED}
        views = {branch: network.complete(build) for branch, build in builds.items()}
        ledger = network.settle()
        cluster_id = bytes.fromhex(network.status("node0")["cluster"])
        left: set[str] = set()

        def is_tidy() -> bool:
            left.clear()
            left.update(things_of(docker_engine, cluster_id))
            return not left

        # test_nothing_is_left_on_the_engine names what is left
        with contextlib.suppress(AssertionError):
            block_until(is_tidy, "an engine without ours")
        yield Job(network, views, ledger, left)


@pytest.mark.parametrize("branch", EXPECTED)
def test_the_verdict_is_right(job: Job, branch: str) -> None:
    view = job.views[branch]
    verdict = view["verdict"]
    assert (verdict["outcome"], verdict["exit_code"]) == EXPECTED[branch]
    assert (view["branch"], view["status"]) == (branch, "decided")
    assert view["commit"] == job.network.commits.get(branch)
    assert view["repository"] == job.network.repository.as_uri()


@pytest.mark.parametrize("branch", EXPECTED)
def test_all_four_replicas_agree(job: Job, branch: str) -> None:
    view = job.views[branch]
    assert sorted(view["verdict"]["agreeing"]) == list(job.network.node_names)
    assert view["verdict"]["dissenting"] == []
    assert {b["replica"] for b in view["ballots"]} == set(job.network.node_names)
    found = {(b["outcome"], b["exit_code"], b["commit"], b["abstains"]) for b in view["ballots"]}
    assert found == {(*EXPECTED[branch], job.network.commits.get(branch), None)}


@pytest.mark.parametrize("branch", EXPECTED)
def test_the_ledger_holds_each_verdict_once(job: Job, branch: str) -> None:
    view = job.views[branch]
    entries = [e for e in verdict_entries(job.ledger) if e.build == view["id"]]
    assert len(entries) == 1
    verdict = parse_statement(bytes(entries[0].statement)).verdict
    assert (verdict.outcome, verdict.exit_code) == EXPECTED[branch]
    assert verdict.ledger_index == view["verdict"]["ledger_index"]
    body = job.ledger[verdict.ledger_index - 1].body
    assert bytes(entries[0].statement) in body


@pytest.mark.parametrize("branch", EXPECTED)
def test_each_log_is_what_its_ballot_says(job: Job, branch: str) -> None:
    view = job.views[branch]
    assert sorted(view["logs"]) == list(job.network.node_names)
    for ballot in view["ballots"]:
        url = f"{job.network.gateway_url}/api/v1/builds/{view['id']}/log/{ballot['replica']}"
        answer = ask(url)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert hashlib.sha256(answer.body).hexdigest() == ballot["log_sha256"]
        outcome, exit_code = EXPECTED[branch]
        assert f"{outcome}, exit code {exit_code}".encode() in answer.body
        if branch == "master":
            assert b"this branch is fine\n" in answer.body


def test_results_are_appended_to_a_file(job: Job) -> None:
    results = job.network.results_of(view["id"] for view in job.views.values())
    lines = {line["branch"]: line for line in results}
    assert len(results) == len(EXPECTED)
    for branch, (outcome, exit_code) in EXPECTED.items():
        assert lines[branch]["id"] == job.views[branch]["id"]
        assert (lines[branch]["outcome"], lines[branch]["exit_code"]) == (outcome, exit_code)


def test_builds_are_listed_newest_first(job: Job) -> None:
    url = f"{job.network.gateway_url}/api/v1/builds"
    first = ask(f"{url}?limit=3").json()
    rest = ask(f"{url}?limit=3&after={first['next']}").json()
    listed = [build["id"] for build in (*first["builds"], *rest["builds"])]
    assert listed == [view["id"] for view in reversed(job.views.values())]
    assert rest["next"] is None


def test_nothing_is_left_on_the_engine(job: Job) -> None:
    assert job.left_on_engine == set()


# --- the envelope, checked by a library that knows nothing of us ----------------------------------


def replica_keys(network: Network) -> list[Key]:
    """The public keys of the replicas, from the files that the cluster file names."""
    keys: list[Key] = []
    for entry in network.configuration.cluster.replicas:
        assert entry.public_key_file is not None
        keyval = {"public": load_public_key(entry.public_key_file).hex()}
        keyid = compute_default_keyid("ed25519", "ed25519", keyval)
        keys.append(SSlibKey(keyid, "ed25519", "ed25519", keyval))
    return keys


@pytest.fixture(params=list(EXPECTED))
def downloaded(job: Job, request: pytest.FixtureRequest) -> tuple[Job, str, dict[str, Any]]:
    """The envelope of a branch's verdict."""
    branch: str = request.param
    url = f"{job.network.gateway_url}/api/v1/builds/{job.views[branch]['id']}/attestation"
    answer = ask(url)
    assert answer.status == 200
    return job, branch, answer.json()


Downloaded = tuple[Job, str, dict[str, Any]]


def test_an_independent_verifier_accepts_the_envelope(downloaded: Downloaded) -> None:
    job, branch, envelope = downloaded
    keys = replica_keys(job.network)
    independent = Envelope.from_dict(envelope)
    accepted = independent.verify(keys, threshold=2)
    assert len(accepted) >= 2
    verdict = parse_statement(independent.payload).verdict
    assert (verdict.outcome, verdict.exit_code) == EXPECTED[branch]
    assert (verdict.branch, verdict.build) == (branch, job.views[branch]["id"])


def test_an_independent_verifier_refuses_one_changed_byte(downloaded: Downloaded) -> None:
    job, branch, envelope = downloaded
    payload = base64.b64decode(envelope["payload"])
    outcome = EXPECTED[branch][0].encode()
    changed = payload.replace(b'"' + outcome + b'"', b'"' + outcome[:-1] + b'e"')
    assert len(changed) == len(payload)
    assert changed != payload
    forged = {**envelope, "payload": base64.b64encode(changed).decode()}
    with pytest.raises(VerificationError):
        Envelope.from_dict(forged).verify(replica_keys(job.network), threshold=2)


def test_an_independent_verifier_refuses_one_signature_too_few(downloaded: Downloaded) -> None:
    job, _, envelope = downloaded
    too_few = {**envelope, "signatures": envelope["signatures"][:1]}
    with pytest.raises(VerificationError):
        Envelope.from_dict(too_few).verify(replica_keys(job.network), threshold=2)


# --- what else can be asked -----------------------------------------------------------------------


def test_each_node_tells_its_status_in_the_names_of_the_seed(job: Job) -> None:
    for name in job.network.node_names:
        status = job.network.status(name)
        assert status["node_id"] == name
        # on a busy machine not always the first view
        primary = job.network.node_names[status["view"] % 4]
        assert status["primary"] == primary
        assert status["is_primary"] is (name == primary)
        assert (status["f"], status["quorum_size"]) == (1, 3)
        assert status["sequence"] > 0
        assert status["byzantine_nodes"] == []


def test_each_node_shows_its_last_messages(job: Job) -> None:
    for name in job.network.node_names:
        messages = job.network.node(name, "/pbft/log?limit=512").json()["messages"]
        assert {"direction", "type", "node_id", "signature"} <= messages[0].keys()
        assert {"Prepare", "Commit", "Status"} <= {message["type"] for message in messages}


def test_the_page_of_a_build_is_where_the_answer_says(job: Job) -> None:
    accepted = ask(f"{job.network.gateway_url}/webHook", b'{"branch": "feature"}').json()
    job.network.complete(accepted["build"])
    page = ask(accepted["url"])
    assert page.status == 200
    assert page.headers["Content-Type"].startswith("text/html")
    assert accepted["build"].encode() in page.body


def test_an_unsigned_request_is_refused(job: Job) -> None:
    url = job.network.configuration.nodes[1].listen.url
    answer = ask(f"{url}/pbft/request", b'{"operation": "transfer", "amount": 100}')
    assert answer.status == 401
    assert "signed" in answer.json()["error"]


# --- what the gateway refuses --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"not json", 400, "JSON"),
        (b'{"branch": 7}', 400, "branch"),
        (b'{"branch": "master", "repoCloneUrl": "https://evil.example/x"}', 404, "repositories"),
    ],
)
def test_a_wrong_webhook_is_refused_and_told_why(
    job: Job, body: bytes, status: int, told: str
) -> None:
    answer = ask(f"{job.network.gateway_url}/webHook", body)
    assert answer.status == status
    assert told in json.loads(answer.body)["error"]


def test_a_body_over_25_megabytes_is_refused(job: Job) -> None:
    answer = ask(f"{job.network.gateway_url}/webHook", b" " * (25 * 1024 * 1024 + 1))
    assert answer.status == 413
