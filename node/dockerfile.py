"""A repository's Dockerfile, made ready for the engine's builder. Pure.

The classic builder knows labels only at the end of a build. So that nothing of a build that was
killed half-way is ever lost, a LABEL instruction goes in behind each FROM: then every intermediate
image and container of the build carries this replica's labels, and can be found and removed.
"""

import json
import re
from collections.abc import Mapping

import msgspec

from common.pipeline import PipelineInvalid
from common.pipeline_values import is_image_name

DOCKERFILE = "Dockerfile"
DOCKERFILE_BYTES_MAX = 64 * 1024

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S+)\s*")
_INSTRUCTION = re.compile(r"\s*(?:ONBUILD\s+)*([A-Za-z]+)(.*)", re.IGNORECASE | re.DOTALL)
_BASE = re.compile(r"\s*(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?\s*", re.IGNORECASE)
# The engine itself fetches the URLs of ADD, from its own network. Without ':', quotes, variables
# and escapes there is no way to write one.
_LOCAL_ADD = re.compile(r"(?:\s+--chown=[A-Za-z0-9_.:-]+)?(?:\s+[A-Za-z0-9_./*?@+,=~-]+)+\s*")
_COPY_FROM = re.compile(r"(?:\s+--\S+)*?\s+--from=(\S+)\s.*", re.DOTALL)
_ADD_PROBLEM = "ADD takes plain file names in one line (no URLs, variables, quotes); use COPY"
_ERROR_LINE = re.compile(r"(dockerfile parse error line )(\d+)", re.IGNORECASE)


class PreparedDockerfile(msgspec.Struct, frozen=True):
    """text: what the builder gets. bases: images that must be on the engine first, in order.

    label_lines: the 1-based lines of `text` that are ours.
    """

    text: bytes
    bases: tuple[str, ...]
    label_lines: tuple[int, ...]

    def original_lines(self, message: str) -> str:
        """A message of the builder with the line numbers of the repository's own file."""

        def correct(found: re.Match[str]) -> str:
            line = int(found[2])
            return f"{found[1]}{line - sum(ours < line for ours in self.label_lines)}"

        return _ERROR_LINE.sub(correct, message)


def prepare_dockerfile(
    data: bytes, labels: Mapping[str, str]
) -> PreparedDockerfile | PipelineInvalid:
    """The Dockerfile with our labels behind each FROM, or why it is not taken."""
    try:
        lines = [line.removesuffix("\r") for line in data.decode().split("\n")]
    except UnicodeDecodeError:
        return _invalid("not UTF-8")
    # physical lines too: builders differ in what continues a line
    for number, line in enumerate(lines, 1):
        if not _adds_only_files(line):
            return _invalid(_ADD_PROBLEM, number)
    label_text = "LABEL " + " ".join(
        f"{json.dumps(key)}={json.dumps(value)}" for key, value in labels.items()
    )
    escape = _escape_character(lines)
    output: list[str] = []
    label_lines: list[int] = []
    bases: list[str] = []
    stages: set[str] = set()
    index = 0
    while index < len(lines):
        end, text = _logical_line(lines, index, escape)
        output += lines[index:end]
        found = _INSTRUCTION.fullmatch(text)
        name = found[1].upper() if found else ""
        if found and name == "FROM":
            base = _BASE.fullmatch(found[2])
            if base is not None:
                if _is_image(base[1], stages):
                    if not is_image_name(base[1]):
                        return _invalid("FROM does not name an image", index + 1)
                    bases.append(base[1])
                if base[2]:
                    stages.add(base[2].lower())
            output.append(label_text)
            label_lines.append(len(output))
        copied = _COPY_FROM.fullmatch(found[2]) if found and name == "COPY" else None
        if copied and not copied[1].isdigit() and _is_image(copied[1], stages):
            if not is_image_name(copied[1]):
                return _invalid("COPY --from does not name an image", index + 1)
            bases.append(copied[1])
        index = end
    if not label_lines:
        return _invalid("has no FROM instruction")
    return PreparedDockerfile(
        ("\n".join(output) + "\n").encode(), tuple(dict.fromkeys(bases)), tuple(label_lines)
    )


def _adds_only_files(line: str) -> bool:
    """False where a line is an ADD that might fetch something."""
    found = _INSTRUCTION.fullmatch(line)
    return found is None or found[1].upper() != "ADD" or _LOCAL_ADD.fullmatch(found[2]) is not None


def _escape_character(lines: list[str]) -> str:
    """The character that continues a line: from the directives at the very top."""
    for line in lines:
        found = _DIRECTIVE.fullmatch(line.strip())
        if found is None:
            break
        if found[1].lower() == "escape" and found[2] == "`":
            return "`"
    return "\\"


def _logical_line(lines: list[str], start: int, escape: str) -> tuple[int, str]:
    """Where the instruction that begins at `start` ends, and its text in one line."""
    first = lines[start].strip()
    if not first or first.startswith("#"):
        return start + 1, ""
    parts: list[str] = []
    index = start
    while index < len(lines):
        line = lines[index]
        index += 1
        stripped = line.strip()
        if index - 1 > start and (not stripped or stripped.startswith("#")):
            # the builder skips comments and empty lines inside an instruction
            continue
        continued = line.rstrip(" \t")
        if not continued.endswith(escape):
            parts.append(line)
            break
        parts.append(continued[:-1])
    return index, "".join(parts)


def _is_image(base: str, stages: set[str]) -> bool:
    """Whether this names an image that we can look for; one with variables is the builder's."""
    return "$" not in base and base != "scratch" and base.lower() not in stages


def _invalid(problem: str, line: int | None = None) -> PipelineInvalid:
    return PipelineInvalid(problem, line, file=DOCKERFILE)
