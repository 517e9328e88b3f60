"""Which files of a release a build is given."""

import pytest

from node.dependencies.pip_index import IndexFile, chosen_files, is_wanted, read_page

NAMES = (
    "foo-1.0-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "foo-1.0-cp312-cp312-musllinux_1_2_x86_64.whl",
    "foo-1.0-cp312-cp312-manylinux_2_17_aarch64.whl",
    "foo-1.0-cp39-abi3-manylinux_2_17_x86_64.whl",
    "foo-1.0-cp27-cp27mu-manylinux_2_17_x86_64.whl",
    "foo-1.0-cp312-cp312-win_amd64.whl",
    "foo-1.0-cp312-cp312-macosx_11_0_arm64.whl",
    "foo-1.0.tar.gz",
)


def chosen(names: tuple[str, ...], python: str | None, machine: str = "x86_64") -> list[str]:
    pinned = {name: IndexFile(name, "", ()) for name in names}
    return [file.name for file in chosen_files(pinned, python=python, machine=machine).values()]


@pytest.mark.parametrize(
    ("python", "machine", "places"),
    [
        (None, "x86_64", [0, 1, 3]),
        ("3.12", "x86_64", [0, 1, 3]),
        # the stable ABI of 3.9 holds for all later versions
        ("3.11", "x86_64", [3]),
        ("3.8", "x86_64", [7]),
        ("3.12", "aarch64", [2]),
        ("3.12", "riscv64", [7]),
    ],
)
def test_wheels_that_fit_or_else_the_source(
    python: str | None, machine: str, places: list[int]
) -> None:
    assert chosen(NAMES, python, machine) == [NAMES[place] for place in places]


def test_a_wheel_for_any_machine() -> None:
    names = ("bar-1-py2.py3-none-any.whl", "bar-1.tar.gz")
    assert chosen(names, None) == chosen(names, "3.13") == [names[0]]


@pytest.mark.parametrize(
    ("marker", "python", "wanted"),
    [
        ("", None, True),
        ('sys_platform == "win32"', None, False),
        ('sys_platform == "linux" and platform_machine == "x86_64"', "3.12", True),
        ('python_version < "3.11"', "3.12", False),
        ('python_version < "3.11"', None, True),
        ('python_version < "3"', None, False),
    ],
)
def test_markers(marker: str, python: str | None, wanted: bool) -> None:
    assert is_wanted(marker, python, "x86_64") is wanted


def test_names_of_a_page_that_are_no_file_names_are_passed_over() -> None:
    page = b'<a href="/x/..">a</a><a href="http://[">b</a><a>c</a><a href="f-1.zip#sha256=AB">f</a>'
    assert read_page(page, "https://example.org/foo/", is_json=False) == (
        IndexFile("f-1.zip", "https://example.org/foo/f-1.zip", ("sha256:ab",)),
    )
