"""Key files: what is made, what is refused, and whether the signatures are Ed25519's."""

import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from Crypto.PublicKey import ECC

from common.config_error import ConfigError
from common.configuration.keys import (
    SigningKey,
    generate_key_files,
    load_public_key,
    load_signing_key,
    verify,
)

# RFC 8032, 7.1, test 2.
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key file that belong together."""
    private_file, public_file = tmp_path / "keys/a.key.pem", tmp_path / "keys/a.pub.pem"
    generate_key_files(private_file, public_file)
    return private_file, public_file


def test_signatures_are_those_of_the_standard() -> None:
    key = SigningKey(SEED)
    assert key.public_key == PUBLIC
    assert key.sign(b"\x72") == SIGNATURE
    assert verify(PUBLIC, b"\x72", SIGNATURE)


def test_verify_is_false_for_whatever_is_wrong_and_never_raises() -> None:
    flipped = bytes([SIGNATURE[0] ^ 1]) + SIGNATURE[1:]
    assert not verify(PUBLIC, b"\x73", SIGNATURE)
    assert not verify(PUBLIC, b"\x72", flipped)
    assert not verify(PUBLIC, b"\x72", SIGNATURE[:-1])
    assert not verify(PUBLIC[:-1], b"\x72", SIGNATURE)
    assert not verify(b"", b"", b"")
    assert not verify(bytes(32), b"\x72", bytes(64))


def test_a_made_pair_belongs_together(files: tuple[Path, Path]) -> None:
    private_file, public_file = files
    key = load_signing_key(private_file)
    assert load_public_key(public_file) == key.public_key
    assert verify(load_public_key(public_file), b"text", key.sign(b"text"))
    assert private_file.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert stat.S_IMODE(private_file.stat().st_mode) == 0o600
    assert sorted(private_file.parent.iterdir()) == sorted(files)


def test_an_existing_pair_is_left_alone(files: tuple[Path, Path]) -> None:
    before = [file.read_bytes() for file in files]
    generate_key_files(*files)
    assert [file.read_bytes() for file in files] == before


def test_a_missing_public_file_is_written_from_the_private_one(files: tuple[Path, Path]) -> None:
    before = files[1].read_bytes()
    files[1].unlink()
    generate_key_files(*files)
    assert files[1].read_bytes() == before


def test_a_public_file_alone_is_not_replaced(files: tuple[Path, Path]) -> None:
    files[0].unlink()
    with pytest.raises(ConfigError, match=r"a\.pub\.pem: its private key .* is gone"):
        generate_key_files(*files)
    assert not files[0].exists()


def test_a_private_key_that_others_may_read_is_refused(files: tuple[Path, Path]) -> None:
    for mode in (0o640, 0o604, 0o620):
        files[0].chmod(mode)
        with pytest.raises(ConfigError, match="chmod 600"):
            load_signing_key(files[0])
    files[0].chmod(0o400)
    assert load_signing_key(files[0]).public_key == load_public_key(files[1])


def test_a_missing_key_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.pem: there is no such private key file; make it"):
        load_signing_key(tmp_path / "x.pem")
    with pytest.raises(ConfigError, match=r"x\.pem: there is no such public key file; get it"):
        load_public_key(tmp_path / "x.pem")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_commands_that_the_errors_name_make_a_pair(tmp_path: Path) -> None:
    """Each operator makes one key alone: nothing of the others is needed for it."""
    private_file, public_file = tmp_path / "a key.pem", tmp_path / "public.pem"
    for load, file in ((load_signing_key, private_file), (load_public_key, public_file)):
        with pytest.raises(ConfigError) as missing:
            load(file)
        command = re.search("`(openssl .*)`", str(missing.value))
        assert command is not None
        words = [private_file if word == "PRIVATE" else word for word in shlex.split(command[1])]
        subprocess.run(words, check=True, capture_output=True, timeout=60)
    assert load_signing_key(private_file).public_key == load_public_key(public_file)


def test_the_wrong_half_is_named(files: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="holds a private key"):
        load_public_key(files[0])
    files[1].chmod(0o600)
    with pytest.raises(ConfigError, match="holds a public key only"):
        load_signing_key(files[1])


def test_other_keys_and_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    for text in ("", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        file.write_text(text)
        file.chmod(0o600)
        with pytest.raises(ConfigError, match=r"key\.pem: holds no private key"):
            load_signing_key(file)
    file.write_text(ECC.generate(curve="P-256").export_key(format="PEM"))
    with pytest.raises(ConfigError, match="holds a NIST P-256 key; an Ed25519 key is needed"):
        load_signing_key(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_signing_key(tmp_path)


def test_the_seed_is_not_shown(files: tuple[Path, Path]) -> None:
    key = SigningKey(SEED)
    assert SEED.hex() not in repr(key)
    assert PUBLIC.hex() in repr(key)


def test_a_key_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("not a folder")
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        generate_key_files(tmp_path / "keys/a.pem", tmp_path / "keys/b.pem")
    assert "\n" not in str(caught.value)
