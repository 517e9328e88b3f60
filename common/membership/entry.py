"""A member's public entry: the file that an operator gives to the others before there is a cluster.

It holds the member's kind, name and public key, for a replica the address where the others reach
it, and a signature with that key over all of it. The signature shows that whoever made the entry
has the private key, and that nothing of it was changed on the way. It does not show who that is:
for this, operators compare the cluster's fingerprint.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

from common.address import Address
from common.config_error import ConfigError
from common.configuration.config import MemberName, PublicKeyText
from common.configuration.config_reader import read_file
from common.configuration.keys import SigningKey, parse_public_key, public_key_text, verify

ENTRY_FORMAT = 1
# No other signature of a member's key begins so.
_DOMAIN = b"pbft-ci entry\0"

Kind = Literal["replica", "gateway", "operator"]
_Signature = Annotated[
    str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z", description="128 hexadecimal digits")
]


class Entry(msgspec.Struct, frozen=True):
    """One member as it enters a cluster."""

    # what the member does: orders and builds, asks for builds, or approves and cancels
    kind: Kind
    name: MemberName
    # as common.configuration.keys.public_key_text writes it
    public_key: PublicKeyText
    # where the other members reach a replica; nobody calls the others
    address: Address | None = None
    # the replicas that an operator stands for
    operates: tuple[MemberName, ...] = ()

    def signed_bytes(self) -> bytes:
        """What the entry's signature covers."""
        address = None if self.address is None else str(self.address)
        fields: list[object] = [ENTRY_FORMAT, self.kind, self.name, self.public_key, address]
        # left out if there are none, as in entries from before there was a choice
        if self.operates:
            fields.append(self.operates)
        return _DOMAIN + msgspec.msgpack.encode(fields)


class _EntryFile(msgspec.Struct, frozen=True):
    """The file of an entry, as it is in YAML."""

    pbft_ci_entry: Literal[1]
    kind: Kind
    name: MemberName
    public_key: PublicKeyText
    signature: _Signature
    address: Address | None = None
    operates: tuple[MemberName, ...] = ()


def entry_text(entry: Entry, key: SigningKey) -> str:
    """The file of an entry, signed with the member's own key."""
    assert key.public_key == parse_public_key(entry.public_key), "an entry signs for itself"
    fields: dict[str, object] = {
        "pbft_ci_entry": ENTRY_FORMAT,
        "kind": entry.kind,
        "name": entry.name,
        "public_key": entry.public_key,
    }
    if entry.address is not None:
        fields["address"] = str(entry.address)
    if entry.operates:
        fields["operates"] = list(entry.operates)
    fields["signature"] = key.sign(entry.signed_bytes()).hex()
    header = (
        f"# The public entry of {entry.kind} {entry.name}. Give it to the other operators.\n"
        "# Nothing in it is secret. A changed line makes the signature wrong.\n"
    )
    return header + yaml.safe_dump(fields, sort_keys=False)


def read_entry(file: Path) -> Entry:
    """The entry of a file. Raises ConfigError: not an entry, or its signature is wrong."""
    read = read_file(_EntryFile, file)
    entry = Entry(read.kind, read.name, read.public_key, read.address, read.operates)
    if entry.operates and entry.kind != "operator":
        raise ConfigError.at(
            file, "operates", f"a {entry.kind} has none", "only operators stand for replicas"
        )
    if (entry.kind == "replica") is (entry.address is None):
        raise ConfigError.at(
            file,
            "address",
            "is missing" if entry.address is None else f"a {entry.kind} has none",
            "each replica has one, and no other member",
        )
    public_key = parse_public_key(entry.public_key)
    if not verify(public_key, entry.signed_bytes(), bytes.fromhex(read.signature)):
        raise ConfigError.at(
            file,
            "signature",
            f"is not {entry.name}'s over this entry",
            "ask its operator for the file again, exactly as `init` made it",
        )
    return entry


def new_entry(
    kind: Kind,
    name: str,
    key: SigningKey,
    *,
    address: Address | None = None,
    operates: tuple[str, ...] = (),
) -> Entry:
    """The entry of a member with this key."""
    return Entry(kind, name, public_key_text(key.public_key), address, operates)
