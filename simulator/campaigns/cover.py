"""The cover: few runs of the whole gate that reach what all of it reaches.

What is reached are cells of coverage, goals and kinds of faults. The cover has each of them
`TIMES` times, or as often as the whole gate has it: so a change of the source, which draws other
runs from the same seeds, seldom leaves one out. `python -m simulator cover` writes the file anew.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from simulator.campaigns.campaign import Task
from simulator.campaigns.simulation import Result

FILE = Path(__file__).resolve().parent / "cover.json"
TIMES = 3


def reached(result: Result) -> frozenset[str]:
    """What a run reached, each with its kind in front."""
    kinds = {"cell": result.cells, "goal": result.goals, "fault": result.faults}
    return frozenset(f"{kind}: {name}" for kind, counts in kinds.items() for name in counts)


def smallest_cover(results: Mapping[Task, Result], times: int = TIMES) -> list[Task]:
    """Runs that together reach all that these reach, with few events, in their order.

    Greedy: next comes the run that reaches most of what is missing per event, the first of equals.
    Then those go that the later ones made needless, the longest first.
    """
    reach = {task: reached(result) for task, result in results.items()}
    frequencies = Counter(name for names in reach.values() for name in names)
    wanted = {name: min(times, count) for name, count in frequencies.items()}
    missing = dict(wanted)
    chosen: dict[Task, None] = {}
    while missing:
        best = max(
            (task for task in results if task not in chosen),
            key=lambda task: len(reach[task] & missing.keys()) / results[task].events,
        )
        chosen[best] = None
        for name in reach[best] & missing.keys():
            missing[name] -= 1
            if not missing[name]:
                del missing[name]
    counts = Counter(name for task in chosen for name in reach[task])
    for task in sorted(chosen, key=lambda task: -results[task].events):
        if all(counts[name] > wanted[name] for name in reach[task]):
            del chosen[task]
            counts.subtract(reach[task])
    return [task for task in results if task in chosen]


def encode_cover(tasks: Sequence[Task]) -> bytes:
    """The text of the file: a task per line."""
    lines = b",\n".join(msgspec.json.encode(task) for task in tasks)
    return b"[\n" + lines + b"\n]\n"


def read_cover(file: Path = FILE) -> list[Task]:
    """The tasks of the cover. Raises OSError, msgspec.MsgspecError."""
    return msgspec.json.decode(file.read_bytes(), type=list[Task])
