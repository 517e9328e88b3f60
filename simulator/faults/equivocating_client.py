"""A faulty client: it signs two operations with one timestamp, and sends each to some replicas.

It has its own key only. Whatever it does, all correct replicas execute the same one of the two, or
neither. Replicas that wait for the other one must not change views without end (docs/TRAPS.md).
"""

import itertools
from collections.abc import Callable, Sequence

from ci.operations import Append, encode_operation
from pbft.authentication import Identity
from pbft.client import make_request
from pbft.codec import MalformedMessage, decode_message
from pbft.messages import Envelope, Replies, Signed
from simulator.world.seeded_random import SeededRandom
from simulator.world.world import World


class EquivocatingClient:
    """One such client. timestamps: how many it uses in all; then it is silent.

    send: (sender, receiver, envelope). injects: whether the next fault is to be injected.
    """

    def __init__(
        self,
        world: World,
        name: str,
        chance: SeededRandom,
        *,
        send: Callable[[str, str, Envelope], None],
        injects: Callable[[], bool],
        timestamps: int,
    ) -> None:
        self.name = name
        self._cluster = world.cluster
        self._sign = world.signatures.signer(name)
        self._scheduler = world.scheduler
        self._chance = chance
        self._send = send
        self._injects = injects
        self._timestamps = timestamps
        self._used: dict[int, None] = {}
        self._window = world.cluster.genesis.client_window

    def start(self) -> None:
        """Begin."""
        self._scheduler.after(self._chance.random(), self._use_timestamp)

    def arrive(self, envelope: Envelope) -> None:
        """An answer: that timestamp is used."""
        try:
            message = decode_message(envelope.signed.payload)
        except MalformedMessage:
            return
        if isinstance(message, Replies):
            self._used.update(dict.fromkeys(reply.timestamp for reply in message.replies))

    def _use_timestamp(self) -> None:
        if self._timestamps == 0:
            return
        self._timestamps -= 1
        if self._injects():
            self._sign_twice()
        self._scheduler.after(self._chance.exponential(0.5), self._use_timestamp)

    def _sign_twice(self) -> None:
        chance = self._chance
        # Mostly the next timestamp; sometimes a later one, or one that is used.
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
        return make_request(Identity(self._cluster, self.name, self._sign), timestamp, operation)

    def _tell(self, replicas: Sequence[str], signed: Signed) -> None:
        for replica in replicas:
            self._send(self.name, replica, Envelope(signed))
