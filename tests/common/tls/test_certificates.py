"""Leaves and anchors: what is in them, and whose leaf counts as whose."""

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from common.configuration.keys import SigningKey
from common.tls.certificates import (
    LEAF_SEED_BYTES,
    SERIAL_BYTES,
    Leaf,
    NotAMember,
    PeerLeaf,
    PinnedKeys,
    anchor_of,
    host_of,
    issue_leaf,
    whose_leaf,
)

CLUSTER_ID = b"c" * 32
KEYS = {name: SigningKey(name.encode().ljust(32, b"\0")) for name in ("node0", "node1", "eve")}
PINNED = PinnedKeys(CLUSTER_ID, {name: KEYS[name].public_key for name in ("node0", "node1")})
NOW = 1_800_000_000.0
DAY = 24 * 3600.0
RANDOM = bytes(range(LEAF_SEED_BYTES + SERIAL_BYTES))


def leaf_of(name: str, *, key: str | None = None, cluster_id: bytes = CLUSTER_ID) -> Leaf:
    return issue_leaf(cluster_id, name, KEYS[key or name], now=NOW, randomness=RANDOM)


def der_of(leaf: Leaf) -> bytes:
    return x509.load_pem_x509_certificate(leaf.certificate).public_bytes(Encoding.DER)


def test_a_leaf_counts_as_the_member_whose_key_signed_it() -> None:
    leaf = leaf_of("node1")
    der = der_of(leaf)
    digest = hashlib.sha256(der).digest()
    assert whose_leaf(der, PINNED, NOW) == PeerLeaf("node1", digest, NOW + 7 * DAY)
    assert (leaf.digest, leaf.not_after) == (digest, NOW + 7 * DAY)


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        (leaf_of("eve"), "signed by 'eve', who is no member"),
        (leaf_of("node1", key="eve"), "not signed by the key of 'node1'"),
        (leaf_of("node1", key="node0"), "not signed by the key of 'node1'"),
        (leaf_of("node1", cluster_id=b"d" * 32), "for another name or cluster"),
    ],
)
def test_whose_leaf_counts_as_nobodys(leaf: Leaf, reason: str) -> None:
    with pytest.raises(NotAMember, match=reason):
        whose_leaf(der_of(leaf), PINNED, NOW)


def test_a_leaf_counts_from_a_day_before_to_a_week_after() -> None:
    der = der_of(leaf_of("node1"))
    for counts in (NOW - DAY, NOW + 7 * DAY):
        assert whose_leaf(der, PINNED, counts).member == "node1"
    with pytest.raises(NotAMember, match="not valid yet"):
        whose_leaf(der, PINNED, NOW - DAY - 1)
    with pytest.raises(NotAMember, match="has expired"):
        whose_leaf(der, PINNED, NOW + 7 * DAY + 1)


def test_what_is_no_certificate_of_ours_is_refused() -> None:
    anchor = anchor_of(CLUSTER_ID, "node1", PINNED.keys["node1"])
    with pytest.raises(NotAMember, match="no certificate"):
        whose_leaf(None, PINNED, NOW)
    for der in (b"", b"\x30\x00", der_of(leaf_of("node1"))[:-1], anchor):
        with pytest.raises(NotAMember, match="none of this program's"):
            whose_leaf(der, PINNED, NOW)


def test_a_leaf_is_for_both_ends_and_signs_nothing() -> None:
    certificate = x509.load_pem_x509_certificate(leaf_of("node1").certificate)
    extensions = certificate.extensions
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [host_of(CLUSTER_ID, "node1")]


def test_a_leaf_is_never_taken_for_a_message_or_a_statement() -> None:
    """All three are signed by one key; their first bytes tell them apart."""
    certificate = x509.load_pem_x509_certificate(leaf_of("node1").certificate)
    signed = certificate.tbs_certificate_bytes
    assert (signed[:1], b"pbft-ci"[:1], b"DSSEv1"[:1]) == (b"\x30", b"\x70", b"\x44")


def test_the_longest_name_fits() -> None:
    name = "n" * 64
    pinned = PinnedKeys(CLUSTER_ID, {name: KEYS["eve"].public_key})
    leaf = issue_leaf(CLUSTER_ID, name, KEYS["eve"], now=NOW, randomness=RANDOM)
    assert whose_leaf(der_of(leaf), pinned, NOW).member == name
    assert anchor_of(CLUSTER_ID, name, pinned.keys[name])


def test_anchors_and_leaves_come_from_what_is_given_alone() -> None:
    """So two that verify make the same anchor, and a leaf's key is no weaker than its bytes."""
    public_key = PINNED.keys["node1"]
    assert anchor_of(CLUSTER_ID, "node1", public_key) == anchor_of(CLUSTER_ID, "node1", public_key)
    assert leaf_of("node1") == leaf_of("node1")
    other = issue_leaf(CLUSTER_ID, "node1", KEYS["node1"], now=NOW, randomness=RANDOM[::-1])
    assert other.key != leaf_of("node1").key
    certificate = x509.load_der_x509_certificate(anchor_of(CLUSTER_ID, "node1", public_key))
    pinned_key = certificate.public_key()
    assert isinstance(pinned_key, ed25519.Ed25519PublicKey)
    assert pinned_key.public_bytes_raw() == public_key
