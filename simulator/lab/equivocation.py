"""The same lie under two protocols: a leader that tells some nodes `min` and others `min + 1`.

Under BSMR the states fork. Under PBFT neither value finds 2f+1 votes: the nodes time out, change
the view, and go on with one state (tests/seeds/test_s3_bsmr.py). There is no client
that waits for an answer: each round the primary proposes a number, and the accepted numbers are
the state.
"""

from collections.abc import Callable

from pbft.codec import digest_of, encode_batch
from pbft.messages import PrePrepare
from pbft.quorums import quorums_for
from simulator.lab import bsmr
from simulator.lab.scenario_page import Shown
from simulator.lab.scenarios import signed_request
from simulator.lab.scripted_cluster import ScriptedCluster
from simulator.lab.show import diagram_of
from simulator.world.seeded_random import stream

AGREED, FORKED = "agreed", "forked"
ROUNDS = 3
# Enough for a view change, and for one number.
SETTLE_SECONDS = 6.0
ROUND_SECONDS = 1.0

LOOKS = {
    "pbft": (
        "In round 1 the primary tells some replicas one number and the others another: neither "
        "finds 2f+1 COMMITs, the replicas leave its view, and the next primary orders both. "
        "All correct replicas end with the same numbers."
    ),
    "bsmr": (
        "Every node sends its value to the leader, and believes what the leader announces. "
        "Nobody compares, so a leader that announces two things makes the states differ, and "
        "nobody notices."
    ),
}


def play(
    protocol: str, *, replicas: int, faults: int, seed: int, tell: Callable[[str], None]
) -> Shown:
    """Play it; its verdict is `agreed` or `forked`. tell gets every message.

    faults: 0: the leader is honest; else it lies to all but that many. Raises
    UnsupportedSize for a number of replicas that PBFT has no use for.
    """
    quorums_for(replicas)
    trace: list[str] = []

    def note(line: str) -> None:
        trace.append(line)
        tell(line)

    liar = "a leader that says two things" if faults else "an honest leader"
    title = f"{protocol.upper()} with {liar}"
    run = _play_bsmr if protocol == "bsmr" else _play_pbft
    return run(title, replicas=replicas, faults=faults, seed=seed, tell=note, trace=trace)


def _play_bsmr(
    title: str,
    *,
    replicas: int,
    faults: int,
    seed: int,
    tell: Callable[[str], None],
    trace: list[str],
) -> Shown:
    played = bsmr.play(
        title=title, replicas=replicas, faults=faults, rounds=ROUNDS, seed=seed, tell=tell
    )
    states = []
    for node in played.nodes:
        role = "faulty" if faults and node is played.nodes[0] else ""
        states.append((node.name, str(node.state), role))
    return Shown(
        look=LOOKS["bsmr"],
        diagram=played.diagram,
        verdict=FORKED if bsmr.has_forked(played.nodes, faults) else AGREED,
        headings=("node", "state", ""),
        states=states,
        trace=trace,
    )


def _play_pbft(
    title: str,
    *,
    replicas: int,
    faults: int,
    seed: int,
    tell: Callable[[str], None],
    trace: list[str],
) -> Shown:
    chance = stream(seed, "equivocation")
    scripted = ScriptedCluster(
        replicas=replicas, faulty=("r0",) if faults else (), tell=tell, seed=seed
    )
    scripted.run(0.1)
    for number in range(1, ROUNDS + 1):
        smallest = chance.randint(1, 98)
        if number == 1 and faults:
            _lie(scripted, smallest, faults)
            scripted.run(SETTLE_SECONDS)
        else:
            scripted.say(f"round {number}: the primary proposes {smallest}")
            scripted.ask(str(smallest))
            scripted.run(ROUND_SECONDS)
    states = []
    for name in scripted.names:
        _, digest = scripted.journal_of(name)
        role = "faulty" if name in scripted.faulty else ""
        said = f"[{', '.join(scripted.appended[name])}]"
        states.append((name, said, f"digest {digest}", f"view {scripted.core(name).view}", role))
    journals = {scripted.journal_of(name) for name in scripted.correct}
    return Shown(
        look=LOOKS["pbft"],
        diagram=diagram_of(title, scripted),
        verdict=FORKED if scripted.forks() or len(journals) > 1 else AGREED,
        headings=("replica", "state", "journal", "view", ""),
        states=states,
        trace=trace,
    )


def state_line(state: tuple[str, ...]) -> str:
    """A node's state in a line: `r0 state: [1, 2], view 0 (faulty)`."""
    name, *words, role = state
    return f"{name} state: {', '.join(words)}" + (f" ({role})" if role else "")


def _lie(scripted: ScriptedCluster, smallest: int, faults: int) -> None:
    """The primary of view 0 proposes one number to some and another to the others, as number 1.

    Replicas order nothing but what a client signed, so the client really asks for both.
    """
    scripted.silence("r0")
    believers = scripted.names[1 : faults + 1]
    others = scripted.names[faults + 1 :]
    scripted.say(
        f"round 1: r0 proposes {smallest} to {', '.join(believers)}, {smallest + 1} to others"
    )
    for number, (value, receivers) in enumerate(((smallest, believers), (smallest + 1, others)), 1):
        body = encode_batch([signed_request(scripted, number, str(value))])
        scripted.forge("r0", PrePrepare(0, 1, digest_of(body), 0), to=receivers, body=body)
    scripted.ask(str(smallest))
    scripted.ask(str(smallest + 1))
