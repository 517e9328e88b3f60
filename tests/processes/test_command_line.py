"""The command line against a running network: what it prints, and its exit codes."""

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci.operations import Event, SubmitBuild
from client.commands.operator_request import ask_as_operator
from client.serve import read_member
from common.configuration.config import load_client_config
from common.version import VERSION
from pbft.authentication import Identity
from scripts.base_image import EXAMPLE_IMAGE
from scripts.free_ports import free_ports
from tests.forge_server import TOKEN, ForgeServer
from tests.processes.network import CLIENT, Network, ask, pipeline
from tests.processes.programs import client, run
from tests.secret_files import secret_file
from tests.waiting import block_until

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def forge() -> Iterator[ForgeServer]:
    """Where each node of the network posts its own statuses."""
    with ForgeServer("gitea") as server:
        yield server


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, forge: ForgeServer) -> Iterator[Network]:
    """A green branch, a red one, and one that waits."""
    folder = tmp_path_factory.mktemp("command-line")
    branches = {
        # a commit that no honest request is about
        "claimed": pipeline("echo claimed"),
        "green": pipeline("echo a green line"),
        "red": pipeline("echo a red line", "exit 3"),
        # ends once that file is there
        "held": pipeline(f"until test -e {folder / 'gate'}; do sleep 0.05; done"),
        "nothing": {
            ".pbft-ci.yml": json.dumps(
                {
                    "image": EXAMPLE_IMAGE,
                    "steps": [
                        {
                            "name": "test",
                            "commands": ["exit 1"],
                            "when": {"branch": "main", "event": "push"},
                        }
                    ],
                }
            )
        },
    }
    # fails on half of the replicas, each of which has folders of its own
    lint = 'case "$HOME" in */node[01]/*) echo half >&2; exit 4;; esac'
    steps = [
        {"name": "lint", "commands": [lint], "failure": "ignore"},
        {"name": "test", "commands": ["true"]},
        {"name": "tell", "commands": ["exit 1"], "when": {"status": "failure"}},
    ]
    branches["ignored"] = {".pbft-ci.yml": json.dumps({"image": EXAMPLE_IMAGE, "steps": steps})}
    overrides = {"cluster": {"checkpoint_interval": 4, "window": 16}}
    token = secret_file(folder / "status-token", TOKEN)

    def report(settings: dict[str, Any]) -> None:
        settings["public_url"] = made.gateway_url
        settings["repositories"][0] |= {
            **{"forge": "gitea", "api_url": forge.api_url, "project": "owner/name"},
            "status_token_file": str(token),
        }

    with Network(folder, branches, overrides=overrides) as made:
        for name in made.node_names:
            made.rewrite(name, report)
        made.start()
        yield made


@pytest.fixture(scope="module")
def builds(network: Network) -> dict[str, str]:
    """Ids of finished builds, by branch."""
    posted = {branch: network.post(branch) for branch in ("green", "red", "nothing")}
    for build in posted.values():
        network.complete(build)
    return posted


def final_states(network: Network, forge: ForgeServer, build: str) -> set[str]:
    """What the nodes posted of a build, but for `pending`, once each has posted its verdict."""

    def posted() -> set[tuple[str, str]]:
        url = f"{network.gateway_url}/builds/{build}"
        said = [status for status in list(forge.statuses) if status.target_url == url]
        return {(status.context, status.state) for status in said if status.state != "pending"}

    contexts = {f"pbft-ci/{name}" for name in network.node_names}
    block_until(lambda: {context for context, _ in posted()} == contexts, "a status of each node")
    assert forge.wrong == []
    return {state for _, state in posted()}


# --- builds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("branch", "code", "verdict"),
    [
        ("green", 0, "passed 0"),
        ("red", 1, "failed 3"),
        ("nothing", 1, "skipped"),
        ("no-such-branch", 1, "checkout_failed 128"),
    ],
)
def test_submit_and_wait_ends_with_the_verdict(
    network: Network, branch: str, code: int, verdict: str
) -> None:
    ended = client(network, "submit", branch, "--wait")
    assert ended.code == code, ended
    build = ended.output.splitlines()[0]
    assert network.build(build)["branch"] == branch
    assert f"verdict     {verdict}\n" in ended.output
    assert network.commits.get(branch, "-") in ended.output


def test_submit_without_waiting_prints_the_id(network: Network) -> None:
    ended = client(network, "submit", "green", "--commit", network.commits["green"])
    assert ended.code == 0
    assert network.verdict(ended.output.strip())["verdict"]["outcome"] == "passed"


def test_a_commit_of_another_branch_is_built_by_nobody(
    network: Network, forge: ForgeServer
) -> None:
    """Though it would pass, and every replica can fetch it: all prove the branch, and abstain.

    So no node posts that it passed.
    """
    ended = client(network, "submit", "red", "--commit", network.commits["green"], "--wait")
    assert ended.code == 5, ended
    assert "verdict     disputed\n" in ended.output
    build = network.complete(ended.output.splitlines()[0])
    assert len(build["ballots"]) >= 2
    assert all("refs/heads/red" in ballot["abstains"] for ballot in build["ballots"])
    assert final_states(network, forge, build["id"]) == {"error"}


def test_a_tag_is_built_by_hand(network: Network) -> None:
    """By its full name; and by its own, since no branch has it. The path is that of client.yml."""
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    tag = ("tag", "-a", "-m", "nine", "v9", network.commits["green"])
    subprocess.run(["git", *author, *tag], cwd=network.repository, check=True)
    for name in ("v9", "refs/tags/v9"):
        ended = client(network, "submit", name, "--repository", str(network.repository), "--wait")
        assert ended.code == 0, ended
        assert "ref         refs/tags/v9 (tag)\n" in ended.output
        assert f"commit      {network.commits['green']}\n" in ended.output


def test_a_repository_that_is_not_configured_is_refused(network: Network) -> None:
    ended = client(network, "submit", "green", "--repository", "https://example.org/other.git")
    assert ended.code == 3
    assert "repositories" in ended.errors


def test_wait_gives_up_after_its_time(network: Network) -> None:
    build = network.post("held")
    ended = client(network, "wait", build, "--timeout", "1")
    assert ended.code == 4
    assert "no verdict within 1 s" in ended.errors
    assert client(network, "status", build).code == 4
    (network.folder / "gate").touch()
    ended = client(network, "wait", build[:10])
    assert ended.code == 0
    assert "verdict     passed 0\n" in ended.output


@pytest.mark.parametrize(("branch", "code"), [("green", 0), ("red", 1)])
def test_status_and_log(network: Network, builds: dict[str, str], branch: str, code: int) -> None:
    ended = client(network, "status", builds[branch])
    assert ended.code == code
    for name in network.node_names:
        assert name in ended.output
    log = client(network, "log", builds[branch], "node2")
    assert log.code == 0
    assert f"a {branch} line\n" in log.output
    assert f"a {branch} line\n" in client(network, "log", builds[branch][:12]).output


def test_builds_are_listed(network: Network, builds: dict[str, str]) -> None:
    ended = client(network, "list", "--limit", "100")
    assert ended.code == 0
    lines = {line.split()[0]: line for line in ended.output.splitlines()}
    assert "passed 0" in lines[builds["green"][:12]]
    assert "failed 3" in lines[builds["red"][:12]]


@pytest.mark.parametrize(("build", "code"), [("ab" * 32, 3), ("xyz", 2), ("ffffffffff", 2)])
def test_a_build_that_is_not_there(network: Network, build: str, code: int) -> None:
    ended = client(network, "status", build)
    assert ended.code == code
    assert len(ended.errors.splitlines()) == 1


def test_a_gateway_that_is_not_there(network: Network) -> None:
    (port,) = free_ports(1)
    ended = client(network, "submit", "green", "--gateway", f"http://127.0.0.1:{port}")
    assert ended.code == 3
    assert f"no gateway answers at http://127.0.0.1:{port}" in ended.errors
    assert len(ended.errors.splitlines()) == 1


# --- journal and ledger --------------------------------------------------------------------------


def test_strings_are_appended_on_every_replica(network: Network) -> None:
    assert client(network, "append", "one", "two").code == 0
    ended = client(network, "append", text="three\nfour\n")
    assert ended.code == 0
    network.settle(are_builds_closed=False)
    journal = client(network, "journal", "--all")
    assert journal.code == 0
    length, digest = ended.output.splitlines()[-1].split()
    for name in network.node_names:
        assert f"{name}: {length} strings, digest {digest}\n" in journal.output
    assert journal.output.count("onetwothreefour") == len(network.node_names)
    assert client(network, "journal").output.startswith(f"node0: {length} strings")


@pytest.mark.parametrize("name", ["node0", "node3"])
def test_the_ledger_is_printed_and_verified(
    network: Network, builds: dict[str, str], name: str
) -> None:
    ended = client(network, "ledger", "--node", name)
    assert ended.code == 0
    assert f"verdict      {builds['green'][:12]}  passed 0  green" in ended.output
    verified = client(network, "ledger", "--node", name, "--verify")
    assert verified.code == 0
    assert verified.output.startswith(f"{name}: the chain of ")
    assert " entries holds, head " in verified.output
    assert len(verified.output.splitlines()) == 2


# --- what a request claims -----------------------------------------------------------------------


def test_a_gateways_key_asks_for_no_tag_that_is_a_branch(
    network: Network, forge: ForgeServer
) -> None:
    """The audit's attack: it was ledgered as passed for `when: {branch: main, event: tag}`.

    No node posts a status of it, either. Each posts in the order of what it executed, so the
    verdict of a later build shows that there is none to come; nothing of that one was run, and no
    node posts that it passed.
    """
    config = load_client_config(network.config_file(CLIENT))
    member = read_member(config)
    lie = SubmitBuild(
        identity=bytes(32),
        repository=network.repository.as_uri(),
        branch="claimed",
        commit=network.commits["claimed"],
        event=Event.TAG,
        ref="refs/heads/claimed",
    )
    gateway = Identity(member.cluster, config.name, member.signing_key.sign)
    answer = asyncio.run(ask_as_operator(gateway, member.peers, lie))
    assert answer.kind == "refused"
    assert "the event is tag, and the ref is not" in (answer.reason or "")
    assert final_states(network, forge, network.post("nothing")) == {"skipped"}
    assert network.commits["claimed"] not in {status.commit for status in forge.statuses}


# --- envelopes -----------------------------------------------------------------------------------


def of_branch(network: Network, branch: str) -> tuple[str, ...]:
    """What a consumer asks for who means that branch's commit."""
    return (
        *("--repository", network.repository.as_uri(), "--commit", network.commits[branch]),
        *("--ref", f"refs/heads/{branch}", "--event", "push"),
    )


def download(network: Network, build: str, file: Path) -> None:
    answer = ask(f"{network.gateway_url}/api/v1/builds/{build}/attestation")
    assert answer.status == 200
    file.write_bytes(answer.body)


@pytest.mark.parametrize(
    ("branch", "code", "verdict"),
    [("green", 0, "passed 0"), ("red", 1, "failed 3"), ("nothing", 1, "skipped")],
)
def test_an_envelope_is_verified_offline(
    network: Network,
    builds: dict[str, str],
    tmp_path: Path,
    branch: str,
    code: int,
    verdict: str,
) -> None:
    file = tmp_path / "envelope.json"
    download(network, builds[branch], file)
    asked = of_branch(network, branch)
    assert client(network, "verify", str(file)).code == 2
    ended = client(network, "verify", str(file), *asked)
    assert ended.code == code, ended
    assert f"verdict     {verdict}\n" in ended.output
    assert builds[branch] in ended.output
    piped = client(network, "verify", "-", *asked, text=file.read_text())
    assert (piped.code, piped.output) == (ended.code, ended.output)
    # no configuration of a client is needed, only the cluster's public keys
    alone = run(
        *("-m", "client", "verify", str(file), *asked),
        *("--cluster", str(network.config_file("cluster"))),
    )
    assert (alone.code, alone.output) == (ended.code, ended.output)


def test_an_envelope_that_proves_nothing(
    network: Network, builds: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "envelope.json"
    download(network, builds["red"], file)
    envelope = json.loads(file.read_text())
    payload = base64.b64decode(envelope["payload"])
    for broken in (
        {**envelope, "signatures": envelope["signatures"][:1]},
        {**envelope, "signatures": [envelope["signatures"][0]] * 2},
        {**envelope, "payload": base64.b64encode(payload + b" ").decode()},
        {},
    ):
        file.write_text(json.dumps(broken))
        ended = client(network, "verify", str(file), "--any")
        assert ended.code == 2, ended
        assert ended.output == ""
        assert "not valid" in ended.errors
    ended = client(network, "verify", str(tmp_path / "none.json"), "--any")
    assert ended.code == 2


# --- help and version ----------------------------------------------------------------------------


@pytest.mark.parametrize("program", [("./node/index.py",), ("-m", "node")])
def test_the_node_shows_the_flags_of_the_seed(program: tuple[str, ...]) -> None:
    ended = run(*program, "-h")
    assert ended.code == 0
    flags = ("--id", "--host", "--port", "--path", "--pkLoc", "--peerNodeAddrList", "--config")
    assert [flag for flag in flags if flag not in ended.output] == []


@pytest.mark.parametrize("program", [("./client/index.py",), ("-m", "client")])
def test_the_client_shows_the_flags_of_the_seed(program: tuple[str, ...]) -> None:
    ended = run(*program, "-h")
    assert ended.code == 0
    flags = ("--path", "--pkLoc", "--pbftHost", "--pbftPort", "--webHookPort", "--config")
    assert [flag for flag in flags if flag not in ended.output] == []


@pytest.mark.parametrize("program", ["./node/index.py", "./client/index.py"])
def test_the_version(program: str) -> None:
    ended = run(program, "--version")
    assert ended.code == 0
    assert ended.output.strip().endswith(f" {VERSION}")


@pytest.mark.parametrize("program", ["./node/index.py", "./client/index.py"])
def test_a_flag_that_does_not_exist(program: str) -> None:
    assert run(program, "--no-such-flag").code == 2


# --- proof -----------------------------------------------------------------------------------


def test_a_verdict_is_proved_to_a_consumer_who_has_only_the_keys(
    network: Network, builds: dict[str, str], tmp_path: Path
) -> None:
    """attest from the running network, then everything else offline, by both verifiers."""
    trust = tmp_path / "trust.json"
    ended = client(network, "trust")
    assert ended.code == 0
    trust.write_text(ended.output)
    cluster = str(network.configuration.cluster.file)
    for branch, code in (("green", 0), ("red", 1), ("nothing", 1)):
        file = tmp_path / f"{branch}.intoto.json"
        ended = client(network, "attest", builds[branch], "--output", str(file))
        assert ended.code == 0, ended
        lines = (tmp_path / f"{branch}.provenance.intoto.jsonl").read_text().splitlines()
        assert len(lines) == len(network.node_names)
        commit = of_branch(network, branch)
        ended = run("-m", "client", "verify", str(file), "--cluster", cluster, *commit)
        assert ended.code == code, ended
        alone = run("scripts/verify_build.py", str(file), "--trust", str(trust), *commit)
        assert alone.code == code, alone
        other = (*commit, "--commit", "d" * 40)
        assert run("-m", "client", "verify", str(file), "--cluster", cluster, *other).code == 2


def test_a_failure_that_is_ignored_splits_no_verdict_and_is_in_its_proof(
    network: Network, tmp_path: Path
) -> None:
    build = network.post("ignored")
    view = network.complete(build)
    assert view["verdict"]["outcome"] == "passed"
    logs = f"{network.gateway_url}/api/v1/builds/{build}/log"
    ended_with_4 = [b"exit code 4" in ask(f"{logs}/{name}").body for name in network.node_names]
    assert ended_with_4 == [True, True, False, False]
    file = tmp_path / "ignored.intoto.json"
    ended = client(network, "attest", build, "--output", str(file))
    assert ended.code == 0, ended
    asked = ("verify", str(file), *of_branch(network, "ignored"), "--step", "test")
    ended = client(network, *asked)
    assert ended.code == 0, ended
    assert "lint: may have failed\n" in ended.output
    assert "tell: skipped by when\n" in ended.output
    for name in ("lint", "tell"):
        ended = client(network, *asked, "--step", name)
        assert ended.code == 2, ended


def test_each_nodes_ledger_is_certified(network: Network, builds: dict[str, str]) -> None:
    """Two builds take more numbers than one interval; the certificate follows on its own."""
    for name in network.node_names:

        def certified(name: str = name) -> bool:
            ended = client(network, "ledger", "--verify", "--node", name)
            assert ended.code == 0, ended
            return "certified up to entry" in ended.output

        block_until(certified, f"a certificate of {name}'s ledger")


# --- a signed operation by hand ----------------------------------------------------------------


def test_a_signed_operation_is_taken_by_any_node_and_an_unsigned_one_by_none(
    network: Network,
) -> None:
    """tests/seeds/test_s4_http_interface.py: POST /pbft/request."""
    ended = client(network, "sign", '{"operation":"transfer","amount":100}')
    assert ended.code == 0, ended
    url = f"{network.configuration.nodes[0].listen.url}/pbft/request"
    answer = ask(url, ended.output.encode())
    assert answer.status == 200, answer
    started = json.loads(answer.body)
    assert started["status"] == "consensus_started"
    assert len(started["digest"]) == 64
    again = client(network, "sign", "-", text="once more")
    assert again.code == 0, again
    answer = ask(url, again.output.encode())
    assert answer.status == 200, answer
    refused = ask(url, b'{"operation":"transfer"}')
    assert refused.status == 401
    assert "python -m client sign" in json.loads(refused.body)["error"]


# --- what other programs ask -------------------------------------------------------------------


def test_prometheus_badges_and_readiness_of_a_real_network(
    network: Network, builds: dict[str, str]
) -> None:
    """Nodes and gateway tell the same story about the same builds."""
    for node in network.configuration.nodes:
        text = ask(f"{node.listen.url}/metrics").body.decode()
        assert 'pbftci_builds_total{outcome="passed"}' in text
        assert 'pbftci_phase_seconds_count{phase="executed"}' in text
        assert "pbftci_save_seconds_count" in text
        assert ask(f"{node.listen.url}/readyz").status == 200
    gateway = network.gateway_url
    text = ask(f"{gateway}/metrics").body.decode()
    assert 'pbftci_builds{status="decided"}' in text
    assert 'pbftci_http_requests_total{method="POST",route="/webHook",status="202"}' in text
    assert ask(f"{gateway}/readyz").status == 200
    for branch, word in (("green", "passing"), ("red", "failing"), ("none", "none")):
        picture = ask(f"{gateway}/badge/repository.svg?branch={branch}").body.decode()
        assert f"<title>build: {word}</title>" in picture
    described = json.loads(ask(f"{gateway}/api/v1/openapi.json").body)
    assert "/api/v1/builds/{build}" in described["paths"]
    assert builds
