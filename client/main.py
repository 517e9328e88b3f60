"""The client as a program: without a command it serves the gateway, with one it asks it.

Installed, the two are programs of their own: `pbft-ci-gateway` and `pbft-ci`. Each command's help
has its exit codes. Little is imported here: a command starts in a fifth of a second of CPU
(`client.command_line`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from client.command_line import COMMANDS, GATEWAY_COMMANDS, VERDICT, add_commands
from client.commands.outcome import EXIT_WRONG, CommandFailed
from common.config_error import ConfigError
from common.installation import CLIENT_CONFIG, shown
from common.logs import FORMATTERS
from common.version import VERSION

EXIT_INTERRUPTED = 130

EPILOGUE = f"{VERDICT}. The help of a command has its own: COMMAND --help."
EPILOGUE_OF_SERVING = """exit codes: 0 stopped, or done; 1 the cluster was not confirmed; 2 wrong
arguments or configuration; 3 cannot serve."""
_SERVING = "Run PBFT/CI's gateway, which receives webhooks and sends requests to the replicas"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m client`; gives its exit code."""
    parser = _parser(
        "python -m client",
        f"{_SERVING}. With a command: ask a running gateway, or the nodes.",
        EPILOGUE,
    )
    _add_serving(parser)
    add_commands(parser, (*COMMANDS, *GATEWAY_COMMANDS))
    return _run(parser.parse_args(arguments))


def gateway_main(arguments: Sequence[str] | None = None) -> int:
    """Run `pbft-ci-gateway`, which serves and makes a new gateway; gives its exit code."""
    parser = _parser(
        "pbft-ci-gateway", f"{_SERVING}. With a command: make one.", EPILOGUE_OF_SERVING
    )
    _add_serving(parser)
    add_commands(parser, GATEWAY_COMMANDS)
    return _run(parser.parse_args(arguments))


def commands_main(arguments: Sequence[str] | None = None) -> int:
    """Run `pbft-ci`, which only has the commands; gives its exit code."""
    return _run(commands_parser().parse_args(arguments))


def commands_parser() -> argparse.ArgumentParser:
    """The command line of `pbft-ci`."""
    parser = _parser("pbft-ci", "Ask a running gateway of PBFT/CI, or the nodes.", EPILOGUE)
    add_commands(parser, COMMANDS, is_required=True)
    return parser


def _run(options: argparse.Namespace) -> int:
    try:
        if options.command is None:
            from client.serving import run_gateway

            return run_gateway(options)
        return int(options.run(options))
    except CommandFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_WRONG
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing must be flushed to it at the end.
        sys.stdout = None
        return 0


def _parser(program: str, description: str, epilogue: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=description, epilog=epilogue)
    parser.add_argument("--version", action="version", version=f"PBFT/CI {VERSION}")
    parser.add_argument(
        "--config",
        type=Path,
        default=CLIENT_CONFIG,
        metavar="FILE",
        help=f"configuration file (default: {shown(CLIENT_CONFIG)})",
    )
    return parser


def _add_serving(parser: argparse.ArgumentParser) -> None:
    serving = parser.add_argument_group("serving (over the configuration file)")
    serving.add_argument("--path", type=Path, metavar="FILE", help="log file")
    serving.add_argument("--log-format", choices=FORMATTERS, help="default: text")
    serving.add_argument("--pkLoc", type=Path, metavar="FILE", help="private key file")
    serving.add_argument("--webHookPort", type=int, metavar="PORT", help="port for webhooks")
    serving.add_argument("--pbftHost", metavar="HOST", help="accepted and ignored")
    serving.add_argument("--pbftPort", metavar="PORT", help="accepted and ignored")
