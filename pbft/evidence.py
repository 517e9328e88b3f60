"""Proof of misbehaviour: two messages that no correct replica signs both.

Anybody can check it offline, with nothing but the genesis. Nothing less makes a replica "faulty"
in our words. A replica whose disk was put back to an older state by hand can be caught by it too:
it did contradict itself.
"""

from pbft.authentication import Authenticator
from pbft.genesis import Cluster
from pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    Signed,
    ViewChange,
)
from pbft.ports import Refusal, Verify


def check_evidence(
    first: Signed, second: Signed, cluster: Cluster, *, verify: Verify
) -> Refusal | str:
    """What the two messages prove, in a sentence; or why they prove nothing.

    They prove misbehaviour if both are signed by one replica, of one type, about the same thing
    (view and number; the number of a CHECKPOINT; the view of a VIEW-CHANGE or NEW-VIEW), and
    differ.
    """
    authenticator = Authenticator(cluster, verify)
    messages = []
    for signed in (first, second):
        message = authenticator.read(signed)
        if isinstance(message, Refusal):
            return message
        if refusal := authenticator.check(signed, message):
            return refusal
        messages.append(message)
    one, other = messages
    if first.signer != second.signer:
        return Refusal("two different replicas signed them")
    if one == other:
        return Refusal("both say the same")
    about = _about(one)
    if about is None or about != _about(other):
        return Refusal("they are about different things, so they do not contradict each other")
    # what they are about begins with the name of their type
    kind, _, place = about.partition(" ")
    return f"{first.signer} signed two different {kind} messages for {place}"


def _about(message: object) -> str | None:
    if isinstance(message, PrePrepare | Prepare | Commit):
        return f"{type(message).__name__} view {message.view}, sequence {message.sequence}"
    if isinstance(message, Checkpoint):
        return f"{type(message).__name__} sequence {message.sequence}"
    if isinstance(message, ViewChange | NewView):
        return f"{type(message).__name__} view {message.view}"
    return None
