"""`.pbft-ci.yml`: what a repository asks to have run. Pure: equal bytes mean the same anywhere."""

import difflib
import re
from collections.abc import Callable

import msgspec

from common.yaml_text import YamlError, load_yaml
from node.trouble import one_line

PIPELINE_FILE = ".pbft-ci.yml"
PIPELINE_BYTES_MAX = 64 * 1024
COMMANDS_MAX = 256
IMAGE_CHARACTERS_MAX = 255

KEYS = ("image", "commands", "timeout_seconds")

# Docker's reference grammar: [host[:port]/]path[:tag][@digest]
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = (
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
)
_IMAGE = re.compile(
    rf"(?:{_HOST}(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


class Pipeline(msgspec.Struct, frozen=True):
    """What to run: one container of `image`, the commands one after the other in one shell.

    timeout_seconds: for all of it together.
    """

    image: str
    commands: tuple[str, ...]
    timeout_seconds: int


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
        return one_line(f"{place}:{key} {self.problem}{hint}")


def parse_pipeline(data: bytes, seconds_max: int) -> Pipeline | PipelineInvalid:
    """The pipeline in these bytes, or why there is none.

    seconds_max: the longest it may ask for, and what it gets where it does not ask.
    """
    try:
        value, line_of = load_yaml(data, bytes_max=PIPELINE_BYTES_MAX)
    except YamlError as error:
        return PipelineInvalid(str(error), error.line)
    if not isinstance(value, dict):
        return PipelineInvalid("must be a mapping with the keys image and commands", line_of(()))
    for key in value:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)
            problem = f"is not known; the keys are {', '.join(KEYS)}"
            return PipelineInvalid(problem, line_of((key,)), _shown(key), near[0] if near else None)
    for key in ("image", "commands"):
        if key not in value:
            return PipelineInvalid("is missing", None, key)
    problem_found = (
        _check_image(value["image"], line_of)
        or _check_commands(value["commands"], line_of)
        or _check_seconds(value.get("timeout_seconds", seconds_max), seconds_max, line_of)
    )
    if problem_found is not None:
        return problem_found
    return Pipeline(
        image=value["image"],
        commands=tuple(value["commands"]),
        timeout_seconds=value.get("timeout_seconds", seconds_max),
    )


def is_image_name(text: str) -> bool:
    """Whether this follows Docker's grammar for a reference to an image."""
    return len(text) <= IMAGE_CHARACTERS_MAX and _IMAGE.fullmatch(text) is not None


_LineOf = Callable[[tuple[str | int, ...]], int]


def _check_image(image: object, line_of: _LineOf) -> PipelineInvalid | None:
    if isinstance(image, str) and is_image_name(image):
        return None
    problem = "must be the name of an image, such as busybox:1.36 or name@sha256:<digest>"
    return PipelineInvalid(problem, line_of(("image",)), "image")


def _check_commands(commands: object, line_of: _LineOf) -> PipelineInvalid | None:
    if not isinstance(commands, list) or not 1 <= len(commands) <= COMMANDS_MAX:
        problem = f"must be a list of 1 to {COMMANDS_MAX} commands"
        return PipelineInvalid(problem, line_of(("commands",)), "commands")
    for index, command in enumerate(commands):
        if not isinstance(command, str) or not command.strip() or not _is_passable(command):
            problem = f"command {index + 1} must be text; put it in quotes"
            return PipelineInvalid(problem, line_of(("commands", index)), "commands")
    return None


def _check_seconds(seconds: object, seconds_max: int, line_of: _LineOf) -> PipelineInvalid | None:
    # True is an int for Python
    if isinstance(seconds, int) and not isinstance(seconds, bool) and 1 <= seconds <= seconds_max:
        return None
    problem = f"must be a whole number of seconds from 1 to {seconds_max}"
    return PipelineInvalid(problem, line_of(("timeout_seconds",)), "timeout_seconds")


def _is_passable(command: str) -> bool:
    """Whether a program can be given this as an argument: no NUL, nothing that is not UTF-8."""
    try:
        return b"\0" not in command.encode()
    except UnicodeEncodeError:
        return False


def _shown(key: str) -> str:
    """A stranger's key, for an error of one line."""
    return key.encode("unicode_escape").decode("ascii")[:60]
