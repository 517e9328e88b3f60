"""Ports for networks that are started beside others: for the bench and the tests.

The rule: no two processes are given the same port. Each that asks holds a block of ports for as
long as it lives. So a port stays its owner's while nobody listens on it: before a node has started,
and between its death and its next start.
"""

import functools
import itertools
import os
import socket
from collections.abc import Iterator

from scripts.processes import StartFailed

HOST = "127.0.0.1"
# Below the range from which the kernel takes ports for outgoing connections: a killed node finds
# its own port free again.
PORTS = range(12_000, 32_000)
# Many networks' ports; and there are as many blocks as processes may ask at the same time.
BLOCK_PORTS = 500


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now, each another one. Raises StartFailed.

    A process is given all others of its block before it is given the same one again.
    """
    ports = _ports_of(os.getpid())
    found: list[int] = []
    for _ in range(BLOCK_PORTS - 1):
        if len(found) == count:
            break
        port = next(ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
    if len(found) < count:
        raise StartFailed(f"no {count} free ports between {PORTS.start} and {PORTS.stop}")
    return found


@functools.cache
def _ports_of(process: int) -> Iterator[int]:
    """The ports of a block that this process holds from now on, round and round.

    process: its number, so that a fork does not go on with its parent's. Raises StartFailed.
    """
    for first in PORTS[::BLOCK_PORTS]:
        holder = socket.socket()
        try:
            # without SO_REUSEADDR, so that nobody else can bind it
            holder.bind((HOST, first))
        except OSError:
            holder.close()
            continue
        # bound as long as the process lives
        holder.detach()
        return itertools.cycle(range(first + 1, first + BLOCK_PORTS))
    raise StartFailed(f"other processes hold all ports between {PORTS.start} and {PORTS.stop}")
