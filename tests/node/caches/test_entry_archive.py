"""Entries as they are written, and every stream of an engine that must not become one."""

import io
import tarfile
from pathlib import Path

import pytest

from node.caches import entry_archive
from node.caches.entry_archive import (
    HEADER_BYTES_MAX,
    Content,
    EntryRefused,
    EntryWriter,
)
from node.work.threads import Stop

MIB = 2**20
BLOCK = 512


def member(
    name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", target: str = "", **more: int
) -> bytes:
    """A member as an engine writes it."""
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.size = kind, target, len(data)
    for key, value in more.items():
        setattr(header, key, value)
    padding = b"\0" * (-len(data) % BLOCK)
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + data + padding


def extended(records: bytes, *, size: int | None = None, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header with these records, which says that it has that size."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, len(records) if size is None else size
    return header.tobuf(tarfile.USTAR_FORMAT) + records + b"\0" * (-len(records) % BLOCK)


END = b"\0" * 1024
TREE = (
    member("tree", tarfile.DIRTYPE, mode=0o2751, mtime=7, uid=5)
    + member("tree/file", data=b"content", mode=0o4755, mtime=1_700_000_000)
    + member("tree/second", tarfile.LNKTYPE, target="tree/file", mode=0o755)
    + member("tree/link", tarfile.SYMTYPE, target="/etc/passwd")
    + member(f"tree/{'n' * 200}\udcff", data=b"x")
    + member("tree/closed", tarfile.DIRTYPE, mode=0o555, mtime=8)
)


def write(*added: tuple[str, bytes], bytes_max: int = MIB) -> tuple[bytes, Content]:
    file = io.BytesIO()
    writer = EntryWriter(file, bytes_max, lambda: None)
    writer.begin("home")
    for path, stream in added:
        writer.add(path, io.BytesIO(stream), Stop())
    return file.getvalue(), writer.finish()


def refusal(stream: bytes, path: str = "tree", bytes_max: int = MIB) -> str:
    with pytest.raises(EntryRefused) as caught:
        write((path, stream), bytes_max=bytes_max)
    return str(caught.value)


def test_an_entry_has_the_form_that_this_node_gives_it() -> None:
    file = io.BytesIO()
    writer = EntryWriter(file, MIB, lambda: None)
    assert writer.is_empty
    writer.begin("home")
    writer.add("a/b/tree", io.BytesIO(TREE + END), Stop())
    writer.begin("workspace")
    writer.add("plain", io.BytesIO(member("plain", data=b"1" * 5000) + END), Stop())
    content = writer.finish()
    data = file.getvalue()
    first, second = content.parts
    assert (first.root, second.root) == ("home", "workspace")
    assert first.length + second.length == content.length == len(data)
    assert (first.file_count, second.file_count) == (8, 1)
    # whole pages: two files; 5,000 bytes are two
    assert (first.page_bytes, second.page_bytes) == (8192, 8192)
    with tarfile.open(fileobj=io.BytesIO(data[: first.length])) as archive:
        entries = archive.getmembers()
        found = {entry.name: entry for entry in entries}
        content_of_second = archive.extractfile("a/b/tree/second")
        assert content_of_second is not None
        assert content_of_second.read() == b"content"
    assert list(found)[:3] == ["a", "a/b", "a/b/tree"]
    assert {(entry.uid, entry.gid, entry.uname) for entry in found.values()} == {(65534, 65534, "")}
    # neither set-user-id nor set-group-id
    assert (found["a/b/tree"].mode, found["a/b/tree/file"].mode) == (0o751, 0o755)
    assert found["a/b/tree/file"].mtime == 1_700_000_000
    assert found["a/b/tree/link"].linkname == "/etc/passwd"
    assert f"a/b/tree/{'n' * 200}\udcff" in found
    # no header that BusyBox leaves out, and folders once more behind all that is in them
    assert tarfile.XHDTYPE not in {data[place : place + 1] for place in range(156, len(data), 512)}
    folders = [(entry.name, entry.mode, entry.mtime) for entry in entries if entry.isdir()]
    last = [("a/b/tree/closed", 0o555, 8), ("a/b/tree", 0o751, 7), ("a/b", 0o755, 0)]
    assert folders[3] == last[0]
    assert folders[4:] == [*last, ("a", 0o755, 0)]
    assert all(entry.isdir() for entry in entries[-4:])


def test_a_long_name_of_gnu_is_read_too() -> None:
    name = f"tree/{'d' * 200}"
    stream = member("tree", tarfile.DIRTYPE) + extended(
        name.encode() + b"\0", kind=tarfile.GNUTYPE_LONGNAME
    )
    data, _ = write(("tree", stream + member("short", data=b"1") + END))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["tree", name]


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        # out of the entry
        (member("tree", tarfile.DIRTYPE) + member("tree/../x"), "not asked for"),
        (member("/tree"), "not asked for"),
        (member("other"), "not asked for"),
        (member("tree", tarfile.DIRTYPE) + member("tree//x"), "not asked for"),
        # behind a link, also one that an engine would follow
        (
            member("tree", tarfile.DIRTYPE)
            + member("tree/a", tarfile.SYMTYPE, target="/etc")
            + member("tree/a/x", data=b"1"),
            "no folder",
        ),
        (member("tree") + member("tree/x"), "no folder"),
        # a name for two things
        (
            member("tree", tarfile.DIRTYPE)
            + member("tree/a", tarfile.SYMTYPE, target="/etc")
            + member("tree/a", tarfile.DIRTYPE),
            "there twice",
        ),
        # hard links that lead elsewhere
        (
            member("tree", tarfile.DIRTYPE)
            + member("tree/a", tarfile.LNKTYPE, target="tree/later")
            + member("tree/later", data=b"1"),
            "no earlier file",
        ),
        (
            member("tree", tarfile.DIRTYPE)
            + member("tree/a", tarfile.SYMTYPE, target="/etc/passwd")
            + member("tree/b", tarfile.LNKTYPE, target="tree/a"),
            "no earlier file",
        ),
        (member("tree", tarfile.LNKTYPE, target="/etc/passwd"), "not asked for"),
        # special files
        (member("tree", tarfile.CHRTYPE, devmajor=1, devminor=3), "special file"),
        (member("tree", tarfile.BLKTYPE), "special file"),
        (member("tree", tarfile.FIFOTYPE), "special file"),
        (member("tree", b"S"), "special file"),
        (extended(b"22 GNU.sparse.major=1\n") + member("tree"), "holes"),
        # headers
        (extended(b"", size=300 * MIB), "header of 314572800 bytes"),
        (extended(b"", size=300 * MIB, kind=tarfile.GNUTYPE_LONGLINK), "header of"),
        (extended(b"9 path=x\n") * 6 + member("tree"), "too many headers"),
        (extended(b"9 path=x\n", kind=tarfile.XGLTYPE) + member("tree"), "not asked for|special"),
        (extended(b"99 path=x\n") + member("tree"), "cannot be read"),
        (extended(b"0 path=x\n") + member("tree"), "cannot be read"),
        (extended(b"-9 path=\n") + member("tree"), "cannot be read"),
        (extended(b"11 size=-1\n") + member("tree"), "cannot be read"),
        (extended(b"9 path=x\n\n") + member("tree"), "cannot be read"),
        (extended(b"12 path=t\0x\n") + member("tree"), "NUL"),
        (b"\xff" * BLOCK, "cannot be read"),
        # content where none can be
        (member("tree", tarfile.DIRTYPE, data=b"x" * 600), "has content"),
        # cut off
        (member("tree", data=b"x" * 600)[:-BLOCK], "cut off"),
        (member("tree", data=b""), "cut off"),
        (member("tree", tarfile.DIRTYPE) + member(f"tree/{'n' * 256}"), "more than 255"),
        (
            member("tree", tarfile.DIRTYPE) + member("tree/l", tarfile.SYMTYPE, target="t" * 4001),
            "too long a target",
        ),
    ],
)
def test_what_is_no_entry(stream: bytes, why: str) -> None:
    is_cut = why == "cut off"
    with pytest.raises(EntryRefused, match=why):
        write(("tree", stream if is_cut else stream + END))


def test_a_file_with_holes_is_refused_before_it_is_read() -> None:
    header = tarfile.TarInfo("tree")
    header.size = 2**40
    assert "more than" in refusal(header.tobuf(tarfile.GNU_FORMAT))
    records = b"22 size=1099511627776\n"
    assert "more than" in refusal(extended(records) + member("tree"))


def test_the_bounds_of_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = member("tree", tarfile.DIRTYPE)
    assert "more than 4096 bytes" in refusal(
        folder + member("tree/a", data=b"x" * 5000) + END, bytes_max=4096
    )
    many = folder + b"".join(member(f"tree/{number}") for number in range(20)) + END
    for name, value, why in (
        ("ENTRIES_MAX", 20, "more than 20 entries"),
        ("NAMES_BYTES_MAX", 100, "names have more than 100 bytes"),
        ("PATH_BYTES_MAX", 5, "path of more than 5 bytes"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(entry_archive, name, value)
            assert why in refusal(many)
    write(("tree", many))
    # the most that a header may have is read
    records = b"9 path=t\n" * ((HEADER_BYTES_MAX - 30) // 9) + b"13 path=tree\n"
    write(("tree", extended(records) + member("other") + END))


def test_what_stops_the_writing_stops_it() -> None:
    def check() -> None:
        raise OSError("no room")

    writer = EntryWriter(io.BytesIO(), 64 * MIB, check)
    writer.begin("home")
    with pytest.raises(OSError, match="no room"):
        writer.add("tree", io.BytesIO(member("tree", data=b"x" * 10 * MIB) + END), Stop())


class Endless:
    """A stream of a folder with ever more files, as a build with 10^6 of them has."""

    def __init__(self) -> None:
        self._rest = member("tree", tarfile.DIRTYPE)
        self.count = 0

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            self.count += 1
            self._rest += member(f"tree/{self.count}")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def test_a_million_files_are_given_up_after_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the stream is read beyond them. With the real bound it is the same for 7 s."""
    assert entry_archive.ENTRIES_MAX == 100_000, "docs/PIPELINES.md says so"
    monkeypatch.setattr(entry_archive, "ENTRIES_MAX", 1000)
    stream = Endless()
    with (tmp_path / "file").open("wb") as file:
        writer = EntryWriter(file, 2**40, lambda: None)
        writer.begin("home")
        with pytest.raises(EntryRefused, match="more than 1000 entries"):
            writer.add("tree", stream, Stop())  # type: ignore[arg-type]
    assert stream.count == 1000
