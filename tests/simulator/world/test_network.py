"""Links lose, repeat, delay, cut and corrupt as they are told, and nothing else."""

import msgspec

from pbft.messages import Envelope, Signed
from simulator.world.network import LinkFaults, Network
from simulator.world.run_trace import Trace
from simulator.world.scheduler import Scheduler


class Net:
    """A network of one link, and what came out of it."""

    def __init__(self, faults: LinkFaults) -> None:
        self.scheduler = Scheduler()
        self.arrived: list[tuple[int, Envelope]] = []
        trace = Trace(self.scheduler)
        self.network = Network(1, self.scheduler, trace, faults=faults, deliver=self._deliver)

    def _deliver(self, sender: str, receiver: str, envelope: Envelope) -> None:
        assert (sender, receiver) == ("a", "b")
        self.arrived.append((self.scheduler.now, envelope))

    def send(self, count: int) -> list[bytes]:
        """Send so many; gives the payloads in order of arrival."""
        for number in range(count):
            signed = Signed("a", b"%05d" % number, bytes(64))
            self.network.send("a", "b", Envelope(signed))
        while self.scheduler.step():
            pass
        return [envelope.signed.payload for _, envelope in self.arrived]


def test_a_quiet_link_brings_everything_once() -> None:
    assert sorted(Net(LinkFaults()).send(200)) == [b"%05d" % number for number in range(200)]


def test_a_link_in_order_keeps_the_order() -> None:
    faults = LinkFaults(delay_mean_seconds=0.1)
    assert Net(faults).send(200) != sorted(Net(faults).send(200))
    arrived = Net(msgspec.structs.replace(faults, in_order=True)).send(200)
    assert arrived == sorted(arrived)


def test_loss_and_repetition_have_their_shares() -> None:
    lossy = Net(LinkFaults(loss=0.3))
    assert 1200 < len(lossy.send(2000)) < 1600
    assert lossy.network.counts["lost"] == 2000 - len(lossy.arrived)
    assert 2150 < len(Net(LinkFaults(repetition=0.1)).send(2000)) < 2250


def test_a_cut_link_brings_nothing_and_a_mended_one_does() -> None:
    net = Net(LinkFaults())
    net.network.cut([("a", "b")])
    assert not net.network.is_whole("b", "a")
    assert net.send(5) == []
    net.network.mend([("a", "b")])
    assert len(net.send(5)) == 5


def test_what_is_in_flight_is_bounded() -> None:
    assert len(Net(LinkFaults(in_flight_max=3)).send(10)) == 3


def test_corrupted_frames_are_dropped_or_changed_but_never_raise() -> None:
    net = Net(LinkFaults(corruption=1.0, on_the_wire=True))
    net.send(500)
    assert net.network.counts["corrupted"] == 500
    assert 0 < net.network.counts["undecodable"] < 500
