"""The switch between machines: frames of a link are lost, repeated and delayed, and of no other."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests.operators.machine import Machine, missing_programs
from tests.operators.packet_switch import CUT, Link
from tests.operators.world import World
from tests.waiting import block_until

PORT = 9
PACKETS = 200
# for all packets of a test, each with its bookkeeping
BUFFER_BYTES = 4 * 2**20
# the option of Linux that goes beyond the system's limit
SO_RCVBUFFORCE = 33
SECONDS = 30.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two machines."""
    if missing := missing_programs():
        pytest.skip(f"no machines can be made here: {', '.join(missing)}")
    with World(tmp_path_factory.mktemp("switch") / "world", None) as made:
        for name in ("acme", "berg"):
            made.add(name)
        yield made


class Wire:
    """UDP from one machine to the other, where each packet is a frame."""

    def __init__(self, source: Machine, target: Machine) -> None:
        self._target = (target.plan.address, PORT)
        self._receiver = target.call(lambda: _udp(target.plan.address))
        self._sender = source.call(lambda: _udp(source.plan.address))
        # the addresses of both are known from here on
        self.received: list[bytes] = []
        block_until(lambda: self.sent_and_received(1) > 0, "a first packet", SECONDS)

    def sent_and_received(self, count: int, seconds: float = 0.5) -> int:
        """Send so many packets; how many came within that time without a new one."""
        self.received.clear()
        for number in range(count):
            with contextlib.suppress(OSError):
                self._sender.sendto(str(number).encode(), self._target)
        self._receiver.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            while True:
                self.received.append(self._receiver.recv(100))
        return len(self.received)

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()


def _udp(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    made.bind((address, PORT))
    return made


@pytest.fixture
def there(world: World) -> Iterator[Wire]:
    wire = Wire(world.machines["acme"], world.machines["berg"])
    yield wire
    wire.close()


FROM_ACME = [("acme", "berg")]


def test_a_whole_link_loses_and_repeats_nothing(there: Wire) -> None:
    there.sent_and_received(PACKETS, SECONDS / 10)
    assert there.received == [str(number).encode() for number in range(PACKETS)]


def test_a_link_is_cut_one_way_and_mended(world: World, there: Wire) -> None:
    end = world.impair(FROM_ACME, CUT)
    assert there.sent_and_received(PACKETS) == 0
    end()
    there.close()
    back = Wire(world.machines["berg"], world.machines["acme"])
    end = world.impair(FROM_ACME, CUT)
    # its way is whole; what it needs of the other way, the neighbour's address, it has
    assert back.sent_and_received(PACKETS, SECONDS / 10) == PACKETS
    end()
    back.close()


def test_a_share_of_the_packets_is_lost(world: World, there: Wire) -> None:
    end = world.impair(FROM_ACME, Link(loss=0.5))
    arrived = there.sent_and_received(PACKETS)
    end()
    # seven standard deviations
    assert PACKETS * 0.25 < arrived < PACKETS * 0.75
    assert len(set(there.received)) == arrived


def test_a_share_of_the_packets_comes_twice(world: World, there: Wire) -> None:
    end = world.impair(FROM_ACME, Link(duplication=0.5))
    arrived = there.sent_and_received(PACKETS, SECONDS / 10)
    end()
    assert len(set(there.received)) == PACKETS
    assert PACKETS * 1.25 < arrived < PACKETS * 1.75


def test_packets_arrive_later_and_in_order(world: World, there: Wire) -> None:
    end = world.impair(FROM_ACME, Link(delay_seconds=0.2))
    began = time.monotonic()
    there.sent_and_received(1, SECONDS / 10)
    assert time.monotonic() - began >= 0.2
    there.sent_and_received(PACKETS, SECONDS / 10)
    end()
    assert there.received == [str(number).encode() for number in range(PACKETS)]


def test_of_two_faults_of_a_link_the_worse_counts_until_it_ends(world: World, there: Wire) -> None:
    slow = world.impair(FROM_ACME, Link(duplication=1.0))
    cut = world.impair(FROM_ACME, CUT)
    assert there.sent_and_received(1) == 0
    cut()
    assert there.sent_and_received(1, SECONDS / 10) == 2
    slow()
    assert there.sent_and_received(1, SECONDS / 10) == 1
