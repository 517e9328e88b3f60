"""client.storage.outbox: nothing accepted is lost, no number is used twice, also across kill -9."""

import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from client.storage.build_request import BuildRequest
from client.storage.database import Database, StorageFailed
from client.storage.outbox import Kind, Outbox, OutboxRow, State
from common.config_error import ConfigError

CLUSTER = bytes(32)
COMMIT = "c" * 40
ROOT = Path(__file__).resolve().parents[3]


def identity_of(index: int) -> bytes:
    return index.to_bytes(32, "big")


def sign(timestamp: int, row: OutboxRow) -> bytes:
    return b"%d %b" % (timestamp, row.identity)


def add(outbox: Outbox, index: int, commit: str | None = None) -> None:
    outbox.add_build(identity_of(index), identity_of(index + 1000), BuildRequest("r", "b", commit))


def test_a_row_goes_through_its_states(database: Database) -> None:
    outbox = Outbox(database)
    with database.transaction():
        add(outbox, 1)
    (row,) = outbox.unfinished()
    assert (row.state, row.timestamp, row.commit) == (State.RECEIVED, None, None)
    with database.transaction():
        outbox.resolve(row.identity, BuildRequest("r", "b", COMMIT))
    (row,) = outbox.waiting_for_timestamp(Kind.BUILD, 10)
    assert (row.state, row.commit) == (State.RESOLVED, COMMIT)
    with database.transaction():
        signed = outbox.take_timestamp(row, sign)
    assert (signed.state, signed.timestamp) == (State.SIGNED, 1)
    assert outbox.with_timestamp(1) == signed
    assert outbox.tally().builds(State.SIGNED, State.OPENED) == {"r": 1}
    with database.transaction():
        outbox.open(row.identity)
    assert outbox.unfinished()[0].state is State.OPENED
    assert outbox.tally().builds(State.SIGNED, State.OPENED) == {"r": 1}
    with database.transaction():
        outbox.finish(row.identity)
    assert (outbox.unfinished(), outbox.tally().total) == ([], 0)


def test_numbers_go_on_above_those_that_are_used_and_never_go_back(database: Database) -> None:
    outbox = Outbox(database)
    taken = []
    for index, used in enumerate((0, 300, 5, 300, 301)):
        with database.transaction():
            outbox.continue_above(used)
            add(outbox, index, COMMIT)
            (row,) = outbox.waiting_for_timestamp(Kind.BUILD, 1)
            taken.append(outbox.take_timestamp(row, sign).timestamp)
    assert taken == [1, 301, 302, 303, 304]


def test_a_refused_number_is_not_used_again(database: Database) -> None:
    outbox = Outbox(database)
    with database.transaction():
        add(outbox, 1, COMMIT)
        first = outbox.take_timestamp(outbox.unfinished()[0], sign)
        outbox.take_back(first.identity)
        second = outbox.take_timestamp(outbox.unfinished()[0], sign)
    assert (first.timestamp, second.timestamp) == (1, 2)
    assert outbox.with_timestamp(1) is None
    assert second.signed == sign(2, second)


def test_the_number_and_its_bytes_are_one_commit(database: Database) -> None:
    """Signing that fails takes no number with it."""
    outbox = Outbox(database)
    with database.transaction():
        add(outbox, 1, COMMIT)

    def failing(timestamp: int, row: OutboxRow) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), database.transaction():
        outbox.take_timestamp(outbox.unfinished()[0], failing)
    with database.transaction():
        assert outbox.take_timestamp(outbox.unfinished()[0], sign).timestamp == 1


def test_one_identity_is_one_row(database: Database) -> None:
    outbox = Outbox(database)

    def add_twice() -> None:
        with database.transaction():
            add(outbox, 1)
            add(outbox, 1)

    with pytest.raises(StorageFailed):
        add_twice()
    assert outbox.tally().total == 0


def test_appends_wait_for_no_commit(database: Database) -> None:
    outbox = Outbox(database)
    with database.transaction():
        add(outbox, 1)
        outbox.add_append(identity_of(2), "text")
    (row,) = outbox.waiting_for_timestamp(Kind.APPEND, 10)
    assert (row.text, row.state) == ("text", State.RESOLVED)
    assert outbox.waiting_for_timestamp(Kind.BUILD, 10) == []
    with database.transaction():
        outbox.take_timestamp(row, sign)
    assert outbox.tally().builds(State.SIGNED, State.OPENED) == {}


WRITER = """
import sys
from pathlib import Path
from client.storage.database import Database
from client.storage.outbox import Kind, Outbox
from client.storage.build_request import BuildRequest
database = Database(Path(sys.argv[1]), bytes(32), "client")
outbox = Outbox(database)
start = outbox.tally().total
for index in range(start, start + 10**6):
    identity = index.to_bytes(32, "big")
    with database.transaction():
        outbox.add_build(identity, identity, BuildRequest("r", "b", "c" * 40))
    print("accepted", index, flush=True)
    with database.transaction():
        row = outbox.take_timestamp(
            outbox.waiting_for_timestamp(Kind.BUILD, 1)[0],
            lambda timestamp, row: b"%d " % timestamp + row.identity,
        )
    print("signed", index, row.timestamp, flush=True)
"""


def test_kill_9_loses_nothing_that_was_said(tmp_path: Path) -> None:
    """A real process is killed at no particular moment, ten times, on one file."""
    accepted: set[int] = set()
    numbers: dict[int, int] = {}
    for life in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        wanted = 3 + 2 * life
        lines = [process.stdout.readline() for _ in range(wanted)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        for line in lines:
            words = line.decode().split()
            if line.endswith(b"\n") and words[0] == "accepted":
                accepted.add(int(words[1]))
            elif line.endswith(b"\n"):
                assert int(words[2]) not in numbers, "a number was taken twice"
                numbers[int(words[2])] = int(words[1])
    database = Database(tmp_path, CLUSTER, "client")
    rows = Outbox(database).unfinished()
    database.close()
    assert accepted <= {int.from_bytes(row.identity, "big") for row in rows}
    held = {row.timestamp: row for row in rows if row.timestamp is not None}
    for number in numbers:
        row = held[number]
        assert row.signed == sign(number, row)
    assert sorted(held) == list(range(1, len(held) + 1)), "a number was left out"


class OutboxMachine(RuleBasedStateMachine):
    """Any order of steps, reopening the file at any point, against a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = self.fresh_folder()
        self.database = Database(self.folder, CLUSTER, "client")
        self.outbox = Outbox(self.database)
        self.model: dict[bytes, State] = {}
        self.numbers: set[int] = set()
        # those that wait for approval
        self.waiting: set[bytes] = set()

    @staticmethod
    def fresh_folder() -> Path:
        import tempfile

        return Path(tempfile.mkdtemp(prefix="outbox-"))

    def teardown(self) -> None:
        import shutil

        self.database.close()
        shutil.rmtree(self.folder)

    def some(self, choice: int, *states: State) -> bytes | None:
        rows = [identity for identity, state in self.model.items() if state in states]
        return rows[choice % len(rows)] if rows else None

    @rule(
        is_resolved=st.booleans(),
        repository=st.sampled_from("rs"),
        branch=st.sampled_from("bc"),
        needs_approval=st.booleans(),
    )
    def accept(self, is_resolved: bool, repository: str, branch: str, needs_approval: bool) -> None:
        identity = os.urandom(32)
        with self.database.transaction():
            commit = COMMIT if is_resolved else None
            wanted = BuildRequest(repository, branch, commit, needs_approval=needs_approval)
            self.outbox.add_build(identity, identity, wanted)
        if needs_approval:
            self.waiting.add(identity)
        self.model[identity] = State.RESOLVED if is_resolved else State.RECEIVED

    @rule()
    def fail(self) -> None:
        """Of a transaction that fails nothing stays, in what is counted either."""

        def change() -> None:
            with self.database.transaction():
                self.outbox.add_build(os.urandom(32), b"", BuildRequest("r", "lost", COMMIT))
                for row in self.outbox.unfinished():
                    self.outbox.finish(row.identity)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            change()

    @rule(choice=st.integers(0, 9))
    def approve(self, choice: int) -> None:
        identity = self.some(choice, *State)
        if identity is not None:
            with self.database.transaction():
                self.outbox.note_approved(identity)
            self.waiting.discard(identity)

    @rule(choice=st.integers(0, 9))
    def resolve(self, choice: int) -> None:
        identity = self.some(choice, State.RECEIVED)
        if identity is not None:
            with self.database.transaction():
                self.outbox.resolve(identity, BuildRequest("r", "b", COMMIT))
            self.model[identity] = State.RESOLVED

    @rule()
    def number(self) -> None:
        rows = self.outbox.waiting_for_timestamp(Kind.BUILD, 2)
        with self.database.transaction():
            for row in rows:
                signed = self.outbox.take_timestamp(row, sign)
                assert signed.timestamp is not None
                assert signed.timestamp not in self.numbers
                self.numbers.add(signed.timestamp)
                self.model[row.identity] = State.SIGNED

    @rule(choice=st.integers(0, 9))
    def open(self, choice: int) -> None:
        identity = self.some(choice, State.SIGNED)
        if identity is not None:
            with self.database.transaction():
                self.outbox.open(identity)
            self.model[identity] = State.OPENED

    @rule(choice=st.integers(0, 9))
    def take_back(self, choice: int) -> None:
        identity = self.some(choice, State.SIGNED)
        if identity is not None:
            with self.database.transaction():
                self.outbox.take_back(identity)
            self.model[identity] = State.RESOLVED

    @rule(choice=st.integers(0, 9))
    def finish(self, choice: int) -> None:
        identity = self.some(choice, State.SIGNED, State.OPENED)
        if identity is not None:
            with self.database.transaction():
                self.outbox.finish(identity)
            del self.model[identity]
            self.waiting.discard(identity)

    @rule()
    def reopen(self) -> None:
        self.database.close()
        self.database = Database(self.folder, CLUSTER, "client")
        self.outbox = Outbox(self.database)

    @invariant()
    def the_file_is_the_model(self) -> None:
        rows = self.outbox.unfinished()
        assert {row.identity: row.state for row in rows} == self.model
        for row in rows:
            assert (row.timestamp is None) == (row.state in (State.RECEIVED, State.RESOLVED))
            assert row.timestamp is None or row.signed == sign(row.timestamp, row)
        assert self.numbers == set(range(1, len(self.numbers) + 1))
        assert [row.number for row in self.outbox.asked()] == [
            row.number for row in sorted(rows, key=lambda row: row.timestamp or 0) if row.timestamp
        ]
        assert self.outbox.unresolved_builds() == [
            row for row in rows if row.state is State.RECEIVED
        ]

    @invariant()
    def the_tally_is_what_one_would_count(self) -> None:
        rows = self.outbox.unfinished()
        tally = self.outbox.tally()
        assert tally.total == len(rows)
        for states in (tuple(State), (State.RESOLVED,), (State.SIGNED, State.OPENED)):
            for waits in (False, True):
                found = [
                    row.repository
                    for row in rows
                    if row.state in states and (row.identity in self.waiting) == waits
                ]
                assert tally.builds(*states, waits_for_approval=waits) == Counter(found)
        assert all(tally.has(row.kind, row.state) for row in rows)
        assert not tally.has(Kind.APPEND, State.RESOLVED)

    @invariant()
    def each_list_of_what_waits_has_it_in_its_order(self) -> None:
        rows = [row for row in self.outbox.unfinished() if row.state is State.RESOLVED]
        strangers = [row for row in rows if row.identity in self.waiting]
        others = [row for row in rows if row.identity not in self.waiting]
        for repository in "rs":
            assert (
                self.outbox.waiting_builds_of(repository, 3)
                == [row for row in others if row.repository == repository][:3]
            )
        assert self.outbox.waiting_for_approval("rs", 3) == strangers[:3]
        repositories = list(dict.fromkeys(row.repository for row in others))
        assert self.outbox.oldest_first(sorted(repositories)) == repositories
        for repository, branch in itertools.product("rs", "bc"):
            assert self.outbox.builds_of_branch(repository, branch) == [
                row
                for row in self.outbox.unfinished()
                if (row.repository, row.branch) == (repository, branch)
            ]


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def test_a_later_epoch_asks_again_for_what_has_no_answer(tmp_path: Path) -> None:
    """With numbers of its own: what was signed for the epoch before means nothing there."""
    database = Database(tmp_path, CLUSTER, "client")
    outbox = Outbox(database)
    with database.transaction():
        for index in (1, 2, 3):
            add(outbox, index)
            outbox.resolve(identity_of(index), BuildRequest("r", "b", COMMIT))
        for row in outbox.waiting_for_timestamp(Kind.BUILD, 2):
            outbox.take_timestamp(row, sign)
        outbox.open(identity_of(1))
    database.close()
    with pytest.raises(ConfigError, match="belongs to client in cluster"):
        Database(tmp_path, bytes([1]) * 32, "client", ancestors=(bytes([2]) * 32,))
    with pytest.raises(ConfigError, match="belongs to client in cluster"):
        Database(tmp_path, bytes([1]) * 32, "other", ancestors=(CLUSTER,))
    for _ in range(2):  # once taken over, it is this cluster's
        database = Database(tmp_path, bytes([1]) * 32, "client", ancestors=(CLUSTER,))
        outbox = Outbox(database)
        rows = outbox.waiting_for_timestamp(Kind.BUILD, 10)
        assert [row.identity for row in rows] == [identity_of(n) for n in (1, 2, 3)]
        assert {(row.timestamp, row.signed) for row in rows} == {(None, None)}
        with database.transaction():
            assert outbox.take_timestamp(rows[0], sign).timestamp == 1
            outbox.take_back(rows[0].identity)
            database.write("UPDATE counter SET next_timestamp = 1")
        database.close()
    with pytest.raises(ConfigError, match="belongs to client in cluster"):
        Database(tmp_path, CLUSTER, "client")
