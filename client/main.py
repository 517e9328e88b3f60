"""The client as a program: without a command it serves the gateway, with one it asks it.

Installed, the two are programs of their own: `pbft-ci-gateway` and `pbft-ci`.

Exit codes: 0 done (and passed, where there is a verdict); 1 the verdict is not passed, or what
was checked does not hold; 2 the command line, a configuration, or for `verify` the file is
wrong; 3 the gateway or a node gave no answer, or refused; 4 no verdict yet, or it took too long.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from client.backup import GATEWAY_BACKUP
from client.check import check_gateway
from client.command_line import add_commands
from client.commands.outcome import CommandFailed
from client.doctor import GATEWAY_DOCTOR
from client.serve import AddressInUse, check_whole, serve
from client.storage.database import StorageFailed
from common.address import Address
from common.backups.commands import add_backup
from common.checks.command import add_check
from common.checks.health import READY_PATH, add_healthcheck
from common.configuration.commands import ConfigCommands
from common.configuration.config import ClientConfig, ConfigError, load_client_config
from common.configuration.reload import ignore_reloads
from common.configuration.secret_file import PRIVATE_UMASK
from common.doctor.command import add_doctor
from common.installation import CLIENT_CONFIG, shown
from common.logs import FORMATTERS, start_logging
from common.membership.commands import Commands, add_confirm, add_init
from common.version import VERSION
from common.web.bounded_http import HttpRequest

EXIT_WRONG = 2
EXIT_STORAGE = 3
EXIT_INTERRUPTED = 130

EPILOGUE = """exit codes: 0 done, and passed where there is a verdict; 1 not passed; 2 wrong
arguments or configuration; 3 no answer, or refused; 4 no verdict yet, or too late.
`verify`: 0 valid and passed, 1 valid and not passed, 2 not valid.
`evidence`: 0 all of it holds, 1 some does not."""
EPILOGUE_OF_SERVING = """exit codes: 0 stopped, or done; 1 the cluster was not confirmed; 2 wrong
arguments or configuration; 3 cannot serve."""
GATEWAY_COMMANDS = ConfigCommands(CLIENT_CONFIG, load_client_config, check_whole)
_SERVING = "Run PBFT/CI's gateway, which receives webhooks and sends requests to the replicas"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m client`; gives its exit code."""
    return _run(build_parser().parse_args(arguments))


def gateway_main(arguments: Sequence[str] | None = None) -> int:
    """Run `pbft-ci-gateway`, which serves and makes a new gateway; gives its exit code."""
    parser = _parser(
        "pbft-ci-gateway", f"{_SERVING}. With a command: make one.", EPILOGUE_OF_SERVING
    )
    _add_serving(parser)
    _add_gateway_commands(_subparsers(parser))
    return _run(parser.parse_args(arguments))


def commands_main(arguments: Sequence[str] | None = None) -> int:
    """Run `pbft-ci`, which only has the commands; gives its exit code."""
    parser = _parser("pbft-ci", "Ask a running gateway of PBFT/CI, or the nodes.", EPILOGUE)
    add_commands(_subparsers(parser, is_required=True))
    return _run(parser.parse_args(arguments))


def build_parser() -> argparse.ArgumentParser:
    """The command line of `python -m client`, with the seed's flags."""
    parser = _parser(
        "python -m client",
        f"{_SERVING}. With a command: ask a running gateway, or the nodes.",
        EPILOGUE,
    )
    _add_serving(parser)
    commands = _subparsers(parser)
    add_commands(commands)
    _add_gateway_commands(commands)
    return parser


def _run(options: argparse.Namespace) -> int:
    try:
        if options.command is None:
            return _serve(options)
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


def _subparsers(parser: argparse.ArgumentParser, *, is_required: bool = False) -> Commands:
    return parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", required=is_required
    )


def _add_gateway_commands(commands: Commands) -> None:
    """What an operator of a gateway does before it serves."""
    add_init(commands, "gateway", "127.0.0.1:8080")
    add_confirm(commands, load_client_config, CLIENT_CONFIG)
    add_check(commands, "gateway", check_gateway, default_config=CLIENT_CONFIG)
    add_healthcheck(commands, "gateway", _ready_request, default_config=CLIENT_CONFIG)
    GATEWAY_COMMANDS.add(commands)
    add_backup(commands, GATEWAY_BACKUP)
    add_doctor(commands, GATEWAY_DOCTOR)


def _add_serving(parser: argparse.ArgumentParser) -> None:
    serving = parser.add_argument_group("serving (over the configuration file)")
    serving.add_argument("--path", type=Path, metavar="FILE", help="log file")
    serving.add_argument("--log-format", choices=FORMATTERS, help="default: text")
    serving.add_argument("--pkLoc", type=Path, metavar="FILE", help="private key file")
    serving.add_argument("--webHookPort", type=int, metavar="PORT", help="port for webhooks")
    serving.add_argument("--pbftHost", metavar="HOST", help="accepted and ignored")
    serving.add_argument("--pbftPort", metavar="PORT", help="accepted and ignored")


def _serve(options: argparse.Namespace) -> int:
    ignore_reloads()
    config = _overridden(load_client_config(options.config), options)
    for flag in ("pbftHost", "pbftPort"):
        if getattr(options, flag) is not None:
            print(
                f"--{flag} is ignored: replies come back over the gateway's own links",
                file=sys.stderr,
            )
    os.umask(PRIVATE_UMASK)
    start_logging(config.log_file, config.name, config.log_format)
    try:
        uvloop.run(
            serve(config, VERSION, lambda: _overridden(load_client_config(options.config), options))
        )
    except (AddressInUse, StorageFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_STORAGE
    return 0


def _ready_request(file: Path) -> HttpRequest:
    """What asks the gateway of that configuration whether it is ready. Raises ConfigError."""
    return HttpRequest(url=f"{load_client_config(file).listen.url}{READY_PATH}")


def _overridden(config: ClientConfig, options: argparse.Namespace) -> ClientConfig:
    """The configuration with the flags over it. Raises ConfigError."""
    changes: dict[str, object] = {}
    if options.path is not None:
        changes["log_file"] = options.path.absolute()
    if options.log_format is not None:
        changes["log_format"] = options.log_format
    if options.pkLoc is not None:
        changes["private_key_file"] = options.pkLoc.absolute()
    if options.webHookPort is not None:
        listen = msgspec.structs.replace(config.listen, port=options.webHookPort)
        try:
            changes["listen"] = Address.parse(str(listen))
        except ValueError as error:
            raise ConfigError(f"--webHookPort: {error}; 1 to 65535 are allowed") from error
    return msgspec.structs.replace(config, **changes)
