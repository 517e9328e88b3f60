"""`.pbft-ci.yml`: what a repository asks to have run. Pure: equal bytes mean the same anywhere.

The rule: what is not known is an error, never a guess, and a key has one meaning. The values of
single keys are read in common/pipeline/pipeline_values.py; docs/PIPELINES.md is the reference for
people, docs/pipeline.schema.json the one for editors.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Protocol

import msgspec

from common.dependencies.lock_file import Tool
from common.pipeline.foreign_keys import event_advice
from common.pipeline.matrix import Cell, Matrix, read_cell_choice, read_matrix
from common.pipeline.path_filter import PathFilter, are_too_many
from common.pipeline.pipeline_values import (
    CASE_CHARACTERS_MAX,
    HOME_PREFIX,
    PROBLEMS_MAX,
    REASON_CHARACTERS_MAX,
    REPORTS_MAX,
    Place,
    TooManyProblems,
    WrongValue,
    check_keys,
    is_inside_or_around,
    read_arguments,
    read_cached_paths,
    read_choice,
    read_commands,
    read_cpus,
    read_date,
    read_environment,
    read_flag,
    read_folders,
    read_image,
    read_line,
    read_memory,
    read_network,
    read_number,
    read_path_patterns,
    read_paths,
    read_patterns,
    read_plain_file,
    read_plain_files,
    read_python,
    read_service_name,
    read_step_name,
)
from common.safe_text import log_text
from common.yaml_text import YamlError, load_yaml

PIPELINE_FILE = ".pbft-ci.yml"
PIPELINE_BYTES_MAX = 64 * 1024
# What cached paths are relative to.
HOME_ROOT, WORKSPACE_ROOT = "home", "workspace"
STEPS_MAX = 64
SERVICES_MAX = 4
CACHES_MAX = 4
# as in `ci.operations`: where there are several, a ballot names them
IMAGES_MAX = 8
NAMED_IMAGE_CHARACTERS_MAX = 200
READY_SECONDS_MAX = 300
READY_SECONDS = 60
DEPTH_MAX = 1000
FULL_DEPTH = "full"
QUARANTINE_MAX = 50
# How far ahead of its commit a quarantine may end: so it does end.
QUARANTINE_DAYS_MAX = 90
# the last second that a date can have
_SECONDS_MAX = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())

KEYS = (
    "image",
    "commands",
    "matrix",
    "steps",
    "services",
    "clone",
    "cache",
    "dependencies",
    "environment",
    "timeout_seconds",
    "network",
    "artifacts",
    "tests",
    "agreement",
    "resources",
)
STEP_KEYS = (
    *("name", "image", "commands", "environment", "timeout_seconds", "network"),
    *("failure", "when"),
)
SERVICE_KEYS = (
    "name",
    "image",
    "environment",
    "command",
    "ready",
    "temporary",
    "memory",
    "root",
)
LOCK_FILES_MAX = 16
DEPENDENCY_KEYS = (*(tool.value for tool in Tool), "python")
CLONE_KEYS = ("depth", "tags")
CACHE_KEYS = ("name", "paths", "files")
READY_KEYS = ("port", "command", "seconds")
WHEN_KEYS = ("branch", "event", "cron", "status", "path", "matrix")
PATH_KEYS = ("include", "exclude")
RESOURCE_KEYS = ("memory", "cpus", "pids")
TESTS_KEYS = ("junit", "required", "quarantine")
QUARANTINE_KEYS = ("case", "until", "reason")
EVENTS = ("push", "tag", "pull_request", "merge_group", "cron")
# those that change something of a branch; for all others `path` is true
CHANGING_EVENTS = ("pull_request", "merge_group")
STATUSES = ("success", "failure")
FAILURES = ("ignore",)
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
    def cells_max(self) -> int:
        """How many cells a matrix may have."""

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
    image: str
    commands: tuple[str, ...]
    # in the order of the file, the pipeline's own first, each name once
    environment: tuple[tuple[str, str], ...]
    timeout_seconds: int
    # whether it asks for one; or which hosts alone (`common.host_patterns`), at least one
    network: bool | tuple[str, ...] = False
    # when it is run: branches, events and schedules; None: always
    branches: tuple[str, ...] | None = None
    events: tuple[str, ...] | None = None
    schedules: tuple[str, ...] | None = None
    # whether it runs while no step has failed, and after one has
    statuses: tuple[str, ...] = ("success",)
    # whether it counts as passed, however it ends
    is_failure_ignored: bool = False
    # for which changed files; None: all
    paths: PathFilter | None = None
    # none of those was changed (`Pipeline.for_changes`)
    is_untouched: bool = False
    # it is for other cells of the matrix
    is_elsewhere: bool = False

    def is_wanted(self, branch: str, event: str, schedule: str | None = None) -> bool:
        """Whether `when` lets this step run for this event, after steps that end well or not
        (`is_due`). schedule: of the event cron."""
        if self.is_elsewhere or self.is_untouched:
            return False
        if self.events is not None and event not in self.events:
            return False
        if self.schedules is not None and (
            schedule is None or not any(matches(glob, schedule) for glob in self.schedules)
        ):
            return False
        return self.branches is None or any(matches(glob, branch) for glob in self.branches)

    def is_due(self, *, has_failed: bool) -> bool:
        """Whether it runs in a build in which a step has failed, or none."""
        return ("failure" if has_failed else "success") in self.statuses


class Quarantined(msgspec.Struct, frozen=True):
    """A test case that may fail in commits before a day (UTC). case: its id."""

    case: str
    until: date
    reason: str


class ReportOrder(msgspec.Struct, frozen=True):
    """Which files are reports of the tests, in JUnit XML, and which cases may fail."""

    # paths in the workspace, sorted
    junit: tuple[str, ...]
    # whether a build without one that can be read has failed
    is_required: bool = False
    # in the order of the file, each case once
    quarantine: tuple[Quarantined, ...] = ()

    def in_force(self, commit_seconds: int) -> dict[str, Quarantined]:
        """The quarantines that hold for a commit of that time (in seconds since 1970), by case."""
        today = commit_date(commit_seconds)
        return {entry.case: entry for entry in self.quarantine if entry.until > today}


class Ready(msgspec.Struct, frozen=True):
    """When a service is ready: a port, a command, or neither: as its image says."""

    # something listens on it, on all addresses
    port: int | None = None
    # ends with 0 in the service's container
    command: tuple[str, ...] | None = None
    # how long a replica waits for that
    seconds: int = READY_SECONDS


class Service(msgspec.Struct, frozen=True):
    """A container beside the steps, which reach it by its name, from before the first step on."""

    name: str
    image: str
    environment: tuple[tuple[str, str], ...]
    # for the image's entrypoint; None: what the image says
    command: tuple[str, ...] | None
    ready: Ready
    # folders that it can write to, beside /tmp and those that its image declares, sorted
    temporary: tuple[str, ...]
    # of its processes, and of what it writes
    memory_bytes: int
    # whether it asks to run as root
    is_root: bool = False


class Clone(msgspec.Struct, frozen=True):
    """Which part of the history is in the workspace, as `.git`."""

    # how many commits deep; None: all of it
    depth: int | None
    # whether with the tags that lead to it
    has_tags: bool


class CachedPath(msgspec.Struct, frozen=True):
    """A path that a cache holds. root: `home` or `workspace`, which it is relative to."""

    root: str
    path: str

    @property
    def text(self) -> str:
        """As in the file."""
        return f"{HOME_PREFIX}{self.path}" if self.root == HOME_ROOT else self.path

    def overlaps(self, other: "CachedPath") -> bool:
        """Whether one of the two is the other, or inside it."""
        return self.root == other.root and is_inside_or_around(self.path, other.path)


class Cache(msgspec.Struct, frozen=True):
    """Paths that are there again in a later build whose files are the same."""

    name: str
    # sorted; none is inside another
    paths: tuple[CachedPath, ...]
    # of the commit, sorted: what decides about the content of the paths
    files: tuple[str, ...]


class LockedBy(msgspec.Struct, frozen=True):
    """A lock file of the commit, whose packages are fetched before the build.

    tool: `common.dependencies.lock_file.Tool`. python: of pip, for which version of Python.
    """

    tool: str
    file: str
    python: str | None = None


class Pipeline(msgspec.Struct, frozen=True):
    """What to run: the steps in order, and services beside them."""

    steps: tuple[Step, ...]
    # for all of it together
    timeout_seconds: int
    resources: Resources
    # paths in the workspace, sorted
    artifacts: tuple[str, ...] = ()
    agreement: str = "default"
    services: tuple[Service, ...] = ()
    # None: no `.git`
    clone: Clone | None = None
    tests: ReportOrder | None = None
    caches: tuple[Cache, ...] = ()
    dependencies: tuple[LockedBy, ...] = ()
    # of a matrix, in the file's order: each is run by itself. The steps of all are the same but for
    # images, variables and `is_elsewhere`, so what is said of steps here holds for each cell that
    # a step is for.
    cells: "tuple[PipelineCell, ...]" = ()

    @property
    def step_memory_bytes(self) -> int:
        """What is left of the memory for a step."""
        return self.resources.memory_bytes - sum(s.memory_bytes for s in self.services)

    def needs_changes(self, branch: str, event: str, schedule: str | None = None) -> bool:
        """Whether it depends on the changed files what is run for this event."""
        return event in CHANGING_EVENTS and any(
            step.paths is not None and step.is_wanted(branch, event, schedule)
            for step in self.steps
        )

    def for_changes(self, paths: Sequence[str] | None) -> "Pipeline":
        """The pipeline for these changed files; None: it is not known which they are.

        Without any, all steps run, as where they are more than is compared.
        """
        filters = [step.paths for step in self.steps if step.paths is not None]
        if not paths or are_too_many(filters, paths):
            return self
        steps = tuple(
            msgspec.structs.replace(
                step, is_untouched=step.paths is not None and not step.paths.is_touched(paths)
            )
            for step in self.steps
        )
        cells = tuple(
            msgspec.structs.replace(cell, pipeline=cell.pipeline.for_changes(paths))
            for cell in self.cells
        )
        return msgspec.structs.replace(self, steps=steps, cells=cells)

    def images(self, steps: Sequence[Step]) -> tuple[str, ...]:
        """The different images of these steps and of the services, the first step's first."""
        services = (service.image for service in self.services)
        return tuple(dict.fromkeys((*(step.image for step in steps), *services)))


class PipelineCell(msgspec.Struct, frozen=True):
    """A cell of a matrix, by its name, and what is run in it. folder: of its artifacts."""

    name: str
    folder: str
    pipeline: Pipeline


class CellLimits(msgspec.Struct, frozen=True):
    """`PipelineLimits` of one cell: all cells together have the time of a build."""

    build_seconds_max: int
    memory_bytes: int
    cpus: float
    pids_max: int
    artifacts_max: int
    cells_max: int
    weak_agreement_allowed: bool


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


def commit_date(commit_seconds: int) -> date:
    """The day (UTC) of a commit; its author chose the time, which may be any number."""
    return datetime.fromtimestamp(min(max(0, commit_seconds), _SECONDS_MAX), UTC).date()


def parse_pipeline(
    data: bytes, limits: PipelineLimits, commit_seconds: int | None = None
) -> Pipeline | PipelineInvalid:
    """The pipeline in these bytes, or all that is wrong with it.

    commit_seconds: when its commit was made; None: there is none yet, and no quarantine is too
        long.
    """
    try:
        value, line_of = load_yaml(data, bytes_max=PIPELINE_BYTES_MAX)
    except YamlError as error:
        return PipelineInvalid(str(error), error.line)
    root = Place(value)
    pipeline = None
    with suppress(TooManyProblems):
        try:
            pipeline = (
                _with_cells(root, limits, commit_seconds)
                if "matrix" in root
                else _pipeline(root, limits, commit_seconds, matrix=Matrix())
            )
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


def _with_cells(root: Place, limits: PipelineLimits, commit_seconds: int | None) -> Pipeline:
    """The pipeline of a file with a matrix. Raises WrongValue, TooManyProblems."""
    cells = root.read("matrix", lambda place: read_matrix(place, limits.cells_max), ())
    if not cells:
        # what is wrong with it is noted; the rest is read on
        return _pipeline(root, limits, commit_seconds, matrix=Matrix(None))
    if "artifacts" in root and len({cell.folder for cell in cells}) < len(cells):
        problem = "would put the files of two cells into one folder: their names differ in / and _"
        root.note(root.at("artifacts").wrong(problem))
    if "cache" in root:
        problem = "is not there beside matrix: a cell starts without what builds left before"
        root.note(root.at("cache").wrong(problem))
    shared = CellLimits(
        # a cell has a second at least: there are fewer cells than a build may have seconds
        max(1, limits.build_seconds_max // len(cells)),
        limits.memory_bytes,
        limits.cpus,
        limits.pids_max,
        limits.artifacts_max,
        limits.cells_max,
        limits.weak_agreement_allowed,
    )
    found: list[PipelineCell] = []
    assert isinstance(root.value, dict), "it has a key"
    for cell in cells:
        place = Place(cell.file_of(root.value), (), root.problems)
        pipeline = _pipeline(place, shared, commit_seconds, matrix=Matrix(cells, cell))
        pipeline = _cell_pipeline(pipeline, cell, place)
        found.append(PipelineCell(cell.name, cell.folder, pipeline))
        if root.problems:
            # those of the other cells are mostly the same
            raise TooManyProblems
    used = {image for cell in found for image in cell.pipeline.images(cell.pipeline.steps)}
    if (problem_of_images := _images_problem(used)) is not None:
        root.note(WrongValue(problem_of_images, None, "image"))
    steps = tuple(
        msgspec.structs.replace(step, is_elsewhere=False) for step in found[0].pipeline.steps
    )
    return msgspec.structs.replace(found[0].pipeline, steps=steps, cells=tuple(found))


def _cell_pipeline(pipeline: Pipeline, cell: Cell, place: Place) -> Pipeline:
    """The pipeline with the cell's texts as variables of its steps and services."""
    texts = dict(cell.texts)
    used = [(step.name, step.environment) for step in pipeline.steps]
    used += [(service.name, service.environment) for service in pipeline.services]
    for owner, environment in used:
        for name, _ in environment:
            if name in texts:
                problem = f"{owner} has the variable {name}, which is an axis of the matrix"
                place.note(WrongValue(problem, None, "environment"))
    return msgspec.structs.replace(
        pipeline,
        steps=tuple(
            msgspec.structs.replace(step, environment=(*step.environment, *cell.texts))
            for step in pipeline.steps
        ),
        services=tuple(
            msgspec.structs.replace(service, environment=(*service.environment, *cell.texts))
            for service in pipeline.services
        ),
    )


def _pipeline(
    root: Place, limits: PipelineLimits, commit_seconds: int | None, *, matrix: Matrix
) -> Pipeline:
    """The pipeline, if nothing was noted. Raises WrongValue, TooManyProblems."""
    expected = "a mapping with the keys image and commands (or steps)"
    needed = () if _has_images(root) else ("image",)
    check_keys(root, KEYS, "the file", expected=expected, needed=needed)
    if "steps" in root and "commands" in root:
        root.note(root.at("commands").wrong(_TOO_MANY_WAYS))
    elif "steps" not in root and "commands" not in root:
        unknown = {problem.nearest for problem in root.problems}
        if unknown.isdisjoint(("commands", "steps")):
            problem = "is missing (or steps, each with commands of its own)"
            root.note(WrongValue(problem, None, "commands"))
    seconds = _seconds(root, limits.build_seconds_max, limits.build_seconds_max)
    environment = _environment(root, {})
    network = root.read("network", read_network, otherwise=False)
    only = Step(
        name=ONLY_STEP,
        image=root.read("image", read_image, ""),
        commands=root.read("commands", read_commands, ()),
        environment=tuple(environment.items()),
        timeout_seconds=seconds,
        network=network,
    )
    steps: tuple[Step, ...] = (only,)
    if "steps" in root:
        steps = root.read("steps", lambda place: _steps(place, limits, only, matrix=matrix), ())
    resources = root.read(
        "resources",
        lambda place: _resources(place, limits),
        Resources(limits.memory_bytes, limits.cpus, limits.pids_max),
    )
    names = {step.name for step in steps}
    services = root.read(
        "services", lambda place: _services(place, resources.memory_bytes, names), ()
    )
    used = {step.image for step in steps} | {service.image for service in services}
    images_problem = _images_problem(used)
    if images_problem is not None:
        root.note(WrongValue(images_problem, None, "image"))
    return Pipeline(
        steps=steps,
        services=services,
        clone=root.read("clone", _clone, None),
        caches=root.read("cache", _caches, ()),
        dependencies=root.read("dependencies", _dependencies, ()),
        timeout_seconds=seconds,
        resources=resources,
        artifacts=root.read(
            "artifacts",
            # the list of what went in is one more
            lambda place: read_paths(place, limits.artifacts_max - ("dependencies" in root)),
            (),
        ),
        agreement=root.read("agreement", lambda place: _agreement(place, limits), "default"),
        tests=root.read("tests", lambda place: _tests(place, commit_seconds), None),
    )


def _tests(place: Place, commit_seconds: int | None) -> ReportOrder:
    expected = "a mapping with the keys junit, required, quarantine"
    check_keys(place, TESTS_KEYS, "tests", expected=expected, needed=("junit",))
    return ReportOrder(
        place.read("junit", lambda value: read_paths(value, REPORTS_MAX), ()),
        place.read("required", read_flag, otherwise=False),
        place.read("quarantine", lambda value: _quarantine(value, commit_seconds), ()),
    )


def _quarantine(place: Place, commit_seconds: int | None) -> tuple[Quarantined, ...]:
    what = "test cases, each with case, until and reason"
    found: dict[str, Quarantined] = {}
    for entry in place.items(QUARANTINE_MAX, what):
        expected = "a mapping with the keys case, until, reason"
        check_keys(entry, QUARANTINE_KEYS, "quarantine", expected=expected, needed=QUARANTINE_KEYS)
        case = entry.read(
            "case", lambda value: read_line(value, "a case's id", CASE_CHARACTERS_MAX), ""
        )
        until = entry.read("until", lambda value: _until(value, commit_seconds), date.max)
        reason = entry.read(
            "reason", lambda value: read_line(value, "a reason", REASON_CHARACTERS_MAX), ""
        )
        if case in found:
            entry.note(entry.at("case").wrong("is there twice"))
        if case:
            found[case] = Quarantined(case, until, reason)
    return tuple(found.values())


def _until(place: Place, commit_seconds: int | None) -> date:
    until = read_date(place)
    if commit_seconds is None:
        return until
    today = commit_date(commit_seconds)
    if (until - today).days > QUARANTINE_DAYS_MAX:
        raise place.wrong(
            f"may be at most {QUARANTINE_DAYS_MAX} days after the commit's date, {today} (UTC)"
        )
    return until


def _caches(place: Place) -> tuple[Cache, ...]:
    caches: list[Cache] = []
    names: set[str] = set()
    paths: set[CachedPath] = set()
    for entry in place.items(CACHES_MAX, "caches, each with name, paths and files"):
        try:
            expected = "a mapping with the keys name, paths and files"
            check_keys(entry, CACHE_KEYS, "a cache", expected=expected, needed=CACHE_KEYS)
        except WrongValue as wrong:
            place.note(wrong)
            continue
        cache = Cache(
            name=entry.read("name", read_step_name, ""),
            paths=tuple(
                CachedPath(HOME_ROOT if is_at_home else WORKSPACE_ROOT, path)
                for is_at_home, path in entry.read("paths", read_cached_paths, ())
            ),
            files=entry.read("files", read_plain_files, ()),
        )
        if cache.name in names:
            place.note(entry.at("name").wrong("must be another one: a cache before has this name"))
        for path in cache.paths:
            if any(path.overlaps(other) for other in paths):
                problem = f"{path.text} is in a cache before, or one is inside the other"
                place.note(entry.at("paths").wrong(problem))
        if cache.name:
            names.add(cache.name)
        paths.update(cache.paths)
        caches.append(cache)
    return tuple(caches)


def read_dependencies(value: object) -> tuple[LockedBy, ...]:
    """The lock files that a list of mappings names, as `dependencies` takes it.

    Raises WrongValue with the first thing that is wrong.
    """
    place = Place(value, ("dependencies",))
    with suppress(TooManyProblems):
        found = _dependencies(place)
    if place.problems:
        raise place.problems[0]
    return found


def _dependencies(place: Place) -> tuple[LockedBy, ...]:
    what = "lock files, each with a tool as its key"
    found: list[LockedBy] = []
    for entry in place.items(LOCK_FILES_MAX, what):
        expected = f"a mapping with one of {', '.join(Tool)}"
        check_keys(entry, DEPENDENCY_KEYS, "dependencies", expected=expected)
        tools = [tool for tool in Tool if tool in entry]
        if len(tools) != 1:
            # a key that is not known is told already
            if isinstance(entry.value, dict) and entry.value.keys() <= set(DEPENDENCY_KEYS):
                entry.note(entry.wrong(f"must have one of {', '.join(Tool)}"))
            continue
        (tool,) = tools
        if "python" in entry and tool is not Tool.PIP:
            entry.note(entry.at("python").wrong("is for pip alone"))
        locked = LockedBy(
            tool, entry.read(tool, read_plain_file, ""), entry.read("python", read_python, None)
        )
        if locked in found:
            entry.note(entry.wrong("is there twice"))
        found.append(locked)
    return tuple(found)


def _has_images(root: Place) -> bool:
    """Whether no step needs the image at the top."""
    steps = root.value.get("steps") if isinstance(root.value, dict) else None
    return isinstance(steps, list) and all(
        isinstance(entry, dict) and "image" in entry for entry in steps
    )


def _images_problem(names: set[str]) -> str | None:
    if len(names) > IMAGES_MAX:
        return f"there are {len(names)} different ones, services included; at most {IMAGES_MAX}"
    if len(names) > 1 and any(len(name) > NAMED_IMAGE_CHARACTERS_MAX for name in names):
        most = NAMED_IMAGE_CHARACTERS_MAX
        return f"of several, the name of each may have at most {most} characters"
    return None


def _agreement(place: Place, limits: PipelineLimits) -> str:
    agreement = read_choice(place, AGREEMENTS)
    if agreement == "weak" and not limits.weak_agreement_allowed:
        problem = "weak is not allowed in this network (weak_agreement_allowed in its genesis)"
        raise place.wrong(problem)
    return agreement


def _steps(
    place: Place, limits: PipelineLimits, given: Step, *, matrix: Matrix
) -> tuple[Step, ...]:
    """given: what holds for a step that does not say it itself."""
    steps: list[Step] = []
    names: set[str] = set()
    for entry in place.items(STEPS_MAX, "steps, each with name and commands", inner="commands"):
        try:
            step = _step(entry, limits, given, matrix=matrix)
        except WrongValue as wrong:
            place.note(wrong)
            continue
        if step.name in names:
            place.note(entry.at("name").wrong("must be another one: a step before has this name"))
        if step.name:
            names.add(step.name)
        steps.append(step)
    return tuple(steps)


def _step(entry: Place, limits: PipelineLimits, given: Step, *, matrix: Matrix) -> Step:
    expected = "a mapping with the keys name and commands"
    check_keys(entry, STEP_KEYS, "a step", expected=expected, needed=("name", "commands"))
    otherwise = (None, None, None, given.statuses, None, True)
    branches, events, schedules, statuses, paths, is_here = entry.read(
        "when", lambda place: _when(place, matrix), otherwise
    )
    return Step(
        name=entry.read("name", read_step_name, ""),
        image=entry.read("image", read_image, given.image),
        commands=entry.read("commands", read_commands, ()),
        environment=tuple(_environment(entry, dict(given.environment)).items()),
        timeout_seconds=_seconds(entry, limits.build_seconds_max, given.timeout_seconds),
        network=entry.read("network", read_network, given.network),
        branches=branches,
        events=events,
        schedules=schedules,
        statuses=statuses,
        is_failure_ignored=entry.read("failure", _failure, None) == "ignore",
        paths=paths,
        is_elsewhere=not is_here,
    )


def _services(place: Place, memory_bytes: int, step_names: set[str]) -> tuple[Service, ...]:
    """The services, which share the memory with a step. memory_bytes: of all of them together."""
    entries = place.items(SERVICES_MAX, "services, each with name and image", inner="image")
    services: list[Service] = []
    names, ports = set(step_names), set[int]()
    for entry in entries:
        try:
            service = _service(entry, memory_bytes, memory_bytes // (len(entries) + 1))
        except WrongValue as wrong:
            place.note(wrong)
            continue
        if service.name in names:
            problem = "must be another one: a step or a service before has this name"
            place.note(entry.at("name").wrong(problem))
        elif service.name:
            names.add(service.name)
        if service.ready.port in ports:
            problem = "is another service's: all services of a build share their ports"
            place.note(entry.at("ready").at("port").wrong(problem))
        elif service.ready.port is not None:
            ports.add(service.ready.port)
        services.append(service)
    rest = memory_bytes - sum(service.memory_bytes for service in services)
    if min([rest, *(service.memory_bytes for service in services)]) < MEMORY_BYTES_MIN:
        raise place.wrong(
            f"have {memory_bytes // 2**20} MiB of memory together with a step (resources: memory),"
            f" and each of them and the step need {MEMORY_BYTES_MIN // 2**20} MiB"
        )
    return tuple(services)


def _service(entry: Place, memory_bytes_max: int, memory_bytes: int) -> Service:
    expected = "a mapping with the keys name and image"
    check_keys(entry, SERVICE_KEYS, "a service", expected=expected, needed=("name", "image"))
    return Service(
        name=entry.read("name", read_service_name, ""),
        image=entry.read("image", read_image, ""),
        environment=tuple(_environment(entry, {}).items()),
        command=entry.read("command", read_arguments, None),
        ready=entry.read("ready", _ready, Ready()),
        temporary=entry.read("temporary", read_folders, ()),
        memory_bytes=entry.read(
            "memory",
            lambda value: read_memory(value, MEMORY_BYTES_MIN, memory_bytes_max),
            memory_bytes,
        ),
        is_root=entry.read("root", read_flag, False),
    )


def _clone(place: Place) -> Clone:
    check_keys(place, CLONE_KEYS, "clone", expected="a mapping with depth and tags")
    return Clone(
        depth=place.read("depth", _depth, 1), has_tags=place.read("tags", read_flag, False)
    )


def _depth(place: Place) -> int | None:
    if place.value == FULL_DEPTH:
        return None
    try:
        return read_number(place, 1, DEPTH_MAX, of_what=" of commits")
    except WrongValue as wrong:
        raise place.wrong(f"{wrong}, or {FULL_DEPTH}") from None


def _ready(place: Place) -> Ready:
    expected = "a mapping with port or command, and seconds"
    check_keys(place, READY_KEYS, "ready", expected=expected)
    if "port" in place and "command" in place:
        place.note(place.at("command").wrong("is there beside port; write one of them"))
    return Ready(
        port=place.read("port", lambda value: read_number(value, 1, 65535, of_what=""), None),
        command=place.read("command", read_arguments, None),
        seconds=place.read(
            "seconds",
            lambda value: read_number(value, 1, READY_SECONDS_MAX, of_what=" of seconds"),
            READY_SECONDS,
        ),
    )


_Patterns = tuple[str, ...] | None
_When = tuple[_Patterns, _Patterns, _Patterns, tuple[str, ...], PathFilter | None, bool]


def _when(place: Place, matrix: Matrix) -> _When:
    keys = ", ".join(WHEN_KEYS)
    expected = f"one mapping with {keys}; instead of a list write several steps"
    check_keys(place, WHEN_KEYS, "when", expected=expected)
    return (
        place.read("branch", read_patterns, None),
        place.read("event", _events, None),
        place.read("cron", lambda names: read_patterns(names, "a schedule"), None),
        place.read("status", _statuses, STATUSES[:1]),
        place.read("path", _paths, None),
        place.read("matrix", lambda choice: read_cell_choice(choice, matrix), True),
    )


def _paths(place: Place) -> PathFilter:
    if not isinstance(place.value, dict):
        return PathFilter(read_path_patterns(place))
    check_keys(place, PATH_KEYS, "path", expected="globs, or a mapping with include and exclude")
    if not place.value:
        raise place.wrong("must have include or exclude")
    return PathFilter(
        place.read("include", read_path_patterns, None),
        place.read("exclude", read_path_patterns, ()),
    )


def _statuses(place: Place) -> tuple[str, ...]:
    entries = place.one_or_more(len(STATUSES), "of success and failure")
    return tuple(read_choice(entry, STATUSES) for entry in entries)


def _failure(place: Place) -> str:
    return read_choice(place, FAILURES)


def _events(place: Place) -> tuple[str, ...]:
    entries = place.one_or_more(len(EVENTS), "events")
    return tuple(_event(entry) for entry in entries)


def _event(place: Place) -> str:
    if isinstance(place.value, str) and place.value not in EVENTS:
        told = event_advice(place.value)
        if told is not None:
            raise place.wrong(f"{place.value} is not there; {told}")
    return read_choice(place, EVENTS)


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
