"""Lock files as their tools write them, as people edit them, and as an enemy writes them."""

import hashlib
import json

import pytest

from common.dependencies.lock_file import (
    FLAWS_MAX,
    INPUTS_MAX,
    LOCK_BYTES_MAX,
    Input,
    LockFile,
    Tool,
)
from common.dependencies.reading import read_lock, tool_of
from scripts.folders import ROOT

A, B = "a" * 64, "b" * 64
SHA512 = "sha512-" + "A" * 86 + "=="
SHA512_HEX = "sha512:" + "0" * 128
GO_SUM = "h1:" + "A" * 43 + "="


def read(tool: Tool, text: str) -> LockFile:
    return read_lock(tool, text.encode())


def npm(**entries: object) -> str:
    packages = {"": {"name": "own"}, **{key.replace("__", "/"): entries[key] for key in entries}}
    return json.dumps({"lockfileVersion": 3, "packages": packages})


def test_our_own_requirements_are_read() -> None:
    """All of a file that uv wrote, with markers and comments."""
    data = (ROOT / "requirements.txt").read_bytes()
    found = read_lock(Tool.PIP, data)
    assert found.flaws == ()
    by_name = {each.name: each for each in found.inputs}
    assert "gitpython" in by_name
    assert by_name["pywin32"].marker == 'sys_platform == "win32"'
    assert len(found.inputs) == sum(b"==" in line for line in data.splitlines() if line[:1] != b"#")
    assert sum(len(each.digests) for each in found.inputs) == data.count(b"--hash=sha256:")


def test_a_requirement_may_be_written_in_many_ways() -> None:
    text = f"""\
# a comment \\
--index-url https://packages.example.org/simple
Foo.Bar[extra] == 1.0 --hash=sha256:{A} \\
    --hash sha256:{B}  # why
    # via something
baz==2.0 ; python_version < "3.13" --hash=sha256:{A}
here @ https://files.example.org/here-1.0.zip --hash=sha256:{A}
"""
    found = read(Tool.PIP, text)
    assert found.flaws == ()
    assert found.inputs == (
        Input(Tool.PIP, "foo-bar", "1.0", (f"sha256:{A}", f"sha256:{B}"), place="line 3"),
        Input(
            *(Tool.PIP, "baz", "2.0", (f"sha256:{A}",)),
            marker='python_version < "3.13"',
            place="line 6",
        ),
        Input(
            *(Tool.PIP, "here", "", (f"sha256:{A}",)),
            url="https://files.example.org/here-1.0.zip",
            place="line 7",
        ),
    )


def test_a_comment_ends_a_joined_line_as_it_does_for_pip() -> None:
    (flaw,) = read(Tool.PIP, f"foo==1.0  # pinned \\\n  --hash=sha256:{A}\n").flaws
    assert flaw.problem == "foo has no --hash"


def test_npm_entries() -> None:
    """Of a registry, of a scope, an alias, and those that are no input."""
    base = {"version": "1.0.0", "integrity": f"sha1-abc= {SHA512}"}
    registry = "https://registry.example.org"
    found = read(
        Tool.NPM,
        npm(
            node_modules__once={**base, "resolved": f"{registry}/once/-/once-1.0.0.tgz"},
            node_modules__a__node_modules__once=base,
            **{
                "node_modules__@types__node": base,
                "node_modules__alias": {**base, "name": "@real/thing"},
                "node_modules__direct": {**base, "resolved": "https://example.org/direct.tgz"},
            },
            packages__workspace={"version": "0.0.1"},
            node_modules__workspace={"resolved": "packages/workspace", "link": True},
            node_modules__bundled={"version": "1.0.0", "inBundle": True},
            node_modules__local={**base, "resolved": "file:local.tgz"},
        ),
    )
    assert found.flaws == ()
    assert [(each.name, each.url) for each in found.inputs] == [
        ("once", None),
        ("@types/node", None),
        ("@real/thing", None),
        ("direct", "https://example.org/direct.tgz"),
    ]
    assert {each.digests for each in found.inputs} == {(SHA512_HEX,)}


def test_go_and_cargo_and_files() -> None:
    go = read(Tool.GO, f"rsc.io/quote v1.5.2 {GO_SUM}\nrsc.io/quote v1.5.2/go.mod {GO_SUM}\n")
    assert [(each.name, each.version, each.part) for each in go.inputs] == [
        ("rsc.io/quote", "v1.5.2", "zip"),
        ("rsc.io/quote", "v1.5.2", "mod"),
    ]
    cargo = read(
        Tool.CARGO,
        'version = 4\n[[package]]\nname = "own"\nversion = "0.1.0"\n'
        '[[package]]\nname = "serde"\nversion = "1.0.1"\n'
        f'source = "registry+https://example.org/index"\nchecksum = "{A}"\n',
    )
    assert [(each.name, each.digests) for each in cargo.inputs] == [("serde", (f"sha256:{A}",))]
    files = read(Tool.FILES, f"- {{url: 'https://example.org/x', sha256: {A}, name: x.tar}}\n")
    assert files.inputs == (
        Input(
            *(Tool.FILES, "x.tar", "", (f"sha256:{A}",)),
            url="https://example.org/x",
            place="line 1",
        ),
    )
    assert (go.flaws, cargo.flaws, files.flaws) == ((), (), ())


PIP, NPM, GO, CARGO, FILES = Tool
FLAWED = [
    (PIP, "foo>=1.0", "line 1: foo>=1.0 is not pinned with =="),
    (PIP, f"foo==1.* --hash=sha256:{A}", "is not pinned with =="),
    (PIP, "foo==1.0", "foo has no --hash"),
    (PIP, "foo==1.0 --hash=md5:" + "a" * 32, "no SHA-256 or SHA-512"),
    (PIP, f"foo==1.0 --hash=sha256:{A[1:]}", "no SHA-256 or SHA-512"),
    (PIP, f"foo @ http://example.org/foo.zip --hash=sha256:{A}", "no address of https"),
    (PIP, "-r other.txt", "names another file"),
    (PIP, "-e .", "has no hash"),
    (PIP, "--config-settings x", "is not known here"),
    (PIP, "foo==1.0 ; " + "(" * 4000, "no requirement with a name"),
    (PIP, "foo[" + "a," * 10**6, "no requirement with a name"),
    (PIP, "./local.whl", "no requirement with a name"),
    (PIP, f"foo==1 --hash=sha256:{A}\nfoo==1 --hash=sha256:{B}", "is also at line 1"),
    (NPM, "{", "is no package-lock.json"),
    (NPM, "[" * 100_000, "is no package-lock.json"),
    (NPM, '{"lockfileVersion": 1}', "is 1, not 2 or 3"),
    (NPM, npm(node_modules__x={"version": "1.0.0"}), "has no integrity"),
    (NPM, npm(node_modules__x={"version": "1.0.0", "integrity": "sha1-2jmj7l5rSw0yVb/vlWAYkK/"
              "YBwk="}), "none but an old integrity"),
    (NPM, npm(node_modules__x={"version": "../1", "integrity": SHA512}), "no name and version"),
    (NPM, npm(node_modules__x={"version": "1.0.0", "name": "../x", "integrity": SHA512}),
     "no name and version"),
    (NPM, npm(node_modules__x={"version": "1.0.0", "resolved": "git+ssh://git@example.org/x#1",
              "integrity": SHA512}), "no archive of a registry"),
    (NPM, npm(node_modules__x={"version": "1.0.0", "resolved": "http://[::1",
              "integrity": SHA512}), "no archive of a registry"),
    (GO, "rsc.io/quote v1.5.2", "no module, version and hash"),
    (GO, "rsc.io/quote v1.5.2 h2:abc", "no h1 hash"),
    (GO, f"../quote v1.5.2 {GO_SUM}", "no module and version"),
    (CARGO, "version = 3\n[[package]]\nname = 1", "is no Cargo.lock"),
    (CARGO, "x = " + "[" * 100_000, "is no Cargo.lock"),
    (CARGO, 'version = 2\n', "is 2, not 3 or 4"),
    (CARGO, 'version = 3\n[[package]]\nname = "x"\nversion = "1.0.0"\n'
            'source = "git+https://example.org/x#1"', "is no registry"),
    (CARGO, 'version = 3\n[[package]]\nname = "x"\nversion = "1.0.0"\n'
            'source = "registry+https://example.org"', "has no checksum"),
    (FILES, "a: b", "is no list of files"),
    (FILES, "- {url: 'https://example.org/x', sha256: 1, name: x}", "is no SHA-256"),
    (FILES, f"- {{url: 'https://example.org/x', sha256: {A}, name: ../x}}", "no plain file name"),
    (FILES, f"- {{url: 'http://example.org/x', sha256: {A}, name: x}}", "no address of https"),
    (FILES, f"- {{url: 'https://example.org/x', sha256: {A}, name: x, size: 1}}", "other keys"),
    (FILES, "- &x *x", "line 1: "),
]  # fmt: skip


@pytest.mark.parametrize(("tool", "text", "problem"), FLAWED)
def test_a_flaw_says_where_and_what_to_do(tool: Tool, text: str, problem: str) -> None:
    found = read(tool, text)
    assert problem in found.flaws[0].text
    assert found.flaws[0].remedy
    assert len(found.flaws[0].text) < 400


def test_what_is_too_much_is_a_flaw() -> None:
    big = read_lock(Tool.PIP, b"#" * (LOCK_BYTES_MAX + 1))
    assert "at most" in big.flaws[0].text
    many = read(Tool.GO, "".join(f"a/m{n} v1.0.0 {GO_SUM}\n" for n in range(INPUTS_MAX + 1)))
    assert many.flaws[0].problem == f"more than {INPUTS_MAX} packages"
    wrong = read(Tool.PIP, "foo\n" * 10**6)
    assert len(wrong.flaws) == FLAWS_MAX
    assert wrong.are_more
    long = "x" * 300
    assert "is too long" in read(Tool.PIP, f"{long}==1 --hash=sha256:{A}").flaws[0].text


@pytest.mark.parametrize("tool", Tool)
def test_any_bytes_are_read_without_an_error(tool: Tool) -> None:
    """Of a real file with pieces changed, and of noise."""
    seed = hashlib.sha256(tool.encode()).digest()
    base = {
        Tool.PIP: f"foo==1.0 --hash=sha256:{A} \\\n  # x\n".encode(),
        Tool.NPM: npm(node_modules__x={"version": "1.0.0", "integrity": SHA512}).encode(),
        Tool.GO: f"rsc.io/quote v1.5.2 {GO_SUM}\n".encode(),
        Tool.CARGO: b'version = 3\n[[package]]\nname = "x"\nversion = "1.0.0"\n',
        Tool.FILES: f"- {{url: 'https://example.org/x', sha256: {A}, name: x}}\n".encode(),
    }[tool]
    for _ in range(300):
        seed = hashlib.sha256(seed).digest()
        place = seed[0] * len(base) // 256
        changed = base[:place] + seed[1 : 1 + seed[1] % 4] + base[place + seed[2] % 4 :]
        for each in read_lock(tool, changed).inputs:
            assert each.digests
            assert ".." not in each.name.split("/")


def test_names_tell_the_tool() -> None:
    assert [tool_of(name) for name in ("requirements-dev.txt", "go.sum", "ci.lock.yaml", "x")] == [
        Tool.PIP,
        Tool.GO,
        Tool.FILES,
        None,
    ]
