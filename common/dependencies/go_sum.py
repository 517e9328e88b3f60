"""go.sum: the hashes of Go modules and of their go.mod files (Go Modules Reference, "go.sum
files"). Pure.
"""

import re

from common.dependencies.lock_file import Input, LockWriter, Tool, go_digest, shown

TIDY = "run `go mod tidy` and commit go.sum"
MODULE_FILES, GO_MOD = "zip", "mod"
_GO_MOD_SUFFIX = "/go.mod"
# golang.org/x/mod/module, CheckPath: what a module's path has between slashes.
_PATH = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
_VERSION = re.compile(r"v[0-9]+\.[0-9]+\.[0-9]+([+-][0-9A-Za-z.+-]*)?")


def read_go_sum(data: bytes, writer: LockWriter) -> None:
    """Note what the file pins. Raises TooManyInputs."""
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if writer.is_full:
            return
        place = f"line {number}"
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3:
            writer.flaw(place, f"{shown(line)} is no module, version and hash", TIDY)
            continue
        path, version, given = fields
        part = GO_MOD if version.endswith(_GO_MOD_SUFFIX) else MODULE_FILES
        version = version.removesuffix(_GO_MOD_SUFFIX)
        digest = go_digest(given)
        if digest is None:
            writer.flaw(place, f"{shown(given)} is no h1 hash", TIDY)
        elif not _PATH.fullmatch(path) or not _VERSION.fullmatch(version):
            writer.flaw(place, f"{shown(f'{path} {version}')} is no module and version", TIDY)
        else:
            writer.add(Input(Tool.GO, path, version, (digest,), part=part, place=place))
