"""The Dockerfile as text: what is added to it, and what is not taken."""

import pytest

from common.pipeline import PipelineInvalid
from node.dockerfile import PreparedDockerfile, prepare_dockerfile

LABELS = {"pbft-ci.build": "b"}


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
    found = prepared("FROM a\nADD --chown=1:1 x.tar.gz a/b* /target/\nADD . /src\n")
    assert list(found.bases) == ["a"]
