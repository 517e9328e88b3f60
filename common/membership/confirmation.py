"""What an operator compares with the others, and the line that keeps that they did."""

import re
from pathlib import Path

import msgspec

from ci.limits import Limits, encode_limits
from common.config_error import ConfigError
from common.configuration.config import ClientConfig, ClusterConfig, NodeConfig, load_cluster_config
from common.configuration.keys import public_key_text
from common.english import counted
from common.fingerprint import fingerprint_words, parse_fingerprint
from common.new_file import replace_file
from pbft.genesis import Cluster, Member

FINGERPRINT_KEY = "cluster_fingerprint"
WORDS_A_LINE = 6


def read_cluster(file: Path) -> tuple[ClusterConfig, Cluster]:
    """A cluster file, and the cluster that it describes. Raises ConfigError."""
    config = load_cluster_config(file)
    return config, config.cluster(encode_limits(config.limits_as(Limits)))


def description(config: ClusterConfig, cluster: Cluster, own_name: str | None = None) -> str:
    """What a cluster is, for the operator who confirms it: members, rules, words, digits.

    own_name: the member whose line is marked.
    """
    addresses = {entry.name: str(entry.address) for entry in config.replicas}
    members = (*cluster.genesis.replicas, *cluster.genesis.clients)
    width = max(len(member.name) for member in members)
    roles_width = max(len(", ".join(member.roles)) for member in members)
    lines = [
        f"{counted(cluster.quorums.replicas, 'replica')}, of which"
        f" {cluster.quorums.faults_max} may lie or fail"
    ]
    for member in members:
        mark = "*" if member.name == own_name else " "
        rest = _line(member, roles_width, addresses)
        lines.append(f"{mark} {member.name:{width}}  {rest}")
    if own_name is not None:
        lines.append("(*: this member)")
    lines += ["", "limits of builds:"]
    limits = msgspec.to_builtins(config.limits_as(Limits))
    lines += [f"  {name}: {value}" for name, value in limits.items()]
    words = fingerprint_words(cluster.id)
    lines += ["", "Read these words to the other operators, by voice. They must have the same:", ""]
    for first in range(0, len(words), WORDS_A_LINE):
        line = words[first : first + WORDS_A_LINE]
        numbered = (f"{first + place:2} {word:9}" for place, word in enumerate(line, 1))
        lines.append("  " + " ".join(numbered).rstrip())
    lines += ["", f"In digits: {cluster.id.hex()}"]
    return "\n".join(lines)


def confirm(config: NodeConfig | ClientConfig, fingerprint: bytes) -> None:
    """Write into a member's configuration that its operator confirmed this cluster.

    Raises ConfigError where the file cannot be written.
    """
    text = config.file.read_text(encoding="utf-8")
    line = f"{FINGERPRINT_KEY}: '{fingerprint.hex()}'"
    changed, count = re.subn(rf"(?m)^(# )?{FINGERPRINT_KEY}:.*$", line, text, count=1)
    replace_file(config.file, changed if count else f"{text.rstrip()}\n{line}\n")


def check_told(told: str, cluster: Cluster, file: Path) -> None:
    """Compare what another operator read out with this cluster's fingerprint.

    file: the cluster's. Raises ConfigError where they differ.
    """
    try:
        other = parse_fingerprint(told)
    except ValueError as error:
        allowed = "all 24 words or 64 digits are needed"
        raise ConfigError(f"the fingerprint {error}; {allowed}") from error
    if other != cluster.id:
        raise ConfigError.at(
            file,
            "",
            f"has the fingerprint {cluster.id.hex()}, not {other.hex()}",
            "compare the two files: another member, key or rule makes another cluster",
        )


def _line(member: Member, roles_width: int, addresses: dict[str, str]) -> str:
    key = public_key_text(member.public_key)
    return (
        f"{', '.join(member.roles):{roles_width}}  {key}  {addresses.get(member.name, '')}".rstrip()
    )
