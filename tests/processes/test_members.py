"""Members and keys change on real nodes, and nothing is lost: the nodes go over by themselves."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.ledger import MembersEntry, SupersededEntry, VerdictEntry, decode_entry
from ci.statement import parse_statement
from common.configuration.keys import generate_key_files
from tests.processes.build_gate import BuildGate
from tests.processes.conftest import NetworkMaker
from tests.processes.network import CLIENT, VERDICT_SECONDS, Network, pipeline
from tests.processes.programs import Ended, client, run
from tests.processes.test_limit_changes import operated_by

pytestmark = pytest.mark.processes

NODES = ("node0", "node1", "node2", "node3")


def cluster_file(network: Network) -> Path:
    return network.config_file(CLIENT).with_name("cluster.yml")


def members(network: Network, folder: Path, name: str, *words: str) -> Ended:
    """What an operator types."""
    key = str(folder / f"{name}.private.pem")
    return client(network, "members", *words, "--yes", "--operator-key", key)


def node(network: Network, name: str, command: str, *words: str) -> Ended:
    """A command of that node's program."""
    return run("-m", "node", "--config", str(network.config_file(name)), command, *words)


def next_file(network: Network, folder: Path) -> Path:
    """The cluster file with another key for node3, beside the present one."""
    file = cluster_file(network)
    settings: dict[str, Any] = yaml.safe_load(file.read_text())
    public = folder / "new-node3.public.pem"
    generate_key_files(folder / "new-node3.private.pem", public)
    settings["replicas"][3].pop("public_key", None)
    settings["replicas"][3]["public_key_file"] = str(public)
    following = file.with_name("next.yml")
    following.write_text(yaml.safe_dump(settings, sort_keys=False))
    return following


def verified(trust: Path, envelope: Path, *flags: str) -> Ended:
    """What a deploy pipeline runs."""
    return run("scripts/verify_build.py", str(envelope), "--trust", str(trust), "--any", *flags)


def use_new_key(settings: dict[str, Any], folder: Path) -> None:
    settings["next_private_key_file"] = str(folder / "new-node3.private.pem")


def data_folder(network: Network, name: str) -> Path:
    file = network.config_file(name)
    return file.parent / str(yaml.safe_load(file.read_text())["data_directory"])


def gateway_epoch(network: Network) -> int:
    return int(network.node(CLIENT, "/api/v1/network").json()["epoch"])


def test_a_key_is_replaced_and_nothing_is_lost(make_network: NetworkMaker, tmp_path: Path) -> None:
    gate = BuildGate(tmp_path, None)
    network = make_network(
        {
            "main": pipeline("true"),
            "waiting": pipeline(gate.wait, timeout_seconds=100),
        },
        overrides={
            "cluster": {
                **operated_by(tmp_path),
                "checkpoint_interval": 8,
                "window": 16,
                "tls": "required",
            }
        },
    )
    network.rewrite("node3", lambda settings: use_new_key(settings, tmp_path))
    network.start()
    before = network.post("main")
    assert network.verdict(before)["verdict"]["outcome"] == "passed"
    envelope = tmp_path / "before.json"
    saved = client(network, "attest", before, "--output", str(envelope))
    assert saved.code == 0, saved
    trust = tmp_path / "trust.json"
    trust.write_text(client(network, "trust").output)
    waiting = network.post("waiting")
    network.wait_until(
        lambda: all(
            network.node(name, f"/builds/{waiting}").json().get("state") == "building"
            for name in NODES
        ),
        "the build runs on all",
        VERDICT_SECONDS,
    )

    following = next_file(network, tmp_path)
    refused = members(network, tmp_path, "anna", "propose", str(following), "--ready", "nothing")
    assert refused.code == 2, refused
    readies = []
    for name in NODES:
        ready = tmp_path / f"{name}.ready.yml"
        key = ["--key", str(tmp_path / "new-node3.private.pem")] if name == "node3" else []
        said = node(network, name, "ready", str(following), "--output", str(ready), *key)
        assert said.code == 0, said
        readies.append(str(ready))
    words = ("propose", str(following), "--ready")
    old = members(network, tmp_path, "anna", *words, *readies[:3])
    assert "a replica with a new key is not ready" in old.errors, old
    proposed = members(network, tmp_path, "anna", *words, *readies)
    assert proposed.code == 0, proposed
    assert "has another key  node3" in proposed.output, proposed
    pending = client(network, "members", "pending")
    assert "members proposed by anna" in pending.output, pending
    approved = members(network, tmp_path, "boris", "approve", str(following))
    assert "approved for 2 of the 3 replicas needed" in approved.output, approved
    made = members(network, tmp_path, "carla", "approve", str(following))
    assert "the change is made" in made.output, made

    network.wait_until(
        lambda: all(network.node(n, "/pbft/members").json()["is_sealed"] for n in NODES),
        "all have sealed the epoch",
        VERDICT_SECONDS,
    )
    network.wait_until(
        lambda: network.status("node0")["status"] == "ended", "the status says so", 30
    )
    running = node(network, "node0", "succeed", str(following))
    assert "in use by another process" in running.errors, running
    # without the file the nodes stay and say so; with it they go over, in the same processes
    network.wait_until(
        lambda: "cluster.next.yml" in str(network.status("node0")["next_epoch"]), "it says so", 30
    )
    # the epoch orders nothing more, and webhooks are taken
    late = network.post("main")
    following.rename(following.with_name("cluster.next.yml"))
    network.wait_until(
        lambda: all(network.status(name)["epoch"] == 1 for name in NODES), "the next epoch", 60
    )
    # so does the gateway, which dials the names of epoch 0 until it has the link
    network.wait_until(lambda: gateway_epoch(network) == 1, "the gateway is in epoch 1", 60)
    first = cluster_file(network)
    present = network.data_directory(CLIENT) / "epoch-1" / "cluster.yml"

    gate.open(network, waiting)
    view = network.complete(waiting)
    assert view["verdict"]["outcome"] == "passed"
    assert network.verdict(late)["verdict"]["outcome"] == "passed"
    after = network.post("main")
    assert network.verdict(after)["verdict"]["outcome"] == "passed"
    entries = [decode_entry(entry.body) for entry in network.settle()]
    (change,) = [entry for entry in entries if isinstance(entry, MembersEntry)]
    assert [approval.operator for approval in change.approvals] == ["anna", "boris", "carla"]
    superseded = [entry.build for entry in entries if isinstance(entry, SupersededEntry)]
    assert superseded == [waiting]
    verdicts = [
        parse_statement(bytes(entry.statement)).verdict
        for entry in entries
        if isinstance(entry, VerdictEntry)
    ]
    epochs = {verdict.build: verdict.epoch for verdict in verdicts}
    assert epochs == {before: 0, waiting: 1, late: 1, after: 1}
    assert len(verdicts) == 4
    checked = client(network, "ledger", "--verify")
    assert checked.code == 0, checked
    # what the members of epoch 0 signed still holds, for who has their cluster file
    old_holds = run("-m", "client", "verify", "--any", str(envelope), "--cluster", str(first))
    assert old_holds.code == 0, old_holds
    newer = tmp_path / "after.json"
    assert client(network, "attest", after, "--output", str(newer)).code == 0
    too_new = run("-m", "client", "verify", "--any", str(newer), "--cluster", str(first))
    assert too_new.code != 0
    now = str(present)
    holds = run("-m", "client", "verify", "--any", str(newer), "--cluster", now)
    assert holds.code == 0, holds
    assert json.loads(newer.read_text())["payload"]
    # a verifier that has the first cluster file alone gets the keys of now by a member's link
    link = data_folder(network, "node0") / "epoch-1" / "epoch-link"
    followed = run("-m", "client", "trust", "--cluster", str(first), "--follow", str(link))
    assert followed.code == 0, followed
    assert json.loads(followed.output) == json.loads(client(network, "trust").output)
    twice = run("-m", "client", "trust", "--cluster", now, "--follow", str(link))
    assert twice.code == 2
    assert "it does not lead on from epoch 1" in twice.errors
    # a verifier with a trust file of epoch 0 follows the links, and then asks nobody
    assert verified(trust, envelope).code == 0
    assert verified(trust, newer).code == 2
    root = json.loads(trust.read_text())["cluster"]
    renewed = client(network, "trust", "--refresh", str(trust))
    assert renewed.code == 0, renewed
    assert f"was  epoch 0  {root}" in renewed.output
    assert f"is   epoch 1  {network.status('node0')['cluster']}" in renewed.output
    for name in (*NODES, CLIENT):
        network.stop(name)
    for file in (envelope, newer):
        checked = verified(trust, file, "--trust-root", root)
        assert checked.code == 0, checked
    again = trust.read_bytes()
    unanswered = client(network, "trust", "--refresh", str(trust))
    assert unanswered.code == 3, unanswered
    assert trust.read_bytes() == again


def change_operator_key(network: Network, folder: Path, present: Path) -> None:
    """The first three operators decide that dora has another key. present: the cluster file."""
    following = cluster_file(network).with_name("cluster.next.yml")
    settings: dict[str, Any] = yaml.safe_load(present.read_text())
    settings.pop("ancestry", None)
    public = folder / f"{present.parent.name}-dora.public.pem"
    generate_key_files(public.with_name("of-dora.private.pem"), public)
    public.with_name("of-dora.private.pem").unlink()
    settings["clients"][-1].pop("public_key", None)
    settings["clients"][-1]["public_key_file"] = str(public)
    following.write_text(yaml.safe_dump(settings, sort_keys=False))
    readies = []
    for name in NODES[:3]:
        ready = folder / f"{present.parent.name}-{name}.ready.yml"
        assert node(network, name, "ready", str(following), "--output", str(ready)).code == 0
        readies.append(str(ready))
    proposed = members(network, folder, "anna", "propose", str(following), "--ready", *readies)
    assert proposed.code == 0, proposed
    for name in ("boris", "carla"):
        approved = members(network, folder, name, "approve", str(following))
        assert approved.code == 0, approved


def wait_for_epoch(network: Network, epoch: int) -> None:
    """Of the three nodes that run, and the gateway."""
    network.wait_until(
        lambda: all(network.status(name)["epoch"] == epoch for name in NODES[:3]),
        f"epoch {epoch}",
        120,
    )
    network.wait_until(lambda: gateway_epoch(network) == epoch, "the gateway is in it, too", 60)


def test_who_was_killed_or_away_comes_to_the_next_epoch(
    make_network: NetworkMaker, tmp_path: Path
) -> None:
    """node1 and the gateway get kill -9 while they go over. node3 is away for two whole changes,
    and lacks the end of its epoch when nobody in that one can give it any more."""
    rules = {"checkpoint_interval": 8, "window": 16, "tls": "required"}
    network = make_network(
        {"main": pipeline("true")}, overrides={"cluster": {**operated_by(tmp_path), **rules}}
    )
    network.start()
    before = network.post("main")
    network.complete(before)
    network.settle()
    network.kill("node3")

    change_operator_key(network, tmp_path, cluster_file(network))
    for name in ("node1", CLIENT):
        folder = network.data_directory(name)
        ends_at = time.monotonic() + VERDICT_SECONDS
        while not list(folder.glob("epoch-1*")) and time.monotonic() < ends_at:
            time.sleep(0.001)
        assert list(folder.glob("epoch-1*")), f"{name} goes over"
        network.kill(name)
    network.start("node1", CLIENT)
    wait_for_epoch(network, 1)
    between = network.post("main")
    assert network.verdict(between)["verdict"]["outcome"] == "passed"
    present = network.data_directory("node0") / "epoch-1" / "cluster.yml"
    change_operator_key(network, tmp_path, present)
    wait_for_epoch(network, 2)

    network.start("node3")
    network.wait_until(lambda: network.status("node3")["epoch"] == 2, "node3 follows", 60)
    after = network.complete(network.post("main"))
    assert {ballot["replica"] for ballot in after["ballots"]} == set(NODES)
    # the ledgers of all are equal, from the first entry on
    entries = [decode_entry(entry.body) for entry in network.settle()]
    builds = [entry.build for entry in entries if isinstance(entry, VerdictEntry)]
    assert builds == [before, between, after["id"]]
    # it goes on there after a crash, and gives others the links that it followed
    network.kill("node3")
    network.start("node3")
    assert network.status("node3")["epoch"] == 2
    assert [network.node("node3", f"/pbft/links?after={n}").status for n in (0, 1)] == [200, 200]
    # its disk dies: it recovers on the way, and in the epoch that it spoke in
    network.kill("node3")
    shutil.rmtree(network.data_directory("node3"))
    network.data_directory("node3").mkdir()
    (network.data_directory("node3") / "recovery-begun").touch()
    network.start("node3")
    network.wait_until(lambda: network.status("node3")["epoch"] == 2, "node3 follows", 60)
    log = network.log_file("node3").read_text()
    assert "recovering: it votes on nothing" in log[log.rindex("goes over to epoch 2") :]
    last = network.complete(network.post("main"))
    assert {ballot["replica"] for ballot in last["ballots"]} == set(NODES)
    assert len(network.settle()) > len(entries)
