"""A few short runs as readable text: what the protocol says, message by message.

They are kept beside the tests, so that a change of the protocol shows as a difference that people
can read (as etcd's raft does). STATUS is left out; digests are numbered as they come.
"""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from simulator.campaigns.simulation import Simulation
from simulator.faults.parameters import Parameters
from simulator.world.gateways import Workload
from simulator.world.network import LinkFaults

# Of one request: two clients would only make it longer.
_ONE_REQUEST = Workload(requests=1, builds=0.0, spread_seconds=0.0)
_EVEN = LinkFaults(delay_seconds=0.001, delay_mean_seconds=0.0, in_order=True)
_CALM = Parameters(
    seed=1,
    gateways=1,
    workload=_ONE_REQUEST,
    links=_EVEN,
    healed_delay_seconds=0.001,
    view_change_seconds=1.0,
    safety_seconds=4.0,
)
_HEX = re.compile(r"\b(digest|own|certified)=([0-9a-f]{8})[0-9a-f]*")
_LEFT_OUT = re.compile(r" (operation|request_digest)=\S*")


class Scenario(msgspec.Struct, frozen=True):
    """What happens, in words; the world; what is done to it; and which lines are shown."""

    title: str
    parameters: Parameters
    script: Callable[[Simulation], None]
    is_shown: Callable[[str], bool] = lambda line: True


def _nothing(simulation: Simulation) -> None:
    """The calm world as it is."""


def _crash_the_primary(simulation: Simulation) -> None:
    """It is killed when it has heard of the request, and comes back much later."""
    primary = simulation.processes["r0"]
    simulation.scheduler.after(0.0005, primary.crash)
    simulation.scheduler.after(3.0, primary.boot)


def _cut_off_r3(simulation: Simulation) -> None:
    """r3 hears nothing for two seconds, in which the others go on further than they keep."""
    others = [name for name in (*simulation.names, *simulation.gateway_names) if name != "r3"]
    pairs = [pair for other in others for pair in (("r3", other), (other, "r3"))]
    simulation.network.cut(pairs)

    def mend() -> None:
        simulation.network.mend(pairs)
        simulation.nemesis.connect(simulation.processes["r3"])

    simulation.scheduler.after(2.0, mend)


def _is_about_r3(line: str) -> bool:
    if not re.search(r"\br3\b", line):
        return False
    words = ("State", "Checkpoint", "stable", "transfer", "behind", "ledger")
    return any(word in line for word in words)


SCENARIOS = {
    "normal_case": Scenario(
        "One request in a calm network of four: OSDI'99, figure 1.", _CALM, _nothing
    ),
    "primary_crash": Scenario(
        "The primary dies before it has ordered the request; the others change views.",
        _CALM,
        _crash_the_primary,
    ),
    "equivocation": Scenario(
        "A faulty primary orders one batch to some and another to the others.",
        msgspec.structs.replace(_CALM, seed=8, byzantine={0: ("equivocate",)}),
        _nothing,
    ),
    "state_transfer": Scenario(
        "r3 was cut off for longer than its peers keep messages, and fetches their state.",
        msgspec.structs.replace(
            _CALM,
            checkpoint_interval=2,
            window=4,
            client_window=2,
            pipeline_depth=1,
            workload=Workload(requests=16, builds=0.0, spread_seconds=1.5),
        ),
        _cut_off_r3,
        _is_about_r3,
    ),
}


def write_all(folder: Path) -> list[Path]:
    """Write all of them into that folder, one file each. Raises Violation, OSError."""
    files = []
    for name in SCENARIOS:
        files.append(folder / f"{name}.txt")
        files[-1].write_text(transcript(name))
    return files


def transcript(name: str) -> str:
    """The text of that scenario. Raises Violation, KeyError."""
    scenario = SCENARIOS[name]
    lines: list[str] = []
    simulation = Simulation(scenario.parameters, tell=lines.append)
    scenario.script(simulation)
    simulation.run()
    seen: dict[str, str] = {}

    def alias(match: re.Match[str]) -> str:
        number = seen.setdefault(match[2], f"#{len(seen) + 1}")
        return f"{match[1]}={number}"

    shown = [
        _HEX.sub(alias, _LEFT_OUT.sub("", line)).rstrip()
        for line in lines
        if ": Status " not in line and "refused" not in line and scenario.is_shown(line)
    ]
    return "\n".join((f"# {scenario.title}", *shown, ""))
