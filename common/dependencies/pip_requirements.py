"""requirements.txt as `pip-compile --generate-hashes` and `uv pip compile` write it.

Each line pins one release with `==` and names the hashes of its files, as pip's hash-checking mode
asks for (pip documentation, "Secure installs"; "Requirements File Format"). Options that say where
packages come from are passed over: the operator alone decides that.
"""

import re
from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from common.dependencies.lock_file import Input, LockWriter, Tool, hex_digest, shown

COMPILE = "write it with `pip-compile --generate-hashes` or `uv pip compile --generate-hashes`"
REQUIREMENT_CHARACTERS_MAX = 4096
# Behind a space or at the beginning. It looks at one character, so that long lines cost no more.
_COMMENT = re.compile(r"(?<!\S)#")
_HASH = re.compile(r"--hash[= ]\s*(\S+)")
# Where packages come from and how they are looked for, which has no meaning in a build without
# network, and that hashes are asked for, which they always are.
_PASSED_OVER = (
    *("-i", "--index-url", "--extra-index-url", "--no-index", "-f", "--find-links"),
    *("--trusted-host", "--require-hashes", "--prefer-binary", "--use-feature"),
    *("--only-binary", "--no-binary"),
)
_OTHER_FILES = ("-r", "--requirement", "-c", "--constraint")


def read_requirements(data: bytes, writer: LockWriter) -> None:
    """Note what the file pins. Raises TooManyInputs."""
    text = data.decode("utf-8-sig", "replace")
    for number, joined in _logical_lines(text):
        if writer.is_full:
            return
        line = _without_comment(joined)
        if not line:
            continue
        place = f"line {number}"
        if line.startswith("-"):
            _read_option(line, place, writer)
        else:
            _read_requirement(line, place, writer)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, joined where a backslash ends one; the number of the first of each.

    A comment ends a joined line, as it does for pip (pip._internal.req.req_file).
    """
    parts: list[str] = []
    first = 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        is_comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not is_comment:
            parts.append(line.strip("\\"))
            continue
        parts.append(f" {line}" if is_comment else line)
        yield first, "".join(parts)
        parts, first = [], 0
    yield first, "".join(parts)


def _without_comment(line: str) -> str:
    comment = _COMMENT.search(line)
    return (line if comment is None else line[: comment.start()]).strip()


def _read_option(line: str, place: str, writer: LockWriter) -> None:
    option = re.split(r"[\s=]", line, maxsplit=1)[0]
    if option in _PASSED_OVER:
        return
    if option in _OTHER_FILES or line[:2] in ("-r", "-c"):
        writer.flaw(
            place,
            f"{shown(line)} names another file",
            "give that file a `- pip:` line of its own",
        )
    elif option in ("-e", "--editable"):
        writer.flaw(
            place, f"{shown(line)} has no hash", "install what is in the repository by a command"
        )
    else:
        writer.flaw(place, f"the option {shown(option)} is not known here", COMPILE)


def _read_requirement(line: str, place: str, writer: LockWriter) -> None:
    hashes = _HASH.findall(line)
    text = _HASH.sub("", line).strip()
    try:
        if len(text) > REQUIREMENT_CHARACTERS_MAX:
            raise InvalidRequirement("too long")
        requirement = Requirement(text)
    except (InvalidRequirement, RecursionError):
        writer.flaw(place, f"{shown(text)} is no requirement with a name", COMPILE)
        return
    version = ""
    if requirement.url is None:
        pins = [pin for pin in requirement.specifier if pin.operator in ("==", "===")]
        if len(pins) != 1 or len(requirement.specifier) != 1 or "*" in pins[0].version:
            writer.flaw(place, f"{shown(text)} is not pinned with ==", COMPILE)
            return
        version = pins[0].version
    elif not requirement.url.startswith("https://"):
        writer.flaw(place, f"{shown(requirement.url)} is no address of https", COMPILE)
        return
    if not hashes:
        writer.flaw(place, f"{shown(requirement.name)} has no --hash", COMPILE)
        return
    digests = {hex_digest(*given.partition(":")[::2]) for given in hashes}
    if None in digests:
        writer.flaw(
            place, f"{shown(requirement.name)} has a hash that is no SHA-256 or SHA-512", COMPILE
        )
        return
    writer.add(
        Input(
            tool=Tool.PIP,
            name=canonicalize_name(requirement.name),
            version=version,
            digests=tuple(sorted(digest for digest in digests if digest)),
            url=requirement.url,
            marker="" if requirement.marker is None else str(requirement.marker),
            place=place,
        )
    )
