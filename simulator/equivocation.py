"""The same lie under two protocols: a leader that tells some nodes `min` and others `min + 1`.

Under BSMR the states fork. Under PBFT neither value finds 2f+1 votes: the nodes time out, change
the view, and go on with one state (SEEDS S3). There is no client that waits for an answer: each
round the primary proposes a number, and the accepted numbers are the state.
"""

from collections.abc import Callable

from pbft.codec import digest_of, encode_batch
from pbft.messages import PrePrepare
from pbft.quorums import quorums_for
from simulator import bsmr
from simulator.chance import stream
from simulator.scenarios import signed_request
from simulator.stage import Stage

AGREED, FORKED = "agreed", "forked"
ROUNDS = 3
# Enough for a view change, and for one number.
SETTLE_SECONDS = 6.0
ROUND_SECONDS = 1.0


def play(
    protocol: str, *, replicas: int, faults: int, seed: int, tell: Callable[[str], None]
) -> str:
    """Play it; `agreed` or `forked`. tell gets every message, then each node's state.

    faults: 0: the leader is honest; else it lies to all but that many. Raises
    UnsupportedSize for a number of replicas that PBFT has no use for.
    """
    quorums_for(replicas)
    if protocol == "bsmr":
        nodes = bsmr.play(replicas=replicas, faults=faults, rounds=ROUNDS, seed=seed, tell=tell)
        for node in nodes:
            role = " (faulty)" if faults and node is nodes[0] else ""
            tell(f"{node.name} state: {node.state}{role}")
        return FORKED if bsmr.has_forked(nodes, faults) else AGREED
    return _play_pbft(replicas, faults, seed, tell)


def _play_pbft(replicas: int, faults: int, seed: int, tell: Callable[[str], None]) -> str:
    chance = stream(seed, "equivocation")
    stage = Stage(replicas=replicas, faulty=("r0",) if faults else (), tell=tell, seed=seed)
    stage.run(0.1)
    for number in range(1, ROUNDS + 1):
        smallest = chance.randint(1, 98)
        if number == 1 and faults:
            _lie(stage, smallest, faults)
            stage.run(SETTLE_SECONDS)
        else:
            stage.say(f"round {number}: the primary proposes {smallest}")
            stage.ask(str(smallest))
            stage.run(ROUND_SECONDS)
    for name in stage.names:
        role = " (faulty)" if name in stage.faulty else ""
        state = ", ".join(stage.appended[name])
        _, digest = stage.journal_of(name)
        tell(f"{name} state: [{state}], digest {digest}, view {stage.core(name).view}{role}")
    states = {stage.journal_of(name) for name in stage.correct}
    return FORKED if stage.forks() or len(states) > 1 else AGREED


def _lie(stage: Stage, smallest: int, faults: int) -> None:
    """The primary of view 0 proposes one number to some and another to the others, as number 1.

    Replicas order nothing but what a client signed, so the client really asks for both.
    """
    stage.silence("r0")
    believers = stage.names[1 : faults + 1]
    others = stage.names[faults + 1 :]
    stage.say(
        f"round 1: r0 proposes {smallest} to {', '.join(believers)}, {smallest + 1} to others"
    )
    for number, (value, receivers) in enumerate(((smallest, believers), (smallest + 1, others)), 1):
        body = encode_batch([signed_request(stage, number, str(value))])
        stage.forge("r0", PrePrepare(0, 1, digest_of(body), 0), receivers, body)
    stage.ask(str(smallest))
    stage.ask(str(smallest + 1))
