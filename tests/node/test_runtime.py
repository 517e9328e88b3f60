"""The loop keeps the order of an Output: what is said is on disk first."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ci.operations import Append
from node.store import SaveFailed, Store
from pbft.codec import decode_message
from pbft.messages import Envelope, Replies, Status
from tests.node.house import NAMES, House
from tests.waiting import wait_until


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Four running replicas."""
    house = House(tmp_path)
    for name in NAMES:
        house.start(name)
    yield house
    await house.close()


async def _executed(house: House, sequence: int) -> None:
    await wait_until(
        lambda: all(r.replica.core.executed >= sequence for r in house.runtimes.values()),
        f"sequence number {sequence} on all",
    )


async def test_requests_are_executed_and_answered(house: House) -> None:
    house.ask(Append("hello"))
    await _executed(house, 1)
    assert {a.journal_length for a in house.applications.values()} == {1}

    def answered() -> set[str]:
        return {
            sender
            for sender, to, envelope in house.sent
            if to == "client" and isinstance(decode_message(envelope.signed.payload), Replies)
        }

    await wait_until(lambda: answered() == set(NAMES), "an answer of each")


async def test_nothing_is_sent_while_the_disk_refuses(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.runtime.SAVE_RETRY_SECONDS", 0.02)
    refused = 0
    real_commit = Store._commit

    def full(store: Store, *arguments: object) -> None:
        nonlocal refused
        if store is house.stores["node1"] and refused < 5:
            refused += 1
            said = [e for sender, _, e in house.sent if sender == "node1"]
            kinds = {type(decode_message(envelope.signed.payload)) for envelope in said}
            assert kinds <= {Status}, "a vote left before it was on disk"
            raise SaveFailed("no space left on device")
        real_commit(store, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "_commit", full)
    house.ask(Append("hello"))
    await _executed(house, 1)
    assert refused == 5
    assert house.runtimes["node1"].counters["saves_failed"] == 5


@pytest.mark.parametrize("name", NAMES)
async def test_a_replica_that_was_stopped_goes_on_from_its_disk(house: House, name: str) -> None:
    house.ask(Append("one"))
    await _executed(house, 1)
    await house.stop(name)
    signed = house.ask(Append("two"))
    house.start(name)
    for runtime in house.runtimes.values():
        runtime.on_envelopes("client", [Envelope(signed)])
    await _executed(house, 2)
    assert {a.journal_length for a in house.applications.values()} == {2}
    assert len({a.ledger_head for a in house.applications.values()}) == 1


async def test_a_silent_replica_is_done_without(tmp_path: Path) -> None:
    house = House(tmp_path)
    for name in NAMES:
        house.start(name, fault="silent" if name == "node3" else None)
    house.ask(Append("hello"))
    await _executed(house, 1)
    assert not [sender for sender, _, _ in house.sent if sender == "node3"]
    await house.close()


async def test_the_last_messages_are_kept_and_bounded(house: House) -> None:
    for number in range(40):
        house.ask(Append(f"{number}"))
    await wait_until(
        lambda: all(a.journal_length == 40 for a in house.applications.values()), "40 appends"
    )
    kept = house.runtimes["node0"].last_messages
    assert 0 < len(kept) <= 512
    assert {logged.direction for logged in kept} == {"received", "sent"}


async def test_the_inbox_has_a_limit(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.runtime.INBOX_MESSAGES_MAX", 3)
    runtime = house.runtimes["node0"]
    for number in range(3):
        house.ask(Append(f"{number}"))
    assert not runtime.has_room.is_set()
    await wait_until(runtime.has_room.is_set, "room again")
