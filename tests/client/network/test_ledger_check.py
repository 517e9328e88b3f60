"""ledger_check: only what f+1 replicas give alike is checked, and nothing else is shown."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from ci.ledger import (
    AppendEntry,
    LimitsEntry,
    RecordedApproval,
    encode_entry,
    genesis_head,
    next_head,
)
from ci.ledger_proof import ledger_proof
from ci.limits import Limits
from ci.operations import Append
from client.network import ledger_check
from client.network.ledger_check import BLOCK_ENTRIES, LedgerAbsent, LedgerCheck
from client.network.limits_history import LimitsHistory
from client.network.node_status import NodeStatus
from client.network.nodes import Nodes, ServedLedgerProof, decode_answer
from common.web.peers import Peers
from pbft.authentication import Identity, sign_message
from pbft.certificates import state_digest
from pbft.codec import encode_message
from pbft.messages import Checkpoint
from pbft.ports import Entry
from tests.ci.builders import World
from tests.client.running_network import Network, key_of

NAMES = ("replica-0", "replica-1", "replica-2", "replica-3")


@pytest.fixture
async def nodes(network: Network) -> AsyncIterator[Nodes]:
    async with Nodes(Peers(network.addresses)) as nodes:
        yield nodes


@pytest.fixture
def check(network: Network, nodes: Nodes) -> LedgerCheck:
    return LedgerCheck(network.cluster, nodes, LimitsHistory(network.limits))


def chain(network: Network, count: int, mark: str = "", head: bytes = b"") -> list[Entry]:
    """A ledger of appends whose hash chain holds; another one for another mark."""
    head = head or genesis_head(network.cluster.id)
    entries = []
    for index in range(1, count + 1):
        body = encode_entry(AppendEntry("gateway", f"{mark}{index}", index, "00"))
        head = next_head(head, index, body)
        entries.append(Entry(index, body, head))
    return entries


def serve(network: Network, ledger: Sequence[Entry], *names: str) -> None:
    for name in names or NAMES:
        network.nodes[name].ledger = list(ledger)


async def advance(network: Network, check: LedgerCheck, *silent: str) -> None:
    """Let it check by what the nodes say that they have."""
    statuses = {}
    for name, node in network.nodes.items():
        if name not in silent:
            head = node.ledger[-1].head if node.ledger else genesis_head(network.cluster.id)
            proof = node.ledger_proof
            statuses[name] = NodeStatus(
                ledger_index=len(node.ledger),
                ledger_head=head.hex(),
                stable_checkpoint=0 if proof is None else proof.sequence,
            )
    await check.advance(statuses)


async def test_limits_are_taken_from_what_was_checked_and_from_nothing_else(
    network: Network, nodes: Nodes
) -> None:
    """A liar gives the head that all give, is read first, and serves another entry under it."""
    limits = LimitsHistory(network.limits)
    told: list[Limits] = []
    limits.on_change = told.append
    check = LedgerCheck(network.cluster, nodes, limits)

    def ledger(pids_max: int) -> list[Entry]:
        changed = msgspec.structs.asdict(Limits(pids_max=pids_max))
        entry = LimitsEntry(1, 7, changed, 9, "00", (RecordedApproval("ann", ("replica-0",)),))
        body = encode_entry(entry)
        return [Entry(1, body, next_head(genesis_head(network.cluster.id), 1, body))]

    (honest,) = ledger(99)
    (false,) = ledger(666)
    serve(network, [Entry(1, false.body, honest.head)], "replica-0")
    serve(network, [honest], *NAMES[1:])
    await advance(network, check)
    assert check.state.index == 1
    assert told == [Limits(pids_max=99)]
    assert (limits.at(7), limits.at(8).pids_max) == (network.limits, 99)


def asked_for_entries(network: Network) -> int:
    return sum(node.served.count("/ledger") for node in network.nodes.values())


async def test_a_ledger_that_all_give_alike(network: Network, check: LedgerCheck) -> None:
    ledger = chain(network, 137)
    serve(network, ledger)
    await advance(network, check)
    state = check.state
    assert (state.index, state.head) == (137, ledger[-1].head.hex())
    assert (state.agreed_by, state.there_are, state.problem) == (NAMES, 137, None)
    assert (state.certified, state.alarm, state.differing) == (None, None, {})
    found = await check.stretch(88, 137)
    assert found.entries == tuple(ledger[87:])
    assert found.head_before == ledger[86].head
    first = await check.stretch(1, 50)
    assert first.head_before == genesis_head(network.cluster.id)


async def test_only_what_is_new_is_read(network: Network, check: LedgerCheck) -> None:
    ledger = chain(network, 1200)
    serve(network, ledger[:1100])
    await advance(network, check)
    before = asked_for_entries(network)
    serve(network, ledger)
    await advance(network, check)
    assert check.state.index == 1200
    # each of the four for the newest head, and one of them for the hundred new entries
    assert asked_for_entries(network) - before == 5
    await advance(network, check)
    assert asked_for_entries(network) - before == 5, "nothing is new"


async def test_a_long_ledger_is_kept_step_by_step(
    network: Network, check: LedgerCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_check, "STEP_ENTRIES", 100)
    ledger = chain(network, 350)
    serve(network, ledger)
    # three have another entry 251: no f+1 agree from there on
    for name in NAMES[1:]:
        own = chain(network, 350, name)
        network.nodes[name].ledger = [*ledger[:250], *own[250:]]
    await advance(network, check)
    assert check.state.index == 200
    assert "2 equal answers are needed" in (check.state.problem or "")
    assert check.state.there_are == 350


async def test_a_liar_is_named_and_changes_nothing(network: Network, check: LedgerCheck) -> None:
    ledger, false = chain(network, 60), chain(network, 60, "false")
    serve(network, ledger)
    serve(network, false, "replica-0")
    await advance(network, check)
    state = check.state
    assert (state.index, state.head) == (60, ledger[-1].head.hex())
    assert state.agreed_by == NAMES[1:]
    assert state.differing == {"replica-0": 60}
    assert (await check.stretch(11, 60)).served_by != "replica-0"
    serve(network, ledger)
    await advance(network, check)
    assert check.state.differing == {}, "it gives the others' ledger again"


async def test_a_liar_about_the_length_keeps_nobody_reading(
    network: Network, check: LedgerCheck
) -> None:
    serve(network, chain(network, 10))
    serve(network, chain(network, 5000), "replica-3")
    await advance(network, check)
    assert (check.state.index, check.state.there_are) == (10, 10)


async def test_one_that_says_the_head_and_gives_other_entries_is_passed_over(
    network: Network, check: LedgerCheck
) -> None:
    ledger = chain(network, 120)
    serve(network, ledger)
    false = chain(network, 119, "false")
    serve(network, [*false, ledger[-1]], "replica-0")
    await advance(network, check)
    assert (check.state.index, check.state.problem) == (120, None)
    assert check.state.served_by == "replica-1"
    # and one that gives other entries later is not believed either
    serve(network, [*false, ledger[-1]], "replica-1")
    assert (await check.stretch(71, 120)).entries == tuple(ledger[70:])
    serve(network, false)
    with pytest.raises(LedgerAbsent, match="others than those that were checked"):
        await check.stretch(1, 50)


async def test_too_few_answers_and_no_two_alike(network: Network, check: LedgerCheck) -> None:
    serve(network, chain(network, 10))
    await advance(network, check, *NAMES[1:])
    assert check.state.index == 0
    assert "too few replicas answer: 1; it takes 2" in (check.state.problem or "")
    for name in NAMES:
        serve(network, chain(network, 10, name), name)
    await advance(network, check)
    assert check.state.index == 0
    assert "2 equal answers are needed" in (check.state.problem or "")


async def test_what_was_checked_stays_when_only_one_answers(
    network: Network, check: LedgerCheck
) -> None:
    ledger = chain(network, 70)
    serve(network, ledger)
    await advance(network, check)
    for name in NAMES[1:]:
        network.nodes[name].is_down = True
    await advance(network, check, *NAMES[1:])
    assert (check.state.index, check.state.there_are) == (70, None)
    assert (await check.stretch(21, 70)).entries == tuple(ledger[20:])
    network.nodes["replica-0"].is_down = True
    with pytest.raises(LedgerAbsent, match="no replica gives entries 1 to 50"):
        await check.stretch(1, 20)


async def test_what_was_fetched_is_kept_within_bounds(
    network: Network, check: LedgerCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_check, "KEPT_STRETCHES", 2)
    ledger = chain(network, 4 * BLOCK_ENTRIES)
    serve(network, ledger)
    await advance(network, check)
    before = asked_for_entries(network)
    for first in (1, 51, 1, 51):
        assert (await check.stretch(first, first + 9)).entries == tuple(ledger[first - 1 :][:10])
    assert asked_for_entries(network) - before == 2
    await check.stretch(101, 110)
    await check.stretch(1, 10)
    assert asked_for_entries(network) - before == 4, "the one that was looked at longest ago went"
    assert len(check._kept) == 2
    assert check._kept_bytes == sum(
        len(e.body) for kept in check._kept.values() for e in kept.entries
    )


async def test_many_who_ask_at_once_cost_one_question(network: Network, check: LedgerCheck) -> None:
    ledger = chain(network, 2 * BLOCK_ENTRIES)
    serve(network, ledger)
    await advance(network, check)
    before = asked_for_entries(network)
    found = await asyncio.gather(*(check.stretch(1, 10) for _ in range(20)))
    assert all(stretch.entries == tuple(ledger[:10]) for stretch in found)
    assert asked_for_entries(network) - before == 1


async def test_a_node_that_gives_more_than_can_be_is_passed_over(
    network: Network, check: LedgerCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = chain(network, 2 * BLOCK_ENTRIES)
    serve(network, ledger)
    await advance(network, check)
    assert check.state.served_by == "replica-0"
    monkeypatch.setattr(ledger_check, "STRETCH_BYTES_MAX", 100 * BLOCK_ENTRIES)
    serve(network, chain(network, 2 * BLOCK_ENTRIES, "long" * 100), "replica-0")
    assert (await check.stretch(1, 10)).entries == tuple(ledger[:10])
    serve(network, chain(network, 2 * BLOCK_ENTRIES, "long" * 100))
    with pytest.raises(LedgerAbsent, match="replica-0: more than 5000 bytes of entries"):
        await check.stretch(51, 60)


async def test_a_node_that_hangs_is_met_once(
    network: Network, nodes: Nodes, check: LedgerCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = chain(network, 2 * BLOCK_ENTRIES)
    serve(network, ledger)
    await advance(network, check)
    monkeypatch.setattr(ledger_check, "STRETCH_SECONDS", 5.0)
    asked = []
    page_of = nodes.ledger_page

    async def page_or_nothing(replica: str, *values: Any, **named: Any) -> tuple[list[Entry], int]:
        asked.append(replica)
        if replica == "replica-0":
            await asyncio.Event().wait()
        return await page_of(replica, *values, **named)

    monkeypatch.setattr(nodes, "ledger_page", page_or_nothing)
    assert (await check.stretch(1, 10)).entries == tuple(ledger[:10])
    assert (await check.stretch(51, 60)).entries == tuple(ledger[50:60])
    assert asked == ["replica-0", "replica-1", "replica-1"]


def certify(network: Network, world: World, sequence: int, signers: int = 3) -> None:
    """Let replica-2 serve a certificate over that world's state."""
    parts = {"epoch": bytes(8), **world.application.parts()}
    digest = state_digest(parts)
    cluster = network.cluster
    signed = []
    for index in range(signers):
        message = Checkpoint(sequence, digest, index)
        name = cluster.replica_names[index]
        signed.append(
            sign_message(
                message, encode_message(message), Identity(cluster, name, key_of(name).sign)
            )
        )
    network.nodes["replica-2"].ledger_proof = ledger_proof(sequence, tuple(signed), parts)


@pytest.fixture
def world(network: Network) -> World:
    """A real application's ledger of 130 appends, which all nodes serve."""
    world = World(network.cluster, network.limits)
    for number in range(130):
        world.apply("gateway", Append(str(number)))
    serve(network, world.ledger)
    return world


async def test_a_certificate_covers_what_it_signs(
    network: Network, check: LedgerCheck, world: World
) -> None:
    certify(network, world, 128)
    for number in range(5):
        world.apply("gateway", Append(str(number)))
    serve(network, world.ledger)
    await advance(network, check)
    state = check.state
    assert (state.index, state.certified, state.checkpoint) == (135, 130, 128)
    assert state.signed_by == NAMES[:3]
    assert state.alarm is None


async def test_a_certificate_with_too_few_signatures_is_none(
    network: Network, check: LedgerCheck, world: World
) -> None:
    certify(network, world, 128, signers=2)
    await advance(network, check)
    assert (check.state.index, check.state.certified) == (130, None)
    asked = network.nodes["replica-2"].served.count("/ledger/proof")
    await advance(network, check)
    assert network.nodes["replica-2"].served.count("/ledger/proof") == asked, "not asked again"
    certify(network, world, 256)
    await advance(network, check)
    assert check.state.certified == 130


async def test_one_that_gives_no_certificate_now_is_asked_again(
    network: Network, check: LedgerCheck, world: World
) -> None:
    """Also on an idle cluster, where no newer checkpoint ever comes."""
    certify(network, world, 128)
    node = network.nodes["replica-2"]
    node.is_down = True
    await advance(network, check)
    assert (check.state.index, check.state.certified) == (130, None)
    node.is_down = False
    await advance(network, check)
    assert check.state.certified == 130


async def test_a_certificate_that_cannot_be_read_is_not_asked_for_again(
    network: Network,
    nodes: Nodes,
    check: LedgerCheck,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certify(network, world, 128)
    asked = []

    async def ledger_proof(replica: str) -> ServedLedgerProof:
        asked.append(replica)
        return decode_answer(b"nonsense", ServedLedgerProof, replica)

    monkeypatch.setattr(nodes, "ledger_proof", ledger_proof)
    await advance(network, check)
    await advance(network, check)
    assert asked == ["replica-2"]
    assert check.state.certified is None


async def test_a_certificate_over_another_ledger_is_an_alarm(
    network: Network, check: LedgerCheck, world: World
) -> None:
    """f+1 that answer with one ledger and 2f+1 that signed for another: more than f lie."""
    other = World(network.cluster, network.limits)
    for number in range(120):
        other.apply("gateway", Append(f"other {number}"))
    certify(network, other, 128)
    await advance(network, check)
    assert check.state.certified is None
    assert "signed another head for entry 120" in (check.state.alarm or "")
