"""One message for every cell of coverage: each type, around each view and water mark of a replica.

What nobody would ever say to a replica in that state is what its guards are for.
"""

from pbft.codec import encode_message
from pbft.core import Core
from pbft.log import NULL_REQUEST
from pbft.messages import (
    AnyMessage,
    Body,
    Checkpoint,
    Commit,
    FetchBody,
    FetchState,
    NewView,
    Prepare,
    PrePrepare,
    Recover,
    Replies,
    Request,
    Signed,
    StateLeaves,
    StateParts,
    Status,
    ViewChange,
)

NO_MESSAGE = b"\xc1"  # a byte that MessagePack never uses


def sweep(core: Core, index: int, name: str) -> list[AnyMessage]:
    """Messages of that faulty replica to a replica in this state."""
    numbers = dict.fromkeys(
        (
            core.kept_above,
            core.low,
            core.executed,
            core.executed + 1,
            min(core.executed + 2, core.high),
            core.high + 1,
        )
    )
    views = [view for view in (core.view - 1, core.view, core.view + 1) if view >= 0]
    said: list[AnyMessage] = []
    for view in views:
        for number in numbers:
            said += [
                PrePrepare(view, number, NULL_REQUEST, index),
                Prepare(view, number, NULL_REQUEST, index),
                Commit(view, number, NULL_REQUEST, index),
            ]
        said.append(Status(view, True, core.low, core.executed, index))
        if view > 0:
            said += [ViewChange(view, 0, (), (), index), NewView(view, (), (), index)]
    said += [Checkpoint(number, NULL_REQUEST, index) for number in numbers]
    number = core.executed + 1
    said += [
        Request(name, 1, b""),
        FetchBody(number, NULL_REQUEST, index),
        Body(number, NULL_REQUEST, index),
        FetchState(core.low, (), index),
        StateLeaves(core.checkpoints.certified.sequence, (), index),
        StateParts(core.checkpoints.certified.sequence, (), index),
        Recover(NULL_REQUEST, index, core.low),
        Replies((), index),
    ]
    return said


def noise(name: str) -> Signed:
    """Bytes that are no message, in that replica's name."""
    payload = NO_MESSAGE + encode_message(Replies((), 0))
    return Signed(name, payload, bytes(64))
