"""A network whose members speak TLS with each other: real programs, and whom they refuse."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator

import pytest

from ci.limits import Limits, encode_limits
from client.network.nodes import NodeFailed, Nodes
from common.configuration.keys import SigningKey, generate_key_files, load_signing_key
from common.links.link import LINK_PATH
from common.tls.certificates import LIFETIME, PinnedKeys
from common.tls.member_tls import MemberTls
from common.web.peers import Peers
from tests.processes.network import Network, NoAnswer, ask, pipeline
from tests.processes.programs import client, run
from tests.waiting import block_until

pytestmark = pytest.mark.processes

SECONDS = 60.0


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    branches = {"green": pipeline("echo a green line"), "held": pipeline("sleep 100")}
    overrides = {"cluster": {"tls": "required", "checkpoint_interval": 4, "window": 16}}
    folder = tmp_path_factory.mktemp("tls")
    with Network(folder, branches, overrides=overrides) as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def build(network: Network) -> str:
    """One that is decided, with all ballots and logs at the gateway."""
    build = network.complete(network.post("green"))
    assert build["verdict"]["outcome"] == "passed"
    return str(build["id"])


def replicas_of(
    network: Network, key: SigningKey, *, cluster_id: bytes | None = None, age: float = 0.0
) -> Peers:
    """The nodes for somebody who calls itself node1 with that key, and whose clock is behind."""
    config = network.configuration.cluster
    cluster = config.cluster(encode_limits(config.limits_as(Limits)))
    keys = {member.name: member.public_key for member in cluster.genesis.replicas}
    pinned = PinnedKeys(cluster_id or cluster.id, keys)
    clock = time.time
    tls = MemberTls(pinned, "node1", key, clock=lambda: clock() - age, randomness=os.urandom)
    return Peers({entry.name: entry.address for entry in config.replicas}, tls)


def test_all_members_are_linked(network: Network) -> None:
    def are_linked() -> bool:
        states = [network.status(name) for name in network.node_names]
        return all(peer["connected"] for state in states for peer in state["peers"].values())

    network.wait_until(are_linked, "links between all nodes", SECONDS)


def test_an_operator_works_over_tls(network: Network, build: str) -> None:
    """Logs and ballots come to the gateway so, and its owner's commands ask with its key."""
    log = client(network, "log", build, "node2")
    assert "a green line\n" in log.output
    envelope = network.folder / "envelope.json"
    attested = client(network, "attest", build, "--output", str(envelope))
    assert attested.code == 0, attested
    assert "no provenance" not in attested.errors
    assert client(network, "verify", str(envelope), "--any").code == 0
    for command in (("ledger",), ("journal", "--all"), ("evidence",), ("sign", "text")):
        ended = client(network, *command)
        assert ended.code == 0, ended
    key = ("--member-key", str(network.key_file("operator")))
    assert client(network, "ledger", "--node", "node3", *key).code == 0


def test_check_proves_all_nodes_keys(network: Network) -> None:
    checked = client(network, "check")
    for name in network.node_names:
        place = network.configuration.cluster.replica_entry(name, network.folder).address
        assert f"{place} proved its key" in checked.output


def test_a_node_that_answers_members_alone_is_asked_with_its_own_key(network: Network) -> None:
    """As a container's healthcheck asks it; where there is a local_listen, that is asked."""
    file = network.config_file("node2")
    lines = file.read_text().splitlines(keepends=True)
    apart = file.with_name("without-local-listen.yml")
    apart.write_text("".join(line for line in lines if not line.startswith("local_listen:")))
    assert len(apart.read_text()) < len(file.read_text())
    for config in (file, apart):
        ended = run("-m", "node", "--config", str(config), "healthcheck")
        assert (ended.code, '"ready": true' in ended.output) == (0, True), ended
    checked = client(network, "healthcheck")
    assert (checked.code, '"ready": true' in checked.output) == (0, True), checked


def test_an_operators_own_key_reaches_all_nodes(network: Network) -> None:
    build = network.post("held")
    key = ("--operator-key", str(network.key_file("operator")))
    ended = client(network, "cancel", build, *key)
    assert ended.code == 0, ended
    assert network.verdict(build)["verdict"]["outcome"] == "cancelled"


def test_a_command_with_a_strangers_key_says_so(network: Network) -> None:
    key = network.folder / "stranger.private.pem"
    generate_key_files(key, network.folder / "stranger.public.pem")
    refused = client(network, "ledger", "--member-key", str(key))
    assert refused.code == 2
    assert "no member has this key" in refused.errors


@pytest.mark.parametrize(
    ("node", "make", "here", "there"),
    [
        (
            "node0",
            lambda network: replicas_of(network, SigningKey(bytes(32))),
            "it does not take our certificate",
            "no member of this cluster signed its certificate",
        ),
        (
            "node1",
            lambda network: replicas_of(
                network,
                load_signing_key(network.key_file("node1")),
                age=2 * LIFETIME.total_seconds(),
            ),
            "it does not take our certificate",
            "its certificate has expired",
        ),
        (
            "node2",
            lambda network: replicas_of(
                network, load_signing_key(network.key_file("node1")), cluster_id=bytes(32)
            ),
            "no member of this cluster signed its certificate",
            "a connection from 127.0.0.1 was refused",
        ),
    ],
    ids=["another key", "expired", "another cluster"],
)
def test_whom_a_node_refuses(
    network: Network, node: str, make: Callable[[Network], Peers], here: str, there: str
) -> None:
    """With one line at each end."""

    async def read_ledger() -> None:
        async with Nodes(make(network)) as nodes:
            await nodes.ledger(node)

    with pytest.raises(NodeFailed, match=here):
        asyncio.run(read_ledger())
    log = network.folder / "log" / f"{node}.log"
    block_until(lambda: there in log.read_text(), there, SECONDS)


def test_http_without_tls_is_refused(network: Network) -> None:
    listen = network.configuration.nodes[3].listen
    with pytest.raises(NoAnswer):
        ask(f"{listen.url}/healthz")
    log = network.folder / "log" / "node3.log"
    block_until(lambda: "it speaks HTTP without TLS" in log.read_text(), "the line", SECONDS)


def test_people_on_this_machine_read_without_tls_and_make_no_link(network: Network) -> None:
    assert network.node("node3", "/healthz").status == 200
    assert network.node("node3", "/metrics").status == 200
    assert network.node("node3", LINK_PATH).status == 404


def test_a_node_comes_back_and_catches_up(network: Network) -> None:
    """What it lacks it fetches over TLS."""
    network.stop("node3")
    network.verdicts([network.post("green") for _ in range(4)])
    network.start("node3")
    network.settle()
