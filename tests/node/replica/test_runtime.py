"""The loop keeps the order of an Output: what is said is on disk first."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from ci.operations import Append
from driver.ports import SaveFailed
from node.diagnostics.message_trace import MESSAGES_MAX
from node.storage.store import Store
from pbft.authentication import Identity, sign_message
from pbft.codec import decode_message, encode_message
from pbft.core import Settings
from pbft.messages import Checkpoint, Commit, Envelope, Replies, Signed, Status
from tests.node.local_network import KEYS, NAMES, Network
from tests.waiting import wait_until


async def _executed(network: Network, sequence: int) -> None:
    await wait_until(
        lambda: all(r.replica.core.executed >= sequence for r in network.runtimes.values()),
        f"sequence number {sequence} on all",
    )


async def test_requests_are_executed_and_answered(network: Network) -> None:
    network.ask(Append("hello"))
    await _executed(network, 1)
    assert {a.journal_length for a in network.applications.values()} == {1}

    def answered() -> set[str]:
        return {
            sender
            for sender, to, envelope in network.sent
            if to == "client" and isinstance(decode_message(envelope.signed.payload), Replies)
        }

    await wait_until(lambda: answered() == set(NAMES), "an answer of each")


async def test_nothing_is_sent_while_the_disk_refuses(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.replica.runtime.SAVE_RETRY_SECONDS", 0.02)
    refused = 0
    real_commit = Store._commit

    def full(store: Store, *arguments: object) -> None:
        nonlocal refused
        if store is network.stores["node1"] and refused < 5:
            refused += 1
            said = [e for sender, _, e in network.sent if sender == "node1"]
            kinds = {type(decode_message(envelope.signed.payload)) for envelope in said}
            assert kinds <= {Status}, "a vote left before it was on disk"
            raise SaveFailed("no space left on device")
        real_commit(store, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "_commit", full)
    network.ask(Append("hello"))
    await _executed(network, 1)
    assert refused == 5
    assert network.runtimes["node1"].counters["saves_failed"] == 5


async def test_a_turn_that_waits_for_the_disk_did_not_take_in_what_came_after_it(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.replica.runtime.SAVE_RETRY_SECONDS", 0.02)
    runtime = network.runtimes["node0"]
    real_commit = Store._commit
    is_full = True

    def full(store: Store, *arguments: object) -> None:
        if store is network.stores["node0"] and is_full:
            raise SaveFailed("no space left on device")
        real_commit(store, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "_commit", full)
    network.ask(Append("one"))
    await wait_until(lambda: runtime.is_unsaved, "a turn that is not saved")
    signed = network.request(Append("two"))
    runtime.on_envelopes("http", [Envelope(signed)])

    async def is_known_after_turn() -> bool:
        await runtime.turn()
        return runtime.replica.core.pending.find(signed) is not None

    turn = asyncio.create_task(is_known_after_turn())
    refused = runtime.counters["saves_failed"]
    await wait_until(lambda: runtime.counters["saves_failed"] > refused + 1, "further refusals")
    assert not turn.done()
    is_full = False
    assert await turn


@pytest.mark.parametrize("place", ["turn", "save"])
async def test_what_a_fault_of_our_own_left_unsaved_is_not_shown(
    network: Network, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a fault of our own")

    runtime = network.runtimes["node1"]
    if place == "turn":
        monkeypatch.setattr(runtime.replica, "receive", fail)
    else:
        monkeypatch.setattr(network.stores["node1"], "save", fail)
    network.ask(Append("hello"))
    await wait_until(runtime.task.done, "the end of the loop")
    assert runtime.is_unsaved


@pytest.mark.parametrize("name", NAMES)
async def test_a_replica_that_was_stopped_goes_on_from_its_disk(
    network: Network, name: str
) -> None:
    network.ask(Append("one"))
    await _executed(network, 1)
    await network.stop(name)
    signed = network.ask(Append("two"))
    network.start(name)
    for runtime in network.runtimes.values():
        runtime.on_envelopes("client", [Envelope(signed)])
    await _executed(network, 2)
    assert {a.journal_length for a in network.applications.values()} == {2}
    assert len({a.ledger_head for a in network.applications.values()}) == 1


async def test_a_silent_replica_is_done_without(tmp_path: Path) -> None:
    network = Network(tmp_path)
    for name in NAMES:
        network.start(name, fault="silent" if name == "node3" else "allowed")
    network.ask(Append("hello"))
    await _executed(network, 1)
    assert not [sender for sender, _, _ in network.sent if sender == "node3"]
    await network.close()


async def test_the_last_messages_are_kept_and_bounded(network: Network) -> None:
    for number in range(40):
        network.ask(Append(f"{number}"))
    await wait_until(
        lambda: all(a.journal_length == 40 for a in network.applications.values()), "40 appends"
    )
    kept = list(network.runtimes["node0"].trace.newest())
    assert 0 < len(kept) <= MESSAGES_MAX
    assert {logged.direction for logged in kept} == {"received", "sent"}


async def test_the_inbox_has_a_limit(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.replica.runtime.INBOX_MESSAGES_MAX", 3)
    runtime = network.runtimes["node0"]
    for number in range(3):
        network.ask(Append(f"{number}"))
    assert not runtime.has_room.is_set()
    await wait_until(runtime.has_room.is_set, "room again")


async def test_the_inbox_has_a_limit_of_bytes_too(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few messages may be as large as many: no link is read while they wait for the disk."""
    monkeypatch.setattr("node.replica.runtime.INBOX_BYTES_MAX", 3000)
    runtime = network.runtimes["node0"]
    for number in range(2):
        assert runtime.has_room.is_set()
        network.ask(Append(f"{number}" * 1500))
    assert not runtime.has_room.is_set()
    await wait_until(runtime.has_room.is_set, "room again")
    network.ask(Append("2" * 1500))
    assert runtime.has_room.is_set()


async def test_what_is_due_sooner_is_not_missed(network: Network) -> None:
    """An alarm that rings too early stays; one that would ring too late does not."""
    runtime = network.runtimes["node0"]
    await runtime.turn()
    loop = asyncio.get_running_loop()
    runtime._set_alarm(loop.time() + 60)
    first = runtime._alarm
    assert first is not None
    assert first.when() < loop.time() + 2, "the loop looks around each second"
    runtime._set_alarm(first.when() - 0.1)
    assert runtime._alarm is not None
    assert runtime._alarm.when() == first.when() - 0.1
    assert first.cancelled()


def _checkpoint(network: Network, name: str, digest: bytes) -> Signed:
    message = Checkpoint(8, digest, NAMES.index(name))
    return sign_message(
        message, encode_message(message), Identity(network.cluster, name, KEYS[name].sign)
    )


async def test_a_contradiction_is_kept_with_both_originals(network: Network) -> None:
    both = [_checkpoint(network, "node3", bytes([n]) * 32) for n in (1, 2)]
    runtime = network.runtimes["node0"]
    for _ in range(3):
        runtime.on_envelopes("node3", [Envelope(signed) for signed in both])
    store = network.stores["node0"]
    await wait_until(lambda: bool(store.evidence.counts()), "evidence")
    assert store.evidence.counts() == {3: 1}
    await network.stop("node0")
    network.start("node0")
    kept = network.stores["node0"].evidence.page(0, 10, 10**6)
    assert [(k.evidence.replica, {k.evidence.first, k.evidence.second}) for k in kept] == [
        (3, set(both))
    ]


async def test_what_peers_say_is_known_once_it_is_checked(network: Network) -> None:
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    network.ask(Append("hello"))
    await _executed(network, 1)
    runtime = network.runtimes["node1"]

    def knows_all() -> bool:
        heard = [runtime.last_heard(index) for index in (0, 2, 3)]
        return all(h is not None and h[0].executed == 1 for h in heard)

    await wait_until(knows_all, "a STATUS of each")
    assert runtime.last_heard(1) is None, "a replica is not its own peer"
    lie = Status(9, True, 0, 99, 2)
    forged = Signed("node2", encode_message(lie), bytes(64))
    runtime.on_envelopes("node2", [Envelope(forged)])
    await runtime.turn()
    heard = runtime.last_heard(2)
    assert heard is not None
    assert heard[0].executed == 1
    assert 0 <= heard[1] <= loop.time() - began_at


async def test_messages_of_a_newer_version_are_refused_in_one_line(
    network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = network.runtimes["node0"]
    caplog.set_level("WARNING")
    for number in range(5):
        payload = msgspec.msgpack.encode(["summary", number, "of\na later version"])
        runtime.on_envelopes("node2", [Envelope(Signed("node2", payload, bytes(64)))])
        await runtime.turn()
    assert runtime.counters["refused"] == 5
    (record,) = caplog.records
    line = record.getMessage()
    assert "bears the name node2 is refused (malformed: Invalid value 'summary'" in line
    assert "upgrade this node" in line
    assert record.exc_info is None
    assert "\n" not in line
    assert b'pbftci_refusals_total{reason="malformed"' in runtime.metrics.text()
    network.ask(Append("hello"))
    await _executed(network, 1)


async def test_a_status_counts_only_over_the_link_of_its_signer(network: Network) -> None:
    """A faulty peer would use up with an old one what its signer is sent."""
    network.ask(Append("hello"))
    await _executed(network, 1)
    runtime = network.runtimes["node0"]

    def knows_node3() -> bool:
        heard = runtime.last_heard(3)
        return heard is not None and heard[0].executed == 1

    await wait_until(knows_node3, "the STATUS of node3")
    message, sign = Status(0, True, 0, 0, 3), KEYS["node3"].sign
    old = sign_message(message, encode_message(message), Identity(network.cluster, "node3", sign))

    async def is_answered(peer: str) -> bool:
        since = len(network.sent)
        runtime.on_envelopes(peer, [Envelope(old)])
        await runtime.turn()
        return any(
            (sender, to) == ("node0", "node3")
            and isinstance(decode_message(envelope.signed.payload), Commit)
            for sender, to, envelope in network.sent[since:]
        )

    for number, peer in enumerate(("node2", "client", "http"), 1):
        assert not await is_answered(peer)
        assert runtime.counters["relayed"] == number
    assert knows_node3()
    assert b'reason="not over its signer\'s link"} 3.0' in runtime.metrics.text()
    assert await is_answered("node3")
    assert runtime.counters["relayed"] == 3


async def test_a_primary_that_is_gone_is_replaced_and_a_restart_stays_in_the_view(
    tmp_path: Path,
) -> None:
    network = Network(tmp_path, settings=Settings(view_change_seconds=1.5, status_seconds=0.1))
    for name in NAMES:
        network.start(name)
    network.ask(Append("one"))
    await _executed(network, 1)
    await network.stop("node0")
    network.ask(Append("two"))
    await _executed(network, 2)
    # a busy machine may need one more
    (view,) = {r.replica.core.view for r in network.runtimes.values()}
    assert view >= 1
    await network.stop("node2")
    network.start("node2")
    core = network.runtimes["node2"].replica.core
    assert (core.view, core.has_entered) == (view, True)
    assert core.executed >= 2
    network.start("node0")
    network.ask(Append("three"))
    await wait_until(
        lambda: {a.journal_length for a in network.applications.values()} == {3}, "all of it on all"
    )
    assert len({a.ledger_head for a in network.applications.values()}) == 1
    await network.close()


async def test_a_replica_whose_disk_was_wiped_gets_the_state_and_notes_what_is_missing(
    tmp_path: Path,
) -> None:
    network = Network(tmp_path, settings=Settings(status_seconds=0.1))
    for name in NAMES:
        network.start(name)
    await network.stop("node3")
    for number in range(40):
        network.ask(Append(f"{number}"))
        await _executed_at_least(network, number + 1)
    network.wipe("node3")
    network.start("node3")

    def length(name: str) -> int:
        return network.applications[name].journal_length

    await wait_until(lambda: length("node3") == 40, "the whole state")
    gap = network.stores["node3"].ledger.gap()
    assert gap is not None
    assert gap.first == 1
    assert network.stores["node3"].ledger.end() == network.stores["node0"].ledger.end()
    await network.stop("node3")
    network.start("node3")
    assert network.stores["node3"].ledger.gap() == gap
    right = network.stores["node0"].ledger.page_up_to(gap.last, gap.missing, 1 << 20)
    assert network.stores["node3"].fill_gap(gap, right)
    network.ask(Append("one more"))
    await wait_until(lambda: length("node3") == length("node0") == 41, "one more")
    ledgers = [network.stores[name].ledger.entries(1, 1000) for name in ("node0", "node3")]
    assert ledgers[0] == ledgers[1]
    await network.close()


async def _executed_at_least(network: Network, appends: int) -> None:
    await wait_until(
        lambda: all(
            network.applications[name].journal_length >= appends for name in network.runtimes
        ),
        f"{appends} appends",
    )
