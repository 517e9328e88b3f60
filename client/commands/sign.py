"""sign: an operation as a signed request, for POST /pbft/request at any node.

    python -m client sign '{"operation": "transfer"}' | curl -d @- http://localhost:10000/pbft/request

The network orders the bytes and does nothing with them (`noop`): to see agreement without a build.
"""

import argparse
import base64
import json
import sys
from pathlib import Path

from ci.operations import Noop, encode_operation
from client.commands.gateway_client import run
from client.commands.operator_request import NotAsked, operator_name, used_numbers
from client.commands.outcome import EXIT_DONE, EXIT_WRONG, CommandFailed
from client.commands.targets import Commands, cluster_and_replicas, cluster_flag
from client.network.nodes import Nodes
from common.configuration.config import OPERATOR_ROLE, load_client_config
from common.configuration.passphrase import passphrase_flag, unlock_key
from pbft.authentication import Identity
from pbft.client import make_request
from pbft.codec import encode_signed

TEXT_BYTES_MAX = 16 * 1024
OPERATOR_KEY_NAME = "operator.private.pem"


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    sign = commands.add_parser("sign", parents=[common])
    sign.add_argument("operation", metavar="TEXT", help="the operation; - reads it from stdin")
    sign.add_argument(
        "--operator-key",
        type=Path,
        metavar="FILE",
        help=f"an operator's private key (default: {OPERATOR_KEY_NAME} beside the client's)",
    )
    passphrase_flag(sign)
    cluster_flag(sign)
    sign.set_defaults(run=lambda options: run(_sign(options)))


async def _sign(options: argparse.Namespace) -> int:
    text = sys.stdin.read(TEXT_BYTES_MAX + 1) if options.operation == "-" else options.operation
    data = str(text).encode("utf-8", "replace")
    if len(data) > TEXT_BYTES_MAX:
        raise CommandFailed(f"the operation has more than {TEXT_BYTES_MAX} bytes", EXIT_WRONG)
    file = options.operator_key
    if file is None:
        client_key = load_client_config(options.config).private_key_file
        file = client_key.with_name(OPERATOR_KEY_NAME)
    key = unlock_key(file, options.passphrase_file)
    cluster, replicas = cluster_and_replicas(options, key)
    try:
        name = operator_name(cluster, key, OPERATOR_ROLE)
        async with Nodes(replicas) as nodes:
            number = await used_numbers(cluster, nodes, name) + 1
    except NotAsked as error:
        raise CommandFailed(str(error)) from error
    signed = make_request(Identity(cluster, name, key.sign), number, encode_operation(Noop(data)))
    print(json.dumps({"signed": base64.standard_b64encode(encode_signed(signed)).decode()}))
    return EXIT_DONE
