"""Takes an operator's secrets out of text: those that the configuration names, and what looks so.

The rule: every file that a configuration names is a secret unless `PUBLIC` lists its key. A secret
is found in the forms in which programs write it: as it is, quoted for a URL or for JSON, in base64
alone and behind the name of a user.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from common.configuration.config import ClientConfig, LoginConfig, NodeConfig
from common.repositories.credentials import HIDDEN, SECRET_BYTES_MAX
from common.repositories.repository_config import RepositoryEntry

# The keys of files and folders that hold no secret.
PUBLIC = frozenset(
    {
        "file", "cluster_file", "data_directory", "log_file", "results_file", "capture_file",
        "known_hosts_file", "ca_file", "build_ca_file", "next_cluster_file",
    }
)  # fmt: skip
# The secret in a folder that a configuration names.
_IN_FOLDERS = {"docker_tls_folder": "key.pem"}
# A shorter one would be found in every word. Tokens and passphrases have at least 8.
SECRET_CHARACTERS_MIN = 4

_PATTERNS = (
    # user name and password in a URL; a token may be in the place of either
    (re.compile(r"(?<=://)[^\s/@\"']+(?=@)"), HIDDEN),
    (re.compile(r"(?i)\b(authorization|private-token|x-gitlab-token|cookie|proxy-authorization)"
                r"(['\"]?\s*[:=]\s*).+"), rf"\1\2{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)\b(token|access_token|private_token|secret|password|passphrase)"
                r"=[^\s&\"']+"), rf"\1={HIDDEN}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)",
                re.DOTALL), HIDDEN),
)  # fmt: skip


class CannotRead(Exception):
    """A file of secrets cannot be read, so nobody knows what to take out; one line which."""


class Redactor:
    """Takes the secrets of one member out of text."""

    def __init__(self, secrets: Iterable[str] = (), users: Iterable[str] = ()) -> None:
        """users: the names under which the secrets are used as passwords."""
        forms = {form for secret in secrets for form in _forms(secret, tuple(users))}
        # a longer one first: a shorter one may be a part of it
        self._forms = sorted(forms, key=lambda form: (-len(form), form))

    @classmethod
    def of(cls, config: NodeConfig | ClientConfig) -> "Redactor":
        """With what is in the files of secrets of that configuration. Raises CannotRead."""
        secrets: set[str] = set()
        for file in secret_files(config):
            secrets.update(_secrets_in(file))
        return cls(secrets, {entry.https_user for entry in config.repositories})

    def clean(self, text: str) -> str:
        """The text without secrets."""
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text


def secret_files(config: NodeConfig | ClientConfig) -> list[Path]:
    """The files of secrets that a configuration names, each once."""
    entries: list[NodeConfig | ClientConfig | RepositoryEntry | LoginConfig] = [
        config,
        *config.repositories,
    ]
    if isinstance(config, ClientConfig) and config.login is not None:
        entries.append(config.login)
    found = [
        value / _IN_FOLDERS[key] if key in _IN_FOLDERS else value
        for entry in entries
        for key, value in msgspec.structs.asdict(entry).items()
        if isinstance(value, Path) and key not in PUBLIC
    ]
    return list(dict.fromkeys(found))


def _secrets_in(file: Path) -> Iterator[str]:
    try:
        with file.open("rb") as stream:
            data = stream.read(SECRET_BYTES_MAX)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotRead(f"{file} cannot be read ({error.strerror})") from error
    text = data.decode(errors="replace")
    yield from (line.strip() for line in text.splitlines() if not line.startswith("-----"))
    try:
        yield from _values(json.loads(text))
    except (ValueError, RecursionError):
        return


def _values(value: object) -> Iterator[str]:
    """All that is text in a file of registry logins; in base64 is `user:password`."""
    if isinstance(value, dict):
        for part in value.values():
            yield from _values(part)
    elif isinstance(value, str):
        yield value
        try:
            login = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            return
        yield login
        yield login.partition(":")[2]


def _forms(secret: str, users: tuple[str, ...]) -> Iterator[str]:
    if len(secret) < SECRET_CHARACTERS_MIN:
        return
    yield secret
    yield quote(secret, safe="")
    yield json.dumps(secret)[1:-1]
    for text in (secret, *(f"{user}:{secret}" for user in users)):
        yield base64.b64encode(text.encode()).decode()
