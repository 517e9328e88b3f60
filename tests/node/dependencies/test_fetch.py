"""Fetching what lock files pin: from honest mirrors, and from others."""

import base64
import hashlib
import http.server
import io
import json
import ssl
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.dependencies.lock_file import Tool
from node.dependencies import fetcher
from node.dependencies.fetch_messages import (
    Answer,
    Failed,
    FetchOrder,
    Flawed,
    Inputs,
    LockText,
    Server,
    Unavailable,
)
from node.dependencies.fetch_process import answer_order
from node.dependencies.input_store import InputStore, store_name
from tests.node.dependencies.mirror import Mirror, running_mirror
from tests.node.git_servers import self_signed

GO_MOD = b"module example.org/A\n"
WHEEL, SOURCE, OTHER = b"wheel" * 1000, b"source", b"other"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(fetcher, "PAUSE_SECONDS", 0.001)
    with running_mirror() as running:
        yield running


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def order(folder: Path, mirror: Mirror, *locks: LockText, **changes: object) -> FetchOrder:
    servers = changes.pop(
        "servers", tuple(Server(tool=tool, url=mirror.url) for tool in Tool if tool != "files")
    )
    return FetchOrder(
        locks=locks,
        servers=servers,  # type: ignore[arg-type]  # of the caller's
        folder=str(folder),
        machine="x86_64",
        bytes_max=int(str(changes.pop("bytes_max", 10**7))),
        seconds=30.0,
    )


def pip_lock(*files: bytes, name: str = "foo", python: str | None = None) -> LockText:
    hashes = " ".join(f"--hash=sha256:{sha256(file)}" for file in files)
    return LockText(Tool.PIP, "requirements.txt", f"{name}==1.0 {hashes}\n".encode(), python)


def serve_foo(mirror: Mirror) -> None:
    """A release with a wheel for Linux, one for Windows and a source archive."""
    files = {
        "foo-1.0-cp312-cp312-manylinux_2_17_x86_64.whl": WHEEL,
        "foo-1.0-cp312-cp312-win_amd64.whl": OTHER,
        "foo-1.0.tar.gz": SOURCE,
    }
    mirror.files["/foo/"] = "".join(
        f'<a href="../files/{name}#sha256={sha256(data)}">{name}</a>'
        for name, data in files.items()
    ).encode()
    mirror.files |= {f"/files/{name}": data for name, data in files.items()}


def stored_files(answer: Answer) -> list[str]:
    assert isinstance(answer, Inputs), answer
    return [each.file for each in answer.stored]


def test_a_release_of_pip(mirror: Mirror, tmp_path: Path) -> None:
    """The wheel that fits; a second build asks for no file again."""
    serve_foo(mirror)
    wanted = order(tmp_path, mirror, pip_lock(WHEEL, OTHER, SOURCE))
    answer = answer_order(wanted)
    assert stored_files(answer) == ["foo-1.0-cp312-cp312-manylinux_2_17_x86_64.whl"]
    assert (tmp_path / store_name(f"sha256:{sha256(WHEEL)}")).read_bytes() == WHEEL
    asked = len(mirror.asked)
    assert answer_order(wanted) == answer
    assert [path for path, _ in mirror.asked[asked:]] == ["/foo/"]
    for_another = order(tmp_path, mirror, pip_lock(WHEEL, OTHER, SOURCE, python="3.11"))
    assert stored_files(answer_order(for_another)) == ["foo-1.0.tar.gz"]


def test_an_index_in_json(mirror: Mirror, tmp_path: Path) -> None:
    serve_foo(mirror)
    mirror.types["/foo/"] = "application/vnd.pypi.simple.v1+json"
    entry = {"filename": "foo-1.0.tar.gz", "url": "/files/foo-1.0.tar.gz"}
    page = {"files": [{**entry, "hashes": {"sha256": sha256(SOURCE)}}]}
    mirror.files["/foo/"] = json.dumps(page).encode()
    assert stored_files(answer_order(order(tmp_path, mirror, pip_lock(SOURCE)))) == [
        "foo-1.0.tar.gz"
    ]


def test_an_index_that_leaves_files_out_is_told(mirror: Mirror, tmp_path: Path) -> None:
    """What it leaves out might be what others are given."""
    serve_foo(mirror)
    answer = answer_order(order(tmp_path, mirror, pip_lock(WHEEL, b"a file that is missing")))
    assert isinstance(answer, Unavailable)
    assert "lists 1 of the 2 files of foo 1.0" in answer.text


def test_npm_go_cargo_and_files(mirror: Mirror, tmp_path: Path) -> None:
    tarball, crate = b"tarball", b"crate"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("example.org/A@v1.0.0/go.mod", GO_MOD)
    go_files = f"{sha256(GO_MOD)}  example.org/A@v1.0.0/go.mod\n"
    go_mod = f"{sha256(GO_MOD)}  go.mod\n"
    digests = [
        f"h1:{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
        for text in (go_files, go_mod)
    ]
    integrity = f"sha512-{base64.b64encode(hashlib.sha512(tarball).digest()).decode()}"
    mirror.files |= {
        "/@scope/x/-/x-1.0.0.tgz": tarball,
        "/example.org/!a/@v/v1.0.0.zip": made.getvalue(),
        "/example.org/!a/@v/v1.0.0.mod": GO_MOD,
        "/serde/serde-1.0.0.crate": crate,
    }
    npm = {"node_modules/@scope/x": {"version": "1.0.0", "integrity": integrity}}
    answer = answer_order(
        order(
            tmp_path,
            mirror,
            LockText(
                Tool.NPM,
                "web/package-lock.json",
                json.dumps({"lockfileVersion": 3, "packages": npm}).encode(),
            ),
            LockText(
                Tool.GO,
                "go.sum",
                f"example.org/A v1.0.0 {digests[0]}\n"
                f"example.org/A v1.0.0/go.mod {digests[1]}\n".encode(),
            ),
            LockText(
                Tool.CARGO,
                "Cargo.lock",
                b'version = 3\n[[package]]\nname = "serde"\nversion = "1.0.0"\n'
                b'source = "registry+https://example.org/index"\n'
                b'checksum = "' + sha256(crate).encode() + b'"\n',
            ),
        )
    )
    assert stored_files(answer) == [
        "serde-1.0.0.crate",
        "example.org/!a/@v/v1.0.0.mod",
        "example.org/!a/@v/v1.0.0.zip",
        "@scope+x-1.0.0.tgz",
    ]
    assert isinstance(answer, Inputs)
    ((file, rewritten),) = answer.rewritten
    entry = json.loads(rewritten)["packages"]["node_modules/@scope/x"]
    assert file == "web/package-lock.json"
    assert entry["resolved"] == "file:///pbft-ci-inputs/npm/@scope+x-1.0.0.tgz"
    assert entry["integrity"] == integrity


def test_flaws_are_told_and_nothing_is_fetched(mirror: Mirror, tmp_path: Path) -> None:
    lock = LockText(Tool.PIP, "requirements.txt", b"foo\n")
    answer = answer_order(order(tmp_path, mirror, lock))
    assert isinstance(answer, Flawed)
    assert answer.flaws[0][0] == "requirements.txt"
    assert mirror.asked == []


def test_other_bytes_are_told_with_what_came(mirror: Mirror, tmp_path: Path) -> None:
    serve_foo(mirror)
    mirror.files["/files/foo-1.0.tar.gz"] = b"tampered"
    answer = answer_order(order(tmp_path, mirror, pip_lock(SOURCE)))
    assert isinstance(answer, Unavailable)
    assert f"8 bytes with sha256:{sha256(b'tampered')}" in answer.text
    assert f"{mirror.url}/files/foo-1.0.tar.gz" in answer.text
    assert list(tmp_path.iterdir()) == []


def test_a_transfer_that_breaks_off_goes_on(mirror: Mirror, tmp_path: Path) -> None:
    serve_foo(mirror)
    path = "/files/foo-1.0-cp312-cp312-manylinux_2_17_x86_64.whl"

    def half(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(WHEEL)))
        handler.end_headers()
        handler.wfile.write(WHEEL[:2000])
        handler.close_connection = True

    mirror.once(path, half)
    assert stored_files(answer_order(order(tmp_path, mirror, pip_lock(WHEEL))))
    assert mirror.asked[-1][1]["Range"] == "bytes=2000-"


def test_a_busy_mirror_is_asked_again_and_one_that_stays_so_is_told(
    mirror: Mirror, tmp_path: Path
) -> None:
    serve_foo(mirror)
    mirror.once("/foo/", lambda handler: handler.send_error(503))
    assert stored_files(answer_order(order(tmp_path, mirror, pip_lock(SOURCE))))

    def busy(handler: http.server.BaseHTTPRequestHandler) -> bool:
        handler.send_error(503)
        return True

    mirror.tricks["/foo/"] = busy
    answer = answer_order(order(tmp_path, mirror, pip_lock(SOURCE)))
    assert answer == Failed(f"{mirror.url}/foo/: HTTP 503")


def test_more_bytes_than_are_allowed_end_it(mirror: Mirror, tmp_path: Path) -> None:
    """An endless body is no other than a long one."""
    serve_foo(mirror)
    answer = answer_order(order(tmp_path, mirror, pip_lock(WHEEL), bytes_max=3000))
    assert isinstance(answer, Failed)
    assert answer.is_permanent
    assert "inputs_bytes_max" in answer.text


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("http://169.254.169.254/latest", "is no https:// address"),
        ("https://169.254.169.254/latest", "is no https:// address"),
        ("https://elsewhere.example.org/x", "does not list elsewhere.example.org"),
        ("https://localhost/x", "is no https:// address"),
        ("file:///etc/passwd", "is no https:// address"),
        ("https://listed.example.invalid/x", "listed.example.invalid"),
    ],
)
def test_a_redirect_leads_only_where_the_operator_allows(
    mirror: Mirror, tmp_path: Path, target: str, problem: str
) -> None:
    """The last one is listed, and its name has no public address here."""
    serve_foo(mirror)

    def redirect(handler: http.server.BaseHTTPRequestHandler) -> bool:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    mirror.tricks["/files/foo-1.0.tar.gz"] = redirect
    servers = (
        Server(tool=Tool.PIP, url=mirror.url, hosts=("listed.example.invalid",), login="a:secret"),
    )
    answer = answer_order(order(tmp_path, mirror, pip_lock(SOURCE), servers=servers))
    assert isinstance(answer, Failed | Unavailable)
    assert problem in answer.text
    assert "secret" not in answer.text


def test_the_operators_rule_alone_decides_who_is_asked(mirror: Mirror, tmp_path: Path) -> None:
    """A private name is never asked of the public server, whatever the lock file says."""
    serve_foo(mirror)
    with running_mirror() as public:
        serve_foo(public)
        servers = (
            Server(tool=Tool.PIP, url=mirror.url, names=("foo*",), login="ci:secret"),
            Server(tool=Tool.PIP, url=public.url),
        )
        lock = LockText(
            Tool.PIP,
            "requirements.txt",
            f"--index-url {public.url}\nfoo==1.0 --hash=sha256:{sha256(SOURCE)}\n".encode(),
        )
        assert stored_files(answer_order(order(tmp_path, mirror, lock, servers=servers)))
        assert public.asked == []
        login = base64.b64encode(b"ci:secret").decode()
        assert mirror.asked[0][1]["Authorization"] == f"Basic {login}"
        nobody = answer_order(order(tmp_path, mirror, pip_lock(SOURCE), servers=()))
        assert nobody == Failed("this operator names no server for pip foo (sources)", True)


def test_a_mirror_that_says_nothing_is_told(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "SILENCE_SECONDS_MAX", 0.05)
    ended = threading.Event()
    mirror.tricks["/foo/"] = lambda handler: ended.wait(30)
    answer = answer_order(order(tmp_path, mirror, pip_lock(SOURCE)))
    ended.set()
    assert isinstance(answer, Failed)
    assert answer.text.startswith(f"{mirror.url}/foo/: ")


@pytest.mark.parametrize(
    ("name", "authority", "problem"),
    [
        ("IP:127.0.0.1", "own", None),
        # without any of the operator's the usual ones are asked, which do not know this server
        ("IP:127.0.0.1", None, "CERTIFICATE_VERIFY_FAILED"),
        ("IP:127.0.0.1", "another", "CERTIFICATE_VERIFY_FAILED"),
        ("DNS:elsewhere.example.org", "own", "not valid for '127.0.0.1'"),
    ],
)
def test_a_server_with_tls_is_known_by_its_authority_and_its_name(
    name: str,
    authority: str | None,
    problem: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetcher, "PAUSE_SECONDS", 0.001)
    certificates = {}
    for whose in ("own", "another"):
        (tmp_path / whose).mkdir()
        certificates[whose] = self_signed(tmp_path / whose, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates["own"])
    authorities = None if authority is None else certificates[authority][0].read_text()
    with running_mirror(context) as mirror:
        serve_foo(mirror)
        server = Server(tool=Tool.PIP, url=mirror.url, authorities=authorities)
        answer = answer_order(order(tmp_path, mirror, pip_lock(SOURCE), servers=(server,)))
    if problem is None:
        assert stored_files(answer) == ["foo-1.0.tar.gz"]
    else:
        assert isinstance(answer, Failed)
        assert problem in answer.text
        assert not mirror.asked


def test_two_files_of_one_name_are_told(mirror: Mirror, tmp_path: Path) -> None:
    """Of two lists: in one list a name is there once."""
    entry = "- {url: 'https://listed.example.invalid/x', sha256: %s, name: x}\n"
    store = InputStore(tmp_path, 0, 0)
    locks = []
    for number in range(2):
        file = tmp_path / "x.new"
        file.write_bytes(b"%d" % number)
        store.put(file, f"sha256:{sha256(b'%d' % number)}")
        text = entry % sha256(b"%d" % number)
        locks.append(LockText(Tool.FILES, f"{number}.lock.yaml", text.encode()))
    servers = (Server(tool=Tool.FILES),)
    answer = answer_order(order(tmp_path, mirror, *locks, servers=servers))
    assert answer == Flawed((("0.lock.yaml", "two inputs of files have the file name x"),))


def test_a_changed_file_of_the_store_is_noticed(tmp_path: Path) -> None:
    store = InputStore(tmp_path, 100, 100.0)
    file = tmp_path / "x.new"
    file.write_bytes(b"data")
    digest = f"sha256:{sha256(b'data')}"
    store.put(file, digest)
    store.check(digest)
    store.path(digest).write_bytes(b"date")
    with pytest.raises(Exception, match=sha256(b"date")):
        store.check(digest)
    assert not store.has(digest)
