"""The network: directed links that delay, lose, repeat, reorder, cut and corrupt."""

from collections.abc import Callable, Sequence
from math import log

import msgspec

from pbft.codec import MalformedMessage, decode_frame, encode_frame
from pbft.messages import Envelope
from simulator.world.fault_record import FaultRecord
from simulator.world.run_trace import Trace
from simulator.world.scheduler import SECOND, Scheduler
from simulator.world.seeded_random import SeededRandom, stream

REPLAYS_KEPT = 64
REPEATED_WITHIN_SECONDS = 3.0


class LinkFaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the links of one run do."""

    # the least delay of a message
    delay_seconds: float = 0.001
    # the mean of what comes on top of it
    delay_mean_seconds: float = 0.005
    # loss, repetition, spikes, replay and corruption: the probability per message
    loss: float = 0.0
    repetition: float = 0.0
    # a delay of 1 to 6 s
    spikes: float = 0.0
    replay: float = 0.0
    corruption: float = 0.0
    # messages on one link at a time; what comes above is lost. 0: any number
    in_flight_max: int = 0
    # messages of one link arrive in their order, as over TCP
    in_order: bool = False
    # everything is really encoded, maybe corrupted, and decoded
    on_the_wire: bool = False


class Link:
    """One direction between two members."""

    __slots__ = (
        "chance",
        "in_flight",
        "is_cut",
        "last_arrival",
        "mark",
        "name",
        "old",
        "receiver",
        "sender",
    )

    def __init__(self, seed: int, sender: str, receiver: str) -> None:
        self.sender = sender
        self.receiver = receiver
        self.name = f"{sender} > {receiver}"
        self.mark = self.name.encode()
        self.chance: SeededRandom = stream(seed, f"link {sender}>{receiver}")
        self.is_cut = False
        self.in_flight = 0
        self.last_arrival = 0
        self.old: list[Envelope] = []


class Network:
    """All links. `deliver` takes what arrives: (sender, receiver, envelope)."""

    def __init__(
        self,
        seed: int,
        scheduler: Scheduler,
        trace: Trace,
        *,
        faults: LinkFaults,
        deliver: Callable[[str, str, Envelope], None],
        record: FaultRecord | None = None,
    ) -> None:
        self._record = record or FaultRecord()
        self._seed = seed
        self._scheduler = scheduler
        self._trace = trace
        self.faults = faults
        self._deliver = deliver
        self._links: dict[tuple[str, str], Link] = {}
        self.counts: dict[str, int] = {}

    def link(self, sender: str, receiver: str) -> Link:
        """The link from one member to another."""
        key = (sender, receiver)
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = Link(self._seed, sender, receiver)
        return link

    def cut(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Cut these directed links: what is sent on them is lost."""
        for sender, receiver in pairs:
            self.link(sender, receiver).is_cut = True

    def mend(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Make these directed links whole."""
        for sender, receiver in pairs:
            self.link(sender, receiver).is_cut = False

    def is_whole(self, one: str, other: str) -> bool:
        """Whether both directions work."""
        return not (self.link(one, other).is_cut or self.link(other, one).is_cut)

    def send(self, sender: str, receiver: str, envelope: Envelope) -> None:
        """Take a message; what becomes of it is chance."""
        link = self._links.get((sender, receiver))
        if link is None:
            link = self.link(sender, receiver)
        if link.is_cut:
            self._count("cut")
            return
        faults = self.faults
        chance = link.chance
        if faults.loss and chance.random() < faults.loss and self._injects("lost", link):
            return
        if faults.in_flight_max and link.in_flight >= faults.in_flight_max:
            self._count("overflowed")
            return
        delay = faults.delay_seconds - faults.delay_mean_seconds * log(1 - chance.random())
        if faults.spikes and chance.random() < faults.spikes and self._injects("spikes", link):
            delay += 1 + 5 * chance.random()
        scheduler = self._scheduler
        arrival = scheduler.now + int(delay * SECOND)
        if faults.in_order:
            arrival = link.last_arrival = max(arrival, link.last_arrival)
        link.in_flight += 1
        scheduler.at(arrival, self._arrive, link, envelope, True)
        is_repeated = faults.repetition and chance.random() < faults.repetition
        if is_repeated and self._injects("repeated", link):
            later = int(chance.random() * REPEATED_WITHIN_SECONDS * SECOND)
            self._scheduler.at(self._scheduler.now + later, self._arrive, link, envelope, False)
        if faults.replay:
            self._replay(link, envelope)

    def _replay(self, link: Link, envelope: Envelope) -> None:
        is_replayed = link.old and link.chance.random() < self.faults.replay
        if is_replayed and self._injects("replayed", link):
            self._scheduler.at(
                self._scheduler.now + int(link.chance.random() * SECOND),
                self._arrive,
                link,
                link.chance.choice(link.old),
                False,
            )
        if len(link.old) < REPLAYS_KEPT:
            link.old.append(envelope)
        else:
            link.old[link.chance.randrange(REPLAYS_KEPT)] = envelope

    def _arrive(self, link: Link, envelope: Envelope, is_counted: bool) -> None:
        if is_counted:
            link.in_flight -= 1
        if link.is_cut:
            self._count("cut")
            return
        if not self.faults.on_the_wire:
            self._trace.arrival(link.name, link.mark, envelope)
            self._deliver(link.sender, link.receiver, envelope)
            return
        for received in self._over_the_wire(link, envelope):
            self._trace.arrival(link.name, link.mark, received)
            self._deliver(link.sender, link.receiver, received)

    def _over_the_wire(self, link: Link, envelope: Envelope) -> tuple[Envelope, ...]:
        """Real encoding, maybe a flipped byte, a cut end or two frames in one, real decoding."""
        frame = encode_frame((envelope,))
        chance = link.chance
        if chance.happens(self.faults.corruption) and self._injects("corrupted", link):
            kind = chance.randrange(3)
            if kind == 0:
                place = chance.randrange(len(frame))
                frame = frame[:place] + bytes([chance.randrange(256)]) + frame[place + 1 :]
            elif kind == 1:
                frame = frame[: chance.randrange(len(frame))]
            else:
                frame = frame + frame
        try:
            return decode_frame(frame)
        except MalformedMessage:
            self._count("undecodable")
            return ()

    def _injects(self, kind: str, link: Link) -> bool:
        if not self._record.allows(f"{kind} {link.name}"):
            return False
        self._count(kind)
        return True

    def _count(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
