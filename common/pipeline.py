"""`.pbft-ci.yml`: what a repository asks to have run. Pure: equal bytes mean the same anywhere.

The rule: what is not known is an error, never a guess, and a key has one meaning. The values of
single keys are read in common/pipeline_values.py; docs/PIPELINES.md is the reference for people,
docs/pipeline.schema.json the one for editors.
"""

from typing import Protocol

import msgspec

from common.logs import log_text
from common.pipeline_values import (
    Place,
    WrongValue,
    check_keys,
    read_artifacts,
    read_choice,
    read_commands,
    read_cpus,
    read_environment,
    read_flag,
    read_image,
    read_memory,
    read_number,
    read_patterns,
    read_step_name,
)
from common.yaml_text import YamlError, load_yaml

PIPELINE_FILE = ".pbft-ci.yml"
PIPELINE_BYTES_MAX = 64 * 1024
STEPS_MAX = 64

KEYS = (
    "image",
    "commands",
    "steps",
    "environment",
    "timeout_seconds",
    "network",
    "artifacts",
    "agreement",
    "resources",
)
STEP_KEYS = ("name", "commands", "environment", "timeout_seconds", "network", "when")
WHEN_KEYS = ("branch", "event")
RESOURCE_KEYS = ("memory", "cpus", "pids")
EVENTS = ("push", "tag", "pull_request")
AGREEMENTS = ("default", "weak")
# what the one step is called where there are only `commands`
ONLY_STEP = "build"
MEMORY_BYTES_MIN = 16 * 2**20
PIDS_MIN = 8

PROBLEM_CHARACTERS_MAX = 400
_TOO_MANY_WAYS = "is there beside steps; give each step its own commands"


class PipelineLimits(Protocol):
    """What the network allows a pipeline to ask for, and gives where it does not ask.

    Sizes in bytes, times in seconds; `ci.limits.Limits` is one.
    """

    @property
    def build_seconds_max(self) -> int:
        """For all steps together."""

    @property
    def memory_bytes(self) -> int:
        """Of the processes of a step."""

    @property
    def cpus(self) -> float:
        """Of a step."""

    @property
    def pids_max(self) -> int:
        """Processes and threads of a step."""

    @property
    def artifacts_max(self) -> int:
        """How many files may be named."""

    @property
    def weak_agreement_allowed(self) -> bool:
        """Whether `agreement: weak` may be asked for."""


class Resources(msgspec.Struct, frozen=True):
    """What the container of a step may use at most."""

    memory_bytes: int
    cpus: float
    pids: int


class Step(msgspec.Struct, frozen=True):
    """One container: the commands one after the other in one shell.

    environment: in the order of the file, the pipeline's own first, each name once.
    network: whether it asks for one. branches, events: when it is run; None for always.
    """

    name: str
    commands: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    timeout_seconds: int
    network: bool = False
    branches: tuple[str, ...] | None = None
    events: tuple[str, ...] | None = None

    def is_wanted(self, branch: str, event: str) -> bool:
        """Whether `when` lets this step run for what was pushed."""
        if self.events is not None and event not in self.events:
            return False
        return self.branches is None or any(matches(glob, branch) for glob in self.branches)


class Pipeline(msgspec.Struct, frozen=True):
    """What to run: the steps in order, until one fails, all in containers of one image.

    timeout_seconds: for all of it together. artifacts: paths in the workspace, sorted.
    """

    image: str
    steps: tuple[Step, ...]
    timeout_seconds: int
    resources: Resources
    artifacts: tuple[str, ...] = ()
    agreement: str = "default"


class PipelineInvalid(msgspec.Struct, frozen=True):
    """Why the repository's own file cannot be run; the same on every replica.

    line: 1-based; None where no line is to blame. key: the key that is wrong, nearest: the known
    key that looks most like it.
    """

    problem: str
    line: int | None = None
    key: str | None = None
    nearest: str | None = None
    file: str = PIPELINE_FILE

    @property
    def text(self) -> str:
        """One line for people: `.pbft-ci.yml:3: key "imagee": is not known; did you mean ...`."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        key = "" if self.key is None else f' key "{self.key}":'
        hint = "" if self.nearest is None else f'; did you mean "{self.nearest}"?'
        words = " ".join(f"{place}:{key} {self.problem}{hint}".split())
        return log_text(words, PROBLEM_CHARACTERS_MAX)


def parse_pipeline(data: bytes, limits: PipelineLimits) -> Pipeline | PipelineInvalid:
    """The pipeline in these bytes, or why there is none."""
    try:
        value, line_of = load_yaml(data, bytes_max=PIPELINE_BYTES_MAX)
    except YamlError as error:
        return PipelineInvalid(str(error), error.line)
    try:
        return _pipeline(Place(value), limits)
    except WrongValue as wrong:
        line = None if wrong.path is None else line_of(wrong.path)
        return PipelineInvalid(str(wrong), line, wrong.key, wrong.nearest)


def matches(glob: str, branch: str) -> bool:
    """Whether a glob means this branch: `*` and `?` stop at a slash, `**` does not.

    Takes time in proportion to the lengths multiplied, whatever the glob: a stranger wrote it.
    """
    places = {0}
    rest = glob
    while rest:
        length = 2 if rest.startswith("**") else 1
        part, rest = rest[:length], rest[length:]
        if part.startswith("*"):
            places = _skipped(branch, places, stops_at_slash=part == "*")
        else:
            places = {
                place + 1
                for place in places
                if branch[place : place + 1] == part
                or (part == "?" and branch[place : place + 1] not in ("", "/"))
            }
    return len(branch) in places


def _skipped(branch: str, places: set[int], stops_at_slash: bool) -> set[int]:
    """All places that can be reached from these by skipping any number of characters."""
    reached: set[int] = set()
    for start in sorted(places):
        place = start
        while place not in reached:
            reached.add(place)
            if place == len(branch) or (stops_at_slash and branch[place] == "/"):
                break
            place += 1
    return reached


def _pipeline(root: Place, limits: PipelineLimits) -> Pipeline:
    """Raises WrongValue."""
    check_keys(root, KEYS, "the file", "a mapping with the keys image and commands (or steps)")
    if "image" not in root:
        raise WrongValue("is missing", None, "image")
    if "steps" in root and "commands" in root:
        raise root.at("commands").wrong(_TOO_MANY_WAYS)
    seconds = _seconds(root, limits.build_seconds_max, limits.build_seconds_max)
    environment = _environment(root, {})
    network = read_flag(root.at("network")) if "network" in root else False
    if "steps" in root:
        steps = _steps(root.at("steps"), limits, seconds, environment, network)
    elif "commands" in root:
        commands = read_commands(root.at("commands"))
        steps = (Step(ONLY_STEP, commands, tuple(environment.items()), seconds, network),)
    else:
        raise WrongValue("is missing (or steps, each with commands of its own)", None, "commands")
    agreement = "default"
    if "agreement" in root:
        agreement = read_choice(root.at("agreement"), AGREEMENTS)
        if agreement == "weak" and not limits.weak_agreement_allowed:
            problem = "weak is not allowed in this network (weak_agreement_allowed in its genesis)"
            raise root.at("agreement").wrong(problem)
    return Pipeline(
        image=read_image(root.at("image")),
        steps=steps,
        timeout_seconds=seconds,
        resources=_resources(root, limits),
        artifacts=(
            read_artifacts(root.at("artifacts"), limits.artifacts_max)
            if "artifacts" in root
            else ()
        ),
        agreement=agreement,
    )


def _steps(
    place: Place,
    limits: PipelineLimits,
    seconds: int,
    environment: dict[str, str],
    network: bool,
) -> tuple[Step, ...]:
    entries = place.items(STEPS_MAX, "steps, each with name and commands")
    steps: list[Step] = []
    for entry in entries:
        check_keys(entry, STEP_KEYS, "a step", "a mapping with the keys name and commands")
        for key in ("name", "commands"):
            if key not in entry:
                raise WrongValue("is missing in this step", entry.path, key)
        name = read_step_name(entry.at("name"))
        if name in {step.name for step in steps}:
            raise entry.at("name").wrong("must be another one: a step before has this name")
        branches, events = _when(entry)
        steps.append(
            Step(
                name=name,
                commands=read_commands(entry.at("commands")),
                environment=tuple(_environment(entry, environment).items()),
                timeout_seconds=_seconds(entry, limits.build_seconds_max, seconds),
                network=read_flag(entry.at("network")) if "network" in entry else network,
                branches=branches,
                events=events,
            )
        )
    return tuple(steps)


def _when(step: Place) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    if "when" not in step:
        return None, None
    place = step.at("when")
    check_keys(place, WHEN_KEYS, "when", "a mapping with the keys branch and event")
    branches = read_patterns(place.at("branch")) if "branch" in place else None
    if "event" not in place:
        return branches, None
    event = place.at("event")
    entries = event.one_or_more(len(EVENTS), "events")
    return branches, tuple(read_choice(entry, EVENTS) for entry in entries)


def _seconds(place: Place, seconds_max: int, default: int) -> int:
    if "timeout_seconds" not in place:
        return default
    return read_number(place.at("timeout_seconds"), 1, seconds_max, " of seconds")


def _environment(place: Place, inherited: dict[str, str]) -> dict[str, str]:
    if "environment" not in place:
        return inherited
    return inherited | read_environment(place.at("environment"))


def _resources(root: Place, limits: PipelineLimits) -> Resources:
    memory_bytes, cpus, pids = limits.memory_bytes, limits.cpus, limits.pids_max
    if "resources" in root:
        place = root.at("resources")
        check_keys(place, RESOURCE_KEYS, "resources", "a mapping with memory, cpus, pids")
        if "memory" in place:
            memory_bytes = read_memory(place.at("memory"), MEMORY_BYTES_MIN, memory_bytes)
        if "cpus" in place:
            cpus = read_cpus(place.at("cpus"), cpus)
        if "pids" in place:
            pids = read_number(place.at("pids"), PIDS_MIN, pids, "")
    return Resources(memory_bytes, cpus, pids)
