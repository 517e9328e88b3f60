"""What an operator allows of the networks that steps ask for. Pure."""

import msgspec

from common.host_patterns import are_covered
from node.egress.addresses import Network

# of the hosts in an error's text
_TOLD_MAX = 3


class OperatorRules(msgspec.Struct, frozen=True):
    """The settings of node.yml."""

    # network_allowed
    is_allowed: bool
    # network_hosts; None: what is_allowed says
    hosts: tuple[str, ...] | None = None
    # network_addresses
    exceptions: tuple[Network, ...] = ()

    def grants(self, asked: bool | tuple[str, ...]) -> bool:
        """Whether a step gets the network that it asks for; False if it asks for none.

        asked: True for all of it, or patterns for hosts. It gets all of them or none: a step with
        some of its hosts would fail for a reason that no other replica has.
        """
        if isinstance(asked, bool) or self.hosts is None:
            return bool(asked) and self.is_allowed
        return are_covered(self.hosts, asked)


def not_allowed(asked: bool | tuple[str, ...]) -> str:
    """What an operator does who grants that not, and by which setting."""
    if isinstance(asked, bool):
        return "allows none (network_allowed)"
    more = ", ..." if len(asked) > _TOLD_MAX else ""
    told = ", ".join(asked[:_TOLD_MAX])
    return f"does not allow {told}{more} (network_hosts, network_allowed)"
