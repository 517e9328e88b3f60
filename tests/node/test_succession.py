"""node.succession: when a node takes over the next epoch, and what it refuses.

One replica alone is a whole cluster here; tests/processes/test_members has four nodes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from ci.member_changes import ready_bytes
from ci.operations import ProposeMembers, Ready, encode_operation
from common.config_error import ConfigError
from common.configuration.config import ClusterConfig, NodeConfig, load_cluster_config
from common.configuration.keys import SigningKey, generate_key_files, load_signing_key, verify
from common.epoch_folder import BEGIN_NAME, CLUSTER_NAME, LINK_NAME
from common.membership.confirmation import read_cluster
from common.membership.epochs import epochs_of, in_present_epoch, read_seat_key
from common.tls.certificates import host_of
from node.earlier_epochs import serve_earlier
from node.main import main
from node.opening import open_replica, read_member
from node.storage import epoch_folder, recovery_files
from node.storage.damage import StoreDamaged, StoreNotOurs
from node.succession import join, succeed
from pbft.authentication import Identity
from pbft.client import make_request
from pbft.epoch_link import EpochLink, decode_link, follow
from pbft.genesis import Cluster
from pbft.messages import Envelope
from pbft.ports import Output
from tests.node.conftest import ConfigMaker

MEMBERS = ("node0", "node1", "node2", "node3", "gateway", "gateway-2", "anna")


class Alone:
    """A cluster of one replica, its operator anna, and files of the next members."""

    def __init__(self, folder: Path, make_config: ConfigMaker) -> None:
        self.folder = folder
        self.keys: dict[str, SigningKey] = {}
        for name in MEMBERS:
            generate_key_files(folder / f"{name}.key", folder / f"{name}.pem")
            self.keys[name] = load_signing_key(folder / f"{name}.key")
        self.cluster_file = folder / "cluster.yml"
        self.write(self.cluster_file, "node0", "gateway")
        self.config: NodeConfig = make_config(private_key_file=folder / "node0.key")

    def write(self, file: Path, replica: str, gateway: str, **more: Any) -> Path:
        """A cluster file with this replica and this gateway."""
        settings = {
            "replicas": [
                {"name": replica, "public_key_file": f"{replica}.pem", "address": "127.0.0.1:1"}
            ],
            "clients": [
                {"name": gateway, "public_key_file": f"{gateway}.pem", "roles": ["gateway"]},
                {
                    "name": "anna",
                    "public_key_file": "anna.pem",
                    "roles": ["operator"],
                    "operates": [replica],
                },
            ],
            "checkpoint_interval": 2,
            "window": 4,
            **more,
        }
        file.write_text(yaml.safe_dump(settings))
        return file

    def run_to_end(self, next_file: Path, *, numbers: int = 100) -> None:
        """Have anna decide the next members, and order so many numbers at most."""
        member = read_member(self.config)
        cluster = member.identity.cluster
        _, following = read_cluster(next_file)
        message = ready_bytes(cluster.id, following.configuration)
        readies = tuple(
            Ready(replica, self.keys[replica].sign(message)) for replica in following.replica_names
        )
        operation = encode_operation(ProposeMembers(10**6, following.encoded, readies))
        anna = Identity(cluster, "anna", self.keys["anna"].sign)
        runtime = open_replica(self.config, member.identity, member.limits)

        def save(output: Output) -> None:
            runtime.store.save(output.records, [])

        try:
            save(runtime.replica.receive([Envelope(make_request(anna, 1, operation))], 0.0))
            for number in range(numbers):
                if runtime.replica.core.is_sealed:
                    break
                save(runtime.replica.handle_timer(float(number)))
        finally:
            runtime.store.close()


@pytest.fixture
def alone(tmp_path: Path, make_config: ConfigMaker) -> Alone:
    return Alone(tmp_path, make_config)


def test_a_node_takes_over_once_its_epoch_is_sealed(
    alone: Alone, capsys: pytest.CaptureFixture[str]
) -> None:
    following = alone.write(alone.folder / "next.yml", "node0", "gateway-2")
    before = alone.cluster_file.read_text()
    _, first = read_cluster(alone.cluster_file)
    with pytest.raises(ConfigError, match="epoch 0 goes on: no change of members was made"):
        succeed(alone.config, following)
    alone.run_to_end(following, numbers=1)
    with pytest.raises(ConfigError, match=r"epoch 0 ends at 6, and this replica has a proof of"):
        succeed(alone.config, following)
    alone.run_to_end(following)
    other = alone.write(alone.folder / "other.yml", "node0", "gateway")
    with pytest.raises(ConfigError, match="take the file that was proposed"):
        succeed(alone.config, other)
    assert alone.cluster_file.read_text() == before
    assert succeed(alone.config, following) == 0
    assert "the store of epoch 1, which begins after 6" in capsys.readouterr().out
    assert alone.cluster_file.read_text() == before
    present = in_present_epoch(alone.config)
    _, later = read_cluster(present.cluster_file)
    assert (later.epoch, later.lineage, later.begins_after) == (1, first.id, 6)
    # whoever has the cluster file before can tell that this is the next one
    link = decode_link((alone.folder / "data" / "epoch-1" / LINK_NAME).read_bytes())
    assert isinstance(link, EpochLink)
    followed = follow(first, link, verify=verify)
    assert isinstance(followed, Cluster)
    assert followed.id == later.id
    # the node starts in it, and has its ledger
    member = read_member(present)
    runtime = open_replica(present, member.identity, member.limits)
    assert (runtime.replica.core.low, runtime.application.ledger_index) == (6, 1)
    assert runtime.store.ledger.missing() == 0
    runtime.store.close()
    # it can be done once
    with pytest.raises(ConfigError, match="epoch 1 goes on"):
        succeed(alone.config, following)


def test_a_crash_at_any_write_ends_in_the_old_epoch_or_the_new_one(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of the next epoch's folder fails once; then the node tries again."""
    following = alone.write(alone.folder / "next.yml", "node0", "gateway-2")
    alone.run_to_end(following)
    write = epoch_folder._write
    written: list[str] = []

    def failing(count: int) -> Callable[[Path, bytes], None]:
        def fail(file: Path, data: bytes) -> None:
            if len(written) == count:
                raise OSError("the power is gone")
            written.append(file.name)
            write(file, data)

        return fail

    for count in range(3):
        written.clear()
        with monkeypatch.context() as patched:
            patched.setattr(epoch_folder, "_write", failing(count))
            with pytest.raises(OSError, match="the power is gone"):
                succeed(alone.config, following)
        assert in_present_epoch(alone.config) == alone.config
    assert succeed(alone.config, following) == 0
    assert read_cluster(in_present_epoch(alone.config).cluster_file)[1].epoch == 1


def test_a_later_epoch_counts_by_its_link_alone(alone: Alone) -> None:
    following = alone.write(alone.folder / "next.yml", "node0", "gateway-2")
    alone.run_to_end(following)
    assert succeed(alone.config, following) == 0
    folder = alone.folder / "data" / "epoch-1"
    file = folder / CLUSTER_NAME
    _, later = read_cluster(file)
    _, first = read_cluster(alone.cluster_file)
    confirmed = msgspec.structs.replace(alone.config, cluster_fingerprint=first.id.hex())
    assert in_present_epoch(confirmed).cluster_fingerprint == later.id.hex()
    other = msgspec.structs.replace(alone.config, cluster_fingerprint=bytes(32).hex())
    with pytest.raises(ConfigError, match="compare the fingerprint"):
        in_present_epoch(other)
    text = file.read_text()
    file.write_text(text.replace("window: 4", "window: 6"))
    with pytest.raises(ConfigError, match="is not the cluster that"):
        in_present_epoch(alone.config)
    file.write_text(text)
    link = decode_link((folder / LINK_NAME).read_bytes())
    assert isinstance(link, EpochLink)
    unsigned = msgspec.structs.replace(link, checkpoints=())
    (folder / LINK_NAME).write_bytes(msgspec.msgpack.encode(unsigned))
    with pytest.raises(
        ConfigError, match=r"epoch-link: .* of another cluster, give that one a data"
    ):
        in_present_epoch(alone.config)


def test_a_node_serves_the_epochs_that_it_came_through_as_far_as_it_has_their_keys(
    alone: Alone,
) -> None:
    for file in (alone.cluster_file, alone.write(alone.folder / "next.yml", "node0", "gateway-2")):
        file.write_text(file.read_text() + "tls: required\n")
    alone.run_to_end(alone.folder / "next.yml")
    assert succeed(alone.config, alone.folder / "next.yml") == 0
    before, present = epochs_of(alone.config)
    assert (before, present) == (alone.config, in_present_epoch(alone.config))
    _, first = read_cluster(before.cluster_file)
    member = read_member(present)
    serve_earlier([before], member)
    assert member.replicas.tls is not None
    assert list(member.replicas.tls._earlier) == [host_of(first.id, "node0")]
    # its operator has destroyed the key of that epoch
    other = msgspec.structs.replace(before, private_key_file=alone.folder / "node1.key")
    member = read_member(present)
    serve_earlier([other], member)
    assert member.replicas.tls is not None
    assert not member.replicas.tls._earlier


def test_a_replica_that_recovers_in_a_later_epoch_fetches_the_ledger_before_it(
    alone: Alone,
) -> None:
    names = MEMBERS[:4]
    replicas = [
        {"name": name, "public_key_file": f"{name}.pem", "address": f"127.0.0.1:{port}"}
        for port, name in enumerate(names, 1)
    ]
    following = alone.write(alone.folder / "next.yml", "node0", "gateway", replicas=replicas)
    alone.run_to_end(following)
    assert succeed(alone.config, following) == 0
    recovery_files.note_begun(alone.folder / "data" / "epoch-1")
    present = in_present_epoch(alone.config)
    member = read_member(present)
    runtime = open_replica(present, member.identity, member.limits)
    assert runtime.replica.core.is_recovering
    assert runtime.store.ledger.missing() == runtime.application.ledger_index == 1
    runtime.store.close()


def test_a_replica_that_is_alone_never_recovers(alone: Alone) -> None:
    data = alone.folder / "data"
    data.mkdir()
    recovery_files.note_begun(data)
    member = read_member(alone.config)
    with pytest.raises(
        StoreDamaged, match=r"recovery-begun: With f = 0 no other replica can vouch"
    ):
        open_replica(alone.config, member.identity, member.limits)


def test_the_cluster_file_may_be_replaced_while_a_node_goes_over(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator puts the file of the new epoch there, between two looks of the node."""
    following = alone.write(alone.folder / "next.yml", "node0", "gateway-2")
    alone.run_to_end(following)
    assert succeed(alone.config, following) == 0
    written = alone.folder / "data" / "epoch-1" / CLUSTER_NAME

    def load_and_replace(file: Path) -> ClusterConfig:
        read = load_cluster_config(file)
        file.write_text(written.read_text())
        return read

    monkeypatch.setattr("common.membership.epochs.load_cluster_config", load_and_replace)
    assert read_cluster(in_present_epoch(alone.config).cluster_file)[1].epoch == 1


def test_the_key_that_fits_the_seat_is_taken(alone: Alone) -> None:
    _, cluster = read_cluster(alone.cluster_file)
    both = msgspec.structs.replace(
        alone.config,
        private_key_file=alone.folder / "node1.key",
        next_private_key_file=alone.folder / "node0.key",
    )
    assert read_seat_key(both, cluster).public_key == cluster.public_key("node0")
    wrong = msgspec.structs.replace(both, next_private_key_file=alone.folder / "anna.key")
    with pytest.raises(ConfigError, match=r"nor is .*anna.key \(next_private_key_file\)"):
        read_seat_key(wrong, cluster)


def test_who_leaves_takes_over_nothing(alone: Alone, capsys: pytest.CaptureFixture[str]) -> None:
    following = alone.write(alone.folder / "next.yml", "node1", "gateway")
    alone.run_to_end(following)
    assert succeed(alone.config, following) == 1
    assert "leave the node running until the others have succeeded" in capsys.readouterr().out
    assert not list((alone.folder / "data").glob("epoch-*"))


def test_a_new_member_takes_over_the_state_that_its_cluster_file_names(
    alone: Alone, make_config: ConfigMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    following = alone.write(alone.folder / "next.yml", "node1", "gateway")
    alone.run_to_end(following)
    # a member that stays would write these two files
    old = read_member(alone.config)
    runtime = open_replica(alone.config, old.identity, old.limits)
    core = runtime.replica.core
    parts = core.checkpoints.stable_parts
    runtime.store.close()
    _, next_members = read_cluster(following)
    later = old.identity.cluster.succeeded_by(
        next_members.genesis, core.low, core.checkpoints.stable.digest
    )
    assert later.ancestry is not None
    ancestry = {
        "lineage": later.ancestry.lineage.hex(),
        "epoch": 1,
        "previous": later.ancestry.previous.hex(),
        "sequence": core.low,
        "state": later.ancestry.state.hex(),
    }
    new = make_config(
        name="node1",
        private_key_file=alone.folder / "node1.key",
        cluster_file=alone.write(alone.folder / "later.yml", "node1", "gateway", ancestry=ancestry),
        data_directory=alone.folder / "new",
    )
    state = alone.folder / BEGIN_NAME
    state.write_bytes(msgspec.msgpack.encode(parts))
    member = read_member(new)
    with pytest.raises(StoreNotOurs, match="has not taken over epoch 1; run `succeed`"):
        open_replica(new, member.identity, member.limits)
    assert join(new, state) == 0
    assert "the ledger is fetched from the others" in capsys.readouterr().out
    runtime = open_replica(new, member.identity, member.limits)
    assert runtime.replica.core.low == core.low
    assert runtime.store.ledger.missing() == 1
    runtime.store.close()
    with pytest.raises(ConfigError, match="has taken over epoch 1 already"):
        join(new, state)
    with pytest.raises(ConfigError, match="this is the file that a cluster begins with"):
        join(alone.config, state)


def test_one_of_two_ways_is_named(alone: Alone, capsys: pytest.CaptureFixture[str]) -> None:
    alone.config.file.write_text(
        yaml.safe_dump(
            {
                "cluster_file": "cluster.yml",
                "name": "node0",
                "private_key_file": "node0.key",
                "listen": "127.0.0.1:1",
                "data_directory": "data",
                "log_file": "node.log",
                "repositories": [],
            }
        )
    )
    assert main(["--config", str(alone.config.file), "succeed"]) == 2
    assert "give NEXT.yml, or --from FILE for a new member" in capsys.readouterr().err
