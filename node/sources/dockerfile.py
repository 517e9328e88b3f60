"""A repository's Dockerfile, made ready for the engine's builder. Pure.

Builders differ in what continues a line, in what is a comment, and in how a flag may be spelled. So
the builder never gets the repository's own lines: it gets each instruction as it is understood
here, in one line, and what might be understood in two ways is refused. Then no FROM, no COPY --from
and no ADD of a URL can hide from this module and show itself to the builder.

The classic builder knows labels only at the end of a build. So that nothing of a build that was
killed half-way is ever lost, a LABEL instruction goes in behind each FROM: then every intermediate
image and container of the build carries this replica's labels, and can be found and removed.

The builder takes any image of the engine by its name, and pulls what it does not find. So where the
images of a Dockerfile are known, it gets their ids instead of their names: it can then use nothing
else, whoever gives a name to another image meanwhile.

Comments above the first instruction may name the hosts that RUN reaches, `# pbft-ci network: HOST
HOST`, and lock files, `# pbft-ci dependencies: pip=requirements.txt`. For builders they are
comments like others.

The classic builder mounts nothing into an instruction. So what lock files pin is copied from an
image into each stage that has a RUN, and the variables that lead tools to it are arguments, which
no image keeps (docs/decisions/0053).

A volume of an image is a folder on the engine's disk while an instruction runs, and nobody can
measure it. So RUN is not taken in a stage that has one.
"""

import json
import re
from collections.abc import Iterator, Mapping

import msgspec

from common.host_patterns import EVERY_HOST, HOSTS_MAX, is_host_pattern
from common.pipeline.pipeline_file import LockedBy, PipelineInvalid, read_dependencies
from common.pipeline.pipeline_values import IMAGE_CHARACTERS_MAX, WrongValue, is_image_name
from common.pipeline.step_networks import NETWORK_COMMENT

DOCKERFILE = "Dockerfile"
DOCKERFILE_BYTES_MAX = 64 * 1024
# the builder takes no line of 64 KiB
INSTRUCTION_BYTES_MAX = 60_000

# the tab is the only one that all builders take for the same
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S.*)")
_DEPENDENCIES = re.compile(r"#\s*pbft-ci\s+dependencies\s*:(.*)", re.IGNORECASE | re.ASCII)
_BETWEEN_HOSTS = re.compile(r"[\s,]+", re.ASCII)
# any other line of that form is an ordinary comment, and the first such line ends them
_DIRECTIVES = ("check", "escape", "syntax")
_WORD = re.compile(r"[A-Za-z]+")
_BLANKS = re.compile(r"[ \t]+")
_FLAG = re.compile(r"""--([a-z]+)(?:=([^\s"'\\`]*|"[^\s"'\\`]*"))?""")
_FROM = re.compile(
    r"(?:--platform=[A-Za-z0-9/._${}:-]+[ \t]+)?([^\s-]\S*)"
    r"(?:[ \t]+AS[ \t]+([A-Za-z][A-Za-z0-9_.-]*))?",
    re.IGNORECASE | re.ASCII,
)
_ARGUMENT = re.compile(
    r"""([A-Za-z_][A-Za-z0-9_]*)(?:=("[^"\\`]*"|'[^'\\`]*'|[^\s"'\\`]*))?(?:[ \t]+|\Z)"""
)
_VARIABLE = re.compile(
    r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}$]*))?\})"
)
# The engine itself fetches the URLs of ADD, from its own network. Without ':', quotes, variables
# and escapes there is no way to write one.
_LOCAL_ADD = re.compile(
    r"(?:--chown=[A-Za-z0-9_.:-]+[ \t]+)?[A-Za-z0-9_./*?@+,=~-]+(?:[ \t]+[A-Za-z0-9_./*?@+,=~-]+)*"
)
_STAGE_NUMBER = re.compile(r"[0-9]{1,3}")
_HEREDOC = re.compile(r"(?:\A|\s)[0-9]*<<-?[^\s<-]")
_ERROR_LINE = re.compile(r"(dockerfile parse error line )(\d+)", re.IGNORECASE)


class BaseImage(msgspec.Struct, frozen=True):
    """An image that a Dockerfile names: its id on the engine, and the volumes that it declares."""

    id: str
    volumes: tuple[str, ...] = ()


class GivenInputs(msgspec.Struct, frozen=True):
    """What RUN is given. copies: of each image (by id) all files, and to which folder they go.

    variables: those of RUN alone.
    """

    copies: tuple[tuple[str, str], ...]
    variables: Mapping[str, str]


class PreparedDockerfile(msgspec.Struct, frozen=True):
    """text: what the builder gets. bases: images that must be on the engine first, in order.

    our_lines: the 1-based lines of `text` that are ours.
    network: patterns for the hosts that RUN reaches; empty: none.
    dependencies: lock files of the commit.
    copy_count: into how many stages the inputs are copied. has_inputs: whether they are in the
    image that comes out.
    """

    text: bytes
    bases: tuple[str, ...]
    our_lines: tuple[int, ...]
    network: tuple[str, ...] = ()
    dependencies: tuple[LockedBy, ...] = ()
    copy_count: int = 0
    has_inputs: bool = False

    def original_lines(self, message: str) -> str:
        """A message of the builder with the line numbers of the repository's own file."""

        def correct(found: re.Match[str]) -> str:
            line = int(found[2])
            return f"{found[1]}{line - sum(ours < line for ours in self.our_lines)}"

        return _ERROR_LINE.sub(correct, message)


class _NotTaken(Exception):
    """Why the Dockerfile is not taken, in words for its author."""


class _Instruction(msgspec.Struct, frozen=True):
    """line, last_line: 1-based. parts: its lines, without comments and empty ones, blanks cut."""

    line: int
    last_line: int
    parts: tuple[str, ...]


def prepare_dockerfile(
    data: bytes,
    labels: Mapping[str, str],
    bases: "Mapping[str, BaseImage] | None" = None,
    *,
    inputs: GivenInputs | None = None,
) -> PreparedDockerfile | PipelineInvalid:
    """The Dockerfile with our labels behind each FROM, or why it is not taken.

    bases: the images of its bases by name, once they are known; the builder then gets their ids.
    inputs: what its lock files pin, once that is on the engine.
    """
    texts: dict[int, str] = {}
    # by the last line of its FROM
    stages: dict[int, _Stage] = {}
    reader = _Reader(bases or {})
    line: int | None = None
    try:
        lines = _lines(data)
        network = _network(lines)
        dependencies = _dependencies(lines)
        escape = _escape_character(lines)
        for instruction in _instructions(lines, escape):
            line = instruction.line
            text, is_from = reader.read(_joined(instruction.parts, escape))
            texts[line] = text
            if is_from:
                stages[instruction.last_line] = reader.stage
        line = None
        if not stages:
            raise _NotTaken("has no FROM instruction")
    except _NotTaken as refusal:
        return PipelineInvalid(str(refusal), line, file=DOCKERFILE)
    label_text = "LABEL " + " ".join(
        f"{json.dumps(key)}={json.dumps(value)}" for key, value in labels.items()
    )
    # every instruction stays in its line, for the builder's messages
    output: list[str] = []
    our_lines: list[int] = []
    copy_count = 0
    for number in range(1, len(lines) + 1):
        output.append(texts.get(number, ""))
        if number not in stages:
            continue
        ours = [label_text]
        stage = stages[number]
        stage.has_inputs = stage.base is not None and stage.base.has_inputs
        if inputs is not None and stage.has_run:
            if not stage.has_inputs:
                ours += (f"COPY --from={image} / {folder}" for image, folder in inputs.copies)
                stage.has_inputs = True
                copy_count += 1
            ours += _arguments(inputs.variables)
        for text in ours:
            output.append(text)
            our_lines.append(len(output))
    if escape == "`":
        # where a directive was, the first line is a comment
        output[0] = "# escape=`"
    return PreparedDockerfile(
        ("\n".join(output) + "\n").encode(),
        tuple(dict.fromkeys(reader.bases)),
        tuple(our_lines),
        network,
        dependencies,
        copy_count,
        reader.stage.has_inputs,
    )


def dependencies_of(data: bytes) -> tuple[LockedBy, ...]:
    """The lock files that a Dockerfile names; none if it is not taken."""
    prepared = prepare_dockerfile(data, {})
    return () if isinstance(prepared, PipelineInvalid) else prepared.dependencies


class _Stage(msgspec.Struct):
    """volume: what declares one in it, if anything does. has_trigger: whether it has ONBUILD RUN,
    which runs where another stage begins with this one. base: the stage that it begins with.
    has_inputs: whether what lock files pin is in it."""

    volume: str | None = None
    has_trigger: bool = False
    base: "_Stage | None" = None
    has_run: bool = False
    has_inputs: bool = False


class _Reader:
    """What the instructions so far say of images: bases, in order, and the stages."""

    def __init__(self, known_bases: Mapping[str, BaseImage]) -> None:
        self.bases: list[str] = []
        self._known_bases = known_bases
        # by name, and the one that the next instruction is of
        self._stages: dict[str, _Stage] = {}
        self._stage = _Stage()
        self._has_from = False
        # of ARG before the first FROM; a "$" in it stands for what is not known
        self._arguments: dict[str, str] = {}
        self._knows_arguments = True

    @property
    def stage(self) -> _Stage:
        """The one that the next instruction is of."""
        return self._stage

    def read(self, text: str) -> tuple[str, bool]:
        """The next instruction as the builder gets it, and whether it is a FROM. Raises _NotTaken.

        text: in one line, and stripped.
        """
        word, rest = _word_and_rest(text)
        if word == "FROM":
            return self._read_from(rest), True
        if word == "ARG" and not self._has_from:
            self._read_arguments(rest)
        trigger = ""
        if word == "ONBUILD":
            # its own instruction is read where another stage begins with this one
            trigger = "ONBUILD "
            word, rest = _word_and_rest(rest)
        if word == "ADD" and _LOCAL_ADD.fullmatch(rest) is None:
            raise _NotTaken("ADD takes plain file names (no URLs, variables, quotes); use COPY")
        if word == "VOLUME":
            self._stage.volume = "VOLUME"
        if word == "RUN":
            self._check_volume()
            self._stage.has_run = True
            self._stage.has_trigger |= bool(trigger)
        if word == "COPY":
            text = f"{trigger}COPY {self._read_copy(rest)}".rstrip()
        is_json = rest.startswith("[") and rest.endswith("]")
        if word in ("COPY", "RUN") and not is_json and _HEREDOC.search(rest):
            raise _NotTaken(
                "heredocs (<<) are not taken, because the engine's builder has none: put the lines"
                " into a file of the repository"
            )
        return text, False

    def _read_from(self, rest: str) -> str:
        """FROM with the image's name written out; of the platform that the engine has."""
        self._has_from = True
        found = _FROM.fullmatch(rest)
        if found is None:
            raise _NotTaken("FROM takes an image and a name for the stage: FROM image AS name")
        base = self._expanded(found[1])
        if "$" in base or ("$" in found[1] and not self._knows_arguments):
            raise _NotTaken(
                "FROM takes variables as $NAME, ${NAME} and ${NAME:-default}, of an ARG with a"
                " plain default before the first FROM; write the image's name out"
            )
        image = self._needed("FROM", base)
        self._begin_stage(base)
        if found[2]:
            self._stages[found[2].lower()] = self._stage
            return f"FROM {image} AS {found[2]}"
        return f"FROM {image}"

    def _begin_stage(self, base: str) -> None:
        """The stage's own base may have volumes, and triggers that run now. Raises _NotTaken."""
        before = self._stages.get(base.lower())
        known = self._known_bases.get(base)
        if before is not None:
            self._stage = _Stage(before.volume, base=before)
            if before.has_trigger:
                self._check_volume()
        else:
            has_volumes = known is not None and known.volumes
            self._stage = _Stage(f"the image {base}" if has_volumes else None)

    def _check_volume(self) -> None:
        if self._stage.volume is not None:
            raise _NotTaken(
                f"RUN is not taken where {self._stage.volume} has declared a volume before: what is"
                " written there has no limit. Put VOLUME behind the last RUN, or name an image"
                " without volumes"
            )

    def _read_copy(self, rest: str) -> str:
        """What comes behind COPY, as the builder gets it."""
        flags = ""
        while rest.startswith("--"):
            flag, *more = _BLANKS.split(rest, maxsplit=1)
            found = _FLAG.fullmatch(flag)
            if found is None or not flag.isascii():
                raise _NotTaken("the flags of COPY are taken as --name=value, without escapes")
            source = found[2] or ""
            if found[1] == "from" and _STAGE_NUMBER.fullmatch(source) is None:
                image = self._needed("COPY --from", source)
                flag = flag if image == source else f"--from={image}"
            flags += f"{flag} "
            rest = more[0] if more else ""
        return flags + rest

    def _read_arguments(self, rest: str) -> None:
        """Remember the defaults that FROM may use."""
        start = 0
        while start < len(rest):
            found = _ARGUMENT.match(rest, start)
            if found is None:
                self._knows_arguments = False
                return
            start = found.end()
            value = found[2]
            if value is None:
                self._arguments.pop(found[1], None)
                continue
            if value.startswith("'"):
                value = value[1:-1]
            else:
                quote = '"' if value.startswith('"') else ""
                value = self._expanded(value.removeprefix(quote).removesuffix(quote))
            # Nothing longer is part of an image's name; each may hold the one before many times.
            is_short = len(value) <= IMAGE_CHARACTERS_MAX
            self._arguments[found[1]] = value if is_short else "$"

    def _expanded(self, text: str) -> str:
        """The text with the variables that are known; the others stay, with their "$"."""

        def value(found: re.Match[str]) -> str:
            known = self._arguments.get(found[1] or found[2])
            if found[3] is not None:
                return known or found[3]
            return found[0] if known is None else known

        return _VARIABLE.sub(value, text)

    def _needed(self, where: str, name: str) -> str:
        """An instruction uses this image or stage: what the builder gets. Raises _NotTaken."""
        if name == "scratch" or name.lower() in self._stages:
            return name
        if not is_image_name(name):
            raise _NotTaken(f"{where} does not name an image")
        self.bases.append(name)
        known = self._known_bases.get(name)
        return name if known is None else known.id


def _lines(data: bytes) -> list[str]:
    try:
        lines = [line.removesuffix("\r") for line in data.decode().split("\n")]
    except UnicodeDecodeError:
        raise _NotTaken("not UTF-8") from None
    if lines[0].startswith("\ufeff"):
        raise _NotTaken("begins with a byte order mark; save it as UTF-8 without one")
    for number, line in enumerate(lines, 1):
        found = _CONTROL.search(line)
        if found is not None:
            raise _NotTaken(f"line {number} has a control character, U+{ord(found[0]):04X}")
    return lines


def _network(lines: list[str]) -> tuple[str, ...]:
    """The patterns for hosts in the comment that names them, sorted. Raises _NotTaken."""
    found: tuple[str, ...] | None = None
    is_above = True
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        named = NETWORK_COMMENT.fullmatch(stripped)
        is_above = is_above and (not stripped or stripped.startswith("#"))
        if named is None:
            continue
        if not is_above or found is not None:
            raise _NotTaken(
                f"line {number}: '# pbft-ci network:' is written once, above the first instruction"
            )
        hosts = _BETWEEN_HOSTS.split(named[1].strip())
        if len(hosts) > HOSTS_MAX or not all(
            host != EVERY_HOST and is_host_pattern(host) for host in hosts
        ):
            raise _NotTaken(
                f"line {number}: '# pbft-ci network:' takes 1 to {HOSTS_MAX} full names of hosts in"
                " small letters, such as pypi.org or *.example.org:8443, with blanks in between"
            )
        found = tuple(sorted(set(hosts)))
    return found or ()


def _dependencies(lines: list[str]) -> tuple[LockedBy, ...]:
    """The lock files in comments above the first instruction, one each. Raises _NotTaken."""
    entries: list[dict[str, str]] = []
    is_above = True
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        named = _DEPENDENCIES.fullmatch(stripped)
        is_above = is_above and (not stripped or stripped.startswith("#"))
        if named is None:
            continue
        if not is_above:
            raise _NotTaken(
                f"line {number}: '# pbft-ci dependencies:' is written above the first instruction"
            )
        pairs = [word.partition("=") for word in named[1].split()]
        entry = {key: value for key, separator, value in pairs if separator}
        try:
            if len(entry) != len(pairs):
                raise WrongValue("takes words as pip=requirements.txt", (), None)
            read_dependencies([entry])
        except WrongValue as wrong:
            raise _NotTaken(
                f"line {number}: '# pbft-ci dependencies:' {wrong}; write pip=requirements.txt"
                " python=3.12, or npm=, go=, cargo=, files= and a path"
            ) from None
        entries.append(entry)
    if not entries:
        return ()
    try:
        return read_dependencies(entries)
    except WrongValue as wrong:
        raise _NotTaken(f"'# pbft-ci dependencies:' {wrong}") from None


def _arguments(variables: Mapping[str, str]) -> Iterator[str]:
    """The instruction that sets these for RUN, if there are any. No image keeps them."""
    if variables:
        yield "ARG " + " ".join(f"{name}={json.dumps(value)}" for name, value in variables.items())


def _escape_character(lines: list[str]) -> str:
    """The character that continues a line: from the directives at the very top."""
    escape = ""
    for line in lines:
        found = _DIRECTIVE.fullmatch(line.strip())
        if found is None or found[1].lower() not in _DIRECTIVES:
            break
        if found[1].lower() == "escape":
            if escape or found[2] not in ("\\", "`"):
                raise _NotTaken("takes the directive escape once, with \\ or `")
            escape = found[2]
    return escape or "\\"


def _instructions(lines: list[str], escape: str) -> Iterator[_Instruction]:
    """The instructions with the lines that they go on over, as all builders take them apart."""
    index = 0
    while index < len(lines):
        start = index
        parts: list[str] = []
        is_continued = True
        while is_continued and index < len(lines):
            line = lines[index]
            index += 1
            stripped = line.strip()
            if not stripped or stripped.startswith("#"):
                if not parts:
                    break
                # the builder skips comments and empty lines inside an instruction
                continue
            line = line.rstrip(" \t")
            is_continued = line.endswith(escape)
            parts.append(line)
        if parts:
            yield _Instruction(start + 1, index, tuple(parts))


def _joined(parts: tuple[str, ...], escape: str) -> str:
    """An instruction in one line. Raises _NotTaken where builders differ in what it is."""
    if any(part.endswith(escape * 2) for part in parts):
        raise _NotTaken(
            f"a line ends with {escape * 2}: builders differ in whether the next one belongs to it"
        )
    joined = "".join(part.removesuffix(escape) for part in parts).strip()
    if joined.endswith(escape):
        raise _NotTaken(f"an instruction ends with {escape}, which continues with nothing")
    if len(joined.encode()) > INSTRUCTION_BYTES_MAX:
        raise _NotTaken(f"an instruction has more than {INSTRUCTION_BYTES_MAX} bytes")
    return joined


def _word_and_rest(text: str) -> tuple[str, str]:
    """The instruction's name in capitals, and what comes behind it. Raises _NotTaken."""
    word, *rest = _BLANKS.split(text, maxsplit=1)
    if _WORD.fullmatch(word) is None:
        raise _NotTaken(f"unknown instruction: {word[:40]}")
    return word.upper(), rest[0] if rest else ""
