"""Certificates of members: a short-lived leaf that a member's key signs, and who signed a leaf.

No authority signs anything and nobody exchanges certificates. A member signs a leaf with the key
that the cluster file pins. Whoever verifies the leaf makes the trust anchor itself, from the
pinned key. The leaf's own key is fresh and stays in the process.

The rule: a peer is who holds the key that signed its leaf. A leaf's subject means nothing, since
each member may write any subject into the leaves that it signs.

What is signed here is DER and begins with 0x30. Messages begin with 0x70 ("pbft-ci") and
statements with 0x44 ("DSSEv1"), so a signature over one never counts for another.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.configuration.keys import SigningKey, verify

# A stolen leaf is of use for no longer. Clocks may be a day apart.
LIFETIME = timedelta(days=7)
BACKDATED = timedelta(days=1)
LEAF_SEED_BYTES = 32
# A serial number has at most 20 bytes and is positive (RFC 5280, 4.1.2.2).
SERIAL_BYTES = 16

_SINCE = datetime(2000, 1, 1, tzinfo=UTC)
_FOR_EVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_CLUSTER_CHARACTERS = 32
_HOST_CHARACTERS = 40
_BOTH_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
# Both differ from every member's name, so no certificate is its own issuer.
_LEAF_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "PBFT/CI member")])
_PINNED_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pinned by the cluster")])
# Signs anchors. OpenSSL trusts an anchor for being in its store and never checks its signature.
_ANCHOR_SIGNER = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))


class NotAMember(Exception):
    """The other end's certificate is not one of the expected member; the text says why."""


class PinnedKeys(msgspec.Struct, frozen=True):
    """The public keys (32 bytes) of a cluster's members by name, as its file pins them."""

    cluster_id: bytes
    keys: Mapping[str, bytes]


class Leaf(msgspec.Struct, frozen=True):
    """A member's certificate, and its own key, both as PEM. not_after: in seconds since 1970."""

    certificate: bytes
    key: bytes
    digest: bytes
    not_after: float


class PeerLeaf(msgspec.Struct, frozen=True):
    """Whose leaf the other end showed, the leaf's SHA-256, and when it ends (since 1970)."""

    member: str
    digest: bytes
    not_after: float


def host_of(cluster_id: bytes, member: str) -> str:
    """The name in a leaf, and that a dialler asks for.

    It is a digest, since a member's name need not be a host's, under a domain that never exists
    (RFC 6761, 6.4).
    """
    digest = hashlib.sha256(cluster_id + b"\0" + member.encode()).hexdigest()
    return f"{digest[:_HOST_CHARACTERS]}.pbft-ci.invalid"


def issue_leaf(
    cluster_id: bytes, member: str, signing_key: SigningKey, *, now: float, randomness: bytes
) -> Leaf:
    """A new leaf with a key of its own, signed by the member's key.

    now: in seconds since 1970. randomness: LEAF_SEED_BYTES + SERIAL_BYTES secret bytes, used once.
    """
    assert len(randomness) == LEAF_SEED_BYTES + SERIAL_BYTES
    key = ed25519.Ed25519PrivateKey.from_private_bytes(randomness[:LEAF_SEED_BYTES])
    at = datetime.fromtimestamp(int(now), UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_LEAF_NAME)
        .issuer_name(_name(cluster_id, member))
        .public_key(key.public_key())
        .serial_number(1 + int.from_bytes(randomness[LEAF_SEED_BYTES:], "big"))
        .not_valid_before(at - BACKDATED)
        .not_valid_after(at + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_BOTH_USAGES), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host_of(cluster_id, member))]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier(_key_identifier(signing_key.public_key), None, None),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(ed25519.Ed25519PrivateKey.from_private_bytes(signing_key.seed), None)
    )
    return Leaf(
        certificate=certificate.public_bytes(Encoding.PEM),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        digest=hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )


def anchor_of(cluster_id: bytes, member: str, public_key: bytes) -> bytes:
    """The trust anchor for a pinned key, as DER.

    Leaves hang directly from it (path length 0). It is no self-signed certificate, so OpenSSL
    takes it as an anchor only with X509_V_FLAG_PARTIAL_CHAIN.
    """
    return (
        x509.CertificateBuilder()
        .subject_name(_name(cluster_id, member))
        .issuer_name(_PINNED_NAME)
        .public_key(ed25519.Ed25519PublicKey.from_public_bytes(public_key))
        .serial_number(1)
        .not_valid_before(_SINCE)
        .not_valid_after(_FOR_EVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(_key_identifier(public_key)), critical=False)
        .sign(_ANCHOR_SIGNER, None)
        .public_bytes(Encoding.DER)
    )


def whose_leaf(der: bytes | None, pinned: PinnedKeys, now: float) -> PeerLeaf:
    """Which member's key signed this leaf (DER, as TLS has it; None: there was none).

    OpenSSL has checked the leaf against all anchors before. Here it is held against the one key of
    the member that it names as its issuer. Raises NotAMember.
    """
    if der is None:
        raise NotAMember("it showed no certificate")
    try:
        leaf = x509.load_der_x509_certificate(der)
        issuer = str(leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternatives.get_values_for_type(x509.DNSName)
        begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    except (ValueError, IndexError, x509.ExtensionNotFound) as error:
        raise NotAMember("its certificate is none of this program's") from error
    public_key = pinned.keys.get(issuer)
    if public_key is None:
        raise NotAMember(f"its certificate is signed by {issuer!r}, who is no member")
    if not verify(public_key, leaf.tbs_certificate_bytes, leaf.signature):
        raise NotAMember(f"its certificate is not signed by the key of {issuer!r}")
    if names != [host_of(pinned.cluster_id, issuer)]:
        raise NotAMember(f"{issuer!r} signed its certificate for another name or cluster")
    if now < begins.timestamp():
        raise NotAMember(f"the certificate of {issuer!r} is not valid yet: is a clock wrong?")
    if now > ends.timestamp():
        raise NotAMember(f"the certificate of {issuer!r} has expired: is a clock wrong?")
    return PeerLeaf(issuer, hashlib.sha256(der).digest(), ends.timestamp())


def _name(cluster_id: bytes, common_name: str) -> x509.Name:
    cluster = "pbft-ci " + cluster_id.hex()[:_CLUSTER_CHARACTERS]
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _key_identifier(public_key: bytes) -> bytes:
    return hashlib.sha256(public_key).digest()[:20]


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
