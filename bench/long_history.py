"""The disks of a network as they are after many builds, made in a minute instead of a day.

Every build is what it would be: requests and ballots signed by their members, applied in order by
the replicated application itself, entries and statements from it, replies signed by each replica.
They are put on disk by the store and the archive themselves, in large transactions. Left out is
what leaves nothing behind: the agreement on each batch, whose records the next checkpoint forgets,
and the containers. The last checkpoint's certificate is signed by all replicas, so each node takes
the state for what it is. A node's own requests, which it saves one by one, are copied from its
ballots by one statement. There are no log files: a node keeps those of the last thousand builds.
"""

import hashlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from bench.network import BenchFailed, cluster_of
from ci.application import BuildApplication
from ci.ballots import BALLOT
from ci.limits import Limits
from ci.operations import (
    BuildMetadata,
    BuildResult,
    CastBallot,
    Operation,
    Outcome,
    ResultKey,
    encode_operation,
)
from ci.statement import submitted_build_id
from client.storage.archive import Archive, ReplyRecord
from client.storage.build_request import BuildRequest
from client.storage.database import Database
from common.configuration.keys import SigningKey, load_signing_key, verify
from common.version import VERSION
from node.storage.store import DATABASE_NAME, REDO_NAME, Store
from pbft.authentication import Identity, sign_message
from pbft.certificates import state_digest
from pbft.checkpoint import state_parts
from pbft.client import make_request
from pbft.client_table import StoredResult
from pbft.codec import digest_of, encode_message, encode_signed
from pbft.messages import Checkpoint, Request, Signed
from pbft.ports import Applied, CheckpointRecord, DeferredReply, Entry, Record, SavedEntry
from pbft.replica import Replica
from scripts.harness import CLIENT, Network

BRANCH = "master"
AT_ONCE = 1000
SECONDS_APART = 1.0
_LOG_SHA256 = hashlib.sha256(b"").hexdigest()
_PIPELINE_SHA256 = hashlib.sha256(b"pipeline").hexdigest()


class _Built(msgspec.Struct, frozen=True):
    """One build from its request to its closing."""

    build: bytes
    opened: int
    request: Signed
    wanted: BuildRequest
    ballots: tuple[tuple[str, Signed], ...]
    entries: tuple[Entry, ...]
    statement: bytes
    to_sign: bytes


def write_history(network: Network, builds: int, say: Callable[[str], None]) -> str:
    """Write the data directories of all nodes and the client; the id of the oldest build.

    Nothing may run or have run there. Raises BenchFailed.
    """
    assert builds > 0
    history = _History(network)
    first = network.node_names[0]
    directory = network.data_directory(first)
    cluster_id = cluster_of(network).id
    store = Store(directory, cluster_id, first)
    database = Database(network.data_directory(CLIENT), cluster_id, CLIENT)
    archive = Archive(database, network.data_directory(CLIENT))
    oldest = ""
    try:
        began_at = time.time() - SECONDS_APART * builds
        for number, some in enumerate(_portions(history.builds(builds))):
            oldest = oldest or some[0].build.hex()
            _save(store, some)
            _archive(
                database,
                archive,
                history,
                some=some,
                at=began_at + number * AT_ONCE * SECONDS_APART,
            )
            if number % 10 == 9:
                say(f"{(number + 1) * AT_ONCE} of {builds} builds")
        store.save([history.base()], [])
        with database.transaction():
            database.write("UPDATE counter SET next_timestamp = ?", (builds + 1,))
    finally:
        store.close()
        database.close()
    for name in network.node_names[1:]:
        _copy(network, first, name)
    for name in network.node_names:
        _make_own(network, name)
    return oldest


class Growth(msgspec.Struct, frozen=True):
    """ledger_bytes: of the entries of one build. state_bytes: of the whole state, at rest.

    The state is bounded; it is full after a client's window of requests (256).
    """

    ledger_bytes: float
    state_bytes: int


def measure_growth(network: Network, builds: int) -> Growth:
    """What so many builds leave in the ledger and in the state. Nothing is written."""
    history = _History(network)
    entries = [entry for built in history.builds(builds) for entry in built.entries]
    return Growth(
        sum(len(entry.body) for entry in entries) / builds,
        sum(len(part) for part in history.base().parts.values()),
    )


class _History:
    """The replicated state, and the members who bring it forward."""

    def __init__(self, network: Network) -> None:
        self.cluster = cluster_of(network)
        self.keys: dict[str, SigningKey] = {
            config.name: load_signing_key(config.private_key_file)
            for config in network.configuration.processes
        }
        self.replicas = network.node_names
        limits = network.configuration.cluster.limits_as(Limits)
        self._application = BuildApplication(self.cluster, limits, lambda build: None)
        name = self.replicas[0]
        replica = Replica(
            Identity(self.cluster, name, self.keys[name].sign), verify, self._application
        )
        self._core = replica.core
        self._commit = network.commits[BRANCH]
        self._repository = network.configuration.client.repositories[0].url
        self._sequence = 0

    def builds(self, count: int) -> Iterator[_Built]:
        """One after the other; all replicas find that each passed."""
        for number in range(1, count + 1):
            yield self._build(number)

    def base(self) -> CheckpointRecord:
        """The state at the next checkpoint, with a certificate of all replicas."""
        interval = self.cluster.genesis.checkpoint_interval
        sequence = -(-self._sequence // interval) * interval
        parts = state_parts(self._core)
        certificate = []
        for index, name in enumerate(self.replicas):
            message = Checkpoint(sequence, state_digest(parts), index)
            certificate.append(self._signed_vote(message, name))
        return CheckpointRecord(
            sequence, sequence, tuple(certificate[: self.cluster.quorums.strong]), parts
        )

    def _signed_vote(self, message: Checkpoint, name: str) -> Signed:
        payload = encode_message(message)
        return sign_message(message, payload, Identity(self.cluster, name, self.keys[name].sign))

    def _build(self, number: int) -> _Built:
        wanted = BuildRequest(self._repository, BRANCH, self._commit)
        operation = wanted.operation(hashlib.sha256(b"identity %d" % number).digest())
        build = submitted_build_id(self.cluster.id, CLIENT, operation)
        self._sequence += 1
        opened = self._sequence
        request, _ = self._apply(CLIENT, number, operation)
        self._sequence += 1
        ballots: list[tuple[str, Signed]] = []
        entries: list[Entry] = []
        deferred: list[DeferredReply] = []
        for name in self.replicas:
            signed, applied = self._apply(name, number, self._ballot(build, opened, number))
            ballots.append((name, signed))
            entries += applied.entries
            deferred += applied.deferred
        if len(deferred) != 1:
            raise BenchFailed(f"build {number} was announced {len(deferred)} times")
        return _Built(
            build,
            opened,
            request,
            wanted,
            tuple(ballots),
            tuple(entries),
            deferred[0].result,
            deferred[0].to_sign,
        )

    def _ballot(self, build: bytes, opened: int, number: int) -> CastBallot:
        compared = ResultKey(Outcome.PASSED, 0, self._commit, _PIPELINE_SHA256, None)
        evidence = BuildMetadata(
            _LOG_SHA256, 0, None, 40 + number % 10, 200 + number % 100, VERSION
        )
        return CastBallot(build, opened, BuildResult(compared, evidence))

    def _apply(self, member: str, number: int, operation: Operation) -> tuple[Signed, Applied]:
        """What execution does with one ordered request (pbft.execution), without the agreement."""
        sign = self.keys[member].sign
        encoded = encode_operation(operation)
        signed = make_request(Identity(self.cluster, member, sign), number, encoded)
        digest = digest_of(signed.payload)
        applied = self._application.apply(Request(member, number, encoded), digest, self._sequence)
        if applied.kind == "refused":
            raise BenchFailed(f"{member}'s request {number} was refused: {applied.result!r}")
        result = StoredResult(digest, applied.kind, applied.subject, applied.result)
        self._core.execution.clients.record(member, number, result)
        return signed, applied


def _portions(builds: Iterator[_Built]) -> Iterator[list[_Built]]:
    some: list[_Built] = []
    for built in builds:
        some.append(built)
        if len(some) == AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _save(store: Store, some: Sequence[_Built]) -> None:
    records: list[Record] = [SavedEntry(entry) for built in some for entry in built.entries]
    ballots = [
        (built.build, built.opened, name, signed)
        for built in some
        for name, signed in built.ballots
    ]
    store.save(records, ballots)


def _archive(
    database: Database, archive: Archive, history: _History, *, some: Sequence[_Built], at: float
) -> None:
    """What the gateway keeps of decided builds that nothing more is waited for."""
    with database.transaction():
        for number, built in enumerate(some):
            moment = at + number * SECONDS_APART
            archive.add(built.build, built.wanted, moment)
            archive.note_signed(built.build, encode_signed(built.request), moment)
            archive.note_opened(built.build, moment)
            archive.note_decided(built.build, built.statement, moment + SECONDS_APART)
            for name, signed in built.ballots:
                attestation = history.keys[name].sign(built.to_sign)
                archive.put_reply(built.build, ReplyRecord(name, True, attestation))
                archive.put_ballot(built.build, name, encode_signed(signed))
            archive.note_collected(built.build)


def _copy(network: Network, source: str, name: str) -> None:
    """The same for another replica: all but its name and its own requests is equal."""
    directory = network.data_directory(name)
    directory.mkdir(parents=True, exist_ok=True)
    for file in (DATABASE_NAME, REDO_NAME):
        shutil.copyfile(network.data_directory(source) / file, directory / file)
        (directory / file).chmod(0o600)
    with sqlite3.connect(directory / DATABASE_NAME) as database:
        database.execute("UPDATE meta SET value = ? WHERE name = 'replica'", (name.encode(),))
    database.close()


def _make_own(network: Network, name: str) -> None:
    """A replica's own requests: its ballots, numbered as they were cast, all of them executed."""
    with sqlite3.connect(network.data_directory(name) / DATABASE_NAME) as database:
        database.execute(
            "INSERT INTO own_requests SELECT row_number() OVER (ORDER BY opened), ?, build, opened,"
            " signed, 1 FROM ballots WHERE replica = ?",
            (BALLOT, name),
        )
        database.execute(
            "INSERT OR REPLACE INTO meta SELECT 'timestamp', max(timestamp) FROM own_requests"
        )
    database.close()
