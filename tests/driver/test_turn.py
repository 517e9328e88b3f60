"""A turn gives out nothing before it is saved, and no other turn begins meanwhile."""

from typing import cast

import pytest

from driver.turn import TurnDriver, executed_ballots, has_executed
from pbft.messages import Envelope, Signed
from pbft.ports import Evidence, Output, SavedMessage, Send
from pbft.replica import Replica

SIGNED = Signed("r0", b"payload", bytes(64))
ENVELOPE = Envelope(SIGNED, b"body")
SENT = Send(None, ENVELOPE)


class ScriptedReplica:
    """Gives back `output`, and keeps what it is fed."""

    def __init__(self) -> None:
        self.output = Output(records=[SavedMessage(SIGNED)], messages=[SENT], deadline=100.0)
        self.fed: list[object] = []

    def on_peer_connected(self, peer: str, now: float) -> Output:
        self.fed.append(peer)
        return Output(deadline=self.output.deadline)

    def receive(self, envelopes: list[Envelope], now: float) -> Output:
        self.fed.append(list(envelopes))
        return self.output

    def handle_timer(self, now: float) -> Output:
        self.fed.append(now)
        return self.output

    def begin_recovery(self, nonce: bytes, now: float) -> Output:
        self.fed.append(nonce)
        return self.output


@pytest.fixture(name="replica")
def fixture_replica() -> ScriptedReplica:
    return ScriptedReplica()


@pytest.fixture(name="driver")
def fixture_driver(replica: ScriptedReplica) -> TurnDriver:
    """A driver whose timer is not due yet."""
    driver = TurnDriver(cast(Replica, replica))
    first = driver.begin(0.0)
    assert first is not None
    first.saved()
    replica.fed.clear()
    return driver


def test_what_is_said_comes_out_once_it_is_saved(driver: TurnDriver) -> None:
    driver.take([ENVELOPE])
    turn = driver.begin(1.0)
    assert turn is not None
    assert turn.to_save is not None
    assert turn.to_save.records == [SavedMessage(SIGNED)]
    assert driver.is_unsaved
    (output,) = turn.saved()
    assert output.messages == [SENT]
    assert not driver.is_unsaved


def test_nothing_is_fed_in_while_a_turn_waits_for_the_disk(
    driver: TurnDriver, replica: ScriptedReplica
) -> None:
    driver.take([ENVELOPE])
    turn = driver.begin(1.0)
    assert turn is not None
    driver.take([ENVELOPE, ENVELOPE])
    driver.connect("r3")
    assert driver.begin(200.0) is None
    assert replica.fed == [[ENVELOPE]]
    turn.saved()
    assert driver.has_input
    assert driver.begin(2.0) is not None
    assert replica.fed == [[ENVELOPE], "r3", [ENVELOPE, ENVELOPE]]


def test_a_turn_is_saved_once(driver: TurnDriver) -> None:
    driver.take([ENVELOPE])
    turn = driver.begin(1.0)
    assert turn is not None
    turn.saved()
    with pytest.raises(AssertionError, match="saved once"):
        turn.saved()


def test_the_inbox_is_drained_whole_and_its_bytes_are_counted(driver: TurnDriver) -> None:
    driver.take([ENVELOPE, ENVELOPE])
    assert driver.inbox_bytes == 2 * (len(b"payload") + len(b"body"))
    driver.begin(1.0)
    assert driver.inbox == []
    assert driver.inbox_bytes == 0


def test_the_timer_is_handled_when_it_is_due_and_after_the_messages(
    driver: TurnDriver, replica: ScriptedReplica
) -> None:
    assert driver.deadline == 100.0
    assert driver.begin(99.0) is None
    assert not driver.is_unsaved, "no turn began"
    driver.take([ENVELOPE])
    replica.output.deadline = None
    assert driver.begin(100.0) is not None
    assert replica.fed == [[ENVELOPE], 100.0]
    assert driver.deadline == 100.0, "an output without a deadline leaves the timer as it is"


def test_evidence_is_saved_too_and_a_turn_without_either_has_nothing_to_save(
    driver: TurnDriver, replica: ScriptedReplica
) -> None:
    replica.output = Output(messages=[SENT], deadline=100.0)
    driver.take([ENVELOPE])
    turn = driver.begin(1.0)
    assert turn is not None
    assert turn.to_save is None
    turn.saved()
    replica.output = Output(evidence=[Evidence(3, SIGNED, SIGNED)], deadline=100.0)
    driver.take([ENVELOPE])
    turn = driver.begin(1.0)
    assert turn is not None
    assert turn.to_save is not None
    assert turn.to_save.evidence == [Evidence(3, SIGNED, SIGNED)]


def test_a_recovery_is_a_turn_that_is_saved_before_it_is_sent(replica: ScriptedReplica) -> None:
    driver = TurnDriver(cast(Replica, replica))
    turn = driver.begin_recovery(bytes(32), 0.0)
    assert turn.to_save is not None
    driver.take([ENVELOPE])
    assert driver.begin(1.0) is None
    assert turn.saved()[0].messages == [SENT]


def test_a_core_that_fails_is_never_fed_again(
    driver: TurnDriver, replica: ScriptedReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Output:
        raise ValueError("a fault of our own")

    monkeypatch.setattr(replica, "receive", fail)
    driver.take([ENVELOPE])
    with pytest.raises(ValueError, match="our own"):
        driver.begin(1.0)
    assert driver.is_unsaved
    driver.take([ENVELOPE])
    assert driver.begin(2.0) is None


def test_a_checker_sees_a_turn_before_it_is_saved(replica: ScriptedReplica) -> None:
    seen: list[tuple[list[Output], bool]] = []
    driver = TurnDriver(cast(Replica, replica), lambda outputs, due: seen.append((outputs, due)))
    driver.begin(0.0)
    assert seen == [([replica.output], True)]


def test_outputs_without_an_execution_execute_nothing() -> None:
    assert not has_executed([Output(), Output(messages=[SENT])])
    assert executed_ballots([Output()]) == []
