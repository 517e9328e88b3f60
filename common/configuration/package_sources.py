"""Where a node fetches what lock files name (`sources` of node.yml).

The rule: the operator alone decides which server has a package, by its name. The first entry of the
tool whose `names` match is asked, and no other one: so no public server can answer for the name of
a private package.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from common.config_error import ConfigError
from common.dependencies.lock_file import Tool
from common.host_patterns import is_host_pattern
from common.repositories.credentials import check_secret_file

SOURCES_MAX = 64
LOGIN_BYTES_MAX = 8192

SourceUrl = Annotated[
    str,
    msgspec.Meta(
        max_length=1024,
        pattern=r"^https?://[!-?A-~]+\Z",
        description="http:// or https://, without a login (credentials_file has that)",
    ),
]
_Glob = Annotated[str, msgspec.Meta(min_length=1, max_length=214)]


class PackageSource(msgspec.Struct, frozen=True, kw_only=True):
    """One server of packages.

    url: pip: the simple index (PEP 503). npm: the registry. go: as GOPROXY. cargo: the folder with
        `<crate>/<crate>-<version>.crate`. files: none; an entry for those lists hosts.
    names: globs for the names of packages that it is asked for.
    hosts: patterns (`common.host_patterns`) for other hosts that its answers may send a node to.
    credentials_file: one line, `user:password` or a token. It goes to the host of `url` alone.
    ca_file: the authorities that its certificate is checked against; None: this machine's.
    """

    tool: Tool
    url: SourceUrl | None = None
    names: tuple[_Glob, ...] = ("*",)
    hosts: tuple[str, ...] = ()
    credentials_file: Path | None = None
    ca_file: Path | None = None


def check_sources(sources: Sequence[PackageSource], file: Path) -> None:
    """Raises ConfigError."""
    if len(sources) > SOURCES_MAX:
        raise ConfigError.at(
            file, "sources", f"has {len(sources)} entries", f"at most {SOURCES_MAX}"
        )
    for source in sources:
        if (source.url is None) is not (source.tool is Tool.FILES):
            problem = (
                "is missing" if source.url is None else "is there for files, which have their own"
            )
            raise ConfigError.at(
                file, f"sources: {source.tool}: url", problem, "see docs/OPERATING.md"
            )
        for pattern in source.hosts:
            if not is_host_pattern(pattern):
                raise ConfigError.at(
                    *(
                        file,
                        f"sources: {source.tool}: hosts",
                        f"'{pattern}' is no pattern for hosts",
                    ),
                    "packages.example.org or *.example.org",
                )
        if source.credentials_file is not None:
            read_login(source.credentials_file, file)


def read_login(path: Path, file: Path) -> str:
    """The line of a credentials_file. Raises ConfigError, without its content."""
    text = check_secret_file(path, file, "sources: credentials_file").decode(errors="replace")
    line = text.strip()
    if not line or len(text) > LOGIN_BYTES_MAX or not (line.isascii() and line.isprintable()):
        raise ConfigError.at(
            *(file, "sources: credentials_file", f"{path} holds no login"),
            "one line with user:password or a token is needed",
        )
    return line
