"""Which server has an input, and at which address.

Addresses follow from the tool's own protocol: npm's registries, Go's module proxies ("GOPROXY
protocol" in the Go Modules Reference), and a folder of crates. Of pip an index has to be asked.
"""

import fnmatch
import re
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from common.dependencies.lock_file import Input, Tool
from node.dependencies.fetch_messages import Server

_CAPITAL = re.compile("[A-Z]")


def server_of(servers: Sequence[Server], tool: Tool, name: str) -> Server | None:
    """The first whose names match; None: this operator names nobody for it."""
    for server in servers:
        if server.tool is tool and any(fnmatch.fnmatchcase(name, glob) for glob in server.names):
            return server
    return None


def address_of(wanted: Input, server: Server) -> str:
    """Where the bytes of an input are; of a package of pip, the page of its index."""
    if wanted.url is not None:
        return wanted.url
    assert server.url is not None, "only files have none, and those have addresses of their own"
    base = server.url.rstrip("/")
    match wanted.tool:
        case Tool.PIP:
            return f"{base}/{wanted.name}/"
        case Tool.NPM:
            last = wanted.name.rpartition("/")[2]
            return f"{base}/{quote(wanted.name, safe='@/')}/-/{quote(last)}-{wanted.version}.tgz"
        case Tool.GO:
            return f"{base}/{go_path(wanted)}"
        case Tool.CARGO:
            return f"{base}/{wanted.name}/{wanted.name}-{wanted.version}.crate"
        case Tool.FILES:
            raise AssertionError("a file has an address of its own")


def go_path(wanted: Input) -> str:
    """Where a module's files or its go.mod are below a proxy: capitals are escaped."""
    return f"{_escaped(wanted.name)}/@v/{_escaped(wanted.version)}.{wanted.part}"


def file_of(wanted: Input) -> str:
    """A name for the input's file, unique among those of its tool but for pip, whose index says
    it. It may have folders."""
    match wanted.tool:
        case Tool.GO:
            return go_path(wanted)
        case Tool.NPM:
            return f"{wanted.name.replace('/', '+')}-{wanted.version}.tgz"
        case Tool.CARGO:
            return f"{wanted.name}-{wanted.version}.crate"
        case Tool.PIP:
            return (wanted.url or "").partition("#")[0].rpartition("/")[2]
        case Tool.FILES:
            return wanted.name


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port


def _escaped(text: str) -> str:
    """golang.org/x/mod/module, EscapePath: `!` and the small letter for each capital."""
    return _CAPITAL.sub(lambda found: f"!{found[0].lower()}", text)
