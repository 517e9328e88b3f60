"""Commits whose tree, names or pipeline file are the attack; few get as far as a container."""

from collections.abc import Callable

import pytest

from ci.operations import Abstain
from tests.hostile.conftest import SECRET, Arena, Order

pytestmark = pytest.mark.docker

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1000000000000\n"
)


async def test_links_out_of_the_tree(arena: Arena) -> None:
    """They lead to what the container has at that place, never to the host's."""
    secret = str(arena.secret)
    commands = (
        "! cat absolute",
        "! cat relative",
        "! cat deep/er/relative",
        "! ls folder/",
        "! echo x >absolute",
        "! ln /etc/passwd hard && ! ln /bin/busybox hard",
        "ln -s / root && ls root/bin >/dev/null",
        "exit 3",
    )
    files = {".pbft-ci.yml": arena.pipeline(*commands)}
    up = "../" * 30
    (arena.repository.folder / "deep" / "er").mkdir(parents=True)
    links = {
        "absolute": secret,
        "relative": up + secret.lstrip("/"),
        "deep/er/relative": up + secret.lstrip("/"),
        "folder": str(arena.folder),
    }
    result = await arena.run_files({**files, "deep/er/keep": ""}, links)
    assert result.words == ("failed", 3), result.log


async def test_pipeline_files_that_are_links(arena: Arena) -> None:
    names = (".pbft-ci.yml", "Dockerfile")
    commits = [arena.repository.commit({"a": "1"}, {name: "/etc/passwd"}) for name in names]
    for result in await arena.run_all([Order(commit) for commit in commits]):
        assert result.words == ("pipeline_invalid", None)
        assert "not a plain file" in result.log


async def test_artifacts_that_are_other_files(arena: Arena) -> None:
    """Links that lead away, and two names of one file."""
    builds = {
        f"mkdir d; ln -s {arena.secret} d/a": (["d/a"], "d/a: is a symbolic link to /"),
        f"ln -s {arena.folder} e": ([f"e/{arena.secret.name}"], "e: is a symbolic link, no folder"),
        "echo 1 >a; ln a b": (["a", "b"], "b: is a second name of another file"),
    }
    orders = [
        Order(
            arena.repository.commit({".pbft-ci.yml": arena.pipeline(command, artifacts=patterns)})
        )
        for command, (patterns, _) in builds.items()
    ]
    results = await arena.run_all(orders)
    for (_, problem), result in zip(builds.values(), results, strict=True):
        assert result.words == ("failed", 1)
        assert f"artifact {problem}" in result.log


async def test_submodules(arena: Arena) -> None:
    refused = (
        *("file:///etc", "/etc", "ext::sh -c touch% owned", "--upload-pack=touch owned"),
        "https://user:password@example.org/x",
    )
    # nobody lists it, and who does not list it cannot say anything about it
    unlisted = "https://127.0.0.1:1/x.git"
    orders = [Order(with_module(arena, url)) for url in (*refused, unlisted)]
    # another one of the list, which is not for those who may push to this one
    secret = arena.neighbour.commit({"x": SECRET})
    orders.append(Order(with_module(arena, f"../{arena.neighbour.folder.name}", secret)))
    *results, last, other = await arena.run_all(orders)
    for url, result in zip(refused, results, strict=True):
        assert result.words == ("pipeline_invalid", None), (url, result.log)
    assert isinstance(last.ballot, Abstain)
    assert unlisted in last.ballot.reason
    assert isinstance(other.ballot, Abstain)
    assert "submodule_of" in other.ballot.reason


def with_module(arena: Arena, url: str, inner: str | None = None) -> str:
    """A commit that prints a submodule which comes from there. inner: the submodule's commit."""
    repository = arena.repository
    inner = inner or repository.commit({"x": "1"})
    modules = f'[submodule "x"]\n\tpath = lib\n\turl = "{url}"\n\tupdate = checkout\n'
    repository.commit({".gitmodules": modules, ".pbft-ci.yml": arena.pipeline("cat lib/x")})
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{inner},lib")
    repository.git("commit", "--quiet", "--message=module")
    return repository.git("rev-parse", "HEAD")


async def test_addresses_that_are_not_on_the_list(arena: Arena) -> None:
    commit = arena.repository.commit({".pbft-ci.yml": arena.pipeline("true")})
    urls = ("ext::sh -c touch% owned", "file:///etc", "--upload-pack=touch owned", "/etc")
    for result in await arena.run_all([Order(commit, url=url) for url in urls]):
        assert isinstance(result.ballot, Abstain)


async def test_branches_that_are_options_or_no_names(arena: Arena) -> None:
    commit = arena.repository.commit({".pbft-ci.yml": arena.pipeline("true")})
    branches = (
        *("--upload-pack=touch owned", "-x", "a..b", "main:refs/heads/x", "a b"),
        *("$(touch owned)", "@{-1}", "main\n", "a\x1b[2J"),
    )
    results = await arena.run_all([Order(commit, branch) for branch in branches])
    for branch, result in zip(branches, results, strict=True):
        assert result.words == ("checkout_failed", 128), branch


async def test_hooks_filters_and_large_file_pointers(
    arena: Arena, tripwire: Callable[[], int]
) -> None:
    """Nothing that a repository carries runs on the host, and nothing is fetched for it."""
    port = tripwire.port  # type: ignore[attr-defined]  # see the fixture
    owned = arena.folder / "outside"
    hooks = arena.repository.folder / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("post-checkout", "post-update", "pre-receive", "reference-transaction"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {owned}\n")
        (hooks / name).chmod(0o755)
    files: dict[str, str | bytes] = {
        ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n*.x filter=evil\n"
        "*.y export-subst ident\n",
        ".lfsconfig": f"[lfs]\n\turl = http://127.0.0.1:{port}/\n",
        ".gitconfig": f'[filter "evil"]\n\tsmudge = touch {owned}\n\trequired = true\n',
        ".githooks/post-checkout": f"#!/bin/sh\ntouch {owned}\n",
        "large.bin": POINTER,
        "a.x": "x\n",
        "b.y": "$Format:%H$ $Id$\n",
    }
    files[".pbft-ci.yml"] = arena.pipeline(
        'test "$(head -n 1 large.bin)" = "version https://git-lfs.github.com/spec/v1"',
        "test \"$(cat b.y)\" = '$Format:%H$ $Id$'",
        'test "$(cat a.x)" = x',
    )
    commit = arena.repository.commit(files)
    # our own commands on the repository may have run its hooks: only the node's turn counts
    owned.unlink(missing_ok=True)
    result = await arena.run_commit(commit)
    assert result.words == ("passed", 0), result.log
    assert not owned.exists()
    assert tripwire() == 0


async def test_names_with_line_ends_and_control_characters(arena: Arena) -> None:
    names = (
        "a\nb",
        "\x1b[2J",
        "tab\there",
        " ",
        "-rf",
        "--",
        "*",
        "$(touch x)",
        "ü",
        "\u202ex",
    )
    files: dict[str, str | bytes] = {f"d/{name}": name for name in names}
    result = await arena.run(
        f'test "$(find d -type f -print0 | tr -cd "\\000" | wc -c)" = {len(names)}',
        'for f in d/* "d/ "; do test "$(cat "$f")" = "${f#d/}" || exit 8; done',
        "test ! -e x",
        files=files,
    )
    assert result.words == ("passed", 0), result.log


@pytest.mark.parametrize(("length", "outcome"), [(3_900, "passed"), (4_100, "pipeline_invalid")])
async def test_deep_paths(arena: Arena, length: int, outcome: str) -> None:
    # Busybox's tar looks up all folders above each one anew, so not a folder for each letter.
    path = "deeper/deeper-than-before/" * (length // 26) + "f"
    text = arena.pipeline("find . -name f | wc -l", "rm -r deeper && mkdir x && cd x", deeper())
    stream = (
        b"blob\nmark :1\ndata %d\n%s\ncommit refs/heads/main\ncommitter a <a@example.org> 1 +0000\n"
        b"data 1\nx\nM 100644 :1 .pbft-ci.yml\nM 100644 :1 %s\n"
    ) % (len(text), text.encode(), path.encode())
    arena.repository.git("fast-import", "--quiet", data=stream)
    result = await arena.run_commit(arena.repository.git("rev-parse", "main"))
    assert result.compared.outcome == outcome, result.log
    assert ("\n1\n" in result.log) is (outcome == "passed")


def deeper() -> str:
    """A path deeper than any program can name at once, made step by step."""
    name = 100 * "d"
    return f"for i in $(seq 60); do mkdir {name} && cd -P {name} || exit 9; done"


BOMBS = [
    (
        "a: &a [x, x]\n"
        + "".join(
            f"{name}: &{name} [*{before}, *{before}]\n"
            for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
        ),
        "aliases are not allowed",
    ),
    ("[" * 10_000, "nested deeper"),
    ("{a: " * 10_000, "nested deeper"),
    ("- x\n" * 15_000 + "- y\n" * 1_300, "must be a mapping"),
    ("- \n" * 21_000, "more than 20000 values"),
    ("image: " + "9" * 60_000 + "\n", "more than 64 characters"),
    ("#" * 65_537, "at most 65536"),
    ("image: !!python/object/apply:os.system ['touch owned']\n", "tag"),
    ("image: a\n<<: {commands: [x]}\n", "merge keys"),
    ("image: a\x00b\n", "character"),
    ("\udcff", "not UTF-8"),
    (
        "image: a\ncommands: ['\\x1b[2J']\nprivileged: true\n",
        "is not there; a build has no privileges",
    ),
]


async def test_pipeline_files_that_are_bombs(arena: Arena) -> None:
    commits = [
        arena.repository.commit({".pbft-ci.yml": text.encode(errors="surrogateescape")})
        for text, _ in BOMBS
    ]
    results = await arena.run_all([Order(commit) for commit in commits])
    for (text, said), result in zip(BOMBS, results, strict=True):
        assert result.words == ("pipeline_invalid", None), text[:60]
        assert said in result.log, text[:60]
