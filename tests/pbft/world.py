"""A small deterministic world for protocol tests: replicas, a client, and the messages between.

Nothing is delivered by itself: a test says which messages travel, so that it can lose, hold
back, reorder and repeat them. Signatures are an HMAC stand-in; codec and real Ed25519 have tests
of their own.
"""

import hashlib
from collections.abc import Callable, Mapping

import msgspec

from pbft.authentication import sign_message
from pbft.client import Client, ClientOutput, make_request
from pbft.codec import decode_message, digest_of, encode_message
from pbft.core import Settings
from pbft.genesis import FORMAT_VERSION, Cluster, Genesis, Member
from pbft.messages import AnyMessage, Envelope, Request, Signed
from pbft.ports import (
    Announcement,
    Applied,
    Base,
    Entry,
    Output,
    Record,
    SavedBody,
    SavedEntry,
    Sign,
)
from pbft.replica import Replica


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


class Journal:
    """The smallest application: every operation is appended to a hash-chained list."""

    def __init__(self) -> None:
        self.operations: list[bytes] = []
        self.head = bytes(32)
        self.count = 0

    def apply(self, request: Request, request_digest: bytes, sequence: int) -> Applied:
        """Append the operation; the result is the new head."""
        self.operations.append(request.operation)
        self.count += 1
        self.head = digest_of(self.head + request.operation)
        entry = Entry(self.count, request.operation, self.head)
        return Applied("done", b"", self.head, (entry,))

    def recall(self, request: Request, request_digest: bytes) -> Announcement | None:
        """Nothing has a second answer here."""
        return None

    def parts(self) -> dict[str, bytes]:
        """The head and the count stand for the whole list."""
        return {"journal": msgspec.msgpack.encode((self.count, self.head))}

    def restore(self, parts: Mapping[str, bytes]) -> None:
        """The list itself is not part of the state; only what is digested comes back."""
        self.count, self.head = msgspec.msgpack.decode(parts["journal"], type=tuple[int, bytes])


class Disk:
    """What a replica saved, as a store keeps it: from the last base on, entries apart."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.bodies: dict[bytes, tuple[int, bytes]] = {}
        self.entries: list[Entry] = []

    def save(self, records: list[Record]) -> None:
        """Save the records of one turn."""
        for record in records:
            if isinstance(record, SavedBody):
                self.bodies[record.digest] = (record.sequence, record.body)
            elif isinstance(record, SavedEntry):
                self._save_entry(record.entry)
            else:
                if isinstance(record, Base):
                    self.records = []
                    self.bodies = {
                        d: kept for d, kept in self.bodies.items() if kept[0] > record.kept_above
                    }
                self.records.append(record)

    def _save_entry(self, entry: Entry) -> None:
        if entry.index <= len(self.entries):
            assert self.entries[entry.index - 1] == entry
        else:
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


class World:
    """Replicas `r0` ..., one client `client`, their disks, and the messages under way."""

    def __init__(
        self,
        replicas: int = 4,
        *,
        checkpoint_interval: int = 8,
        window: int = 16,
        client_window: int = 64,
        settings: Settings | None = None,
    ) -> None:
        self.names = tuple(f"r{index}" for index in range(replicas))
        self.cluster = Cluster(
            Genesis(
                FORMAT_VERSION,
                tuple(Member(name, public_key(name), ("replica",)) for name in self.names),
                tuple(Member(n, public_key(n), ("gateway",)) for n in ("client", "other")),
                checkpoint_interval,
                window,
                client_window,
                b"",
            )
        )
        self.settings = settings or Settings()
        self.now = 0.0
        self.disks = {name: Disk() for name in self.names}
        self.applications: dict[str, Journal] = {}
        self.replicas: dict[str, Replica] = {}
        self.under_way: list[Message] = []
        self.sent: list[Message] = []
        self.outputs: dict[str, list[Output]] = {name: [] for name in self.names}
        self.client = Client(self.cluster, "client", verify)
        self.client_output = ClientOutput()
        for name in self.names:
            self.start(name)

    # --- processes ------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start or restart a replica from its disk."""
        self.applications[name] = Journal()
        replica = Replica(
            self.cluster, name, signer(name), verify, self.applications[name], self.settings
        )
        disk = self.disks[name]
        replica.restore(disk.records, {d: body for d, (_, body) in disk.bodies.items()})
        self.replicas[name] = replica

    def crash(self, name: str) -> None:
        """kill -9: the process and the messages on its links are gone, the disk stays."""
        del self.replicas[name]
        self.under_way = [m for m in self.under_way if name not in (m.sender, m.receiver)]

    def connect(self, name: str) -> None:
        """All links of a replica are made anew."""
        for other in self.replicas:
            if other != name:
                self._take(name, self.replicas[name].greet(other, self.now))
                self._take(other, self.replicas[other].greet(name, self.now))

    # --- messages -------------------------------------------------------------------------------

    def sign(self, name: str, message: AnyMessage) -> Signed:
        """A message signed by that member, as an adversary with its key could."""
        return sign_message(message, encode_message(message), name, self.cluster, signer(name))

    def request(self, timestamp: int, operation: bytes, client: str = "client") -> Signed:
        """A client's signed REQUEST."""
        return make_request(client, timestamp, operation, self.cluster, signer(client))

    def give(self, receiver: str, signed: Signed, body: bytes = b"") -> Output:
        """Hand one message to one replica, and take its output."""
        output = self.replicas[receiver].receive([Envelope(signed, body)], self.now)
        self._take(receiver, output)
        return output

    def ask(self, timestamp: int, operation: bytes) -> None:
        """The client asks all replicas."""
        self._take_client(
            self.client.ask(self.request(timestamp, operation), frozenset({"done"}), self.now)
        )

    def deliver(self, wanted: Callable[[Message], bool] = lambda message: True) -> int:
        """Deliver what is under way and wanted, in order, until nothing more comes of it."""
        delivered = 0
        while True:
            index = next((i for i, m in enumerate(self.under_way) if wanted(m)), None)
            if index is None:
                return delivered
            self._deliver_one(self.under_way.pop(index))
            delivered += 1

    def drop(self, unwanted: Callable[[Message], bool]) -> int:
        """Lose what is under way and unwanted."""
        before = len(self.under_way)
        self.under_way = [m for m in self.under_way if not unwanted(m)]
        return before - len(self.under_way)

    def tick(self, seconds: float = 1.0) -> None:
        """Let time pass: every replica and the client do what is due."""
        self.now += seconds
        for name in list(self.replicas):
            self._take(name, self.replicas[name].expire(self.now))
        self._take_client(self.client.expire(self.now))

    def run(self, ticks: int = 4) -> None:
        """Deliver everything, and let some time pass in between."""
        self.deliver()
        for _ in range(ticks):
            self.tick()
            self.deliver()

    def _deliver_one(self, message: Message) -> None:
        if message.receiver == "client":
            self._take_client(self.client.receive([message.envelope], self.now))
        elif message.receiver in self.replicas:
            replica = self.replicas[message.receiver]
            self._take(message.receiver, replica.receive([message.envelope], self.now))

    def _take(self, name: str, output: Output) -> None:
        self.disks[name].save(output.records)
        self.outputs[name].append(output)
        for send in output.messages:
            receivers = [send.to] if send.to else [n for n in self.names if n != name]
            for receiver in receivers:
                message = Message(name, receiver, send.envelope)
                self.sent.append(message)
                if receiver in self.replicas or receiver == "client":
                    self.under_way.append(message)

    def _take_client(self, output: ClientOutput) -> None:
        self.client_output.accepted.extend(output.accepted)
        self.client_output.late.extend(output.late)
        for send in output.messages:
            for name in self.names:
                message = Message("client", name, send.envelope)
                self.sent.append(message)
                if name in self.replicas:
                    self.under_way.append(message)

    # --- looking --------------------------------------------------------------------------------

    def refusals(self, name: str) -> list[str]:
        """The reasons of all refusals of that replica so far."""
        return [
            str(notice.details["reason"])
            for output in self.outputs[name]
            for notice in output.notices
            if notice.event == "refused"
        ]

    def told(self, name: str, event: str) -> list[dict[str, str | int | None]]:
        """The details of all notices of that kind by that replica so far."""
        return [
            notice.details
            for output in self.outputs[name]
            for notice in output.notices
            if notice.event == event
        ]

    def executed(self) -> dict[str, int]:
        """The last executed sequence number by replica."""
        return {name: replica.core.executed for name, replica in self.replicas.items()}
