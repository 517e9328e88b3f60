"""Translates a registry's answer into our own words.

An engine passes on what a registry sent it: headers, bodies, and those of an address to which the
registry redirected the engine. The author of a pipeline may choose the registry, and can read the
build's log and every ballot. So no text of an engine about a registry leaves this module: it
becomes one of the answers below.
"""

import re

import msgspec

from node.work.infrastructure_error import InfrastructureError


class ImageAbsent(msgspec.Struct, frozen=True):
    """The registry answered that there is no such image."""


class RegistryRefuses(InfrastructureError):
    """The registry wants a login, or another one; it may also have no such image."""


# "denied" is not among them: it may also mean that this operator lacks a login.
_ABSENT = re.compile(
    r"manifest unknown|manifest for \S+ not found|name unknown|repository name not known", re.I
)
_REFUSED = re.compile(
    r"unauthorized|authentication required|no basic auth credentials|access denied|is denied"
    r"|incorrect username or password|status: 40[13]|40[13] (Unauthorized|Forbidden)",
    re.IGNORECASE,
)
# The first that fits; the engine's own failures first.
_TROUBLES = (
    (r"no space left on device", "the disk of the Docker engine is full"),
    (r"toomanyrequests|429 Too Many", "its registry was asked too often (429)"),
    (r"x509|certificate|HTTP response to HTTPS client", "its registry has no valid certificate"),
    (
        r"connection refused|no such host|no route to host|network is unreachable|timeout"
        r"|deadline exceeded|connection reset|Temporary failure|server misbehaving|\bEOF\b",
        "its registry cannot be reached",
    ),
    (r"", "the Docker engine can make nothing of its registry's answer"),
)


def absent_or_raise(name: str, message: str) -> ImageAbsent:
    """ImageAbsent where the registry has no such image; for all else raises InfrastructureError.

    name: of the image. message: the engine's, never shown. Raises RegistryRefuses where the
    registry lets nobody in without another login.
    """
    if _ABSENT.search(message) is not None:
        return ImageAbsent()
    if _REFUSED.search(message) is not None:
        raise RegistryRefuses(f"image {name} cannot be pulled: its registry wants a login")
    found = next(words for pattern, words in _TROUBLES if re.search(pattern, message, re.I))
    raise InfrastructureError(
        f"image {name} cannot be pulled: {found}; the engine's log has its answer"
    )
