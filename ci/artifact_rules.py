"""Which lists of artifacts can be agreed on, their digest, and how two of them differ. Pure.

A path is relative to the workspace, its parts joined by `/`: no `.`, no `..`, nothing empty, and no
character that a terminal, a header or a file system may take for something else. The rule names
characters and asks no table of Unicode: those differ between versions of Python, and replicas
must not.
"""

import hashlib
import itertools
import re
from collections.abc import Sequence

import msgspec

from ci.limits import Limits
from ci.operations import Artifact

PATH_BYTES_MAX = 255
# Control characters, the quote and the backslash; separators, marks of direction and width;
# surrogates and what is no character.
_FORBIDDEN = re.compile(
    r'[\x00-\x1f"\\\x7f-\xa0\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f'
    r"\u3000\u3164\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\uffff\U000e0000-\U0010ffff]"
)


# Of the list of what went into a build (docs/PIPELINES.md). The node writes it, never the build.
BILL_OF_MATERIALS = "pbft-ci/sbom.cdx.json"


class ArtifactDifference(msgspec.Struct, frozen=True):
    """One path at which values differ: what each of them has there, None where it is missing."""

    path: str
    found: tuple[Artifact | None, ...]


def path_problem(path: str) -> str | None:
    """Why this cannot be the path of an artifact; None: it can."""
    if not path:
        return "is empty"
    if _FORBIDDEN.search(path):
        return "has a character that a path here cannot have (control, quote, backslash, blank)"
    if len(path.encode()) > PATH_BYTES_MAX:
        return f"is longer than {PATH_BYTES_MAX} bytes"
    if path.startswith("/"):
        return "is absolute; paths are relative to the workspace"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "has a part that is empty, `.` or `..`"
    return None


def artifacts_refusal(artifacts: Sequence[Artifact], limits: Limits) -> str | None:
    """Why no build can have made this list of artifacts; None: it can. A fixed, short text."""
    if len(artifacts) > limits.artifacts_max:
        return f"more than {limits.artifacts_max} artifacts"
    if sum(artifact.length for artifact in artifacts) > limits.artifact_bytes_max:
        return f"artifacts of more than {limits.artifact_bytes_max} bytes"
    paths = [artifact.path for artifact in artifacts]
    if any(path_problem(path) for path in paths):
        return "an artifact's path is not a plain relative path"
    if any(first >= second for first, second in itertools.pairwise(paths)):
        return "the artifacts are not sorted by path, each once"
    return None


def artifacts_sha256(artifacts: Sequence[Artifact]) -> str | None:
    """One digest (hex) for a whole list; None for the empty one."""
    if not artifacts:
        return None
    return hashlib.sha256(msgspec.msgpack.encode(tuple(artifacts))).hexdigest()


def artifact_differences(values: Sequence[Sequence[Artifact]]) -> tuple[ArtifactDifference, ...]:
    """The paths, sorted, at which these lists of artifacts are not all the same."""
    by_path = [{artifact.path: artifact for artifact in value} for value in values]
    differences = []
    for path in sorted({path for value in by_path for path in value}):
        found = tuple(value.get(path) for value in by_path)
        if len(set(found)) > 1:
            differences.append(ArtifactDifference(path, found))
    return tuple(differences)
