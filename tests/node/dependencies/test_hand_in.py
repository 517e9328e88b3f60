"""What steps are handed: archives with the names that tools look for, and crates unpacked."""

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from common.dependencies.lock_file import Tool
from node.dependencies.bill_of_materials import bill_of_materials
from node.dependencies.fetch_messages import Stored
from node.dependencies.hand_in import hand_in
from node.dependencies.input_store import InputStore, WrongBytes
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop


@pytest.fixture
def store(tmp_path: Path) -> InputStore:
    made = InputStore(tmp_path / "store", 10**9, 10**9)
    made.start()
    return made


def put(store: InputStore, tool: Tool, file: str, data: bytes, name: str = "x") -> Stored:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    new = store.folder / "a.new"
    new.write_bytes(data)
    store.put(new, digest)
    return Stored(tool, name, "1.0.0", "", file, digest, len(data))


def crate_with(files: dict[str, bytes], *, kind: bytes = tarfile.REGTYPE) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.type, header.mode = kind, 0o755
            header.size = len(data) if kind == tarfile.REGTYPE else 0
            header.linkname = "/etc/passwd"
            archive.addfile(header, io.BytesIO(data))
    return gzip.compress(made.getvalue(), mtime=0)


def handed(store: InputStore, *stored: Stored, bytes_max: int = 10**7) -> dict[str, bytes | None]:
    """The files and folders (None) of the archive."""
    archive = store.folder.parent / "inputs.tar"
    hand_in(store, stored, archive, bytes_max=bytes_max, stop=Stop())
    with tarfile.open(archive) as made:
        return {
            member.name: content.read() if (content := made.extractfile(member)) else None
            for member in made
        }


def test_files_are_where_tools_look(store: InputStore) -> None:
    wheel = put(store, Tool.PIP, "x-1.0.0-py3-none-any.whl", b"wheel")
    module = put(store, Tool.GO, "example.org/!a/@v/v1.0.0.mod", b"module")
    assert handed(store, wheel, module) == {
        "go": None,
        "pip": None,
        "pip/x-1.0.0-py3-none-any.whl": b"wheel",
        "go/example.org": None,
        "go/example.org/!a": None,
        "go/example.org/!a/@v": None,
        "go/example.org/!a/@v/v1.0.0.mod": b"module",
    }


def test_a_crate_is_unpacked_beside_its_checksum(store: InputStore) -> None:
    big = bytes(range(256)) * 5000
    data = crate_with({"x-1.0.0/Cargo.toml": b"[package]", "x-1.0.0/src/lib.rs": big})
    found = handed(store, put(store, Tool.CARGO, "x-1.0.0.crate", data))
    assert found["cargo/x-1.0.0/src/lib.rs"] == big
    known = found["cargo/x-1.0.0/.cargo-checksum.json"]
    assert known is not None
    assert json.loads(known) == {"files": {}, "package": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize("name", ["x-1.0.0/../../etc/passwd", "/etc/passwd", "y-1.0.0/a"])
def test_a_crate_does_not_leave_its_folder(store: InputStore, name: str) -> None:
    crate = put(store, Tool.CARGO, "x-1.0.0.crate", crate_with({name: b"x"}))
    with pytest.raises(InfrastructureError, match="outside of its folder"):
        handed(store, crate)


def test_links_of_a_crate_are_left_out(store: InputStore) -> None:
    data = crate_with({"x-1.0.0/link": b""}, kind=tarfile.SYMTYPE)
    assert "cargo/x-1.0.0/link" not in handed(store, put(store, Tool.CARGO, "x.crate", data))


def test_a_crate_that_unpacks_without_end_is_refused(store: InputStore) -> None:
    data = crate_with({"x-1.0.0/zeros": bytes(10**7)})
    assert len(data) < 10**5
    with pytest.raises(InfrastructureError, match="inputs_bytes_max"):
        handed(store, put(store, Tool.CARGO, "x.crate", data), bytes_max=10**6)


def test_a_changed_file_is_not_handed_in(store: InputStore) -> None:
    wheel = put(store, Tool.PIP, "x.whl", b"wheel")
    store.path(wheel.digest).write_bytes(b"wheal")
    with pytest.raises(WrongBytes):
        handed(store, wheel)


def test_a_sweep_removes_what_is_too_much_and_what_a_killed_fetch_left(tmp_path: Path) -> None:
    small = InputStore(tmp_path / "store", 10, 10**9)
    small.start()
    older, newer = (put(small, Tool.PIP, "x.whl", data) for data in (b"12345678", b"abcdefgh"))
    os.utime(small.path(older.digest), (1, 10**9))
    left, begun = small.folder / "1.new", small.folder / "2.new"
    left.write_bytes(b"")
    begun.write_bytes(b"")
    os.utime(left, (1, 1))
    small.sweep([older.digest], Stop())
    assert small.has(older.digest)
    assert (left.exists(), begun.exists()) == (False, True)
    # it was used last now
    small.sweep([], Stop())
    assert (small.has(older.digest), small.has(newer.digest)) == (True, False)


def test_the_list_is_the_same_in_any_order_and_says_no_more(store: InputStore) -> None:
    h1 = "h1:" + base64.b64encode(bytes(32)).decode()
    inputs = [
        Stored(Tool.PIP, "x", "1.0", "", "x-1.0.tar.gz", "sha256:" + "a" * 64, 3),
        Stored(Tool.NPM, "@types/node", "20.0.0", "", "n.tgz", "sha512:" + "b" * 128, 4),
        Stored(Tool.GO, "example.org/a", "v1.0.0", "zip", "a.zip", h1, 5),
        Stored(Tool.FILES, "f", "", "", "f", "sha256:" + "c" * 64, 6, "https://example.org/f"),
    ]
    made = bill_of_materials("https://example.org/r", "1" * 40, inputs)
    assert made == bill_of_materials("https://example.org/r", "1" * 40, inputs[::-1])
    purls = [each.get("purl") for each in json.loads(made)["components"]]
    assert purls == [
        None,
        "pkg:golang/example.org/a@v1.0.0?checksum=h1:" + "0" * 64 + "&type=module",
        "pkg:npm/%40types/node@20.0.0?checksum=sha512:" + "b" * 128,
        "pkg:pypi/x@1.0?checksum=sha256:" + "a" * 64 + "&file_name=x-1.0.tar.gz",
    ]
