"""The message diagram of a real build, from what each node saw.

A message is an arrow where both ends saw it: from when it was sent last before, to when it came.
The nodes' clocks are their own: between machines whose clocks differ, arrows may lean; none is
drawn against time.
"""

import bisect
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from client.network.nodes import ServedMessage, ServedTrace
from common.diagram.diagram_marks import mark_of
from common.diagram.message_diagram import Arrow, Bar, Diagram, Mark
from pbft.quorums import Quorums

ALL = "all"
# What a REPLY answers, as node.diagnostics.message_trace writes it.
_ANSWER = re.compile(r"\b(opened|decided)=([0-9a-f]+)")
_BALLOT = re.compile(r"from (\S+) .*\bballot=([a-z_]+(?: \d+)?)$")
_VIEW = re.compile(r"\bview=(\d{1,18})\b")


def build_diagram(
    title: str,
    replicas: Sequence[str],
    client: str,
    *,
    traces: Mapping[str, ServedTrace],
    quorums: Quorums,
    dissenting: Collection[str] = (),
) -> Diagram:
    """The diagram of these nodes' traces; replicas that gave none have an empty lane.

    dissenting: whose ballots differ from the verdict.
    """
    sent = _sent_times(traces)
    arrows = []
    for name in replicas:
        trace = traces.get(name)
        if trace is None:
            continue
        for message in trace.messages:
            if message.direction == "received" and message.peer != name:
                arrows.append(_received(name, message, client, replicas=replicas, sent=sent))
            elif message.direction == "sent" and message.peer == client:
                arrows.append(_arrow(name, client, message, sent=message.at, at=message.at))
    arrows.sort(key=lambda arrow: arrow.sent)
    said = _ballots(traces)
    marks = [
        mark_of(
            name,
            moment.at,
            moment.event,
            details=moment.details,
            replicas=replicas,
            quorums=quorums,
        )
        for name, trace in traces.items()
        for moment in trace.moments
    ]
    return Diagram(
        title=title,
        lanes=(client, *replicas),
        roles=_roles(replicas, client, traces),
        arrows=tuple(arrows),
        bars=tuple(
            Bar(
                lane=name,
                began=trace.built[0],
                ended=trace.built[1],
                text=_building(trace.built, said.get(name)),
            )
            for name, trace in traces.items()
            if trace.built is not None
        ),
        marks=(
            *(mark for mark in marks if mark is not None),
            *_believed(arrows, client, quorums),
            *_dissent(traces, said, dissenting),
        ),
    )


def ordered_views(traces: Mapping[str, ServedTrace]) -> list[int]:
    """The views in which a build was proposed, as nodes saw it; empty: no node knows any more."""
    views = {
        int(found[1])
        for trace in traces.values()
        for message in trace.messages
        if message.kind == "PrePrepare" and (found := _VIEW.search(message.text))
    }
    return sorted(views)


def _ballots(traces: Mapping[str, ServedTrace]) -> dict[str, str]:
    """What each replica's ballot says, as far as a node has seen it."""
    found = (
        _BALLOT.match(message.text)
        for trace in traces.values()
        for message in trace.messages
        if message.kind == "Ballot"
    )
    return {match[1]: match[2] for match in found if match is not None}


def _building(built: tuple[float, float], said: str | None) -> str:
    text = f"{built[1] - built[0]:.1f} s"
    return f"build, {text}" if said is None else f"{text}: {said}"


def _dissent(
    traces: Mapping[str, ServedTrace], said: Mapping[str, str], dissenting: Collection[str]
) -> Iterator[Mark]:
    """Where a ballot leaves that differs from the verdict."""
    for name, trace in traces.items():
        if name in dissenting and name in said and trace.built is not None:
            more = "its ballot differs from the verdict; that proves nothing against it"
            text = f"dissents: {said[name]}"
            yield Mark(lane=name, at=trace.built[1], text=text, kind="dissent", more=more)


def _roles(
    replicas: Sequence[str], client: str, traces: Mapping[str, ServedTrace]
) -> dict[str, str]:
    """Who was the primary when the build was ordered, and who has nothing to tell."""
    roles = {name: "no answer" for name in replicas if name not in traces}
    for view in ordered_views(traces):
        name = replicas[view % len(replicas)]
        said = f"primary of view {view}"
        roles[name] = f"{roles[name]}, {said}" if name in roles else said
    return {client: "gateway", **roles}


def _believed(arrows: Iterable[Arrow], client: str, quorums: Quorums) -> list[Mark]:
    """Where the gateway had f+1 equal REPLYs of distinct replicas: opened, and decided."""
    speakers: dict[tuple[str, str], set[str]] = {}
    marks: dict[str, Mark] = {}
    for arrow in arrows:
        if arrow.kind != "Reply" or arrow.target != client or arrow.arrived is None:
            continue
        for kind, digest in _ANSWER.findall(arrow.text):
            of = speakers.setdefault((kind, digest), set())
            of.add(arrow.source)
            if len(of) == quorums.weak and kind not in marks:
                text = f"{quorums.weak} equal REPLYs: {kind}"
                marks[kind] = Mark(lane=client, at=arrow.arrived, text=text, kind="accepted")
    return list(marks.values())


def _sent_times(traces: Mapping[str, ServedTrace]) -> dict[tuple[str, str, str], list[float]]:
    """(sender, receiver or `all`, key) -> when it was sent, in order: some are sent again."""
    sent: dict[tuple[str, str, str], list[float]] = {}
    for name, trace in traces.items():
        for message in trace.messages:
            if message.direction == "sent":
                sent.setdefault((name, message.peer, message.key), []).append(message.at)
    for times in sent.values():
        times.sort()
    return sent


def _received(
    name: str,
    message: ServedMessage,
    client: str,
    *,
    replicas: Sequence[str],
    sent: Mapping[tuple[str, str, str], list[float]],
) -> Arrow:
    peer = message.peer if message.peer in replicas else client
    before = [
        times[place - 1]
        for receiver in (name, ALL)
        if (times := sent.get((peer, receiver, message.key)))
        and (place := bisect.bisect_right(times, message.at))
    ]
    return _arrow(peer, name, message, sent=max(before, default=message.at), at=message.at)


def _arrow(source: str, target: str, message: ServedMessage, *, sent: float, at: float) -> Arrow:
    return Arrow(
        source=source,
        target=target,
        sent=sent,
        arrived=at,
        kind=message.kind,
        text=message.text,
        refused=message.refused,
    )
