"""Secrets that lie in files: webhook secrets and tokens, readable by their owner alone."""

import os
import stat
from pathlib import Path

from common.config_error import ConfigError

# Of all that nodes and gateways write: code and what builds print may be private, too.
PRIVATE_UMASK = 0o077

SECRET_FILE_BYTES_MAX = 16 * 1024
# A new secret beside the old one while a forge is being told; nobody needs more at once.
SECRETS_MAX = 4
# With `Bearer ` before it within what of a header is looked at.
BEARER_TOKEN_CHARACTERS_MAX = 1000


def read_secrets(file: Path, what: str, secrets_max: int = SECRETS_MAX) -> tuple[bytes, ...]:
    """The secrets in a file, one per line; spaces around a line and empty lines do not count.

    what: how an error calls it, as in "webhook secret". Raises ConfigError: no such file, others
    may read it, nothing in it, too much in it, or a line that is not printable ASCII.
    """
    allowed = f"a file with a {what} is needed, readable by its owner alone"
    try:
        with file.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            data = stream.read(SECRET_FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise ConfigError.at(file, "", f"there is no such {what} file", allowed) from error
    except OSError as error:
        raise ConfigError.at(file, "", f"cannot be read ({error.strerror})", allowed) from error
    if mode & 0o077:
        raise ConfigError.at(
            file,
            "",
            f"others may read this {what} (mode {mode:04o})",
            f"only its owner may: chmod 600 {file}",
        )
    if len(data) > SECRET_FILE_BYTES_MAX:
        raise ConfigError.at(file, "", f"has more than {SECRET_FILE_BYTES_MAX} bytes", allowed)
    secrets = tuple(line.strip() for line in data.splitlines() if line.strip())
    if not 1 <= len(secrets) <= secrets_max:
        raise ConfigError.at(
            file, "", f"holds {len(secrets)} lines with a {what}", f"1 to {secrets_max} are allowed"
        )
    for number, secret in enumerate(secrets, 1):
        # Spaces too: GitHub's own example of a secret is a sentence.
        if not all(0x20 <= byte <= 0x7E for byte in secret):
            raise ConfigError.at(
                file, f"secret {number}", "is not printable ASCII", "letters, digits, punctuation"
            )
    return secrets


def read_bearer_tokens(file: Path, what: str) -> tuple[bytes, ...]:
    """As read_secrets, for what comes in `Authorization: Bearer TOKEN`.

    Raises ConfigError for a token with a space inside too, or a longer one than is looked at:
    nobody could ever show it.
    """
    tokens = read_secrets(file, what)
    for number, token in enumerate(tokens, 1):
        wrong = ""
        if b" " in token:
            wrong = "has a space inside"
        elif len(token) > BEARER_TOKEN_CHARACTERS_MAX:
            wrong = f"has {len(token)} characters"
        if wrong:
            raise ConfigError.at(
                file,
                f"{what} {number}",
                wrong,
                f"a token is one word of at most {BEARER_TOKEN_CHARACTERS_MAX} characters "
                "(openssl rand -hex 32 makes one)",
            )
    return tokens
