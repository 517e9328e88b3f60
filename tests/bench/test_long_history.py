"""The history that the bench `history` makes is what nodes and a client would have saved."""

from pathlib import Path

import pytest

from bench.long_history import write_history
from bench.network import cluster_of
from ci.application import BuildApplication
from ci.ledger import VerdictEntry, decode_entry, genesis_head, verify_chain
from ci.limits import Limits
from client.storage.archive import Archive
from client.storage.database import Database
from common.configuration.keys import load_signing_key, verify
from node.storage.store import Store
from pbft.authentication import Identity
from pbft.replica import Replica
from scripts.harness import CLIENT, Network, pipeline

BUILDS = 70  # with two numbers each, beyond the first checkpoint


@pytest.fixture
def network(tmp_path: Path) -> Network:
    """A network that has never run."""
    return Network(tmp_path, {"master": pipeline("true")})


def test_every_replica_restores_it_and_the_ledgers_are_equal(network: Network) -> None:
    write_history(network, BUILDS, lambda text: None)
    cluster = cluster_of(network)
    ledgers = []
    for node in network.configuration.nodes:
        store = Store(network.data_directory(node.name), cluster.id, node.name)
        application = BuildApplication(cluster, Limits(), store.ledger.find_statement)
        sign = load_signing_key(node.private_key_file).sign
        replica = Replica(Identity(cluster, node.name, sign), verify, application)
        replica.restore(store.records(), store.bodies(), bytes(32))
        store.agree_ledger(application.ledger_index, application.ledger_head)
        assert replica.core.executed == 256
        assert replica.core.execution.clients.low_timestamp(CLIENT) == BUILDS
        assert not application.open_builds()
        assert store.own_requests.pending() == []
        assert store.own_requests.last_timestamp() == BUILDS
        ledgers.append(store.ledger.entries(1, 10 * BUILDS))
        store.close()
    assert all(ledger == ledgers[0] for ledger in ledgers)
    assert verify_chain(ledgers[0], genesis_head(cluster.id)) is None
    verdicts = [decode_entry(entry.body) for entry in ledgers[0]]
    assert sum(isinstance(entry, VerdictEntry) for entry in verdicts) == BUILDS


def test_the_client_has_them_all_decided(network: Network) -> None:
    oldest = write_history(network, BUILDS, lambda text: None)
    directory = network.data_directory(CLIENT)
    database = Database(directory, cluster_of(network).id, CLIENT)
    archive = Archive(database, directory)
    assert archive.counts()["decided"] == BUILDS
    assert archive.to_collect() == []
    record = archive.get(bytes.fromhex(oldest))
    assert record is not None
    assert record.number == 1
    assert len(archive.replies(record.build)) == len(archive.ballots(record.build)) == 4
    assert database.row("SELECT next_timestamp FROM counter") == (BUILDS + 1,)
    database.close()
