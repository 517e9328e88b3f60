"""What must hold in every world at every time: the invariants of safety, as functions."""

from pbft.codec import decode_message
from pbft.messages import Checkpoint, Commit, NewView, Prepare, PrePrepare, ViewChange
from pbft.ports import Entry
from tests.pbft.world import World


def check_safety(world: World, correct: tuple[str, ...] | None = None) -> None:
    """Agreement, ledger prefix, no gap, no double execution, no equivocation, no left view.

    correct: the replicas that follow the protocol; all by default.
    """
    names = correct or world.names
    check_agreement(world, names)
    check_ledgers(world, names)
    check_no_equivocation(world, names)
    check_no_vote_in_a_left_view(world, names)


def check_agreement(world: World, names: tuple[str, ...]) -> None:
    """No two correct replicas execute different requests under one number, in no life."""
    by_sequence: dict[int, list[bytes]] = {}
    for name in names:
        mine: dict[int, list[bytes]] = {}
        for output in world.outputs[name]:
            of_turn: dict[int, list[bytes]] = {}
            for executed in output.executed:
                of_turn.setdefault(executed.sequence, []).append(executed.signed.payload)
            for sequence, payloads in of_turn.items():
                # Executed again after a restart, it is the same again.
                assert mine.setdefault(sequence, payloads) == payloads
        for sequence, payloads in mine.items():
            assert by_sequence.setdefault(sequence, payloads) == payloads
        payloads_all = [payload for payloads in mine.values() for payload in payloads]
        assert len(payloads_all) == len(set(payloads_all)), "a request was executed twice"
    digests: dict[int, bytes] = {}
    for name in set(names) & set(world.replicas):
        core = world.replicas[name].core
        for slot in core.log.above(0):
            if slot.decided is not None:
                digest = slot.decided.digest
                assert digests.setdefault(slot.sequence, digest) == digest


def check_ledgers(world: World, names: tuple[str, ...]) -> None:
    """No two ledgers differ at an index; numbers are executed one by one, or jump with a state.

    Only a state that was fetched leaves a gap, and only one that was wrong is written anew.
    """
    at_index: dict[int, Entry] = {}
    for name in names:
        ledger = world.disks[name].entries
        for entry in ledger:
            assert at_index.setdefault(entry.index, entry) == entry, name
        indices = [entry.index for entry in ledger]
        assert indices == sorted(set(indices))
        if not world.emitted(name, "state_transferred"):
            assert indices == list(range(1, len(ledger) + 1))
        if not world.emitted(name, "diverged"):
            assert world.disks[name].replaced == []
    for name in names:
        check_numbers(world, name)


def check_numbers(world: World, name: str) -> None:
    """One number after the other, in every life; further only with a fetched state."""
    highest = world.cluster.begins_after
    events = [event for output in world.outputs[name] for event in output.events]
    for event in events:
        sequence = event.details.get("sequence")
        if event.name == "executed":
            assert isinstance(sequence, int)
            assert sequence <= highest + 1, "a number was left out"
            highest = max(highest, sequence)
        elif event.name == "state_transferred":
            assert isinstance(sequence, int)
            highest = max(highest, sequence)


def check_no_equivocation(world: World, names: tuple[str, ...]) -> None:
    """A correct replica signs one digest per phase, view and number over all its lives."""
    said: dict[tuple[object, ...], bytes] = {}
    for payload in {
        message.envelope.signed.payload: None
        for message in world.sent
        if message.envelope.signed.signer in names
    }:
        signed = decode_message(payload)
        if isinstance(signed, PrePrepare | Prepare | Commit):
            key: tuple[object, ...] = (
                type(signed),
                signed.replica,
                signed.view,
                signed.sequence,
            )
        elif isinstance(signed, Checkpoint):
            key = (Checkpoint, signed.replica, signed.sequence)
        elif isinstance(signed, ViewChange | NewView):
            key = (type(signed), signed.replica, signed.view)
            assert said.setdefault(key, payload) == payload, key
            continue
        else:
            continue
        assert said.setdefault(key, signed.digest) == signed.digest, key


def check_no_vote_in_a_left_view(world: World, names: tuple[str, ...]) -> None:
    """Whoever sent VIEW-CHANGE for a view votes in no earlier one, in no life (4.4).

    By the order in which a replica first sent its words; what it sends again is not said anew.
    """
    left = dict.fromkeys(names, 0)
    seen: set[bytes] = set()
    for message in world.sent:
        signed = message.envelope.signed
        if signed.signer not in names or signed.payload in seen or message.sender != signed.signer:
            continue
        seen.add(signed.payload)
        said = decode_message(signed.payload)
        if isinstance(said, ViewChange):
            assert said.view > left[signed.signer], "back to an earlier view"
            left[signed.signer] = said.view
        elif isinstance(said, PrePrepare | Prepare | Commit | NewView):
            assert said.view >= left[signed.signer], f"{signed.signer}: {said}"


def check_answers(world: World) -> None:
    """Every answer that a client accepted is what the ledger says."""
    heads = {entry.head for disk in world.disks.values() for entry in disk.entries}
    for output in world.client_outputs.values():
        for accepted in output.accepted:
            assert accepted.result in heads
