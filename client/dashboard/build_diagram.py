"""The message diagram of a real build, from what each node saw. Pure.

A message is an arrow where both ends saw it: from when it was sent last before, to when it came.
The nodes' clocks are their own: between machines whose clocks differ, arrows may lean; none is
drawn against time.
"""

from collections.abc import Mapping, Sequence

from client.nodes import ServedMessage, ServedMoment, ServedTrace
from common.message_diagram import Arrow, Bar, Diagram, Mark

ALL = "all"
MARKS = {
    "prepared": "prepared {sequence}",
    "executed": "executed {sequence}",
    "view_change": "leaves for view {view}",
    "new_view": "enters view {view}",
    "equivocation": "proof against {replica}",
}


def build_diagram(
    title: str, replicas: Sequence[str], client: str, traces: Mapping[str, ServedTrace]
) -> Diagram:
    """The diagram of these nodes' traces; replicas that gave none have an empty lane."""
    sent = _sent_times(traces)
    arrows = []
    for name in replicas:
        trace = traces.get(name)
        if trace is None:
            continue
        for message in trace.messages:
            if message.direction == "received" and message.peer != name:
                arrows.append(_received(name, message, client, replicas, sent))
            elif message.direction == "sent" and message.peer == client:
                arrows.append(_arrow(name, client, message, message.at, message.at))
    arrows.sort(key=lambda arrow: arrow.sent)
    return Diagram(
        title=title,
        lanes=(client, *replicas),
        arrows=tuple(arrows),
        bars=tuple(
            Bar(lane=name, began=trace.built[0], ended=trace.built[1], text="build")
            for name, trace in traces.items()
            if trace.built is not None
        ),
        marks=tuple(
            _mark(name, moment, replicas)
            for name, trace in traces.items()
            for moment in trace.moments
            if moment.event in MARKS
        ),
    )


def _sent_times(traces: Mapping[str, ServedTrace]) -> dict[tuple[str, str, str], list[float]]:
    """(sender, receiver or `all`, key) -> when it was sent, in order: some are sent again."""
    sent: dict[tuple[str, str, str], list[float]] = {}
    for name, trace in traces.items():
        for message in trace.messages:
            if message.direction == "sent":
                sent.setdefault((name, message.peer, message.key), []).append(message.at)
    return sent


def _received(
    name: str,
    message: ServedMessage,
    client: str,
    replicas: Sequence[str],
    sent: Mapping[tuple[str, str, str], list[float]],
) -> Arrow:
    peer = message.peer if message.peer in replicas else client
    times = [
        *sent.get((peer, name, message.key), ()),
        *(sent.get((peer, ALL, message.key), ())),
    ]
    began = max((at for at in times if at <= message.at), default=message.at)
    return _arrow(peer, name, message, began, message.at)


def _arrow(source: str, target: str, message: ServedMessage, sent: float, at: float) -> Arrow:
    return Arrow(
        source=source,
        target=target,
        sent=sent,
        arrived=at,
        kind=message.kind,
        text=message.text,
        refused=message.refused,
    )


def _mark(name: str, moment: ServedMoment, replicas: Sequence[str]) -> Mark:
    details = dict(moment.details)
    index = details.get("replica")
    if isinstance(index, int) and 0 <= index < len(replicas):
        details["replica"] = replicas[index]
    try:
        text = MARKS[moment.event].format(**details)
    except (KeyError, IndexError):
        text = moment.event
    return Mark(lane=name, at=moment.at, text=text, is_wrong=moment.event == "equivocation")
