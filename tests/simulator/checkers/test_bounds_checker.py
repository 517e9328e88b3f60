"""The checker of bounded logs: each table that grows is noticed, also between two checkpoints."""

from collections.abc import Callable
from typing import Any

import pytest

from pbft import catch_up
from pbft.certificates import StableCertificate
from pbft.core import Core
from pbft.log import Batch
from pbft.messages import Checkpoint, Request, Signed, Status
from pbft.ports import Refusal
from pbft.state import Recovery, Transfer
from simulator.campaigns.simulation import Simulation
from simulator.checkers.bounds_checker import BoundsChecker
from simulator.faults.parameters import Parameters
from simulator.machine.process import Process
from simulator.world.gateways import Workload
from simulator.world.violation import Violation

CALM = Workload(requests=3, builds=0.0, spread_seconds=3.0)
MANY = 2000


def ended() -> tuple[Simulation, Process, Core]:
    """A run in which no checkpoint was taken, and one of its replicas."""
    simulation = Simulation(
        Parameters(seed=1, workload=CALM, gateways=1, checkpoint_interval=8, window=16)
    )
    simulation.run()
    process = simulation.processes["r1"]
    assert process.replica is not None
    core = process.replica.core
    assert 0 < core.executed < core.interval
    return simulation, process, core


def grow(table: Any) -> None:
    """Put too much into a table."""
    for number in range(MANY):
        if isinstance(table, set):
            table.add(("nobody", number))
        elif isinstance(table, list):
            table.append(number)
        else:
            table[f"nobody {number}" if all(isinstance(k, str) for k in table) else -number] = b""


def say_checkpoints(core: Core) -> None:
    """CHECKPOINTs of one replica for more and more numbers, none evicted."""
    core.checkpoints.votes._kept_per_replica = MANY
    for number in range(MANY):
        message = Checkpoint(number * core.interval, bytes(32), 2)
        core.checkpoints.votes.add(message, Signed("r2", b"", b""))


def remember_nonces(core: Core) -> None:
    """More RECOVERs of one replica than the last."""
    core.execution.recoveries[2] = Recovery((bytes([1] * 32), bytes([2] * 32)), 8)


def fetch_more(core: Core) -> None:
    """More parts than the state has leaves."""
    certificate = StableCertificate(8, bytes(32), ())
    core.transfers.current = Transfer(certificate, {"epoch": b""}, {"epoch": b"", "more": b""})


def ask_more(core: Core) -> None:
    """More numbers of one client than its window has."""
    for number in range(1000, 1000 + MANY):
        request = Request("gateway0", number, b"")
        core.pending.add(request, Signed("gateway0", b"", number.to_bytes(8, "big")))


def take_a_large_body(core: Core) -> None:
    """A body beyond what the window allows."""
    body = bytes(core.cluster.body_bytes_max + 1)
    slot_of(core).batches[bytes(32)] = Batch(bytes(32), body, ())


def slot_of(core: Core) -> Any:
    return next(iter(core.log.above(0)))


GROWING: dict[str, Callable[[Core], None]] = {
    "replicas with a PREPARE": lambda core: grow(slot_of(core).prepares),
    "replicas with a COMMIT": lambda core: slot_of(core).commits.update({n: {} for n in range(9)}),
    "COMMITs of one replica": lambda core: grow(slot_of(core).commits[1]),
    "bodies": lambda core: slot_of(core).batches.update(
        {bytes([n]): next(iter(slot_of(core).batches.values())) for n in range(9)}
    ),
    "bytes in a body": take_a_large_body,
    "records": lambda core: grow(slot_of(core).records),
    "VIEW-CHANGEs": lambda core: grow(core.views.changes),
    "overtaken VIEW-CHANGEs": lambda core: grow(core.views.overtaken_changes),
    "RECOVERs": lambda core: grow(core.recovery.requests),
    "recoveries": lambda core: core.execution.recoveries.update(
        {n: Recovery((), 0) for n in range(9)}
    ),
    "progress of peers": lambda core: grow(core.peers.progress),
    "STATUSes of peers": lambda core: grow(core.peers.status),
    "links of peers": lambda core: grow(core.peers.connected_at),
    "answers to peers": lambda core: grow(core.peers.answered_at),
    "proofs of a view for peers": lambda core: grow(core.peers.view_sent),
    "checkpoints sent to peers": lambda core: grow(core.peers.checkpoints_sent),
    "CHECKPOINTs of r2": say_checkpoints,
    "nonces of a replica": remember_nonces,
    "states": lambda core: grow(core.checkpoints.snapshots),
    "states whose leaves are kept": lambda core: grow(core.transfers.leaves),
    "numbers ordered by a NEW-VIEW": lambda core: grow(core.views.ordered),
    "numbers that are timed": lambda core: grow(core.timers.timed),
    "numbers that are waited for": lambda core: grow(core.timers.waiting),
    "requests handed on": lambda core: grow(core.timers.forwarded),
    "pending requests": ask_more,
    "parts fetched": fetch_more,
}


@pytest.mark.parametrize("what", GROWING)
def test_a_table_that_grows_is_a_violation(what: str) -> None:
    simulation, process, core = ended()
    checker = BoundsChecker(simulation.cluster, simulation.world.violate)
    checker.check(process.name, core)
    GROWING[what](core)
    with pytest.raises(Violation, match=f"17 bounded logs: r1: [0-9]+ {what}"):
        checker.check(process.name, core)


def test_it_is_noticed_where_no_checkpoint_becomes_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    ended()
    answer = catch_up.on_status

    def answer_and_keep(
        core: Core, message: Status, signed: Signed, *, now: float
    ) -> Refusal | None:
        core.peers.progress[1000 + len(core.peers.progress)] = ((0, True), 0)
        return answer(core, message, signed, now=now)

    monkeypatch.setattr(catch_up, "on_status", answer_and_keep)
    with pytest.raises(Violation, match=r"17 bounded logs: .* progress of peers"):
        ended()
