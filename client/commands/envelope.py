"""verify: check a verdict's envelope offline, against the cluster's public keys alone."""

import argparse
import sys
from pathlib import Path

from ci.statement import ENVELOPE_BYTES_MAX, InvalidEnvelope, verify_envelope
from client.commands.outcome import EXIT_DONE, EXIT_NOT_PASSED, EXIT_WRONG, PASSED, CommandFailed
from client.commands.targets import Commands, cluster_and_addresses, cluster_flag
from common.keys import verify
from common.logs import escape_controls


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    parser = commands.add_parser(
        "verify",
        parents=[common],
        help="check a downloaded verdict offline",
        description="Exit code 0: signed by f+1 replicas and passed; 1: signed by f+1 replicas "
        "and not passed; 2: proves nothing.",
    )
    parser.add_argument("file", metavar="FILE", help="the envelope; - reads it from stdin")
    cluster_flag(parser)
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    cluster, _ = cluster_and_addresses(options)
    try:
        verified = verify_envelope(_read(options.file), cluster, verify)
    except InvalidEnvelope as error:
        raise CommandFailed(f"{options.file}: not valid: {error}", EXIT_WRONG) from error
    verdict = verified.statement.verdict
    code = "" if verdict.exit_code is None else f" {verdict.exit_code}"
    print(f"valid       signed by {', '.join(verified.replicas)}")
    print(f"verdict     {verdict.outcome}{code}")
    print(f"repository  {escape_controls(verdict.repository)}")
    print(f"branch      {escape_controls(verdict.branch)} (as requested)")
    print(f"commit      {verdict.commit or '-'}")
    print(f"build       {verdict.build}")
    rule = f" ({verdict.agreement} agreement)" if verdict.agreement else ""
    print(f"agreeing    {', '.join(verdict.agreeing) or '-'}{rule}")
    print(f"ledger      entry {verdict.ledger_index}")
    return EXIT_DONE if verdict.outcome == PASSED else EXIT_NOT_PASSED


def _read(file: str) -> bytes:
    """At most as many bytes as an envelope may have, and one more, which makes it invalid."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(ENVELOPE_BYTES_MAX + 1)
        with Path(file).open("rb") as stream:
            return stream.read(ENVELOPE_BYTES_MAX + 1)
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read ({error.strerror})", EXIT_WRONG) from error
