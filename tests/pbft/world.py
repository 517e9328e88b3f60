"""A small deterministic world for protocol tests: replicas, clients, and the messages between.

Nothing is delivered by itself: a test says which messages travel, so that it can lose, hold
back, reorder and repeat them. Signatures are a hash stand-in, so that a test can sign as anybody;
codec and real Ed25519 have tests of their own.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from pbft import messages
from pbft.authentication import Identity, is_relayed, sign_message
from pbft.client import Client, ClientOutput, make_request
from pbft.codec import decode_message, digest_of, encode_batch, encode_message
from pbft.core import Core, Settings
from pbft.genesis import PROTOCOL_MIN, Cluster, Genesis, Member
from pbft.messages import (
    AnyMessage,
    Checkpoint,
    Commit,
    Envelope,
    FetchBody,
    Prepare,
    PrePrepare,
    Request,
    Signed,
    Status,
)
from pbft.ports import (
    Applied,
    CheckpointRecord,
    DeferredReply,
    Entry,
    Output,
    Record,
    Refusal,
    SavedBody,
    SavedEntry,
    Sign,
)
from pbft.replica import Replica

CLIENTS = ("client", "other")

M = TypeVar("M", bound=messages.Message)


def public_key(name: str) -> bytes:
    """The stand-in public key of a member."""
    return hashlib.sha256(b"key of " + name.encode()).digest()


def signer(name: str) -> Sign:
    """The stand-in for signing with the key of `name`."""
    key = public_key(name)
    return lambda message: hashlib.sha512(key + message).digest()


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """The stand-in for Ed25519 verification."""
    return signature == hashlib.sha512(key + message).digest()


MAY_WAIT = b"may wait "
# An operation that begins so ends the epoch: a configuration follows.
END = b"end epoch "


class Journal:
    """The smallest application: every operation is appended to a hash-chained list."""

    def __init__(self) -> None:
        self.operations: list[bytes] = []
        self.head = bytes(32)
        self.count = 0
        self.is_ending = False

    def apply(self, request: Request, request_digest: bytes, sequence: int) -> Applied:
        """Append the operation; the result is the new head."""
        self.operations.append(request.operation)
        self.count += 1
        self.head = digest_of(self.head + request.operation)
        entry = Entry(self.count, request.operation, self.head)
        ends = request.operation.startswith(END) and not self.is_ending
        self.is_ending |= ends
        successor = request.operation.removeprefix(END) if ends else b""
        return Applied("done", b"", self.head, (entry,), successor=successor)

    def end_epoch(self) -> tuple[Entry, ...]:
        """Append a line that says so."""
        self.is_ending = False
        self.count += 1
        self.head = digest_of(self.head + b"ended")
        return (Entry(self.count, b"ended", self.head),)

    def find_deferred(
        self, request: Request, request_digest: bytes
    ) -> DeferredReply | Refusal | None:
        """Nothing has a second answer here."""
        return None

    def may_delay(self, requests: Sequence[Request]) -> bool:
        """What says so in its operation."""
        return all(request.operation.startswith(MAY_WAIT) for request in requests)

    def parts(self) -> dict[str, bytes]:
        """The head and the count stand for the whole list."""
        parts = {"journal": msgspec.msgpack.encode((self.count, self.head))}
        return {**parts, "journal/ends": b""} if self.is_ending else parts

    def restore(self, parts: Mapping[str, bytes]) -> None:
        """The list itself is not part of the state; only what is digested comes back."""
        self.count, self.head = msgspec.msgpack.decode(parts["journal"], type=tuple[int, bytes])
        self.is_ending = "journal/ends" in parts


class WrongOnce(Journal):
    """One operation goes wrong in memory: the one of the sequence number `wrong_at`."""

    wrong_at = 1

    def apply(self, request: Request, request_digest: bytes, sequence: int) -> Applied:
        """As a journal does, but for the head after that operation."""
        applied = super().apply(request, request_digest, sequence)
        if sequence == self.wrong_at:
            self.head = bytes(32)
        return applied


class WrongForAWhile(Journal):
    """Its state is wrong up to the third operation, and right again after that."""

    def parts(self) -> dict[str, bytes]:
        parts = super().parts()
        return {**parts, "journal": bytes(1) + parts["journal"]} if 0 < self.count < 4 else parts


class Disk:
    """What a replica saved, as a store keeps it: from the last checkpoint record on, entries apart.

    A fetched state brings no ledger entries: the shell fetches those apart, so here a gap stays.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.bodies: dict[bytes, tuple[int, bytes]] = {}
        self.entries: list[Entry] = []
        self.replaced: list[Entry] = []

    def save(self, records: list[Record]) -> None:
        """Save the records of one turn."""
        for record in records:
            if isinstance(record, SavedBody):
                # A faulty primary may order one body under several numbers: the last one counts.
                last = max(record.sequence, self.bodies.get(record.digest, (0, b""))[0])
                self.bodies[record.digest] = (last, record.body)
            elif isinstance(record, SavedEntry):
                self._save_entry(record.entry)
            else:
                if isinstance(record, CheckpointRecord):
                    self.records = []
                    self.bodies = {
                        d: kept for d, kept in self.bodies.items() if kept[0] > record.kept_above
                    }
                self.records.append(record)

    def _save_entry(self, entry: Entry) -> None:
        if entry in self.entries:
            return
        if self.entries and entry.index <= self.entries[-1].index:
            # They came from a state that was wrong, and that is repaired now.
            self.replaced.extend(kept for kept in self.entries if kept.index >= entry.index)
            self.entries = [kept for kept in self.entries if kept.index < entry.index]
        self.entries.append(entry)


class Message(msgspec.Struct, frozen=True):
    """A message under way."""

    sender: str
    receiver: str
    envelope: Envelope

    @property
    def payload(self) -> AnyMessage:
        """The decoded message."""
        return decode_message(self.envelope.signed.payload)


class CrashPoint(msgspec.Struct, frozen=True):
    """Kill a replica when it has done so many turns: `saved` says whether the records of the
    last one reach the disk, `sent` how many of its messages still leave."""

    turn: int
    saved: bool
    sent: int


def genesis_of(
    replicas: int | Sequence[str],
    *,
    checkpoint_interval: int = 8,
    window: int = 16,
    client_window: int = 64,
) -> Genesis:
    """With replicas of these names, or so many of the names `r0` ..., and the two clients."""
    names = replicas if isinstance(replicas, Sequence) else [f"r{n}" for n in range(replicas)]
    return Genesis(
        PROTOCOL_MIN,
        tuple(Member(name, public_key(name), ("replica",)) for name in names),
        tuple(Member(name, public_key(name), ("gateway",)) for name in CLIENTS),
        checkpoint_interval,
        window,
        client_window,
        b"",
    )


class World:
    """Replicas `r0` ..., the clients `client` and `other`, their disks, and messages under way."""

    def __init__(
        self,
        replicas: int = 4,
        *,
        checkpoint_interval: int = 8,
        window: int = 16,
        client_window: int = 64,
        settings: Settings | None = None,
        application: Callable[[str], Journal] = lambda name: Journal(),
        begins: tuple[Cluster, Mapping[str, bytes]] | None = None,
    ) -> None:
        """begins: a cluster that continues another one, and the parts of the state there."""
        genesis = genesis_of(
            replicas,
            checkpoint_interval=checkpoint_interval,
            window=window,
            client_window=client_window,
        )
        self.begin: Mapping[str, bytes] | None
        self.cluster, self.begin = (Cluster(genesis), None) if begins is None else begins
        # nobody runs a vacant seat
        self.names = self.cluster.expected_names
        self.settings = settings or Settings()
        self.now = 0.0
        self.disks = {name: Disk() for name in self.names}
        self.make_application = application
        self.applications: dict[str, Journal] = {}
        self.replicas: dict[str, Replica] = {}
        self.under_way: list[Message] = []
        self.sent: list[Message] = []
        self.outputs: dict[str, list[Output]] = {name: [] for name in self.names}
        self.crash_points: dict[str, CrashPoint] = {}
        self.turns: dict[str, int] = dict.fromkeys(self.names, 0)
        self.clients = {name: Client(self.cluster, name, verify) for name in CLIENTS}
        self.client_outputs = {name: ClientOutput() for name in CLIENTS}
        for name in self.names:
            self.start(name)

    # --- processes ------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start or restart a replica from its disk."""
        self.applications[name] = self.make_application(name)
        replica = Replica(
            Identity(self.cluster, name, signer(name)),
            verify,
            self.applications[name],
            settings=self.settings,
            begin=self.begin,
        )
        disk = self.disks[name]
        bodies = {digest: body for digest, (_, body) in disk.bodies.items()}
        nonce = digest_of(f"{name} {self.now} {len(disk.records)}".encode())
        restored = replica.restore(disk.records, bodies, nonce)
        self.outputs[name].append(restored)
        self.replicas[name] = replica

    def crash(self, name: str) -> None:
        """kill -9: the process and the messages on its links are gone, the disk stays."""
        del self.replicas[name]
        self.under_way = [m for m in self.under_way if name not in (m.sender, m.receiver)]

    def connect(self, name: str) -> None:
        """All links of a replica are made anew."""
        for other in list(self.replicas):
            if other != name and other in self.replicas and name in self.replicas:
                self._take(name, self.replicas[name].on_peer_connected(other, self.now))
                if other in self.replicas:
                    self._take(other, self.replicas[other].on_peer_connected(name, self.now))

    # --- messages -------------------------------------------------------------------------------

    def sign(self, name: str, message: AnyMessage, cluster: Cluster | None = None) -> Signed:
        """A message signed by that member, as an adversary with its key could."""
        payload = encode_message(message)
        return sign_message(message, payload, Identity(cluster or self.cluster, name, signer(name)))

    def request(self, timestamp: int, operation: bytes, client: str = "client") -> Signed:
        """A client's signed REQUEST."""
        return make_request(Identity(self.cluster, client, signer(client)), timestamp, operation)

    def pre_prepare(
        self, sequence: int, requests: Sequence[Signed], *, view: int = 0, replica: int = 0
    ) -> tuple[PrePrepare, Signed, bytes]:
        """A PRE-PREPARE as the holder of that replica's key could make it, and its body."""
        body = encode_batch(tuple(requests))
        message = PrePrepare(view, sequence, digest_of(body), replica)
        return message, self.sign(self.cluster.replica_names[replica], message), body

    def prepare(self, sequence: int, digest: bytes, replica: int, view: int = 0) -> Signed:
        """A PREPARE signed by that replica."""
        return self.sign(
            self.cluster.replica_names[replica], Prepare(view, sequence, digest, replica)
        )

    def commit(self, sequence: int, digest: bytes, replica: int, view: int = 0) -> Signed:
        """A COMMIT signed by that replica."""
        return self.sign(
            self.cluster.replica_names[replica], Commit(view, sequence, digest, replica)
        )

    def checkpoint(self, sequence: int, digest: bytes, replica: int) -> Signed:
        """A CHECKPOINT signed by that replica."""
        return self.sign(self.cluster.replica_names[replica], Checkpoint(sequence, digest, replica))

    def give(self, receiver: str, signed: Signed, body: bytes = b"") -> Output:
        """Hand one message to one replica, and take its output."""
        output = self.replicas[receiver].receive([Envelope(signed, body)], self.now)
        self._take(receiver, output)
        return output

    def refuse(self, receiver: str, signed: Signed, body: bytes = b"") -> str:
        """Hand over a message that must be refused and change nothing; gives back the reason."""
        before = picture(self.replicas[receiver])
        output = self.give(receiver, signed, body)
        assert picture(self.replicas[receiver]) == before, "a refused message changed the state"
        assert (output.records, output.executed) == ([], [])
        assert all(
            isinstance(decode_message(send.envelope.signed.payload), Status | FetchBody)
            for send in output.messages
        )
        (reason,) = (e.details["reason"] for e in output.events if e.name == "refused")
        return str(reason)

    def ask(self, timestamp: int, operation: bytes, client: str = "client") -> None:
        """The client asks all replicas."""
        signed = self.request(timestamp, operation, client)
        self._take_client(client, self.clients[client].ask(signed, frozenset({"done"}), self.now))

    def ask_each(
        self, first: int, last: int, wanted: Callable[[Message], bool] = lambda message: True
    ) -> None:
        """The client asks with each of these timestamps, once what was wanted before is there."""
        for timestamp in range(first, last + 1):
            self.ask(timestamp, b"%d" % timestamp)
            self.deliver(wanted)

    def deliver(self, wanted: Callable[[Message], bool] = lambda message: True) -> int:
        """Deliver what is under way and wanted, in order, until nothing more comes of it."""
        delivered = 0
        while True:
            index = next((i for i, m in enumerate(self.under_way) if wanted(m)), None)
            if index is None:
                return delivered
            self.deliver_one(self.under_way.pop(index))
            delivered += 1

    def drop(self, unwanted: Callable[[Message], bool]) -> int:
        """Lose what is under way and unwanted."""
        before = len(self.under_way)
        self.under_way = [m for m in self.under_way if not unwanted(m)]
        return before - len(self.under_way)

    def tick(self, seconds: float = 1.0) -> None:
        """Let time pass: every replica and the clients do what is due."""
        self.now += seconds
        for name in list(self.replicas):
            self._take(name, self.replicas[name].handle_timer(self.now))
        for name, client in self.clients.items():
            self._take_client(name, client.handle_timer(self.now))

    def handle_timer(self, name: str, seconds: float = 0.0) -> Output:
        """Let time pass for all, and let that one replica do what is due."""
        self.now += seconds
        output = self.replicas[name].handle_timer(self.now)
        self._take(name, output)
        return output

    def core(self, name: str) -> Core:
        """What that replica knows."""
        return self.replicas[name].core

    def run(self, ticks: int = 4) -> None:
        """Deliver everything, and let some time pass in between."""
        self.deliver()
        for _ in range(ticks):
            self.tick()
            self.deliver()

    def deliver_one(self, message: Message) -> None:
        """Deliver this message, if its receiver is up."""
        self.deliver_together([message])

    def deliver_together(self, messages: Sequence[Message]) -> None:
        """Deliver messages to one receiver in one turn, if it is up; as shells do, not all."""
        receiver = messages[0].receiver
        envelopes = [m.envelope for m in messages if not is_relayed(m.sender, m.envelope.signed)]
        if not envelopes:
            return
        if receiver in self.clients:
            self._take_client(receiver, self.clients[receiver].receive(envelopes, self.now))
        elif receiver in self.replicas:
            self._take(receiver, self.replicas[receiver].receive(envelopes, self.now))

    def _take(self, name: str, output: Output) -> None:
        self.turns[name] += 1
        point = self.crash_points.get(name)
        is_last = point is not None and point.turn == self.turns[name]
        if point is None or not is_last or point.saved:
            self.disks[name].save(output.records)
            self.outputs[name].append(output)
            leaving = output.messages[: point.sent] if point and is_last else output.messages
            for send in leaving:
                self._send(name, send.to, send.envelope)
        if is_last:
            # What has left is on the network: only what was on its way here is gone.
            del self.replicas[name]
            self.under_way = [m for m in self.under_way if m.receiver != name]

    def _send(self, name: str, to: str | None, envelope: Envelope) -> None:
        for receiver in [to] if to else [other for other in self.names if other != name]:
            message = Message(name, receiver, envelope)
            self.sent.append(message)
            if receiver in self.replicas or receiver in self.clients:
                self.under_way.append(message)

    def _take_client(self, name: str, output: ClientOutput) -> None:
        self.client_outputs[name].accepted.extend(output.accepted)
        self.client_outputs[name].late.extend(output.late)
        self.client_outputs[name].events.extend(output.events)
        for send in output.messages:
            for replica in self.names:
                message = Message(name, replica, send.envelope)
                self.sent.append(message)
                if replica in self.replicas:
                    self.under_way.append(message)

    # --- looking --------------------------------------------------------------------------------

    @property
    def client_output(self) -> ClientOutput:
        """All that came out of the client `client`."""
        return self.client_outputs["client"]

    def refusals(self, name: str) -> list[str]:
        """The reasons of all refusals of that replica so far."""
        return [str(details["reason"]) for details in self.emitted(name, "refused")]

    def emitted(self, name: str, kind: str) -> list[dict[str, str | int | None]]:
        """The details of all events of that kind by that replica so far."""
        return [
            event.details
            for output in self.outputs[name]
            for event in output.events
            if event.name == kind
        ]

    def said(self, name: str, kind: type[M]) -> list[M]:
        """The distinct messages of that type that the replica signed and sent, in order."""
        payloads = {
            message.envelope.signed.payload: None
            for message in self.sent
            if message.envelope.signed.signer == name
        }
        return [m for m in map(decode_message, payloads) if isinstance(m, kind)]

    def executed(self) -> dict[str, int]:
        """The last executed sequence number by replica."""
        return {name: replica.core.executed for name, replica in self.replicas.items()}


def picture(replica: Replica) -> dict[str, object]:
    """All that a replica knows of the protocol, so that two moments can be compared.

    Slots about which nothing is known are left out, and what it said last about itself too.
    """
    core = replica.core
    slots = {
        slot.sequence: (
            slot.proposal,
            slot.accepted,
            dict(slot.prepares),
            {sender: dict(views) for sender, views in slot.commits.items()},
            slot.prepared,
            slot.decided,
            dict(slot.batches),
            tuple(slot.records),
        )
        for slot in core.log.above(0)
        if slot.proposal or slot.prepares or slot.commits or slot.records or len(slot.batches) > 1
    }
    transfer = core.transfers.current
    return {
        "view": (core.view, core.has_entered, core.views.min_s, core.views.new_view),
        "view_changes": dict(core.views.changes),
        "overtaken_view_changes": dict(core.views.overtaken_changes),
        "view_records": list(core.views.records),
        "status": (core.status, core.is_diverged, core.recovery.nonce),
        "recovery": (dict(core.execution.recoveries), dict(core.recovery.requests)),
        "slots": slots,
        "pending": {c: core.pending.numbers(c) for c in core.pending.clients()},
        "proposed": set(core.proposer.proposed),
        "next_sequence": core.proposer.next_sequence,
        "rotation": core.proposer.rotation,
        "executed": core.executed,
        "clients": core.execution.clients.parts(),
        "application": core.application.parts(),
        "stable": core.checkpoints.stable,
        "certified": core.checkpoints.certified,
        "checkpoints": {
            index: core.checkpoints.votes.own_above(index, 0)
            for index in range(core.quorums.replicas)
        },
        "snapshots": dict(core.checkpoints.snapshots),
        "peers": (dict(core.peers.progress), dict(core.peers.status)),
        "timers": (
            core.timers.timeout,
            core.timers.has_progressed,
            dict(core.timers.waiting),
            set(core.timers.forwarded),
            core.timers.view_change_due,
        ),
        "transfer": transfer
        and (transfer.certificate, transfer.leaves, dict(transfer.parts), transfer.attempts),
    }
