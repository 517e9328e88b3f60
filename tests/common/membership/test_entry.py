"""Public entries: what comes back, and what a changed or foreign one gives."""

from pathlib import Path

import msgspec
import pytest

from common.address import Address
from common.config_error import ConfigError
from common.configuration.keys import SigningKey
from common.membership.entry import Entry, entry_text, new_entry, read_entry

KEY = SigningKey(bytes(range(32)))
ENTRY = new_entry("replica", "acme", KEY, address=Address("ci.acme.example", 10000))
OPERATOR = new_entry("operator", "ann", KEY, operates=("acme", "beta"))


def write(folder: Path, text: str) -> Path:
    file = folder / "acme.entry.yml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("entry", [ENTRY, new_entry("gateway", "web", KEY), OPERATOR])
def test_an_entry_comes_back_as_it_was(tmp_path: Path, entry: Entry) -> None:
    assert read_entry(write(tmp_path, entry_text(entry, KEY))) == entry


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("name: acme", "name: acne", "signature: is not acne's over this entry; ask its operator"),
        ("10000", "10001", "signature: is not acme's"),
        (KEY.public_key.hex(), "00" * 32, "signature: is not acme's"),
        ("kind: replica", "kind: gateway", "address: a gateway has none"),
        ("address: ci.acme.example:10000\n", "", "address: is missing; each replica has one"),
        ("pbft_ci_entry: 1", "pbft_ci_entry: 2", "pbft_ci_entry: is 2; one of 1 is needed"),
        ("kind: replica", "kind: replica\nkeys: 1", "keys: there is no such key"),
        ("ed25519:", "", "public_key: is .*; ed25519: and 64 hexadecimal digits is needed"),
    ],
)
def test_a_changed_entry_is_one_line(tmp_path: Path, old: str, new: str, wrong: str) -> None:
    text = entry_text(ENTRY, KEY)
    assert old in text
    with pytest.raises(ConfigError, match=wrong) as caught:
        read_entry(write(tmp_path, text.replace(old, new)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("new", ["- acme\n", "- beta\n- acme\n", "- acme\n- beta\n- gamma\n"])
def test_what_an_operator_stands_for_is_signed(tmp_path: Path, new: str) -> None:
    text = entry_text(OPERATOR, KEY)
    assert "- acme\n- beta\n" in text
    with pytest.raises(ConfigError, match="signature: is not ann's over this entry"):
        read_entry(write(tmp_path, text.replace("- acme\n- beta\n", new)))


def test_only_operators_stand_for_replicas(tmp_path: Path) -> None:
    entry = new_entry("gateway", "web", KEY, operates=("acme",))
    with pytest.raises(ConfigError, match="operates: a gateway has none; only operators stand"):
        read_entry(write(tmp_path, entry_text(entry, KEY)))


def test_an_entry_that_stands_for_nobody_is_signed_as_before(tmp_path: Path) -> None:
    """So entries from before there was a choice are still read."""
    assert new_entry("operator", "ann", KEY).signed_bytes() == (
        b"pbft-ci entry\0"
        + msgspec.msgpack.encode([1, "operator", "ann", f"ed25519:{KEY.public_key.hex()}", None])
    )
