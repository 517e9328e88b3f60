"""A browser counts once what drives it starts; else what is missing is said."""

import sys
from pathlib import Path

import pytest

from tests.browser.chromium import NoBrowser, chromium_program


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that is in PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(file: Path, script: str) -> str:
    """A program that does this."""
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


def test_without_chromium_it_says_so(folder: Path) -> None:
    with pytest.raises(NoBrowser, match="no Chromium here"):
        chromium_program()


def test_a_driver_that_lacks_a_library_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(folder / "chromium-headless-shell", "exit 0")
    lacking = "echo first >&2; echo node: libatomic.so.1: cannot open >&2; exit 127"
    monkeypatch.setattr(sys, "executable", program(folder / "python", lacking))
    with pytest.raises(NoBrowser, match=r"does not start \(node: libatomic.so.1: cannot open\)"):
        chromium_program()


def test_the_one_with_windows_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", program(folder / "python", "exit 0"))
    headless = program(folder / "chromium-headless-shell", "exit 0")
    assert chromium_program() == headless
    assert chromium_program() != program(folder / "chromium", "exit 0") == chromium_program()
