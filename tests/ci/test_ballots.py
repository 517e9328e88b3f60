"""What a replica says as a client: numbers are never used twice, and nothing is said for ever."""

from ci.assignments import AssignmentTracker, Key
from ci.ballots import (
    BALLOT,
    LATE_BALLOTS_DEADLINE,
    RESEND_SECONDS,
    VERDICT_DEADLINE,
    ReplicaRequest,
    ReplicaRequests,
)
from ci.executors import StandbyTimeout
from ci.limits import Limits
from ci.operations import CastBallot, Noop, ReportDeadline, encode_operation
from ci.statement import parse_statement
from ci.verdict import Thresholds
from pbft.authentication import Identity
from pbft.client_table import ClientTable, StoredResult
from pbft.codec import decode_request, digest_of
from tests.ci.builders import FAILED, GATEWAY, PASSED, World, signing_key

WINDOW = 4
DEADLINE_SECONDS = 60.0
STAND_BY_SECONDS = 20.0
BUILD_SECONDS_MAX = 100.0


class Own:
    """The own requests of a replica of a world, and a client table that a test fills by hand.

    name: replica 0 where it is left out.
    """

    def __init__(
        self, limits: Limits | None = None, *, name: str | None = None, world: World | None = None
    ) -> None:
        self.world = world or World(limits=limits)
        self.name = name or self.world.replica(0)
        self.clients = ClientTable(WINDOW)
        self.last_timestamp = 0
        self.identity = 0
        thresholds = Thresholds(self.world.cluster.quorums)
        self.assignments = AssignmentTracker(
            self.name,
            lambda build: thresholds,
            lambda build: StandbyTimeout(STAND_BY_SECONDS, BUILD_SECONDS_MAX),
        )
        self.requests = ReplicaRequests(
            identity=Identity(
                self.world.cluster,
                self.name,
                lambda message: bytes(signing_key(self.name).sign(message).signature),
            ),
            deadline_seconds=lambda build: DEADLINE_SECONDS,
            builds=self.world.application.open_builds,
            clients=lambda: self.clients,
            assignments=self.assignments,
        )

    def open_build(self) -> Key:
        """A build is opened; its key."""
        self.identity += 1
        self.world.submit(self.identity)
        (build,) = self.world.application.open_builds().values()
        return (build.id, build.opened)

    def ballot(self, replica: int, key: Key) -> None:
        """A ballot of that replica is executed."""
        self.world.apply(self.world.replica(replica), CastBallot(*key, PASSED))

    def cast(self, key: Key, now: float, instead_of: int | None = None) -> ReplicaRequest:
        """Our own ballot is saved and sent."""
        request = self.requests.make(
            BALLOT, key, CastBallot(*key, PASSED), last_timestamp=self.last_timestamp
        )
        self.last_timestamp = request.timestamp
        self.requests.on_saved(request, now, instead_of)
        return request

    def execute(self, timestamp: int, request: ReplicaRequest | None) -> None:
        """That number is executed, by this request or by one that nobody remembers."""
        digest = digest_of(request.signed.payload) if request else bytes(32)
        self.clients.record(self.name, timestamp, StoredResult(digest, "done", b"", b""))


def test_numbers_go_on_above_what_is_on_disk_and_what_the_state_shows_as_used() -> None:
    own = Own()
    key = own.open_build()
    assert own.requests.make(BALLOT, key, Noop(), last_timestamp=0).timestamp == 1
    assert own.requests.make(BALLOT, key, Noop(), last_timestamp=7).timestamp == 8
    for timestamp in (1, 2, 4):
        own.execute(timestamp, None)
    assert own.requests.make(BALLOT, key, Noop(), last_timestamp=0).timestamp == 3
    assert own.requests.make(BALLOT, key, Noop(), last_timestamp=3).timestamp == 5


def test_a_request_is_sent_again_until_it_is_executed() -> None:
    own = Own()
    request = own.cast(own.open_build(), now=100.0)
    assert own.requests.due(100.0 + RESEND_SECONDS - 0.1) == []
    assert own.requests.due(100.0 + RESEND_SECONDS) == [request.signed]
    assert own.requests.due(100.0 + RESEND_SECONDS + 0.1) == []
    own.execute(1, request)
    assert own.requests.settled() == [1]
    assert own.requests.settled() == []
    assert own.requests.due(1000.0) == []


def test_what_was_under_way_before_a_restart_is_sent_at_once() -> None:
    own = Own()
    key = own.open_build()
    request = own.requests.make(BALLOT, key, CastBallot(*key, PASSED), last_timestamp=0)
    own.requests.take_up([request])
    assert own.requests.due(0.5) == [request.signed]


def test_a_request_whose_number_another_one_had_is_made_again() -> None:
    own = Own()
    key = own.open_build()
    first = own.cast(key, now=1.0)
    own.execute(1, None)
    assert own.requests.settled() == []
    ((displaced, operation),) = own.requests.displaced()
    assert displaced == first
    second = own.cast(key, 2.0, instead_of=1)
    assert second.timestamp == 2
    assert decode_request(second.signed).operation == encode_operation(operation)
    assert own.requests.displaced() == []
    assert own.requests.due(100.0) == [second.signed], "the first one is said no more"


def test_a_request_too_old_to_be_remembered_is_settled_by_its_build() -> None:
    own = Own()
    key = own.open_build()
    first = own.cast(key, now=1.0)
    own.execute(1, first)
    for timestamp in range(2, 2 * WINDOW):
        own.execute(timestamp, None)
    assert own.clients.result(own.name, 1) is None
    assert [request for request, _ in own.requests.displaced()] == [first], "nobody heard it"
    own.ballot(0, key)
    assert own.requests.settled() == [1]


def test_a_deadline_runs_from_our_own_ballot_and_anew_from_the_verdict() -> None:
    own = Own()
    key = own.open_build()
    assert own.requests.overdue(0.0) == []
    assert own.requests.overdue(10 * DEADLINE_SECONDS) == [], "it waits for our own ballot"
    own.ballot(0, key)
    start = 1000.0
    assert own.requests.overdue(start) == []
    assert own.requests.overdue(start + DEADLINE_SECONDS - 1) == []
    assert own.requests.overdue(start + DEADLINE_SECONDS) == [(VERDICT_DEADLINE, key)]
    for replica in (1, 2):
        own.ballot(replica, key)
    assert own.requests.overdue(start + DEADLINE_SECONDS) == []
    late = start + 2 * DEADLINE_SECONDS
    assert own.requests.overdue(late) == [(LATE_BALLOTS_DEADLINE, key)]
    own.world.apply(own.name, ReportDeadline(*key))
    assert own.requests.overdue(late) == [], "it is reported"


def test_where_some_stand_by_the_deadline_runs_once_they_had_time() -> None:
    own = Own(Limits(executors="minimal"))
    key = own.open_build()
    build = own.world.application.open_builds()[key[0]]
    while own.name not in build.executors:  # another build, until replica 0 is drawn
        own.world.cancel(key[0], GATEWAY)
        key = own.open_build()
        build = own.world.application.open_builds()[key[0]]

    def overdue(now: float) -> list[tuple[str, Key]]:
        own.assignments.update(own.world.application.open_builds().values(), now)
        return own.requests.overdue(now)

    assert overdue(0.0) == []
    own.ballot(0, key)
    assert overdue(1.0) == []
    called = 1.0 + STAND_BY_SECONDS
    assert overdue(called) == []
    assert DEADLINE_SECONDS < BUILD_SECONDS_MAX
    assert overdue(called + DEADLINE_SECONDS) == [], "they began when we were done"
    assert overdue(called + BUILD_SECONDS_MAX) == [], "from here on they have as long as anybody"
    late = called + BUILD_SECONDS_MAX + DEADLINE_SECONDS
    assert overdue(late - 1.0) == []
    assert overdue(late) == [(VERDICT_DEADLINE, key)]


def test_who_stood_by_reports_too_that_a_decided_build_is_over() -> None:
    own = Own(Limits(executors="minimal"))
    key = own.open_build()
    for replica in (1, 2):
        own.world.apply(own.world.replica(replica), CastBallot(*key, FAILED))
    (build,) = own.world.application.open_builds().values()
    assert build.is_decided
    assert own.name not in build.ballots
    assert own.requests.overdue(0.0) == []
    assert own.requests.overdue(DEADLINE_SECONDS) == [(LATE_BALLOTS_DEADLINE, key)]


def test_a_silent_executor_that_reports_ends_no_build_that_takes_longer_than_the_deadline() -> None:
    world = World(limits=Limits(executors="minimal"))
    world.submit(1)
    (build,) = world.application.open_builds().values()
    liar, names = build.executors[0], world.cluster.replica_names
    own = {name: Own(name=name, world=world) for name in names if name != liar}
    begun: dict[str, float] = {}
    for second in range(400):
        now = float(second)
        for name, one in own.items():
            (build,) = world.application.open_builds().values() or (build,)
            if build.is_decided:
                break
            one.assignments.update([build], now)
            if one.assignments.call(build, now) is not None:
                begun.setdefault(name, now)
            if name not in build.ballots and now - begun.get(name, now) >= BUILD_SECONDS_MAX - 1:
                world.apply(name, CastBallot(build.id, build.opened, PASSED))
            for _, key in one.requests.overdue(now):
                world.apply(name, ReportDeadline(*key))
                world.apply(liar, ReportDeadline(*key))
    assert parse_statement(bytes(world.verdict_entries()[0].statement)).verdict.outcome == "passed"
