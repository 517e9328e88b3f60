"""Whether the replicated state has room for what a client asks: a build, an asker, an approval.

The rule: whoever asks uses up places of its own and of no other client, and all places together
make no state that is too large to be saved or fetched: `room_refusal` refuses limits that would.
Reasons are fixed texts, for replicas compare them.
"""

from collections.abc import Mapping

from ci.builds import OpenBuild
from ci.limits import Limits
from ci.operations import BALLOT_BYTES
from ci.seats import seats_of
from pbft.genesis import Cluster

GATEWAY_ROLE = "gateway"

# An honest gateway asks once, and again only after it lost its counter. Of each client, so that
# none can use up the places of another that got the same delivery.
ASKINGS_PER_CLIENT_MAX = 16
# Operators want what they approve, full or not, but not without end: this many times the builds
# that may be open at once.
APPROVED_OVER_OPEN_MAX = 2

# What a whole state may have, encoded: the store saves it as one value, which SQLite bounds.
STATE_BYTES_MAX = 800_000_000
# Of that, at most (tests/ci/test_admission.py measures it), beside BALLOT_BYTES: one asking beside
# its client's name; what else a build has, with its verdict and statement; an answer that is kept
# for a client, of which there are two windows. Where ballots differ in the longest lists of
# artifacts, a build has up to a seventh more; SQLite's bound leaves a quarter.
ASKING_BYTES = 64
BUILD_BYTES = 104 * 1024
ANSWER_BYTES = 384
# proposed limits, beside the names of those who approved
PROPOSAL_BYTES = 1024


def builds_max(cluster: Cluster, limits: Limits) -> int:
    """How many builds a state holds at most: waiting, open, and still taking late ballots."""
    gateways = sum(GATEWAY_ROLE in member.roles for member in cluster.genesis.clients)
    return (
        gateways * limits.waiting_builds_per_client_max
        + APPROVED_OVER_OPEN_MAX * limits.open_builds_max
        + limits.closing_builds_max
    )


def room_refusal(cluster: Cluster, limits: Limits) -> str | None:
    """Why these rules could make too large a state, and what to change; None: they cannot."""
    genesis = cluster.genesis
    askings = ASKINGS_PER_CLIENT_MAX * sum(
        ASKING_BYTES + len(member.name.encode())
        for member in genesis.clients
        if GATEWAY_ROLE in member.roles
    )
    build_bytes = BUILD_BYTES + len(genesis.replicas) * BALLOT_BYTES + askings
    builds_bytes = builds_max(cluster, limits) * build_bytes
    members = len(genesis.clients) + len(genesis.replicas)
    answers_bytes = members * 2 * genesis.client_window * ANSWER_BYTES
    if builds_bytes + answers_bytes + _proposals_bytes(cluster) <= STATE_BYTES_MAX:
        return None
    return (
        f"the state could have {builds_max(cluster, limits)} builds of {build_bytes // 1024} KiB"
        f" ({builds_bytes // 10**6} MB) and {answers_bytes // 10**6} MB of answers, more than"
        f" {STATE_BYTES_MAX // 10**6} MB: lower limits.waiting_builds_per_client_max (for each"
        " gateway), limits.open_builds_max, limits.closing_builds_max or client_window"
    )


def opening_refusal(
    builds: Mapping[bytes, OpenBuild],
    cluster: Cluster,
    limits: Limits,
    *,
    client: str,
    needs_approval: bool,
) -> str | None:
    """Why there is no room for one more build of this client; None: there is.

    limits: those that hold now. Builds that wait for approval have a cap of their own: anybody can
    make a gateway ask for them, and that must not keep others from building. Approval moves one
    over: `approval_refusal`.

    Each kind of build has its cap, which `builds_max` adds up. Builds that were opened under other
    limits may exceed the cap of their kind for as long as they last. So all together have a cap
    too: else limits that are right one by one could together make too large a state.
    """
    reason = _kind_refusal(builds, limits, client, needs_approval=needs_approval)
    if reason is None and len(builds) >= (most := builds_max(cluster, limits)):
        return f"{most} builds are in the state, the most at once"
    return reason


def joining_refusal(
    build: OpenBuild, builds: Mapping[bytes, OpenBuild], limits: Limits, *, client: str
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


def approval_refusal(builds: Mapping[bytes, OpenBuild], limits: Limits) -> str | None:
    """Why no build can be approved now; None: one can."""
    open_max = APPROVED_OVER_OPEN_MAX * limits.open_builds_max
    if len(_undecided(builds)) >= open_max:
        return f"{open_max} builds are open, the most at once"
    return None


def is_temporary(reason: str) -> bool:
    """Does a refusal only say that there is no room now, so that asking again later may help?"""
    return " builds " in reason and reason.endswith(("at once", "are open", "wait for approval"))


def _proposals_bytes(cluster: Cluster) -> int:
    """Each operator that stands for a replica proposes limits, and all others approve them.

    What they propose about members is not counted, so that replicas of the release before refuse
    the same limits: with 1,024 operators it is 34 MB of the quarter that is left beside this.
    """
    clients = (member.name for member in cluster.genesis.clients)
    operators = [name for name in clients if seats_of(cluster, [name])]
    names_bytes = sum(len(name.encode()) + 2 for name in operators)
    return len(operators) * (PROPOSAL_BYTES + names_bytes)


def _kind_refusal(
    builds: Mapping[bytes, OpenBuild], limits: Limits, client: str, *, needs_approval: bool
) -> str | None:
    if needs_approval:
        return _waiting_refusal(builds, limits, client)
    undecided = _undecided(builds)
    if len(undecided) >= limits.open_builds_max:
        return f"{limits.open_builds_max} builds are open, the most at once"
    asked = sum(build.has_asker(client) for build in undecided)
    if asked >= limits.open_builds_per_client_max:
        return f"{limits.open_builds_per_client_max} builds of this client are open"
    return None


def _undecided(builds: Mapping[bytes, OpenBuild]) -> list[OpenBuild]:
    return [build for build in builds.values() if not build.is_decided and build.is_approved]


def _waiting_refusal(builds: Mapping[bytes, OpenBuild], limits: Limits, client: str) -> str | None:
    waiting = [build for build in builds.values() if not build.is_approved]
    asked = sum(build.has_asker(client) for build in waiting)
    if asked >= limits.waiting_builds_per_client_max:
        return f"{asked} builds of this client wait for approval"
    return None
