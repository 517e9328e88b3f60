"""The commands with which operators bring a cluster up: init, assemble, fingerprint, confirm.

The node's, the gateway's and the command line's programs add the ones that are theirs.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.address import Address
from common.configuration.config import ClientConfig, ConfigError, NodeConfig, read_signing_key
from common.configuration.passphrase import new_passphrase
from common.installation import EXAMPLE_CONFIG
from common.membership.assembly import assemble, rules_of, write_cluster_file
from common.membership.confirmation import check_told, confirm, description, read_cluster
from common.membership.entry import Kind, read_entry
from common.membership.new_member import (
    CLUSTER_FILE,
    Made,
    NewMember,
    Service,
    make_operator,
    make_service,
)

EXIT_DONE = 0
EXIT_NOT_CONFIRMED = 1

Commands = Any  # argparse keeps the type of add_subparsers to itself
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def add_init(commands: Commands, kind: Kind, example_listen: str) -> None:
    """Add `init`, which makes a node or a gateway."""
    parser = commands.add_parser(
        "init",
        help=f"make a {kind}'s key, configuration and public entry",
        description=f"Make what a new {kind} needs: its private key, a commented configuration,"
        " and the public entry that its operator gives to the others. No file is overwritten.",
    )
    _member_flags(parser)
    parser.add_argument(
        "--listen",
        type=_address,
        required=True,
        metavar="HOST:PORT",
        help=f"where it listens, as {example_listen}",
    )
    if kind == "replica":
        parser.add_argument(
            "--address",
            type=_address,
            metavar="HOST:PORT",
            help="where the other members reach it (default: the same)",
        )
    parser.add_argument(
        "--data-folder",
        type=Path,
        metavar="FOLDER",
        help="where it is to keep its data and log, as a service in /var/lib/pbft-ci (default: in"
        " --folder)",
    )
    parser.add_argument(
        "--repository",
        action="append",
        required=True,
        metavar="URL",
        help="a repository that it may build; give the flag once for each",
    )
    parser.set_defaults(run=lambda options: _init(options, kind))


def add_operator(commands: Commands) -> None:
    """Add `operator init`, which makes a person's key."""
    parser = commands.add_parser("operator", help="make an operator's key and public entry")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser(
        "init",
        help="make an operator's key and public entry",
        description="Make a key with which a person approves and cancels builds, and approves"
        " changed limits, and the public entry for the others. Keep the key off the machines of"
        " nodes and gateways.",
    )
    _member_flags(init)
    init.add_argument(
        "--replica",
        action="append",
        type=_name,
        default=[],
        metavar="NAME",
        help="a replica that the operator stands for when limits are changed; give the flag once"
        " for each",
    )
    init.set_defaults(run=_operator)


def add_cluster(commands: Commands) -> None:
    """Add `cluster assemble` and `cluster fingerprint`."""
    parser = commands.add_parser("cluster", help="make a cluster file from entries, or show one")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    assembly = actions.add_parser(
        "assemble",
        help="write the cluster file with the members of these entries",
        description="Check the entries and write the cluster file. The same entries and rules give"
        " the same file, so each operator can assemble it alone.",
    )
    assembly.add_argument("entries", nargs="+", type=Path, metavar="ENTRY")
    assembly.add_argument("--output", type=Path, default=Path(CLUSTER_FILE), metavar="FILE")
    assembly.add_argument(
        "--rules",
        type=Path,
        default=EXAMPLE_CONFIG / CLUSTER_FILE,
        metavar="FILE",
        help="a cluster file to take limits and intervals from (default: the example's)",
    )
    assembly.set_defaults(run=_assemble)
    fingerprint = actions.add_parser(
        "fingerprint", help="show a cluster's members, limits and fingerprint"
    )
    fingerprint.add_argument("file", nargs="?", type=Path, default=Path(CLUSTER_FILE))
    fingerprint.set_defaults(run=_fingerprint)


def add_confirm(
    commands: Commands, load: Callable[[Path], NodeConfig | ClientConfig], default: Path
) -> None:
    """Add `confirm`, which keeps that the operator compared the fingerprint."""
    parser = commands.add_parser(
        "confirm",
        help="confirm the cluster that this member is to take part in",
        description="Show the cluster, and note in the configuration that its operator compared"
        " the fingerprint with the other operators.",
    )
    parser.add_argument(
        "told",
        nargs="*",
        metavar="FINGERPRINT",
        help="what another operator read out, in words or digits (default: ask)",
    )
    # the program's own --config may stand before the command, too
    parser.add_argument("--config", type=Path, default=argparse.SUPPRESS, metavar="FILE")
    parser.set_defaults(
        run=lambda options: _confirm(load(options.config or default), " ".join(options.told))
    )


def _member_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", type=_name, required=True, help="the member's name")
    parser.add_argument(
        "--folder", type=Path, default=Path(), metavar="FOLDER", help="where to write (default: .)"
    )
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="encrypt the private key with this passphrase (default: ask, if there is a terminal)",
    )


def _init(options: argparse.Namespace, kind: Kind) -> int:
    member = _member(options, kind)
    address: Address = getattr(options, "address", None) or options.listen
    data_folder = options.data_folder and options.data_folder.absolute()
    service = Service(
        options.listen,
        address,
        tuple(options.repository),
        options.passphrase_file,
        data_folder,
    )
    made = make_service(member, service)
    assert made.config_file is not None, "a service has a configuration"
    print(f"{made.config_file}: read it through; each key is explained there")
    for file in made.webhook_secret_files:
        print(f"{file}: give this secret to the repository's forge, and to nobody else")
    _print_made(made)
    return EXIT_DONE


def _operator(options: argparse.Namespace) -> int:
    _print_made(make_operator(_member(options, "operator")))
    return EXIT_DONE


def _member(options: argparse.Namespace, kind: Kind) -> NewMember:
    passphrase = new_passphrase(options.passphrase_file)
    operates = tuple(getattr(options, "replica", ()))
    return NewMember(kind, options.name, options.folder.absolute(), passphrase, operates)


def _print_made(made: Made) -> None:
    print(f"{made.private_key_file}: the private key; keep a copy where nobody else can read it")
    print(f"{made.entry_file}: the public entry; give it to the other operators")


def _assemble(options: argparse.Namespace) -> int:
    entries = [(file, read_entry(file)) for file in options.entries]
    text = assemble(entries, rules_of(options.rules))
    write_cluster_file(options.output, text)
    print(f"{options.output}: written")
    print(description(*read_cluster(options.output)))
    return EXIT_DONE


def _fingerprint(options: argparse.Namespace) -> int:
    print(description(*read_cluster(options.file)))
    return EXIT_DONE


def _confirm(config: NodeConfig | ClientConfig, told: str) -> int:
    cluster_config, cluster = read_cluster(config.cluster_file)
    if read_signing_key(config).public_key != cluster.public_key(config.name):
        raise ConfigError.at(
            config.file,
            "private_key_file",
            f"{config.private_key_file} is not the key of {config.name} in {config.cluster_file}",
            "assemble the cluster from this member's own entry",
        )
    if told:
        check_told(told, cluster, config.cluster_file)
    else:
        print(description(cluster_config, cluster, config.name))
        if not sys.stdin.isatty():
            raise ConfigError("no terminal to ask; give the fingerprint that another operator read")
        question = "\nDo all other operators have these members, limits and words? [yes/no] "
        if input(question).strip().lower() != "yes":
            print("not confirmed; the configuration is as it was")
            return EXIT_NOT_CONFIRMED
    confirm(config, cluster.id)
    print(f"{config.file}: the cluster is confirmed")
    return EXIT_DONE


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"'{text}': up to 64 letters, digits, '-', '_' and '.', the first a letter or digit"
        )
    return text
