"""The values of a pipeline file's keys: what each allows, and the error otherwise. Pure.

What is wrong is noted, and the rest is read on, so that a file's author sees all of it at once.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from typing import TypeVar

from common.host_patterns import EVERY_HOST, HOSTS_MAX, is_host_pattern
from common.pipeline.foreign_keys import advice, entries_advice, secret_advice

COMMANDS_MAX = 256
ARGUMENTS_MAX = 64
FOLDERS_MAX = 4
VARIABLES_MAX = 128
PATTERNS_MAX = 32
REPORTS_MAX = 16
CACHE_PATHS_MAX = 8
CACHE_FILES_MAX = 8
HOME_PREFIX = "$HOME/"
IMAGE_CHARACTERS_MAX = 255
NAME_CHARACTERS_MAX = 64
VALUE_CHARACTERS_MAX = 4096
PATTERN_CHARACTERS_MAX = 255
PATH_CHARACTERS_MAX = 255
# as in `ci.case_results`
CASE_CHARACTERS_MAX = 512
REASON_CHARACTERS_MAX = 200
CPUS_MIN = 0.01
# they say what is built, so nobody may say something else
OWN_VARIABLES = "PBFTCI_"

# Docker's reference grammar: [host[:port]/]path[:tag][@digest]
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = (
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
)
_IMAGE = re.compile(
    rf"(?:{_HOST}(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_SERVICE_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
# They mean something in every container.
_RESERVED_NAMES = ("localhost", "ip6-localhost", "ip6-loopback", "pbft-ci")
_FOLDER = re.compile(r"(?:/[A-Za-z0-9._+-]+)+")
# What an engine puts there itself, or needs for programs to run.
_RESERVED_FOLDERS = ("/proc", "/sys", "/dev", "/etc", "/tmp")  # noqa: S108 (in a container)
_STEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Fewer characters than ci.artifact_rules allows: nothing that a shell or a URL would have to quote.
_PATH = re.compile(r"[A-Za-z0-9._+@=~,:*?-]+(?:/[A-Za-z0-9._+@=~,:*?-]+)*")
# not `date.fromisoformat` alone: it knows more forms in newer versions of Python
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_SIZE = re.compile(r"([1-9][0-9]{0,15}) ?(KiB|MiB|GiB)")
# not str.isprintable: its table of Unicode differs between versions of Python
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_UNIT_BYTES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SHOWN_CHARACTERS_MAX = 60
# a file may have 20,000 wrong keys; each costs a search for the nearest one
PROBLEMS_MAX = 20

Path = tuple[str | int, ...]
_Value = TypeVar("_Value")
_Other = TypeVar("_Other")


class WrongValue(ValueError):
    """What is wrong at a place of the file. path None: no line is to blame."""

    def __init__(
        self, problem: str, path: Path | None, key: str | None, *, nearest: str | None = None
    ) -> None:
        super().__init__(problem)
        self.path = path
        self.key = key
        self.nearest = nearest


class TooManyProblems(Exception):
    """There are PROBLEMS_MAX; more are not looked for."""


class Place:
    """A value and the way to it, so that an error can name the line and the key."""

    def __init__(
        self, value: object, path: Path = (), problems: list[WrongValue] | None = None
    ) -> None:
        """problems: what is wrong in the whole file; added to."""
        self.value = value
        self.path = path
        self.problems: list[WrongValue] = [] if problems is None else problems

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def at(self, key: str) -> "Place":
        """What is behind a key that is there."""
        assert isinstance(self.value, dict), "looked at only where the keys were checked"
        return Place(self.value[key], (*self.path, key), self.problems)

    def read(
        self, key: str, read: "Callable[[Place], _Value]", otherwise: _Other
    ) -> _Value | _Other:
        """What is behind a key; `otherwise` if it is not there, or is wrong, which is noted.

        Raises TooManyProblems.
        """
        if key not in self:
            return otherwise
        try:
            return read(self.at(key))
        except WrongValue as wrong:
            self.note(wrong)
            return otherwise

    def note(self, wrong: WrongValue) -> None:
        """Add to what is wrong. Raises TooManyProblems."""
        self.problems.append(wrong)
        if len(self.problems) == PROBLEMS_MAX:
            raise TooManyProblems

    def wrong(self, problem: str) -> WrongValue:
        """The error that blames this value, under the nearest key above it."""
        keys = [part for part in self.path if isinstance(part, str)]
        return WrongValue(problem, self.path, keys[-1] if keys else None)

    def items(self, count_max: int, what: str, *, inner: str | None = None) -> "list[Place]":
        """The entries of a list that must not be empty. Raises WrongValue.

        inner: a key that each entry has beside its name, if they have names.
        """
        if not isinstance(self.value, list) or not 1 <= len(self.value) <= count_max:
            hint = "" if inner is None else entries_advice(self.value, inner)
            raise self.wrong(f"must be a list of 1 to {count_max} {what}{hint}")
        return [
            Place(entry, (*self.path, index), self.problems)
            for index, entry in enumerate(self.value)
        ]

    def one_or_more(self, count_max: int, what: str) -> "list[Place]":
        """The entries of a list, or the one value that stands there alone. Raises WrongValue."""
        return [self] if isinstance(self.value, str) else self.items(count_max, what)

    def entries(self) -> "Iterator[tuple[str, Place]]":
        """The keys of a mapping with what is behind them."""
        assert isinstance(self.value, dict), "checked by the caller"
        for key in self.value:
            yield key, self.at(key)


def check_keys(
    place: Place, known: Sequence[str], where: str, *, expected: str, needed: Sequence[str] = ()
) -> None:
    """Note each key that is not known, and each needed one that is not there.

    Raises WrongValue if this is no mapping, TooManyProblems.
    """
    if not isinstance(place.value, dict):
        raise place.wrong(f"must be {expected}")
    meant: set[str | None] = set()
    for key in place.value:
        if key in known:
            continue
        shown, path = _shown(key), (*place.path, key)
        if told := advice(where, key, place.value[key]):
            place.note(WrongValue(f"is not there; {told}", path, shown))
            continue
        near = difflib.get_close_matches(key, known, n=1)
        nearest = near[0] if near else None
        meant.add(nearest)
        problem = f"is not known; the keys of {where} are {', '.join(known)}"
        place.note(WrongValue(problem, path, shown, nearest=nearest))
    for key in needed:
        if key not in place and key not in meant:
            where = f" in {where}" if place.path else ""
            place.note(WrongValue(f"is missing{where}", place.path or None, key))


def is_image_name(text: str) -> bool:
    """Whether this follows Docker's grammar for a reference to an image."""
    return len(text) <= IMAGE_CHARACTERS_MAX and _IMAGE.fullmatch(text) is not None


def read_image(place: Place) -> str:
    """The name of an image. Raises WrongValue and TooManyProblems, as all of these do."""
    if isinstance(place.value, str) and is_image_name(place.value):
        return place.value
    raise place.wrong("must be the name of an image, such as busybox:1.36 or name@sha256:<digest>")


def read_commands(place: Place) -> tuple[str, ...]:
    """A list of commands for a shell."""
    commands: list[str] = []
    for number, entry in enumerate(place.items(COMMANDS_MAX, "commands"), 1):
        command = entry.value
        if not isinstance(command, str) or not command.strip() or not _is_passable(command):
            entry.note(entry.wrong(f"command {number} must be text; put it in quotes"))
            continue
        commands.append(command)
    return tuple(commands)


def read_environment(place: Place) -> dict[str, str]:
    """Variables and their values; a number is text only in quotes, so that 010 stays 010."""
    if not isinstance(place.value, dict) or len(place.value) > VARIABLES_MAX:
        raise place.wrong(f"must be a mapping of at most {VARIABLES_MAX} names to texts")
    found: dict[str, str] = {}
    for name, entry in place.entries():
        if len(name) > NAME_CHARACTERS_MAX or _VARIABLE.fullmatch(name) is None:
            problem = (
                f"must be the name of a variable: up to {NAME_CHARACTERS_MAX} letters, digits"
                " and '_', no digit first"
            )
            entry.note(WrongValue(problem, entry.path, _shown(name)))
            continue
        if name.startswith(OWN_VARIABLES):
            problem = f"is not yours to set: {OWN_VARIABLES}... say what is built"
            entry.note(WrongValue(problem, entry.path, name))
            continue
        value = entry.value
        if (
            not isinstance(value, str)
            or len(value) > VALUE_CHARACTERS_MAX
            or not _is_passable(value)
        ):
            problem = secret_advice(value) or (
                f"must be text of at most {VALUE_CHARACTERS_MAX} characters; put it in quotes"
            )
            entry.note(WrongValue(problem, entry.path, name))
            continue
        found[name] = value
    return found


def read_step_name(place: Place) -> str:
    """What a step is called."""
    name = place.value
    if (
        isinstance(name, str)
        and len(name) <= NAME_CHARACTERS_MAX
        and _STEP_NAME.fullmatch(name) is not None
    ):
        return name
    raise place.wrong(
        f"must be up to {NAME_CHARACTERS_MAX} of: letters, digits, '-', '_', '.'; the first one a"
        " letter or a digit"
    )


def read_service_name(place: Place) -> str:
    """What a service is called, which is its host name."""
    name = place.value
    if not isinstance(name, str) or _SERVICE_NAME.fullmatch(name) is None:
        raise place.wrong(
            "must be up to 31 of: small letters, digits, '-'; the first one a letter (it is the"
            " service's host name)"
        )
    if name in _RESERVED_NAMES:
        raise place.wrong("must be another one: this name means the build itself")
    return name


def read_arguments(place: Place) -> tuple[str, ...]:
    """A program's arguments, or a program and its arguments."""
    entries = place.items(ARGUMENTS_MAX, "texts: a program and its arguments, without a shell")
    for number, entry in enumerate(entries, 1):
        text = entry.value
        if not isinstance(text, str) or len(text) > VALUE_CHARACTERS_MAX or not _is_passable(text):
            problem = (
                f"entry {number} must be text of at most {VALUE_CHARACTERS_MAX} characters; put it"
                " in quotes"
            )
            entry.note(entry.wrong(problem))
    return tuple(str(entry.value) for entry in entries)


def read_folders(place: Place) -> tuple[str, ...]:
    """Absolute paths of folders in a container, sorted."""
    paths: set[str] = set()
    for entry in place.items(FOLDERS_MAX, "absolute paths of folders"):
        path = entry.value
        if (
            not isinstance(path, str)
            or len(path) > PATH_CHARACTERS_MAX
            or _FOLDER.fullmatch(path) is None
            or not {".", ".."}.isdisjoint(path.split("/"))
            or any(path == held or path.startswith(f"{held}/") for held in _RESERVED_FOLDERS)
        ):
            problem = (
                f"must be an absolute path of at most {PATH_CHARACTERS_MAX} letters, digits and"
                f" ._+-/ such as /run/mysqld, and not in {', '.join(_RESERVED_FOLDERS)}"
            )
            entry.note(entry.wrong(problem))
        elif path in paths:
            entry.note(entry.wrong("is there twice"))
        else:
            paths.add(path)
    return tuple(sorted(paths))


def read_cached_paths(place: Place) -> tuple[tuple[bool, str], ...]:
    """Paths below $HOME or in the workspace: whether it is below $HOME, and the rest; sorted."""
    paths: set[tuple[bool, str]] = set()
    for entry in place.items(CACHE_PATHS_MAX, "paths, such as $HOME/.npm or node_modules"):
        text = entry.value if isinstance(entry.value, str) else ""
        is_at_home = text.startswith(HOME_PREFIX)
        path = text.removeprefix(HOME_PREFIX)
        if not is_plain_path(path):
            problem = (
                f"must be a path below $HOME or in the workspace, such as {HOME_PREFIX}.npm or"
                f" node_modules: at most {PATH_CHARACTERS_MAX} letters, digits and ._+@=~,:-/"
            )
            entry.note(entry.wrong(problem))
        elif any(
            is_at_home is there and is_inside_or_around(path, other) for there, other in paths
        ):
            entry.note(entry.wrong("is there twice, or one is inside the other"))
        else:
            paths.add((is_at_home, path))
    return tuple(sorted(paths))


def is_inside_or_around(one: str, other: str) -> bool:
    """Whether these paths are equal, or one is inside the other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def read_plain_files(place: Place) -> tuple[str, ...]:
    """Names of files of the commit, sorted."""
    names: set[str] = set()
    for entry in place.items(CACHE_FILES_MAX, "names of files of the commit"):
        if not isinstance(entry.value, str) or not is_plain_path(entry.value):
            problem = (
                "must be the name of a file of the commit, such as requirements.txt, without *"
            )
            entry.note(entry.wrong(problem))
        elif entry.value in names:
            entry.note(entry.wrong("is there twice"))
        else:
            names.add(entry.value)
    return tuple(sorted(names))


def is_plain_path(text: str) -> bool:
    """Whether this is a relative path of plain names: no `..`, no `.git`, nothing that stands for
    more."""
    return (
        len(text) <= PATH_CHARACTERS_MAX
        and _PATH.fullmatch(text) is not None
        and not any(character in text for character in "*?")
        and not any(part in (".", "..", ".git") for part in text.split("/"))
    )


def read_flag(place: Place) -> bool:
    """true or false."""
    if isinstance(place.value, bool):
        return place.value
    raise place.wrong("must be true or false")


def read_network(place: Place) -> bool | tuple[str, ...]:
    """Whether there is a network; or the patterns for the hosts that there are, sorted."""
    if isinstance(place.value, bool):
        return place.value
    if not isinstance(place.value, list):
        raise place.wrong("must be true, false, or a list of hosts, such as [pypi.org]")
    hosts: set[str] = set()
    for entry in place.items(HOSTS_MAX, "hosts, such as pypi.org; for none write false"):
        host = entry.value
        if not isinstance(host, str) or host == EVERY_HOST or not is_host_pattern(host):
            problem = (
                "must be a host's full name in small letters (xn--... if it has others), such as"
                ' packages.example.org, "*.example.org" for all below it, or'
                ' "packages.example.org:8443"; no address, no URL'
            )
            entry.note(entry.wrong(problem))
        elif host in hosts:
            entry.note(entry.wrong("is there twice"))
        else:
            hosts.add(host)
    return tuple(sorted(hosts))


def read_number(place: Place, least: int, most: int, *, of_what: str) -> int:
    """A whole number; true is none, though Python takes it for 1."""
    value = place.value
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise place.wrong(f"must be a whole number{of_what} from {least} to {most}")


def read_cpus(place: Place, most: float) -> float:
    """How many processors, perhaps parts of one."""
    value = place.value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # nan is in no range
    if is_number and CPUS_MIN <= value <= most:  # type: ignore[operator]  # it is a number
        return float(value)  # type: ignore[arg-type]
    raise place.wrong(f"must be a number from {CPUS_MIN:g} to {most:g}")


def read_memory(place: Place, least: int, most: int) -> int:
    """A size: a whole number of bytes, or text such as "512 MiB". KB and MB have two meanings."""
    value = place.value
    if isinstance(value, str):
        found = _SIZE.fullmatch(value)
        value = None if found is None else int(found[1]) * _UNIT_BYTES[found[2]]
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise place.wrong(
        f'must be a size from "{least // 2**20} MiB" to "{most // 2**20} MiB" (KiB, MiB or GiB), or'
        " a whole number of bytes"
    )


def read_date(place: Place) -> date:
    """A day, such as 2026-12-31."""
    if isinstance(place.value, str) and _DATE.fullmatch(place.value):
        with suppress(ValueError):
            return date.fromisoformat(place.value)
    raise place.wrong("must be a day, such as 2026-12-31")


def read_line(place: Place, what: str, characters_max: int) -> str:
    """A line of text for people. what: it is, for the error."""
    text = place.value
    if (
        isinstance(text, str)
        and len(text) <= characters_max
        and text.strip()
        and not _CONTROL.search(text.replace(" ", ""))
        and _is_passable(text)
    ):
        return text
    raise place.wrong(f"must be {what}: one line of 1 to {characters_max} characters, in quotes")


def read_choice(place: Place, choices: Sequence[str]) -> str:
    """One of a few words."""
    if isinstance(place.value, str) and place.value in choices:
        return place.value
    raise place.wrong(f"must be {' or '.join(choices)}")


def read_patterns(place: Place, of: str = "a branch") -> tuple[str, ...]:
    """Globs for names. of: what has the names."""
    entries = place.one_or_more(PATTERNS_MAX, f"names of {of}, with * where anything may be")
    for entry in entries:
        if (
            not isinstance(entry.value, str)
            or not 1 <= len(entry.value) <= PATTERN_CHARACTERS_MAX
            or _CONTROL.search(entry.value)
            or not _is_passable(entry.value)
        ):
            problem = (
                f"must be the name of {of}, at most {PATTERN_CHARACTERS_MAX} characters, no blanks"
            )
            entry.note(entry.wrong(problem))
    return tuple(str(entry.value) for entry in entries)


def read_path_patterns(place: Place) -> tuple[str, ...]:
    """Globs for paths of files in the repository."""
    entries = place.one_or_more(PATTERNS_MAX, "globs for paths, from the top of the repository")
    for entry in entries:
        path = entry.value
        if (
            not isinstance(path, str)
            or len(path) > PATH_CHARACTERS_MAX
            or _PATH.fullmatch(path) is None
            or not {".", ".."}.isdisjoint(path.split("/"))
        ):
            problem = (
                f"must be a path from the top of the repository of at most {PATH_CHARACTERS_MAX}"
                " letters, digits and ._+@=~,:-/*? such as docs/** or **/*.sh; ? stands for a"
                " character that is none of these, and a folder alone means none of its files"
            )
            entry.note(entry.wrong(problem))
    return tuple(str(entry.value) for entry in entries)


def read_paths(place: Place, count_max: int) -> tuple[str, ...]:
    """Paths of files and folders, sorted; `*` and `?` stand for what is between two slashes."""
    paths: set[str] = set()
    for entry in place.items(count_max, "paths of files or folders in the workspace"):
        path = entry.value
        if (
            not isinstance(path, str)
            or len(path) > PATH_CHARACTERS_MAX
            or _PATH.fullmatch(path) is None
            or not {".", ".."}.isdisjoint(path.split("/"))
            or "**" in path
        ):
            problem = (
                f"must be a path in the workspace of at most {PATH_CHARACTERS_MAX} letters, digits"
                " and ._+@=~,:-/*? such as dist/app.tar.gz or dist/*.whl, without '.' and '..'"
                " between slashes; a folder stands for all files below it, and ** is not known"
            )
            entry.note(entry.wrong(problem))
        elif path in paths:
            entry.note(entry.wrong("is there twice"))
        else:
            paths.add(path)
    return tuple(sorted(paths))


def _is_passable(text: str) -> bool:
    """Whether a program can be given this as an argument: no NUL, nothing that is not UTF-8."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _shown(key: str) -> str:
    """A stranger's key, for an error of one line."""
    return key.encode("unicode_escape").decode("ascii")[:_SHOWN_CHARACTERS_MAX]
