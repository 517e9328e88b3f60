"""The command `doctor` of a node's and of a gateway's program.

The rule: it works where the program does not. A part that cannot be collected says why, and the
others are there. What leaves the machine is without secrets: if it cannot be known what they are,
what they may be in stays here.
"""

import argparse
import asyncio
import datetime
import io
import tarfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from common.checks.command import Check
from common.config_error import ConfigError
from common.configuration.config import ClientConfig, NodeConfig
from common.doctor.redaction import CannotRead, Redactor
from common.doctor.report import Part, check_table, configuration, last_lines, sizes, versions
from common.new_file import new_file

REPORT_MODE = 0o600
# Of one part; those that may be longer are cut where they are read.
PART_CHARACTERS_MAX = 8 * 1024 * 1024
CHECK_SECONDS_MAX = 120.0

Config = TypeVar("Config", NodeConfig, ClientConfig)
Commands = Any  # argparse keeps the type of add_subparsers to itself


class Examined(NamedTuple, Generic[Config]):
    """How a program is looked at."""

    # what people call it: node, gateway
    kind: str
    # the configuration, unless --config names one
    default: Path
    # reads it; raises ConfigError
    load: Callable[[Path], Config]
    # what the command `check` does
    check: Check
    # what it has beside what both programs have
    parts: Callable[[Config], list[Part]]


def add_doctor(commands: Commands, program: Examined[Any]) -> None:
    """Add `doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="collect what a bug report needs, without secrets",
        description="Collect versions, configuration, the table of `check`, status, metrics, sizes"
        " and the end of the log in one archive, which only its owner can read. Secrets that the"
        " configuration names are taken out, and what looks like one. Read it before you send it:"
        " names, addresses and what programs logged are in it.",
    )
    parser.add_argument("--config", type=Path, default=argparse.SUPPRESS, metavar="FILE")
    parser.add_argument(
        "--output", type=Path, default=Path(), metavar="FILE|FOLDER", help="default: this folder"
    )
    parser.set_defaults(run=lambda options: _doctor(program, options))


def _doctor(program: Examined[Any], options: argparse.Namespace) -> int:
    file = getattr(options, "config", None) or program.default
    now = datetime.datetime.now(datetime.UTC)
    output = options.output
    if output.is_dir():
        name = f"pbft-ci-{program.kind}-doctor-{now.strftime('%Y%m%dT%H%M%SZ')}.tar.gz"
        output = output / name
    redactor, parts = _examine(program, file)
    collected = {}
    for part in parts:
        text = redactor.clean(_collect(part))
        if len(text) > PART_CHARACTERS_MAX:
            text = f"{text[:PART_CHARACTERS_MAX]}\n(cut here)\n"
        collected[part.name] = text.encode(errors="backslashreplace")
    _write(output, collected, now)
    for name, data in collected.items():
        print(f"{len(data):>9} bytes  {name}")
    print(f"{output}: read it before you send it; names and addresses are in it")
    return 0


def _examine(program: Examined[Any], file: Path) -> tuple[Redactor, list[Part]]:
    """What is to be collected, and what takes the secrets out of it."""
    parts = [Part("versions.txt", versions)]
    try:
        config = program.load(file)
    except ConfigError as error:
        why = f"{error}\n"
        return Redactor(), [*parts, Part("configuration.txt", lambda: why)]
    try:
        redactor = Redactor.of(config)
    except CannotRead as error:
        left_out = f"left out, with the log and all that the {program.kind} says: {error}\n"
        parts.append(Part("configuration.json", lambda: configuration(config)))
        return Redactor(), [*parts, Part("left-out.txt", lambda: left_out)]
    return redactor, [
        *parts,
        Part("configuration.json", lambda: configuration(config)),
        Part("check.txt", lambda: _check(program.check(file))),
        Part("sizes.txt", lambda: sizes(config.data_directory)),
        *program.parts(config),
        Part("log.txt", lambda: last_lines(config.log_file)),
    ]


async def _check(check: Coroutine[Any, Any, list[Any]]) -> str:
    async with asyncio.timeout(CHECK_SECONDS_MAX):
        return check_table(await check)


def _collect(part: Part) -> str:
    try:
        text = part.collect()
        return text if isinstance(text, str) else asyncio.run(text)
    except Exception as error:  # noqa: BLE001 - whatever is wrong here is what is reported
        return f"cannot be collected: {type(error).__name__}: {error}\n"


def _write(output: Path, collected: dict[str, bytes], now: datetime.datetime) -> None:
    """Raises ConfigError."""
    folder = output.name.removesuffix(".tar.gz")
    with (
        new_file(output, REPORT_MODE) as stream,
        tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in collected.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size, info.mode, info.mtime = len(data), REPORT_MODE, int(now.timestamp())
            archive.addfile(info, io.BytesIO(data))
