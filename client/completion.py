"""completion: print what makes a shell complete the command line of `pbft-ci`."""

import argparse
import sys
from pathlib import Path
from typing import Any

import shtab

from client.command_line import COMMANDS, add_commands, all_parsers, loaded
from client.commands.outcome import EXIT_DONE

# What an installation's shell completes; a checkout's `python -m client` has no name for it.
PROGRAM = "pbft-ci"
SHELLS = ("bash", "zsh")


def add(commands: Any, common: argparse.ArgumentParser) -> None:  # it reads no configuration
    """Add the command of this module."""
    parser = commands.add_parser(
        "completion",
        description="Print the completion of pbft-ci for a shell. For bash:"
        " pbft-ci completion bash >~/.local/share/bash-completion/completions/pbft-ci."
        " For zsh, in a folder of $fpath: pbft-ci completion zsh >_pbft-ci.",
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> int:
    parser = argparse.ArgumentParser(prog=PROGRAM)
    add_commands(parser, COMMANDS)
    for below in all_parsers(loaded(parser)):
        for action in below._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    sys.stdout.write(shtab.complete(parser, options.shell))
    return EXIT_DONE
