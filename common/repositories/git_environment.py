"""What git is told through its environment, and the grammar of the URLs that it may be given.

git is started for strangers' repositories. Nothing of the machine's own configuration counts, it
never asks anybody anything, runs no hook and no helper, and speaks only the protocols named.
"""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

PROTOCOLS = frozenset({"https", "http", "ssh", "git", "file"})
URL_CHARACTERS_MAX = 1024


# Of the node's own environment only these may reach git: where the certificates are, and where
# git and GitPython themselves are.
INHERITED = frozenset({"GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_EXEC_PATH"})
INHERITED_PREFIX = "GIT_PYTHON_"

# Where the token is, for the helper below; the token itself is in no variable and no argument.
LOGIN_FILE_VARIABLE = "PBFT_CI_TOKEN_FILE"
LOGIN_USER_VARIABLE = "PBFT_CI_TOKEN_USER"
# git runs it in a shell of its own, which reads the file and answers through a pipe. `read` and
# `printf` are the shell's own, so that the token is never an argument of a process either.
_LOGIN_HELPER = (
    '!f() { test "$1" = get || exit 0; IFS= read -r token <"$PBFT_CI_TOKEN_FILE";'
    ' test -n "$token" || exit 0;'
    ' printf "username=%s\\npassword=%s\\n" "$PBFT_CI_TOKEN_USER" "$token"; }; f'
)

# ssh without anything of the machine's own: no configuration, no agent, no other keys, no hosts
# but those of the operator's file, and nothing written into it.
_SSH_OF_AN_ENTRY = (
    *("ssh", "-F", "/dev/null", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes"),
    *("-oIdentitiesOnly=yes", "-oIdentityAgent=none", "-oForwardAgent=no"),
    *("-oClearAllForwardings=yes", "-oGlobalKnownHostsFile=/dev/null", "-oUpdateHostKeys=no"),
    "-oPreferredAuthentications=publickey",
)

# Configuration of the highest rank (git >= 2.31), above any file.
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.symlinks": "false",
    "core.fsmonitor": "false",
    "submodule.recurse": "false",
    # a broken or hostile object is refused on its way in
    "transfer.fsckObjects": "true",
    # What honest old projects have in their histories, and nobody is harmed by.
    **dict.fromkeys(
        (
            *("fetch.fsck.badTimezone", "fetch.fsck.missingSpaceBeforeDate"),
            *("fetch.fsck.zeroPaddedFilemode", "fetch.fsck.missingSpaceBeforeEmail"),
        ),
        "ignore",
    ),
    # What we refuse ourselves, by rules that are the same on every replica: git's refusal differs
    # between its versions, and would keep a whole branch away for one commit of its past.
    **dict.fromkeys(
        (
            *("fetch.fsck.hasDot", "fetch.fsck.hasDotdot", "fetch.fsck.hasDotgit"),
            *("fetch.fsck.fullPathname", "fetch.fsck.gitmodulesUrl", "fetch.fsck.gitmodulesName"),
            *("fetch.fsck.gitmodulesPath", "fetch.fsck.gitmodulesSymlink"),
            *("fetch.fsck.gitmodulesBlob", "fetch.fsck.gitmodulesLarge"),
            "fetch.fsck.gitmodulesUpdate",
        ),
        "ignore",
    ),
    # a password in a URL would end up in process lists and logs
    "transfer.credentialsInUrl": "die",
    "credential.helper": "",
    # a listed server must not send us to an unlisted one
    "http.followRedirects": "false",
    # housekeeping runs inside our time limit, never as a process left behind
    "gc.autoDetach": "false",
}

_HELPER = re.compile(r"[A-Za-z0-9+.-]+::")
_SCP_LIKE = re.compile(r"([A-Za-z0-9_.][A-Za-z0-9_.-]*@)?[A-Za-z0-9_.][A-Za-z0-9_.-]*:[^/:].*")


class GitAccess(msgspec.Struct, frozen=True):
    """How one repository's server is logged in to; all None for a public one.

    https_user goes with the token. ca_file: the authorities that the server's certificate is
    checked against, instead of the machine's own.
    """

    ssh_key_file: Path | None = None
    known_hosts_file: Path | None = None
    https_token_file: Path | None = None
    https_user: str = "git"
    ca_file: Path | None = None


PUBLIC = GitAccess()


def git_environment(
    protocols: Iterable[str], home: Path, url: str = "", *, access: GitAccess = PUBLIC
) -> dict[str, str]:
    """The variables to run git with: isolated, and only these protocols allowed.

    protocols: of the operator's own `repositories:` entries (`protocol_of`). home: an empty
    folder. What a node inherited is dropped apart (`is_foreign_variable`): git takes the mere
    presence of some variables for a yes, so that they cannot be overridden.
    url: the only one that `access` is for; a token is given to no other host.
    """
    environment = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "SSH_ASKPASS": "/bin/false",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": ":".join(sorted(set(protocols))),
        "GIT_PROTOCOL_FROM_USER": "0",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oStrictHostKeyChecking=yes",
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        # what git says is read by us
        "LC_ALL": "C",
        "LANGUAGE": "C",
    }
    configuration = list(_SETTINGS.items())
    if access.ssh_key_file is not None and access.known_hosts_file is not None:
        files = (f"-oUserKnownHostsFile={access.known_hosts_file}", "-i", str(access.ssh_key_file))
        environment["GIT_SSH_COMMAND"] = shlex.join((*_SSH_OF_AN_ENTRY, *files))
        # git would guess from the program's name
        environment["GIT_SSH_VARIANT"] = "ssh"
    if access.https_token_file is not None:
        environment[LOGIN_FILE_VARIABLE] = str(access.https_token_file)
        environment[LOGIN_USER_VARIABLE] = access.https_user
        configuration.append((f"credential.https://{urlsplit(url).netloc}.helper", _LOGIN_HELPER))
    if access.ca_file is not None:
        environment["GIT_SSL_CAINFO"] = str(access.ca_file)
    environment["GIT_CONFIG_COUNT"] = str(len(configuration))
    for index, (key, value) in enumerate(configuration):
        environment[f"GIT_CONFIG_KEY_{index}"] = key
        environment[f"GIT_CONFIG_VALUE_{index}"] = value
    return environment


def is_foreign_variable(name: str) -> bool:
    """Whether a variable of the node's own environment would steer git, and must be dropped."""
    return (
        name.startswith("GIT_") and name not in INHERITED and not name.startswith(INHERITED_PREFIX)
    )


def protocol_of(url: str) -> str:
    """One of PROTOCOLS. Raises ValueError, saying why, for anything that git must not be given.

    `ext::` and other remote helpers run programs, so they are refused whoever lists them.
    """
    if not url or len(url) > URL_CHARACTERS_MAX:
        raise ValueError(f"a URL has 1 to {URL_CHARACTERS_MAX} characters")
    if url.startswith("-"):
        raise ValueError("a URL must not start with '-'")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("a URL must not contain spaces or control characters")
    if _HELPER.match(url):
        raise ValueError("remote helpers ('name::address') run programs and are not allowed")
    if url.startswith("/"):
        return "file"
    if "://" in url:
        try:
            scheme = urlsplit(url).scheme
        except ValueError as error:
            raise ValueError(f"not a URL: {error}") from error
        if scheme not in PROTOCOLS:
            raise ValueError(f"protocol '{scheme}' is not one of {', '.join(sorted(PROTOCOLS))}")
        return scheme
    if _SCP_LIKE.fullmatch(url):
        return "ssh"
    raise ValueError("neither protocol://..., host:path nor an absolute path")
