"""Artifacts end to end: four nodes, real containers, copies that lie, and files that differ."""

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from ci.statement import parse_statement
from tests.processes.network import Network, ask, verdict_entries
from tests.processes.programs import Ended, client

pytestmark = [pytest.mark.processes, pytest.mark.docker]

COMMANDS = [
    "mkdir -p dist/sub",
    "printf 'one\\n' >dist/one",
    "head -c 3000000 /dev/zero >'dist/sub/t wo'",
    "printf 'read me\\n' >README.txt",
]
MADE = {
    "README.txt": b"read me\n",
    "dist/one": b"one\n",
    "dist/sub/t wo": bytes(3_000_000),
}
OUTCOMES = {"made": "passed", "weak": "passed", "differs": "disputed", "missing": "failed"}


def branches(image: str) -> dict[str, dict[str, str]]:
    """What is built: files by path."""
    random = ["od -An -N8 -tx1 /dev/urandom >random", "echo same >same"]
    pipelines: dict[str, dict[str, object]] = {
        "made": {"commands": COMMANDS, "artifacts": ["dist", "*.txt"]},
        "weak": {"commands": COMMANDS, "artifacts": ["dist/one"], "agreement": "weak"},
        "differs": {"commands": random, "artifacts": ["random", "same"]},
        "missing": {"commands": ["true"], "artifacts": ["dist/*.whl"]},
    }
    return {
        name: {".pbft-ci.yml": yaml.safe_dump({"image": image, **settings})}
        for name, settings in pipelines.items()
    }


@dataclass
class Job:
    """Builds that are done, on a network that runs."""

    network: Network
    views: dict[str, dict[str, Any]]

    def fetch(self, branch: str, path: str) -> tuple[int, bytes]:
        """GET .../artifacts/<path>."""
        build = self.views[branch]["id"]
        answer = ask(f"{self.network.gateway_url}/api/v1/builds/{build}/artifacts/{path}")
        return answer.status, answer.body

    def copy_of(self, name: str, branch: str, content: bytes) -> Path:
        """A node's own copy of what a build made, on its disk."""
        build = self.views[branch]["id"]
        (folder,) = (self.network.data_directory(name) / "builds").glob(f"{build}-*")
        return folder / "artifacts" / hashlib.sha256(content).hexdigest()

    def command(self, *words: str) -> Ended:
        """`python -m client ...` of this network."""
        return client(self.network, *words)


@pytest.fixture(scope="module")
def job(
    docker_engine: docker.DockerClient, base_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("artifacts")
    network = Network(
        folder,
        branches(base_image),
        executor="docker",
        overrides={"cluster": {"limits": {"weak_agreement_allowed": True}}},
    )
    with network:
        network.start()
        builds = {branch: network.post(branch) for branch in OUTCOMES}
        yield Job(network, {branch: network.complete(build) for branch, build in builds.items()})


@pytest.mark.parametrize("branch", OUTCOMES)
def test_the_verdict_is_right(job: Job, branch: str) -> None:
    assert job.views[branch]["verdict"]["outcome"] == OUTCOMES[branch]


def test_all_four_made_the_same_files(job: Job) -> None:
    view = job.views["made"]
    assert sorted(view["verdict"]["agreeing"]) == list(job.network.node_names)
    assert view["artifact_differences"] == []
    assert {item["path"]: (item["sha256"], item["length"]) for item in view["artifacts"]} == {
        path: (hashlib.sha256(content).hexdigest(), len(content)) for path, content in MADE.items()
    }


def test_the_signed_statement_names_each_artifact_as_its_subject(job: Job) -> None:
    build = job.views["made"]["id"]
    answer = ask(f"{job.network.gateway_url}/api/v1/builds/{build}/attestation")
    view = parse_statement(base64.b64decode(answer.json()["payload"]))
    subjects = {subject.name: subject.digest.get("sha256") for subject in view.subject}
    for path, content in MADE.items():
        assert subjects[path] == hashlib.sha256(content).hexdigest()


def test_weak_agreement_passes_with_two_equal_ballots(job: Job) -> None:
    entries = verdict_entries(job.network.settle())
    thresholds = {}
    for entry in entries:
        verdict = parse_statement(bytes(entry.statement)).verdict
        thresholds[verdict.branch] = (verdict.agreement, verdict.threshold)
    assert thresholds["weak"] == ("weak", 2)
    assert thresholds["made"] == ("default", 3)


def test_the_bytes_are_served(job: Job) -> None:
    for path, content in MADE.items():
        assert job.fetch("made", path.replace(" ", "%20")) == (200, content)


def test_a_lying_copy_is_refused_and_another_replica_is_asked(job: Job) -> None:
    content = MADE["dist/one"]
    first = job.views["weak"]["verdict"]["agreeing"][0]
    copy = job.copy_of(first, "weak", content)
    assert copy.read_bytes() == content
    copy.write_bytes(b"0ne\n")
    assert job.fetch("weak", "dist/one") == (200, content)
    said = job.network.configuration.client.log_file.read_text()
    assert f"the copy of {first} has SHA-256" in said


def test_where_every_copy_lies_all_are_named(job: Job) -> None:
    content = MADE["README.txt"]
    for name in job.network.node_names:
        job.copy_of(name, "made", content).write_bytes(b"read ME\n")
    status, body = job.fetch("made", "README.txt")
    assert status == 502
    assert all(name in json.loads(body)["error"] for name in job.network.node_names)


def test_files_that_differ_are_shown_one_by_one(job: Job) -> None:
    view = job.views["differs"]
    assert view["artifacts"] == []
    (difference,) = view["artifact_differences"]
    assert difference["path"] == "random"
    assert len({found["sha256"] for found in difference["found"]}) == 4
    printed = job.command("status", view["id"])
    assert printed.code == 5, printed
    assert "differs     random" in printed.output
    for found in difference["found"]:
        assert found["sha256"] in printed.output
    page = ask(f"{job.network.gateway_url}/builds/{view['id']}").body.decode()
    assert "Files that differ" in page
    assert job.fetch("differs", "same")[0] == 404


def test_a_file_that_was_not_made_fails_the_build_and_the_log_says_so(job: Job) -> None:
    view = job.views["missing"]
    assert sorted(view["verdict"]["agreeing"]) == list(job.network.node_names)
    log = ask(f"{job.network.gateway_url}/api/v1/builds/{view['id']}/log/node0").body.decode()
    assert "artifact dist/*.whl: the build did not make it" in log


def test_the_command_fetches_what_the_network_agreed_on(job: Job, tmp_path: Path) -> None:
    build = job.views["weak"]["id"]
    done = job.command("artifacts", build, "--output", str(tmp_path))
    assert done.code == 0, done
    content = MADE["dist/one"]
    assert done.output == f"{hashlib.sha256(content).hexdigest()}  dist/one\n"
    assert (tmp_path / "dist" / "one").read_bytes() == content
