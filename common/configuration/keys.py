"""Ed25519 keys: made and read as files by pycryptodome, used for signatures by PyNaCl.

PyNaCl signs and verifies several times faster, but knows no key files. All replicas use the same
library for verifying, because the rules for odd signatures differ between libraries.
"""

import os
import shlex
import stat
import tempfile
from pathlib import Path

import nacl.exceptions
import nacl.signing
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

from common.config_error import ConfigError

CURVE = "Ed25519"
SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32
KEY_FILE_BYTES_MAX = 16 * 1024
PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644

# How whoever has no such file gets one; the start scripts make those of the example themselves.
_REMEDIES = {
    "private key": "make it with `openssl genpkey -algorithm ed25519 -out {file}`"
    " (the start scripts make the example's)",
    "public key": "get it from whose key it is, who makes it with"
    " `openssl pkey -in PRIVATE -pubout -out {file}` (the start scripts make the example's)",
}


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
        _create(private_file, key.export_key(format="PEM", use_pkcs8=True), PRIVATE_MODE)
    if not public_file.exists():
        key = _read_ecc(private_file, "private key")
        _create(public_file, key.public_key().export_key(format="PEM"), PUBLIC_MODE)


def load_signing_key(private_file: Path) -> SigningKey:
    """The key of a PKCS#8 PEM file.

    Raises ConfigError: no such file, no Ed25519 private key in it, or readable by others.
    """
    key = _read_ecc(private_file, "private key", secret=True)
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


def _read_ecc(file: Path, what: str, *, secret: bool = False) -> ECC.EccKey:
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
    try:
        key = ECC.import_key(pem)
    except (ValueError, IndexError, TypeError) as error:
        raise ConfigError.at(
            file, "", f"holds no {what} in PEM that can be read", "an Ed25519 key is needed"
        ) from error
    if key.curve != CURVE:
        raise ConfigError.at(file, "", f"holds a {key.curve} key", "an Ed25519 key is needed")
    return key


def _create(file: Path, text: str, mode: int) -> None:
    """Write a new file so that it is complete or absent; another's newer file wins."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(text.rstrip("\n") + "\n")
                stream.flush()
                os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
            # A link fails where the name is taken, a rename would overwrite it.
            os.link(name, file)
        except FileExistsError:
            pass
        finally:
            os.unlink(name)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError.at(
            file, "", f"cannot be written ({error.strerror})", "a folder that can be written to"
        ) from error
