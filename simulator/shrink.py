"""Make a failing run small: take faults away one by one as long as some seed still fails.

Removing a fault shifts what chance does with the rest, so each smaller run is tried with the
streams of a few seeds; the streams of faults that stay are not shifted by those that go.
"""

from collections.abc import Callable, Iterator

import msgspec

from simulator.network import LinkFaults
from simulator.parameters import FaultPlan, Parameters
from simulator.process import ProcessFaults
from simulator.simulation import Simulation
from simulator.violation import Violation

SEEDS_TRIED = 40


class Shrunk(msgspec.Struct, frozen=True):
    """The smallest failing run found, how it fails, and how many runs it took."""

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
    return Shrunk(parameters, str(violation), violation.step, runs)


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
        "is_deep": False,
        "replicas": 4,
    }
    for field, value in quiet.items():
        if getattr(parameters, field) == value:
            continue
        if field == "replicas" and any(index >= 4 for index in parameters.faulty):
            continue
        yield replace(parameters, **{field: value})
    yield from _without_one_way(parameters)
    for field in ("links", "plan", "processes"):
        part = getattr(parameters, field)
        default = type(part)()
        for name in part.__struct_fields__:
            if getattr(part, name) != getattr(default, name):
                calmer = replace(part, **{name: getattr(default, name)})
                yield replace(parameters, **{field: calmer})
    workload = parameters.workload
    if workload.builds:
        yield replace(parameters, workload=replace(workload, builds=0.0))
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
