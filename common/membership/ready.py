"""`ready`: a replica of the next epoch signs that it has its key (docs/decisions/0058).

The file that it writes is public: it counts for one configuration, in one epoch.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from ci.member_changes import ready_bytes
from ci.operations import Ready
from common.config_error import ConfigError
from common.configuration.config import MemberName, NodeConfig, read_signing_key
from common.configuration.config_reader import read_file
from common.configuration.passphrase import passphrase_flag, unlock_key
from common.membership.confirmation import read_cluster
from common.new_file import write_new_file

EXIT_DONE = 0

Commands = Any  # argparse keeps the type of add_subparsers to itself


class ReadyFile(msgspec.Struct, frozen=True):
    """A file that says that a replica is ready; the signature in hexadecimal digits."""

    file: Path
    replica: MemberName
    signature: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]


def add_ready(commands: Commands, load: Callable[[Path], NodeConfig], default: Path) -> None:
    """Add `ready`."""
    parser = commands.add_parser(
        "ready",
        help="sign that this node is ready for the next members",
        description="Sign, with the node's key, that it is ready to be a replica of NEXT.yml. Give"
        " the file to the operator who proposes these members.",
    )
    parser.add_argument("next", type=Path, metavar="NEXT.yml", help="the next members")
    parser.add_argument(
        "--cluster",
        type=Path,
        metavar="FILE",
        help="the present cluster file, for a node that is no member yet (default: the node's)",
    )
    parser.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="the private key that the replica has in NEXT.yml, if it is a new one (default: the"
        " node's)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: NAME.ready.yml")
    passphrase_flag(parser)
    # the program's own --config may stand before the command, too
    parser.add_argument("--config", type=Path, default=argparse.SUPPRESS, metavar="FILE")
    parser.set_defaults(run=lambda options: _ready(load(options.config or default), options))


def _ready(config: NodeConfig, options: argparse.Namespace) -> int:
    _, cluster = read_cluster(options.cluster or config.cluster_file)
    _, following = read_cluster(options.next)
    if following.configuration == cluster.configuration:
        raise ConfigError.at(
            options.next,
            "",
            "has the members of the present epoch already",
            "give the next members; a node that is no member yet names the present file with"
            " --cluster",
        )
    key = (
        read_signing_key(config)
        if options.key is None
        else unlock_key(options.key, options.passphrase_file)
    )
    if following.public_key(config.name) != key.public_key:
        raise ConfigError.at(
            options.next,
            "replicas",
            f"{config.name} has not the key of {options.key or config.private_key_file} there",
            "a replica of that file with this node's name and key is needed",
        )
    signature = key.sign(ready_bytes(cluster.id, following.configuration))
    file = options.output or Path(f"{config.name}.ready.yml")
    text = yaml.safe_dump({"replica": config.name, "signature": signature.hex()}, sort_keys=False)
    write_new_file(file, text, 0o644)
    print(f"{file}: {config.name} is ready; give it to the operator who proposes these members")
    return EXIT_DONE


def read_ready(file: Path) -> Ready:
    """What a file of `ready` says; nothing of it is checked. Raises ConfigError."""
    read = read_file(ReadyFile, file)
    return Ready(read.replica, bytes.fromhex(read.signature))
