"""How a container takes its tree and says so, with the shells and the tar of this machine."""

import os
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from node.outputs.build_log import BuildLog
from node.sandboxes.containers.container_output import (
    BEGUN,
    EARLY_BYTES_MAX,
    UNPACK,
    ContainerOutput,
    TreeNotTaken,
)
from node.sandboxes.sandbox import RUN_COMMANDS


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


def output_of(path: Path, *pieces: bytes) -> bytes:
    """The log of a container that is to take its tree and whose stream comes in these pieces."""
    log = BuildLog(path, 1_000_000)
    output = ContainerOutput(log, is_tree_expected=True)
    for piece in pieces:
        output.take(piece)
    assert output.has_begun
    log.finish()
    return path.read_bytes()


def test_what_comes_after_the_word_is_the_builds_however_it_is_cut(tmp_path: Path) -> None:
    whole = frame(1, BEGUN + b"one\n") + frame(2, b"two\n") + frame(1, b"") + frame(1, BEGUN)
    expected = b"one\ntwo\n" + BEGUN
    assert output_of(tmp_path / "whole", whole) == expected
    assert output_of(tmp_path / "bytes", *(bytes([byte]) for byte in whole)) == expected
    words = [frame(1, BEGUN[:5]), frame(1, BEGUN[5:]), frame(1, b"one\n")]
    assert output_of(tmp_path / "frames", *words) == b"one\n"


def test_what_the_build_says_on_the_other_stream_may_come_before_the_word(tmp_path: Path) -> None:
    pieces = [frame(2, b"quick "), frame(1, BEGUN[:3]), frame(2, b"words\n"), frame(1, BEGUN[3:])]
    assert output_of(tmp_path / "log", *pieces) == b"quick words\n"


@pytest.mark.parametrize(
    "data",
    [
        frame(1, b"hello\n"),
        frame(1, BEGUN[:4] + b"x"),
        frame(1, BEGUN[:4]) + frame(1, b"x"),
        frame(2, b"x" * (EARLY_BYTES_MAX + 1)),
    ],
)
def test_another_beginning_is_a_tree_that_was_not_taken(tmp_path: Path, data: bytes) -> None:
    log = BuildLog(tmp_path / "log", 1000)
    output = ContainerOutput(log, is_tree_expected=True)
    with pytest.raises(TreeNotTaken):
        output.take(data)
    assert not output.has_begun
    log.finish()
    assert not log.path.read_bytes()


SHELLS = [name for name in ("dash", "bash", "busybox") if shutil.which(name)]


def shell_folder(tmp_path: Path, shell: str, *, has_tar: bool = True) -> Path:
    """A folder for PATH with nothing in it but `sh` and the few programs that the tests need."""
    folder = tmp_path / "bin"
    folder.mkdir()
    names = {"sh": shell, "cat": "cat", "env": "env", "sort": "sort"}
    if has_tar:
        names["tar"] = "tar"
    for name, program in names.items():
        found = shutil.which(program)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


def run(
    tmp_path: Path, programs: Path, script: tuple[str, ...], *commands: str, **environment: str
) -> bytes:
    """What a shell says that gets a tree with `a file` over its standard input."""
    tree, workspace = tmp_path / "tree.tar", tmp_path / "workspace"
    with tarfile.open(tree, "w", format=tarfile.GNU_FORMAT) as archive:
        (tmp_path / "content").write_text("content\n")
        archive.add(tmp_path / "content", "a file")
    workspace.mkdir(exist_ok=True)
    with tree.open("rb") as file:
        done = subprocess.run(
            ["sh", *script, "pbft-ci", *commands],
            executable=os.path.realpath(programs / "sh"),
            cwd=workspace,
            stdin=file if "-e" not in script else subprocess.DEVNULL,
            capture_output=True,
            env={"PATH": str(programs), **environment},
            timeout=60,
            check=False,
        )
    return done.stdout + done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_the_commands_are_run_as_if_the_container_began_with_them(
    tmp_path: Path, shell: str
) -> None:
    programs = shell_folder(tmp_path, shell)
    commands = ("cat 'a file'", 'echo "$0 $# $-"', "cat", "env | sort", 'echo "it\'s $HOME"')
    environment = {"HOME": "/home/build", "TAR_OPTIONS": "--to-stdout --bogus", "TAPE": "/none"}
    script = ("-c", UNPACK, RUN_COMMANDS)
    said = run(tmp_path, programs, script, *commands, **environment)
    assert said.startswith(BEGUN)
    plainly = run(tmp_path, programs, ("-e", "-c", RUN_COMMANDS), *commands, **environment)
    assert said.removeprefix(BEGUN) == plainly
    assert b"\ncontent\n" in plainly
    assert b"TAR_OPTIONS=--to-stdout --bogus\n" in plainly


def test_a_shell_without_a_tar_that_works_says_nothing_and_runs_nothing(tmp_path: Path) -> None:
    programs = shell_folder(tmp_path, "dash", has_tar=False)
    script = ("-c", UNPACK, RUN_COMMANDS)
    assert run(tmp_path, programs, script, "echo ran") == b""
    (programs / "tar").write_text("#!/bin/sh\necho loud\necho louder >&2\nexit 2\n")
    (programs / "tar").chmod(0o755)
    assert run(tmp_path, programs, script, "echo ran") == b""
