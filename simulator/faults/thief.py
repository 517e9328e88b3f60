"""Somebody who has all retired keys: of those who left, and of those who have another one by now.

The rule (invariant 47): what a retired key signed counts for nothing, whatever it says and whatever
epoch it names.
"""

from collections.abc import Callable, Sequence

import msgspec

from pbft.codec import MalformedMessage, encode_message, signing_bytes
from pbft.genesis import Cluster
from pbft.messages import Envelope, Hello, Request, Signed
from simulator.world.reader import Reader, SharedAuthenticator
from simulator.world.seeded_random import stream
from simulator.world.world import World

STOLEN_KEY = "47 a retired key counts for nothing"
# It says something about so often.
MEAN_SECONDS = 0.3
REMEMBERED_MAX = 200


class RetiredKey(msgspec.Struct, frozen=True):
    """A replica's key that is its own no more."""

    # whose it was, and what it is called
    replica: str
    key_name: str


class Thief:
    """Repeats under its own signatures what others say now.

    clusters: of the epochs before, the first one first. deliver: (sender, receiver, message).
    """

    def __init__(
        self,
        world: World,
        keys: Sequence[RetiredKey],
        clusters: Sequence[Cluster],
        *,
        reader: Reader,
        authenticator: SharedAuthenticator,
        deliver: Callable[[str, str, Envelope], None],
    ) -> None:
        self._cluster = world.cluster
        self._earlier = tuple(clusters)
        self._reader = reader
        self._authenticator = authenticator
        self._record = world.record
        self._scheduler = world.scheduler
        self._violate = world.violate
        self._signers = [(key.replica, world.signatures.signer_of(key.key_name)) for key in keys]
        self._chance = stream(world.seed, "thief")
        self._deliver = deliver
        self._heard: list[Signed] = []
        # what it said since it looked whether somebody believes it
        self._said: list[Signed] = []
        self.count = 0

    def start(self) -> None:
        """Begin, and go on for ever."""
        if self._signers:
            self._later()

    def hear(self, envelope: Envelope) -> None:
        """A message that somebody sends to somebody."""
        if not self._signers:
            return
        if len(self._heard) < REMEMBERED_MAX:
            self._heard.append(envelope.signed)
        else:
            self._heard[self._chance.randrange(REMEMBERED_MAX)] = envelope.signed

    def check(self) -> None:
        """Raises Violation if a replica has found that one of its signatures holds."""
        for signed in self._said:
            if self._authenticator.has_held(signed):
                self._violate(STOLEN_KEY, f"{signed.signer}: {signed.payload.hex()[:80]}")
        self._said.clear()

    def _later(self) -> None:
        self._scheduler.after(self._chance.exponential(MEAN_SECONDS), self._act)

    def _act(self) -> None:
        self.check()
        self._later()
        chance = self._chance
        if not self._heard or not self._record.allows("stolen key"):
            return
        name, sign = chance.choice(self._signers)
        try:
            message = self._reader.decode(chance.choice(self._heard).payload)
        except MalformedMessage:
            return
        names = self._cluster.replica_names
        # under the name that the key had, or as one of those who take part now
        signer = chance.choice((name, name, *names))
        if isinstance(message, Request):
            message = msgspec.structs.replace(message, client=signer)
        elif not isinstance(message, Hello):
            place = self._cluster.replica_index(signer)
            index = place if place is not None else chance.randrange(len(names))
            message = msgspec.structs.replace(message, replica=index)
        payload = encode_message(message)
        of = chance.choice((self._cluster, self._cluster, *self._earlier))
        covered = signing_bytes(message, payload, of.id, epoch=of.epoch)
        signed = Signed(signer, payload, sign(covered))
        self._said.append(signed)
        self.count += 1
        self._deliver(signer, chance.choice(names), Envelope(signed))
