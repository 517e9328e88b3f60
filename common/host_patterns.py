"""Patterns for hosts that a build may reach: which hosts each means, and what it covers. Pure.

A pattern is a name (`packages.example.org`), or `*.` and a name: all hosts below that name, however
deep, and not the name itself. `:PORT` behind it means that port alone; without it the pattern means
the ports 80 and 443. `*` means every name; only an operator may write it.
"""

import re
from collections.abc import Iterable

HOSTS_MAX = 32
HOST_CHARACTERS_MAX = 253
# of a pattern without a port
USUAL_PORTS = (80, 443)
EVERY_HOST = "*"

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# Two labels at least: one alone is a name of the machine's own network. A top-level domain begins
# with a letter, and an address of any spelling (127.1, 0x7f.0.0.1) ends with a number.
_HOST = rf"(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?"
_NAME = re.compile(_HOST)
_PATTERN = re.compile(rf"((?:\*\.)?{_HOST}|\*)(?::([1-9][0-9]{{0,4}}))?")
_PORT_MAX = 65_535


def is_host_name(text: str) -> bool:
    """Whether this is the name of a host, in small letters and without a dot at its end."""
    return len(text) <= HOST_CHARACTERS_MAX and _NAME.fullmatch(text) is not None


def is_host_pattern(text: str) -> bool:
    """Whether this is a pattern for hosts."""
    found = _PATTERN.fullmatch(text)
    return (
        found is not None
        and len(found[1]) <= HOST_CHARACTERS_MAX
        and (found[2] is None or int(found[2]) <= _PORT_MAX)
    )


def is_meant(patterns: Iterable[str], host: str, port: int) -> bool:
    """Whether one of the patterns means this port of this host (`is_host_name`)."""
    return any(_covers(pattern, host, port) for pattern in patterns)


def are_covered(patterns: Iterable[str], asked: Iterable[str]) -> bool:
    """Whether all that is asked for, as patterns, is meant by these patterns."""
    patterns = tuple(patterns)
    return all(any(_covers(pattern, *_parts(wanted)) for pattern in patterns) for wanted in asked)


def _covers(pattern: str, name: str, port: int | None) -> bool:
    """name: of a host, or `*.` and a name. port: None for both USUAL_PORTS."""
    own_name, own_port = _parts(pattern)
    is_usual = port is None or port in USUAL_PORTS
    has_port = is_usual if own_port is None else port == own_port
    if own_name == EVERY_HOST:
        return has_port
    if own_name.startswith("*."):
        return has_port and name.endswith(own_name[1:])
    return has_port and name == own_name


def _parts(pattern: str) -> tuple[str, int | None]:
    name, _, port = pattern.partition(":")
    return name, int(port) if port else None
