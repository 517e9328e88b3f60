"""What a lock file says, whichever tool wrote it: packages and files, each with its digests. Pure.

The rule: a lock file names bytes, and nothing else of it counts. It never decides where they come
from. What it does not pin by a digest of SHA-256 or more is a flaw, never fetched on trust.

A lock file is a stranger's: it has limits, and what cannot be read is a flaw with its place.
"""

import base64
import binascii
import enum
import re

import msgspec

from common.safe_text import log_text

LOCK_BYTES_MAX = 16 * 2**20
INPUTS_MAX = 20_000
FLAWS_MAX = 50
NAME_CHARACTERS_MAX = 214
VERSION_CHARACTERS_MAX = 128
URL_CHARACTERS_MAX = 2048
# Characters of what a flaw quotes.
SHOWN_CHARACTERS_MAX = 80

_HEX_CHARACTERS = {"sha256": 64, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")
# The hash of a Go module (golang.org/x/mod/sumdb/dirhash, Hash1): a SHA-256 in base 64.
_GO_DIGEST = re.compile(r"h1:[A-Za-z0-9+/]{43}=")


class Tool(enum.StrEnum):
    """Whose lock file it is; `files` is our own list of addresses."""

    PIP = "pip"
    NPM = "npm"
    GO = "go"
    CARGO = "cargo"
    FILES = "files"


class Input(msgspec.Struct, frozen=True):
    """A package or a file that a lock file pins.

    name, version: as the tool's registry knows them; a file of `files` has no version.
    digests: sorted. Bytes are right if they have one of them. Each is `sha256:<hex>`,
    `sha512:<hex>` or Go's `h1:<base64>`, which is of a module's files and not of its archive.
    url: where it is, if no registry has it.
    part: of Go, `zip` for the module's files and `mod` for its go.mod; else empty.
    marker: of pip, for which environments it is (PEP 508); else empty.
    place: where the lock file names it: `line 12`, or a key.
    """

    tool: Tool
    name: str
    version: str
    digests: tuple[str, ...]
    url: str | None = None
    part: str = ""
    marker: str = ""
    place: str = ""


class Flaw(msgspec.Struct, frozen=True):
    """Why a lock file cannot be built from. place: as in Input, or empty for all of the file.

    remedy: what its author can do about it.
    """

    place: str
    problem: str
    remedy: str

    @property
    def text(self) -> str:
        """One line."""
        return f"{self.place + ': ' if self.place else ''}{self.problem}: {self.remedy}"


class LockFile(msgspec.Struct, frozen=True):
    """What was read. With flaws it is not built from, and `inputs` are those that could be read.

    Inputs are in the order of the file, each once. At most FLAWS_MAX flaws are named; are_more:
    there were more of them.
    """

    inputs: tuple[Input, ...]
    flaws: tuple[Flaw, ...]
    are_more: bool = False


class LockWriter:
    """Collects what a reader finds, within the limits."""

    def __init__(self) -> None:
        self._inputs: dict[tuple[str, str, str, str], Input] = {}
        self._flaws: list[Flaw] = []

    @property
    def is_full(self) -> bool:
        """Whether nothing more is taken: there are too many flaws."""
        return len(self._flaws) > FLAWS_MAX

    def flaw(self, place: str, problem: str, remedy: str) -> None:
        """Note one."""
        self._flaws.append(Flaw(place, problem, remedy))

    def add(self, found: Input) -> None:
        """Note an input; a flaw if its name, version or address is none, or if it is there already
        with other digests. Raises TooManyInputs."""
        for what, text, characters_max in (
            ("name", found.name, NAME_CHARACTERS_MAX),
            ("version", found.version, VERSION_CHARACTERS_MAX),
            ("address", found.url or "", URL_CHARACTERS_MAX),
        ):
            if len(text) > characters_max or not text.isprintable() or not text.isascii():
                self.flaw(
                    found.place,
                    f"the {what} {shown(text)} is too long, or has other characters than visible"
                    " ASCII",
                    "let its tool write the lock file anew",
                )
                return
        key = (found.name, found.version, found.part, found.marker)
        earlier = self._inputs.get(key)
        if earlier is None:
            if len(self._inputs) >= INPUTS_MAX:
                raise TooManyInputs
            self._inputs[key] = found
        elif (earlier.digests, earlier.url) != (found.digests, found.url):
            self.flaw(
                found.place,
                f"{shown(found.name)} {shown(found.version)} is also at {earlier.place}, with"
                " another digest or address",
                "let its tool write the lock file anew",
            )

    def finish(self) -> LockFile:
        """All that was noted."""
        return LockFile(
            tuple(self._inputs.values()),
            tuple(self._flaws[:FLAWS_MAX]),
            len(self._flaws) > FLAWS_MAX,
        )


class TooManyInputs(Exception):
    """There are more than INPUTS_MAX."""


def hex_digest(algorithm: str, text: str) -> str | None:
    """`sha256:<hex>` or `sha512:<hex>`; None if it is none, or the algorithm is too weak."""
    text = text.lower()
    if len(text) != _HEX_CHARACTERS.get(algorithm) or not _HEX.fullmatch(text):
        return None
    return f"{algorithm}:{text}"


def integrity_digests(text: str) -> tuple[str, ...]:
    """The digests of an `integrity` (`sha512-<base64>`, several with spaces between), sorted.

    Only those of the strongest algorithm count (W3C Subresource Integrity, 3.3.4). Empty if there
    is none of SHA-256 or SHA-512.
    """
    found: dict[str, set[str]] = {}
    for part in text.split():
        algorithm, _, value = part.partition("-")
        try:
            raw = base64.b64decode(value.partition("?")[0], validate=True)
        except (binascii.Error, ValueError):
            continue
        if digest := hex_digest(algorithm, raw.hex()):
            found.setdefault(algorithm, set()).add(digest)
    return tuple(sorted(found.get("sha512") or found.get("sha256") or ()))


def go_digest(text: str) -> str | None:
    """The text, if it is one of Go's; else None."""
    return text if _GO_DIGEST.fullmatch(text) else None


def shown(text: str) -> str:
    """Text of the lock file, for a flaw."""
    return log_text(text, SHOWN_CHARACTERS_MAX)
