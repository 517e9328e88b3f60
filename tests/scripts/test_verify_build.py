"""scripts/verify_build.py says what `python -m client verify` says, with one package alone."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ci.operations import Ballot
from ci.statement import envelope, keyid_for, pae
from client.commands.envelope import trust_of
from client.main import main
from common.address import Address
from pbft.genesis import Cluster
from scripts import verify_build
from tests.ci.builders import COMMIT, FAILED, PASSED, World, cluster_of, signing_key
from tests.client.cluster_file import write_cluster
from tests.client.network import key_of

SCRIPT = Path(verify_build.__file__)


class Consumer:
    """Somebody with the cluster's keys, and both programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = World()
        cluster = self.world.cluster
        addresses = {name: Address("127.0.0.1", 1 + i) for i, name in enumerate(names_of(cluster))}
        self.cluster_file = write_cluster(folder, cluster, addresses)
        self.trust_file = folder / "trust.json"
        self.trust_file.write_text(json.dumps(trust_of(cluster)))

    def both(self, data: bytes, *flags: str) -> int:
        """The exit code of both programs, which must be the same."""
        file = self.folder / "build.intoto.json"
        file.write_bytes(data)
        whole = main(["verify", str(file), "--cluster", str(self.cluster_file), *flags])
        alone = verify_build.main([str(file), "--trust", str(self.trust_file), *flags])
        assert alone == whole
        return whole

    def statement(self, *ballots: Ballot) -> bytes:
        build = self.world.open(len(self.world.ledger))
        for index, ballot in enumerate(ballots):
            self.world.cast(build, index, ballot)
        return bytes(self.world.verdict_entries()[-1].statement)

    def repository(self, statement: bytes) -> str:
        return str(json.loads(statement)["predicate"]["pbftci_verdict"]["repository"])


def names_of(cluster: Cluster) -> tuple[str, ...]:
    return cluster.replica_names


def signed(statement: bytes, *indexes: int) -> dict[str, Any]:
    names = [f"replica-{index}" for index in indexes]
    keys = [signing_key(name) for name in names]
    return dict(
        envelope(
            statement,
            [(keyid_for(bytes(k.verify_key)), k.sign(pae(statement)).signature) for k in keys],
        )
    )


def as_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(name="consumer")
def fixture_consumer(tmp_path: Path) -> Consumer:
    assert bytes(signing_key("replica-0").verify_key) == key_of("replica-0").public_key
    return Consumer(tmp_path)


def test_passed_failed_and_too_few(consumer: Consumer) -> None:
    green, red = consumer.statement(PASSED, PASSED, PASSED), consumer.statement(FAILED, FAILED)
    assert consumer.both(as_bytes(signed(green, 0, 1))) == 0
    assert consumer.both(as_bytes(signed(red, 0, 1))) == 1
    assert consumer.both(as_bytes(signed(green, 0))) == 2
    assert consumer.both(as_bytes(signed(green))) == 2
    assert consumer.both(as_bytes(signed(green, 2, 2))) == 2, "one replica twice is one"
    assert consumer.both(as_bytes(signed(green, 0, 1, 1))) == 0


def test_the_threshold_is_the_consumers(consumer: Consumer) -> None:
    green = as_bytes(signed(consumer.statement(PASSED, PASSED, PASSED), 0, 1, 3))
    assert consumer.both(green, "--threshold", "3") == 0
    assert consumer.both(green, "--threshold", "4") == 2
    for nothing in ("1", "0", "-1"):
        assert consumer.both(green, f"--threshold={nothing}") == 2


def test_repository_commit_and_artifact_must_match(consumer: Consumer, tmp_path: Path) -> None:
    statement = consumer.statement(PASSED, PASSED, PASSED)
    green = as_bytes(signed(statement, 0, 1))
    assert consumer.both(green, "--commit", COMMIT) == 0
    assert consumer.both(green, "--commit", COMMIT.upper()) == 0
    assert consumer.both(green, "--commit", "d" * 40) == 2
    assert consumer.both(green, "--commit", COMMIT[:7]) == 2
    assert consumer.both(green, "--repository", consumer.repository(statement)) == 0
    assert consumer.both(green, "--repository", "https://example.org/other") == 2
    file = tmp_path / "file"
    file.write_bytes(b"built")
    assert consumer.both(green, "--artifact", str(file)) == 2
    assert consumer.both(green, "--artifact", str(tmp_path / "none")) == 2


def test_another_clusters_verdict_is_refused(consumer: Consumer) -> None:
    other = World(cluster_of(4, prefix="replica-"))
    build = other.open()
    for index in range(3):
        other.cast(build, index, PASSED)
    statement = bytes(other.verdict_entries()[0].statement)
    assert consumer.both(as_bytes(signed(statement, 0, 1, 2))) == 2


def test_any_changed_byte_of_the_payload_is_refused(consumer: Consumer) -> None:
    good = signed(consumer.statement(PASSED, PASSED, PASSED), 0, 1, 2)
    payload = bytearray(base64.b64decode(good["payload"]))
    for place in range(0, len(payload), 41):
        payload[place] ^= 1
        changed = {**good, "payload": base64.b64encode(payload).decode()}
        assert consumer.both(as_bytes(changed)) == 2
        payload[place] ^= 1
    url_safe = good["payload"].replace("+", "-").replace("/", "_")
    assert consumer.both(as_bytes({**good, "payload": url_safe})) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"payload":"e30=","payloadType":"application/vnd.in-toto+json"}',
        b'{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":7}',
        b'{"payload":7,"payloadType":"application/vnd.in-toto+json","signatures":[]}',
        b" " * (verify_build.ENVELOPE_BYTES_MAX + 1),
    ],
    ids=range(10),
)
def test_nonsense_is_refused_without_an_error_of_ours(consumer: Consumer, data: bytes) -> None:
    assert consumer.both(data) == 2


def test_spoilt_signatures_beside_good_ones(consumer: Consumer) -> None:
    good = signed(consumer.statement(PASSED, PASSED, PASSED), 0, 1)
    for spoilt in (
        {"keyid": "", "sig": "?"},
        {"sig": ""},
        {"keyid": good["signatures"][0]["keyid"], "sig": good["signatures"][1]["sig"]},
    ):
        assert consumer.both(as_bytes({**good, "signatures": [spoilt, *good["signatures"]]})) == 0
    for wrong in ({"keyid": 7, "sig": ""}, {"sig": 7}, 7):
        assert consumer.both(as_bytes({**good, "signatures": [wrong, *good["signatures"]]})) == 2
    many = good["signatures"] * 200
    assert consumer.both(as_bytes({**good, "signatures": many})) == 2
    assert consumer.both(as_bytes({**good, "payloadType": "text/plain"})) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"replicas": {}},
        {"replicas": {"a": "zz"}},
        {"faults_max": 2},
        {"faults_max": -1},
        {"faults_max": True},
        {"cluster": None},
    ],
)
def test_a_trust_file_that_makes_no_sense_is_refused(
    consumer: Consumer, change: dict[str, Any]
) -> None:
    trust = json.loads(consumer.trust_file.read_text())
    consumer.trust_file.write_text(json.dumps({**trust, **change}))
    file = consumer.folder / "e.json"
    file.write_bytes(as_bytes(signed(consumer.statement(PASSED, PASSED, PASSED), 0, 1, 2)))
    assert verify_build.main([str(file), "--trust", str(consumer.trust_file)]) == 2


def test_two_names_for_one_key_would_count_twice(consumer: Consumer) -> None:
    trust = json.loads(consumer.trust_file.read_text())
    trust["replicas"]["replica-3"] = trust["replicas"]["replica-0"]
    consumer.trust_file.write_text(json.dumps(trust))
    file = consumer.folder / "e.json"
    file.write_bytes(as_bytes(signed(consumer.statement(PASSED, PASSED, PASSED), 0)))
    assert verify_build.main([str(file), "--trust", str(consumer.trust_file)]) == 2


def test_it_runs_alone(consumer: Consumer, tmp_path: Path) -> None:
    """Copied elsewhere and started apart from this project, as a deploy pipeline does."""
    script = tmp_path / "elsewhere" / "verify_build.py"
    script.parent.mkdir()
    script.write_bytes(SCRIPT.read_bytes())
    file = tmp_path / "e.json"
    file.write_bytes(as_bytes(signed(consumer.statement(PASSED, PASSED, PASSED), 0, 3)))
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(file), "--trust", str(consumer.trust_file)],
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "valid: passed, signed by replica-0, replica-3\n")
