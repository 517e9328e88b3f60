"""A cluster file made from the entries of its members: the same entries give the same bytes.

So each operator assembles the file alone and compares its fingerprint with the others', and nobody
has to be trusted with writing it.
"""

from collections.abc import Sequence
from pathlib import Path

import yaml

from common.config_error import ConfigError
from common.configuration.config import GATEWAY_ROLE, OPERATOR_ROLE, load_cluster_config
from common.english import counted
from common.membership.entry import Entry
from common.new_file import write_new_file
from pbft.quorums import UnsupportedSize, quorums_for

_ROLES = {"gateway": GATEWAY_ROLE, "operator": OPERATOR_ROLE}
# Where the rules begin in a cluster file: what is above it lists the members.
RULES_MARK = "# How many ordered operations lie between two checkpoints"
_HEADER = """\
# The members of the cluster, and its rules, assembled from the members' entries. This file is the
# same for all members. Its content (except for addresses) is the genesis: a changed genesis makes
# another cluster, with another fingerprint.

# The replicas, by name. The order numbers them from 0, and replica 0 is the first primary.
"""
_TLS = """
# Whether the members speak TLS with each other: required as soon as other machines reach a replica,
# else off or required. It is no part of the genesis.
"""
_CLIENTS = """
# Who may send requests. gateway: submit builds. operator: approve builds, cancel any, and approve
# changed limits for the replicas that it operates.
"""


def assemble(entries: Sequence[tuple[Path, Entry]], rules: str) -> str:
    """The text of the cluster file with these members, each with the file that it is from.

    rules: all keys of a cluster file but for the members, as `rules_of` reads them. Raises
    ConfigError: a number of replicas that no cluster has, or two entries with one name, key or
    address. What the rules say is checked by whoever reads the file.
    """
    ordered = sorted(entries, key=lambda pair: pair[1].name)
    for what in ("name", "public_key", "address"):
        _check_distinct(ordered, what)
    replicas = [entry for _, entry in ordered if entry.kind == "replica"]
    try:
        quorums_for(len(replicas))
    except UnsupportedSize as error:
        raise ConfigError(
            f"the entries are of {counted(len(replicas), 'replica')}: {error};"
            " 1, 2, 3, 4, 7, 10 ... are allowed"
        ) from error
    clients = [entry for _, entry in ordered if entry.kind != "replica"]
    listed: dict[str, list[dict[str, object]]] = {
        "replicas": [
            {"name": entry.name, "public_key": entry.public_key, "address": str(entry.address)}
            for entry in replicas
        ],
        "clients": [
            {
                "name": entry.name,
                "public_key": entry.public_key,
                "roles": [_ROLES[entry.kind]],
                **({"operates": list(entry.operates)} if entry.operates else {}),
            }
            for entry in clients
        ],
    }
    is_one_machine = all(entry.address is None or entry.address.is_loopback for entry in replicas)
    parts = [
        _HEADER,
        yaml.safe_dump({"replicas": listed["replicas"]}, sort_keys=False),
        _TLS,
        f"tls: {'off' if is_one_machine else 'required'}\n",
        _CLIENTS,
        yaml.safe_dump({"clients": listed["clients"]}, sort_keys=False),
        "\n",
        rules,
    ]
    return "".join(parts)


def rules_of(file: Path) -> str:
    """What a cluster file says after its members, comments included. Raises ConfigError."""
    load_cluster_config(file)
    text = file.read_text(encoding="utf-8")
    _, mark, rules = text.partition(RULES_MARK)
    if not mark:
        raise ConfigError.at(
            file, "", f"has no line that begins with '{RULES_MARK}'", "keep the comments above it"
        )
    return mark + rules


def write_cluster_file(file: Path, text: str) -> None:
    """Write a new cluster file, if it is a right one. Raises ConfigError; then there is no file."""
    write_new_file(file, text, 0o644)
    try:
        load_cluster_config(file)
    except ConfigError:
        file.unlink()
        raise


def _check_distinct(entries: Sequence[tuple[Path, Entry]], what: str) -> None:
    seen: dict[str, Path] = {}
    for file, entry in entries:
        value = getattr(entry, what)
        if value is None:
            continue
        if str(value) in seen:
            raise ConfigError.at(
                file,
                what,
                f"{value} is also in {seen[str(value)]}",
                "each member has its own",
            )
        seen[str(value)] = file
