"""Seed 2, replicas and a client on stdin: links by keys, the replicated string, PRE-PREPARE."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.limits import Limits, encode_limits
from common.address import Address
from common.configuration.keys import SigningKey, load_signing_key
from common.links.link import Inbox, Links
from common.web.peers import Peers
from pbft.authentication import Identity
from pbft.genesis import Cluster
from pbft.messages import Prepare, PrePrepare
from pbft.ports import SavedMessage
from tests.pbft.forge import FALSE, with_bad_signature
from tests.pbft.world import World
from tests.processes.network import Network, ask, pipeline
from tests.processes.programs import client
from tests.seeds.checkout import Checkout
from tests.waiting import wait_until

SECONDS = 180.0


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Four nodes and a gateway."""
    with Network(tmp_path_factory.mktemp("seed-2"), {"main": pipeline("echo hello")}) as made:
        made.start()
        yield made


@pytest.mark.processes
async def test_links(network: Network) -> None:
    """Replicas connect to each other and to the client, identified by public keys.

    Whoever claims to be the client without its key is let in nowhere.
    """

    def are_linked() -> bool:
        peers = [network.status(name)["peers"].values() for name in network.node_names]
        seen = ask(f"{network.gateway_url}/api/v1/network").json()["replicas"]
        return all(p["connected"] for of in peers for p in of) and all(
            replica["connected"] for replica in seen
        )

    network.wait_until(are_linked, "all links", SECONDS)
    config = network.configuration
    cluster = _cluster_of(network)
    address = config.nodes[0].listen
    operator_file = config.client.private_key_file.with_name("operator.private.pem")
    log = network.folder / "log" / "node0.log"
    stranger = _links(cluster, "operator", SigningKey(bytes(32)), address)
    await stranger.start()
    try:
        await wait_until(
            lambda: "did not prove that it has its key" in log.read_text(), "a refusal", SECONDS
        )
        assert "linked with operator" not in log.read_text()
    finally:
        await stranger.close()
    member = _links(cluster, "operator", load_signing_key(operator_file), address)
    await member.start()
    try:
        await wait_until(lambda: "linked with operator" in log.read_text(), "a link", SECONDS)
    finally:
        await member.close()


def _links(cluster: Cluster, name: str, key: SigningKey, address: Address) -> Links:
    return Links(
        Identity(cluster, name, key.sign),
        dial=Peers({"node0": address}),
        inbox=Inbox(lambda peer, envelopes: None),
    )


def _cluster_of(network: Network) -> Cluster:
    settings = network.configuration.cluster
    return settings.cluster(encode_limits(settings.limits_as(Limits)))


@pytest.mark.processes
def test_append(network: Network) -> None:
    """The replicated state is a string; the client reads from stdin and signs.

    Also from the arguments; every replica prints the same string and digest.
    """
    by_argument = client(network, "append", "one ", "two ")
    assert by_argument.code == 0, by_argument
    by_lines = client(network, "append", text="three \nfour\n")
    assert by_lines.code == 0, by_lines
    length, digest = by_lines.output.splitlines()[-1].split()
    assert length == "4"
    network.settle(are_builds_closed=False)
    journal = client(network, "journal", "--all")
    assert journal.code == 0, journal
    expected = [
        line
        for name in network.node_names
        for line in (f"{name}: 4 strings, digest {digest}", "  one two three four")
    ]
    assert journal.output.splitlines() == expected


def test_pre_prepare_clauses() -> None:
    """PRE-PREPARE is accepted only if, clause by clause; so PREPARE.

    Both signatures hold, h < n < H (n <= H here, as in the paper), the view is the current one,
    the digest is the request's, and no other digest was accepted for the same view and number.
    Both are kept in the log. (`tests/paper/test_section_4_2_normal_case.py` has all of it.)
    """
    world = World(checkpoint_interval=2, window=4)
    request = world.request(1, b"x")
    message, signed, body = world.pre_prepare(1, [request])
    forged_request = world.pre_prepare(1, [with_bad_signature(request)])
    beyond = world.pre_prepare(5, [request])
    other_view = world.pre_prepare(1, [request], view=4)
    for refused, its_body, reason in (
        (with_bad_signature(signed), body, "bad signature"),
        (forged_request[1], forged_request[2], "a request in the body: bad signature"),
        (beyond[1], beyond[2], "outside the water marks"),
        (other_view[1], other_view[2], "while in view 0"),
        (signed, forged_request[2], "the body does not have the digest"),
    ):
        assert reason in world.refuse("r1", refused, its_body)
        assert world.said("r1", Prepare) == []
    accepted = world.give("r1", signed, body)
    assert world.said("r1", Prepare) == [Prepare(0, 1, message.digest, 1)]
    assert SavedMessage(signed) in accepted.records
    assert SavedMessage(world.prepare(1, message.digest, 1)) in accepted.records
    _, another, its_body = world.pre_prepare(1, [world.request(2, b"y")])
    assert "another digest was accepted" in world.refuse("r1", another, its_body)

    for prepare, reason in (
        (with_bad_signature(world.prepare(1, message.digest, 2)), "bad signature"),
        (world.prepare(5, message.digest, 2), "outside the water marks"),
        (world.prepare(1, message.digest, 2, view=4), "while in view 0"),
    ):
        assert reason in world.refuse("r1", prepare)
    world.give("r1", world.prepare(1, message.digest, 2))
    assert "another" in world.refuse("r1", world.prepare(1, FALSE, 2))
    slot = next(iter(world.core("r1").log.above(0)))
    assert slot.proposal is not None
    assert set(slot.prepares) == {1, 2}
    assert isinstance(message, PrePrepare)


@pytest.mark.processes
def test_one_command(tmp_path: Path) -> None:
    """One command starts all.

    Here with a node that says two things: the verdicts are right, and it is told who saw what.
    """
    flags = ("--executor", "process", "--faulty", "equivocating", "--stop")
    with Checkout(tmp_path / "checkout") as checkout:
        done = checkout.run("./scripts/demo.sh", *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "all verdicts are as expected" in done.stdout
        assert "node3 is equivocating" in done.stdout
