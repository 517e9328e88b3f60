"""What must hold in every world at every time: the invariants of safety, as functions."""

from pbft.codec import decode_message
from pbft.messages import Checkpoint, Commit, Prepare, PrePrepare
from tests.pbft.world import World


def check_safety(world: World, correct: tuple[str, ...] | None = None) -> None:
    """Agreement, ledger prefix, no gap, no double execution, no equivocation.

    correct: the replicas that follow the protocol; all by default.
    """
    names = correct or world.names
    check_agreement(world, names)
    check_ledgers(world, names)
    check_no_equivocation(world, names)


def check_agreement(world: World, names: tuple[str, ...]) -> None:
    """No two correct replicas execute different requests under one number, in no life."""
    by_sequence: dict[int, list[bytes]] = {}
    for name in names:
        mine: dict[int, list[bytes]] = {}
        for output in world.outputs[name]:
            of_turn: dict[int, list[bytes]] = {}
            for delivery in output.deliveries:
                of_turn.setdefault(delivery.sequence, []).append(delivery.signed.payload)
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
            digest = slot.committed_digest(core.quorums)
            if digest is not None:
                assert digests.setdefault(slot.sequence, digest) == digest


def check_ledgers(world: World, names: tuple[str, ...]) -> None:
    """Of any two ledgers one is the beginning of the other; numbers are executed one by one."""
    ledgers = [world.disks[name].entries for name in names]
    longest = max(ledgers, key=len)
    for ledger in ledgers:
        assert ledger == longest[: len(ledger)]
        assert [entry.index for entry in ledger] == list(range(1, len(ledger) + 1))
    for name in names:
        highest = 0
        for details in world.told(name, "executed"):
            sequence = details["sequence"]
            assert isinstance(sequence, int)
            assert sequence <= highest + 1, "a number was left out"
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
        else:
            continue
        assert said.setdefault(key, signed.digest) == signed.digest, key


def check_answers(world: World) -> None:
    """Every answer that a client accepted is what the ledger says."""
    longest = max((disk.entries for disk in world.disks.values()), key=len)
    heads = {entry.head: entry.body for entry in longest}
    for output in world.client_outputs.values():
        for accepted in output.accepted:
            assert accepted.result in heads
