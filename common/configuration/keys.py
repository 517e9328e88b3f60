"""Ed25519 keys: made and read as files by pycryptodome, used for signatures by PyNaCl.

PyNaCl signs and verifies several times faster, but knows no key files. All replicas use the same
library for verifying, because the rules for odd signatures differ between libraries.
"""

import os
import shlex
import stat
from contextlib import suppress
from pathlib import Path

import nacl.exceptions
import nacl.signing
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

from common.config_error import ConfigError
from common.new_file import FileThere, write_new_file

CURVE = "Ed25519"
# How a private key with a passphrase is stored: PKCS#8 as RFC 8018 says, so that openssl reads it
# too; the number of rounds is what OWASP asks for PBKDF2 with SHA-512.
PROTECTION = "PBKDF2WithHMAC-SHA512AndAES256-CBC"
PROTECTION_ROUNDS = 210_000
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32
KEY_FILE_BYTES_MAX = 16 * 1024
PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644

# How whoever has no such file gets one; the start scripts make those of the example themselves.
_REMEDIES = {
    "private key": "make it with `openssl genpkey -algorithm ed25519 -out {file}`"
    " (the start scripts make the example's), or, if it was lost, change the members"
    " (docs/RUNBOOKS.md)",
    "public key": "get it from whose key it is, who makes it with"
    " `openssl pkey -in PRIVATE -pubout -out {file}` (the start scripts make the example's)",
}


class PassphraseNeeded(ConfigError):
    """The private key is encrypted, and no passphrase was given."""


class SigningKey:
    """A private Ed25519 key: its public half (32 bytes), and signatures (64 bytes)."""

    def __init__(self, seed: bytes) -> None:
        """seed: the 32 secret bytes that RFC 8032 calls the private key."""
        self._key = nacl.signing.SigningKey(seed)
        self.public_key: bytes = bytes(self._key.verify_key)

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`: the same bytes give the same signature (RFC 8032)."""
        return self._key.sign(message).signature

    @property
    def seed(self) -> bytes:
        """The secret, for libraries that sign with a key object of their own."""
        return bytes(self._key)

    def __repr__(self) -> str:
        return f"SigningKey(public_key={self.public_key.hex()})"


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` over `message` was made with the key of `public_key`. Never raises."""
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        nacl.signing.VerifyKey(public_key).verify(message, signature)
    except (nacl.exceptions.CryptoError, ValueError, TypeError):
        return False
    return True


def new_private_key(private_file: Path, passphrase: bytes | None) -> bytes:
    """Make a private key as a new PKCS#8 PEM file, mode 0600; gives its public key (32 bytes).

    passphrase: encrypts the file; None leaves it in the clear. Raises ConfigError: the file exists
    already (it is never overwritten), or cannot be written.
    """
    key = ECC.generate(curve=CURVE)
    if passphrase is None:
        text = key.export_key(format="PEM", use_pkcs8=True)
    else:
        text = key.export_key(
            format="PEM",
            use_pkcs8=True,
            passphrase=passphrase,
            protection=PROTECTION,
            prot_params={"iteration_count": PROTECTION_ROUNDS},
        )
    write_new_file(private_file, text, PRIVATE_MODE)
    return bytes(key.public_key().export_key(format="raw"))


def generate_key_files(private_file: Path, public_file: Path) -> None:
    """Make a key pair as PEM files: PKCS#8 readable by the owner alone, and the public half.

    A file that exists is never overwritten: where only the public file is missing it is written
    from the private one. The private file is complete or absent, also after a crash.
    Raises ConfigError where a file cannot be written, or a public file stands alone.
    """
    if not private_file.exists():
        if public_file.exists():
            raise ConfigError.at(
                public_file,
                "",
                f"its private key {private_file} is gone",
                "bring that file back, or remove this one to have both made anew",
            )
        key = ECC.generate(curve=CURVE)
        # Another process that makes the same keys may be first; then its file is taken.
        with suppress(FileThere):
            write_new_file(private_file, key.export_key(format="PEM", use_pkcs8=True), PRIVATE_MODE)
    if not public_file.exists():
        key = _read_ecc(private_file, "private key")
        with suppress(FileThere):
            write_new_file(public_file, key.public_key().export_key(format="PEM"), PUBLIC_MODE)


def load_signing_key(private_file: Path, passphrase: bytes | None = None) -> SigningKey:
    """The key of a PKCS#8 PEM file, which `passphrase` decrypts if it is encrypted.

    Raises PassphraseNeeded: it is encrypted and no passphrase was given. Raises ConfigError: no
    such file, no Ed25519 private key in it, readable by others, or another passphrase.
    """
    key = _read_ecc(private_file, "private key", secret=True, passphrase=passphrase)
    if not key.has_private():
        raise ConfigError.at(
            private_file, "", "holds a public key only", "a private Ed25519 key in PEM is needed"
        )
    seed = key.seed
    assert seed is not None, "an Ed25519 private key has a seed"
    return SigningKey(bytes(seed))


def load_public_key(public_file: Path) -> bytes:
    """The 32 bytes of the public key in a PEM file. Raises ConfigError."""
    key = _read_ecc(public_file, "public key")
    if key.has_private():
        raise ConfigError.at(
            public_file, "", "holds a private key", "a public Ed25519 key in PEM is needed here"
        )
    return bytes(key.public_key().export_key(format="raw"))


def public_key_pem(public_key: bytes) -> str:
    """An Ed25519 public key (32 bytes) as PEM, without a line feed at its end."""
    return eddsa.import_public_key(public_key).export_key(format="PEM")


def public_key_text(public_key: bytes) -> str:
    """An Ed25519 public key (32 bytes) in one word, `ed25519:` and 64 hexadecimal digits."""
    return f"ed25519:{public_key.hex()}"


def parse_public_key(text: str) -> bytes:
    """The 32 bytes of what `public_key_text` wrote. Raises ValueError."""
    kind, _, digits = text.partition(":")
    if kind != "ed25519" or len(digits) != 2 * PUBLIC_KEY_BYTES:
        raise ValueError(f"'{text}' is not ed25519: and {2 * PUBLIC_KEY_BYTES} hexadecimal digits")
    return bytes.fromhex(digits)


def _read_ecc(
    file: Path, what: str, *, secret: bool = False, passphrase: bytes | None = None
) -> ECC.EccKey:
    try:
        with file.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            pem = stream.read(KEY_FILE_BYTES_MAX)
    except FileNotFoundError as error:
        remedy = _REMEDIES[what].format(file=shlex.quote(str(file)))
        raise ConfigError.at(file, "", f"there is no such {what} file", remedy) from error
    except OSError as error:
        raise ConfigError.at(
            file, "", f"cannot be read ({error.strerror})", f"a {what} file in PEM is needed"
        ) from error
    if secret and mode & 0o077:
        raise ConfigError.at(
            file,
            "",
            f"others may read this private key (mode {mode:04o})",
            f"only its owner may: chmod 600 {file}",
        )
    is_encrypted = pem.lstrip().startswith(_ENCRYPTED)
    if secret and is_encrypted and passphrase is None:
        raise PassphraseNeeded.at(
            file, "", "is encrypted", "give the file that holds its passphrase"
        )
    try:
        key = ECC.import_key(pem, passphrase=passphrase if is_encrypted else None)
    except (ValueError, IndexError, TypeError) as error:
        if secret and is_encrypted:
            raise ConfigError.at(
                file, "", "cannot be decrypted", "the passphrase that it was made with is needed"
            ) from error
        raise ConfigError.at(
            file, "", f"holds no {what} in PEM that can be read", "an Ed25519 key is needed"
        ) from error
    if key.curve != CURVE:
        raise ConfigError.at(file, "", f"holds a {key.curve} key", "an Ed25519 key is needed")
    return key
