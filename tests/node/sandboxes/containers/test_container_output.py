"""How a container takes its tree and says so, with the shells and the tar of this machine."""

import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from node.outputs.build_log import BuildLog
from node.sandboxes.containers.container_output import (
    BEGUN,
    EARLY_BLOCK_BYTES,
    EARLY_BYTES_MAX,
    EARLY_TAKEN,
    UNPACK,
    ContainerOutput,
    TreeNotTaken,
    unpack_script,
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


def test_it_says_once_that_it_has_what_lies_below_the_tree(tmp_path: Path) -> None:
    """In the moment in which it does, before anything of the build is in the log."""
    whole = frame(1, EARLY_TAKEN + BEGUN + b"one\n")
    for name, pieces in (("whole", [whole]), ("bytes", [bytes([byte]) for byte in whole])):
        log = BuildLog(tmp_path / name, 1000)
        said: list[bytes] = []

        def note(log: BuildLog = log, said: list[bytes] = said) -> None:
            said.append(b"taken")
            log.write(b"taken\n")

        output = ContainerOutput(log, is_tree_expected=True, on_early_taken=note)
        for piece in pieces:
            output.take(piece)
        log.finish()
        assert said == [b"taken"]
        assert log.path.read_bytes() == b"taken\none\n"
    output = ContainerOutput(
        BuildLog(tmp_path / "log", 1000), is_tree_expected=True, on_early_taken=lambda: None
    )
    with pytest.raises(TreeNotTaken):
        output.take(frame(1, BEGUN))


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
    tmp_path: Path,
    programs: Path,
    script: tuple[str, ...],
    *commands: str,
    early: bytes = b"",
    cut_at: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """What a shell says that gets a tree with `a file` over its standard input, which is a pipe.

    early: what comes before the tree. cut_at: so many bytes come in all.
    """
    tree, workspace = tmp_path / "tree.tar", tmp_path / "workspace"
    with tarfile.open(tree, "w", format=tarfile.GNU_FORMAT) as archive:
        (tmp_path / "content").write_text("content\n")
        archive.add(tmp_path / "content", "a file")
    workspace.mkdir(exist_ok=True)
    done = subprocess.run(
        ["sh", *script, "pbft-ci", *commands],
        executable=os.path.realpath(programs / "sh"),
        cwd=workspace,
        input=b"" if "-e" in script else (early + tree.read_bytes())[:cut_at],
        capture_output=True,
        env={"PATH": str(programs), **(environment or {})},
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
    said = run(tmp_path, programs, script, *commands, environment=environment)
    assert said.startswith(BEGUN)
    plainly = run(
        tmp_path, programs, ("-e", "-c", RUN_COMMANDS), *commands, environment=environment
    )
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


def early_archive(length: int) -> bytes:
    """An archive that is no multiple of what dd hands on, with all that tar may see otherwise."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, mode, data in (
            ("deep", tarfile.DIRTYPE, 0o755, b""),
            ("deep/big", tarfile.REGTYPE, 0o666, b"x" * length),
            ("deep/" + "n" * 150, tarfile.REGTYPE, 0o444, b"long"),
            ("deep", tarfile.DIRTYPE, 0o755, b""),
        ):
            header = tarfile.TarInfo(name)
            header.type, header.mode, header.size, header.mtime = kind, mode, len(data), 1000
            archive.addfile(header, io.BytesIO(data))
    # without what tarfile adds to fill a record
    return made.getvalue().rstrip(b"\0") + bytes(1024)


@pytest.mark.parametrize("shell", SHELLS)
def test_what_lies_below_the_tree_comes_first_on_the_same_input(tmp_path: Path, shell: str) -> None:
    programs = shell_folder(tmp_path, shell)
    for name in ("dd", "cat", "tar"):
        (programs / name).unlink(missing_ok=True)
        found = shutil.which("busybox" if shell == "busybox" else name)
        assert found is not None
        (programs / name).symlink_to(found)
    early = []
    whole = b""
    # one ends in the first block of the last dd, one fills its blocks
    for name, length in (("one", 200_000), ("two", 4 * EARLY_BLOCK_BYTES)):
        folder = tmp_path / name
        folder.mkdir()
        data = early_archive(length)
        early.append((str(folder), len(data)))
        whole += data + bytes(-len(data) % EARLY_BLOCK_BYTES)
    script = unpack_script(early)
    environment = {"TAR_OPTIONS": "--to-stdout --bogus"}
    said = run(
        tmp_path,
        programs,
        ("-c", script, RUN_COMMANDS),
        "cat 'a file'",
        early=whole,
        environment=environment,
    )
    assert said == EARLY_TAKEN + BEGUN + b"+ cat 'a file'\ncontent\n"
    for name, length in (("one", 200_000), ("two", 4 * EARLY_BLOCK_BYTES)):
        deep = tmp_path / name / "deep"
        assert (deep / "big").read_bytes() == b"x" * length
        assert (deep / ("n" * 150)).read_bytes() == b"long"
        assert stat.S_IMODE((deep / "big").stat().st_mode) == 0o666
        assert deep.stat().st_mtime == 1000

    # cut off, it is none
    said = run(
        tmp_path, programs, ("-c", script, RUN_COMMANDS), "echo ran", early=whole, cut_at=9999
    )
    assert said == b""


def test_a_tar_that_stops_reading_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    """Else the rest of an archive would be taken for the tree."""
    programs = shell_folder(tmp_path, "dash", has_tar=False)
    for name in ("dd", "head"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    (programs / "tar").write_text(f"#!/bin/sh\nhead -c 4 >>{tmp_path}/read\n")
    (programs / "tar").chmod(0o755)
    length = 20 * EARLY_BLOCK_BYTES
    script = unpack_script([("/", length)] * 2)
    early = b"one\n".ljust(length, b"\0") + b"two\n".ljust(length, b"\0")
    said = run(tmp_path, programs, ("-c", script, RUN_COMMANDS), "echo ran", early=early)
    assert said == EARLY_TAKEN + BEGUN + b"+ echo ran\nran\n"
    assert (tmp_path / "read").read_bytes() == b"one\ntwo\na fi"
