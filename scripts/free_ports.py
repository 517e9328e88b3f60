"""Ports for networks that are started beside others: for the bench and the tests."""

import random
import socket

from scripts.processes import StartFailed

# Below the range from which the kernel takes ports for outgoing connections: a killed node finds
# its own port free again.
PORTS = range(12_000, 32_000)
TRIES_MAX = 500


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now, each another one. Raises StartFailed."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, TRIES_MAX):
        if len(found) == count:
            break
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    if len(found) < count:
        raise StartFailed(f"no {count} free ports between {PORTS.start} and {PORTS.stop}")
    return found
