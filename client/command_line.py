"""The list of the command line's commands. A command's module is imported when the command is used.

The rule: whoever types one command does not pay for the imports of the others. So the list has the
name, the one line of help and the exit codes of each command, and the name of its module.
"""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.installation import CLIENT_CONFIG, shown

# VERDICT: of what waits for one, or shows one. DONE: of all else that asks a gateway or nodes.
VERDICT = (
    "exit codes: 0 passed, or done where no verdict was waited for; 1 failed, cancelled, or any"
    " other outcome; 2 wrong arguments or configuration; 3 no answer, or refused; 4 no verdict yet,"
    " or too late; 5 disputed"
)
DONE = "exit codes: 0 done; 2 wrong arguments or configuration; 3 no answer, or refused; 4 too late"
HOLDS = (
    "exit codes: 0 it holds; 1 it does not; 2 wrong arguments or configuration; 3 no answer, or"
    " refused; 4 too late"
)
OFFLINE = "exit codes: 0 done; 1 not confirmed, or wrong; 2 wrong arguments or files"


class Command(NamedTuple):
    """One command: what the overview says of it, and where it is."""

    name: str
    help: str
    exit_codes: str
    # its `add` adds the command's parser, which sets `run`: from the options to the exit code
    module: str


COMMANDS = (
    Command("submit", "request a build of a branch or a tag", VERDICT, "client.commands.builds"),
    Command("status", "show a build", VERDICT, "client.commands.builds"),
    Command("wait", "wait for a build's verdict", VERDICT, "client.commands.builds"),
    Command(
        "watch",
        "show what each replica does about a build, until the verdict",
        VERDICT,
        "client.commands.builds",
    ),
    Command("open", "open a build's page in the browser", DONE, "client.commands.builds"),
    Command("list", "list the newest builds", DONE, "client.commands.builds"),
    Command(
        "tests",
        "list a build's tests that did not pass everywhere, or a repository's flaky tests",
        DONE,
        "client.commands.cases",
    ),
    Command("cancel", "cancel a build", DONE, "client.commands.changes"),
    Command("rebuild", "build the same commit again", VERDICT, "client.commands.changes"),
    Command(
        "approve",
        "approve a build that waits for approval",
        f"{DONE}; 1 not approved",
        "client.commands.changes",
    ),
    Command(
        "note",
        "write a signed note on a build, or print its notes",
        DONE,
        "client.commands.notes",
    ),
    Command(
        "audit",
        "list who changed what through the gateway",
        DONE,
        "client.commands.notes",
    ),
    Command(
        "artifacts",
        "list a build's agreed artifacts (as sha256sum does), or fetch them",
        VERDICT,
        "client.commands.artifacts",
    ),
    Command(
        "inputs",
        "list what lock files pinned for a build, and what changed since the last green build",
        DONE,
        "client.commands.inputs",
    ),
    Command(
        "log",
        "print a build's log, archived or as far as it is written",
        DONE,
        "client.commands.logs",
    ),
    Command("append", "append strings to the replicated journal", DONE, "client.commands.journal"),
    Command(
        "journal",
        "print the replicated journal and its digest",
        HOLDS,
        "client.commands.journal",
    ),
    Command("ledger", "print a node's ledger", HOLDS, "client.commands.ledger"),
    Command("limits", "show the limits of builds, or change them", HOLDS, "client.commands.limits"),
    Command(
        "members",
        "show or make a change of the cluster's members and keys",
        DONE,
        "client.commands.members",
    ),
    Command("attest", "download a verdict's signed envelope", DONE, "client.commands.envelope"),
    Command(
        "verify",
        "check a downloaded verdict offline",
        "exit codes: 0 valid and passed; 1 valid and not passed; 2 not valid, or wrong arguments",
        "client.commands.envelope",
    ),
    Command(
        "trust",
        "print the public keys for scripts/verify_build.py, or renew a file of them",
        DONE,
        "client.commands.trust",
    ),
    Command(
        "proof",
        "check how a verdict came about: request, order, ballots, verdict, envelope",
        "exit codes: 0 all of it holds; 1 something does not; 2 it cannot be told",
        "client.commands.proof",
    ),
    Command("evidence", "print and check proof of misbehaviour", HOLDS, "client.commands.evidence"),
    Command(
        "lint",
        "check a pipeline file, offline",
        "exit codes: 0 valid; 1 not valid; 2 it cannot be read",
        "client.commands.lint",
    ),
    Command(
        "sign",
        "sign an operation for a node's POST /pbft/request",
        DONE,
        "client.commands.sign",
    ),
    Command(
        "completion",
        "print the completion of pbft-ci for a shell",
        OFFLINE,
        "client.completion",
    ),
    Command(
        "operator",
        "make an operator's key and public entry",
        OFFLINE,
        "client.membership_commands",
    ),
    Command(
        "cluster",
        "make a cluster file from entries, or show one",
        OFFLINE,
        "client.membership_commands",
    ),
)
# What an operator of a gateway does before it serves.
GATEWAY_COMMANDS = (
    Command(
        "notify",
        "send a test message to whom the configuration names",
        OFFLINE,
        "client.notify_command",
    ),
    *(
        Command(name, help_text, OFFLINE, "client.gateway_commands")
        for name, help_text in (
            ("init", "make a gateway's key, configuration and public entry"),
            ("confirm", "confirm the cluster that this member is to take part in"),
            ("check", "show in a table what keeps this gateway from its work"),
            ("healthcheck", "ask the running gateway whether it is ready"),
            ("config", "check the configuration"),
            ("repository", "list, add or remove repositories, without a restart"),
            ("backup", "write what this gateway needs after the loss of its disk into one file"),
            ("restore", "restore this gateway from a backup, after the loss of its disk"),
            ("doctor", "collect what a bug report needs, without secrets"),
        )
    ),
)


class _Parsers:
    """What a module's `add` adds its commands to, as argparse's own object for that."""

    def __init__(self, program: str) -> None:
        self._program = program
        self.found: dict[str, argparse.ArgumentParser] = {}

    def add_parser(self, name: str, **settings: Any) -> argparse.ArgumentParser:
        """A parser for that command; the list has its help."""
        settings.pop("help", None)
        self.found[name] = argparse.ArgumentParser(prog=f"{self._program} {name}", **settings)
        return self.found[name]


class _ListedParser(argparse.ArgumentParser):
    """Stands for the parser of a listed command until that is used."""

    def __init__(self, **settings: Any) -> None:
        self._command: Command = settings.pop("command")
        super().__init__(**settings)

    def load(self) -> argparse.ArgumentParser:
        """Import the command's module; its parser."""
        parsers = _Parsers(self.prog.removesuffix(f" {self._command.name}"))
        importlib.import_module(self._command.module).add(parsers, _common())
        parser = parsers.found[self._command.name]
        if parser.description is None:
            parser.description = f"{self._command.help[0].upper()}{self._command.help[1:]}."
        for each in all_parsers(parser):
            each.epilog = each.epilog or self._command.exit_codes
        return parser

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """What argparse calls once the command is chosen."""
        return self.load().parse_known_args(args, namespace)


def add_commands(
    parser: argparse.ArgumentParser, commands: Sequence[Command], *, is_required: bool = False
) -> None:
    """Add these commands to a program's parser. is_required: it does nothing without one."""
    listed = parser.add_subparsers(
        dest="command",
        metavar="COMMAND",
        title="commands",
        required=is_required,
        parser_class=_ListedParser,
    )
    for command in commands:
        listed.add_parser(command.name, help=command.help, command=command)


def load_all() -> None:
    """Import the modules of all commands."""
    for command in (*COMMANDS, *GATEWAY_COMMANDS):
        importlib.import_module(command.module)


def loaded(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser with all its commands' own parsers, for whoever looks through them."""
    for choices in _choices(parser):
        for name, listed in choices.items():
            if isinstance(listed, _ListedParser):
                choices[name] = listed.load()
    return parser


def _common() -> argparse.ArgumentParser:
    """The flags that each command has."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="FILE",
        help=f"the client's configuration file (default: {shown(CLIENT_CONFIG)})",
    )
    return common


def all_parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser, and those of all commands below it."""
    below = [below for choices in _choices(parser) for below in choices.values()]
    return [parser, *(found for one in below for found in all_parsers(one))]


def _choices(parser: argparse.ArgumentParser) -> list[dict[str, argparse.ArgumentParser]]:
    """The parsers of a parser's commands, by name."""
    # argparse has no public way to them
    subparsers = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [action._name_parser_map for action in subparsers]
