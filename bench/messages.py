"""Messages and bytes per batch as the cluster grows, counted on the real core in one process.

Replicas of pbft with real signatures and ci's application hand their messages to each other;
nothing is lost and time stands still, so what is counted depends on nothing but the protocol. One
request makes one batch. What a STATUS makes a peer send again is counted apart, as the STATUS is.
The paper's count for n replicas (OSDI'99, 4.2): n - 1 PRE-PREPAREs,
(n - 1)^2 PREPAREs and n (n - 1) COMMITs make 2 n (n - 1), and each checkpoint n (n - 1) more.
"""

import asyncio
import hashlib
from collections import Counter, deque

import msgspec

from bench.context import Context
from bench.figures import exponent, spread
from bench.network import BenchFailed
from bench.rows import Row, Target
from ci.application import BuildApplication
from ci.limits import Limits, encode_limits
from ci.operations import Noop, encode_operation
from common.configuration.keys import SigningKey, verify
from pbft.authentication import Identity
from pbft.client import make_request
from pbft.codec import decode_message, encode_frame
from pbft.genesis import PROTOCOL_MIN, Cluster, Genesis, Member
from pbft.messages import Checkpoint, Commit, Envelope, Prepare, PrePrepare
from pbft.ports import Output
from pbft.replica import Replica

NAME = "messages"
CLIENT = "client"
SIZES = (4, 7, 10, 13)
CLIENT_WINDOW = 256
ORDERING = (PrePrepare, Prepare, Commit, Checkpoint)
TARGET = Target(1.0)
# After the last one of a batch nothing more may come; a protocol that never falls quiet is broken.
MESSAGES_MAX = 100_000


class Count(msgspec.Struct, frozen=True):
    """Of one cluster, per batch: messages that order it, their bytes, and all other messages."""

    replicas: int
    messages: float
    bytes: float
    others: float


async def run(context: Context) -> list[Row]:
    """Count for each size. Raises BenchFailed."""
    interval, batches = (16, 32) if context.is_quick else (128, 256)
    counts = []
    for replicas in SIZES:
        counts.append(await asyncio.to_thread(count, replicas, interval, batches))
        context.say(f"{replicas} replicas: {counts[-1].messages:.2f} messages a batch")
    return rows(counts, interval)


def rows(counts: list[Count], interval: int) -> list[Row]:
    """The rows of these counts. interval: K, batches from one checkpoint to the next."""
    papers = [paper(c.replicas, interval) for c in counts]
    first, first_paper = counts[0], papers[0]
    against = "the paper's 2 n (n - 1), and n (n - 1) per checkpoint"
    sizes = ", ".join(str(c.replicas) for c in counts)
    return [
        Row(
            bench=NAME,
            what=f"messages per batch, n = {sizes}",
            against=against,
            target=TARGET,
            ratio=spread(
                [c.messages / of_paper for c, of_paper in zip(counts, papers, strict=True)]
            ),
            figures={f"messages (n = {c.replicas})": c.messages for c in counts}
            | {"others at most": max(c.others for c in counts)},
        ),
        Row(
            bench=NAME,
            what=f"bytes per batch, growth from n = {first.replicas} on",
            against="the growth of the paper's count",
            target=TARGET,
            ratio=spread(
                [
                    (c.bytes / first.bytes) / (of_paper / first_paper)
                    for c, of_paper in zip(counts[1:], papers[1:], strict=True)
                ]
            ),
            figures={f"bytes (n = {c.replicas})": c.bytes for c in counts}
            | {
                "exponent of n": exponent([(c.replicas, c.bytes) for c in counts]),
                "the paper's exponent": exponent(
                    [(c.replicas, p) for c, p in zip(counts, papers, strict=True)]
                ),
            },
        ),
    ]


def paper(replicas: int, interval: int) -> float:
    """The paper's messages per batch, a checkpoint's share included."""
    pairs = replicas * (replicas - 1)
    return 2 * pairs + pairs / interval


def count(replicas: int, interval: int, batches: int) -> Count:
    """Order so many batches of one request each, and count. Raises BenchFailed."""
    world = _World(replicas, interval)
    for number in range(1, batches + 1):
        world.order(number)
    ordering = sum(world.messages[kind.__name__] for kind in ORDERING)
    others = world.messages.total() - ordering
    ordering_bytes = sum(world.bytes[kind.__name__] for kind in ORDERING)
    return Count(replicas, ordering / batches, ordering_bytes / batches, others / batches)


class _World:
    """The replicas, and what is on its way between them."""

    def __init__(self, replicas: int, interval: int) -> None:
        names = [f"node{index}" for index in range(replicas)]
        keys = {name: SigningKey(hashlib.sha256(name.encode()).digest()) for name in names}
        self._client_key = SigningKey(hashlib.sha256(CLIENT.encode()).digest())
        self._cluster = Cluster(
            Genesis(
                PROTOCOL_MIN,
                tuple(Member(name, keys[name].public_key, ("replica",)) for name in names),
                (Member(CLIENT, self._client_key.public_key, ("gateway",)),),
                interval,
                2 * interval,
                CLIENT_WINDOW,
                encode_limits(Limits()),
            )
        )
        self._replicas = {
            name: Replica(
                Identity(self._cluster, name, keys[name].sign), verify, self._application()
            )
            for name in names
        }
        self._sent: set[tuple[str, bytes]] = set()
        self._way: deque[tuple[str, Envelope]] = deque()
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def order(self, number: int) -> None:
        """One request to all, until everybody has executed it and nothing is on its way."""
        operation = encode_operation(Noop())
        signed = make_request(
            Identity(self._cluster, CLIENT, self._client_key.sign), number, operation
        )
        for name, replica in self._replicas.items():
            self._take_out(name, replica.receive([Envelope(signed)], 0.0))
        delivered = 0
        while self._way:
            to, envelope = self._way.popleft()
            self._take_out(to, self._replicas[to].receive([envelope], 0.0))
            delivered += 1
            if delivered > MESSAGES_MAX:
                raise BenchFailed(f"{delivered} messages for one batch and no end")
        executed = {replica.core.executed for replica in self._replicas.values()}
        if executed != {number}:
            raise BenchFailed(f"after {number} batches the replicas have executed {executed}")

    def _application(self) -> BuildApplication:
        return BuildApplication(self._cluster, Limits(), lambda build: None)

    def _take_out(self, sender: str, output: Output) -> None:
        for send in output.messages:
            if send.to == CLIENT:
                continue
            targets = (
                [send.to] if send.to is not None else [n for n in self._replicas if n != sender]
            )
            kind = type(decode_message(send.envelope.signed.payload)).__name__
            for target in targets:
                mark = (target, send.envelope.signed.signature)
                name = "again" if mark in self._sent else kind
                self._sent.add(mark)
                self.messages[name] += 1
                self.bytes[name] += len(encode_frame([send.envelope]))
                self._way.append((target, send.envelope))
