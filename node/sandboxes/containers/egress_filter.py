"""Whether the egress filter of example-config/egress.nft stands around builds with a network.

The node cannot set it: that is for root. It gives the bridges of its builds the name by which the
filter knows them, and looks at its start whether the filter is there, if it may look. Blocking.
"""

import logging
import os
import secrets
import shutil
import subprocess

# of the bridges that builds get; a bridge's name has 15 characters at most
BRIDGE_PREFIX = "pbftci-"
TABLE = "inet pbft_ci_egress"
ANSWER_SECONDS_MAX = 10
# Debian puts it where the PATH of an ordinary user does not look.
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
# what must be in the table: both hooks, and the bridges
_PARTS = ("hook input", "hook forward", f'iifname "{BRIDGE_PREFIX}*"')
_LISTED = f"nft list table {TABLE}"
WITHOUT = (
    "builds with a network reach this machine's own addresses, metadata services and private"
    " networks: load example-config/egress.nft (docs/OPERATING.md)"
)

_UNIX_SOCKET = "unix://"

_log = logging.getLogger(__name__)


def is_engine_here(docker_host: str | None) -> bool:
    """Whether the engine is on this machine. docker_host: None for DOCKER_HOST or the default."""
    return (docker_host or os.environ.get("DOCKER_HOST") or _UNIX_SOCKET).startswith(_UNIX_SOCKET)


def bridge_name() -> str:
    """A name for the bridge of one build."""
    return BRIDGE_PREFIX + secrets.token_hex(4)


def log_egress_filter(docker_host: str | None) -> None:
    """Log in one line whether the filter stands around that engine's builds."""
    problem = filter_problem(docker_host)
    if problem is None:
        _log.info("network_allowed: the egress filter stands (table %s)", TABLE)
    else:
        _log.warning("network_allowed: the egress filter %s; without it %s", problem, WITHOUT)


def filter_problem(docker_host: str | None) -> str | None:
    """What is wrong with the filter, or why that cannot be seen; None: it stands."""
    if not is_engine_here(docker_host):
        return "cannot be seen: the engine is on another machine"
    program = shutil.which("nft", path=_PATH)
    if program is None:
        return "is not there: the program nft is missing"
    try:
        done = subprocess.run(
            [program, "list", "table", *TABLE.split()],
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be seen ({error}); as root: {_LISTED}"
    if done.returncode != 0:
        if os.geteuid() != 0:
            return f"cannot be seen, which takes root: {_LISTED}"
        return f"is not there (table {TABLE})"
    missing = [part for part in _PARTS if part not in done.stdout]
    return f"lacks `{missing[0]}` in table {TABLE}" if missing else None
