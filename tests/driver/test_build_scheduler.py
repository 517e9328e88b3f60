"""A replica casts one ballot on a build, saved before it is sent, and sends it until it counts."""

from collections.abc import Sequence

import pytest

from ci.assignments import Key
from ci.ballots import BALLOT, RESEND_SECONDS, VERDICT_DEADLINE, ReplicaRequest
from ci.executors import StandbyTimeout, StartReason
from ci.limits import Limits
from ci.operations import CastBallot, Event, ReportDeadline, decode_operation
from driver.build_scheduler import BuildScheduler, SchedulerPorts, pending_builds
from driver.ports import BuildOrder, SaveFailed
from pbft.authentication import Identity
from pbft.client_table import ClientTable, StoredResult
from pbft.codec import decode_request, digest_of
from pbft.messages import Signed
from tests.ci.builders import FAILED, PASSED, World, signing_key
from tests.ci.operated_world import OperatedWorld

DEADLINE_SECONDS = 60.0


class Disk:
    """A driver.ports.RequestDisk. log: what was done, shared with the links."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.requests: dict[int, ReplicaRequest] = {}
        self.pending: dict[int, ReplicaRequest] = {}
        self.refuses = self.refuses_to_secure = False

    def pending_requests(self) -> list[ReplicaRequest]:
        return list(self.pending.values())

    def has_request(self, purpose: str, key: Key) -> bool:
        return any((r.purpose, r.key) == (purpose, key) for r in self.requests.values())

    def last_timestamp(self) -> int:
        return max(self.requests, default=0)

    def add_request(self, request: ReplicaRequest, instead_of: int | None) -> None:
        if self.refuses:
            raise SaveFailed("no space left on device")
        self.log.append(f"save {request.timestamp}")
        if instead_of is not None:
            del self.pending[instead_of]
        self.requests[request.timestamp] = self.pending[request.timestamp] = request

    def secure_requests(self) -> None:
        if self.refuses_to_secure:
            raise SaveFailed("no space left on device")

    def forget_requests(self, timestamps: Sequence[int]) -> None:
        for timestamp in timestamps:
            del self.pending[timestamp]


class Shell:
    """A replica's disk, builder, links and log, and its scheduler from start to start."""

    def __init__(self, limits: Limits | None = None, world: World | None = None) -> None:
        limits = limits or Limits(deadline_seconds=int(DEADLINE_SECONDS))
        self.world = world or World(limits=limits)
        self.name = self.world.replica(0)
        self.clients = ClientTable(256)
        self.log: list[str] = []
        self.disk = Disk(self.log)
        self.begun: list[BuildOrder] = []
        self.stopped: list[Key] = []
        self.sent: list[Signed] = []
        self.scheduler = self.restart()

    def restart(self) -> BuildScheduler:
        identity = Identity(
            self.world.cluster,
            self.name,
            lambda message: bytes(signing_key(self.name).sign(message).signature),
        )
        self.scheduler = BuildScheduler(
            identity,
            self.world.application,
            SchedulerPorts(self.disk, self, self, self),
            clients=self.clients,
            standby_timeout=lambda limits: StandbyTimeout(20.0, limits.build_seconds_max),
        )
        self.scheduler.take_up()
        return self.scheduler

    def begin(self, order: BuildOrder, reason: StartReason) -> None:
        self.begun.append(order)

    def stop(self, key: Key) -> None:
        self.stopped.append(key)

    def ask(self, signed: Signed) -> None:
        self.log.append(f"send {decode_request(signed).timestamp}")
        self.sent.append(signed)

    def warning(self, text: str, /) -> None:
        self.log.append(text)

    def error(self, text: str, /) -> None:
        self.log.append("error")

    def open_build(self, identity: int = 1) -> Key:
        self.world.submit(identity)
        build = list(self.world.application.open_builds().values())[-1]
        return (build.id, build.opened)

    def execute(self, timestamp: int, request: ReplicaRequest | None) -> None:
        """That timestamp is executed, by this request or by one that nobody remembers."""
        digest = digest_of(request.signed.payload) if request else bytes(32)
        self.clients.record(self.name, timestamp, StoredResult(digest, "done", b"", b""))
        if request is not None:
            operation = decode_operation(decode_request(request.signed).operation)
            self.world.apply(self.name, operation)


@pytest.fixture(name="shell")
def fixture_shell() -> Shell:
    return Shell()


def test_a_build_is_begun_once_and_its_ballot_is_saved_before_it_is_sent(shell: Shell) -> None:
    key = shell.open_build()
    shell.scheduler.update(0.0)
    shell.scheduler.update(1.0)
    assert [order.key for order in shell.begun] == [key]
    assert shell.scheduler.has_begun(key)
    shell.scheduler.on_built(key, PASSED, 2.0)
    assert shell.log == ["save 1", "send 1"]
    shell.scheduler.update(3.0)
    assert len(shell.begun) == 1


def test_what_is_ordered_is_what_was_asked_for(shell: Shell) -> None:
    shell.world.submit(1, event=Event.CRON, schedule="nightly")
    shell.world.submit(2, is_cold=True)
    shell.scheduler.update(0.0)
    found = {(order.schedule, order.is_cold) for order in shell.begun}
    assert found == {("nightly", False), (None, True)}


def test_a_ballot_that_the_disk_refuses_is_not_sent_until_it_is_saved(shell: Shell) -> None:
    key = shell.open_build()
    shell.scheduler.update(0.0)
    shell.disk.refuses = True
    shell.scheduler.on_built(key, PASSED, 1.0)
    shell.scheduler.update(2.0)
    assert shell.log == ["error", "error"]
    assert len(shell.begun) == 1, "what was found is kept"
    shell.disk.refuses = False
    shell.scheduler.update(3.0)
    assert shell.log[2:] == ["save 1", "send 1"]


def test_a_ballot_that_is_not_secured_is_sent_later(shell: Shell) -> None:
    key = shell.open_build()
    shell.scheduler.update(0.0)
    shell.disk.refuses_to_secure = True
    shell.scheduler.on_built(key, PASSED, 1.0)
    assert shell.log == ["save 1", "error"]
    shell.disk.refuses_to_secure = False
    shell.scheduler.update(1.0 + RESEND_SECONDS)
    assert shell.log[2:] == ["send 1"]


def test_a_restart_sends_the_same_ballot_again_and_builds_nothing_again(shell: Shell) -> None:
    key = shell.open_build()
    shell.scheduler.update(0.0)
    shell.scheduler.on_built(key, PASSED, 1.0)
    shell.restart().update(0.0)
    assert shell.log == ["save 1", "send 1", "send 1"]
    assert shell.sent[0] == shell.sent[1], "the same timestamp, the same bytes"
    assert len(shell.begun) == 1


def test_a_build_under_way_begins_again_after_a_restart(shell: Shell) -> None:
    shell.open_build()
    shell.scheduler.update(0.0)
    shell.restart().update(0.0)
    assert len(shell.begun) == 2


def test_a_ballot_is_sent_again_until_it_is_executed(shell: Shell) -> None:
    key = shell.open_build()
    shell.scheduler.update(0.0)
    shell.scheduler.on_built(key, PASSED, 1.0)
    shell.scheduler.update(1.0 + RESEND_SECONDS)
    assert shell.log == ["save 1", "send 1", "send 1"]
    shell.execute(1, shell.disk.requests[1])
    shell.scheduler.update(100.0)
    assert shell.log == ["save 1", "send 1", "send 1"]
    assert shell.disk.pending == {}


def test_a_ballot_whose_timestamp_was_used_gets_another_one(shell: Shell) -> None:
    key = shell.open_build()
    shell.scheduler.update(0.0)
    shell.scheduler.on_built(key, PASSED, 1.0)
    shell.execute(1, None)
    shell.scheduler.update(1.5)
    assert shell.log[-2:] == ["save 2", "send 2"]
    assert list(shell.disk.pending) == [2]
    assert decode_request(shell.sent[0]).operation == decode_request(shell.sent[1]).operation


def test_a_build_that_is_over_is_stopped_and_its_late_ballot_is_not_cast(shell: Shell) -> None:
    key = shell.open_build()
    shell.scheduler.update(0.0)
    shell.world.cancel(key[0], "gateway")
    shell.scheduler.update(1.0)
    assert shell.stopped == [key]
    shell.scheduler.on_built(key, PASSED, 2.0)
    assert shell.log == []


def test_a_build_whose_builder_failed_begins_again(shell: Shell) -> None:
    key = shell.open_build()
    shell.scheduler.update(0.0)
    shell.scheduler.on_failed(key)
    shell.scheduler.update(1.0)
    assert [order.key for order in shell.begun] == [key, key]


def test_a_weak_build_that_is_left_to_others_does_not_begin_again() -> None:
    shell = Shell(Limits(executors="minimal", weak_agreement_allowed=True))
    identity = 0
    while True:
        identity += 1
        key = shell.open_build(identity)
        executors = shell.world.application.open_builds()[key[0]].executors
        if shell.name in executors[2:]:
            break
        shell.world.cancel(key[0], "gateway")
    shell.scheduler.update(0.0)
    assert [order.is_spare for order in shell.begun] == [True]
    shell.scheduler.on_left(key)
    shell.scheduler.update(1.0)
    assert len(shell.begun) == 1
    assert not shell.scheduler.has_begun(key)


def test_a_deadline_is_reported_once(shell: Shell) -> None:
    key = shell.open_build()
    shell.world.apply(shell.name, CastBallot(*key, PASSED))
    shell.scheduler.update(0.0)
    shell.scheduler.update(DEADLINE_SECONDS)
    shell.scheduler.update(DEADLINE_SECONDS + 0.1)
    reports = [decode_operation(decode_request(signed).operation) for signed in shell.sent]
    assert reports == [ReportDeadline(*key)]
    assert shell.disk.has_request(VERDICT_DEADLINE, key)
    assert not shell.disk.has_request(BALLOT, key)


def test_each_build_has_the_deadline_and_the_limits_that_it_was_opened_under() -> None:
    """Replicas that took the newest limits would disagree about builds that were open before."""
    longer = Limits(deadline_seconds=3 * int(DEADLINE_SECONDS), pids_max=99)
    limits = Limits(deadline_seconds=int(DEADLINE_SECONDS))
    world = OperatedWorld(limits=limits)
    shell = Shell(world=world)
    before = shell.open_build(1)
    world.change(longer)
    after = shell.open_build(2)
    shell.scheduler.update(0.0)
    assert {order.key: order.limits for order in shell.begun} == {before: limits, after: longer}
    for key in (before, after):
        shell.scheduler.on_built(key, PASSED, 0.0)
    for timestamp, request in enumerate(list(shell.disk.pending_requests()), 1):
        shell.execute(timestamp, request)
    reported = []
    for now in range(0, 4 * int(DEADLINE_SECONDS), 5):
        sent = len(shell.sent)
        shell.scheduler.update(float(now))
        operations = [decode_operation(decode_request(s).operation) for s in shell.sent[sent:]]
        reported += [(now, o.build) for o in operations if isinstance(o, ReportDeadline)]
    first = {build: min(now for now, other in reported if other == build) for _, build in reported}
    assert first == {before[0]: DEADLINE_SECONDS, after[0]: 3 * DEADLINE_SECONDS}


def test_pending_builds_are_the_oldest_first_and_without_those_voted_on(shell: Shell) -> None:
    keys = [shell.open_build(identity) for identity in (1, 2, 3)]
    shell.world.apply(shell.name, CastBallot(*keys[1], FAILED))
    builds = dict(reversed(list(shell.world.application.open_builds().items())))
    assert list(pending_builds(builds, shell.name)) == [keys[0], keys[2]]
