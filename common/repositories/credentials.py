"""The files with an operator's secrets for git servers: checked, never shown.

What is in them goes from the file to git's or ssh's own process, and nowhere else: not into a URL,
an argument, a variable, a log, a message or a container. Their names may be shown, and are.
"""

import base64
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from common.config_error import ConfigError
from common.repositories.git_environment import (
    LOGIN_FILE_VARIABLE,
    LOGIN_USER_VARIABLE,
    GitAccess,
    protocol_of,
)

SECRET_BYTES_MAX = 64 * 1024
# lists of hosts and of authorities grow
PUBLIC_BYTES_MAX = 8 * 1024 * 1024
# a shorter one is a typing error, and could not be told from ordinary words in a message
TOKEN_CHARACTERS_MIN = 8
TOKEN_CHARACTERS_MAX = 4096
HIDDEN = "(hidden)"

# ssh takes these apart itself in the paths that it is given
_ODD_FOR_SSH = re.compile(r"[\s\"'%$\\]")

_WRONG_KEY = re.compile(
    r"Permission denied \(|Load key |invalid format|UNPROTECTED PRIVATE KEY|"
    r"Too many authentication failures|no such identity",
    re.IGNORECASE,
)
_UNKNOWN_HOST = re.compile(
    r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED", re.IGNORECASE
)
_WRONG_TOKEN = re.compile(
    r"Authentication failed|could not read (Username|Password)|returned error: 40[13]|"
    r"HTTP Basic: Access denied|repository '.*' not found",
    re.IGNORECASE,
)
_UNTRUSTED = re.compile(
    r"certificate problem|certificate verification failed|setting certificate verify locations|"
    r"certificate signer not trusted",
    re.IGNORECASE,
)


def check_access(access: GitAccess, url: str, file: Path, *, key: str) -> None:
    """Refuse a login that cannot work or that others may read. Raises ConfigError.

    url: what is fetched from. key: of the repository's entry in `file`.
    """
    try:
        protocol = protocol_of(url)
    except ValueError:
        # told where the repository is used, with all that is wrong about it
        protocol = ""
    if (access.ssh_key_file is None) != (access.known_hosts_file is None):
        missing = "ssh_key_file" if access.ssh_key_file is None else "known_hosts_file"
        raise ConfigError.at(
            file,
            f"{key}.{missing}",
            "is missing",
            "ssh_key_file and known_hosts_file go together (ssh-keyscan HOST prints the latter)",
        )
    for name, needed in (("ssh_key_file", "ssh"), ("https_token_file", "https")):
        if getattr(access, name) is not None and protocol != needed:
            raise ConfigError.at(
                file,
                f"{key}.{name}",
                f"is not for {url}",
                f"it goes with an address that is fetched by {needed}",
            )
    for name, path in (
        ("ssh_key_file", access.ssh_key_file),
        ("known_hosts_file", access.known_hosts_file),
    ):
        if path is not None and _ODD_FOR_SSH.search(str(path)):
            raise ConfigError.at(
                file,
                f"{key}.{name}",
                f"{path} has a space, a quote, '%', '$' or '\\'",
                "ssh takes no such path",
            )
    if access.ssh_key_file is not None:
        check_secret_file(access.ssh_key_file, file, f"{key}.ssh_key_file")
    if access.https_token_file is not None:
        _check_token(access.https_token_file, file, f"{key}.https_token_file")
    if not access.https_user.isprintable() or not access.https_user or ":" in access.https_user:
        raise ConfigError.at(
            file, f"{key}.https_user", "is no name of a user", "printable, without ':'"
        )
    for name, path in (
        ("known_hosts_file", access.known_hosts_file),
        ("ca_file", access.ca_file),
    ):
        if path is not None:
            _read(path, file, f"{key}.{name}", bytes_max=PUBLIC_BYTES_MAX)


def check_secret_file(path: Path, file: Path, key: str) -> bytes:
    """The bytes of a file that only its owner may read. Raises ConfigError, naming all three."""
    data, mode = _read(path, file, key, bytes_max=SECRET_BYTES_MAX)
    if mode & 0o077:
        raise ConfigError.at(
            file,
            key,
            f"others may read {path} (mode {mode:04o})",
            f"only its owner may: chmod 600 {path}",
        )
    return data


def hide_secrets(text: str, environment: Mapping[str, str]) -> str:
    """The text without the token that this environment of git leads to, in any usual form.

    git shows no token; but a server that was given one could say it back.
    """
    path = environment.get(LOGIN_FILE_VARIABLE)
    if path is None:
        return text
    try:
        with open(path, "rb") as stream:
            data = stream.read(SECRET_BYTES_MAX)
    except OSError:
        return text
    token = data.partition(b"\n")[0].decode(errors="replace").strip()
    if len(token) < TOKEN_CHARACTERS_MIN:
        return text
    login = f"{environment.get(LOGIN_USER_VARIABLE, '')}:{token}".encode()
    forms = (token, quote(token, safe=""), base64.b64encode(login).decode())
    for form in forms:
        text = text.replace(form, HIDDEN)
    return text


def access_problem(complaint: str, url: str, access: GitAccess) -> str | None:
    """What a person should look at, where git's complaint is about the login; else None."""
    host = urlsplit(url).netloc.rpartition("@")[2] or url.partition(":")[0]
    if _UNKNOWN_HOST.search(complaint):
        if access.known_hosts_file is None:
            return f"{host} shows a key that this machine does not know: set known_hosts_file"
        return f"{host} shows a key that is not in known_hosts_file {access.known_hosts_file}"
    if _WRONG_KEY.search(complaint):
        if access.ssh_key_file is None:
            return f"{host} wants a login: set ssh_key_file and known_hosts_file"
        return f"{host} did not accept ssh_key_file {access.ssh_key_file}"
    if _UNTRUSTED.search(complaint):
        if access.ca_file is None:
            return f"{host} shows a certificate that this machine does not trust: set ca_file"
        return f"{host} shows a certificate that is not of ca_file {access.ca_file}"
    if url.startswith("https:") and _WRONG_TOKEN.search(complaint):
        if access.https_token_file is None:
            return f"{host} wants a login, or has no such repository: set https_token_file"
        return f"{host} did not accept https_token_file {access.https_token_file}"
    return None


def _check_token(path: Path, file: Path, key: str) -> None:
    data = check_secret_file(path, file, key)
    line, _, rest = data.removesuffix(b"\n").partition(b"\n")
    is_plain = line.isascii() and line.decode("ascii", "replace").isprintable()
    is_plain = is_plain and TOKEN_CHARACTERS_MIN <= len(line) <= TOKEN_CHARACTERS_MAX
    if rest or not is_plain or b" " in line:
        raise ConfigError.at(
            file,
            key,
            f"{path} does not hold one line with a token",
            f"{TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX} printable characters are needed",
        )


def _read(path: Path, file: Path, key: str, *, bytes_max: int) -> tuple[bytes, int]:
    """A small file's bytes, and who may do what with it. Raises ConfigError."""
    try:
        # a pipe in its place must not hold us up
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            status = os.fstat(stream.fileno())
            is_file = stat.S_ISREG(status.st_mode)
            data = stream.read(bytes_max + 1) if is_file else b""
    except FileNotFoundError as error:
        raise ConfigError.at(
            file, key, f"there is no file {path}", "the path of a file is needed"
        ) from error
    except OSError as error:
        raise ConfigError.at(
            file, key, f"{path} cannot be read ({error.strerror})", "a readable file is needed"
        ) from error
    if not is_file or not data or len(data) > bytes_max:
        raise ConfigError.at(
            file, key, f"{path} is empty, too large or no plain file", "a small file is needed"
        )
    return data, stat.S_IMODE(status.st_mode)
