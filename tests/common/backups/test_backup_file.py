"""The file of a backup: what is written is read again, and whatever is wrong is one line."""

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest

from common.backups import backup_file
from common.backups.backup_file import (
    FORMAT_VERSION,
    HEADER_NAME,
    SUMS_NAME,
    Backup,
    BackupRefused,
    Header,
    new_backup,
)
from common.config_error import ConfigError

HEADER = Header(FORMAT_VERSION, "node", "node0", "ab" * 32, "1.2.3", "2026-11-24T20:00:00+00:00")
BLOCK = tarfile.BLOCKSIZE


def anything(name: str) -> bool:
    return name.startswith("data/")


def written(folder: Path) -> Path:
    """A backup of two files."""
    (folder / "large").write_bytes(b"x" * 3_000_000)
    file = folder / "backup.tar"
    with new_backup(file, HEADER) as writer:
        writer.add_bytes("data/small", b"small")
        assert writer.add_file("data/large", folder / "large")
    return file


def packed(*files: tuple[str, bytes], header: object = HEADER) -> bytes:
    """A backup as somebody else may make one: right sums over whatever it holds."""
    named = [(HEADER_NAME, msgspec.json.encode(header)), *files]
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in named)
    with io.BytesIO() as stream:
        with tarfile.open(fileobj=stream, mode="w:", format=tarfile.USTAR_FORMAT) as archive:
            for name, data in [*named, (SUMS_NAME, sums.encode())]:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return stream.getvalue()


def refusal(folder: Path, data: bytes) -> str:
    """Why this backup is refused: one line that names it."""
    file = folder / "refused.tar"
    file.write_bytes(data)
    with pytest.raises(BackupRefused) as caught:
        Backup(file, anything)
    text = str(caught.value)
    assert text.startswith(f"{file}: ")
    assert "\n" not in text
    return text.removeprefix(f"{file}: ")


def test_what_is_written_is_read_again_also_by_tar_and_sha256sum(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    with Backup(file, anything) as backup:
        assert backup.header == HEADER
        contents = {stored.name: b"".join(content) for stored, content in backup.contents()}
        assert backup.read("data/small", 5) == b"small"
        assert backup.read("data/none", 5) is None
        with pytest.raises(BackupRefused, match="data/large has 3000000 bytes; 5 is the most"):
            backup.read("data/large", 5)
    assert contents == {"data/small": b"small", "data/large": b"x" * 3_000_000}
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "xf", file, "-C", unpacked], check=True)
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", SUMS_NAME], cwd=unpacked, check=True
    )


def test_a_file_that_exists_is_not_overwritten_and_half_a_one_never_there(tmp_path: Path) -> None:
    file = written(tmp_path)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="exists already"), new_backup(file, HEADER):
        pass
    assert file.read_bytes() == before
    with pytest.raises(ZeroDivisionError), new_backup(tmp_path / "other.tar", HEADER):
        _ = 1 // 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tar", "large"]


def test_what_is_no_plain_file_or_gone_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with new_backup(tmp_path / "backup.tar", HEADER) as writer:
        assert not writer.add_file("data/link", tmp_path / "link")
        assert not writer.add_file("data/folder", tmp_path)
        assert not writer.add_file("data/gone", tmp_path / "gone")
    with Backup(tmp_path / "backup.tar", anything) as backup:
        assert not backup.files


def test_a_backup_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = packed(("data/a", b"a" * 700))
    end = whole.index(b"\0" * BLOCK, whole.index(SUMS_NAME.encode()) + BLOCK)
    for length in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, end - BLOCK, end, end + 1):
        assert "is cut off" in refusal(tmp_path, whole[:length])


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    """But for bytes that say nothing: padding, owners, and what stands behind the end."""
    whole = packed(("data/a", b"a" * BLOCK))
    for place in (
        whole.index(b"node0"),
        whole.index(b"data/a"),
        whole.index(b"a" * BLOCK) + 100,
        whole.rindex(b"data/a"),
        whole.index(SUMS_NAME.encode()),
    ):
        assert refusal(tmp_path, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../data/a", "has ../data/a, which does not belong in a backup"),
        ("/etc/cron.d/a", "has /etc/cron.d/a, which does not belong in a backup"),
        ("data\x1b[31m", r"has data\x1b[31m, which does not belong in a backup"),
    ],
)
def test_a_name_that_is_not_expected_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    assert refusal(tmp_path, packed((name, b""))) == reason


def test_a_name_is_there_once(tmp_path: Path) -> None:
    assert refusal(tmp_path, packed(("data/a", b""), ("data/a", b""))) == "has data/a twice"


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE,
     tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE],
)  # fmt: skip
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    whole = packed(("data/a", b""))
    info = tarfile.TarInfo("data/b")
    info.type, info.linkname = kind, "/etc/passwd"
    block = info.tobuf(tarfile.USTAR_FORMAT)
    begin = whole.index(b"data/a")
    data = whole[:begin] + block + whole[begin:]
    assert refusal(tmp_path, data) == "has data/b, which is no plain file"


def test_a_size_beyond_the_file_takes_no_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo(HEADER_NAME)
    info.size = 2**60
    data = info.tobuf(tarfile.GNU_FORMAT) + bytes(BLOCK)
    assert refusal(tmp_path, data) == f"its {HEADER_NAME} is too large"


def test_a_compressed_file_is_no_backup(tmp_path: Path) -> None:
    with io.BytesIO() as stream:
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            archive.addfile(tarfile.TarInfo("data/a" * 10), io.BytesIO())
        data = stream.getvalue() + bytes(BLOCK)
    assert refusal(tmp_path, data) == "is damaged, or is no backup of PBFT/CI"


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_file, "FILES_MAX", 2)
    data = packed(*((f"data/{index}", b"") for index in range(3)))
    assert refusal(tmp_path, data) == "has more than 2 files"


def test_what_another_program_wrote_is_no_backup(tmp_path: Path) -> None:
    assert refusal(tmp_path, b"nonsense" * 1000) == "is damaged, or is no backup of PBFT/CI"
    headless = packed(("data/a", b"a"))[2 * BLOCK :]
    assert refusal(tmp_path, headless) == "is no backup of PBFT/CI"


def test_nothing_comes_behind_the_sums(tmp_path: Path) -> None:
    whole = packed(("data/a", b"a"))
    end = whole.index(SUMS_NAME.encode()) + 2 * BLOCK
    data = whole[:end] + packed(("data/b", b"b"))
    assert refusal(tmp_path, data) == "has something behind SHA256SUMS"


def test_a_newer_format_is_refused_whatever_else_it_has(tmp_path: Path) -> None:
    newer = {"format": FORMAT_VERSION + 1, "whose": ["?"]}
    assert refusal(tmp_path, packed(header=newer)).startswith("has format 2, this version reads 1")
    assert refusal(tmp_path, packed(header={"format": 1})) == "its backup.json cannot be read"


def test_no_pipe_holds_a_restore_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(BackupRefused):
            Backup(path, anything)
