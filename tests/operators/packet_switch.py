"""An Ethernet switch between network namespaces, whose links lose, repeat and delay frames.

Each machine's `eth0` is a TAP device whose other end is held here. So the kernel's own TCP runs
over links that fail as wires fail, also on a kernel without a network emulator (sch_netem), and
nothing of the host's network is touched. The devices vanish with the process that holds them.
"""

import contextlib
import errno
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass

TUN_DEVICE = "/dev/net/tun"
DEVICE = "eth0"
# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
FRAME_BYTES_MAX = 65_536
MAC_PREFIX = bytes((2, 0, 0, 0, 0))
# How many frames may be under way on all links: beyond it they are lost, as in any switch.
DELAYED_FRAMES_MAX = 20_000
FRAMES_AT_ONCE = 64


@dataclass(frozen=True)
class Link:
    """How frames travel from one machine to another; by default they all arrive at once."""

    # of all frames, 0 to 1
    loss: float = 0.0
    duplication: float = 0.0
    delay_seconds: float = 0.0

    def beside(self, other: "Link") -> "Link":
        """The worse of both in each respect."""
        return Link(
            max(self.loss, other.loss),
            max(self.duplication, other.duplication),
            max(self.delay_seconds, other.delay_seconds),
        )


WHOLE = Link()
CUT = Link(loss=1.0)


def open_tap() -> int:
    """Make `eth0` in the network namespace of this thread; the descriptor of its other end."""
    descriptor = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", DEVICE.encode(), IFF_TAP | IFF_NO_PI)
        fcntl.ioctl(descriptor, TUNSETIFF, request)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def mac_of(port: int) -> str:
    """The address that the device at this port must have."""
    return (MAC_PREFIX + bytes((port,))).hex(":")


class PacketSwitch:
    """Moves frames between the devices plugged in. Use it as a context manager."""

    def __init__(self, seed: int) -> None:
        """seed: decides which frames are lost and repeated."""
        self._chance = random.Random(f"frames {seed}")
        self._links: dict[tuple[int, int], Link] = {}
        self._devices: dict[int, int] = {}
        self._due: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()
        self._poll = select.epoll()
        self._wake, self._waken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="packet switch")
        self._is_over = False
        self.counts: Counter[str] = Counter()

    def plug(self, port: int, descriptor: int) -> None:
        """Take in a device that `open_tap` made, whose address is `mac_of(port)`."""
        self._devices[port] = descriptor
        self._poll.register(descriptor, select.EPOLLIN)

    def set_link(self, source: int, target: int, link: Link) -> None:
        """From now on frames from one port to the other travel like this."""
        # one assignment: the other thread sees the old link or the new one
        self._links[source, target] = link

    def __enter__(self) -> "PacketSwitch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        os.write(self._waken, b".")
        self._thread.join()
        for descriptor in (*self._devices.values(), self._wake, self._waken):
            os.close(descriptor)
        self._poll.close()

    def _run(self) -> None:
        ports = {descriptor: port for port, descriptor in self._devices.items()}
        while not self._is_over:
            if len(ports) != len(self._devices):
                ports = {descriptor: port for port, descriptor in self._devices.items()}
            wait = max(0.0, self._due[0][0] - time.monotonic()) if self._due else 1.0
            for descriptor, _ in self._poll.poll(wait):
                if descriptor == self._wake:
                    return
                port = ports.get(descriptor)
                if port is not None:
                    self._read(port, descriptor)
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, _, target, frame = heapq.heappop(self._due)
                self._write(target, frame)

    def _read(self, port: int, descriptor: int) -> None:
        """What this machine sends now; the others have their turn after FRAMES_AT_ONCE."""
        for _ in range(FRAMES_AT_ONCE):
            try:
                frame = os.read(descriptor, FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EIO:
                    return  # the device is down
                raise
            if frame[:5] == MAC_PREFIX:
                if frame[5] in self._devices:
                    self._send(port, frame[5], frame)
            else:
                for target in tuple(self._devices):
                    if target != port:
                        self._send(port, target, frame)

    def _send(self, source: int, target: int, frame: bytes) -> None:
        link = self._links.get((source, target), WHOLE)
        if link.loss and self._chance.random() < link.loss:
            self.counts["lost"] += 1
            return
        copies = 1
        if link.duplication and self._chance.random() < link.duplication:
            self.counts["repeated"] += 1
            copies = 2
        for _ in range(copies):
            self.counts["sent"] += 1
            if not link.delay_seconds:
                self._write(target, frame)
            elif len(self._due) < DELAYED_FRAMES_MAX:
                due = time.monotonic() + link.delay_seconds
                heapq.heappush(self._due, (due, next(self._numbers), target, frame))

    def _write(self, target: int, frame: bytes) -> None:
        # a full queue or a device that is down loses the frame, as in any switch
        with contextlib.suppress(OSError):
            os.write(self._devices[target], frame)
