"""Whether the replicated state has room for what a client asks: one more build, one more asker.

The rule: whoever asks uses up places of its own and of no other client, and no faulty clients
together make a state that is too large to be fetched. Reasons are fixed texts, for replicas compare
them.
"""

from collections.abc import Mapping

from ci.builds import OpenBuild
from ci.limits import Limits

# An honest gateway asks once, and again only after it lost its counter. Of each client, so that
# none can use up the places of another that got the same delivery.
ASKINGS_PER_CLIENT_MAX = 16
# Builds that the state holds at once, of all clients, whatever the limits add up to: each is a leaf
# of the state, and all leaves must fit into one message (pbft.messages.STATE_LEAVES_MAX).
BUILDS_MAX = 60_000


def opening_refusal(
    builds: Mapping[bytes, OpenBuild], limits: Limits, client: str, needs_approval: bool
) -> str | None:
    """Why there is no room for one more build of this client; None: there is.

    Builds that wait for approval have a cap of their own: anybody can make a gateway ask for
    them, and that must not keep others from building. Approval moves one over whatever the
    other caps say, for an operator wants it.
    """
    if len(builds) >= BUILDS_MAX:
        return f"{BUILDS_MAX} builds are held, the most of all clients together"
    if needs_approval:
        return _waiting_refusal(builds, limits, client)
    undecided = [b for b in builds.values() if not b.is_decided and b.is_approved]
    if len(undecided) >= limits.open_builds_max:
        return f"{limits.open_builds_max} builds are open, the most at once"
    asked = sum(build.has_asker(client) for build in undecided)
    if asked >= limits.open_builds_per_client_max:
        return f"{limits.open_builds_per_client_max} builds of this client are open"
    return None


def joining_refusal(
    build: OpenBuild, builds: Mapping[bytes, OpenBuild], limits: Limits, client: str
) -> str | None:
    """Why this client cannot ask for a build that is open (once more); None: it can.

    To ask for one that waits for approval counts as much as to open it: else two clients that ask
    for the same builds and withdraw in turn could have any number wait.
    """
    askings = sum(asker.client == client for asker in build.askers)
    if askings >= ASKINGS_PER_CLIENT_MAX:
        return f"this client asked for this build {askings} times already"
    if askings or build.is_approved:
        return None
    return _waiting_refusal(builds, limits, client)


def _waiting_refusal(builds: Mapping[bytes, OpenBuild], limits: Limits, client: str) -> str | None:
    waiting = [build for build in builds.values() if not build.is_approved]
    asked = sum(build.has_asker(client) for build in waiting)
    if asked >= limits.waiting_builds_per_client_max:
        return f"{asked} builds of this client wait for approval"
    return None
