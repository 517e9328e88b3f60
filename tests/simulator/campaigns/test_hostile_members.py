"""Floods, clients that cheat, replicas of the next version, and disks that fail twice: directed."""

import pytest

from pbft.authentication import Authenticator, Identity, sign_message
from pbft.codec import encode_message
from pbft.core import Core
from pbft.genesis import Cluster
from pbft.messages import (
    AnyMessage,
    Checkpoint,
    Commit,
    Envelope,
    FetchBody,
    NewView,
    Prepare,
    PrePrepare,
    Recover,
    Replies,
    Status,
    ViewChange,
)
from pbft.ports import Refusal, Send
from simulator.campaigns.simulation import Simulation
from simulator.faults.floods import FLOODS
from simulator.faults.parameters import FaultPlan, Parameters
from simulator.faults.version_skew import newer_words
from simulator.world.gateways import Workload
from simulator.world.network import LinkFaults
from simulator.world.scheduler import SECOND, Scheduler
from simulator.world.signatures import Oracle
from simulator.world.violation import Violation

CALM = Workload(requests=6, builds=0.3, spread_seconds=3.0)


def world(seed: int = 1, **changes: object) -> Simulation:
    """A run in which nothing happens but what the test asks for."""
    given: dict[str, object] = {"seed": seed, "workload": CALM, "safety_seconds": 6.0, **changes}
    return Simulation(Parameters(**given))  # type: ignore[arg-type]


@pytest.mark.parametrize("way", FLOODS)
@pytest.mark.parametrize("faulty", [0, 3], ids=["of the primary", "of a backup"])
def test_a_flood_stops_nobody(way: str, faulty: int) -> None:
    simulation = world(byzantine={faulty: (way,)})
    result = simulation.run()
    assert result.faults[way] > 5
    assert all(not gateway.unfinished for gateway in simulation.gateways.values())


def test_another_replicas_status_is_not_taken_from_a_liar() -> None:
    """Neither does a client take another replica's replies: as the shells."""
    simulation = world()
    for process in simulation.processes.values():
        process.boot()
    arrived: list[str] = []
    for name in ("r0", "gateway0"):
        member = simulation.processes.get(name) or simulation.gateways[name]
        member.arrive = lambda envelope: arrived.append(envelope.signed.signer)  # type: ignore[method-assign]
    for receiver, message in (("r0", Status(0, True, 0, 0, 3)), ("gateway0", Replies((), 3))):
        payload = encode_message(message)
        sign = simulation.signatures.signer("r3")
        envelope = Envelope(
            sign_message(message, payload, Identity(simulation.cluster, "r3", sign))
        )
        simulation._deliver("r2", receiver, envelope)
        assert not arrived
        simulation._deliver("r3", receiver, envelope)
        assert arrived.pop() == "r3"


def test_a_flood_of_recovers_costs_a_bounded_rate_of_null_requests() -> None:
    simulation = world(byzantine={3: ("recover flood",)}, gateways=1)
    result = simulation.run()
    asked = len(simulation.checkers.history.positions)
    # The network is not the bound: each round trip of it takes a few milliseconds only.
    assert result.executed < asked + result.virtual_seconds / 0.02 + 100
    assert result.executed > 100


def test_what_is_sent_again_for_a_flood_of_status_is_bounded() -> None:
    quiet = world(byzantine={3: ("mute",)}).run()
    flooded = world(byzantine={3: ("status flood",)}).run()
    statuses = 40 * flooded.faults["status flood"]
    per_second = quiet.events / quiet.virtual_seconds
    assert flooded.events < 4 * per_second * flooded.virtual_seconds + 2 * statuses


@pytest.mark.parametrize("seed", range(3))
def test_a_client_that_signs_two_operations_with_one_number_changes_no_views(seed: int) -> None:
    simulation = world(seed, cheats=2, links=LinkFaults(delay_mean_seconds=0.02))
    result = simulation.run()
    assert result.faults["double signing"] > 10
    assert result.views <= 2
    done = [key for key in simulation.checkers.history.positions if key[0].startswith("cheat")]
    assert len(done) > 5


def test_what_a_newer_version_says_is_refused_and_nothing_else() -> None:
    simulation = world(newer=(1, 2))
    result = simulation.run()
    assert result.faults["newer version"] > 10
    assert result.event_counts["refused"] >= result.faults["newer version"]
    assert result.views == 0


def test_newer_messages_are_malformed_to_this_version() -> None:
    oracle = Oracle(1, Scheduler())
    cluster: Cluster = world().cluster
    words = newer_words("r1", cluster, oracle.signer("r1"))
    authenticator = Authenticator(cluster, oracle.verify)
    readings = [authenticator.read(envelope.signed) for envelope in words]
    assert len(readings) == 4
    assert all(isinstance(reading, Refusal) for reading in readings)


def test_a_replica_that_is_killed_again_and_again_while_it_recovers_comes_back() -> None:
    crashed = 0
    for seed in range(6):
        plan = FaultPlan(recovery_crashes=3)
        simulation = world(seed, rotten=(2,), plan=plan, safety_seconds=12.0)
        crashed += simulation.run().faults.get("crash in recovery", 0)
    assert crashed > 2


def test_one_replica_after_the_other_loses_what_it_said_and_each_recovers() -> None:
    """Never two at a time, while there are other faults and after them."""
    damaged: dict[str, None] = {}
    for seed in range(4):
        plan = FaultPlan(further_losses=3)
        simulation = world(seed, rotten=(2,), plan=plan, safety_seconds=30.0)
        result = simulation.run()
        assert result.event_counts.get("recovered", 0) == result.event_counts.get("recovering", 0)
        damaged.update(simulation.nemesis.damaged)
        assert simulation.nemesis._further_losses == 0
    assert set(damaged) == {"r0", "r1", "r2", "r3"}


def test_a_replica_that_lost_nothing_and_recovers_is_a_violation() -> None:
    simulation = world()
    with pytest.raises(Violation, match="26 what was lost is noticed"):
        simulation.on_loss(simulation.processes["r1"])


def test_a_vote_on_a_number_that_may_have_been_voted_on_before_a_loss_is_a_violation() -> None:
    simulation = world()
    simulation.run()
    process = simulation.processes["r1"]
    assert process.replica is not None
    number = simulation.checkers.history.voted_up_to["r1"]
    simulation.checkers.on_loss("r1")
    vote = process.replica.core.sign(Commit(9, number, bytes(32), 1))
    with pytest.raises(Violation, match=f"26 what was lost is noticed: r1 votes on {number} again"):
        simulation.checkers.messages.on_sent(process, Send(None, Envelope(vote)))


def words_above(core: Core, number: int) -> tuple[AnyMessage, ...]:
    """One of r1 of each type of vote, about what it said nothing about before it lost its words."""
    nothing = bytes(32)
    return (
        PrePrepare(9, number, nothing, 1),
        Prepare(9, number, nothing, 1),
        Commit(9, number, nothing, 1),
        Checkpoint(number, nothing, 1),
        ViewChange(9, core.low, core.checkpoints.stable.checkpoints, (), 1),
        NewView(9, (), (), 1),
    )


@pytest.mark.parametrize("way", ["it recovers", "it ended its recovery early"])
@pytest.mark.parametrize("place", range(6))
def test_a_vote_of_a_replica_that_recovers_is_a_violation(place: int, way: str) -> None:
    """Also one on what it never said anything about."""
    simulation = world()
    simulation.run()
    process = simulation.processes["r1"]
    assert process.replica is not None
    core = process.replica.core
    number = 100 * core.interval
    word = words_above(core, number)[place]
    simulation.checkers.on_loss("r1")
    lost = simulation.checkers.history.lost_up_to
    assert 0 < lost["r1"] < number
    if way == "it recovers":
        core.recovery.nonce = bytes(32)
        lost["r1"] = core.low
    else:
        assert core.low < lost["r1"]
    say = simulation.checkers.messages.on_sent
    for allowed in (Recover(bytes(32), 1, 0), Status(9, True, 0, 0, 1), FetchBody(9, bytes(32), 1)):
        say(process, Send(None, Envelope(core.sign(allowed))))
    certificate = [
        signed for signed in core.checkpoints.stable.checkpoints if signed.signer != "r1"
    ]
    for signed in certificate:
        say(process, Send("r2", Envelope(signed)))
    name = type(word).__name__
    with pytest.raises(Violation, match=f"26 what was lost is noticed: r1 lost .*: {name}"):
        say(process, Send(None, Envelope(core.sign(word))))


def test_a_checkpoint_that_is_first_said_in_a_view_change_counts() -> None:
    """Its replica was killed before it sent it by itself (seed 6022911)."""
    simulation = world()
    simulation.run()
    process = simulation.processes["r1"]
    assert process.replica is not None
    core = process.replica.core
    history = simulation.checkers.history
    claim = (core.low, core.checkpoints.stable.digest)
    history.checkpoints[claim] &= ~2
    del history.said["Checkpoint", 1, 0, core.low]
    prepared = tuple(s.prepared.certificate for s in core.log.above(core.low) if s.prepared)
    signed = core.sign(ViewChange(99, core.low, core.checkpoints.stable.checkpoints, prepared, 1))
    process.disk.saved_payloads[signed.payload] = None
    simulation.checkers.messages.on_sent(process, Send(None, Envelope(signed)))
    assert history.checkpoints[claim] & 2


def test_a_clock_that_jumps_by_hours_and_drifts_changes_views_at_most() -> None:
    simulation = world(plan=FaultPlan(clock_skew=True), safety_seconds=20.0)
    assert simulation.run().faults["clock jump"] > 2


def test_the_ledger_behind_a_fetched_state_is_fetched_and_proved() -> None:
    """A wiped replica, a liar that serves wrong entries, and partitions."""
    fetched = 0
    for seed in range(3):
        simulation = world(
            seed, replicas=7, wiped=(5,), byzantine={6: ("false content",)},
            plan=FaultPlan(partitions=0.3), safety_seconds=15.0,
        )  # fmt: skip
        simulation.run()
        # Nobody waits for a replica whose disk was wiped: it counts as faulty.
        simulation._run_until(simulation.scheduler.now + 30 * SECOND)
        fetched += simulation.ledger_entries_fetched
        ledger = simulation.processes["r5"].disk.ledger
        assert not ledger.gaps
        assert ledger.end() == simulation.processes["r0"].disk.ledger.end()
        assert sorted(ledger.entries) == list(range(1, ledger.end()[0] + 1))
    assert fetched > 0
