"""Which addresses a name may lead to. Pure.

The rule is that of example-config/egress.nft, whose sets `closed_ipv4` and `closed_ipv6` these are:
no private, link-local or otherwise special address, which includes every way to write an IPv4
address as an IPv6 one. A test compares the two.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

CLOSED_IPV4 = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
)
CLOSED_IPV6 = (
    *("::/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "4000::/2", "8000::/1"),
)
_CLOSED = tuple(ip_network(text) for text in (*CLOSED_IPV4, *CLOSED_IPV6))


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """The networks that `network_addresses` of node.yml names. Raises ValueError."""
    return tuple(ip_network(text) for text in texts)


def is_open(address: str, exceptions: Iterable[Network]) -> bool:
    """Whether a build may be connected with this address, as a resolver gives it.

    exceptions: special ones that it may. An address with a scope is for one link, and never may.
    """
    try:
        found = ip_address(address)
    except ValueError:
        return False
    if getattr(found, "scope_id", None) is not None:
        return False
    return any(found in network for network in exceptions) or not any(
        found in network for network in _CLOSED
    )
