"""The passphrase of a private key: from a file that its owner alone reads, or from a person."""

import argparse
import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common.config_error import ConfigError
from common.configuration.secret_file import read_secrets

# As in config.py: whoever only adds the flag does not pay for the libraries.
if TYPE_CHECKING:
    from common.configuration.keys import SigningKey

PASSPHRASE_CHARACTERS_MIN = 8


def passphrase_flag(parser: argparse.ArgumentParser) -> None:
    """Add --passphrase-file."""
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="the passphrase of the private key (default: ask for it on the terminal)",
    )


def read_passphrase(file: Path) -> bytes:
    """The passphrase in a file, its only line. Raises ConfigError."""
    return read_secrets(file, "passphrase", secrets_max=1)[0]


def unlock_key(private_file: Path, passphrase_file: Path | None) -> "SigningKey":
    """A member's key; if it is encrypted, with the passphrase of the file or of who sits here.

    Raises ConfigError; PassphraseNeeded if there is neither a file nor a terminal.
    """
    from common.configuration.keys import PassphraseNeeded, load_signing_key

    if passphrase_file is not None:
        return load_signing_key(private_file, read_passphrase(passphrase_file))
    try:
        return load_signing_key(private_file)
    except PassphraseNeeded:
        if not sys.stdin.isatty():
            raise
    typed = getpass.getpass(f"passphrase of {private_file}: ")
    return load_signing_key(private_file, typed.encode())


def new_passphrase(file: Path | None) -> bytes | None:
    """The passphrase for a new key: of the file, or asked twice; None: none is wanted.

    Raises ConfigError: it is too short, or the two differ.
    """
    if file is not None:
        passphrase = read_passphrase(file)
    elif sys.stdin.isatty():
        passphrase = getpass.getpass("passphrase for the new key (empty: none): ").encode()
        if not passphrase:
            return None
        if getpass.getpass("the same again: ").encode() != passphrase:
            raise ConfigError("the two passphrases differ; no key was made")
    else:
        return None
    if len(passphrase) < PASSPHRASE_CHARACTERS_MIN:
        raise ConfigError(
            f"the passphrase has {len(passphrase)} characters;"
            f" at least {PASSPHRASE_CHARACTERS_MIN} are needed"
        )
    return passphrase
