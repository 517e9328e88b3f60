"""What one seed stands for: sizes, settings, and which faults happen how often (swarm testing).

Each fault class is there or not, and then has an intensity of its own: runs differ in kind.
"""

from typing import Literal

import msgspec

from pbft.genesis import PROTOCOL_MAX, PROTOCOL_MIN
from simulator.faults.adversary import (
    BALLOT_BEHAVIOURS,
    BEHAVIOURS,
    FALSE_INPUTS,
    FALSE_REPORT,
    MORE_BEHAVIOURS,
)
from simulator.world.builds import BuildFaults
from simulator.world.gateways import Workload
from simulator.world.network import LinkFaults
from simulator.world.seeded_random import SeededRandom, stream
from simulator.world.world import ProcessFaults


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often things happen while the run is in its safety mode, per second of the world."""

    # crashes, pauses, partitions and refusals (of disks to save): the mean number per second
    crashes: float = 0.0
    # the share of crashes that wait for a point between saving and sending
    crash_points: float = 0.5
    # the mean time until a restart
    down_seconds: float = 1.0
    pauses: float = 0.0
    partitions: float = 0.0
    refusals: float = 0.0
    # how often a replica that lost what it sent is killed again, at most
    recovery_crashes: int = 0
    # how often, once such a replica has recovered, the disk of any other one that follows the rules
    # is damaged in its place: never of more at a time
    further_losses: int = 0
    # clocks run at 0.7 to 1.3 of their speed, and jump
    clock_skew: bool = False
    # around the end of an epoch: how many saves of each replica are its last, at most, and whether
    # the links are cut in two
    end_crashes: int = 0
    end_partition: bool = False


# The faults of the next epoch are those of another seed.
NEXT_SEED = 1_000_003


class Parameters(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """All that a run is made of. A replica is given by its index."""

    seed: int
    replicas: int = 4
    checkpoint_interval: int = 4
    window: int = 8
    client_window: int = 8
    pipeline_depth: int = 4
    batch_bytes_max: int = 2 * 1024 * 1024
    batch_delay_seconds: float = 0.0
    status_seconds: float = 1.0
    view_change_seconds: float = 2.0
    gateways: int = 2
    workload: Workload = Workload()
    links: LinkFaults = LinkFaults()
    processes: ProcessFaults = ProcessFaults()
    builds: BuildFaults = BuildFaults()
    plan: FaultPlan = FaultPlan()
    # replica -> the ways in which it misbehaves
    byzantine: dict[int, tuple[str, ...]] = {}
    adaptive: bool = False
    # replicas whose disk is damaged; like those wiped, they count among the f faulty ones
    rotten: tuple[int, ...] = ()
    # replicas whose disk is emptied
    wiped: tuple[int, ...] = ()
    # faulty replicas that stay cut off for ever in the liveness mode
    left_out: tuple[int, ...] = ()
    # `deaf` or `mute`: they are cut off in that direction only
    left_out_one_way: str = ""
    # correct replicas of the next version, which send things unknown to this one
    newer: tuple[int, ...] = ()
    # how many clients are faulty: they sign two operations with one timestamp
    cheats: int = 0
    safety_seconds: float = 10.0
    # the delay of messages in the liveness mode
    healed_delay_seconds: float = 0.02
    deadline_seconds: int = 6
    open_builds_max: int = 64
    closing_builds_max: int = 8
    weak_agreement_allowed: bool = False
    executors: Literal["all", "minimal"] = "all"
    # how patient replicas are that stand by, if `executors` is `minimal`
    stand_by_seconds: float = 1.0
    # how many things operators do about the limits, beside approvals of what they propose; 0: there
    # are no operators who stand for replicas
    limit_operations: int = 0
    # operators decide who the next members are; then the run goes on with those. How many there are
    # in each epoch that follows
    next_sizes: tuple[int, ...] = ()
    # who follows the rules, and is away from some moment on until the next epoch has begun. They
    # count among the f faulty ones, and only where the members change
    away: tuple[int, ...] = ()
    # replicas of a later epoch whose seat is vacant; they count among the f faulty ones
    vacant: tuple[int, ...] = ()
    # of the epoch; it may be higher in a later one
    protocol: int = PROTOCOL_MIN
    # the mean time after which a replica begins a later epoch
    begin_seconds: float = 0.0
    # epochs take few seconds, and less is asked for
    is_short: bool = False
    # f replicas of each epoch lie, and no disk is damaged
    all_faulty_lie: bool = False
    is_deep: bool = False
    # the names of the faults that happen (simulator.world.fault_record); None: all that are drawn
    only_faults: tuple[str, ...] | None = None

    @property
    def faulty(self) -> tuple[int, ...]:
        """The indexes of all replicas for which nothing is promised; those away not among them."""
        return tuple(sorted({*self.byzantine, *self.rotten, *self.wiped, *self.vacant}))


def encode_parameters(parameters: Parameters) -> str:
    """As JSON, without what is as usual: for a file that keeps a finding."""
    return msgspec.json.encode(parameters).decode()


def decode_parameters(data: bytes | str) -> Parameters:
    """The inverse; what is left out is as usual. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(data, type=Parameters)


def draw(seed: int, replicas: int | None = None) -> Parameters:
    """The parameters of a seed; replicas: where the size is wanted, not drawn."""
    chance = stream(seed, "parameters")
    # apart, so that what a seed was kept for stays as it was drawn
    forge = stream(seed, "parameters of what is built")
    drawn_size = _size(chance)
    size = replicas if replicas is not None else drawn_size
    interval = chance.choice((2, 4, 8))
    timeout = chance.choice((1.0, 2.0, 4.0))
    later = stream(seed, "later parameters")
    byzantine, rotten, wiped = _faulty(chance, size)
    byzantine = {index: _more_ways(later, ways) for index, ways in byzantine.items()}
    # An order takes longer than the first timeout, so that it has to grow: few requests, for each
    # costs failed views.
    is_slow = size == 4 and chance.happens(0.06)
    faulty = sorted({*byzantine, *rotten, *wiped})
    drawn = Parameters(
        seed=seed,
        replicas=size,
        checkpoint_interval=interval,
        window=interval * chance.choice((2, 4)),
        client_window=chance.choice((2, 8, 64)),
        pipeline_depth=chance.choice((1, 2, 4, 8)),
        batch_bytes_max=chance.choice((600, 2000, 2 * 1024 * 1024)),
        batch_delay_seconds=stream(seed, "batch delay").choice((0.0, 0.05, 0.25)),
        status_seconds=chance.choice((0.3, 1.0, 1.0)) if size == 4 else 1.0,
        view_change_seconds=timeout,
        gateways=chance.randint(1, 3),
        workload=Workload(
            requests=chance.randint(1, 4 if is_slow else 16),
            builds=chance.choice((0.0, 0.2, 0.5)),
            spread_seconds=chance.choice((0.5, 2.0, 8.0)),
            deliveries=forge.choice((0.0, 0.0, 0.5)),
            waiting=forge.choice((0.0, 0.0, 0.3)),
        ),
        links=_links(chance),
        processes=ProcessFaults(
            slow_syncs=chance.choice((0.0, 0.0, 0.1, 0.5)),
            slow_sync_seconds=chance.choice((0.01, 0.2)),
            turn_seconds=chance.choice((0.0, 0.0, 0.002, 0.05)),
        ),
        builds=BuildFaults(
            flaky=chance.choice((0.0, 0.3)),
            abstentions=chance.choice((0.0, 0.2)),
            seconds_max=chance.choice((0.5, 5.0)),
            weak=forge.choice((0.0, 0.5)),
            artifacts=forge.choice((0.0, 0.5)),
            unreproducible=forge.choice((0.0, 0.3)),
        ),
        plan=msgspec.structs.replace(_plan(chance), recovery_crashes=later.choice((0, 0, 1, 3))),
        byzantine=byzantine,
        adaptive=bool(byzantine) and chance.happens(0.5),
        rotten=rotten,
        wiped=wiped,
        newer=tuple(later.some(range(size), 0.5)) if later.happens(0.3) else (),
        cheats=later.choice((0, 0, 1, 2)),
        left_out_one_way=later.choice(("", "", "deaf", "mute")),
        left_out=tuple(i for i in faulty if chance.happens(0.3)),
        safety_seconds=chance.choice((2.0, 5.0, 10.0, 20.0)),
        healed_delay_seconds=1.2 * timeout if is_slow else chance.choice((0.02, 0.02, 0.1, 0.3)),
        deadline_seconds=chance.choice((3, 8)),
        open_builds_max=chance.choice((3, 64)),
        closing_builds_max=chance.choice((2, 8)),
        weak_agreement_allowed=forge.happens(0.5),
        is_deep=chance.happens(0.25),
    )
    drawn = _with_limit_operations(_with_further_losses(_with_executors(drawn)))
    return _with_next_members(_with_inputs(_with_cases(drawn)))


def _with_executors(drawn: Parameters) -> Parameters:
    """In some runs not all build first, and liars misuse that others wait for their ballots.

    Drawn apart: a run in which all build is what its seed always was.
    """
    first = stream(drawn.seed, "parameters of who builds first")
    if not first.happens(0.4):
        return drawn
    return msgspec.structs.replace(
        drawn,
        executors="minimal",
        stand_by_seconds=first.choice((0.5, 2.0)),
        byzantine={i: (*ways, *_ballot_ways(first)) for i, ways in drawn.byzantine.items()},
    )


def _with_further_losses(drawn: Parameters) -> Parameters:
    """In some runs one replica loses what it said, recovers, and then another one does.

    Drawn apart, as above. Who stays away for ever cannot be followed by another.
    """
    losses = stream(drawn.seed, "parameters of further losses")
    if not drawn.rotten or set(drawn.rotten) & set(drawn.left_out) or not losses.happens(0.5):
        return drawn
    plan = msgspec.structs.replace(drawn.plan, further_losses=losses.choice((1, 1, 2)))
    # Each recovery takes a few seconds.
    return msgspec.structs.replace(drawn, plan=plan, safety_seconds=losses.choice((20.0, 30.0)))


def _with_limit_operations(drawn: Parameters) -> Parameters:
    """In some runs operators propose other limits and approve them.

    Drawn apart, as above: those operators are clients of the genesis, and all else would be others.
    """
    changes = stream(drawn.seed, "parameters of limit operations")
    if not changes.happens(0.15):
        return drawn
    return msgspec.structs.replace(drawn, limit_operations=changes.choice((4, 10, 25)))


def _with_next_members(drawn: Parameters) -> Parameters:
    """In some runs the members change, and the run goes on in the next epoch.

    Drawn apart, as above, and only where operators stand for replicas anyway.
    """
    members = stream(drawn.seed, "parameters of the next members")
    if not drawn.limit_operations or not members.happens(0.5):
        return drawn
    sizes = stream(drawn.seed, "the size of the next epoch")
    size = sizes.choice((drawn.replicas, drawn.replicas, 4, 7))
    return _around_the_end(msgspec.structs.replace(drawn, next_sizes=(size,)))


def draw_change(seed: int, replicas: int | None = None) -> Parameters:
    """As `draw`, but the members of each run change: mostly twice, and from 4 to 7 and back.

    In half of the runs f replicas of each epoch lie. Epochs are short and have few requests, so
    that many seeds can be tried.
    """
    chance = stream(seed, "parameters of a change of members")
    size = replicas if replicas is not None else chance.choice((4, 4, 4, 7))
    sizes = ((7, 4), (7, 4), (7,), (4, 4), (4,)) if size == 4 else ((4, 7), (4,), (7,))
    drawn = draw(seed, size)
    limit_operations = drawn.limit_operations or chance.choice((1, 4))
    drawn = msgspec.structs.replace(
        drawn,
        limit_operations=min(limit_operations, 4),
        next_sizes=chance.choice(sizes),
        all_faulty_lie=chance.happens(0.5),
        is_short=True,
    )
    return _around_the_end(_with_liars(_shortened(drawn)))


def next_parameters(parameters: Parameters) -> Parameters:
    """Of the epoch that follows the run of these: other faults, perhaps another size.

    Limits, clients and builds are as before, since the state goes over.
    """
    size, *later_sizes = parameters.next_sizes
    drawn = draw(parameters.seed + NEXT_SEED, size)
    drawn = _shortened(drawn) if parameters.is_short else drawn
    begins = stream(parameters.seed, "when the next epoch begins")
    drawn = msgspec.structs.replace(
        drawn,
        gateways=parameters.gateways,
        cheats=parameters.cheats,
        workload=msgspec.structs.replace(drawn.workload, waiting=parameters.workload.waiting),
        builds=parameters.builds,
        deadline_seconds=parameters.deadline_seconds,
        open_builds_max=parameters.open_builds_max,
        closing_builds_max=parameters.closing_builds_max,
        weak_agreement_allowed=parameters.weak_agreement_allowed,
        executors=parameters.executors,
        limit_operations=parameters.limit_operations,
        next_sizes=tuple(later_sizes),
        begin_seconds=begins.choice((0.0, 0.5, 4.0)),
        away=(),
        plan=msgspec.structs.replace(drawn.plan, end_crashes=0, end_partition=False),
        all_faulty_lie=parameters.all_faulty_lie,
        is_short=parameters.is_short,
    )
    drawn = _with_vacant_seat(_with_liars(drawn), parameters.protocol)
    return _around_the_end(drawn) if later_sizes else drawn


def _shortened(drawn: Parameters) -> Parameters:
    short = stream(drawn.seed, "parameters of a short epoch")
    interval = min(drawn.checkpoint_interval, 4)
    return msgspec.structs.replace(
        drawn,
        checkpoint_interval=interval,
        window=min(drawn.window, 4 * interval),
        workload=msgspec.structs.replace(
            drawn.workload,
            requests=min(drawn.workload.requests, 5),
            spread_seconds=min(drawn.workload.spread_seconds, 2.0),
        ),
        plan=msgspec.structs.replace(drawn.plan, further_losses=0),
        safety_seconds=short.choice((2.0, 4.0)),
        status_seconds=1.0,
    )


def _with_liars(drawn: Parameters) -> Parameters:
    """If all that are faulty lie: f of these replicas do."""
    if not drawn.all_faulty_lie:
        return drawn
    liars = stream(drawn.seed, "liars of an epoch")
    indexes = list(range(drawn.replicas))
    liars.shuffle(indexes)
    chosen = sorted(indexes[: (drawn.replicas - 1) // 3])
    byzantine = {
        index: tuple(liars.some(BEHAVIOURS, 0.25)) or (liars.choice(BEHAVIOURS),)
        for index in chosen
    }
    return msgspec.structs.replace(
        drawn,
        byzantine=byzantine,
        adaptive=liars.happens(0.5),
        rotten=(),
        wiped=(),
        left_out=(),
        plan=msgspec.structs.replace(drawn.plan, further_losses=0),
    )


def _with_vacant_seat(drawn: Parameters, protocol: int) -> Parameters:
    """Maybe the seat of one that would lie is vacant instead, and maybe the protocol is the next
    one. protocol: of the epoch before."""
    chance = stream(drawn.seed, "vacant seats")
    if protocol < PROTOCOL_MAX and chance.happens(0.5):
        protocol += 1
    vacant = chance.choice(sorted(drawn.byzantine)) if drawn.byzantine else None
    if vacant is None or chance.happens(0.6):
        return msgspec.structs.replace(drawn, protocol=protocol)
    others = {index: ways for index, ways in drawn.byzantine.items() if index != vacant}
    return msgspec.structs.replace(
        drawn,
        byzantine=others,
        adaptive=drawn.adaptive and bool(others),
        vacant=(vacant,),
        protocol=protocol,
    )


def _around_the_end(drawn: Parameters) -> Parameters:
    """What goes wrong while the members of this run change; drawn apart, as above."""
    end = stream(drawn.seed, "parameters of the end of an epoch")
    plan = msgspec.structs.replace(
        drawn.plan, end_crashes=end.choice((0, 1, 3)), end_partition=end.happens(0.5)
    )
    if drawn.is_short and not drawn.all_faulty_lie and end.happens(0.4):
        # or hardly anybody could be away
        drawn = msgspec.structs.replace(
            drawn, byzantine={}, adaptive=False, rotten=(), wiped=(), left_out=()
        )
    following_rules = [i for i in range(drawn.replicas) if i not in drawn.faulty]
    spare = (drawn.replicas - 1) // 3 - len(drawn.faulty)
    away = end.choice(following_rules) if end.happens(0.6) and spare > 0 else None
    return msgspec.structs.replace(drawn, plan=plan, away=() if away is None else (away,))


def _with_cases(drawn: Parameters) -> Parameters:
    """In some runs pipelines name test reports, and liars report what they did not see.

    Drawn apart, as above; by a name under which the seeds that mutants record have none.
    """
    reports = stream(drawn.seed, "parameters of reports")
    if not reports.happens(0.2):
        return drawn
    builds = msgspec.structs.replace(
        drawn.builds, tests=reports.choice((0.5, 1.0)), flaky_cases=reports.choice((0.0, 0.3))
    )
    more = (FALSE_REPORT,) if reports.happens(0.7) else ()
    byzantine = {index: (*ways, *more) for index, ways in drawn.byzantine.items()}
    return msgspec.structs.replace(drawn, builds=builds, byzantine=byzantine)


def _with_inputs(drawn: Parameters) -> Parameters:
    """In some runs pipelines name lock files, mirrors send other bytes, and liars claim so.

    Drawn apart, as above; by a name under which the seeds that mutants record have none.
    """
    inputs = stream(drawn.seed, "parameters of these inputs")
    if not inputs.happens(0.15):
        return drawn
    builds = msgspec.structs.replace(
        drawn.builds, locked=inputs.choice((0.5, 1.0)), tampered=inputs.choice((0.1, 0.3))
    )
    more = (FALSE_INPUTS,) if inputs.happens(0.7) else ()
    byzantine = {index: (*ways, *more) for index, ways in drawn.byzantine.items()}
    return msgspec.structs.replace(drawn, builds=builds, byzantine=byzantine)


def _more_ways(later: SeededRandom, ways: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*ways, *later.some(MORE_BEHAVIOURS, 0.08))))


def _ballot_ways(first: SeededRandom) -> tuple[str, ...]:
    """How a liar misuses that its ballot is waited for."""
    return (first.choice(BALLOT_BEHAVIOURS),) if first.happens(0.7) else ()


def _size(chance: SeededRandom) -> int:
    drawn = chance.random()
    if drawn < 0.70:
        return 4
    if drawn < 0.90:
        return 7
    return 10 if drawn < 0.98 else 13


def _links(chance: SeededRandom) -> LinkFaults:
    def maybe(most: float) -> float:
        drawn = chance.random() * most
        return drawn if chance.random() < 0.5 else 0.0

    return LinkFaults(
        delay_seconds=0.001,
        delay_mean_seconds=chance.choice((0.005, 0.02, 0.1, 0.4)),
        loss=maybe(0.3),
        repetition=maybe(0.2),
        spikes=maybe(0.1),
        replay=maybe(0.5) if chance.random() < 0.5 else 0.0,
        in_flight_max=chance.choice((0, 0, 20, 5, 2)),
        in_order=chance.random() < 0.3,
        corruption=maybe(0.1),
        on_the_wire=chance.random() < 0.1,
    )


def _plan(chance: SeededRandom) -> FaultPlan:
    def maybe(most: float) -> float:
        drawn = chance.random() * most
        return drawn if chance.random() < 0.5 else 0.0

    return FaultPlan(
        crashes=maybe(1.5),
        crash_points=chance.choice((0.0, 0.5, 1.0)),
        down_seconds=chance.choice((0.1, 1.0, 4.0)),
        pauses=maybe(0.5) if chance.random() < 0.6 else 0.0,
        partitions=maybe(0.5),
        refusals=maybe(0.5),
        clock_skew=chance.random() < 0.3,
    )


def _faulty(
    chance: SeededRandom, size: int
) -> tuple[dict[int, tuple[str, ...]], tuple[int, ...], tuple[int, ...]]:
    """Which replicas misbehave, rot or are wiped: together at most f."""
    faults_max = (size - 1) // 3
    indexes = list(range(size))
    chance.shuffle(indexes)
    if chance.random() < 0.6:
        indexes.remove(0)
        indexes.insert(0, 0)  # the first primary
    chosen = indexes[: chance.randint(0, faults_max) if chance.random() < 0.5 else faults_max]
    byzantine: dict[int, tuple[str, ...]] = {}
    rotten: list[int] = []
    wiped: list[int] = []
    for place, index in enumerate(chosen):
        # A lying and a forgetful replica together, where the network is large enough for both.
        drawn = 0.7 if place == 1 and chance.random() < 0.4 else chance.random()
        if drawn < 0.65:
            ways = chance.some(BEHAVIOURS, 0.25)
            byzantine[index] = tuple(ways) or (chance.choice(BEHAVIOURS),)
        elif drawn < 0.88:
            rotten.append(index)
        else:
            wiped.append(index)
    return dict(sorted(byzantine.items())), tuple(sorted(rotten)), tuple(sorted(wiped))
