"""The same lie under two protocols: a leader that tells some nodes `min` and others `min + 1`.

Under BSMR the states fork. Under PBFT neither value finds 2f+1 votes: the nodes time out, change
the view, and go on with one state (SEEDS S3).
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
BSMR_ROUNDS = 3
SETTLE_SECONDS = 6.0


def play(
    protocol: str, *, replicas: int, faults: int, seed: int, tell: Callable[[str], None]
) -> str:
    """Play it; `agreed` or `forked`. tell gets every message, then each node's state.

    faults: 0: the leader is honest; else it lies to all but that many. Raises
    UnsupportedSize for a number of replicas that PBFT has no use for.
    """
    quorums_for(replicas)
    if protocol == "bsmr":
        nodes = bsmr.play(
            replicas=replicas, faults=faults, rounds=BSMR_ROUNDS, seed=seed, tell=tell
        )
        for node in nodes:
            tell(f"{node.name} state: {node.state}")
        return FORKED if bsmr.has_forked(nodes, faults) else AGREED
    return _play_pbft(replicas, faults, seed, tell)


def _play_pbft(replicas: int, faults: int, seed: int, tell: Callable[[str], None]) -> str:
    smallest = stream(seed, "equivocation").randint(1, 98)
    stage = Stage(replicas=replicas, faulty=("r0",) if faults else (), tell=tell, seed=seed)
    stage.run(0.1)
    if faults:
        stage.silence("r0")
        believers = stage.names[1 : faults + 1]
        others = stage.names[faults + 1 :]
        stage.say(f"r0 tells {', '.join(believers)} {smallest}, the others {smallest + 1}")
        for number, (value, receivers) in enumerate(
            ((smallest, believers), (smallest + 1, others)), 1
        ):
            body = encode_batch([signed_request(stage, number, str(value))])
            stage.forge("r0", PrePrepare(0, 1, digest_of(body), 0), receivers, body)
        stage.ask(str(smallest))
        stage.ask(str(smallest + 1))
    else:
        stage.ask(str(smallest))
    stage.run(SETTLE_SECONDS)
    for name in stage.names:
        length, digest = stage.journal_of(name)
        role = " (faulty)" if name in stage.faulty else ""
        view = stage.core(name).view
        tell(f"{name} state: {length} strings, digest {digest}, view {view}{role}")
    states = {stage.journal_of(name) for name in stage.correct}
    return FORKED if stage.forks() or len(states) > 1 else AGREED
