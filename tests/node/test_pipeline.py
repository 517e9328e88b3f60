"""The pipeline file and the Dockerfile as text: what is taken, and what is said of the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.dockerfile import PreparedDockerfile, prepare_dockerfile
from node.pipeline import (
    COMMANDS_MAX,
    PIPELINE_BYTES_MAX,
    Pipeline,
    PipelineInvalid,
    is_image_name,
    parse_pipeline,
)

SECONDS_MAX = 600
LABELS = {"pbft-ci.build": "b"}


def test_the_smallest_pipeline() -> None:
    assert parse_pipeline(b"image: busybox\ncommands: [make]\n", SECONDS_MAX) == Pipeline(
        "busybox", ("make",), SECONDS_MAX
    )


def test_everything_that_may_be_said() -> None:
    text = b"""
image: registry.example.org:5000/a/b_c:1.0
commands:
  - make test
  - |
    for x in 1 2; do
      echo $x
    done
timeout_seconds: 10
"""
    assert parse_pipeline(text, SECONDS_MAX) == Pipeline(
        "registry.example.org:5000/a/b_c:1.0",
        ("make test", "for x in 1 2; do\n  echo $x\ndone\n"),
        10,
    )


@pytest.mark.parametrize(
    ("text", "line", "key", "nearest"),
    [
        ("image: a\ncommand: [x]\n", 2, "command", "commands"),
        ("image: a\ncommands: [x]\ntimeout: 5\n", 3, "timeout", "timeout_seconds"),
        ("Image: a\n", 1, "Image", "image"),
        ("image: a\n", None, "commands", None),
        ("commands: [a]\n", None, "image", None),
        ("image: a\ncommands: []\n", 2, "commands", None),
        ("image: a\ncommands: make\n", 2, "commands", None),
        ("image: a\ncommands:\n - x\n - 5\n", 4, "commands", None),
        ("image: a\ncommands:\n - x\n - ' '\n", 4, "commands", None),
        ('image: a\ncommands: ["\\0"]\n', 2, "commands", None),
        ("image: 5\ncommands: [x]\n", 1, "image", None),
        ("image: ../x\ncommands: [x]\n", 1, "image", None),
        ("image: -v/:/x\ncommands: [x]\n", 1, "image", None),
        ("image: a\ncommands: [x]\ntimeout_seconds: 0\n", 3, "timeout_seconds", None),
        ("image: a\ncommands: [x]\ntimeout_seconds: 601\n", 3, "timeout_seconds", None),
        ("image: a\ncommands: [x]\ntimeout_seconds: true\n", 3, "timeout_seconds", None),
        ("image: a\ncommands: [x]\ntimeout_seconds: 1.5\n", 3, "timeout_seconds", None),
        ("image: a\nimage: b\n", 2, None, None),
        ("- image\n", 1, None, None),
        ("", 1, None, None),
        ("image: [\n", 2, None, None),
        ("privileged: true\nimage: a\n", 1, "privileged", "image"),
    ],
)
def test_what_is_wrong_is_named(
    text: str, line: int | None, key: str | None, nearest: str | None
) -> None:
    found = parse_pipeline(text.encode(), SECONDS_MAX)
    assert isinstance(found, PipelineInvalid)
    assert (found.line, found.key) == (line, key)
    if nearest is not None and key != "privileged":
        assert found.nearest == nearest
    assert ".pbft-ci.yml" in found.text
    if key is not None:
        assert f'"{key}"' in found.text


def test_bounds() -> None:
    commands = ", ".join(["x"] * (COMMANDS_MAX + 1))
    too_many = parse_pipeline(f"image: a\ncommands: [{commands}]\n".encode(), SECONDS_MAX)
    assert isinstance(too_many, PipelineInvalid)
    too_long = parse_pipeline(b"#" * (PIPELINE_BYTES_MAX + 1), SECONDS_MAX)
    assert isinstance(too_long, PipelineInvalid)
    assert str(PIPELINE_BYTES_MAX) in too_long.problem


@given(st.binary(max_size=300))
def test_any_bytes_have_an_answer_of_one_line(data: bytes) -> None:
    found = parse_pipeline(b"image: a\n" + data, SECONDS_MAX)
    if isinstance(found, PipelineInvalid):
        assert found.text.isprintable()


@pytest.mark.parametrize(
    "name",
    ["a", "a/b", "a:1", "a.b/c", "localhost:5000/a", "Host.org/a", f"a@sha256:{'0' * 64}", "a__b"],
)
def test_image_names(name: str) -> None:
    assert is_image_name(name)


@pytest.mark.parametrize(
    "name", ["", "A", "a:", "a b", "a@sha256:0", "/a", "a//b", "a:b:c:d", "-a", "a\n", "x" * 256]
)
def test_names_of_no_image(name: str) -> None:
    assert not is_image_name(name)


def prepared(text: str) -> PreparedDockerfile:
    found = prepare_dockerfile(text.encode(), LABELS)
    assert isinstance(found, PreparedDockerfile), found
    return found


def test_labels_come_behind_each_from() -> None:
    text = "# c\nARG V=1\nFROM a:1 AS first\nRUN x\nfrom --platform=linux/amd64 b\nRUN y\n"
    label = 'LABEL "pbft-ci.build"="b"'
    assert prepared(text).text.decode().rstrip("\n").split("\n") == [
        "# c",
        "ARG V=1",
        "FROM a:1 AS first",
        label,
        "RUN x",
        "from --platform=linux/amd64 b",
        label,
        "RUN y",
    ]
    assert prepared(text).bases == ("a:1", "b")


def test_from_over_several_lines_and_inside_others() -> None:
    text = "FROM \\\n  # a comment\n  a:1 \\\n  AS one\nRUN echo \\\nFROM nothing\nFROM one\n"
    found = prepared(text)
    assert found.bases == ("a:1",)
    assert found.label_lines == (5, 9)


def test_the_other_escape_character() -> None:
    found = prepared("# escape=`\nFROM a\nRUN x `\nFROM b\n")
    assert found.label_lines == (3,)


def test_bases_that_nobody_looks_for_beforehand() -> None:
    assert prepared("ARG B=x\nFROM $B\nFROM scratch\n").bases == ()


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


def test_add_of_plain_files_is_taken() -> None:
    prepared("FROM a\nADD --chown=1:1 x.tar.gz a/b* /target/\nADD . /src\n")
