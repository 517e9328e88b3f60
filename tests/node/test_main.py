"""What a node's parts do together, in this process; tests/processes starts real programs."""

import asyncio
import itertools
from pathlib import Path

import msgspec
import pytest

from ci.limits import Limits
from ci.operations import SubmitBuild, encode_operation
from common.address import Address
from common.configuration.config import RepositoryEntry
from common.web.peers import Peers
from node.main import _Node
from node.opening import Member, open_replica
from node.storage.damage import StoreDamaged, StoreNotOurs
from node.storage.ledger_table import LedgerTable
from pbft.authentication import Identity, sign_message
from pbft.client import make_request
from pbft.codec import decode_request, digest_of, encode_batch, encode_message
from pbft.messages import Commit, Signed
from pbft.ports import Entry, Executed, Refusal, SavedBody
from scripts.free_ports import free_ports
from tests.forge_server import TOKEN
from tests.node.conftest import PATIENCE_SECONDS, ConfigMaker
from tests.node.local_network import COMMIT, KEYS, NAMES, make_cluster
from tests.secret_files import secret_file


async def test_a_node_ends_where_its_commit_statuses_meet_damage(
    make_config: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than to go on without them, and to tell nobody."""

    reads = itertools.count()

    def entries(*_: object) -> list[Entry]:
        if next(reads) == 0:
            return []
        raise StoreDamaged("its structure is broken")

    repository = RepositoryEntry(
        "https://example.org/owner/name.git",
        forge="gitea",
        api_url="http://127.0.0.1:9/api/v1",
        status_token_file=secret_file(tmp_path / "token", TOKEN),
    )
    address = Address("127.0.0.1", free_ports(1)[0])
    config = make_config(repository, executor="process", listen=address)
    replicas = Peers(dict.fromkeys(NAMES, address))
    limits = Limits()
    identity = Identity(make_cluster(limits), "node0", KEYS["node0"].sign)
    node = _Node(config, Member(identity, limits, replicas))
    monkeypatch.setattr(LedgerTable, "entries", entries)
    with pytest.raises(StoreDamaged, match="its structure is broken"):
        await asyncio.wait_for(node.run(), PATIENCE_SECONDS)


def test_nothing_is_called_forgotten_while_an_entry_is_suspected(make_config: ConfigMaker) -> None:
    limits = Limits()
    cluster = make_cluster(limits)
    operation = encode_operation(
        SubmitBuild(bytes(32), "https://example.org/r.git", "main", COMMIT)
    )
    signed = make_request(Identity(cluster, "client", KEYS["client"].sign), 1, operation)
    identity = Identity(cluster, "node0", KEYS["node0"].sign)
    runtime = open_replica(make_config(), identity, limits)

    def find_deferred() -> object:
        return runtime.application.find_deferred(decode_request(signed), digest_of(signed.payload))

    assert find_deferred() is None
    runtime.store.ledger.suspected.add(1)
    assert isinstance(find_deferred(), Refusal)
    runtime.store.close()


@pytest.mark.parametrize(("patience", "delay"), [(4.0, 0.25), (0.4, 0.05)])
def test_ballots_are_kept_for_a_moment_that_is_short_beside_the_timer(
    make_config: ConfigMaker, patience: float, delay: float
) -> None:
    config = make_config(view_change_seconds=patience)
    identity = Identity(make_cluster(Limits()), "node0", KEYS["node0"].sign)
    runtime = open_replica(config, identity, Limits())
    settings = runtime.replica.core.settings
    runtime.store.close()
    assert settings.batch_delay_seconds == pytest.approx(delay)


def test_a_store_that_waits_to_execute_a_recover_of_an_older_version_is_refused_in_one_line(
    make_config: ConfigMaker,
) -> None:
    """It is whole, so the replica does not recover: else all of a cluster might, at once."""
    config, limits = make_config(), Limits()
    cluster = make_cluster(limits)
    recover = msgspec.msgpack.encode(("recover", bytes(32), 3))
    body = encode_batch((Signed("node3", recover, bytes(64)),))
    digest = digest_of(body)
    commits = []
    for index, name in enumerate(NAMES[:3]):
        commit = Commit(0, 1, digest, index)
        payload = encode_message(commit)
        commits.append(sign_message(commit, payload, Identity(cluster, name, KEYS[name].sign)))
    identity = Identity(cluster, "node0", KEYS["node0"].sign)
    runtime = open_replica(config, identity, limits)
    runtime.store.save([SavedBody(1, digest, body), Executed(1, digest, tuple(commits))], [])
    runtime.store.close()
    with pytest.raises(StoreNotOurs, match="run the version that wrote it until") as refused:
        open_replica(config, identity, limits)
    assert "\n" not in str(refused.value)
