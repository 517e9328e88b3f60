"""Which changed files a step is for."""

import pytest

from common.pipeline.path_filter import (
    COMPARED_MAX,
    PathFilter,
    are_too_many,
    matches_path,
)
from common.pipeline.pipeline_file import PIPELINE_BYTES_MAX


@pytest.mark.parametrize(
    ("glob", "path", "is_match"),
    [
        ("docs/**", "docs/a/b.md", True),
        ("docs/**", "docs2/a.md", False),
        ("docs/**", "docs", False),
        ("docs", "docs/a.md", False),
        ("**", "a/b", True),
        ("**/*.sh", "run.sh", True),
        ("**/*.sh", "a/b/run.sh", True),
        ("**/*.sh", "a/run.sh/b", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/xb", False),
        ("a/**/b", "ab", False),
        ("x**/b", "xy/z/b", True),
        ("x**/b", "b", False),
        ("*.md", "a.md", True),
        ("*.md", "a/b.md", False),
        ("*/*.md", "a/b.md", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a?c", "a\udcffc", True),
        ("abc", "ab", False),
        ("ab", "abc", False),
        ("**/**/a", "a", True),
        ("*", "", True),
    ],
)
def test_globs_for_paths(glob: str, path: str, is_match: bool) -> None:
    assert matches_path(glob, path) is is_match


@pytest.mark.parametrize(
    ("include", "exclude", "paths", "is_touched"),
    [
        (("a/**",), (), ("b/x", "a/x"), True),
        (("a/**",), (), ("b/x",), False),
        (None, ("**/*.md",), ("README.md", "docs/x.md"), False),
        (None, ("**/*.md",), ("README.md", "docs/x.py"), True),
        (("a/**",), ("**/*.md",), ("a/x.md", "b/x.py"), False),
        (("a/**", "b/**"), ("**/*.md",), ("a/x.md", "b/x.py"), True),
    ],
)
def test_one_file_that_is_included_and_not_excluded_is_enough(
    include: tuple[str, ...] | None,
    exclude: tuple[str, ...],
    paths: tuple[str, ...],
    is_touched: bool,
) -> None:
    assert PathFilter(include, exclude).is_touched(paths) is is_touched


def test_more_than_that_is_not_compared() -> None:
    filter_ = PathFilter(("x" * 1000,))
    assert not are_too_many([filter_], ["y" * (COMPARED_MAX // 1000)])
    assert are_too_many([filter_], ["y" * (COMPARED_MAX // 1000), "y"])
    assert not are_too_many([PathFilter(("x" * PIPELINE_BYTES_MAX,))], ["y" * 255])
