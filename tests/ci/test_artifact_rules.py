"""Lists of artifacts: which can be agreed on, and how two of them differ."""

import itertools

import msgspec
import pytest

from ci.artifact_rules import (
    PATH_BYTES_MAX,
    ArtifactDifference,
    artifact_differences,
    artifacts_refusal,
    artifacts_sha256,
    path_problem,
)
from ci.limits import Limits
from ci.operations import Artifact
from tests.ci.builders import artifact


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "dist/app-1.0.tar.gz",
        "a b/c",
        "Übersicht/日本.pdf",
        "...",
        "-rf",
        "~",
        "a/.b",
        "x" * 255,
    ],
)
def test_plain_relative_paths(path: str) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "empty"),
        ("/etc/passwd", "absolute"),
        ("../x", "`..`"),
        ("a/../x", "`..`"),
        ("a/..", "`..`"),
        ("./a", "`.`"),
        ("a//b", "empty"),
        ("a/", "empty"),
        ("a\nb", "character"),
        ("a\0b", "character"),
        ("a\x1b[31mb", "character"),
        ("a\\b", "character"),
        ('a"b', "character"),
        ("a\x85b", "character"),
        ("a\u202eb", "character"),
        ("a\u200bb", "character"),
        ("a\u00a0b", "character"),
        ("a\udc80b", "character"),
        ("a\ufeff", "character"),
        ("x" * (PATH_BYTES_MAX + 1), "longer"),
        ("é" * 128, "longer"),
    ],
)
def test_paths_that_are_refused(path: str, problem: str) -> None:
    assert problem in (path_problem(path) or "")


def test_a_list_is_sorted_unique_and_within_the_limits() -> None:
    a, b = artifact("a", b"1234"), artifact("b", b"56")
    limits = Limits(artifacts_max=2, artifact_bytes_max=6)
    assert artifacts_refusal((), limits) is None
    assert artifacts_refusal((a, b), limits) is None
    assert "not sorted" in (artifacts_refusal((b, a), limits) or "")
    assert "not sorted" in (artifacts_refusal((b, b), limits) or "")
    assert "more than 2" in (artifacts_refusal((a, b, artifact("c")), limits) or "")
    bigger = msgspec.structs.replace(b, length=3)
    assert "more than 6 bytes" in (artifacts_refusal((a, bigger), limits) or "")
    assert "plain relative path" in (artifacts_refusal((artifact("../a"), b), limits) or "")
    assert artifacts_refusal((a,), Limits(artifacts_max=0)) is not None


def test_one_digest_for_a_list() -> None:
    a, b = artifact("a", b"1"), artifact("b", b"1")
    lists: list[tuple[Artifact, ...]] = [
        (a,),
        (b,),
        (a, b),
        (artifact("a", b"2"),),
        (msgspec.structs.replace(a, length=2),),
    ]
    assert len({artifacts_sha256(value) for value in lists}) == len(lists)
    assert artifacts_sha256(()) is None


def test_differences_are_told_file_by_file() -> None:
    same, one, two = artifact("same"), artifact("x", b"1"), artifact("x", b"2")
    only = artifact("only")
    assert artifact_differences([(same, one), (same, one)]) == ()
    assert artifact_differences([(same, one), (only, same, two), (same,)]) == (
        ArtifactDifference("only", (None, only, None)),
        ArtifactDifference("x", (one, two, None)),
    )


def test_no_two_lists_that_differ_have_no_difference() -> None:
    choices = [None, artifact("a", b"1"), artifact("a", b"2")]
    others = [None, artifact("b", b"1")]
    values = [
        tuple(found for found in pair if found is not None)
        for pair in itertools.product(choices, others)
    ]
    for one, two in itertools.product(values, values):
        assert bool(artifact_differences([one, two])) == (one != two)
