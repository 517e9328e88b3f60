"""How a node misbehaves on purpose, for demonstrations and tests. Off by default.

`lying`: it builds like the others and then says the opposite in its ballot.
`silent`: it receives everything and sends nothing to the other replicas.
The simulator has an adversary of its own, which is richer.
"""

import msgspec

from ci.operations import Ballot, Compared, Finding, Outcome

LYING = "lying"
SILENT = "silent"


def told_ballot(ballot: Ballot, fault: str | None) -> Ballot:
    """What the node says, given what it found."""
    if fault != LYING or not isinstance(ballot, Finding):
        return ballot
    return msgspec.structs.replace(ballot, compared=_opposite(ballot.compared))


def is_mute(fault: str | None) -> bool:
    """Whether the node keeps all its messages to itself."""
    return fault == SILENT


def _opposite(found: Compared) -> Compared:
    """Red for green, and green for anything else, in a form that the others count as valid."""
    if found.outcome is Outcome.PASSED:
        return msgspec.structs.replace(found, outcome=Outcome.FAILED, exit_code=1)
    if found.commit is None:
        # Without a commit only `checkout_failed` is a valid finding: it cannot be turned green.
        return found
    return msgspec.structs.replace(found, outcome=Outcome.PASSED, exit_code=0)
