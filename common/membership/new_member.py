"""What a new member's operator gets: a private key, a configuration to be read, a public entry.

The configuration is the example's, comments included, with the lines of this member in it: so
whoever reads it finds each key explained, and there is one text to keep right.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import yaml

from common.address import Address
from common.config_error import ConfigError
from common.configuration.config import load_client_config, load_node_config
from common.configuration.keys import load_signing_key, new_private_key
from common.installation import EXAMPLE_CONFIG
from common.membership.entry import Entry, Kind, entry_text, new_entry
from common.new_file import FileThere, write_new_file

CLUSTER_FILE = "cluster.yml"
# Of a webhook secret, as `openssl rand -hex 32` makes one.
SECRET_BYTES = 32


class NewMember(msgspec.Struct, frozen=True):
    """Who is to be made, and where its files are to be."""

    kind: Kind
    name: str
    # where all of its files come to be
    folder: Path
    # encrypts the private key
    passphrase: bytes | None = None
    # the replicas that an operator stands for
    operates: tuple[str, ...] = ()


class Service(msgspec.Struct, frozen=True):
    """What a node or a gateway needs beside what every member has."""

    # where it listens
    listen: Address
    # where others reach it; for a replica in the entry, for a gateway nowhere
    address: Address
    # what it is willing to build
    repositories: tuple[str, ...]
    # the file that the process reads its key's passphrase from at each start
    passphrase_file: Path | None = None
    # where the process is to keep what it writes; None: in the member's folder
    data_folder: Path | None = None


class Made(msgspec.Struct, frozen=True):
    """The files that were made."""

    private_key_file: Path
    entry_file: Path
    # none for an operator, who runs no process
    config_file: Path | None = None
    # of a gateway, one for each repository in their order: what its forge is to sign webhooks with
    webhook_secret_files: tuple[Path, ...] = ()


def make_operator(member: NewMember) -> Made:
    """Make an operator's key and entry. Raises ConfigError, FileThere."""
    return _make(member, None)


def make_service(member: NewMember, service: Service) -> Made:
    """Make a node's or a gateway's key, entry and configuration. Raises ConfigError, FileThere."""
    if member.kind == "replica":
        text, config_file = _node_text(member, service), member.folder / "node.yml"
    else:
        text, config_file = _client_text(member, service), member.folder / "client.yml"
    if config_file.exists():
        raise FileThere.at(
            config_file, "", "exists already", "move it away, or choose another folder"
        )
    made = _make(member, service.address if member.kind == "replica" else None)
    write_new_file(config_file, text, 0o600)
    secret_files = []
    if member.kind == "gateway":
        secret_files = [
            member.folder / _secret(number) for number in range(1, len(service.repositories) + 1)
        ]
    try:
        for file in secret_files:
            write_new_file(file, secrets.token_hex(SECRET_BYTES), 0o600)
        (load_node_config if member.kind == "replica" else load_client_config)(config_file)
    except ConfigError:
        # What was asked for makes no right configuration: leave nothing of it.
        for file in (config_file, made.entry_file, made.private_key_file, *secret_files):
            file.unlink(missing_ok=True)
        raise
    return msgspec.structs.replace(
        made, config_file=config_file, webhook_secret_files=tuple(secret_files)
    )


def _make(member: NewMember, address: Address | None) -> Made:
    private_key_file = member.folder / _private_name(member)
    entry_file = member.folder / f"{member.name}.entry.yml"
    if entry_file.exists():
        raise FileThere.at(
            entry_file, "", "exists already", "move it away, or choose another folder"
        )
    new_private_key(private_key_file, member.passphrase)
    key = load_signing_key(private_key_file, member.passphrase)
    entry: Entry = new_entry(
        member.kind, member.name, key, address=address, operates=member.operates
    )
    write_new_file(entry_file, entry_text(entry, key), 0o644)
    return Made(private_key_file, entry_file)


def _private_name(member: NewMember) -> str:
    return f"{member.name}.private.pem"


def _node_text(member: NewMember, service: Service) -> str:
    text = (EXAMPLE_CONFIG / "node0.yml").read_text(encoding="utf-8")
    text = _with_lines(text, {**_lines(member, service), "allow_dockerfile": False})
    return _with_repositories(text, service, lambda number: [])


def _client_text(member: NewMember, service: Service) -> str:
    text = (EXAMPLE_CONFIG / "client.yml").read_text(encoding="utf-8")
    results_file = _data_path(service, "results.jsonl")
    lines = {**_lines(member, service), "results_file": results_file}
    text = _with_lines(text, lines)
    return _with_repositories(
        text, service, lambda number: [f"webhook_secret_file: {_secret(number)}"]
    )


def _lines(member: NewMember, service: Service) -> dict[str, object]:
    lines: dict[str, object] = {
        "cluster_file": CLUSTER_FILE,
        "name": member.name,
        "private_key_file": _private_name(member),
        "listen": str(service.listen),
        "data_directory": _data_path(service, f"{member.name}.data"),
        "log_file": _data_path(service, f"{member.name}.log"),
    }
    if service.passphrase_file is not None:
        lines["private_key_passphrase_file"] = str(service.passphrase_file.absolute())
    return lines


def _data_path(service: Service, name: str) -> str:
    return name if service.data_folder is None else str(service.data_folder / name)


def _with_lines(text: str, lines: Mapping[str, object]) -> str:
    """The text with other values for these keys of its top level, also those in a comment."""
    for key, value in lines.items():
        line = yaml.safe_dump({key: value}, width=2**16, allow_unicode=True).rstrip("\n")
        literal = line.replace("\\", r"\\")
        text, count = re.subn(rf"(?m)^(# )?{key}:.*$", literal, text, count=1)
        assert count == 1, f"the example has no line for {key}"
    return text


def _secret(number: int) -> str:
    return f"webhook-secret-{number}"


def _with_repositories(text: str, service: Service, more: Callable[[int], list[str]]) -> str:
    """The text with these repositories in place of the example's only one, comments kept.

    more: the further lines of the entry of that number, which counts from 1.
    """
    entry = re.compile(r"(?m)^  - url: .*\n((?:    (?:#.*|[a-z_]+:.*)\n)+)")
    match = entry.search(text)
    assert match is not None, "the example lists one repository"
    comments = "".join(
        line if line.lstrip().startswith("#") else f"    # {line.strip()}\n"
        for line in match[1].splitlines(keepends=True)
    )
    listed = "".join(
        f"  - url: {_quoted(url)}\n"
        + "".join(f"    {line}\n" for line in more(number))
        + (comments if number == 1 else "")
        for number, url in enumerate(service.repositories, 1)
    )
    return text[: match.start()] + listed + text[match.end() :]


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, width=2**16, allow_unicode=True).removesuffix("...\n").rstrip("\n")
