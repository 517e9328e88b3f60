"""The gateway as a program: its configuration with the flags over it, its log, and its loop."""

import argparse
import os
import sys

import msgspec
import uvloop

from client.serve import AddressInUse, serve
from client.storage.database import StorageFailed
from common.address import Address
from common.configuration.config import ClientConfig, ConfigError, load_client_config
from common.configuration.reload import ignore_reloads
from common.configuration.secret_file import PRIVATE_UMASK
from common.logs import start_logging
from common.membership.epochs import in_present_epoch
from common.version import VERSION

EXIT_CANNOT_SERVE = 3


def run_gateway(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises ConfigError."""
    ignore_reloads()
    config = _present(options)
    for flag in ("pbftHost", "pbftPort"):
        if getattr(options, flag) is not None:
            print(
                f"--{flag} is ignored: replies come back over the gateway's own links",
                file=sys.stderr,
            )
    os.umask(PRIVATE_UMASK)
    start_logging(config.log_file, config.name, config.log_format)
    try:
        uvloop.run(serve(config, VERSION, lambda: _present(options)))
    except (AddressInUse, StorageFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CANNOT_SERVE
    return 0


def _present(options: argparse.Namespace) -> ClientConfig:
    """The configuration, with the flags over it, in the epoch that it is in. Raises ConfigError."""
    return in_present_epoch(_overridden(load_client_config(options.config), options))


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
