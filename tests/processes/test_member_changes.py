"""Members change twice while builds go on: from four nodes to seven, and to four others.

Nodes are killed -9 from the decision until they have gone over, the first one in each way that it
may: before it has the end, and while it makes the next epoch's folder. node3 is away for the whole
first change. In the seven, node6 signs two things for one place; of the last four, node5 lies about
what it built. Webhooks come all the time. The first change raises the protocol.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.statement import parse_statement
from common.address import Address
from common.configuration.keys import generate_key_files
from pbft.genesis import PROTOCOL_MAX
from scripts.base_image import EXAMPLE_IMAGE
from scripts.free_ports import HOST, free_ports
from tests.processes.nemesis import Pace, Posted, Poster, branches, problems
from tests.processes.network import CLIENT, VERDICT_SECONDS, Network, verdict_entries
from tests.processes.programs import client
from tests.processes.test_limit_changes import operated_by
from tests.processes.test_members import cluster_file, members, node, verified

pytestmark = [pytest.mark.processes, pytest.mark.long]

OLD = ("node0", "node1", "node2", "node3")
NEW = ("node4", "node5", "node6")
LAST = ("node0", "node3", "node4", "node5")
NEW_OPERATORS = {"emil": "node4", "frida": "node5", "gustav": "node6"}
# A build on seven nodes costs half a second of CPU.
PACE = Pace(post_seconds_max=6.0)
CHANGE_SECONDS = 180.0


def add_node(network: Network, name: str) -> None:
    """Write the configuration and the key of one more node, which is no member yet."""
    (port,) = free_ports(1)
    key = network.key_file(name)
    generate_key_files(key, key.with_name(f"{name}.public.pem"))
    settings = yaml.safe_load(network.config_file("node0").read_text())
    settings |= {
        "name": name,
        "listen": f"{HOST}:{port}",
        "private_key_file": str(key),
        "data_directory": str(network.data_directory(name)),
        "log_file": str(network.log_file(name)),
    }
    network.config_file(name).write_text(yaml.safe_dump(settings, sort_keys=False))
    network.add(name, Address(HOST, port))


def next_settings(network: Network, folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The cluster file of now with these replicas, an operator each, and the newest protocol."""
    settings: dict[str, Any] = yaml.safe_load(cluster_file(network).read_text())
    settings.pop("ancestry", None)
    settings["protocol"] = PROTOCOL_MAX
    known = {replica["name"]: replica for replica in settings["replicas"]}
    for name in names:
        if name not in known:
            public = network.key_file(name).with_name(f"{name}.public.pem")
            known[name] = {
                "name": name,
                "address": network.url(name).removeprefix("http://"),
                "public_key_file": str(public),
            }
    settings["replicas"] = [known[name] for name in names]
    standing = {name for c in settings["clients"] for name in c.get("operates", ())}
    settings["clients"] = [
        c for c in settings["clients"] if set(c.get("operates", ())) <= set(names)
    ]
    for operator, name in NEW_OPERATORS.items():
        if name in names and name not in standing:
            public = folder / f"{operator}.public.pem"
            generate_key_files(folder / f"{operator}.private.pem", public)
            settings["clients"].append(
                {
                    "name": operator,
                    "public_key_file": str(public),
                    "roles": ["operator"],
                    "operates": [name],
                }
            )
    return settings


def decide(
    network: Network,
    folder: Path,
    names: Sequence[str],
    *,
    ready: Sequence[str],
    say: Sequence[str],
) -> None:
    """Operators decide that these are the next replicas. ready: which say so. say: who approves."""
    following = cluster_file(network).with_name("cluster.next.yml")
    settings = next_settings(network, folder, names)
    following.write_text(yaml.safe_dump(settings, sort_keys=False))
    readies = []
    for name in ready:
        file = folder / f"{name}.ready.yml"
        file.unlink(missing_ok=True)
        said = node(network, name, "ready", str(following), "--output", str(file))
        assert said.code == 0, said
        readies.append(str(file))
    first, *others = say
    proposed = members(network, folder, first, "propose", str(following), "--ready", *readies)
    assert proposed.code == 0, proposed
    for name in others:
        approved = members(network, folder, name, "approve", str(following))
        assert approved.code == 0, approved
    assert "the change is made" in approved.output, approved


def misbehaves(network: Network, name: str, kind: str) -> None:
    """From its next start on."""
    network.rewrite(name, lambda settings: settings.update(fault_injection=kind))


def kill_around_the_end(network: Network, name: str, epoch: int) -> None:
    """kill -9 on the way to the end, and once the next epoch's folder is being made."""
    network.kill(name)
    network.start(name)
    folder = network.data_directory(name)
    ends_at = time.monotonic() + CHANGE_SECONDS
    while not list(folder.glob(f"epoch-{epoch}*")) and time.monotonic() < ends_at:
        time.sleep(0.001)
    assert list(folder.glob(f"epoch-{epoch}*")), f"{name} goes over"
    network.kill(name)
    network.start(name)


def begin_everywhere(network: Network, names: Sequence[str], epoch: int) -> None:
    network.wait_until(
        lambda: all(network.status(name)["epoch"] == epoch for name in names),
        f"epoch {epoch} on {', '.join(names)}",
        CHANGE_SECONDS,
    )


def replace_cluster_file(network: Network, begun: Path) -> None:
    """While nodes read it."""
    file = cluster_file(network)
    written = file.with_name("written.yml")
    written.write_text((begun / "cluster.yml").read_text())
    written.replace(file)


def use(network: Network, begun: Path) -> None:
    """Everybody's cluster file is the new one, and the gateway begins again with it."""
    network.stop(CLIENT)
    replace_cluster_file(network, begun)
    network.start(CLIENT)


def attested(network: Network, folder: Path, posted: Posted, epoch: int) -> Path:
    """The envelope of a build of this epoch."""
    build = network.post("green")
    posted.builds[build] = "green"
    assert network.verdict(build)["verdict"]["outcome"] == "passed"
    envelope = folder / f"epoch{epoch}.json"
    said = client(network, "attest", build, "--output", str(envelope))
    assert said.code == 0, said
    return envelope


def say_line(line: str) -> None:
    """pytest shows it where the test fails."""
    sys.stdout.write(f"{line}\n")


@pytest.mark.timeout(1500)
def test_members_change_from_four_to_seven_to_four_and_nothing_is_lost(tmp_path: Path) -> None:
    intervals = {"checkpoint_interval": 8, "window": 16}
    network = Network(
        tmp_path / "network0",
        branches(EXAMPLE_IMAGE),
        overrides={"cluster": {**operated_by(tmp_path), **intervals}},
    )
    with network:
        network.start()
        trust = tmp_path / "trust.json"
        trust.write_text(client(network, "trust").output)
        root = json.loads(trust.read_text())["cluster"]
        with Poster(network, 1, PACE) as posted:
            envelopes = change_twice(network, tmp_path, posted)
        check(network, posted, epochs=3)
        checked = client(network, "ledger", "--verify")
        assert checked.code == 0, checked
        renewed = client(network, "trust", "--refresh", str(trust))
        assert renewed.code == 0, renewed
        assert f"was  epoch 0  {root}" in renewed.output
    # everybody is gone
    for envelope in envelopes:
        holds = verified(trust, envelope, "--trust-root", root)
        assert holds.code == 0, holds


def change_twice(network: Network, folder: Path, posted: Posted) -> list[Path]:
    """An envelope of each epoch."""
    envelopes = [attested(network, folder, posted, 0)]
    network.kill("node3")
    for name in NEW:
        add_node(network, name)
    misbehaves(network, "node6", "equivocating")
    staying = OLD[:3]
    decide(
        network,
        folder,
        (*OLD, *NEW),
        ready=(*staying, *NEW),
        say=("anna", "boris", "carla"),
    )
    kill_around_the_end(network, "node1", 1)
    begun = network.data_directory("node0") / "epoch-1"
    network.wait_until((begun / "begin-state").exists, "the next epoch", CHANGE_SECONDS)
    # it has the store and the cluster file of epoch 0
    network.start("node3")
    begin_everywhere(network, ("node3",), 1)
    replace_cluster_file(network, begun)
    for name in NEW:
        network.start(name)
    begin_everywhere(network, (*OLD, *NEW), 1)
    use(network, begun)
    envelopes.append(attested(network, folder, posted, 1))

    decide(
        network,
        folder,
        LAST,
        ready=LAST,
        say=("anna", "dora", "emil", "frida", "boris"),
    )
    kill_around_the_end(network, "node4", 2)
    begin_everywhere(network, LAST, 2)
    for name in ("node1", "node2", "node6"):
        assert network.status(name)["status"] == "ended"
        network.stop(name)
        network.remove(name)
    network.stop("node5")
    misbehaves(network, "node5", "lying")
    network.start("node5")
    use(network, network.data_directory("node0") / "epoch-2")
    return [*envelopes, attested(network, folder, posted, 2)]


def check(network: Network, posted: Posted, epochs: int) -> None:
    """Each accepted webhook has one right verdict, over all epochs."""
    assert problems(network, posted, say_line, reads_captures=False) == []
    verdicts = [
        parse_statement(bytes(entry.statement)).verdict
        for entry in verdict_entries(network.settle(seconds=VERDICT_SECONDS))
    ]
    assert {verdict.epoch for verdict in verdicts} == set(range(epochs))
    assert network.status("node5")["fault_injection"] == "lying"
