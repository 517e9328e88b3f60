"""The Dockerfile as text: what is added to it, and what is not taken."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.pipeline.pipeline_file import LockedBy, PipelineInvalid
from node.sources.dockerfile import (
    BaseImage,
    GivenInputs,
    PreparedDockerfile,
    dependencies_of,
    prepare_dockerfile,
)

LABELS = {"pbft-ci.build": "b"}


def prepared(text: str) -> PreparedDockerfile:
    found = prepare_dockerfile(text.encode(), LABELS)
    assert isinstance(found, PreparedDockerfile), found
    return found


def test_labels_come_behind_each_from() -> None:
    text = "# c\nARG V=1\nFROM a:1 AS first\nRUN x\nfrom --platform=linux/amd64 b\nRUN y\n"
    label = 'LABEL "pbft-ci.build"="b"'
    assert prepared(text).text.decode().rstrip("\n").split("\n") == [
        "",
        "ARG V=1",
        "FROM a:1 AS first",
        label,
        "RUN x",
        # of the platform that the engine has: for any other it would pull an image by itself
        "FROM b",
        label,
        "RUN y",
    ]
    assert prepared(text).bases == ("a:1", "b")


def test_a_comment_above_the_first_instruction_names_hosts() -> None:
    text = "# syntax=x\n\n#pbft-ci NETWORK:  pypi.org, *.example.org:8443\nFROM a\nRUN x\n"
    found = prepared(text)
    assert found.network == ("*.example.org:8443", "pypi.org")
    assert b"pypi.org" not in found.text
    # people write about it, too
    assert prepared("# pbft-ci builds this; network: x\nFROM a\n").network == ()


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\n# pbft-ci network: pypi.org\nRUN x\n",
        "# pbft-ci network: pypi.org\n# pbft-ci network: pypi.org\nFROM a\n",
        "FROM a\nRUN x \\\n# pbft-ci network: pypi.org\n  y\n",
        "# pbft-ci network:\nFROM a\n",
        "# pbft-ci network: true\nFROM a\n",
        "# pbft-ci network: *\nFROM a\n",
        "# pbft-ci network: https://pypi.org\nFROM a\n",
        "# pbft-ci network: 10.0.0.1\nFROM a\n",
        f"# pbft-ci network: {'a.org ' * 33}\nFROM a\n",
    ],
)
def test_hosts_that_are_not_taken(text: str) -> None:
    found = prepare_dockerfile(text.encode(), LABELS)
    assert isinstance(found, PipelineInvalid)
    assert "'# pbft-ci network:'" in found.text


def test_the_builder_gets_ids_where_they_are_known() -> None:
    """By a name it would take whatever has that name, or pull it."""
    text = (
        "ARG V=1\nFROM a:${V} AS one\nFROM one\nCOPY --chown=1:1 --from=b x y\n"
        "COPY --from=one x y\nCOPY --from=0 x y\nONBUILD COPY --from=b --chown=1 x y\nFROM c\n"
    )
    ids = {"a:1": BaseImage("sha256:aa"), "b": BaseImage("sha256:bb", ("/not-its-base",))}
    found = prepare_dockerfile(text.encode(), LABELS, ids)
    assert isinstance(found, PreparedDockerfile)
    lines = found.text.decode().split("\n")
    assert [line for line in lines if line and not line.startswith("LABEL")] == [
        "ARG V=1",
        "FROM sha256:aa AS one",
        "FROM one",
        "COPY --chown=1:1 --from=sha256:bb x y",
        "COPY --from=one x y",
        "COPY --from=0 x y",
        "ONBUILD COPY --from=sha256:bb --chown=1 x y",
        "FROM c",
    ]
    assert found.bases == ("a:1", "b", "c")


@pytest.mark.parametrize(
    ("text", "is_taken"),
    [
        ("FROM a\nRUN x\nVOLUME /data\nCOPY b /data\nCMD y", True),
        ("FROM a\nVOLUME /data\nRUN x", False),
        ("FROM a\nvolume [ \\\n'/data']\nrun x", False),
        ("FROM v\nCOPY b /data\nCMD x", True),
        ("FROM v\nRUN x", False),
        ("FROM a\nCOPY --from=v b /data\nRUN x", True),
        ("FROM a AS one\nVOLUME /data\nFROM a\nRUN x", True),
        ("FROM a AS one\nVOLUME /data\nFROM ONE AS two\nFROM two\nRUN x", False),
        ("FROM v AS one\nFROM a\nCOPY --from=one b /\nRUN x\nFROM one", True),
        ("FROM a AS one\nONBUILD RUN x\nVOLUME /data\nFROM one", False),
        ("FROM a AS one\nONBUILD VOLUME /data\nFROM one\nRUN x", False),
        ("FROM a AS one\nVOLUME /data\nONBUILD RUN x\nFROM one", False),
        ("FROM a AS one\nVOLUME /data\nFROM a AS one\nRUN x", True),
    ],
)
def test_nothing_runs_where_a_volume_is(text: str, is_taken: bool) -> None:
    """It would be a folder on the engine's disk, and count nowhere."""
    bases = {"a": BaseImage("sha256:aa"), "v": BaseImage("sha256:bb", ("/data",))}
    found = prepare_dockerfile(f"{text}\n".encode(), LABELS, bases)
    assert isinstance(found, PreparedDockerfile) is is_taken
    assert is_taken or "has declared a volume before" in getattr(found, "text", "")


def instructions(text: str) -> list[str]:
    """What the builder gets, without empty lines and our own."""
    lines = prepared(text).text.decode().split("\n")
    return [line for line in lines if line and not line.startswith('LABEL "pbft-ci.build"=')]


def test_from_over_several_lines_and_inside_others() -> None:
    text = "FROM \\\n  # a comment\n  a:1 \\\n  AS one\nRUN echo \\\nFROM nothing\nFROM one\n"
    found = prepared(text)
    assert found.bases == ("a:1",)
    assert found.our_lines == (5, 9)
    assert instructions(text) == ["FROM a:1 AS one", "RUN echo FROM nothing", "FROM one"]


def test_the_other_escape_character() -> None:
    text = "# escape=`\nFROM a\nRUN x `\nFROM b\nWORKDIR C:\\\nRUN y\n"
    assert prepared(text).our_lines == (3,)
    expected = ["# escape=`", "FROM a", "RUN x FROM b", "WORKDIR C:\\", "RUN y"]
    assert instructions(text) == expected
    # an ordinary comment ends the directives
    assert instructions("# x=1\n# escape=`\nFROM a\nRUN x `\nRUN y\n")[1:] == ["RUN x `", "RUN y"]


def test_ordinary_dockerfiles() -> None:
    """Each instruction in one line, with what the builders make of it themselves."""
    text = (
        "# syntax=docker/dockerfile:1\r\n\r\n# A comment, with an ümlaut \\\r\nARG V=3\r\n"
        "FROM python:${V} AS build\r\nWORKDIR /app\r\n\r\n"
        "RUN apk \\\r\n    # what is needed\r\n\r\n    add \\  \r\n  --no-cache curl && \\\r\n"
        "\techo 'a\\b' \"$X\" <<< y >&2\r\n"
        'COPY --chown="$USER" --from=build /a /b\r\nONBUILD RUN x\r\nENV A=b \\\r\n C=d\r\n'
        'CMD ["sh", "-c", "cat <<EOF"]'
    )
    assert instructions(text) == [
        "ARG V=3",
        "FROM python:3 AS build",
        "WORKDIR /app",
        "RUN apk     add   --no-cache curl && \techo 'a\\b' \"$X\" <<< y >&2",
        'COPY --chown="$USER" --from=build /a /b',
        "ONBUILD RUN x",
        "ENV A=b  C=d",
        'CMD ["sh", "-c", "cat <<EOF"]',
    ]
    assert prepared(text).bases == ("python:3",)


@pytest.mark.parametrize(
    ("arguments", "base", "expected"),
    [
        ("ARG V=3", "a:$V", "a:3"),
        ("ARG V=3", "a:${V}-slim", "a:3-slim"),
        ('ARG V="3"', "a:${V:-4}", "a:3"),
        ("ARG V='3'", "a:$V", "a:3"),
        ("ARG V", "a:${V:-4}", "a:4"),
        ("ARG V=", "a:${V:-4}", "a:4"),
        ("ARG V=", "a${V}", "a"),
        ("ARG V=3\nARG V=4", "a:$V", "a:4"),
        ("ARG V=3 W=b", "$W:$V", "b:3"),
        ("ARG H=h.example:1\nARG I=$H/a\nARG J=${I}:${T:-5}", "$J", "h.example:1/a:5"),
        ("ARG V=scratch", "$V", None),
    ],
)
def test_variables_of_a_base(arguments: str, base: str, expected: str | None) -> None:
    """It is looked for, pulled and recorded like any other; the builder never looks for one."""
    text = f"{arguments}\nFROM {base} AS one\nFROM one\n"
    assert prepared(text).bases == (() if expected is None else (expected,))
    assert f"FROM {expected or 'scratch'} AS one" in instructions(text)


@pytest.mark.parametrize(
    ("arguments", "base"),
    [
        ("", "a:$V"),
        ("ARG V", "a:$V"),
        ("ARG V=3\nARG V", "a:$V"),
        ("FROM b\nARG V=3", "a:$V"),
        ("ARG V=$W", "a:$V"),
        ("ARG V=$W", "a:${V:-3}"),
        ("ARG V='$W'\nARG W=3", "a:$V"),
        ("ARG V=3", "a:${V#x}"),
        ("ARG V=3", "a:${V:+x}"),
        ('ARG X="a\\"b" V=3', "a:${V:-4}"),
        ("ARG V=3", "a:$1"),
    ],
)
def test_variables_that_are_not_known(arguments: str, base: str) -> None:
    found = prepare_dockerfile(f"{arguments}\nFROM {base}\n".encode(), LABELS)
    assert isinstance(found, PipelineInvalid)
    assert "ARG with a plain default before the first FROM" in found.text


@pytest.mark.parametrize("first", ["x", "'" + "x" * 20_000 + "'"])
def test_variables_that_hold_each_other_do_not_grow_without_bound(first: str) -> None:
    """Twenty lines of a hundred times the one before would be 100 ** 20 characters."""
    arguments = f"ARG a0={first}\n"
    arguments += "".join(f"ARG a{number}={f'$a{number - 1}' * 100}\n" for number in range(1, 21))
    tracemalloc.start()
    try:
        found = prepare_dockerfile(f"{arguments}FROM {'$a20' * 10_000}\n".encode(), LABELS)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(found, PipelineInvalid)
    assert peak_bytes < 32 * 2**20


def test_images_that_are_copied_from_are_looked_for_too() -> None:
    text = (
        "FROM a AS one\nFROM b\nCOPY --from=one / /\nCOPY --chown=1:1 --from=c:2 /x /y\n"
        "COPY --from=0 / /\nCOPY --chown=1:1 x --from=d\n"
    )
    assert prepared(text).bases == ("a", "b", "c:2")


def test_line_numbers_of_errors_are_those_of_the_file() -> None:
    found = prepared("FROM a\nRUN x\nFROM b\nRUNN y\n")
    message = "dockerfile parse error line 6: unknown instruction"
    assert "line 4:" in found.original_lines(message)
    assert "line 1:" in found.original_lines("dockerfile parse error line 1: x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "RUN x\n",
        "FROM Not_An_Image!\n",
        "FROM a\nCOPY --from=Not_An_Image! / /\n",
        "\udcff",
        "FROM a\nADD http://x/y /z\n",
        "FROM a\nAD\\\nD http://169.254.169.254/latest /y\nCMD x\n",
        "FROM a\nONBUILD AD\\\nD http://x/y /z\n",
        "FROM a\nONBUILD \\\n# c\n ADD http://x/y /z\n",
        "FROM a\nONBUILD -- ADD http://x/y /z\n",
        "FROM a\nONBU\u0130LD ADD http://x/y /z\n",
        # a builder takes this for the end of the line, another one does not
        "FROM a\nRUN echo \\\\\nFROM evil/x\n",
        "# escape=`\nFROM a\nRUN echo ``\nFROM evil/x\n",
        "FROM a\nRUN x \\ \\",
        "\ufeffFROM a\nFROM b\n",
        "FROM b\n\ufeffFROM a\n",
        "FROM a\nRUN x \\\n\x1c# \\\nFROM evil/x\n",
        "FROM a\nRUN x\rFROM evil/x\n",
        "FROM a\nRUN x \\\n\x85# \\\nFROM evil/x\n",
        "FROM a\nRUN cat <<EOF\nFROM evil/x\nEOF\n",
        "FROM a\nCOPY <<-'EOF' /x\nEOF\n",
        "FROM --platform=a\\ b AS evil\n",
        "FROM -- evil/x\n",
        "FROM a b\n",
        "FROM a AS b\u0130\n",
        "FROM a\nCOPY --fr\\om=evil/x / /\n",
        'FROM a\nCOPY --fr"om=evil/x" / /\n',
        "FROM a\nCOPY -- --from=evil/x / /\n",
        "FROM a\nCOPY --from=$X / /\n",
        "FROM a\nONBUILD COPY --fr\\om=evil/x / /\n",
        "# escape=x\nFROM a\n",
        "FROM a\nRUN " + "x" * 60_000,
        "FROM a\nADD $URL /z\n",
        'FROM a\nADD ["h\\u0074tp://x", "/z"]\n',
        "FROM a\nadd ht\\tp:\\//x /z\n",
        "FROM a\nONBUILD ADD http://x/y /z\n",
        "FROM a\nADD \\\n http://x/y /z\n",
        "FROM a\nRUN x \\\\\nADD http://x/y /z\n",
        "# escape=`\nFROM a\nADD `\nhttp://x/y /z\n",
    ],
)
def test_dockerfiles_that_are_not_taken(text: str) -> None:
    found = prepare_dockerfile(text.encode(errors="surrogateescape"), LABELS)
    assert isinstance(found, PipelineInvalid)
    assert "Dockerfile" in found.text


def test_a_number_that_no_stage_has_is_an_image() -> None:
    assert prepared("FROM a\nCOPY --from=9999 / /\nONBUILD COPY --from=b / /\n").bases == (
        "a",
        "9999",
        "b",
    )


def test_what_is_wrong_is_said_with_its_line() -> None:
    found = prepare_dockerfile(b"FROM a\n\nRUN x \\\n y \\\\\nRUN z\n", LABELS)
    assert isinstance(found, PipelineInvalid)
    assert found.text.startswith("Dockerfile:3: a line ends with \\\\: builders differ")


def test_add_of_plain_files_is_taken() -> None:
    found = prepared("FROM a\nADD --chown=1:1 x.tar.gz a/b* /target/\nADD . /src\n")
    assert list(found.bases) == ["a"]


_WORDS = (
    "\n",
    "\\\n",
    "FR",
    "OM",
    "AD",
    "D",
    " http://x/y /z",
    "FROM a",
    "ADD x /y",
    "COPY ",
    "--from=b",
)
_MORE_WORDS = ("ONBUILD ", "RUN x", "<<E", "# escape=`\n", "ARG V=")
_PIECES = st.sampled_from((*"\\`#<\"'$ \t\n\r\ufeff\x1c\xa0{}-", *_WORDS, *_MORE_WORDS))


@given(st.lists(_PIECES, max_size=30).map("".join))
def test_whatever_is_taken_is_one_instruction_in_each_line(text: str) -> None:
    found = prepare_dockerfile(f"{text}\nFROM a\n".encode(), LABELS)
    if isinstance(found, PipelineInvalid):
        return
    lines = found.text.decode().split("\n")
    escape = "`" if lines[0].startswith("#") else "\\"
    for number, line in enumerate(lines):
        if number == 0 and line == "# escape=`":
            continue
        assert not line.rstrip().endswith(escape)
        assert line == line.strip()
        assert not line.startswith("#")
        words = line.upper().split()
        is_trigger = words[:1] == ["ONBUILD"]
        assert "ADD" not in words[: 1 + is_trigger] or ":" not in line
        if words[:1] == ["FROM"]:
            following = next(later for later in lines[number + 1 :] if later)
            assert following.startswith('LABEL "pbft-ci.build"=')
    # what it means does not change where it is read once more
    again = prepare_dockerfile(found.text, {})
    assert isinstance(again, PreparedDockerfile)
    assert again.bases == found.bases


INPUTS = GivenInputs((("sha256:1", "/in/"),), {"GOPROXY": "file:///in/go"})


def given_inputs(text: str) -> PreparedDockerfile:
    found = prepare_dockerfile(text.encode(), LABELS, inputs=INPUTS)
    assert isinstance(found, PreparedDockerfile), found
    return found


def test_comments_above_the_first_instruction_name_lock_files() -> None:
    text = (
        "# pbft-ci dependencies: pip=requirements.txt python=3.12\n"
        "# pbft-ci dependencies: npm=web/package-lock.json\nFROM a\nRUN x\n"
    )
    locks = (LockedBy("pip", "requirements.txt", "3.12"), LockedBy("npm", "web/package-lock.json"))
    assert prepared(text).dependencies == dependencies_of(text.encode()) == locks
    assert b"requirements" not in prepared(text).text
    # nothing is fetched for what is not taken anyway
    assert dependencies_of(text.encode() + b"ADD http://x y\n") == ()


@pytest.mark.parametrize(
    "words",
    ["", "requirements.txt", "pip=../x", "pip=/x", "gem=Gemfile", "go=a npm=b", "go=a python=3.12"],
)
def test_lock_files_that_are_not_taken(words: str) -> None:
    found = prepare_dockerfile(f"# pbft-ci dependencies: {words}\nFROM a\n".encode(), LABELS)
    assert isinstance(found, PipelineInvalid)
    assert "line 1: '# pbft-ci dependencies:'" in found.text


def test_inputs_are_copied_once_into_each_line_of_stages_that_run_something() -> None:
    text = "FROM a AS one\nFROM one AS two\nRUN x\nFROM two\nRUN y\nFROM b\nCOPY --from=two /x /\n"
    found = given_inputs(text)
    label, copied, arguments = (
        'LABEL "pbft-ci.build"="b"',
        "COPY --from=sha256:1 / /in/",
        'ARG GOPROXY="file:///in/go"',
    )
    assert found.text.decode().rstrip("\n").split("\n") == [
        *("FROM a AS one", label),
        *("FROM one AS two", label, copied, arguments, "RUN x"),
        *("FROM two", label, arguments, "RUN y"),
        *("FROM b", label, "COPY --from=two /x /"),
    ]
    assert (found.copy_count, found.has_inputs) == (1, False)
    assert given_inputs("FROM a\nRUN x\n").has_inputs
    assert found.original_lines("dockerfile parse error line 10: x") == (
        "dockerfile parse error line 5: x"
    )
