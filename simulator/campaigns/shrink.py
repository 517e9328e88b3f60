"""Make a failing run small: first kinds of faults go, then single faults (ddmin).

Removing a kind of fault shifts what chance does with the rest, so each smaller run is tried with
the streams of a few seeds; the streams of faults that stay are not shifted by those that go. Of the
run that is left, the list of injected faults is recorded and made as short as it can be with the
same violation (Zeller and Hildebrandt 2002).
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import msgspec

from simulator.campaigns.simulation import Simulation
from simulator.faults.parameters import FaultPlan, Parameters
from simulator.world.network import LinkFaults
from simulator.world.violation import Violation
from simulator.world.world import ProcessFaults

SEEDS_TRIED = 40
DDMIN_RUNS_MAX = 400


class Shrunk(msgspec.Struct, frozen=True):
    """The smallest failing run found, how it fails, and how many runs it took.

    parameters.only_faults: the single faults that it needs.
    """

    parameters: Parameters
    violation: str
    events: int
    runs: int


def fails(parameters: Parameters, invariant: str | None = None) -> Violation | None:
    """The violation of that run, if it is of that invariant (None: of any)."""
    try:
        Simulation(parameters).run()
    except Violation as violation:
        if invariant is None or violation.invariant == invariant:
            return violation
    return None


def shrink(
    parameters: Parameters,
    *,
    on_step: Callable[[Parameters, int], None] = lambda smaller, runs: None,
) -> Shrunk | None:
    """The smallest run that still breaks the same invariant; None where it breaks none."""
    violation = fails(parameters)
    if violation is None:
        return None
    invariant = violation.invariant
    runs = 1
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for candidate in _smaller(parameters):
            for offset in range(SEEDS_TRIED):
                tried = msgspec.structs.replace(candidate, seed=parameters.seed + offset)
                runs += 1
                found = fails(tried, invariant)
                if found is None:
                    continue
                parameters, violation, is_smaller = tried, found, True
                on_step(parameters, runs)
                break
            if is_smaller:
                break
    parameters, violation, more = _without_single_faults(parameters, violation)
    return Shrunk(parameters, str(violation), violation.step, runs + more)


def _without_single_faults(
    parameters: Parameters, violation: Violation
) -> tuple[Parameters, Violation, int]:
    """The same run with as few single faults as it needs; the last int: how many runs it took."""
    failures = [violation]
    runs = 1

    def still_fails(kept: Sequence[str]) -> bool:
        nonlocal runs
        if runs >= DDMIN_RUNS_MAX:
            return False
        runs += 1
        smaller = msgspec.structs.replace(parameters, only_faults=tuple(kept))
        failure = fails(smaller, violation.invariant)
        if failure is not None:
            failures.append(failure)
        return failure is not None

    needed = ddmin(injected_faults(parameters), still_fails)
    return msgspec.structs.replace(parameters, only_faults=tuple(needed)), failures[-1], runs


def injected_faults(parameters: Parameters) -> list[str]:
    """The names of all faults that are injected in that run, up to where it fails if it does."""
    simulation = Simulation(parameters, keeps_faults=True)
    with contextlib.suppress(Violation):
        simulation.run()
    return simulation.record.injected


def ddmin(items: Sequence[str], still_fails: Callable[[Sequence[str]], bool]) -> list[str]:
    """Some of the items, of which no part (by the halves, quarters ... tried) can be left out.

    still_fails: whether these alone are enough; all of them are.
    """
    if still_fails(()):
        return []
    kept, parts = list(items), 2
    while len(kept) > 1:
        size = math.ceil(len(kept) / parts)
        for first in range(0, len(kept), size):
            rest = kept[:first] + kept[first + size :]
            if still_fails(rest):
                kept, parts = rest, max(parts - 1, 2)
                break
        else:
            if parts >= len(kept):
                break
            parts = min(2 * parts, len(kept))
    return kept


def _smaller(parameters: Parameters) -> Iterator[Parameters]:
    """Runs with one fault less, or half as much of something; the boldest first."""
    replace = msgspec.structs.replace
    quiet: dict[str, object] = {
        "links": LinkFaults(),
        "plan": FaultPlan(),
        "processes": ProcessFaults(),
        "byzantine": {},
        "adaptive": False,
        "rotten": (),
        "wiped": (),
        "left_out": (),
        "newer": (),
        "away": (),
        "begin_seconds": 0.0,
        "cheats": 0,
        "is_deep": False,
        "replicas": 4,
    }
    for field, value in quiet.items():
        if getattr(parameters, field) == value:
            continue
        if field == "replicas" and any(index >= 4 for index in parameters.faulty):
            continue
        yield replace(parameters, **{field: value})
    for sizes in {(), parameters.next_sizes[:-1]} - {parameters.next_sizes}:
        yield replace(parameters, next_sizes=sizes)
    yield from _without_one_way(parameters)
    for field in ("links", "plan", "processes", "builds"):
        part = getattr(parameters, field)
        default = type(part)()
        for name in part.__struct_fields__:
            if getattr(part, name) != getattr(default, name):
                calmer = replace(part, **{name: getattr(default, name)})
                yield replace(parameters, **{field: calmer})
    workload = parameters.workload
    for kind in ("builds", "deliveries", "waiting"):
        if getattr(workload, kind):
            yield replace(parameters, workload=replace(workload, **{kind: 0.0}))
    if workload.requests > 1:
        yield replace(parameters, workload=replace(workload, requests=workload.requests // 2))
    if parameters.gateways > 1:
        yield replace(parameters, gateways=1)
    if parameters.safety_seconds > 1:
        yield replace(parameters, safety_seconds=parameters.safety_seconds / 2)


def _without_one_way(parameters: Parameters) -> Iterator[Parameters]:
    for index, ways in parameters.byzantine.items():
        others = {i: w for i, w in parameters.byzantine.items() if i != index}
        yield msgspec.structs.replace(parameters, byzantine=others)
        for way in ways if len(ways) > 1 else ():
            fewer = tuple(other for other in ways if other != way)
            yield msgspec.structs.replace(parameters, byzantine={**others, index: fewer})
