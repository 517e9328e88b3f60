"""client.commands: what people type, against a gateway and nodes in memory."""

import asyncio
import io
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ci.ledger import genesis_head, next_head
from ci.ledger_proof import ledger_proof
from ci.operations import Abstain
from ci.statement import PAYLOAD_TYPE
from client.api.openapi import document
from client.commands.journal import journal_of
from client.commands.ledger import chain_break
from client.commands.logs import _Printer
from client.main import main
from client.views.build_view import WAITS_FOR_APPROVAL
from client.views.proof_view import STEPS
from pbft.authentication import Identity, sign_message
from pbft.certificates import state_digest
from pbft.codec import encode_message
from pbft.messages import Checkpoint, Signed
from pbft.ports import Entry
from tests.ci.builders import COMMIT, FAILED, PIPELINE_SHA256, World
from tests.client.cluster_file import write_cluster
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import REPOSITORY, Running, key_of, passed
from tests.client.site import Client, client_of

Answer = tuple[int, str, str]
RIGHT = ("--repository", REPOSITORY, "--commit", COMMIT)


class Terminal:
    """Runs a command as a person would; gives exit code, stdout and stderr."""

    def __init__(self, gateway: str, cluster_file: Path, capsys: pytest.CaptureFixture[str]):
        self.gateway = gateway
        self.cluster_file = cluster_file
        self._capsys = capsys

    async def type(self, *words: str) -> Answer:
        """Run `python -m client` with these words, in a thread of its own."""
        self._capsys.readouterr()
        code = await asyncio.to_thread(main, list(words))
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    async def ask(self, command: str, *words: str) -> Answer:
        """A command for the gateway."""
        return await self.type(command, "--gateway", self.gateway, *words)

    async def look(self, command: str, *words: str) -> Answer:
        """A command for the nodes."""
        return await self.type(command, "--cluster", str(self.cluster_file), *words)


@pytest.fixture
async def terminal(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Terminal]:
    client: Client = await client_of(running, tmp_path)
    assert client.server is not None
    url = str(client.server.make_url(""))
    network = running.network
    cluster_file = write_cluster(tmp_path, network.cluster, network.addresses)
    yield Terminal(url, cluster_file, capsys)
    await client.close()


async def repeat(
    command: Callable[[], Awaitable[Answer]], is_done: Callable[[Answer], bool]
) -> Answer:
    """Type a command again, a minute at most, until its answer is the one that is waited for."""
    for _ in range(600):
        answer = await command()
        if is_done(answer):
            return answer
        await asyncio.sleep(0.1)
    raise AssertionError(f"in vain: {answer}")


def finds_failed(running: Running) -> None:
    for node in running.network.nodes.values():
        node.finds = lambda build: (FAILED, b"log")


async def test_submit_and_wait_for_green(terminal: Terminal) -> None:
    code, out, _ = await terminal.ask("submit", "master", "--wait")
    assert code == 0
    assert "verdict     passed 0" in out
    build = out.split()[0]
    code, out, _ = await terminal.ask("status", build[:12])
    assert code == 0
    assert build in out


async def test_red_is_not_zero(terminal: Terminal, running: Running) -> None:
    finds_failed(running)
    code, out, _ = await terminal.ask("submit", "master", "--wait")
    assert code == 1
    assert "failed 1" in out
    build = out.split()[0]
    assert (await terminal.ask("wait", build))[0] == 1
    assert (await terminal.ask("status", build))[0] == 1
    code, out, _ = await terminal.ask("list")
    assert code == 0
    assert "failed 1" in out


async def test_waiting_has_an_end(terminal: Terminal, running: Running) -> None:
    for node in running.network.nodes.values():
        node.finds = lambda build: None
    code, out, err = await terminal.ask("submit", "master", "--wait", "--timeout", "0.5")
    assert code == 4
    assert "no verdict within 0.5 s" in err
    assert (await terminal.ask("status", out.strip()))[0] == 4


async def test_the_list_says_what_a_build_waits_for(terminal: Terminal, running: Running) -> None:
    for node in running.network.nodes.values():
        node.finds = lambda build: None
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).opened_at is not None)
    with running.database.transaction():
        running.archive.note_detail(build, "it waits for an operator")
    code, out, _ = await terminal.ask("list")
    assert code == 0
    (line,) = out.splitlines()
    assert line.startswith(f"{build.hex()[:12]}  building ")
    assert "  push  " in line
    assert line.endswith("  master  (it waits for an operator)")
    with running.database.transaction():
        running.archive.note_detail(build, WAITS_FOR_APPROVAL)
    assert (await terminal.ask("list"))[1].endswith("(waits for approval)\n")
    assert (await terminal.ask("list", "--branch", "other"))[1] == ""


async def test_what_is_printed_as_json_is_as_described(terminal: Terminal) -> None:
    """docs/COMMAND_LINE.md names these schemas of the API's description."""
    described = document("1", terminal.gateway)

    def check(text: str, schema: dict[str, Any]) -> Any:
        value = json.loads(text)
        jsonschema.validate(value, {**schema, "components": described["components"]})
        return value

    build: dict[str, Any] = {"$ref": "#/components/schemas/BuildView"}
    _, out, _ = await terminal.ask("submit", "master", "--json")
    accepted = check(out, {"$ref": "#/components/schemas/Accepted"})["build"]
    code, out, err = await terminal.ask("watch", accepted[:8], "--json")
    assert (code, check(out, build)["id"]) == (0, accepted)
    assert "passed 0" in err
    _, out, _ = await terminal.ask("status", accepted[:6], "--json")
    check(out, build)
    _, out, _ = await terminal.ask("list", "--json")
    assert check(out, {"type": "array", "items": build})[0]["id"] == accepted
    _, out, _ = await terminal.ask("artifacts", accepted, "--json")
    check(out, {"type": "object"})


async def test_watch_prints_each_line_once_where_nothing_is_redrawn(
    terminal: Terminal, running: Running
) -> None:
    _, build, _ = await terminal.ask("submit", "master")
    code, out, _ = await terminal.ask("watch", build.strip())
    assert code == 0
    progress = out[: out.index("build       ")].splitlines()
    assert len(progress) == len(set(progress))
    names = running.network.cluster.replica_names
    found = [name for name in names if f"  {name:10}found passed 0" in progress]
    assert len(found) >= running.network.cluster.quorums.strong


async def test_a_disputed_build_has_an_exit_code_of_its_own(
    terminal: Terminal, running: Running
) -> None:
    nodes = running.network.nodes
    nodes["replica-0"].finds = lambda build: (FAILED, b"log")
    nodes["replica-1"].finds = lambda build: (Abstain("trouble"), b"log")
    code, out, _ = await terminal.ask("submit", "master", "--wait")
    assert "verdict     disputed" in out
    assert code == 5


async def test_open_opens_the_page(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setattr("webbrowser._tryorder", None)
    _, build, _ = await terminal.ask("submit", "master")
    code, out, _ = await terminal.ask("open", build[:10])
    assert (code, out) == (0, f"{terminal.gateway.rstrip('/')}/builds/{build}")
    assert opened.read_text() == out


async def test_lines_of_a_log_by_step_and_pattern(terminal: Terminal, running: Running) -> None:
    log = "[pbft-ci] step a (1 of 2)\none\ntwo\n[pbft-ci] step b (2 of 2)\ntwo\n"
    for node in running.network.nodes.values():
        node.finds = lambda build: passed(log)
    _, out, _ = await terminal.ask("submit", "master", "--wait")
    build = out.split()[0]
    await until(lambda: record_of(running, bytes.fromhex(build)).collected)
    answer = await terminal.ask("log", build, "--step", "b")
    assert answer == (0, "[pbft-ci] step b (2 of 2)\ntwo\n", "")
    assert (await terminal.ask("log", build, "--grep", "^tw"))[1] == "two\ntwo\n"
    code, _, err = await terminal.ask("log", build, "--step", "c")
    assert (code, "it has: a, b" in err) == (2, True)
    assert (await terminal.ask("log", build, "--grep", "("))[0] == 2


async def test_submit_without_waiting_prints_the_id(terminal: Terminal) -> None:
    code, out, _ = await terminal.ask("submit", "master")
    assert code == 0
    assert len(out.strip()) == 64


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("submit", "a b"), 3),
        (("submit", "m", "--repository", "https://example.org/none.git"), 3),
        (("status", "nonsense"), 2),
        (("status", "abc123"), 2),
        (("status", "0" * 64), 3),
    ],
)
async def test_a_refusal_is_one_line(terminal: Terminal, words: tuple[str, ...], code: int) -> None:
    got, _, err = await terminal.ask(*words)
    assert got == code
    assert err.startswith("error: ")
    assert err.count("\n") == 1


async def test_no_gateway_is_one_line(terminal: Terminal, unused_tcp_port: int) -> None:
    code, _, err = await terminal.type("list", "--gateway", f"http://127.0.0.1:{unused_tcp_port}")
    assert code == 3
    assert "no gateway answers" in err
    assert err.count("\n") == 1


async def test_the_log_of_an_agreeing_replica(terminal: Terminal, running: Running) -> None:
    running.network.nodes["replica-0"].finds = lambda build: (Abstain("no engine"), b"")
    code, out, _ = await terminal.ask("submit", "master", "--wait")
    assert code == 0
    build = out.split()[0]
    answer = await repeat(lambda: terminal.ask("log", build), lambda answer: answer[0] == 0)
    assert answer[1] == "log"
    code, out, error = await terminal.ask("log", build, "--replica", "replica-0")
    assert (code, out, error) == (0, "", "[replica-0 wrote nothing]\n")
    code, _, error = await terminal.ask("log", build, "nobody")
    assert code == 3
    assert "no replica of that name" in error


async def test_append_and_journal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = await terminal.ask("append", "one", "two")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["1", "2"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("three\nfour\n"))
    code, out, _ = await terminal.ask("append")
    assert code == 0
    digest = out.splitlines()[-1].split()[1]
    code, out, _ = await terminal.look("journal")
    assert code == 0
    assert "onetwothreefour" in out
    answer = await repeat(
        lambda: terminal.look("journal", "--all"), lambda answer: answer[1].count(digest) == 4
    )
    assert answer[0] == 0
    assert answer[1].count("onetwothreefour") == 4
    _, out, _ = await terminal.look("journal", "--json")
    (journal,) = json.loads(out)
    node = journal.pop("node")
    assert node.startswith("replica-")
    text = "onetwothreefour"
    assert journal == {"problem": None, "length": 4, "digest": digest, "text": text}


async def test_a_node_that_is_down_is_named(terminal: Terminal, running: Running) -> None:
    await terminal.ask("append", "one")
    running.network.nodes["replica-0"].is_down = True
    code, out, _ = await terminal.look("journal", "--all")
    assert code == 3
    assert "replica-0: no ledger (replica-0: " in out
    code, out, _ = await terminal.look("journal")
    assert code == 0
    assert "one" in out
    code, _, err = await terminal.look("ledger", "--node", "replica-0")
    assert code == 3
    assert "replica-0" in err


async def test_a_node_that_still_fetches_entries_is_passed_over(
    terminal: Terminal, running: Running
) -> None:
    await terminal.ask("append", "one")
    node = running.network.nodes["replica-0"]
    node.ledger.clear()
    node.told["ledger_missing"] = 1
    reason = "replica-0: it lacks 1 ledger entry, the first is entry 1"
    for options in ([], ["--verify"]):
        code, out, _ = await terminal.look("ledger", *options)
        assert (code, "replica-1: the chain of 1 entry holds" in out) == (0, True)
        code, _, err = await terminal.look("ledger", "--node", "replica-0", *options)
        assert (code, "no node" in err, reason in err) == (3, False, True)
    code, out, _ = await terminal.look("journal", "--all")
    assert (code, f"replica-0: no ledger ({reason}" in out) == (3, True)


async def test_the_ledger_is_printed_and_verified(terminal: Terminal, running: Running) -> None:
    await terminal.ask("submit", "master", "--wait")
    await terminal.ask("append", "text\x1b[31m")
    code, out, _ = await terminal.look("ledger", "--node", "replica-0")
    assert code == 0
    assert "passed 0  master" in out
    assert "\x1b" not in out
    assert "holds" in out
    ledger = running.network.nodes["replica-0"].ledger
    ledger[0] = Entry(ledger[0].index, ledger[0].body + b" ", ledger[0].head)
    code, out, _ = await terminal.look("ledger", "--node", "replica-0", "--verify")
    assert code == 1
    assert "BROKEN: at entry 1" in out
    assert (await terminal.look("journal", "--all"))[0] == 1
    code, _, err = await terminal.look("ledger", "--node", "nobody")
    assert code == 2
    assert "replica-0" in err


async def test_a_proof_is_checked_with_ones_own_cluster_file(
    terminal: Terminal, running: Running
) -> None:
    _, out, _ = await terminal.ask("submit", "master", "--wait")
    build = out.split()[0]
    await until(lambda: record_of(running, bytes.fromhex(build)).collected)
    command = ("proof", build[:12], "--cluster", str(terminal.cluster_file))
    code, out, _ = await terminal.ask(*command)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == list(STEPS)
    assert "DOES NOT HOLD" not in out
    with running.database.transaction():
        running.database.write("UPDATE replies SET attestation = ?", (b"x" * 64,))
    code, out, _ = await terminal.ask(*command)
    assert code == 1
    assert "envelope  DOES NOT HOLD: these are too few" in out
    code, out, _ = await terminal.ask(*command, "--step", "request")
    assert code == 0
    assert out.splitlines()[0].startswith("request   holds: Request 1 of gateway")


async def test_verify_says_passed_not_passed_and_not_valid(
    terminal: Terminal, running: Running, tmp_path: Path
) -> None:
    async def envelope(branch: str) -> Path:
        _, out, _ = await terminal.ask("submit", branch, "--wait")
        build = out.split()[0]
        answers = running.gateway._answering
        await until(lambda: answers.is_envelope_complete(bytes.fromhex(build)))
        client = await client_of(running, tmp_path)
        answer = await client.get(f"/api/v1/builds/{build}/attestation")
        file = tmp_path / f"{branch}.json"
        file.write_bytes(await answer.read())
        await client.close()
        return file

    green = await envelope("green")
    code, _, err = await terminal.look("verify", str(green))
    assert (code, "add --repository URL and --commit SHA" in err) == (2, True)
    code, _, err = await terminal.look("verify", str(green), "--commit", COMMIT)
    assert (code, "add --repository URL (" in err) == (2, True)
    code, out, _ = await terminal.look("verify", str(green), "--any")
    assert code == 0
    assert "event       push\n" in out
    assert "ref         refs/heads/green\n" in out
    assert f"pipeline    {PIPELINE_SHA256}\n" in out
    assert "passed 0" in out
    finds_failed(running)
    red = await envelope("red")
    assert (await terminal.look("verify", str(red), "--any"))[0] == 1
    green.write_bytes(green.read_bytes().replace(b'"payload":"e', b'"payload":"f'))
    code, out, err = await terminal.look("verify", str(green), "--any")
    assert (code, out) == (2, "")
    assert "not valid" in err
    assert (await terminal.look("verify", str(tmp_path / "none"), "--any"))[0] == 2


async def test_verify_names_the_state_of_each_replica_in_a_dispute(
    terminal: Terminal, running: Running, tmp_path: Path
) -> None:
    *others, last = running.network.nodes.values()
    for node in others:
        node.finds = lambda build: (Abstain("no engine\x1b[31m"), b"")
    last.finds = lambda build: None
    _, out, _ = await terminal.ask("submit", "red", "--wait")
    build = out.split()[0]
    answers = running.gateway._answering
    await until(lambda: answers.is_envelope_complete(bytes.fromhex(build)))
    client = await client_of(running, tmp_path)
    async with client.get(f"/api/v1/builds/{build}/attestation") as answer:
        (tmp_path / "disputed.json").write_bytes(await answer.read())
    await client.close()
    code, out, _ = await terminal.look("verify", str(tmp_path / "disputed.json"), "--any")
    assert code == 1
    assert "disputed" in out
    for node in others:
        assert f"abstained   {node.name}: no engine" in out
    assert f"no ballot   {last.name} (until then)" in out
    assert "\x1b" not in out


async def test_attest_writes_the_envelope_and_what_each_replica_says(
    terminal: Terminal, running: Running, tmp_path: Path
) -> None:
    _, out, _ = await terminal.ask("submit", "master", "--wait")
    build = out.split()[0]
    answers = running.gateway._answering
    await until(lambda: answers.is_envelope_complete(bytes.fromhex(build)))
    nodes = running.network.nodes
    await until(
        lambda: all(len(n.ballots.get(bytes.fromhex(build), [])) == 4 for n in nodes.values())
    )
    nodes["replica-1"].signs_provenance_as = "replica-2"
    nodes["replica-3"].is_down = True
    file = tmp_path / "proof.intoto.json"
    command = ("attest", build[:12], "--output", str(file), "--cluster")
    code, out, err = await terminal.ask(*command, str(terminal.cluster_file))
    assert code == 0, err
    assert (await terminal.look("verify", str(file), *RIGHT))[0] == 0
    lines = (tmp_path / "proof.provenance.intoto.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["payloadType"] for line in lines] == [PAYLOAD_TYPE] * 2
    assert "replica-1: not signed by replica-1" in err
    assert "replica-3" in err
    assert (await terminal.ask(*command, str(tmp_path / "none")))[0] == 2


async def test_a_supplement_names_who_contradicted_later_whatever_a_liar_says(
    terminal: Terminal, running: Running, tmp_path: Path
) -> None:
    nodes = running.network.nodes
    is_let = False
    nodes["replica-3"].finds = lambda build: (FAILED, b"log") if is_let else None
    _, out, _ = await terminal.ask("submit", "master", "--wait")
    build = out.split()[0]
    answers = running.gateway._answering
    await until(lambda: answers.is_envelope_complete(bytes.fromhex(build)))
    files = [tmp_path / f"{name}.json" for name in ("proof", "early", "final", "none")]
    proof, early, final, none = map(str, files)
    flags = ("--output", proof, "--cluster", str(terminal.cluster_file), "--supplement")
    code, out, err = await terminal.ask("attest", build, *flags, early)
    assert (code, "not final" in out) == (0, True), err
    is_let = True
    await until(lambda: all(len(n.ledger) == 2 for n in nodes.values()))
    nodes["replica-0"].hides_late_ballots = True
    nodes["replica-3"].is_down = True
    nodes["replica-1"].told = {"ledger_index": 1000}
    code, out, err = await terminal.ask("attest", build, *flags, final)
    assert (code, "final       no further ballot is taken" in out) == (0, True), err
    assert f"{final}: signed by replica-1, replica-2" in out
    for file, later in ((early, "not final"), (final, "replica-3 contradicts: failed 1")):
        code, out, _ = await terminal.look("verify", proof, *RIGHT, "--supplement", file)
        assert (code, later in out) == (0, True)
        strict = (*RIGHT, "--supplement", file, "--no-contradiction")
        assert (await terminal.look("verify", proof, *strict))[0] == 1
    code, _, err = await terminal.look("verify", proof, *RIGHT, "--no-contradiction")
    assert (code, "add --supplement FILE" in err) == (2, True)
    nodes["replica-2"].is_down = True
    code, _, err = await terminal.ask("attest", build, *flags, none)
    assert code == 3
    assert "1 replica signed one text, 2 are needed" in err
    assert [file.name for file in files if file.exists()] == [
        "proof.json",
        "early.json",
        "final.json",
    ]


async def test_verify_refuses_another_subject(
    terminal: Terminal, running: Running, tmp_path: Path
) -> None:
    _, out, _ = await terminal.ask("submit", "master", "--wait")
    build = out.split()[0]
    answers = running.gateway._answering
    await until(lambda: answers.is_envelope_complete(bytes.fromhex(build)))
    file = tmp_path / "proof.intoto.json"
    flags = ("--output", str(file), "--cluster", str(terminal.cluster_file))
    assert (await terminal.ask("attest", build, *flags))[0] == 0
    right: tuple[str, ...] = (*RIGHT, "--ref", "refs/heads/master", "--event", "push")
    right += ("--pipeline-sha256", PIPELINE_SHA256.upper())
    assert (await terminal.look("verify", str(file), *right))[0] == 0
    for wrong in (
        ("--commit", "d" * 40),
        ("--repository", "https://example.org/other"),
        ("--ref", "refs/heads/main"),
        ("--ref", "master"),
        ("--event", "tag"),
        ("--pipeline-sha256", "d" * 64),
        ("--step", "release"),
    ):
        code, _, err = await terminal.look("verify", str(file), *right, *wrong)
        assert (code, wrong[1] in err) == (2, True)
    code, _, err = await terminal.look("verify", str(file), "--any", "--commit", "abc")
    assert (code, "--commit" in err) == (2, True)
    code, _, err = await terminal.look("verify", str(file), "--any", "--threshold", "1")
    assert (code, "--threshold" in err) == (2, True)


async def test_the_ledger_is_checked_against_a_certificate(
    terminal: Terminal, running: Running
) -> None:
    await terminal.ask("submit", "master", "--wait")
    code, out, _ = await terminal.look("ledger", "--verify")
    assert (code, "not certified" in out) == (0, True)
    network = running.network
    node = network.nodes["replica-0"]
    parts = {"epoch": bytes(8), **node.application.parts()}
    index = node.application.ledger_index
    certify(running, parts)
    code, out, _ = await terminal.look("ledger", "--verify", "--node", "replica-0")
    assert (code, f"certified up to entry {index} by replica-0, replica-1" in out) == (0, True)
    false_chain = genesis_head(network.cluster.id)
    bodies = [entry.body + b" " for entry in node.ledger]
    node.ledger.clear()
    for position, body in enumerate(bodies, 1):
        false_chain = next_head(false_chain, position, body)
        node.ledger.append(Entry(position, body, false_chain))
    code, out, _ = await terminal.look("ledger", "--verify", "--node", "replica-0")
    assert (code, "FALSE" in out) == (1, True)
    certify(running, parts, signers=2)
    code, out, _ = await terminal.look("ledger", "--verify", "--node", "replica-0")
    assert (code, "proves nothing" in out) == (1, True)


def certify(running: Running, parts: dict[str, bytes], signers: int = 3) -> None:
    """Let replica-0 serve a certificate over a state of these parts."""
    digest = state_digest(parts)
    signed = tuple(checkpoint(running, f"replica-{i}", 128, digest) for i in range(signers))
    running.network.nodes["replica-0"].ledger_proof = ledger_proof(128, signed, parts)


def checkpoint(running: Running, name: str, sequence: int, digest: bytes) -> Signed:
    cluster = running.network.cluster
    message = Checkpoint(sequence, digest, cluster.replica_names.index(name))
    return sign_message(
        message, encode_message(message), Identity(cluster, name, key_of(name).sign)
    )


def contradictions(running: Running, name: str, count: int) -> list[tuple[Signed, Signed]]:
    return [
        (checkpoint(running, name, n, bytes(32)), checkpoint(running, name, n, b"x" * 32))
        for n in range(1, count + 1)
    ]


async def test_evidence_is_fetched_from_all_and_checked(
    terminal: Terminal, running: Running
) -> None:
    code, out, _ = await terminal.look("evidence")
    assert (code, out) == (0, "no evidence of misbehaviour\n")
    nodes = running.network.nodes
    nodes["replica-0"].evidence = contradictions(running, "replica-3", 5)
    nodes["replica-1"].evidence = contradictions(running, "replica-3", 3)
    nodes["replica-2"].is_down = True
    code, out, err = await terminal.look("evidence")
    assert code == 0
    assert out.count("holds") == out.count("replica-3 signed two different Checkpoint") == 5
    assert "replica-2" in err
    code, out, _ = await terminal.look("evidence", "--node", "replica-1")
    assert (code, out.count("holds")) == (0, 3)
    assert (await terminal.look("evidence", "--node", "replica-2"))[0] == 3
    assert (await terminal.look("evidence", "--node", "nobody"))[0] == 2


async def test_evidence_is_verified_offline_with_the_genesis_alone(
    terminal: Terminal, running: Running, tmp_path: Path
) -> None:
    node = running.network.nodes["replica-0"]
    node.evidence = contradictions(running, "replica-3", 2)
    code, out, _ = await terminal.look("evidence", "--json")
    assert code == 0
    file = tmp_path / "evidence.json"
    file.write_text(out)
    for other in running.network.nodes.values():
        other.is_down = True
    code, out, err = await terminal.look("evidence", "--verify", str(file))
    assert (code, out.count("holds"), err) == (0, 2, "")


async def test_what_proves_nothing_is_said_to_prove_nothing(
    terminal: Terminal, running: Running, tmp_path: Path
) -> None:
    """Whatever a node writes beside it: only the two signatures count."""
    (first, second), (other, _) = contradictions(running, "replica-3", 2)
    forged = Signed("replica-3", second.payload, bytes(64))
    node = running.network.nodes["replica-0"]
    innocent = checkpoint(running, "replica-2", 1, b"y" * 32)
    node.evidence = [(first, forged), (first, first), (first, other), (first, innocent)]
    code, out, _ = await terminal.look("evidence")
    assert code == 1
    assert out.count("proves nothing") == 4
    assert "whatever" not in out


@pytest.mark.parametrize("text", ["", "[]", '{"cluster": "00", "evidence": [{}]}', "{" * 10_000])
async def test_evidence_that_cannot_be_read(terminal: Terminal, tmp_path: Path, text: str) -> None:
    file = tmp_path / "evidence.json"
    file.write_text(text)
    code, out, err = await terminal.look("evidence", "--verify", str(file))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert (await terminal.look("evidence", "--verify", str(tmp_path / "none")))[0] == 2


async def test_evidence_of_another_cluster_is_named_as_such(
    terminal: Terminal, tmp_path: Path
) -> None:
    file = tmp_path / "evidence.json"
    pair = {"number": 1, "replica": "r", "proves": "x", "first": "AAAA", "second": "AAAA"}
    file.write_text(json.dumps({"cluster": "ab" * 32, "evidence": [pair]}))
    code, out, err = await terminal.look("evidence", "--verify", str(file))
    assert code == 1
    assert "not two signed messages" in out
    assert "abababababab" in err


def test_an_empty_ledger_is_whole() -> None:
    cluster = World().cluster
    assert chain_break([], cluster) is None
    assert journal_of([]) == ("", 0, "-")
    broken = [Entry(1, b"{}", genesis_head(cluster.id))]
    assert "at entry 1" in (chain_break(broken, cluster) or "")
    assert journal_of(broken) == ("", 0, "-")


async def test_a_log_is_followed_to_its_end(terminal: Terminal, running: Running) -> None:
    node = running.network.nodes["replica-1"]
    is_done = False
    for other in running.network.nodes.values():
        other.finds = lambda build: passed("one two") if is_done else None
    build = await running.gateway.submit(REPOSITORY, "master", None)
    node.growing.add(build)
    node.logs[build] = b"one "
    await until(lambda: build in node.application.open_builds())
    following = asyncio.create_task(
        terminal.ask("log", build.hex(), "--replica", "replica-1", "--follow")
    )
    await until(lambda: node.served.count(f"/builds/{build.hex()}/log") >= 2)
    node.logs[build] += b"two"
    node.growing.discard(build)
    is_done = True
    assert await asyncio.wait_for(following, 60) == (0, "one two", "")


async def test_a_log_of_an_open_build_is_printed_as_far_as_it_is(
    terminal: Terminal, running: Running
) -> None:
    node = running.network.nodes["replica-2"]
    for other in running.network.nodes.values():
        other.finds = lambda build: None
    build = await running.gateway.submit(REPOSITORY, "master", None)
    node.growing.add(build)
    node.logs[build] = b"so far"
    await until(lambda: build in node.application.open_builds())
    assert await terminal.ask("log", build.hex()) == (0, "so far", "")


async def test_on_a_terminal_a_log_keeps_its_colours_and_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    hostile = b"\x1b[31mred\x1b[0m \x1b]0;title\x07\x1b[2J\xe2\x80\xaeend"
    printer = _Printer()
    for byte in hostile:
        printer.print(bytes([byte]))
    printer.close()
    text = capsys.readouterr().out
    assert re.sub(r"\x1b\[[0-9;]*m", "", text) == "red <U+202E>end"
    assert "\x1b[31mr" in text
    monkeypatch.setenv("NO_COLOR", "1")
    printer = _Printer()
    printer.print(hostile)
    printer.close()
    assert capsys.readouterr().out == "red <U+202E>end"
