"""lint: check a pipeline file offline, in the words that the nodes would use."""

import argparse
import sys
from pathlib import Path

import msgspec

from ci.limits import Limits
from client.commands.outcome import EXIT_DONE, EXIT_NOT_PASSED, EXIT_WRONG, CommandFailed
from client.commands.targets import Commands
from common.config import load_cluster_config
from common.logs import escape_controls
from common.pipeline import PIPELINE_BYTES_MAX, PIPELINE_FILE, PipelineInvalid, parse_pipeline


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    parser = commands.add_parser(
        "lint",
        parents=[common],
        help="check a pipeline file, offline",
        description="Exit code 0: valid; 1: not valid, and the line says why; 2: it cannot be"
        " read. Sizes and times are checked against the limits of --cluster, else against the"
        " default ones.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        default=PIPELINE_FILE,
        metavar="FILE",
        help=f"the pipeline file (default: {PIPELINE_FILE}); - reads it from stdin",
    )
    parser.add_argument("--cluster", type=Path, metavar="FILE", help="the network's cluster file")
    parser.set_defaults(run=_lint)


def _lint(options: argparse.Namespace) -> int:
    if options.cluster is None:
        limits = Limits()
    else:
        limits = load_cluster_config(options.cluster).limits_as(Limits)
    name = "stdin" if options.file == "-" else escape_controls(options.file)
    found = parse_pipeline(_read(options.file), limits)
    if isinstance(found, PipelineInvalid):
        print(msgspec.structs.replace(found, file=name).text)
        return EXIT_NOT_PASSED
    steps = ", ".join(step.name for step in found.steps)
    print(f"{name}: valid: image {found.image}; steps {steps}")
    return EXIT_DONE


def _read(file: str) -> bytes:
    """At most as many bytes as a pipeline file may have, and one more, which makes it invalid."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(PIPELINE_BYTES_MAX + 1)
        with Path(file).open("rb") as stream:
            return stream.read(PIPELINE_BYTES_MAX + 1)
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read ({error.strerror})", EXIT_WRONG) from error
