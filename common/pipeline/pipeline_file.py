"""`.pbft-ci.yml`: what a repository asks to have run. Pure: equal bytes mean the same anywhere.

The rule: what is not known is an error, never a guess, and a key has one meaning. The values of
single keys are read in common/pipeline/pipeline_values.py; docs/PIPELINES.md is the reference for
people, docs/pipeline.schema.json the one for editors.
"""

from contextlib import suppress
from typing import Protocol

import msgspec

from common.pipeline.pipeline_values import (
    PROBLEMS_MAX,
    REPORTS_MAX,
    Place,
    TooManyProblems,
    WrongValue,
    check_keys,
    read_choice,
    read_commands,
    read_cpus,
    read_environment,
    read_flag,
    read_image,
    read_memory,
    read_number,
    read_paths,
    read_patterns,
    read_step_name,
)
from common.safe_text import log_text
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
    "tests",
    "agreement",
    "resources",
)
STEP_KEYS = ("name", "commands", "environment", "timeout_seconds", "network", "when")
WHEN_KEYS = ("branch", "event")
RESOURCE_KEYS = ("memory", "cpus", "pids")
TESTS_KEYS = ("junit", "required")
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
    """One container: the commands one after the other in one shell."""

    name: str
    commands: tuple[str, ...]
    # in the order of the file, the pipeline's own first, each name once
    environment: tuple[tuple[str, str], ...]
    timeout_seconds: int
    # whether it asks for one
    network: bool = False
    # when it is run: branches and events; None: always
    branches: tuple[str, ...] | None = None
    events: tuple[str, ...] | None = None

    def is_wanted(self, branch: str, event: str) -> bool:
        """Whether `when` lets this step run for what was pushed."""
        if self.events is not None and event not in self.events:
            return False
        return self.branches is None or any(matches(glob, branch) for glob in self.branches)


class ReportOrder(msgspec.Struct, frozen=True):
    """Which files are reports of the tests, in JUnit XML."""

    # paths in the workspace, sorted
    junit: tuple[str, ...]
    # whether a build without one that can be read has failed
    is_required: bool = False


class Pipeline(msgspec.Struct, frozen=True):
    """What to run: the steps in order, until one fails, all in containers of one image."""

    image: str
    steps: tuple[Step, ...]
    # for all of it together
    timeout_seconds: int
    resources: Resources
    # paths in the workspace, sorted
    artifacts: tuple[str, ...] = ()
    agreement: str = "default"
    tests: ReportOrder | None = None


class PipelineInvalid(msgspec.Struct, frozen=True):
    """Why the repository's own file cannot be run; the same on every replica."""

    problem: str
    # 1-based; None if no line is to blame
    line: int | None = None
    # the key that is wrong
    key: str | None = None
    # the known key that looks most like it
    nearest: str | None = None
    file: str = PIPELINE_FILE
    # what else is wrong, in the order of the lines
    others: "tuple[PipelineInvalid, ...]" = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """A line for each thing that is wrong."""
        others = (msgspec.structs.replace(other, file=self.file) for other in self.others)
        return (self.text, *(other.text for other in others))

    @property
    def text(self) -> str:
        """One line for people: `.pbft-ci.yml:3: key "imagee": is not known; did you mean ...`."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        key = "" if self.key is None else f' key "{self.key}":'
        hint = "" if self.nearest is None else f'; did you mean "{self.nearest}"?'
        words = " ".join(f"{place}:{key} {self.problem}{hint}".split())
        return log_text(words, PROBLEM_CHARACTERS_MAX)


def parse_pipeline(data: bytes, limits: PipelineLimits) -> Pipeline | PipelineInvalid:
    """The pipeline in these bytes, or all that is wrong with it."""
    try:
        value, line_of = load_yaml(data, bytes_max=PIPELINE_BYTES_MAX)
    except YamlError as error:
        return PipelineInvalid(str(error), error.line)
    root = Place(value)
    pipeline = None
    with suppress(TooManyProblems):
        try:
            pipeline = _pipeline(root, limits)
        except WrongValue as wrong:
            root.note(wrong)
    if not root.problems:
        assert pipeline is not None, "what cannot be read says why"
        return pipeline
    found = [
        PipelineInvalid(
            str(wrong),
            None if wrong.path is None else line_of(wrong.path),
            wrong.key,
            wrong.nearest,
        )
        for wrong in root.problems
    ]
    # what no line is to blame for comes last
    found.sort(key=lambda problem: (problem.line is None, problem.line or 0))
    if len(found) == PROBLEMS_MAX:
        found.append(PipelineInvalid("more is wrong, and not looked for"))
    return msgspec.structs.replace(found[0], others=tuple(found[1:]))


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
    """The pipeline, if nothing was noted. Raises WrongValue, TooManyProblems."""
    expected = "a mapping with the keys image and commands (or steps)"
    check_keys(root, KEYS, "the file", expected=expected, needed=("image",))
    if "steps" in root and "commands" in root:
        root.note(root.at("commands").wrong(_TOO_MANY_WAYS))
    elif "steps" not in root and "commands" not in root:
        unknown = {problem.nearest for problem in root.problems}
        if unknown.isdisjoint(("commands", "steps")):
            problem = "is missing (or steps, each with commands of its own)"
            root.note(WrongValue(problem, None, "commands"))
    seconds = _seconds(root, limits.build_seconds_max, limits.build_seconds_max)
    environment = _environment(root, {})
    network = root.read("network", read_flag, otherwise=False)
    commands = root.read("commands", read_commands, ())
    steps: tuple[Step, ...] = (
        Step(ONLY_STEP, commands, tuple(environment.items()), seconds, network),
    )
    if "steps" in root:
        steps = root.read(
            "steps",
            lambda place: _steps(place, limits, seconds, environment=environment, network=network),
            (),
        )
    return Pipeline(
        image=root.read("image", read_image, ""),
        steps=steps,
        timeout_seconds=seconds,
        resources=root.read(
            "resources",
            lambda place: _resources(place, limits),
            Resources(limits.memory_bytes, limits.cpus, limits.pids_max),
        ),
        artifacts=root.read("artifacts", lambda place: read_paths(place, limits.artifacts_max), ()),
        agreement=root.read("agreement", lambda place: _agreement(place, limits), "default"),
        tests=root.read("tests", _tests, None),
    )


def _tests(place: Place) -> ReportOrder:
    expected = "a mapping with the keys junit and required"
    check_keys(place, TESTS_KEYS, "tests", expected=expected, needed=("junit",))
    return ReportOrder(
        place.read("junit", lambda value: read_paths(value, REPORTS_MAX), ()),
        place.read("required", read_flag, otherwise=False),
    )


def _agreement(place: Place, limits: PipelineLimits) -> str:
    agreement = read_choice(place, AGREEMENTS)
    if agreement == "weak" and not limits.weak_agreement_allowed:
        problem = "weak is not allowed in this network (weak_agreement_allowed in its genesis)"
        raise place.wrong(problem)
    return agreement


def _steps(
    place: Place,
    limits: PipelineLimits,
    seconds: int,
    *,
    environment: dict[str, str],
    network: bool,
) -> tuple[Step, ...]:
    steps: list[Step] = []
    names: set[str] = set()
    for entry in place.items(STEPS_MAX, "steps, each with name and commands"):
        try:
            step = _step(entry, limits, seconds, environment=environment, network=network)
        except WrongValue as wrong:
            place.note(wrong)
            continue
        if step.name in names:
            place.note(entry.at("name").wrong("must be another one: a step before has this name"))
        if step.name:
            names.add(step.name)
        steps.append(step)
    return tuple(steps)


def _step(
    entry: Place,
    limits: PipelineLimits,
    seconds: int,
    *,
    environment: dict[str, str],
    network: bool,
) -> Step:
    expected = "a mapping with the keys name and commands"
    check_keys(entry, STEP_KEYS, "a step", expected=expected, needed=("name", "commands"))
    branches, events = entry.read("when", _when, (None, None))
    return Step(
        name=entry.read("name", read_step_name, ""),
        commands=entry.read("commands", read_commands, ()),
        environment=tuple(_environment(entry, environment).items()),
        timeout_seconds=_seconds(entry, limits.build_seconds_max, seconds),
        network=entry.read("network", read_flag, network),
        branches=branches,
        events=events,
    )


_Patterns = tuple[str, ...] | None


def _when(place: Place) -> tuple[_Patterns, _Patterns]:
    check_keys(place, WHEN_KEYS, "when", expected="a mapping with the keys branch and event")
    return (
        place.read("branch", read_patterns, None),
        place.read("event", _events, None),
    )


def _events(place: Place) -> tuple[str, ...]:
    entries = place.one_or_more(len(EVENTS), "events")
    return tuple(read_choice(entry, EVENTS) for entry in entries)


def _seconds(place: Place, seconds_max: int, default: int) -> int:
    return place.read(
        "timeout_seconds",
        lambda value: read_number(value, 1, seconds_max, of_what=" of seconds"),
        default,
    )


def _environment(place: Place, inherited: dict[str, str]) -> dict[str, str]:
    return inherited | place.read("environment", read_environment, {})


def _resources(place: Place, limits: PipelineLimits) -> Resources:
    memory_bytes, cpus, pids = limits.memory_bytes, limits.cpus, limits.pids_max
    check_keys(place, RESOURCE_KEYS, "resources", expected="a mapping with memory, cpus, pids")
    return Resources(
        place.read(
            "memory", lambda value: read_memory(value, MEMORY_BYTES_MIN, memory_bytes), memory_bytes
        ),
        place.read("cpus", lambda value: read_cpus(value, cpus), cpus),
        place.read("pids", lambda value: read_number(value, PIDS_MIN, pids, of_what=""), pids),
    )
