"""A faulty client: it signs two operations with one number, and tells some replicas each.

It has its own key and nobody else's. Whatever it does, one of the two is executed everywhere, or
none; and replicas that wait for the other one must not change views without end (TRAPS).
"""

import itertools
from collections.abc import Callable, Sequence

from ci.operations import Append, encode_operation
from pbft.client import make_request
from pbft.codec import MalformedMessage, decode_message
from pbft.genesis import Cluster
from pbft.messages import Envelope, Replies, Signed
from simulator.chance import Chance
from simulator.scheduler import Scheduler
from simulator.signatures import Signatures


class Cheat:
    """One of them. numbers: how many it uses up in all; then it is silent.

    send: (sender, receiver, envelope). injects: whether the next fault is to be injected.
    """

    def __init__(
        self,
        name: str,
        cluster: Cluster,
        signatures: Signatures,
        scheduler: Scheduler,
        chance: Chance,
        send: Callable[[str, str, Envelope], None],
        injects: Callable[[], bool],
        numbers: int,
    ) -> None:
        self.name = name
        self._cluster = cluster
        self._sign = signatures.signer(name)
        self._scheduler = scheduler
        self._chance = chance
        self._send = send
        self._injects = injects
        self._numbers = numbers
        self._used: dict[int, None] = {}
        self._window = cluster.genesis.client_window

    def start(self) -> None:
        """Begin."""
        self._scheduler.after(self._chance.random(), self._cheat)

    def arrive(self, envelope: Envelope) -> None:
        """An answer: that number is used up."""
        try:
            message = decode_message(envelope.signed.payload)
        except MalformedMessage:
            return
        if isinstance(message, Replies):
            self._used.update(dict.fromkeys(reply.timestamp for reply in message.replies))

    def _cheat(self) -> None:
        if self._numbers == 0:
            return
        self._numbers -= 1
        if self._injects():
            self._sign_twice()
        self._scheduler.after(self._chance.exponential(0.5), self._cheat)

    def _sign_twice(self) -> None:
        chance = self._chance
        # Mostly the next number; sometimes one further on, or one that is used up.
        lowest = next(number for number in itertools.count(1) if number not in self._used)
        timestamp = max(1, lowest + chance.choice((0, 0, 0, 1, self._window - 1, -1)))
        replicas = list(self._cluster.replica_names)
        chance.shuffle(replicas)
        cut = chance.randint(0, len(replicas))
        first, second = self._request(timestamp, "one"), self._request(timestamp, "other")
        self._tell(replicas[:cut], first)
        self._tell(replicas[cut:], second)
        if chance.random() < 0.3:  # and then both to all, in another order
            self._tell(replicas, second)
            self._tell(replicas, first)

    def _request(self, timestamp: int, text: str) -> Signed:
        operation = encode_operation(Append(f"{text} {timestamp}"))
        return make_request(self.name, timestamp, operation, self._cluster, self._sign)

    def _tell(self, replicas: Sequence[str], signed: Signed) -> None:
        for replica in replicas:
            self._send(self.name, replica, Envelope(signed))
