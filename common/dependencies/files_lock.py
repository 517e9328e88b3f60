"""Our own lock file of single files: a YAML list of `url`, `sha256` and `name`. Pure."""

import re

from common.dependencies.lock_file import Input, LockWriter, Tool, hex_digest, shown
from common.yaml_text import YamlError, load_yaml

KEYS = frozenset({"url", "sha256", "name"})
BYTES_MAX = 2**20
WRITE = "write `- {url: https://..., sha256: <64 hexadecimal digits>, name: <a file name>}`"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~-]*")


def read_files_lock(data: bytes, writer: LockWriter) -> None:
    """Note what the file pins. Raises TooManyInputs."""
    try:
        value, line_of = load_yaml(data, bytes_max=BYTES_MAX)
    except YamlError as error:
        writer.flaw(f"line {error.line}", str(error), WRITE)
        return
    if not isinstance(value, list):
        writer.flaw("", "is no list of files", WRITE)
        return
    for index, entry in enumerate(value):
        if writer.is_full:
            return
        place = f"line {line_of((index,))}"
        if not isinstance(entry, dict) or set(entry) != KEYS:
            writer.flaw(place, "has other keys than url, sha256 and name", WRITE)
            continue
        url, name = str(entry["url"]), str(entry["name"])
        digest = hex_digest("sha256", str(entry["sha256"]))
        if not url.startswith("https://"):
            writer.flaw(place, f"{shown(url)} is no address of https", WRITE)
        elif digest is None:
            writer.flaw(
                place,
                f"{shown(str(entry['sha256']))} is no SHA-256",
                "`sha256sum FILE` prints it",
            )
        elif not _NAME.fullmatch(name):
            writer.flaw(place, f"{shown(name)} is no plain file name", WRITE)
        else:
            writer.add(Input(Tool.FILES, name, "", (digest,), url=url, place=place))
